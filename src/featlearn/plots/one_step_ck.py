"""Figure of one gradient step: risk against the number of samples, for steps of several sizes."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from .palette import COMPARISON, layer_colors

__all__ = ["plot_one_step"]


def plot_one_step(result: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Theory as lines, Monte Carlo as dots with one standard error, the floor of fixed kernels dashed.

    Parameters
    ----------
    result : mapping
        "ratios" of the lines, "floor", the width "N" of the dots, and "curves": each with "exponent" and "eta" of its
        step, whether it is "beyond" the theory's regime, "risk" along the ratios, and "dots" with "ratio", "risk" and
        "risk_error".
    ax : Axes, optional
        Drawn into; by default a new figure.

    Returns
    -------
    Axes
    """
    ax = ax if ax is not None else plt.subplots(figsize=(6.2, 4.2), layout="constrained")[1]
    curves = result["curves"]
    for curve, color in zip(curves, layer_colors(len(curves)), strict=True):
        ax.plot(result["ratios"], curve["risk"], color=color, linewidth=1.8, label=_step(curve))
        if curve["dots"]:
            at, risk, error = ([dot[name] for dot in curve["dots"]] for name in ("ratio", "risk", "risk_error"))
            ax.errorbar(at, risk, yerr=error, fmt="o", color=color, markersize=4.5, mfc="white", capsize=2)
    ax.axhline(result["floor"], color=COMPARISON, linewidth=1.2, linestyle="--", label="floor of fixed kernels")
    ax.set_ylim(bottom=0.0)
    ax.set_xlabel("samples per input dimension, n / d")
    ax.set_ylabel("risk")
    ax.legend(fontsize=8, frameon=False)
    return ax


def _step(curve: Mapping[str, Any]) -> str:
    if curve["exponent"] == 0:
        return "step of size 1"
    power = Fraction(curve["exponent"]).limit_denominator(16)
    return f"step of size $N^{{{power}}}$ = {curve['eta']:.3g}{', beyond the theory' if curve['beyond'] else ''}"
