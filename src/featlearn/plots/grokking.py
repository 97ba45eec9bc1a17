"""Figure of a machine that groks modular arithmetic, from a plain dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .palette import ALIGNMENT, CENTERED, COMPARISON

__all__ = ["plot_grokking"]

_CURVES = (
    ("test_accuracy", "test accuracy", "o-", ALIGNMENT),
    ("deviation", "deviation from circulant", "s-", CENTERED),
    ("alignment", "alignment with the last metric", "--", COMPARISON),
)


def plot_grokking(result: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Test accuracy, and how far the metric has come, over the steps of the loop.

    Parameters
    ----------
    result : mapping
        ``GrokkingResult.to_dict()``.
    ax : Axes, optional
        Drawn into; by default a new figure.
    """
    if ax is None:
        ax = plt.subplots(figsize=(6.0, 3.9), layout="constrained")[1]
    history = result["history"]
    steps = [entry["iteration"] for entry in history]
    for key, label, style, color in _CURVES:
        values = [float("nan") if entry[key] is None else float(entry[key]) for entry in history]
        if any(value == value for value in values):  # nan is unequal to itself
            ax.plot(steps, values, style, color=color, label=label, markersize=3.5)
    ax.set_ylim(-0.03, 1.03)
    ax.set_xlabel("AGOP steps")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_title(f"{result['operation']} modulo {result['p']}, {result['kernel']} kernel", fontsize=10)
    ax.legend(fontsize=8, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    return ax
