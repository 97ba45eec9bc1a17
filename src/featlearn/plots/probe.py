"""Figures of feature probes: core against spurious decodability with its controls, and both over layers or epochs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from .palette import ALIGNMENT, CENTERED, FAINT, INK, MUTED, layer_colors
from .panels import panels

__all__ = ["plot_probe"]

_MOST_NAMED = 12
_MOST_TICKS = 16
_CONTROLS = {"pixels": ("raw input", "x", "--"), "init": ("untrained network", "+", ":")}

Point = Mapping[str, Any]


def plot_probe(result: Mapping[str, Any], ax: Axes | Iterable[Axes] | None = None) -> list[Axes]:
    """Worst-group accuracy for y against that for s, joined in order; and both in order, with their intervals.

    Parameters
    ----------
    result : mapping
        ``FeatureProbe.to_dict()``.
    ax : Axes or two Axes, optional
        Drawn into; one Axes gets core against spurious alone. By default a new figure.

    Returns
    -------
    list of Axes

    Raises
    ------
    DataError
        Another number of Axes.
    """
    axes = panels(ax, 2, (10.5, 4.6))
    lines = _lines(result["points"])
    _plane(axes[0], result["points"], lines)
    if len(axes) == 2:
        _over_order(axes[1], result, lines)
    return axes


def _lines(points: Sequence[Point]) -> list[list[Point]]:
    """What is joined: the checkpoints of each layer, or all layers of one network."""
    lines: dict[Any, list[Point]] = {}
    for point in points:
        if not point["control"]:
            lines.setdefault(point["layer"] if point["checkpoint"] else None, []).append(point)
    return list(lines.values())


def _plane(ax: Axes, points: Sequence[Point], lines: Sequence[Sequence[Point]]) -> None:
    ax.plot([0, 1], [0, 1], color=FAINT, linewidth=1, zorder=0)
    colors = layer_colors(len(lines))
    for line, color in zip(lines, colors, strict=True):
        label = line[0]["layer"] if len(lines) > 1 else None
        ax.plot(*_places(line), color=color, marker="o", markersize=5, linewidth=1, label=label)
        _name(ax, line)
    for kind, (words, marker, style) in _CONTROLS.items():
        controls = [point for point in points if point["control"] == kind]
        if len(controls) > 1 and len(lines) == 1:  # the untrained network layer by layer: a path of its own
            ax.plot(*_places(controls), color=INK, linestyle=style, linewidth=0.8)
        inks = colors if len(controls) == len(lines) > 1 else [INK] * len(controls)
        for place, (point, ink) in enumerate(zip(controls, inks, strict=True)):
            label = None if place else words
            ax.plot(*_places([point]), marker, color=ink, markersize=9, mew=1.8, label=label, zorder=3)
    low = min(min(point["spurious_wga"], point["core_wga"]) for point in points)
    ends = (max(-0.03, math.floor(10 * low - 0.5) / 10), 1.03)
    ax.set(xlim=ends, ylim=ends, aspect="equal")
    ax.set_xlabel("spurious attribute: worst-group accuracy")
    ax.set_ylabel("core feature: worst-group accuracy")
    if ax.get_legend_handles_labels()[1]:
        ax.legend(fontsize=8, frameon=False, loc="lower left")


def _places(line: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point["spurious_wga"] for point in line], [point["core_wga"] for point in line]


def _name(ax: Axes, line: Sequence[Point]) -> None:
    """First and last of a long line, all of a short one, as far as they stand apart."""
    placed: list[tuple[float, float]] = []
    for point in [line[0], *line[:0:-1]] if len(line) <= _MOST_NAMED else [line[0], line[-1]]:
        x, y = point["spurious_wga"], point["core_wga"]
        if any(abs(x - other_x) < 0.12 and abs(y - other_y) < 0.035 for other_x, other_y in placed):
            continue
        placed.append((x, y))
        left = x > 0.8
        ax.annotate(
            point["checkpoint"] or point["name"],
            (x, y),
            xytext=(-9 if left else 9, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            fontsize=8,
            color=MUTED,
        )


def _over_order(ax: Axes, result: Mapping[str, Any], lines: Sequence[Sequence[Point]]) -> None:
    controls = {kind: [point for point in result["points"] if point["control"] == kind] for kind in _CONTROLS}
    for key, color in (("core", ALIGNMENT), ("spurious", CENTERED)):
        start = 0
        for line in lines:
            places = range(start, start + len(line))
            values = [point[f"{key}_wga"] for point in line]
            lower = [max(0.0, value - point[f"{key}_low"]) for value, point in zip(values, line, strict=True)]
            upper = [max(0.0, point[f"{key}_high"] - value) for value, point in zip(values, line, strict=True)]
            ax.errorbar(places, values, yerr=[lower, upper], color=color, marker="o", ms=4, lw=1.4, elinewidth=0.8)
            for kind, (_, _, style) in _CONTROLS.items():
                own = [_control(controls[kind], point) for point in line]
                heights = [math.nan if control is None else control[f"{key}_wga"] for control in own]
                ends = [place - 0.5 for place in places], [place + 0.5 for place in places]
                ax.hlines(heights, *ends, color=color, linestyle=style, linewidth=1)
            start += len(line)
    chance = 1 / result["n_classes"]
    ax.axhline(chance, color=FAINT, linewidth=0.8, zorder=0)
    ax.annotate(
        "chance for y", (0.01, chance), xycoords=("axes fraction", "data"), va="bottom", fontsize=7, color=MUTED
    )
    names = [point["name"] for line in lines for point in line]
    ticks = range(0, len(names), math.ceil(len(names) / _MOST_TICKS))
    ax.set_xticks(ticks, [names[tick] for tick in ticks], rotation=45, ha="right", fontsize=8)
    ax.set_xlim(-0.6, len(names) - 0.4)
    ax.set_ylim(-0.03, 1.03)
    ax.set_ylabel("worst-group accuracy")
    keys = [Line2D([], [], color=ALIGNMENT, marker="o", ms=4, label="core feature")]
    keys += [Line2D([], [], color=CENTERED, marker="o", ms=4, label="spurious attribute")]
    keys += [
        Line2D([], [], color=INK, lw=1, ls=_CONTROLS[k][2], label=_CONTROLS[k][0]) for k in controls if controls[k]
    ]
    ax.legend(
        handles=keys,
        fontsize=8,
        frameon=False,
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=4,
        columnspacing=1.0,
        handlelength=1.6,
        handletextpad=0.5,
    )


def _control(controls: Sequence[Point], point: Point) -> Point | None:
    """That of the same layer, where there are several."""
    same = [control for control in controls if control["layer"] == point["layer"]]
    return next(iter(same or controls), None)
