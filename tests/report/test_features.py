from __future__ import annotations

import json
import math
import re
from base64 import b64decode
from io import BytesIO

import feature_reports as made
import numpy as np
import page_reader
import pytest
from PIL import Image

from featlearn.exceptions import DataError
from featlearn.plots.patches import patch_image
from featlearn.report.features import feature_report_fragment, write_feature_report
from featlearn.report.json import dump_json

NAN = float("nan")
EVIL = "<script>alert('x')</script>\"&.weight_0"


@pytest.fixture
def page_of(tmp_path):
    def write(report, **options):
        path = tmp_path / "page.html"
        write_feature_report(report, path, **options)
        return page_reader.Page(path.read_text(encoding="utf-8"))

    return write


def one_batch():
    nfa = made.alignment(error=NAN) | {"interval": [NAN, NAN]}
    return made.report([made.layer("a", nfa=nfa), made.layer("b", nfa=nfa)])


def sixty():
    layers = [made.layer(f"model.layers.{i}.self_attn.q_proj", index=i) for i in range(60)]
    return made.report([made.with_reference(layer, i) for i, layer in enumerate(layers)])


REPORTS = {
    "small": made.small(),
    "everything": made.resnet(),
    "probes": made.one_channel(),
    "plain layers": made.perceptron(),
    "no layer": made.report([]),
    "only trivial": made.report([made.trivial("fc")]),
    "undefined": made.report([made.layer(k=1, d=1, nfa=made.undefined())]),
    "one batch": one_batch(),
    "sixty layers": sixty(),
}


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_every_number_shown_is_one_of_the_report(report, page_of):
    page = page_of(report, image_shape=(28, 28))
    known = set(page_reader.numbers_in(report))
    assert len(page.data) > 5
    for value, text in page.data:
        assert float(value) in known, (value, text)
        assert page_reader.rounds_to(value, text), (value, text)
    assert page.loose_digits() == []
    assert page.problems == []


def test_numbers_of_history_and_comparison_come_from_there(page_of):
    after = made.resnet()
    before = made.at_initialisation(after)
    page = page_of(after, comparison=before, history=made.history(["conv1"]))
    known = set(page_reader.numbers_in(after)) | set(page_reader.numbers_in(before))
    assert all(float(value) in known and page_reader.rounds_to(value, text) for value, text in page.data)
    assert page.loose_digits() == []
    assert page.problems == []
    shown = {value for value, _ in page.data}
    assert {repr(before["layers"][name]["nfa"]["value"]) for name in before["layers"] if name != "fc"} <= shown


def test_the_table_shows_what_was_measured_in_each_layer(page_of):
    report = made.resnet()
    page = page_of(report)
    shown = {value for value, _ in page.data}
    for layer in report["layers"].values():
        numbers = [layer["k"], layer["d"], layer["nfa"]["value"], layer["best_power"]]
        numbers += [layer[f"{kind}_spectrum"]["effective_rank"] for kind in ("nfm", "agop", "tangent")]
        if not layer["trivial"]:
            numbers += [layer["nfa"][key] for key in ("null", "excess", "standard_error", "excess_standard_error")]
            numbers += [layer["centered"]["value"], layer["fact"], layer["loss_nfa"], layer["speed"]["backward_norm"]]
        assert {repr(x) for x in numbers if not math.isnan(x)} <= shown


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_a_report_read_back_from_json_makes_the_same_page(report, tmp_path):
    write_feature_report(report, tmp_path / "one.html")
    write_feature_report(json.loads(dump_json(report)), tmp_path / "two.html")
    assert (tmp_path / "one.html").read_text() == (tmp_path / "two.html").read_text()
    assert feature_report_fragment(report) == feature_report_fragment(json.loads(dump_json(report)))


def test_nothing_is_loaded_from_anywhere(tmp_path):
    path = tmp_path / "page.html"
    write_feature_report(made.resnet(), path, history=made.history(["conv1"]))
    markup = path.read_text(encoding="utf-8")
    page = page_reader.Page(markup)
    outside_images = re.sub(r"base64,[^\"]*", "", markup)
    assert re.findall(r"https?:|//[a-z]|@import|url\(", outside_images) == []
    links = [attributes[key] for _, attributes in page.elements for key in ("src", "href") if key in attributes]
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    anchors = {link[1:] for link in links if link.startswith("#")}
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert anchors <= set(ids)
    assert len(ids) == len(set(ids))
    assert not [tag for tag, _ in page.elements if tag in ("link", "iframe", "object", "base")]


def evil_report():
    report = made.report([made.with_loss(made.with_reference(made.layer(EVIL), 0), 0)], {EVIL + "2": EVIL})
    report["provenance"] |= dict.fromkeys(("model", "data", "command", "reference", "loss", "date"), EVIL)
    report["provenance"] |= {"notes": [EVIL], EVIL: EVIL}
    report["layers"][EVIL] |= {"shared_with": [EVIL], "reason": EVIL}
    return report


def test_names_and_strings_are_escaped_everywhere(page_of):
    history = made.history([EVIL])
    page = page_of(evil_report(), title=EVIL, history=history, comparison=evil_report())
    assert page.problems == []
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert EVIL in page.of_class("name")
    assert EVIL in page.of_class("verbatim")
    assert ("title", EVIL) in [(tag, text) for tag, _, text in page.texts]
    marked = {attributes["data-layer"] for _, attributes in page.elements if "data-layer" in attributes}
    assert marked == {EVIL}
    fragment = page_reader.Page(feature_report_fragment(evil_report()))
    assert fragment.problems == []
    assert "script" not in [tag for tag, _ in fragment.elements]


@pytest.mark.parametrize(
    ("error", "shown"),
    [(0.02, "0.02"), (0.0089, "0.01"), (0.0043, "0.004"), (0.00021, "0.0002"), (0.0, "0.00"), (1e-12, "0.000000")],
)
def test_a_small_standard_error_is_not_shown_as_zero(error, shown, page_of):
    nfa = made.alignment() | {"excess_standard_error": error}
    assert f"0.50\xa0±\xa0{shown}" in page_of(made.report([made.layer(nfa=nfa)])).of_class("number")


def tracks(page, kind):
    """Attributes of the bars of a panel, by the name of their layer."""
    found, label = {}, None
    for tag, attributes in page.elements:
        classes = attributes.get("class", "").split()
        if tag == "svg" and f"of-{kind}" in classes:
            label = attributes.get("aria-label", "").partition(":")[0]
        elif label and {"bar", "null", "band", "whisker"} & set(classes):
            found.setdefault(label, {}).setdefault(classes[0], attributes)
    return found


def percent(text):
    assert text.endswith("%")
    return float(text[:-1])


def test_bars_chance_bands_and_whiskers_stand_where_the_numbers_say(page_of):
    report = made.small()
    drawn = tracks(page_of(report), "nfa")
    assert list(drawn) == ["conv1", "fc1"]  # in order, and without the trivial layer
    for name, marks in drawn.items():
        nfa = report["layers"][name]["nfa"]  # the axis of these bars reaches from zero to one
        assert percent(marks["bar"]["width"]) == pytest.approx(100 * nfa["value"], abs=0.01)
        assert percent(marks["null"]["x1"]) == pytest.approx(100 * nfa["null"], abs=0.01)
        assert percent(marks["band"]["x"]) == pytest.approx(100 * (nfa["null"] - 2 * nfa["null_sd"]), abs=0.01)
        assert percent(marks["band"]["width"]) == pytest.approx(400 * nfa["null_sd"], abs=0.02)
        assert percent(marks["whisker"]["x1"]) == pytest.approx(100 * nfa["interval"][0], abs=0.01)
        assert percent(marks["whisker"]["x2"]) == pytest.approx(100 * nfa["interval"][1], abs=0.01)


def test_filled_bars_are_the_layers_that_the_summary_calls_above_chance(page_of):
    report = made.resnet()
    drawn = tracks(page_of(report), "nfa")
    filled = [name for name, marks in drawn.items() if "above" in marks["bar"]["class"].split()]
    assert filled == report["summary"]["above_chance"]
    assert 0 < len(filled) < len(drawn)


def test_the_label_of_a_bar_says_its_numbers(page_of):
    report = made.resnet()
    labels = [attributes["aria-label"] for _, attributes in page_of(report).elements if attributes.get("role") == "img"]
    nfa = report["layers"]["below.chance"]["nfa"]
    expected = f"below.chance: NFA {nfa['value']:.3f}, chance {nfa['null']:.3f}, excess {nfa['excess']:.2f} ± 0.02"
    assert expected.replace("-", "−") in labels


def test_trivial_layers_are_grey_and_have_no_excess(page_of):
    page = page_of(made.small())
    muted = page.of_class("muted")
    assert len(muted) == 1
    assert muted[0].startswith("fc2")
    assert "–" in muted[0]
    assert any("by definition" in text for tag, _, text in page.texts if tag == "p")


def headline(page):
    return next(text for tag, attributes, text in page.texts if attributes.get("id") == "headline")


def test_the_headline_names_the_exceptions_the_strongest_and_the_skipped(page_of):
    report = made.resnet()
    text = headline(page_of(report))
    above = report["summary"]["above_chance"]
    assert f"{len(above)} of 29" in text
    assert 0 < len(above) < 29
    assert all(name in text for name in report["summary"]["strongest"])
    assert "Skipped: embed. Embedding layers have integer inputs" in text
    assert "near.chance NFA is 0.950, but chance gives 0.950" in text


def test_the_headline_does_not_claim_what_it_cannot(page_of):
    assert "no error bars" in headline(page_of(REPORTS["one batch"]))
    assert "No layer has an excess that is defined" in headline(page_of(REPORTS["undefined"]))
    assert "No layer can be compared with chance" in headline(page_of(REPORTS["only trivial"]))
    assert "No layer was measured" in headline(page_of(REPORTS["no layer"]))
    at_chance = made.report([made.layer(nfa=made.alignment(0.9, 0.899))])
    assert "more than two standard deviations: in no layer" in headline(page_of(at_chance))


def test_an_interrupted_measurement_is_marked(page_of):
    report = made.small()
    assert "Interrupted" not in headline(page_of(report))
    report["provenance"] |= {"complete": False, "n_samples": 350}
    page = page_of(report)
    assert "Interrupted. These numbers are from the first 350 samples only." in headline(page)
    assert any(tag == "title" and text.endswith("(interrupted)") for tag, _, text in page.texts)
    assert "Interrupted" in feature_report_fragment(report)


def sections(page):
    return {attributes["id"] for tag, attributes in page.elements if tag == "section"}


def test_sections_appear_with_what_was_measured(page_of):
    always = {"headline", "layers", "spectra", "provenance"}
    assert sections(page_of(made.small())) == always | {"directions"}
    full = page_of(made.resnet(), history=made.history(["conv1"]), comparison=made.at_initialisation(made.resnet()))
    optional = {"directions", "loss", "speed", "lazy", "collapse", "tracking", "comparison"}
    assert sections(full) == always | optional
    assert sections(page_of(made.perceptron())) == always
    assert sections(page_of(made.perceptron(), image_shape=(1, 28, 28))) == always | {"directions"}


def test_directions_are_pictures_of_the_eigenvectors(page_of):
    report = made.one_channel()
    images = [attributes for tag, attributes in page_of(report).elements if tag == "img"]
    assert [image["alt"] for image in images[:2]] == ["AGOP, direction 1", "AGOP, direction 2"]
    assert len(images) == 16
    layer = report["layers"]["features.0"]
    for image, direction in zip(images, layer["agop_directions"][:8] + layer["nfm_directions"][:8], strict=True):
        pixels = np.asarray(Image.open(BytesIO(b64decode(image["src"].partition(",")[2]))).convert("RGB"))
        np.testing.assert_array_equal(pixels, patch_image(direction, (1, 5, 5)))


def test_provenance_says_how_to_measure_again(page_of):
    report = made.resnet()
    report["provenance"]["added later"] = "a value"
    text = next(t for tag, attributes, t in page_of(report).texts if attributes.get("id") == "provenance")
    about = report["provenance"]
    keys = ("model", "weights_sha256", "data_sha256", "data", "statistic", "dtype", "device", "date", "command")
    assert all(about[key] in text for key in (*keys, "reference", "loss", "added later"))
    assert all(version in text for version in about["versions"].values())
    assert about["notes"][0] in text


def test_a_comparison_says_what_moved_and_warns_of_other_data(page_of):
    after = made.report([made.layer(name, index=0) for name in ("rose", "fell", "still")])
    values = {"rose": 0.6, "fell": 0.9, "still": 0.7}
    before = made.report([made.layer(name, nfa=made.alignment(x, 0.55)) for name, x in values.items()])

    def text_of(page):
        return next(text for tag, attributes, text in page.texts if attributes.get("id") == "comparison")

    text = text_of(page_of(after, comparison=before))
    assert "The excess rose in rose, and fell in fell." in text
    assert "The excess rose in no layer." in text_of(page_of(before, comparison=before))
    assert "different data" not in text
    before["provenance"] |= {"data_sha256": "0" * 64}
    assert "They were measured on different data." in text_of(page_of(after, comparison=before))


def curves(page, layer):
    return [a["d"] for tag, a in page.elements if tag == "path" and a.get("class") == "line"][layer]


def test_a_curve_breaks_where_its_value_is_undefined(page_of):
    names = ["a", "b", "c", "d"]
    rows = made.history(names, steps=(0, 1, 2, 4, 8, 16))
    page = page_of(made.report([made.layer(name) for name in names]), history=rows)
    assert curves(page, 0).count("M") == 1
    assert curves(page, 3).count("M") == 2  # the excess of "d" is undefined at step 4
    places = [float(x) for x in re.findall(r"[ML]([\d.]+) ", curves(page, 0))]
    expected = [100 * math.log1p(step) / math.log1p(16) for step in (0, 0, 1, 2, 4, 8, 16)]
    assert places == pytest.approx(expected, abs=0.01)


def test_quantities_that_were_never_recorded_have_no_figure(page_of):
    rows = [{"step": step, "layers": {"a": {"nfa_excess": 0.1 * step, "centered_nfa": None}}} for step in range(3)]
    page = page_of(made.report([made.layer("a")]), history=rows)
    captions = [text for tag, _, text in page.texts if tag == "figcaption"]
    assert captions == ["excess over chance", "WᵀW", "AGOP", "tangent kernel K"]


def test_the_notebook_fragment_leaves_the_notebook_alone():
    markup = feature_report_fragment(made.resnet())
    page = page_reader.Page(markup)
    assert page.problems == []
    assert page.elements[0] == ("div", {"class": "featlearn"})
    assert not any("id" in attributes for _, attributes in page.elements)
    assert not any(tag in ("script", "link", "button") for tag, _ in page.elements)
    style = re.sub(r"/\*.*?\*/|@media[^{]*\{|@page[^{]*\{", "", re.search(r"<style>(.*)</style>", markup, re.S)[1])
    selectors = [part.strip() for rule in re.findall(r"([^{}]+)\{", style) for part in rule.split(",")]
    assert len(selectors) > 50
    assert all(re.match(r"(body\S+ )?\.featlearn\b", selector) for selector in selectors)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_shape": (28,)}, "image_shape"),
        ({"history": []}, "empty history"),
        ({"comparison": made.report([made.layer("other")])}, "shares no layer"),
        ({"comparison": {"layers": {}}}, "without provenance, skipped, summary"),
    ],
)
def test_impossible_options_are_refused_and_nothing_is_written(options, message, tmp_path):
    with pytest.raises(DataError, match=message):
        write_feature_report(made.small(), tmp_path / "page.html", **options)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_report_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"expected FeatureReport\.to_dict"):
        write_feature_report({"kind": "NeuralCollapse"}, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []
