"""Figure of the canonical representation relations, from a plain dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from .alignments import number
from .palette import ALIGNMENT, CENTERED, COMPARISON, MUTED

__all__ = ["plot_relations"]

_PAIRS = {"hg": ALIGNMENT, "hw": CENTERED, "gw": COMPARISON}
_SIDES = {"out": ("output", "-", "o"), "in": ("input", "--", "s")}


def plot_relations(result: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Six correlations over the layers, in order of execution: colour is the pair, dashes are the input side.

    Parameters
    ----------
    result : mapping
        ``CanonicalRelations.to_dict()``.
    ax : Axes, optional
        Drawn into; by default a new figure.
    """
    layers = result["layers"]
    if ax is None:
        ax = plt.subplots(figsize=(max(5.0, 2.5 + 0.4 * len(layers)), 3.8), layout="constrained")[1]
    for side, (label, dashes, marker) in _SIDES.items():
        for pair, color in _PAIRS.items():
            values = [number(entry[f"{side}_{pair}"]) for entry in layers.values()]
            name = f"{label}: {pair[0]} and {pair[1].upper() if pair[1] == 'w' else pair[1]}"
            ax.plot(range(len(layers)), values, dashes, color=color, marker=marker, markersize=4, lw=1.3, label=name)
    ax.set_xticks(range(len(layers)), list(layers), rotation=45, ha="right")
    ax.axhline(0.0, color=MUTED, lw=0.6)
    ax.set_title(f"Canonical representation relations ({result['n_samples']:,} samples)", fontsize=10)
    ax.legend(fontsize=8, frameon=False, ncols=2)
    return ax
