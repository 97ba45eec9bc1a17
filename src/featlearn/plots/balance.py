"""Figures of the balance of layers: relative speeds before and after rescaling, and the balance of adjacent layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from .palette import ALIGNMENT, CENTERED, COMPARISON

__all__ = ["plot_balance", "plot_layer_balance"]

_MOST_NAMES = 30


def plot_layer_balance(result: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Relative speed of every layer before and after, on a logarithmic axis; without a loss, the norms.

    Parameters
    ----------
    result : mapping
        ``LayerBalance.to_dict()``.
    ax : Axes, optional
        Drawn into; by default a new figure.

    Returns
    -------
    Axes
    """
    layers = list(result["layers"].values())
    measured = all(layer["speed_before"] is not None for layer in layers)
    key, label = (
        ("speed", r"relative speed  $\eta\,\|\partial J/\partial W\|\,/\,\|W\|$")
        if measured
        else ("norm", r"$\|W\|_F$")
    )
    ax = _axes(ax, len(layers))
    before, after = [[layer[f"{key}_{when}"] for layer in layers] for when in ("before", "after")]
    ax.plot(before, "o--", color=COMPARISON, markersize=5, markerfacecolor="none", label="before")
    ax.plot(after, "o-", color=ALIGNMENT, markersize=5, label=f"after, tilt {result['tilt']:g}")
    if min(*before, *after) > 0:
        ax.set_yscale("log")
    ax.set_ylabel(label)
    _name(ax, [layer["name"] for layer in layers], "layers")
    ax.legend(fontsize=8, frameon=False)
    return ax


def plot_balance(result: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Balance of every two adjacent layers, from -1 (downstream) to 1 (upstream), and the matrix version.

    Parameters
    ----------
    result : mapping
        ``BalanceReport.to_dict()``.
    ax : Axes, optional
        Drawn into; by default a new figure.

    Returns
    -------
    Axes
    """
    pairs = result["pairs"]
    ax = _axes(ax, len(pairs))
    ax.axhline(0.0, color=COMPARISON, linewidth=0.8)
    ax.bar(range(len(pairs)), [pair["balance"] for pair in pairs], color=ALIGNMENT, width=0.6, label="squared norms")
    known = [(i, pair["matrix"]) for i, pair in enumerate(pairs) if pair["matrix"] is not None]
    if known:
        ax.plot(*zip(*known, strict=True), "D", color=CENTERED, markersize=6, label="matrices, at most 1")
        ax.legend(loc="lower left", fontsize=8, frameon=False)
    ax.set_ylim(-1.05, 1.05)
    ax.set_ylabel("downstream  < 0 <  upstream")
    _name(ax, [f"{pair['first']} | {pair['second']}" for pair in pairs], "pairs of layers")
    return ax


def _axes(ax: Axes | None, count: int) -> Axes:
    if ax is not None:
        return ax
    return plt.subplots(figsize=(min(3.6 + 0.3 * count, 9.0), 3.6), layout="constrained")[1]


def _name(ax: Axes, names: Sequence[str], what: str) -> None:
    if len(names) <= _MOST_NAMES:
        turned = max(map(len, names)) > 5
        ax.set_xticks(range(len(names)), names, rotation=45 if turned else 0, ha="right" if turned else "center")
    ax.set_xlabel(f"{what}, from the input to the output")
