from __future__ import annotations

import json
import math

import machine_reports as made
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from featlearn.exceptions import DataError
from featlearn.machines import RFMRegressor
from featlearn.plots import plot_importances, plot_machine, plot_scree, plot_selection
from featlearn.plots.candidates import candidate_curves, importance_rows
from featlearn.plots.palette import CENTERED, FAINT
from featlearn.report.json import dump_json


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize("machine", made.MACHINES.values(), ids=made.MACHINES)
def test_every_machine_is_drawn_and_its_json_alike(machine):
    figure, again = plot_machine(machine), plot_machine(json.loads(dump_json(machine)))
    panels = 2 if machine["selection"] is None else 3
    assert len(figure.axes) == len(again.axes) == panels
    figure.canvas.draw()
    again.canvas.draw()
    np.testing.assert_array_equal(np.asarray(figure.canvas.buffer_rgba()), np.asarray(again.canvas.buffer_rgba()))


def test_bars_are_the_largest_importances_in_their_order():
    machine = made.machine(30, importances=list(np.random.default_rng(0).dirichlet(np.ones(30))))
    ax = plot_importances(machine, top=4)
    lengths = [bar.get_width() for bar in ax.patches]
    assert lengths == sorted(machine["importances"], reverse=True)[:4]
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == [f"column_{j}" for j in np.argsort(machine["importances"])[::-1][:4]]
    assert ax.get_title() == "importance, 4 of 30 columns"


def test_columns_without_importance_get_no_bar_and_none_at_all_is_said():
    assert importance_rows(made.machine(3, importances=[0.0, 1.0, 0.0]), 12) == [("column_1", 1.0)]
    ax = plot_importances(made.nothing_learned())
    assert len(ax.patches) == 0
    assert [text.get_text() for text in ax.texts] == ["no column matters to the predictor"]


def test_the_scree_shows_shares_alone_and_together():
    machine = made.machine()
    ax = plot_scree(machine)
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], machine["direction_shares"])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.cumsum(machine["direction_shares"]))


def test_curves_pass_through_the_scores_with_bars_of_one_standard_error():
    selection = made.selection()
    ax = plot_selection(selection)
    curve = candidate_curves(selection)[0]
    line, _, (bars,) = ax.containers[0].lines
    np.testing.assert_allclose(line.get_ydata(orig=False), curve.scores)
    np.testing.assert_allclose(line.get_xdata(orig=False), curve.steps, atol=0.2)
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends.mean(axis=1), curve.scores)
    np.testing.assert_allclose(ends[:, 1] - ends[:, 0], 2 * np.array(curve.errors))


def test_the_ring_is_on_the_chosen_iterate():
    selection = made.selection()
    best = selection["table"][selection["chosen"]]
    rings = [line for line in plot_selection(selection).lines if to_hex(line.get_markeredgecolor()) == CENTERED]
    assert len(rings) == 1
    assert rings[0].get_ydata()[0] == best["score"]
    assert round(rings[0].get_xdata()[0]) == best["iteration"]


def test_candidates_scored_on_other_rows_are_not_drawn_and_many_are_grey():
    selection = made.selection(4)
    ax = plot_selection(selection, best=3)
    assert len(ax.containers) == 3
    grey = [line for line in ax.lines if to_hex(line.get_color()) == FAINT]
    assert len(grey) == 8 - 3  # of sixteen candidates, eight left the race after two folds
    assert len(ax.get_legend().get_texts()) == 3


def test_candidates_are_ordered_chosen_first_then_by_score_and_named_by_what_varies():
    curves = candidate_curves(made.selection())
    assert [curve.chosen is not None for curve in curves] == [True] + [False] * 7
    assert [curve.finalist for curve in curves] == [True] * 4 + [False] * 4
    finals = [curve.best["score"] for curve in curves[:4]]
    assert finals == sorted(finals)
    assert curves[0].label == "rotated+coordinates, as given, power 1"
    selection = made.selection(1)
    selection["table"] = [entry for entry in selection["table"] if entry["power"] == 1]
    selection["chosen"] = 1
    assert {curve.label for curve in candidate_curves(selection)} == {"as given", "quantile"}


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_scores_over_decades_get_a_logarithmic_axis(scale):
    selection = made.selection()
    selection["table"][0]["score"] *= scale
    assert plot_selection(selection).get_yscale() == ("log" if scale > 1 else "linear")


def test_a_figure_of_ones_own_is_drawn_into():
    _, axes = plt.subplots(1, 3)
    machine = made.machine()
    assert plot_importances(machine, axes[0]) is axes[0]
    assert plot_scree(machine, axes[1]) is axes[1]
    assert plot_selection(machine["selection"], axes[2]) is axes[2]


@pytest.mark.parametrize("call", [plot_machine, plot_importances, plot_scree, plot_selection])
@pytest.mark.parametrize("given", [{}, {"layers": {}}, 3, {"table": [], "chosen": 0}])
def test_what_is_no_machine_is_refused(call, given):
    with pytest.raises(DataError, match=r"Got .* but expected"):
        call(given)


def test_no_candidate_to_draw_is_refused():
    with pytest.raises(DataError, match="best=0"):
        plot_selection(made.selection(), best=0)


def test_estimators_and_their_selections_draw_themselves():
    random = np.random.default_rng(0)
    X = random.normal(size=(60, 3))
    machine = RFMRegressor(kernel=["laplace", "gaussian"], max_iter=1, random_state=0).fit(X, X[:, 0] * X[:, 1])
    told = machine.to_dict()
    assert math.isclose(sum(told["importances"]), 1)
    assert told["features"] == ["x0", "x1", "x2"]
    assert told["selection"]["table"] == machine.selection_.table
    assert told["scores"]["rows"] == 60
    assert len(machine.plot().axes) == 3
    best = machine.selection_.best
    ring = [line for line in machine.selection_.plot().lines if to_hex(line.get_markeredgecolor()) == CENTERED]
    assert ring[0].get_ydata()[0] == best["score"]
    alone = RFMRegressor(kernel="laplace", alpha=0.1, selection=None).fit(X, X[:, 0])
    assert alone.to_dict()["scores"] is None
    assert len(alone.plot().axes) == 2
