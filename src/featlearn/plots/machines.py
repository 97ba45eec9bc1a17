"""Figures of a fitted machine: which columns and directions it depends on, and among what it was chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ..exceptions import DataError
from .alignments import number
from .candidates import candidate_curves, check_machine, importance_rows
from .palette import ALIGNMENT, CENTERED, FAINT, INK, MUTED, layer_colors

__all__ = ["plot_importances", "plot_machine", "plot_scree", "plot_selection"]

TOP = 12  # columns of a figure
BEST = 5  # candidates drawn in colour
LONGEST_NAME = 26  # characters


def plot_machine(machine: Mapping[str, Any]) -> Figure:
    """Importances of the first columns, spectrum of the AGOP, and scores of the best candidates, side by side.

    Parameters
    ----------
    machine : mapping
        ``to_dict()`` of a fitted machine, or its JSON read back.

    Returns
    -------
    Figure
        Of two panels where nothing was selected.

    Raises
    ------
    DataError
        Not a machine.
    """
    selection = check_machine(machine)["selection"]
    count = 2 if selection is None else 3
    figure, axes = plt.subplots(1, count, figsize=(4.2 * count, 4.0), layout="constrained")
    plot_importances(machine, axes[0])
    plot_scree(machine, axes[1])
    if selection is not None:
        plot_selection(selection, axes[2])
    return figure


def plot_importances(machine: Mapping[str, Any], ax: Axes | None = None, *, top: int = TOP) -> Axes:
    """Bars of the importances of the ``top`` columns: shares of the diagonal of the AGOP, in standardised units."""
    rows = importance_rows(machine, top)
    ax = plt.subplots(figsize=(5.0, 1.2 + 0.27 * max(2, len(rows))), layout="constrained")[1] if ax is None else ax
    ax.barh(range(len(rows)), [share for _, share in rows], height=0.66, color=ALIGNMENT)
    ax.set_yticks(range(len(rows)), [_short(name) for name, _ in rows], fontsize=8)
    ax.set_ylim(max(len(rows), 1) - 0.4, -0.6)
    wide = max((share for _, share in rows), default=1.0) > 0.05
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0 if wide else 1))
    ax.xaxis.set_major_locator(MaxNLocator(5))
    if not rows:
        ax.text(0.5, 0.5, "no column matters to the predictor", transform=ax.transAxes, ha="center", color=MUTED)
    features = len(machine["features"])
    ax.set_title(
        "importance" if len(rows) == features else f"importance, {len(rows)} of {features} columns", fontsize=10
    )
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def plot_scree(machine: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Share of each direction in the trace of the AGOP, as bars, and of the first so many together, as a line."""
    shares = np.array([number(x) for x in check_machine(machine)["direction_shares"]])
    ax = plt.subplots(figsize=(5.0, 3.6), layout="constrained")[1] if ax is None else ax
    places = np.arange(1, len(shares) + 1)
    ax.bar(places, shares, width=0.7, color=ALIGNMENT, label="alone")
    ax.plot(
        places, np.minimum(shares.cumsum(), 1), color=INK, lw=1.3, marker="o", ms=3, label="together with those before"
    )
    ax.set_ylim(0, 1.04)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    ax.set_xlim(0.3, max(len(shares), 2) + 0.7)
    ax.set_xlabel("direction, by size")
    ax.set_title("share of the AGOP's trace", fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=8, frameon=False, loc="center right")
    return ax


def plot_selection(selection: Mapping[str, Any], ax: Axes | None = None, *, best: int = BEST) -> Axes:
    """Held-out scores of the ``best`` candidates along their iterates, with one standard error; a ring on the chosen.

    Other candidates that were scored on the same rows are grey. Those that left the race on other rows are not drawn:
    their scores do not compare. All candidates are scored on the same rows, so that differences between curves are
    surer than their error bars say.

    Parameters
    ----------
    selection : mapping
        ``Selection.to_dict()``, or its JSON read back.
    ax : Axes, optional
    best : int

    Raises
    ------
    DataError
        Not a selection.
    """
    if best < 1:
        raise DataError(f"Got best={best}, but expected at least 1.")
    curves = [curve for curve in candidate_curves(selection) if curve.finalist]
    ax = plt.subplots(figsize=(5.6, 3.8), layout="constrained")[1] if ax is None else ax
    for curve in curves[best:]:
        ax.plot(curve.steps, curve.scores, color=FAINT, lw=1.0, zorder=1)
    shown = curves[:best]
    for place, (color, curve) in enumerate(zip(layer_colors(len(shown)), shown, strict=True)):
        shift = 0.06 * (place - (len(shown) - 1) / 2)  # bars of several candidates stay apart
        steps = [step + shift for step in curve.steps]
        errors = [error if math.isfinite(error) else 0.0 for error in curve.errors]
        width = 1.6 if curve.chosen is not None else 1.1
        ax.errorbar(
            steps, curve.scores, yerr=errors, color=color, lw=width, marker="o", ms=3, elinewidth=0.8, capsize=2,
            label=curve.label, zorder=2,
        )  # fmt: skip
        if curve.chosen is not None:
            ax.plot(
                steps[curve.chosen], curve.scores[curve.chosen], "o", ms=10, mfc="none", mec=CENTERED, mew=1.6, zorder=3
            )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.set_xlabel("AGOP steps")
    ax.set_title(f"{selection['score_name']}, relative", fontsize=10)
    scores = [score for curve in curves for score in curve.scores]
    if min(scores) > 0 and max(scores) > 8 * min(scores):
        ax.set_yscale("log")
    ax.spines[["top", "right"]].set_visible(False)
    # Below the axes: above, error bars of many candidates leave no room.
    ax.legend(fontsize=7.5, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    return ax


def _short(name: str) -> str:
    """A long name keeps its two ends."""
    half = LONGEST_NAME // 2 - 1
    return name if len(name) <= LONGEST_NAME else f"{name[:half]}…{name[-half:]}"
