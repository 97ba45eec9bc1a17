"""Figures of weights that move or stay: their change over the width, and the cosines of neurons that group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle

from .palette import ALIGNMENT, COMPARISON, INK, diverging

__all__ = ["plot_condensation", "plot_phase_slope"]

_COLORS = ListedColormap(diverging(np.linspace(-1.0, 1.0, 256)) / 255.0)


def plot_phase_slope(result: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Relative change of the input weights over the width: one dot a network, open if it did not reach the loss.

    Parameters
    ----------
    result : mapping
        ``PhaseSlope.to_dict()``.
    ax : Axes, optional
        Drawn into; by default a new figure.

    Returns
    -------
    Axes
    """
    ax = ax if ax is not None else plt.subplots(figsize=(4.8, 3.8), layout="constrained")[1]
    rd, reached = np.asarray(result["rd"]), np.asarray(result["reached"])
    widths = np.asarray(result["widths"], dtype=np.float64)
    columns = np.broadcast_to(widths[:, np.newaxis], rd.shape)
    for chosen, face in ((reached, ALIGNMENT), (~reached, "none")):
        ax.plot(
            columns[chosen], rd[chosen], "o", color=ALIGNMENT, markerfacecolor=face, markersize=5, label="_networks"
        )
    if reached.any():
        middle, height = np.log(columns[reached]).mean(), np.log(rd[reached]).mean()
        for key, style, color, label in (
            ("slope", "-", ALIGNMENT, "fitted slope"),
            ("predicted", "--", COMPARISON, "slope at infinite width"),
        ):
            line = np.exp(height + result[key] * (np.log(widths) - middle))
            ax.plot(widths, line, style, color=color, linewidth=1.4, label=f"{label} {result[key]:+.2f}")
        ax.legend(fontsize=8, frameon=False)
    bottom, top = np.log2(rd.min()) - 0.3, np.log2(rd.max()) + 0.9  # room for the legend
    middle_of_all, half = (bottom + top) / 2, max(top - bottom, 2.6) / 2  # at least two labelled ticks
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_ylim(2.0 ** (middle_of_all - half), 2.0 ** (middle_of_all + half))
    ax.set_xlabel("width")
    ax.set_ylabel("relative change of the weights")
    ax.set_title(f"gamma {result['gam']:g}, gamma' {result['gamp']:g}: {result['regime']}", fontsize=10)
    return ax


def plot_condensation(result: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Cosines of the input weights, neurons sorted by line and orientation; lines are framed.

    Parameters
    ----------
    result : mapping
        ``Condensation.to_dict()``.
    ax : Axes, optional
        Drawn into; by default a new figure.

    Returns
    -------
    Axes
    """
    ax = ax if ax is not None else plt.subplots(figsize=(4.8, 4.0), layout="constrained")[1]
    orientations = np.asarray(result["orientations"])
    order = np.argsort(orientations, kind="stable")
    order = order[orientations[order] >= 0]
    cosine = np.asarray(result["cosine"], dtype=np.float64)[np.ix_(order, order)]
    image = ax.imshow(cosine, cmap=_COLORS, vmin=-1.0, vmax=1.0, interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, label="cosine", shrink=0.85)
    lines = np.asarray(result["lines"])[order]
    starts = np.flatnonzero(np.diff(lines, prepend=-1))
    for start, size in zip(starts, np.diff(starts, append=len(lines)), strict=True):
        if size > 1:
            ax.add_patch(Rectangle((start - 0.5, start - 0.5), size, size, fill=False, edgecolor=INK, linewidth=1.0))
    ax.set_xlabel("neuron, sorted by line and orientation")
    ax.set_title(
        f"{result['n_orientations']} orientations; in effect {result['effective_directions']:.2f} lines", fontsize=10
    )
    return ax
