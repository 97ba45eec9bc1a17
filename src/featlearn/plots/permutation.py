"""What a tree explains beside what its search finds in noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .palette import ALIGNMENT, COMPARISON

__all__ = ["plot_permutation"]


def plot_permutation(told: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Histogram of the shares explained of permuted targets, with that of the given ones marked.

    Parameters
    ----------
    told : mapping
        ``PermutationReport.to_dict()``.
    ax : Axes, optional
        Drawn into; by default of a new figure.

    Returns
    -------
    Axes
    """
    if ax is None:
        ax = plt.subplots(figsize=(5.6, 3.2), layout="constrained")[1]
    permuted, explained = told["permuted"], told["explained"]
    low, high = min(0.0, *permuted, explained), max(1.0, *permuted, explained)
    bins = (np.arange(np.floor(low * 40), np.ceil(high * 40) + 1) / 40).tolist()
    ax.hist(permuted, bins, color=COMPARISON, edgecolor="white", lw=0.6, label=f"{len(permuted)} × permuted targets")
    ax.axvline(explained, color=ALIGNMENT, lw=2.2, label=f"given targets, p = {told['p_value']:.2g}")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlim=(bins[0] - 0.01, bins[-1] + 0.01), xlabel="share explained, price of the rules included", ylabel="fits")
    ax.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
