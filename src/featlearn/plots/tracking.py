"""Figures of a training run: one curve a layer over the steps."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from .features import _name_layers
from .history import grows_geometrically, history_series
from .palette import MUTED, layer_colors

__all__ = ["plot_history"]

_LABELS = {
    "nfa": "NFA",
    "nfa_null": "chance level of the NFA",
    "nfa_excess": "excess over chance",
    "nfa_standard_error": "standard error of the NFA",
    "centered_nfa": "centred NFA",
}


def plot_history(history: Any, quantity: str = "nfa_excess", ax: Axes | None = None) -> Axes:
    """One curve a layer over the optimiser steps; gaps where a value is undefined.

    Parameters
    ----------
    history : DataFrame or iterable
        ``FeatureTracker.history``, its ``frame()``, or plain rows with ``step`` and ``layer`` or ``layers``.
    quantity : str, default "nfa_excess"
        A numeric column of ``FeatureTracker.frame()``.
    ax : Axes, optional
        Drawn into; by default a new figure.

    Returns
    -------
    Axes
        The steps are spaced logarithmically when they were recorded so.

    Raises
    ------
    DataError
        Empty history, or a quantity that it does not hold.
    """
    series = history_series(history, quantity)
    ax = plt.subplots(figsize=(6.4, 4.0), layout="constrained")[1] if ax is None else ax
    for color, (name, (steps, values)) in zip(layer_colors(len(series)), series.items(), strict=True):
        ax.plot(steps, values, color=color, lw=1.4, marker="o", markersize=2.5, label=name)
    steps = sorted({step for steps, _ in series.values() for step in steps})
    if grows_geometrically(steps):
        ax.set_xscale("symlog", linthresh=1.0)
        ax.set_xlim(left=min(steps))
    if quantity == "nfa_excess":
        ax.axhline(0.0, color=MUTED, lw=0.8, ls="--")
    ax.set_xlabel("optimiser step")
    ax.set_ylabel(_LABELS.get(quantity, quantity.replace("_", " ")))
    _name_layers(ax)
    return ax
