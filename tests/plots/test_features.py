from __future__ import annotations

import json

import feature_reports
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from featlearn.exceptions import DataError
from featlearn.plots import plot_centered, plot_directions, plot_feature_report, plot_history, plot_spectra
from featlearn.plots.palette import ALIGNMENT, CENTERED
from featlearn.plots.relations import plot_relations
from featlearn.report.json import dump_json


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def names_on(ax) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def bars_of(ax, color) -> list:
    return [patch for patch in ax.patches if to_hex(patch.get_edgecolor()) == color]


def test_bars_are_as_long_as_the_correlations_and_stand_in_the_order_of_the_layers():
    report = feature_reports.small()
    ax = plot_feature_report(report)
    real = [layer for layer in report["layers"].values() if not layer["trivial"]]
    assert names_on(ax) == [layer["name"] for layer in real] == ["conv1", "fc1"]
    assert ax.yaxis_inverted()
    widths = [patch.get_width() for patch in bars_of(ax, ALIGNMENT)]
    assert widths == pytest.approx([layer["nfa"]["value"] for layer in real])


def test_chance_is_a_tick_with_a_band_of_two_standard_deviations_and_the_whisker_is_the_interval():
    nfa = feature_reports.alignment(0.7, 0.5, null_sd=0.03, error=0.01)
    ax = plot_feature_report(feature_reports.report([feature_reports.layer(nfa=nfa)]))
    band = next(patch for patch in ax.patches if patch.get_width() == pytest.approx(0.12))
    assert band.get_x() == pytest.approx(0.44)
    ticks = [line.get_xdata() for line in ax.lines if len(line.get_xdata()) == 2]
    assert any(np.allclose(tick, 0.5) for tick in ticks)
    (whisker,) = ax.collections[0].get_segments()
    assert whisker[:, 0] == pytest.approx(nfa["interval"])


@pytest.mark.parametrize(("value", "filled"), [(0.7, True), (0.63, False), (0.4, False)])
def test_only_bars_above_chance_by_two_standard_deviations_are_filled(value, filled):
    nfa = feature_reports.alignment(value, 0.6, error=0.01)
    ax = plot_feature_report(feature_reports.report([feature_reports.layer(nfa=nfa)]))
    (bar,) = bars_of(ax, ALIGNMENT)
    assert (bar.get_facecolor()[3] > 0) is filled


def test_centred_bars_need_a_reference():
    report = feature_reports.resnet()
    ax = plot_centered(report)
    values = [layer["centered"]["value"] for layer in report["layers"].values() if layer["centered"] is not None]
    assert [patch.get_width() for patch in bars_of(ax, CENTERED)] == pytest.approx(values)
    with pytest.raises(DataError, match="Measure with reference="):
        plot_centered(feature_reports.small())


@pytest.mark.parametrize("which", ["agop", "nfm", "tangent"])
def test_spectra_are_relative_to_their_largest_eigenvalue_on_logarithmic_axes(which):
    report = feature_reports.small()
    ax = plot_spectra(report, which=which)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    key = {"agop": "agop_spectrum", "nfm": "nfm_spectrum", "tangent": "tangent_spectrum"}[which]
    for line, layer in zip(ax.lines, list(report["layers"].values())[:2], strict=True):
        values = np.array(layer[key]["values"])
        assert line.get_ydata() == pytest.approx(values / values[0])
        assert line.get_xdata() == pytest.approx(np.arange(1, len(values) + 1))


def test_eigenvalues_of_round_off_size_do_not_stretch_the_axis():
    report = feature_reports.small()
    report["layers"]["fc1"]["agop_spectrum"]["values"] = [1.0, 0.1, 1e-17, 0.0]
    assert len(plot_spectra(report).lines[1].get_ydata()) == 2


def test_directions_of_both_matrices_stand_in_two_rows():
    figure = plot_directions(feature_reports.small(), top=5)
    assert sum(bool(axis.images) for axis in figure.axes) == 10
    assert [axis.images[0].get_array().shape for axis in figure.axes] == [(3, 3, 3)] * 10


def test_a_plain_layer_is_drawn_in_the_shape_of_its_input():
    figure = plot_directions(feature_reports.perceptron(), image_shape=(28, 28))
    assert figure.axes[0].images[0].get_array().shape == (28, 28, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": "fc9"}, "layer='fc9', but expected one of conv1, fc1, fc2"),
        ({"layer": "fc1"}, "make no picture"),
        ({"layer": "fc1", "image_shape": (10, 10)}, "make no picture"),
        ({"image_shape": (0, 3)}, "expected \\(height, width\\)"),
        ({"top": 0}, "top=0"),
    ],
)
def test_directions_that_cannot_be_drawn_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        plot_directions(feature_reports.small(), **arguments)


@pytest.mark.parametrize("draw", [plot_feature_report, plot_spectra, plot_centered, plot_directions])
def test_the_figure_of_a_report_read_back_from_json_is_the_same(draw, tmp_path):
    report = feature_reports.resnet()
    pictures = []
    for given in (report, json.loads(dump_json(report))):
        drawn = draw(given)
        figure = drawn if hasattr(drawn, "savefig") else drawn.figure
        figure.canvas.draw()
        pictures.append(np.asarray(figure.canvas.buffer_rgba()).copy())
    np.testing.assert_array_equal(*pictures)


@pytest.mark.parametrize("draw", [plot_feature_report, plot_centered, plot_spectra])
def test_figures_draw_into_given_axes(draw):
    ax = plt.figure().add_subplot()
    assert draw(feature_reports.resnet(), ax=ax) is ax


@pytest.mark.parametrize(
    "report",
    [
        feature_reports.report([feature_reports.trivial("fc")]),
        feature_reports.report([]),
        feature_reports.report([feature_reports.layer(k=1, d=1, nfa=feature_reports.undefined())]),
        feature_reports.report([feature_reports.layer(f"layer{i}", index=i) for i in range(60)]),
    ],
    ids=["only trivial", "no layer", "undefined", "sixty layers"],
)
def test_extreme_reports_are_drawn(report):
    for draw in (plot_feature_report, plot_spectra):
        ax = draw(report)
        ax.figure.canvas.draw()
        assert len(names_on(plot_feature_report(report))) == report["summary"]["n_layers"]


def test_what_is_no_report_is_refused():
    with pytest.raises(DataError, match="a mapping without layers, provenance, skipped, summary"):
        plot_feature_report({})
    with pytest.raises(DataError, match="Got list"):
        plot_spectra([1])
    with pytest.raises(DataError, match="which='hessian'"):
        plot_spectra(feature_reports.small(), which="hessian")


def test_history_draws_one_curve_a_layer_with_gaps_where_it_is_undefined():
    ax = plot_history(feature_reports.history(["a", "b", "c", "d"]))
    curves = [line for line in ax.lines if line.get_label() in "abcd"]
    assert len(curves) == 4
    assert np.isnan(curves[3].get_ydata()).sum() == 1
    assert ax.get_xscale() == "symlog"
    even = plot_history(feature_reports.history(["a"], steps=(0, 100, 200, 300)), "nfa")
    assert even.get_xscale() == "linear"


def test_relations_draw_six_curves():
    entry = {f"{side}_{pair}": 0.1 * i for i, side in enumerate(("out", "in")) for pair in ("hg", "hw", "gw")}
    ax = plot_relations({"layers": {"a": entry, "b": entry | {"in_hg": None}}, "n_samples": 10})
    assert len([line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_label()[0] != "_"]) == 6
