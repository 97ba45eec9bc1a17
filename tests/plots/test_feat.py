"""Figures of feature augmented training: bars, levels and ways are those of the numbers."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from featlearn.exceptions import DataError
from featlearn.plots.feat import plot_rounds, plot_toy
from featlearn.robust.two_feature_toy import TwoFeatureToy


def row(k: int, role: str, name: str, accuracy: float, majority: float, accepted: bool) -> dict:
    return {"round": k, "role": role, "set": name, "n": 100 * k, "accuracy": accuracy, "majority": majority,
            "gain": accuracy - majority, "accepted": accepted}  # fmt: skip


ROUNDS = [
    row(1, "learn", "all", 0.9, 0.5, True),
    row(2, "learn", "all", 0.75, 0.5, False),
    row(2, "learn", "wrong after round 1", 0.6, 0.55, False),
    row(2, "retain", "right after round 1", 0.95, float("nan"), False),
]
HISTORY = [
    {"round": 1, "step": 1, "set_losses": [0.7], "retention_losses": []},
    {"round": 1, "step": 2, "set_losses": [0.4], "retention_losses": []},
    {"round": 2, "step": 1, "set_losses": [0.5, 0.9], "retention_losses": [0.2]},
    {"round": 2, "step": 2, "set_losses": [0.6, 0.65], "retention_losses": [0.3]},
]


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def test_every_set_has_a_bar_of_its_accuracy_and_a_line_at_its_commonest_class():
    accuracies, losses = plot_rounds(ROUNDS, HISTORY)
    heights = [bar.get_height() for bar in accuracies.patches if bar.get_height() > 0]
    assert heights == [0.9, 0.75, 0.6, 0.95]
    levels = [line.get_ydata()[0] for line in accuracies.lines]
    assert levels == [0.5, 0.5, 0.55]
    labels = [text.get_text() for text in accuracies.get_xticklabels()]
    assert labels == ["round 1", "round 2\n(rejected)"]
    assert {text.get_text() for text in accuracies.get_legend().get_texts()} == {
        "all rows", "rows wrong after round 1", "earlier head, rows it had right", "commonest class",
    }  # fmt: skip
    curves = [line.get_xydata().tolist() for line in losses.lines if len(line.get_xdata()) == 2]
    for expected in ([[1, 0.7], [2, 0.4]], [[3, 0.5], [4, 0.6]], [[3, 0.9], [4, 0.65]], [[3, 0.2], [4, 0.3]]):
        assert expected in curves


def test_a_set_keeps_its_colour_over_rounds():
    accuracies, losses = plot_rounds(ROUNDS, HISTORY)
    bars = [bar for bar in accuracies.patches if bar.get_height() > 0]
    assert bars[0].get_facecolor()[:3] == bars[1].get_facecolor()[:3] != bars[2].get_facecolor()[:3]
    assert bars[3].get_edgecolor()[:3] == bars[0].get_edgecolor()[:3]
    solid = {tuple(line.get_ydata()): line.get_color() for line in losses.lines if line.get_linestyle() == "-"}
    assert solid[0.7, 0.4] == solid[0.5, 0.6] != solid[0.9, 0.65]


def test_one_axes_gets_the_accuracies_alone():
    ax = plt.subplots()[1]
    assert plot_rounds(ROUNDS, HISTORY, ax) == [ax]
    assert ax.get_ylabel() == "accuracy at the end of the round"
    with pytest.raises(DataError, match="expected one or two"):
        plot_rounds(ROUNDS, HISTORY, plt.subplots(1, 3)[1])


def test_the_plane_shows_the_way_of_every_run_and_its_end():
    toy = TwoFeatureToy()
    runs = {"ERM": toy.train("erm", 5), "IRM": toy.train("irm", 4, pretrain_steps=3)}
    plane, steps = toy.plot(runs)
    ways = {line.get_label(): line.get_xydata() for line in plane.lines}
    for name, run in runs.items():
        np.testing.assert_array_equal(ways[name], np.stack([run.invariant, run.spurious], axis=1))
    ends = [line.get_xydata()[0].tolist() for line in plane.lines if line.get_marker() == "o"]
    assert ends == [[run.invariant[-1], run.spurious[-1]] for run in runs.values()]
    dashed = [line.get_ydata() for line in steps.lines if line.get_linestyle() == "--"]
    np.testing.assert_array_equal(dashed[1], runs["IRM"].spurious)


def test_runs_of_any_number_have_colours_of_their_own():
    run = TwoFeatureToy().train("erm", 2).to_dict()
    for count in (1, 4, 6):
        plane = plot_toy({f"run {i}": run for i in range(count)})[0]
        colors = {line.get_color() for line in plane.lines if line.get_label().startswith("run ")}
        assert len(colors) == count
