"""The page of retrained last layers: every number is one of the comparison, and its rows and methods are told."""

from __future__ import annotations

import json
from pathlib import Path

import group_tables
import numpy as np
import page_reader
import pytest

from featlearn.cli import main
from featlearn.exceptions import DataError
from featlearn.report.json import dump_json
from featlearn.report.robust import write_robust_report


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What ``featlearn robust --json`` writes."""
    folder = tmp_path_factory.mktemp("robust")
    group_tables.write_features(folder)
    arguments = ["--groups", folder / "groups.csv", "--label", "y", "--group", "background", "--quiet"]
    assert main(["robust", *map(str, [folder / "features.npy", *arguments, "--json", folder / "r.json"])]) == 0
    return json.loads((folder / "r.json").read_text(encoding="utf-8"))


def read(tmp_path: Path, told) -> page_reader.Page:
    write_robust_report(told, tmp_path / "page.html")
    return page_reader.Page((tmp_path / "page.html").read_text(encoding="utf-8"))


def test_every_number_shown_is_one_of_the_comparison(tmp_path, told) -> None:
    page = read(tmp_path, told)
    known = {*page_reader.numbers_in(told), len(told["comparison"]["reports"])}
    assert len(page.data) > 100
    for value, text in page.data:
        assert float(value) in known, (value, text)
        share = text.endswith("%")
        assert page_reader.rounds_to(str(float(value) * (100 if share else 1)), text.rstrip("%")), (value, text)
    assert page.problems == []


def test_rows_methods_choice_and_caveats_are_told(tmp_path, told) -> None:
    page = read(tmp_path, told)
    definitions = [text for tag, _, text in page.texts if tag == "dd"]
    for method, words in told["methods"].items():
        assert any(text.startswith(f"{words}.") for text in definitions), method
    chosen = told["C"]["DFR"]["chosen"]
    assert any(text.endswith(f"C = {chosen:g} was chosen.") for text in definitions)
    assert told["provenance"]["command"] in definitions
    listed = [text for tag, _, text in page.texts if tag == "li"]
    assert set(told["comparison"]["caveats"]) <= set(listed)
    counts = [text for tag, _, text in page.texts if tag == "td"]
    assert {str(row[use]) for row in told["rows"] for use in ("train", "fit", "test")} <= set(counts)


def test_training_rows_that_are_not_there_have_no_column(tmp_path, told) -> None:
    without = {**told, "rows": [{**row, "train": 0} for row in told["rows"]]}
    for found, there in ((told, True), (without, False)):
        headings = [text for tag, _, text in read(tmp_path, found).texts if tag == "th"]
        assert ("training" in headings) == there


def test_names_are_escaped_and_json_gives_the_same_page(tmp_path, told) -> None:
    strange = {**told, "provenance": {**told["provenance"], "features": "<b>bold</b> & more"}}
    write_robust_report(strange, tmp_path / "one.html", title="A & B")
    page = page_reader.Page((tmp_path / "one.html").read_text(encoding="utf-8"))
    assert "<b>bold</b> & more" in page.of_class("verbatim")
    assert [text for tag, _, text in page.texts if tag == "h1"] == ["A & B"]
    write_robust_report(json.loads(dump_json(strange)), tmp_path / "two.html", title="A & B")
    assert (tmp_path / "one.html").read_text() == (tmp_path / "two.html").read_text()


def test_what_is_no_comparison_is_refused_before_anything_is_written(tmp_path, told) -> None:
    with pytest.raises(DataError, match="without rows"):
        write_robust_report({key: value for key, value in told.items() if key != "rows"}, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_places_in_the_figure_are_where_the_numbers_are(tmp_path, told) -> None:
    page = read(tmp_path, told)
    bars = [attributes for tag, attributes in page.elements if "group-bar" in attributes.get("class", "")]
    accuracies = [
        group["accuracy"]
        for place in range(len(told["rows"]))
        for group in (report["groups"][place] for report in told["comparison"]["reports"].values())
    ]
    widths = np.array([float(bar["width"].rstrip("%")) for bar in bars])
    np.testing.assert_allclose(widths, 100 * np.array(accuracies), atol=0.01)
