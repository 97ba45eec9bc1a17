"""Figures of feature probes: core against spurious decodability with its controls, and both over layers or epochs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from matplotlib.axes import Axes

from .palette import ALIGNMENT, CENTERED, COMPARISON, FAINT, INK, MUTED, layer_colors
from .panels import panels

__all__ = ["plot_probe"]

_MOST_NAMED = 12
_CONTROLS = {"pixels": ("raw input", "x", "--"), "init": ("untrained network", "+", ":")}


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


def _lines(points: list[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """What is joined: the checkpoints of each layer, or all layers of one network."""
    shown = [point for point in points if not point["control"]]
    by_layer: dict[Any, list[Mapping[str, Any]]] = {}
    for point in shown:
        by_layer.setdefault(point["layer"] if point["checkpoint"] else None, []).append(point)
    return list(by_layer.values())


def _plane(ax: Axes, points: list[Mapping[str, Any]], lines: list[list[Mapping[str, Any]]]) -> None:
    ax.plot([0, 1], [0, 1], color=FAINT, linewidth=1, zorder=0)
    for line, color in zip(lines, layer_colors(len(lines)), strict=True):
        x, y = ([point[key] for point in line] for key in ("spurious_wga", "core_wga"))
        label = line[0]["layer"] if len(lines) > 1 else None
        ax.plot(x, y, color=color, marker="o", markersize=5, linewidth=1, label=label)
        _name(ax, line)
    for point in points:
        if point["control"]:
            words, marker, _ = _CONTROLS[point["control"]]
            of = f" ({point['layer']})" if point["control"] == "init" and len(lines) > 1 else ""
            place = (point["spurious_wga"], point["core_wga"])
            ax.plot(*place, marker, color=INK, markersize=9, mew=1.8, label=words + of, zorder=3)
    low = min(min(point["spurious_wga"], point["core_wga"]) for point in points)
    ends = (max(-0.03, math.floor(10 * low - 0.5) / 10), 1.03)
    ax.set(xlim=ends, ylim=ends, aspect="equal")
    ax.set_xlabel("spurious attribute: worst-group accuracy")
    ax.set_ylabel("core feature: worst-group accuracy")
    ax.legend(fontsize=8, frameon=False, loc="lower left")


def _name(ax: Axes, line: list[Mapping[str, Any]]) -> None:
    """First and last of a long line, all of a short one, when they stand apart."""
    ends = [line[0], line[-1]] if len(line) > 1 else line
    placed: list[tuple[float, float]] = []
    for point in [*ends, *(line[1:-1] if len(line) <= _MOST_NAMED else [])]:
        x, y = point["spurious_wga"], point["core_wga"]
        if any(abs(x - other_x) < 0.12 and abs(y - other_y) < 0.035 for other_x, other_y in placed):
            continue
        placed.append((x, y))
        left = x > 0.8
        ax.annotate(
            point["checkpoint"] or point["name"],
            (x, y),
            xytext=(-7 if left else 7, 3),
            textcoords="offset points",
            ha="right" if left else "left",
            fontsize=8,
            color=MUTED,
        )


def _over_order(ax: Axes, result: Mapping[str, Any], lines: list[list[Mapping[str, Any]]]) -> None:
    shown = [point for line in lines for point in line]
    for key, words, color in (("core", "core feature", ALIGNMENT), ("spurious", "spurious attribute", CENTERED)):
        start = 0
        for line in lines:
            places = range(start, start + len(line))
            values = [point[f"{key}_wga"] for point in line]
            lower = [max(0.0, value - point[f"{key}_low"]) for value, point in zip(values, line, strict=True)]
            upper = [max(0.0, point[f"{key}_high"] - value) for value, point in zip(values, line, strict=True)]
            label = words if start == 0 else None
            ax.errorbar(
                places, values, yerr=[lower, upper], color=color, marker="o", ms=4, lw=1.4, elinewidth=0.8, label=label
            )
            for control in _controls_of(result["points"], line):
                style = _CONTROLS[control["control"]]
                height = control[f"{key}_wga"]
                label = f"{style[0]}, {words}" if start == 0 else None
                ends = (start - 0.4, start + len(line) - 0.6)
                ax.plot(ends, (height, height), color=color, linestyle=style[2], linewidth=1, label=label)
            start += len(line)
    chance = 1 / result["n_classes"]
    ax.axhline(chance, color=COMPARISON, linewidth=0.5)
    ax.annotate("chance for y", (1.0, chance), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7)
    step = math.ceil(len(shown) / 16)
    ticks = range(0, len(shown), step)
    ax.set_xticks(ticks, [shown[tick]["name"] for tick in ticks], rotation=45, ha="right", fontsize=8)
    ax.set_ylabel("worst-group accuracy")
    ax.set_ylim(-0.03, 1.03)
    ax.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0.0, -0.28), ncols=2)


def _controls_of(points: list[Mapping[str, Any]], line: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The raw input, and the untrained network at the layer of a line."""
    controls = [point for point in points if point["control"]]
    inits = [point for point in controls if point["control"] == "init"]
    own = [point for point in inits if point["layer"] == line[0]["layer"]]
    return [point for point in controls if point["control"] == "pixels"] + (own or inits)[:1]
