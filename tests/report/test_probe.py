"""The page of a feature probe: numbers are those of the probe, dots in their places, missing baselines are said."""

from __future__ import annotations

import json
from pathlib import Path

import page_reader
import pytest

from featlearn.exceptions import DataError
from featlearn.report.json import dump_json
from featlearn.report.probe import write_probe_report
from featlearn.robust.probe_results import FeatureProbe, ProbePoint

ABOUT = {
    "features": "layers",
    "groups": "groups.csv",
    "label": "y",
    "attribute": "background",
    "split": "by the column split",
    "command": "featlearn probe layers --groups groups.csv --label y --group background",
    "version": "0",
}


def point(name: str, core: float, spurious: float, excess: float = float("nan"), **more: object) -> ProbePoint:
    return ProbePoint(
        name=name, d=12, core_wga=core, core_low=core - 0.05, core_high=core + 0.04, core_mean=core + 0.1,
        spurious_wga=spurious, spurious_low=spurious - 0.03, spurious_high=spurious + 0.02, spurious_mean=spurious,
        excess_core=excess, excess_low=excess - 0.06, excess_high=excess + 0.06,
        core_accuracies=(core, 0.9), spurious_accuracies=(spurious, 0.95), **more,
    )  # fmt: skip


def told(*points: ProbePoint) -> dict:
    probe = FeatureProbe(
        points=points, groups={"y=0, s=0": 40, "y=1, s=1": 37}, n_train=120, n_per_group=30, n_test=77, n_classes=2,
        n_attributes=4, confidence=0.9, probe="DFRClassifier()", information="groups", selection="none", random_state=0,
        core_chance=0.44, spurious_chance=0.21,
    )  # fmt: skip
    rows = [
        {"label": "y=0, s=0", "train": 0, "fit": 61, "test": 40},
        {"label": "y=1", "train": 0, "fit": 59, "test": 37},
    ]
    return {"kind": "FeatureProbeRun", "probe": probe.to_dict(), "rows": rows, "provenance": ABOUT}


CONTROLS = (point("pixels", 0.71, 0.96, control="pixels"), point("init", 0.62, 0.83, control="init"))
LAYERS = (point("conv1", 0.755, 0.9, 0.045), point("fc.2", 0.88, 0.64, 0.17))


def read(tmp_path: Path, content: dict) -> page_reader.Page:
    write_probe_report(content, tmp_path / "page.html")
    return page_reader.Page((tmp_path / "page.html").read_text(encoding="utf-8"))


def test_every_number_shown_is_one_of_the_probe(tmp_path) -> None:
    content = told(*CONTROLS, *LAYERS)
    page = read(tmp_path, content)
    known = {*page_reader.numbers_in(content)}
    assert len(page.data) > 30
    for value, text in page.data:
        assert float(value) in known, (value, text)
        share = text.endswith("%")
        assert page_reader.rounds_to(str(float(value) * (100 if share else 1)), text.rstrip("%")), (value, text)
    assert page.problems == []


def test_words_probe_and_command_are_told(tmp_path) -> None:
    content = told(*CONTROLS, *LAYERS)
    page = read(tmp_path, content)
    paragraphs = [text for tag, _, text in page.texts if tag == "p"]
    assert set(content["probe"]["summary"].splitlines()) <= set(paragraphs)
    definitions = [text for tag, _, text in page.texts if tag == "dd"]
    assert {"DFRClassifier()", ABOUT["command"], "groups", "none"} <= set(definitions)
    assert page.of_class("alert") == []


def test_marks_are_where_the_numbers_are(tmp_path) -> None:
    page = read(tmp_path, told(*CONTROLS, *LAYERS))
    tracks = [element for tag, element in page.elements if tag == "circle" and element["cy"] == "12"]
    assert [float(track["cx"].rstrip("%")) for track in tracks] == [71, 96, 62, 83, 75.5, 90, 88, 64]
    # On the plane from 0.5 to 1, from the top left.
    dots = [element for tag, element in page.elements if tag == "circle" and element["cy"] != "12"]
    assert [(dot["cx"], dot["cy"]) for dot in dots] == [("80.0%", "49.0%"), ("28.0%", "24.0%")]
    ways = [element["d"] for _, element in page.elements if element.get("class") == "way"]
    assert ways == ["M80 49L28 24"]
    lines = [element["x1"] for _, element in page.elements if element.get("class") == "of-control pixels"]
    assert lines == ["71.0%", "96.0%"] * 2
    guesses = [element["x1"] for _, element in page.elements if element.get("class") == "guessing"]
    assert guesses[1:] == ["44.0%", "21.0%"] * 4  # after that of the legend


def test_checkpoints_of_two_layers_have_a_line_each_and_their_own_untrained_layer(tmp_path) -> None:
    sets = [
        point(f"{epoch}: {layer}", core, 0.9, layer=layer, checkpoint=epoch)
        for epoch, core in (("one", 0.6), ("two", 0.8))
        for layer in ("a", "b")
    ]
    inits = [
        point(f"init: {layer}", core, 0.9, control="init", layer=layer, checkpoint="init")
        for layer, core in (("a", 0.55), ("b", 0.65))
    ]
    page = read(tmp_path, told(CONTROLS[0], *inits, *sets))
    assert len([element for _, element in page.elements if element.get("class") == "way"]) == 2
    lines = [element["x1"] for _, element in page.elements if element.get("class") == "of-control init"]
    lines.remove("7")  # of the legend
    assert lines[::2] == ["55.0%", "65.0%", "55.0%", "65.0%"]


def test_of_many_dots_the_first_and_the_last_are_named(tmp_path) -> None:
    many = [point(f"epoch {place}", 0.7 + place / 100, 0.9) for place in range(12)]
    page = read(tmp_path, told(*CONTROLS, *many))
    assert page.of_class("dot-name") == ["pixels", "init", "epoch 0", "epoch 11"]


def test_names_do_not_stand_on_each_other(tmp_path) -> None:
    near = [point("epoch 1", 0.71, 0.955), point("epoch 2", 0.85, 0.955)]
    page = read(tmp_path, told(*CONTROLS, *near))
    assert page.of_class("dot-name") == ["pixels", "init", "epoch 2"]


def test_missing_baselines_are_said_and_names_are_escaped(tmp_path) -> None:
    content = told(point("<b>bold</b>", 0.8, 0.9))
    page = read(tmp_path, content)
    assert "nothing on this page shows" in page.of_class("alert")[0]
    assert "<b>bold</b>" in page.of_class("name")
    headings = [text for tag, _, text in page.texts if tag == "th"]
    assert "excess" not in headings
    write_probe_report(json.loads(dump_json(content)), tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == (tmp_path / "page.html").read_text()


def test_what_is_no_probe_is_refused_before_anything_is_written(tmp_path) -> None:
    with pytest.raises(DataError, match="without probe"):
        write_probe_report({"rows": [], "provenance": {}}, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_a_probe_writes_its_page_itself(tmp_path: Path) -> None:
    probe = FeatureProbe.from_dict(
        told(point("pixels", 0.6, 0.9, control="pixels"), point("a <b>", 0.8, 0.9, 0.2))["probe"]
    )
    probe.to_html(tmp_path / "probe.html", title="Mine")
    text = (tmp_path / "probe.html").read_text(encoding="utf-8")
    assert "<h1>Mine</h1>" in text
    assert "a &lt;b&gt;" in text
    assert "Command" not in text
    assert "to fit" not in text
    assert all(line.split("(")[0].strip() in text for line in probe.summary().splitlines()[:1])
