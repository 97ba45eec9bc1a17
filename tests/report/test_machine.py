from __future__ import annotations

import json
import math
import re

import machine_reports as made
import numpy as np
import page_reader
import pytest

from featlearn.exceptions import DataError
from featlearn.machines import RFMClassifier, load
from featlearn.plots.candidates import candidate_curves
from featlearn.report.charts import selection_chart
from featlearn.report.json import dump_json
from featlearn.report.machine import write_machine_report
from featlearn.report.machine_tables import directions_of
from featlearn.report.numbers import measured, percent

EVIL = "<script>alert('x')</script>\"&.weight_0"


@pytest.fixture
def page_of(tmp_path):
    def write(machine, **options):
        path = tmp_path / "page.html"
        write_machine_report(machine, path, **options)
        return page_reader.Page(path.read_text(encoding="utf-8"))

    return write


def known_numbers(machine) -> set[float]:
    """Numbers of the dictionary, and what the page counts and adds up."""
    shares = np.array(machine["direction_shares"])
    importances = np.sort(machine["importances"])[::-1]
    counts = {len(machine["features"]), int((importances > 0).sum()), int((importances == 0).sum())}
    counts |= {int((shares.cumsum() < 0.9).sum()) + 1, int((importances.cumsum() < 0.9).sum()) + 1}
    counts |= {max(0, int((importances > 0).sum()) - 20)}
    counts |= {len(machine["classes"] or [])} | set(range(10))
    if machine["selection"] is not None:
        counts.add(len(machine["selection"]["table"]))
    together = {math.fsum(shares[: j + 1]) for j in range(len(shares))}
    return set(page_reader.numbers_in(machine)) | {float(x) for x in counts} | together


def rounds_to(value: str, text: str) -> bool:
    """Whether ``text`` is the number, rounded; in percent where it says so."""
    if text.startswith("<"):
        return 0 < 100 * float(value) < float(text[1:-1])
    if text.endswith("%"):
        return page_reader.rounds_to(str(100 * float(value)), text[:-1])
    return page_reader.rounds_to(value, text)


@pytest.mark.parametrize("machine", made.MACHINES.values(), ids=made.MACHINES)
def test_every_number_shown_is_one_of_the_machine(machine, page_of):
    page = page_of(machine)
    known = known_numbers(machine)
    assert len(page.data) > 5
    for value, text in page.data:
        assert float(value) in known, (value, text)
        assert rounds_to(value, text), (value, text)
    assert page.loose_digits() == []
    assert page.problems == []


@pytest.mark.parametrize("machine", made.MACHINES.values(), ids=made.MACHINES)
def test_a_machine_read_back_from_json_makes_the_same_page(machine, tmp_path):
    write_machine_report(machine, tmp_path / "one.html")
    write_machine_report(json.loads(dump_json(machine)), tmp_path / "two.html")
    assert (tmp_path / "one.html").read_text() == (tmp_path / "two.html").read_text()


def test_test_scores_come_first_and_held_out_ones_beside_them(page_of):
    machine = made.from_the_command_line()
    page = page_of(machine)
    assert page.of_class("tile")[0] == "0.646R² ± 0.0412, test rows"
    shown = [value for value, _ in page.data]
    for scored in (machine["test"], machine["scores"]):
        for entry in scored["scores"].values():
            assert repr(entry["value"]) in shown
            assert repr(entry["standard_error"]) in shown
    assert repr(machine["test"]["coverage"]["value"]) in shown
    assert page_of(made.machine()).of_class("tile")[0] == "0.612R² ± 0.0412, held-out rows"


def test_what_was_not_held_out_is_said(page_of):
    page = page_of(made.nothing_selected())
    assert page.of_class("tile") == []
    assert any("No rows were held out" in alert for alert in page.of_class("alert"))


def test_predictions_no_better_than_a_constant_are_said(page_of):
    machine = made.machine()
    machine["scores"]["scores"]["r2"]["value"] = 0.07
    assert any("not clearly better" in alert for alert in page_of(machine).of_class("alert"))
    assert page_of(made.machine()).of_class("alert") == []


def test_a_machine_that_learned_nothing_says_so(page_of):
    page = page_of(made.nothing_learned())
    assert any("No column matters" in alert for alert in page.of_class("alert"))
    assert "plain kernel ridge regression" in page.prose


def test_bars_are_as_long_as_their_importance(page_of):
    machine = made.machine()
    page = page_of(machine)
    widths = [float(a["width"].rstrip("%")) for tag, a in page.elements if tag == "rect" and a.get("class") == "share"]
    np.testing.assert_allclose(widths, 100 * np.array(machine["importances"]) / max(machine["importances"]), atol=0.01)


def test_notes_and_provenance_are_shown(page_of):
    machine = made.from_the_command_line()
    page = page_of(machine)
    words = page.of_class("verbatim")
    for text in (*machine["notes"], *machine["provenance"]["notes"], machine["provenance"]["command"], "houses.csv"):
        assert text in words


def test_the_table_of_candidates_starts_with_the_chosen_one(page_of):
    page = page_of(made.machine())
    strong = [text for tag, _, text in page.texts if tag == "strong"]
    best = candidate_curves(made.machine()["selection"])[0].label
    assert strong == [best]
    muted = [a for tag, a in page.elements if tag == "tr" and a.get("class") == "muted"]
    assert len(muted) == 4


def test_directions_name_their_largest_entries_with_sign():
    vector = [0.1, -0.8, 0.05, 0.59]
    found = directions_of(made.machine(4, directions=[vector, [1, 0, 0, 0]], direction_shares=[0.9, 0.0001]))
    assert len(found) == 1
    assert found[0].entries == [("column_1", -0.8), ("column_3", 0.59)]
    assert found[0].others == 0


def test_curves_and_whiskers_lie_where_the_scores_are():
    curve = candidate_curves(made.machine()["selection"])[0]
    chart = selection_chart([curve], "error")
    drawn = np.array(re.findall(r"[ML]([\d.-]+) ([\d.-]+)", chart.curves[0].path), dtype=float)
    slope, _ = np.polyfit(curve.scores, drawn[-len(curve.scores) :, 1], 1)
    assert slope < 0  # the page counts from the top
    assert np.corrcoef(curve.scores, drawn[-len(curve.scores) :, 1])[0, 1] == pytest.approx(-1)
    ends = np.array(re.findall(r"[ML]([\d.-]+) ([\d.-]+)", chart.curves[0].whiskers), dtype=float)
    heights = np.ptp(ends.reshape(len(curve.scores), -1, 2)[..., 1], axis=1)
    np.testing.assert_allclose(heights, -slope * 2 * np.array(curve.errors), rtol=0.01)
    mark = re.findall(r"M([\d.-]+) ([\d.-]+)", chart.curves[0].mark)
    assert len(mark) == 1
    assert float(mark[0][1]) == drawn[:, 1].max()


def test_nothing_is_loaded_from_anywhere(tmp_path):
    path = tmp_path / "page.html"
    write_machine_report(made.from_the_command_line(), path)
    markup = path.read_text(encoding="utf-8")
    page = page_reader.Page(markup)
    assert re.findall(r"https?:|//[a-z]|@import|url\(", markup) == []
    links = [attributes[key] for _, attributes in page.elements for key in ("src", "href") if key in attributes]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert {link[1:] for link in links} <= set(ids)
    assert len(ids) == len(set(ids))


def test_names_and_strings_are_escaped_everywhere(page_of):
    machine = made.machine(2) | {"machine": EVIL, "features": [EVIL, "b"], "notes": [EVIL], "intervals": EVIL}
    machine["chosen"] |= {"kernel": EVIL, "columns": EVIL}
    machine["scores"]["how"] = EVIL
    for entry in machine["selection"]["table"]:
        entry["kernel"] += EVIL
    for entry in machine["history"]:
        entry["solver_reason"] = EVIL
    machine["provenance"] |= dict.fromkeys(("data", "target", "command", "date"), EVIL) | {EVIL: EVIL, "notes": [EVIL]}
    page = page_of(machine, title=EVIL)
    assert page.problems == []
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert EVIL in page.of_class("name")
    assert EVIL in page.of_class("verbatim")
    assert ("title", EVIL) in [(tag, text) for tag, _, text in page.texts]


def test_what_is_no_machine_is_refused_and_nothing_written(tmp_path):
    with pytest.raises(DataError, match="describes no machine"):
        write_machine_report({"layers": {}}, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_an_estimator_and_its_file_write_the_same_page(tmp_path):
    random = np.random.default_rng(0)
    X = random.normal(size=(60, 3))
    machine = RFMClassifier(kernel="laplace", max_iter=1, random_state=0).fit(X, np.where(X[:, 0] > 0, "up", "down"))
    machine.to_html(tmp_path / "one.html", title="Signs")
    machine.export(tmp_path / "machine.safetensors")
    load(tmp_path / "machine.safetensors").to_html(tmp_path / "two.html", title="Signs")
    markup = (tmp_path / "one.html").read_text(encoding="utf-8")
    assert markup == (tmp_path / "two.html").read_text(encoding="utf-8")
    page = page_reader.Page(markup)
    assert page.problems == []
    assert page.loose_digits() == []
    shown = {value for value, _ in page.data}
    assert {repr(entry["value"]) for entry in machine.held_out_scores_.values()} <= shown


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.44131, 0.0443, "0.441 ± 0.044"),
        (56.269, 2.3015, "56.3 ± 2.3"),
        (56269.1, 230.2, "56269 ± 230"),
        (1.2e-7, 3e-9, "1.2e−7"),
        (3.0, float("nan"), "3"),
        (0.5, 0.0, "0.5"),
        (None, None, "–"),
    ],
)
def test_values_end_at_the_second_digit_of_their_error(value, error, text):
    page = page_reader.Page(f"<p>{measured(value, error)}</p>")
    assert page.texts[-1][2].replace("\xa0", " ") == text


@pytest.mark.parametrize(
    ("share", "digits", "text"), [(0.4713, 0, "47%"), (0.4713, 1, "47.1%"), (0.004, 0, "<1%"), (0.0, 0, "0%")]
)
def test_shares_are_in_percent_and_never_round_to_nothing(share, digits, text):
    assert page_reader.Page(f"<p>{percent(share, digits)}</p>").texts[-1][2] == text
