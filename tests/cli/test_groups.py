"""``featlearn groups``: the report from a table of predictions, as typed in a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import group_tables
import pandas as pd
import pytest

from featlearn.robust.group_report import group_report
from featlearn.robust.group_results import GroupReport

ASKED = ("predictions.csv", "--truth", "y", "--predicted", "predicted", "--group", "y", "--group", "background")


@pytest.fixture
def predictions(folder: Path) -> pd.DataFrame:
    frame = group_tables.write_features(folder)
    return frame[frame["split"] == "test"]


def expected(frame: pd.DataFrame, **more: object) -> GroupReport:
    return group_report(frame["y"], frame["predicted"], frame[["y", "background"]], **more)


def test_the_screen_shows_every_group_the_worst_chance_and_both_means(featlearn, predictions) -> None:
    outcome = featlearn("groups", *ASKED)
    report = expected(predictions)
    assert (outcome.code, outcome.err) == (0, "")
    rows = {line.split("  ")[0]: line for line in outcome.out.splitlines() if line.startswith("y=")}
    assert list(rows) == [entry.label for entry in report.entries]
    for entry in report.entries:
        assert f"{entry.accuracy:.3f}  {entry.low:.3f} to {entry.high:.3f}" in rows[entry.label]
        assert ("worst" in rows[entry.label]) == (entry.label == report.worst_group)
    flat = " ".join(outcome.out.split())
    assert f"would be {report.expected_min_if_equal:.3f} on average" in flat
    assert f"over all rows {report.mean_accuracy_test:.3f}" in flat
    assert "weighted by training" not in flat
    assert all(caveat in flat for caveat in report.caveats)


def test_training_rows_add_the_mean_of_the_papers_and_words_are_told(featlearn, predictions) -> None:
    told = ("--information", "class labels", "--selection", "class-balanced validation")
    outcome = featlearn("groups", *ASKED, "--train-groups", "train.csv", *told)
    report = expected(predictions, train_groups=pd.read_csv("train.csv")[["y", "background"]])
    flat = " ".join(outcome.out.split())
    assert f"weighted by training groups {report.mean_accuracy_train_weighted:.3f}" in flat
    assert f"{report.entries[0].train_share:.1%}" in flat
    assert "Information used: class labels; selection: class-balanced validation." in flat


def test_numbers_page_and_figure_are_written(featlearn, predictions, folder: Path) -> None:
    outcome = featlearn("groups", *ASKED, "--json", "g.json", "--html", "g.html", "--png", "g.png")
    assert outcome.out.splitlines()[-1] == "Wrote g.html and g.png and g.json."
    told = json.loads((folder / "g.json").read_text(encoding="utf-8"))
    report = expected(predictions)
    assert GroupReport.from_dict(told).summary() == report.summary()
    page = (folder / "g.html").read_text(encoding="utf-8")
    assert f'value="{report.worst_group_accuracy!r}"' in page
    assert [word for word in ("http", "src=", "<link") if word in page] == []
    assert (folder / "g.png").read_bytes().startswith(b"\x89PNG")


def test_json_on_standard_output_is_alone_there(featlearn, predictions) -> None:
    outcome = featlearn("groups", *ASKED, "--json", "-")
    assert json.loads(outcome.out)["worst_group"] == expected(predictions).worst_group
    assert "Worst group" in outcome.err
    assert featlearn("groups", *ASKED, "--json", "-", "--quiet").err == ""


def test_confidence_and_seed_change_the_intervals(featlearn, predictions) -> None:
    usual = featlearn("groups", *ASKED).out
    assert featlearn("groups", *ASKED).out == usual
    assert featlearn("groups", *ASKED, "--seed", 1).out != usual
    assert "80% interval" in featlearn("groups", *ASKED, "--confidence", 0.8).out
    assert "97.5% interval" in featlearn("groups", *ASKED, "--confidence", 0.975).out


def test_a_narrow_terminal_gets_fewer_columns(featlearn, predictions, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "64")
    lines = featlearn("groups", *ASKED).out.splitlines()
    assert max(map(len, lines)) <= 64
    assert "correct" not in lines[2]


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("--predicted", "p", "--group", "y"), 2, "no such column"),
        (("--predicted", "predicted", "--group", "backgrund"), 2, "background"),
        (("--predicted", "background", "--group", "y"), 2, "--predicted background"),
        (("--predicted", "score", "--group", "y"), 2, "whole numbers"),
        (("--predicted", "huge", "--group", "y"), 2, "of 64 bits"),
        (("--predicted", "holes", "--group", "y"), 2, "missing values"),
        (("--predicted", "predicted", "--group", "index"), 2, "1000"),
        (("--predicted", "predicted", "--group", "y", "--train-groups", "other.csv"), 2, "other.csv"),
        (("--predicted", "predicted", "--group", "y", "--selection", "test"), 2, "oracle (test)"),
        (("--predicted", "predicted", "--group", "y", "--confidence", "2"), 2, "confidence"),
        (("--predicted", "predicted", "--group", "y", "--png", "page.gif"), 2, ".png"),
        (("--predicted", "predicted", "--group", "y", "--html", "no/page.html"), 2, "folder"),
        (("--predicted", "predicted", "--group", "y", "--html", "a.json", "--json", "a.json"), 2, "one file"),
        (("--predicted", "predicted", "--group", "y", "--train-groups", "nowhere.csv"), 4, "nowhere.csv"),
        (("--predicted", "predicted", "--group", "y", "--html", "table.csv"), 2, "which the command reads"),
        (("--predicted", "predicted"), 2, "--group"),
    ],
)  # fmt: skip
def test_bad_columns_are_2_and_nothing_is_written(featlearn, folder: Path, arguments, code, named) -> None:
    n = 1200
    frame = pd.DataFrame({"y": [0, 1] * (n // 2), "predicted": 1, "background": "land", "score": 0.25})
    frame["huge"] = 1e300
    frame["holes"] = frame["predicted"].where(frame.index != 7)
    frame["index"] = frame.index
    frame.to_csv(folder / "table.csv", index=False)
    pd.DataFrame({"z": [1]}).to_csv(folder / "other.csv", index=False)
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    outcome = featlearn("groups", "table.csv", "--truth", "y", *arguments)
    assert (outcome.code, outcome.out) == (code, "")
    assert named in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_a_file_that_is_no_table_is_4(featlearn, folder: Path) -> None:
    outcome = featlearn("groups", "nowhere.csv", "--truth", "y", "--predicted", "p", "--group", "y")
    assert (outcome.code, outcome.out) == (4, "")
    assert "nowhere.csv" in outcome.err


def test_rows_that_are_not_test_rows_are_left_out_and_this_is_said(featlearn, folder: Path) -> None:
    frame = group_tables.write_features(folder)
    outcome = featlearn("groups", "groups.csv", *ASKED[1:], "--json", "g.json")
    judged, training = (frame[frame["split"] == use] for use in ("test", "train"))
    report = expected(judged, train_groups=training[["y", "background"]])
    told = json.loads((folder / "g.json").read_text(encoding="utf-8"))
    assert GroupReport.from_dict(told).summary() == report.summary()
    assert "300 test rows are judged, by the column split; 600 others are not. 300 training rows" in outcome.err
    renamed = frame.rename(columns={"split": "part"})
    renamed.to_csv(folder / "renamed.csv", index=False)
    assert "groups.csv" not in featlearn("groups", "renamed.csv", *ASKED[1:]).out
    assert "renamed.csv: 900 rows" in featlearn("groups", "renamed.csv", *ASKED[1:]).out
    assert "renamed.csv: 300 rows" in featlearn("groups", "renamed.csv", *ASKED[1:], "--split-column", "part").out


def test_a_split_that_cannot_be_used_is_2(featlearn, folder: Path) -> None:
    frame = group_tables.write_features(folder)
    frame[frame["split"] != "test"].to_csv(folder / "no_test.csv", index=False)
    frame.assign(split="north").to_csv(folder / "strange.csv", index=False)
    for arguments, named in (
        (("no_test.csv", *ASKED[1:]), "without test rows"),
        (("strange.csv", *ASKED[1:]), "Got 'north' in the column split"),
        (("groups.csv", *ASKED[1:], "--split-column", "part"), "part"),
        (("groups.csv", *ASKED[1:], "--train-groups", "train.csv"), "has training rows too"),
    ):
        outcome = featlearn("groups", *arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert named in outcome.err
