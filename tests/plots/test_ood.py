"""The figure of a head shows losses and penalties of every environment, and held-out rows dashed."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from featlearn.exceptions import DataError
from featlearn.plots.ood import plot_head
from featlearn.plots.palette import layer_colors
from featlearn.robust.ood import OODHead


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def history(environments: int = 2, steps: int = 4, held_out: bool = True) -> list[dict]:
    keys = ["loss", "penalty"] + ["held_out_loss", "held_out_penalty"] * held_out
    rng = np.random.default_rng(0)
    return [{"step": t} | {key: rng.random(environments).tolist() for key in keys} for t in range(steps)]


def test_a_curve_for_every_environment_and_part_holds_the_values():
    recorded = history()
    for ax, key in zip(plot_head(recorded, ["a", "b"]), ("loss", "penalty"), strict=True):
        assert len(ax.lines) == 4
        expected = [(key, 0), (key, 1), (f"held_out_{key}", 0), (f"held_out_{key}", 1)]
        for line, (name, e) in zip(ax.lines, expected, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), range(4))
            np.testing.assert_array_equal(line.get_ydata(), [entry[name][e] for entry in recorded])
            assert line.get_linestyle() == ("--" if name.startswith("held") else "-")
            assert line.get_color() == layer_colors(2)[e]


def test_the_legend_names_environments_and_parts():
    axes = plot_head(history(), ["hospital A", "hospital B"])
    texts = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert texts == ["hospital A", "hospital B", "training rows", "held-out rows"]
    texts = [t.get_text() for t in plot_head(history(held_out=False), ["0", "y"])[0].get_legend().get_texts()]
    assert texts == ["environment 0", "y"]
    many = plot_head(history(30), [f"site {e}" for e in range(30)])[0].get_legend().get_texts()
    assert [text.get_text() for text in many[:2]] == ["site 0", "... site 29"]


def test_penalties_are_logarithmic_only_where_they_are_positive():
    recorded = history()
    assert plot_head(recorded, ["a", "b"])[1].get_yscale() == "log"
    recorded[2]["held_out_penalty"][0] = -0.1  # the split estimator can
    assert plot_head(recorded, ["a", "b"])[1].get_yscale() == "linear"


def test_one_axes_gets_the_losses_and_others_are_refused():
    ax = plt.subplots()[1]
    assert plot_head(history(), ["a", "b"], ax) == [ax]
    assert len(ax.lines) == 4
    with pytest.raises(DataError, match="3 Axes"):
        plot_head(history(), ["a", "b"], list(plt.subplots(1, 3)[1]))
    with pytest.raises(DataError, match="empty history"):
        plot_head([], [])
    with pytest.raises(DataError, match="1 names"):
        plot_head(history(), ["a"])


def test_the_head_draws_its_own_history():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    Z = rng.normal(size=(200, 2)) + 2 * y[:, None]
    head = OODHead("irm", max_iter=5, validation_fraction=0.3, random_state=0).fit(Z, y, np.arange(200) % 2)
    axes = head.plot()
    np.testing.assert_array_equal(axes[0].lines[0].get_ydata(), [entry["loss"][0] for entry in head.history_])
    one = OODHead("erm").fit(Z, y).plot()[0]  # a single point must be seen
    assert one.lines[0].get_marker() == "o"
