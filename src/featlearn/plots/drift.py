"""Figures of what changed since a reference, and of neural collapse, from plain dictionaries."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from .palette import ALIGNMENT, CENTERED, COMPARISON, layer_colors

__all__ = ["plot_collapse", "plot_kernel_drift", "plot_lazy_rich"]

_CHANGES = (
    ("weight_change", "weights: relative change"),
    ("feature_change", "features: relative change"),
    ("pattern_distance", "activation pattern: share of switched units"),
    ("cka", "features: CKA with the reference"),
)


def _axes(ax: Axes | None, width: float) -> Axes:
    return plt.subplots(figsize=(width, 3.6), layout="constrained")[1] if ax is None else ax


def plot_lazy_rich(result: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Four curves over the layers, in order of execution: near zero (CKA near one) is lazy.

    Parameters
    ----------
    result : mapping
        ``LazyRich.to_dict()``.
    ax : Axes, optional
        Drawn into; by default a new figure.
    """
    names = list(result["layers"])
    ax = _axes(ax, max(5.0, 1.5 + 0.4 * len(names)))
    for (key, label), color in zip(_CHANGES, [*layer_colors(3), COMPARISON], strict=True):
        values = [entry[key] for entry in result["layers"].values()]
        shown = [math.nan if value is None else value for value in values]
        ax.plot(range(len(names)), shown, marker="o", markersize=4, color=color, label=label)
    ax.set_xticks(range(len(names)), names, rotation=45, ha="right")
    ax.axhline(1.0, color=COMPARISON, linewidth=0.5)
    ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    ax.set_title(f"Change since the reference ({result['n_samples']} samples)", fontsize=10)
    ax.legend(fontsize=8, frameon=False)
    return ax


def plot_kernel_drift(result: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Kernel distances, and the alignment with the targets before and after, with the loss in the title.

    Parameters
    ----------
    result : mapping
        ``KernelDrift.to_dict()``.
    ax : Axes, optional
        Drawn into; by default a new figure.
    """
    bars = (
        ("distance", "distance", ALIGNMENT),
        ("distance_centered", "distance,\ncentred", ALIGNMENT),
        ("alignment", "alignment", CENTERED),
        ("reference_alignment", "alignment,\nreference", COMPARISON),
    )
    shown = [bar for bar in bars if result[bar[0]] is not None]
    ax = _axes(ax, 5.0)
    ax.bar([bar[1] for bar in shown], [result[bar[0]] for bar in shown], color=[bar[2] for bar in shown])
    loss = "" if result["loss"] is None else f", loss {result['reference_loss']:.3g} to {result['loss']:.3g}"
    ax.set_title(f"Tangent kernel of {result['n_samples']} samples{loss}", fontsize=10)
    return ax


def plot_collapse(result: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Distances from neural collapse on a logarithmic axis: lower is more collapsed.

    Parameters
    ----------
    result : mapping
        ``NeuralCollapse.to_dict()``.
    ax : Axes, optional
        Drawn into; by default a new figure.
    """
    names = {
        "nc1_trace": "scatter\n(traces)",
        "nc1": "scatter\n(directions)",
        "nc2": "means from\na simplex",
        "nc2_orthogonal": "means from\northogonal",
    }
    values = {name: result[name] for name in names}
    shown = {name: value for name, value in values.items() if value is not None and value > 0}
    ax = _axes(ax, 5.0)
    ax.bar([names[name] for name in shown], list(shown.values()), color=ALIGNMENT)
    if shown:
        ax.set_yscale("log")
    agreement = result["ncc"]
    nearest = "" if agreement is None or math.isnan(agreement) else f", nearest centre {100 * agreement:.1f}%"
    ax.set_title(f"{result['n_classes']} classes, {result['n_samples']} samples{nearest}", fontsize=10)
    return ax
