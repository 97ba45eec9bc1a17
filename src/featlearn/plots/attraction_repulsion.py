"""Figures of networks under weight decay: the forces on the features of a layer, and the best loss of each width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .palette import ALIGNMENT, CENTERED, COMPARISON, INK, MUTED

__all__ = ["plot_forces", "plot_plateau"]


def plot_forces(layer: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Attraction and repulsion of each sample on the two principal axes of the pre-activations of a layer.

    Parameters
    ----------
    layer : mapping
        An element of ``Forces.to_dict()["layers"]``.
    ax : Axes, optional
        Drawn into; by default a new figure.

    Returns
    -------
    Axes
    """
    ax = ax if ax is not None else plt.subplots(figsize=(5.2, 4.4), layout="constrained")[1]
    Z = np.asarray(layer["Z"], dtype=np.float64)
    axes = np.linalg.svd(Z - Z.mean(axis=1, keepdims=True), full_matrices=False)[0][:, :2].T
    points = _two_rows(axes @ Z)
    # The forces point against the gradients.
    forces = {name: _two_rows(-axes @ np.asarray(layer[name], dtype=np.float64)) for name in ("attr", "rep")}
    longest = max(float(np.linalg.norm(force, axis=0).max()) for force in forces.values())
    reach = float(np.ptp(points, axis=1).max())
    scale = 0.25 * reach / longest if longest > 0 else 1.0
    for name, color, label in (("attr", ALIGNMENT, "attraction"), ("rep", CENTERED, "repulsion")):
        arrows = scale * forces[name]
        ax.quiver(
            *points,
            *arrows,
            color=color,
            angles="xy",
            scale_units="xy",
            scale=1.0,
            width=0.006,
            label=label,
        )
    ax.plot(*points, "o", color=INK, markersize=5)
    margin = 0.3 * reach
    ax.set_xlim(points[0].min() - margin, points[0].max() + margin)
    ax.set_ylim(points[1].min() - margin, points[1].max() + margin)
    ax.set_aspect("equal", adjustable="box")
    ax.set_xlabel("first principal axis of the pre-activations")
    ax.set_ylabel("second")
    ax.set_title(f"cosine of attraction and reversed repulsion: {layer['cosine']:.2f}", fontsize=10)
    ax.legend(fontsize=8, frameon=False)
    return ax


def _two_rows(rows: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A layer of one neuron has one axis only."""
    return rows if len(rows) == 2 else np.concatenate([rows, np.zeros_like(rows)])


def plot_plateau(result: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Best regularised loss over the width; small dots are the restarts, ``N^2 / 4`` dotted, the bound dashed if near.

    Widths far from fitting stand at the upper edge as triangles, with their loss.

    Parameters
    ----------
    result : mapping
        ``Plateau.to_dict()``.
    ax : Axes, optional
        Drawn into; by default a new figure.

    Returns
    -------
    Axes
    """
    ax = ax if ax is not None else plt.subplots(figsize=(5.4, 3.8), layout="constrained")[1]
    widths, decay = np.asarray(result["widths"]), result["weight_decay"]
    losses = np.asarray(result["losses"], dtype=np.float64) / decay
    best = np.asarray(result["loss"], dtype=np.float64) / decay
    ax.plot(np.repeat(widths, losses.shape[1]), losses.ravel(), ".", color=MUTED, markersize=7, label="restarts")
    ax.plot(widths, best, "o-", color=ALIGNMENT, markersize=5, linewidth=1.4, label="best")
    flagged = np.asarray(result["flagged"])
    ax.plot(
        widths[flagged], best[flagged], "o", color=ALIGNMENT, markerfacecolor="white", markersize=6,
        label="found only once" if flagged.any() else "",
    )  # fmt: skip
    ax.axvline(result["n_samples"] ** 2 / 4, color=COMPARISON, linestyle=":", linewidth=1.2, label="N² / 4")
    # Widths far from fitting would flatten the rest.
    low, high = best.min(), best[best < 1.2 * best.min()].max()
    bottom, top = low - 0.2 * (high - low) - 1e-3 * low, high + 1.2 * (high - low) + 2e-3 * low
    ax.set_ylim(bottom, top)
    for width, loss in zip(widths[best > top], best[best > top], strict=True):
        edge = ax.get_xaxis_transform()
        ax.plot(width, 0.97, "^", color=ALIGNMENT, markersize=7, transform=edge)
        ax.text(width, 0.94, f"{loss:.4g}", color=ALIGNMENT, fontsize=8, ha="center", va="top", transform=edge)
    if result["lower_bound"] / decay > bottom:
        ax.axhline(
            result["lower_bound"] / decay, color=COMPARISON, linestyle="--", linewidth=1.2, label="nuclear-norm bound"
        )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("neurons")
    ax.set_ylabel("regularised loss / weight decay")
    ax.legend(fontsize=8, frameon=False)
    return ax
