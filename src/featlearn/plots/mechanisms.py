"""Figures of the mechanisms between consecutive layers: curves over training, and what the change was made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from .history import grows_geometrically
from .palette import ALIGNMENT, CENTERED, COMPARISON, FAINT, INK, layer_colors
from .panels import panels

__all__ = ["plot_mechanism_terms", "plot_mechanisms"]

TURNED, GREW = math.log(2.0), math.log(1.25)  # sizes of score and rescaling from which on a pair has a label

# What the stacked bars show, from the bottom up; turned is rotation and concentration where no spectra were computed.
TERMS = (
    ("rotation", "rotation", ALIGNMENT),
    ("concentration", "concentration", COMPARISON),
    ("rescaling", "rescaling", CENTERED),
)


def plot_mechanisms(result: Mapping[str, Any], ax: Axes | Iterable[Axes] | None = None) -> list[Axes]:
    """c/cmax (c without spectra) and the growth of n over the steps, and the three terms of every pair.

    Parameters
    ----------
    result : mapping
        ``LayerMechanisms.to_dict()``.
    ax : Axes or three Axes, optional
        Drawn into; one Axes gets the terms alone. By default a new figure.

    Returns
    -------
    list of Axes

    Raises
    ------
    DataError
        Another number of Axes.
    """
    axes = panels(ax, 3, (12.0, 3.8))
    if len(axes) == 3:
        _curves(axes[0], result, _turned)
        axes[0].set_ylabel(r"$c\,/\,c_{\max}$" if _has_spectra(result["pairs"]) else r"$c$")
        axes[0].set_ylim(0.0, 1.02)
        _curves(axes[1], result, _grown)
        axes[1].set_ylabel(r"$n$ relative to the first step")
        growth = [value for pair in result["pairs"] for value in _grown(pair) if value > 0]
        if growth and max(growth) > 10 * min(growth):
            axes[1].set_yscale("log")
        axes[1].legend(fontsize=8, frameon=False)
    plot_mechanism_terms(result["pairs"], axes[-1])
    return axes


def plot_mechanism_terms(pairs: Sequence[Mapping[str, Any]], ax: Axes) -> Axes:
    """Stacked bars of the three terms of the change of ``log |W_2 W_1|``, and their sum as a dot.

    Parameters
    ----------
    pairs : sequence of mapping
        ``PairMechanisms.to_dict()``; a key "label" names the bar, by default the two layers.
    ax : Axes
    """
    above, below = [0.0] * len(pairs), [0.0] * len(pairs)
    for term, label, color in TERMS:
        heights = [_finite(pair[term]) for pair in pairs]
        if term == "rotation" and not _has_spectra(pairs):
            heights, label = [_log_change(pair["cosine"]) for pair in pairs], "rotation and concentration"
        bottoms = [above[i] if height >= 0 else below[i] for i, height in enumerate(heights)]
        ax.bar(range(len(pairs)), heights, 0.6, bottom=bottoms, color=color, label=label)
        for i, height in enumerate(heights):
            above[i] += max(height, 0.0)
            below[i] += min(height, 0.0)
    totals = [pair["total"] for pair in pairs]
    ax.plot(range(len(pairs)), totals, "D", color=INK, markerfacecolor="white", markersize=5, label="sum")
    below_thresholds = any(pair["labels"] == ["kernel-like"] for pair in pairs)
    for i, pair in enumerate(pairs):
        ax.annotate(_note(pair), (i, above[i]), (0, 6), textcoords="offset points", fontsize=7, ha="center")
    ax.axhline(0.0, color=INK, linewidth=0.6)
    ax.axhspan(-GREW, GREW, color=FAINT, alpha=0.35, linewidth=0, zorder=0)
    names = [pair.get("label", f"{pair['first']} | {pair['second']}") for pair in pairs]
    turned = max(map(len, names)) * len(names) > 40
    ax.set_xticks(range(len(pairs)), names, rotation=45 if turned else 0, ha="right" if turned else "center")
    ax.set_xlim(-0.6, max(len(pairs) - 0.4, 1.6))
    ax.set_ylabel(r"change of $\log\,\|W_2 W_1\|$")
    ax.margins(y=0.12)
    ax.legend(
        fontsize=8,
        frameon=False,
        ncols=4,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        columnspacing=1.0,
        handlelength=1.2,
        title=f"kernel-like: score below {TURNED:.2f}, rescaling below {GREW:.2f}" if below_thresholds else None,
        title_fontsize=8,
        alignment="left",
    )
    return ax


def _note(pair: Mapping[str, Any]) -> str:
    """What the bars of a pair cannot show."""
    if pair["labels"] == ["kernel-like"]:
        return "kernel-\nlike"
    if pair["score"] is None or math.isnan(pair["score"]):
        return "no angle: a weight is zero" if len(pair["cosine"]) > 1 else "one state"
    if 0.0 in (pair["cosine"][0], pair["cosine"][-1]):
        return "rotation infinite:\nunits cancel"
    return "" if _known(pair["rescaling"]) else "normalised:\nno rescaling"


def _curves(ax: Axes, result: Mapping[str, Any], of: Any) -> None:
    steps, pairs = result["steps"], result["pairs"]
    for pair, color in zip(pairs, layer_colors(len(pairs)), strict=True):
        label = f"{pair['first']} | {pair['second']}"
        ax.plot(steps, of(pair), "o-", color=color, lw=1.4, markersize=3, label=label)
    if grows_geometrically(steps):
        ax.set_xscale("symlog", linthresh=1.0)
        ax.set_xlim(left=min(steps))
    ax.set_xlabel("step")


def _has_spectra(pairs: Sequence[Mapping[str, Any]]) -> bool:
    return any(value is not None and math.isfinite(value) for pair in pairs for value in pair["largest"])


def _turned(pair: Mapping[str, Any]) -> list[float]:
    if not _has_spectra([pair]):
        return [_number(c) for c in pair["cosine"]]
    return [_number(c) / _number(most) for c, most in zip(pair["cosine"], pair["largest"], strict=True)]


def _grown(pair: Mapping[str, Any]) -> list[float]:
    norms = [_number(n) for n in pair["norm"]]
    return [n / norms[0] if norms[0] else math.nan for n in norms]


def _log_change(values: Sequence[float | None]) -> float:
    first, last = _number(values[0]), _number(values[-1])
    return math.log(last / first) if first > 0 and last > 0 else 0.0


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _finite(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else 0.0
