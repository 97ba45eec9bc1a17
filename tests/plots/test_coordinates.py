"""The figure of a coordinate check shows the slopes, the sizes and what failed."""

from __future__ import annotations

import json
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest

from featlearn.exceptions import DataError
from featlearn.plots.coordinates import plot_coordinates
from featlearn.report.json import dump_json

SIZES = [64, 128, 256]
EXPONENTS = {"feature_rms": 0.0, "feature_change_rms": -0.5, "cos_theta": 0.25}


def result(layers=("a", "b"), exponents=EXPONENTS, failures=()) -> dict:
    """As much of ``CoordinateCheck.to_dict()`` as the figure needs: exact power laws, two seeds apart by a factor."""
    measured = [
        {"size": size, "seed": seed, "step": step, "layer": layer}
        | {quantity: (1 + seed) * 0.1 * size**exponent for quantity, exponent in exponents.items()}
        for size in SIZES
        for seed in (0, 1)
        for step in (0, 1)
        for layer in layers
    ]
    slopes = [
        {"layer": layer, "quantity": quantity, "slope": exponent, "low": exponent - 0.1, "high": exponent + 0.1}
        | {"judged": layer != layers[-1], "verdict": "flat" if exponent == 0 else "depends"}
        for quantity, exponent in exponents.items()
        for layer in layers
    ]
    return {"over": "width", "sizes": SIZES, "steps": 1, "measured": measured, "slopes": slopes, "failures": failures}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_lines_have_the_slopes_of_the_result_and_pass_through_the_means():
    for ax, exponent in zip(plot_coordinates(result()), EXPONENTS.values(), strict=True):
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        lines = [line for line in ax.lines if line.get_linestyle() in ("-", "--") and len(line.get_xdata()) == 3]
        assert [line.get_linestyle() for line in lines] == ["-", "--"]  # judged, and only shown
        for line in lines:
            np.testing.assert_array_equal(line.get_xdata(), SIZES)
            np.testing.assert_allclose(line.get_ydata(), math.sqrt(2) * 0.1 * np.power(SIZES, exponent), rtol=1e-12)


def test_the_legend_names_layers_slopes_and_verdicts():
    texts = [text.get_text() for text in plot_coordinates(result())[1].get_legend().get_texts()]
    assert texts == ["a: -0.50 ± 0.10, depends", "b: -0.50 ± 0.10, depends"]


def test_many_layers_leave_the_steepest_and_the_two_ends_in_the_legend():
    names = [str(place) for place in range(20)]
    plain = result(names)
    for slope in plain["slopes"]:
        slope["slope"] = 0.01 * int(slope["layer"]) * (-1) ** int(slope["layer"])
    ax = plot_coordinates(plain)[0]
    assert [text.get_text().split(":")[0] for text in ax.get_legend().get_texts()] == [
        "0", "14", "15", "16", "17", "18", "19"
    ]  # fmt: skip
    assert "13 layers unnamed" in ax.get_legend().get_title().get_text()


def test_what_was_not_measured_is_left_out_and_what_failed_is_marked():
    failures = [{"size": 256, "seed": 0, "step": 1, "reason": "the loss is not finite"}]
    plain = result(failures=failures)
    plain["measured"] = [record for record in plain["measured"] if record["size"] < 256]
    for slope in plain["slopes"]:
        slope |= {"slope": math.nan, "low": math.nan, "high": math.nan, "verdict": "undecided"}
    for form in (plain, json.loads(dump_json(plain))):  # null in place of nan
        ax = plot_coordinates(form)[0]
        ax.figure.canvas.draw()
        assert " not finite" in [text.get_text() for text in ax.texts]
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a: no slope", "b: no slope"]


def test_one_axes_gets_the_change_and_two_are_refused():
    ax = plt.subplots()[1]
    assert plot_coordinates(result(), ax) == [ax]
    assert "change of features" in ax.get_title()
    with pytest.raises(DataError, match="2 Axes, but expected one or three"):
        plot_coordinates(result(), plt.subplots(1, 2)[1])
