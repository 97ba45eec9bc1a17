"""Figure of a group report: bars of the groups, and beside them the worst group, chance and the means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation

from ..exceptions import DataError
from .alignments import number
from .group_layout import figure_size, in_lines, interval_words, stand_upright
from .palette import ALIGNMENT, COMPARISON, FAINT, INK, MUTED, layer_colors

__all__ = ["MEANS", "method_colors", "plot_groups", "told"]

MEANS = {
    "mean_accuracy_test": "mean over\nall rows",
    "mean_accuracy_train_weighted": "mean weighted\nby training",
}
CHANCE: dict[str, Any] = {"color": INK, "markerfacecolor": "white", "markersize": 5, "zorder": 3}
# Okabe and Ito's palette and a grey, in an order that keeps neighbours apart.
_METHODS = (ALIGNMENT, "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", COMPARISON)
NARROW = 0.2  # of the room of a group: in bars narrower than this, numbers are turned
CLOSE = 0.08  # whiskers that start lower run through the number, which then gets a ground
BAR = 0.8  # of the room of a group


def plot_groups(reports: Mapping[str, Mapping[str, Any]], ax: Axes | None = None) -> Axes:
    """One bar a group and method, with intervals and n; a dashed line at guessing; worst group and means at the right.

    Parameters
    ----------
    reports : mapping of str to mapping
        ``GroupReport.to_dict()`` by method, all of the same groups; a single one may have an empty name.
    ax : Axes, optional
        Drawn into; by default a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    DataError
        No report.

    Notes
    -----
    The bar of the worst group is darker. Numbers in the bars are the values.
    """
    if not reports:
        raise DataError("Got no report, but expected at least one.")
    first = next(iter(reports.values()))
    names = [entry["label"] for entry in first["groups"]]
    if ax is None:
        ax = plt.subplots(figsize=figure_size(names, len(reports)), layout="constrained")[1]
    offsets = [(place - (len(reports) - 1) / 2) * BAR / len(reports) for place in range(len(reports))]
    for report, color, offset in zip(reports.values(), method_colors(len(reports)), offsets, strict=True):
        _bars(ax, report, color, offset, BAR / len(reports))
        _summaries(ax, report, color, offset, BAR / len(reports), len(names) + 0.5)
    _dress(ax, first, names)
    _legend(ax, reports)
    return ax


def method_colors(count: int) -> list[str]:
    """One colour a method: distinct ones while there are enough, then steps of a scale."""
    return list(_METHODS[:count]) if count <= len(_METHODS) else layer_colors(count)


def told(report: Mapping[str, Any]) -> str:
    """Information and selection in words."""
    return f"information: {report['information'] or 'not told'}; selection: {report['selection'] or 'not told'}"


def _bars(ax: Axes, report: Mapping[str, Any], color: str, offset: float, width: float) -> None:
    for place, entry in enumerate(report["groups"]):
        value, low, high = (number(entry[key]) for key in ("accuracy", "low", "high"))
        x = place + offset
        if not math.isfinite(value):
            _note(ax, x, "no rows")
            continue
        worst = entry["label"] == report["worst_group"]
        ax.bar(x, value, 0.9 * width, color=color, alpha=1.0 if worst else 0.55, linewidth=0)
        _whisker(ax, x, low, high)
        on_dark = worst and report["metric"] == "accuracy" and value > 0.15 and _is_dark(color)
        ink = "white" if on_dark and low >= CLOSE else INK
        text = _write(ax, x, 0.0, f"{value:.2f}".removeprefix("0"), ink, below=value < 0, turned=width < NARROW)
        if low < CLOSE:
            text.set_path_effects([withStroke(linewidth=3, foreground="white")])


def _summaries(ax: Axes, report: Mapping[str, Any], color: str, offset: float, width: float, start: float) -> None:
    """Worst group with its interval and the value by chance, then the means as ticks."""
    x, beside = start + offset - 0.15 * width, start + offset + 0.2 * width
    _whisker(ax, x, number(report["worst_group_low"]), number(report["worst_group_high"]))
    ax.plot(x, number(report["worst_group_accuracy"]), "o", color=color, markersize=7, zorder=3)
    ax.plot(beside, number(report["expected_min_if_equal"]), "D", **CHANCE)
    for place, key in enumerate(MEANS, start=1):
        value, x = number(report[key]), start + place + offset
        if math.isfinite(value):
            ax.plot([x - 0.45 * width, x + 0.45 * width], [value, value], color=color, linewidth=3)
            below = report["metric"] == "accuracy" and value > 0.15
            _write(ax, x, value, f"{value:.3f}".removeprefix("0"), INK, below=below, turned=width < NARROW)
        else:
            _note(ax, x, "not known")


def _write(ax: Axes, x: float, y: float, text: str, color: str, *, turned: bool, below: bool = False) -> Annotation:
    """Small text just above (or below) a place."""
    shift, side = (-4, "top") if below else (4, "bottom")
    style: dict[str, Any] = {"ha": "center", "va": side, "fontsize": 8, "color": color, "rotation": 90 * turned}
    return ax.annotate(text, (x, y), (0, shift), textcoords="offset points", **style)


def _note(ax: Axes, x: float, text: str) -> None:
    """Why nothing is drawn at a place, from the bottom of the frame."""
    frame = ax.get_xaxis_transform()
    ax.text(x, 0.015, text, transform=frame, ha="center", va="bottom", fontsize=8, color=MUTED, rotation=90)


def _is_dark(color: str) -> bool:
    red, green, blue = to_rgb(color)
    return 0.3 * red + 0.59 * green + 0.11 * blue < 0.5


def _whisker(ax: Axes, x: float, low: float, high: float) -> None:
    ax.errorbar(x, (low + high) / 2, (high - low) / 2, color=INK, elinewidth=1.2, capsize=3, linestyle="none", zorder=2)


def _dress(ax: Axes, report: Mapping[str, Any], names: Sequence[str]) -> None:
    counts = [entry["n"] for entry in report["groups"]]
    upright = stand_upright(len(names))
    labels = [f"{in_lines(name) if upright else name}\nn = {n:,}" for name, n in zip(names, counts, strict=True)]
    places = [*range(len(names)), *(len(names) + 0.5 + place for place in range(1 + len(MEANS)))]
    words = [*labels, "worst\ngroup", *MEANS.values()]
    turned: dict[str, Any] = {} if upright else {"rotation": 60, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(places, words, fontsize=9, **turned)
    ax.axvline(len(names) - 0.25, color=FAINT, linewidth=1)
    if (report["n_classes"] or 0) > 1:
        chance = 1 / report["n_classes"]
        ax.axhline(chance, color=COMPARISON, linestyle="--", linewidth=1, zorder=0)
        ax.text(
            places[-1] + 0.55,
            chance,
            f"guessing: 1/{report['n_classes']}",
            ha="right",
            va="bottom",
            fontsize=8,
            color=MUTED,
        )
    if report["metric"] == "accuracy":
        ax.set_ylim(0.0, 1.03)  # room for markers at 1
    ax.set_xlim(-0.6, places[-1] + 0.6)
    ax.set_ylabel(report["metric"])
    ax.spines[["top", "right"]].set_visible(False)


def _legend(ax: Axes, reports: Mapping[str, Mapping[str, Any]]) -> None:
    first = next(iter(reports.values()))
    handles: list[Any] = [
        Patch(color=color, label=f"{method} ({told(report)})" if method else told(report))
        for (method, report), color in zip(reports.items(), method_colors(len(reports)), strict=True)
    ]
    handles += ax.plot([], [], "D", label="worst by chance, if all groups were equal", **CHANCE)
    whisker = ax.errorbar([], [], [], color=INK, elinewidth=1.2, capsize=3, linestyle="none")
    whisker.set_label(interval_words(first["confidence"]))
    ax.legend(
        handles=[*handles, whisker],
        fontsize=8,
        frameon=False,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        borderaxespad=0.2,
    )
