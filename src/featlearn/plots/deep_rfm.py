"""Figure of a deep recursive feature machine, from a plain dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from .palette import ALIGNMENT, CENTERED

__all__ = ["plot_deep_rfm"]

# Where in a layer rows are measured, as a share of its width on the axis, and how it is marked.
_PLACES = (
    ("", 0.0, "o", "rows that enter"),
    ("_metric", 1 / 3, "v", "after the metric"),
    ("_features", 2 / 3, "^", "after random features"),
)
_MEASURES = (("nc1", "NC1: within over between", ALIGNMENT), ("nc2", "NC2: distance from a simplex", CENTERED))


def plot_deep_rfm(result: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Neural collapse through the three places of every layer, on a logarithmic axis: lower is more collapsed.

    Parameters
    ----------
    result : mapping
        ``DeepRFMResult.to_dict()``.
    ax : Axes, optional
        Drawn into; by default a new figure.
    """
    layers = result["layers"]
    if ax is None:
        ax = plt.subplots(figsize=(max(5.0, 1.5 + 0.8 * len(layers)), 4.2), layout="constrained")[1]
    for key, label, color in _MEASURES:
        at = [number + share for number in range(1, len(layers) + 1) for _, share, _, _ in _PLACES]
        values = [layer[key + suffix] for layer in layers for suffix, _, _, _ in _PLACES]
        ax.semilogy(at, values, color=color, linewidth=1, label=label)
        for place, (_, _, marker, _) in enumerate(_PLACES):
            ax.semilogy(at[place::3], values[place::3], marker, color=color, markersize=5)
    for _, _, marker, label in _PLACES:
        ax.semilogy([], [], marker, color="0.4", markersize=5, label=label)
    ax.set_xticks(range(1, len(layers) + 1))
    ax.set_xlabel("layer")
    accuracies = [layer["test_accuracy"] for layer in layers]
    shown = "" if None in accuracies else f", test accuracy {accuracies[0]:.3f} to {accuracies[-1]:.3f}"
    ax.set_title(f"{result['n_samples']} rows, {result['n_classes']} classes, {result['features']}{shown}", fontsize=10)
    ax.legend(fontsize=8, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    return ax
