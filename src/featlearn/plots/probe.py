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

    Hollow markers are probes that say the same of every row, whose worst group is 0.

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
        hollow = [point for point in line if _is_constant(point)]
        ax.plot(*_places(hollow), "o", color=color, markerfacecolor="white", markersize=5)
    for kind, (words, marker, style) in _CONTROLS.items():
        controls = [point for point in points if point["control"] == kind]
        if len(controls) > 1 and len(lines) == 1:  # the untrained network layer by layer: a path of its own
            ax.plot(*_places(controls), color=INK, linestyle=style, linewidth=0.8)
        inks = colors if len(controls) == len(lines) > 1 else [INK] * len(controls)
        for point, ink in zip(controls, inks, strict=True):
            ax.plot(*_places([point]), marker, color=ink, markersize=9, mew=1.8, zorder=3)
        if controls:
            label = f"{words} (by layer)" if len(controls) > 1 else words
            ax.plot([], [], marker, color=INK, markersize=9, mew=1.8, label=label)
    low = min(min(point["spurious_wga"], point["core_wga"]) for point in points)
    ends = (max(-0.03, math.floor(10 * low - 0.5) / 10), 1.03)
    ax.set(xlim=ends, ylim=ends, aspect="equal")
    _name_all(ax, points, lines, ends[1] - ends[0])
    ax.set_xlabel("spurious attribute: worst-group accuracy")
    ax.set_ylabel("core feature: worst-group accuracy")
    if ax.get_legend_handles_labels()[1]:
        ax.legend(fontsize=8, frameon=False, loc="lower left")


def _places(line: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point["spurious_wga"] for point in line], [point["core_wga"] for point in line]


def _is_constant(point: Point) -> bool:
    return bool(point["core_constant"] or point["spurious_constant"])


def _name_all(ax: Axes, points: Sequence[Point], lines: Sequence[Sequence[Point]], span: float) -> None:
    """Names of points, the most telling first, as far as they stand apart.

    Ends of lines come before what is between, and then untrained networks, where colours do not tell their layers.
    """
    ends = [point for line in lines for point in (line[0], line[-1])[: len(line)]]
    short = [point for line in lines if len(lines) == 1 and len(line) <= _MOST_NAMED for point in line[-2:0:-1]]
    inits = [point for point in points if point["control"] == "init"] if len(lines) == 1 else []
    placed = [(point["spurious_wga"], point["core_wga"]) for point in points if point["control"] == "pixels"]
    for point in [*ends, *short, *(inits if len(inits) > 1 else [])]:
        x, y = point["spurious_wga"], point["core_wga"]
        if any(abs(x - other_x) < 0.2 * span and abs(y - other_y) < 0.05 * span for other_x, other_y in placed):
            continue
        placed.append((x, y))
        left = x > 0.8
        ax.annotate(
            point["name"] if point["control"] else point["checkpoint"] or point["name"],
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
            hollow = [(place, point) for place, point in zip(places, line, strict=True) if point[f"{key}_constant"]]
            ax.plot(
                [place for place, _ in hollow], [point[f"{key}_wga"] for _, point in hollow], "o", color=color, ms=4,
                markerfacecolor="white", zorder=3,
            )  # fmt: skip
            for kind, (_, _, style) in _CONTROLS.items():
                own = [_control(controls[kind], point) for point in line]
                heights = [math.nan if control is None else control[f"{key}_wga"] for control in own]
                ends = [place - 0.5 for place in places], [place + 0.5 for place in places]
                ax.hlines(heights, *ends, color=color, linestyle=style, linewidth=1)
            start += len(line)
    label, attribute = result["names"]
    guesses = {label: result["core_chance"], attribute: result["spurious_chance"]}
    if abs(guesses[label] - guesses[attribute]) < 0.02:
        guesses = {f"{label} or {attribute}": guesses[label]}
    for what, chance in guesses.items():
        ax.axhline(chance, color=FAINT, linewidth=0.8, zorder=0)
        words = f"guesses of {what} in their worst group: {chance:.2f}"
        ax.annotate(words, (0.01, chance), xycoords=("axes fraction", "data"), va="bottom", fontsize=7, color=MUTED)
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
    if any(map(_is_constant, result["points"])):
        marking: dict[str, Any] = {"color": INK, "marker": "o", "ms": 4, "lw": 0, "markerfacecolor": "white"}
        keys.append(Line2D([], [], label="constant probe", **marking))
    ax.legend(
        handles=keys,
        fontsize=8,
        frameon=False,
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=4 if len(keys) < 5 else 3,
        columnspacing=1.0,
        handlelength=1.6,
        handletextpad=0.5,
    )


def _control(controls: Sequence[Point], point: Point) -> Point | None:
    """That of the same layer, where there are several."""
    same = [control for control in controls if control["layer"] == point["layer"]]
    return next(iter(same or controls), None)
