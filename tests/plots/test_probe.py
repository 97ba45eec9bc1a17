"""The figure of a probe holds every layer or epoch, its controls, the diagonal and the intervals."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from featlearn.exceptions import DataError
from featlearn.plots.probe import plot_probe
from featlearn.robust.probe_results import FeatureProbe, ProbePoint


def point(name: str, core: float, spurious: float, **where: str | bool | None) -> ProbePoint:
    return ProbePoint(
        name=name, d=3, core_wga=core, core_low=core - 0.05, core_high=core + 0.02, core_mean=core,
        spurious_wga=spurious, spurious_low=spurious - 0.01, spurious_high=spurious, spurious_mean=spurious,
        core_accuracies=(core, 1.0), spurious_accuracies=(spurious, 1.0), **where,
    )  # fmt: skip


PIXELS = point("pixels", 0.78, 0.99, control="pixels")
INIT = point("init", 0.7, 0.95, control="init")
EPOCHS = [point(f"epoch {k}", 0.6 + 0.05 * k, 0.9 + 0.01 * k, checkpoint=f"epoch {k}", layer="fc") for k in range(4)]


def result(*points: ProbePoint) -> FeatureProbe:
    return FeatureProbe(
        points=points, groups={"y=0, s=0": 10, "y=0, s=1": 10}, n_train=100, n_per_group=20, n_test=20, n_classes=4,
        n_attributes=2, confidence=0.95, probe="ridge", information="none", selection="none", random_state=0,
        core_chance=0.19, spurious_chance=0.44,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def drawn(ax, marker: str) -> list[tuple[float, float]]:
    lines = [line for line in ax.lines if line.get_marker() == marker]
    return [(float(x), float(y)) for line in lines for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def test_plane_joins_the_epochs_in_order_and_crosses_the_controls() -> None:
    (ax,) = plot_probe(result(PIXELS, INIT, *EPOCHS).to_dict(), plt.subplots()[1])
    assert drawn(ax, "o") == [(p.spurious_wga, p.core_wga) for p in EPOCHS]
    assert drawn(ax, "x") == [(0.99, 0.78)]
    assert drawn(ax, "+") == [(0.95, 0.7)]
    diagonal = ax.lines[0]
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    assert [text.get_text() for text in ax.texts] == ["epoch 0", "epoch 3", "epoch 2", "epoch 1"]
    (ax,) = plot_probe(result(PIXELS, point("on the cross", 0.78, 0.985), point("apart", 0.4, 0.5)).to_dict(), ax)
    assert [text.get_text() for text in ax.texts][4:] == ["apart"]
    low, high = ax.get_xlim()
    assert low < 0.6
    assert high > 1.0
    assert ax.get_ylim() == (low, high)


def test_second_panel_has_values_intervals_and_the_levels_of_the_controls() -> None:
    axes = result(PIXELS, INIT, *EPOCHS).plot()
    core, spurious = axes[1].containers
    np.testing.assert_allclose(core.lines[0].get_ydata(orig=False), [p.core_wga for p in EPOCHS])
    np.testing.assert_allclose(spurious.lines[0].get_ydata(orig=False), [p.spurious_wga for p in EPOCHS])
    bars = core.lines[2][0].get_segments()
    np.testing.assert_allclose([bar[:, 1] for bar in bars], [(p.core_low, p.core_high) for p in EPOCHS])
    levels = [
        float(segment[0, 1]) for lines in axes[1].collections[:6] for segment in lines.get_segments() if len(segment)
    ]
    assert {0.78, 0.7, 0.99, 0.95} <= {round(level, 6) for level in levels}
    assert [label.get_text() for label in axes[1].get_xticklabels()] == [p.name for p in EPOCHS]
    words = [text.get_text() for text in axes[1].get_legend().get_texts()]
    assert words == ["core feature", "spurious attribute", "raw input", "untrained network"]
    levels = [
        line.get_ydata()[0] for line in axes[1].lines if len(set(line.get_ydata())) == 1 and line.get_zorder() == 0
    ]
    assert levels == [0.19, 0.44]
    assert [text.get_text() for text in axes[1].texts] == [
        "guesses of y in their worst group: 0.19", "guesses of s in their worst group: 0.44",
    ]  # fmt: skip


def test_each_layer_has_a_line_and_its_own_control() -> None:
    layers = ("conv", "fc")
    inits = [point(f"init: {name}", 0.5 + 0.1 * k, 0.9, control="init", layer=name) for k, name in enumerate(layers)]
    crossed = [
        point(f"{epoch}: {name}", 0.7, 0.95, checkpoint=epoch, layer=name) for epoch in ("a", "b") for name in layers
    ]
    axes = result(PIXELS, *inits, *crossed).plot()
    lines = [line for line in axes[0].lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert [line.get_label() for line in lines] == list(layers)
    crosses = [line for line in axes[0].lines if line.get_marker() == "+" and len(line.get_xdata())]
    assert [to_hex(line.get_color()) for line in crosses] == [to_hex(line.get_color()) for line in lines]
    names = [label.get_text() for label in axes[1].get_xticklabels()]
    assert names == ["a: conv", "b: conv", "a: fc", "b: fc"]
    core_init = axes[1].collections[2].get_segments()  # after the bars and the raw input
    assert [round(float(segment[0, 1]), 6) for segment in core_init] == [0.5, 0.5]


def test_without_controls_there_are_only_the_features() -> None:
    axes = result(*EPOCHS).plot()
    assert not drawn(axes[0], "x")
    assert axes[0].get_legend() is None
    assert [text.get_text() for text in axes[1].get_legend().get_texts()] == ["core feature", "spurious attribute"]


def test_many_epochs_keep_readable_names() -> None:
    many = [point(f"epoch {k}", 0.5 + 0.004 * k, 0.9, checkpoint=f"epoch {k}", layer="fc") for k in range(100)]
    axes = result(PIXELS, INIT, *many).plot()
    assert len(axes[1].get_xticks()) <= 16
    assert [text.get_text() for text in axes[0].texts] == ["epoch 0", "epoch 99"]


def test_another_number_of_axes_is_refused() -> None:
    with pytest.raises(DataError, match="expected one or two"):
        result(PIXELS, INIT, *EPOCHS).plot(plt.subplots(1, 3)[1])


def boxes(ax) -> list:
    ax.figure.canvas.draw()
    return [text.get_window_extent() for text in ax.texts]


def test_names_of_layers_and_checkpoints_do_not_lie_on_each_other() -> None:
    layers = ("conv1", "conv2", "dense")
    crossed = [
        point(f"{epoch}: {name}", 0.62 + 0.05 * k + 0.03 * e, 0.95 + 0.01 * k, checkpoint=epoch, layer=name)
        for e, epoch in enumerate(("epoch 0", "epoch 3", "epoch 6"))
        for k, name in enumerate(layers)
    ]
    inits = [point(f"init: {name}", 0.6 + 0.05 * k, 0.94, control="init", layer=name) for k, name in enumerate(layers)]
    ax = result(PIXELS, *inits, *crossed).plot()[0]
    found = boxes(ax)
    assert len(found) >= 2
    assert not any(a.overlaps(b) for place, a in enumerate(found) for b in found[:place])


def test_untrained_layers_are_named_where_colours_do_not_tell_them() -> None:
    layers = ("conv1", "dense")
    inits = [point(f"init: {name}", 0.4 + 0.2 * k, 0.5, control="init", layer=name) for k, name in enumerate(layers)]
    ax = result(PIXELS, *inits, *(point(name, 0.7 + 0.2 * k, 0.9, layer=name) for k, name in enumerate(layers))).plot()[
        0
    ]
    assert {text.get_text() for text in ax.texts} == {"conv1", "dense", "init: conv1", "init: dense"}
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words == ["raw input", "untrained network (by layer)"]


def test_constant_probes_are_hollow() -> None:
    constant = point("epoch 9", 0.0, 0.9, checkpoint="epoch 9", layer="fc", core_constant=True)
    axes = result(PIXELS, INIT, *EPOCHS, constant).plot()
    for ax, at in ((axes[0], (0.9, 0.0)), (axes[1], (4.0, 0.0))):
        hollow = [line for line in ax.lines if line.get_markerfacecolor() == "white" and len(line.get_xdata())]
        assert [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in hollow] == [at]
    assert "constant probe" in [text.get_text() for text in axes[1].get_legend().get_texts()]
