"""The dashboard of a diagnosis: regime, weights, balance of the units, and mechanisms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from ..exceptions import DataError
from .mechanisms import plot_mechanism_terms
from .palette import ALIGNMENT, CENTERED, COMPARISON, FAINT, INK, MUTED

__all__ = ["plot_diagnosis", "plot_regime"]

FLOOR = 1e-5  # of both logarithmic axes: what is smaller, or zero, stands on it
MOST_BARS = 24


def plot_diagnosis(result: Mapping[str, Any], ax: Axes | Iterable[Axes] | None = None) -> list[Axes]:
    """Four panels: regime, relative change of the weights, balance of the units, mechanisms.

    Parameters
    ----------
    result : mapping
        ``Diagnosis.to_dict()``.
    ax : Axes or four Axes, optional
        Drawn into; one Axes gets the regime alone. By default a new figure.

    Returns
    -------
    list of Axes

    Raises
    ------
    DataError
        Another number of Axes.
    """
    if ax is None:
        figure, grid = plt.subplots(2, 2, figsize=(10.0, 7.2), layout="constrained")
        axes = list(grid.flat)
        words = [word for word in (result["regime"] or "regime unknown", result["run_kind"]) if word]
        figure.suptitle(", ".join(words), fontsize=12)
    else:
        axes = [ax] if isinstance(ax, Axes) else list(ax)
    if len(axes) not in (1, 4):
        raise DataError(f"Got {len(axes)} Axes, but expected one or four.")
    plot_regime(result, axes[0])
    if len(axes) == 4:
        _moved(result["evidence"]["weights_moved"]["parts"], axes[1])
        _balance(result["evidence"], axes[2])
        _mechanisms(result["mechanisms"], axes[3])
    return axes


def plot_regime(result: Mapping[str, Any], ax: Axes) -> Axes:
    """The run in the plane of kernel distance and Hamming distance, with its way there if it was recorded."""
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(FLOOR, 1.4)
    ax.set_ylim(FLOOR, 1.4)
    ax.fill_between([FLOOR, 0.01], FLOOR, 0.03, color=FAINT, alpha=0.6, linewidth=0)
    ax.axvspan(0.05, 1.4, color=ALIGNMENT, alpha=0.1, linewidth=0)
    ax.text(1.6e-5, 1.6e-5, "lazy", color=MUTED, fontsize=9)
    ax.text(0.056, 1.6e-5, "feature\nlearning", color=ALIGNMENT, fontsize=9)
    rows = [row for row in result["history"] if _known(row["kernel_distance"]) and _known(row["hamming"])]
    if len(rows) > 1:
        rows = [row for row in rows if row["kernel_distance"] > 0 or row["hamming"] > 0] or rows[-1:]  # not the start
    if rows:
        x, y = ([max(row[key], FLOOR) for row in rows] for key in ("kernel_distance", "hamming"))
        ax.plot(x, y, "-", color=INK, lw=1.2)
        ax.plot(x[:-1], y[:-1], "o", color=INK, markersize=3)
        ax.plot(x[-1], y[-1], "*", color=CENTERED, markersize=13)
    else:
        ax.text(0.5, 0.5, "not measured: no inputs", transform=ax.transAxes, ha="center", color=MUTED)
    ax.set_xlabel("kernel distance from the start")
    ax.set_ylabel("Hamming distance of activation signs")
    return ax


def _moved(parts: Mapping[str, float], ax: Axes) -> None:
    shown = list(parts.items())[:MOST_BARS]
    values = [value if _known(value) else math.nan for _, value in shown]
    ax.barh(range(len(shown)), values, color=ALIGNMENT, height=0.6)
    ax.set_yticks(range(len(shown)), [name for name, _ in shown], fontsize=8)
    ax.set_ylim(max(len(shown), 4) - 0.4, -0.6)
    ax.axvline(1.0, color=COMPARISON, lw=0.8, ls="--")
    positive = [value for value in values if value > 0]
    if positive and max(positive) > 30 * min(positive):
        ax.set_xscale("log")
    ax.set_xlabel(r"$\|W - W_0\|\,/\,\|W_0\|$")


def _balance(evidence: Mapping[str, Any], ax: Axes) -> None:
    start, end = (evidence[f"balance_{when}"]["parts"] for when in ("start", "end"))
    if not start:
        return _say(ax, evidence["balance_start"]["reason"] or "no balance")
    names = list(start)[:MOST_BARS]
    rows = range(len(names))
    ax.axvspan(0.5, 1.05, color=FAINT, alpha=0.5, linewidth=0)
    ax.axvspan(-1.05, -0.5, color=FAINT, alpha=0.5, linewidth=0)
    ax.axvline(0.0, color=COMPARISON, lw=0.8)
    for row, name in zip(rows, names, strict=True):
        ax.plot([start[name], end[name]], [row, row], color=INK, lw=1)
    ax.plot([start[name] for name in names], rows, "o", color=INK, markerfacecolor="white", label="start")
    ax.plot([end[name] for name in names], rows, "*", color=CENTERED, markersize=11, label="end")
    ax.set_yticks(rows, names, fontsize=8)
    ax.set_ylim(max(len(names), 2) - 0.4, -0.6)
    ax.set_xlim(-1.05, 1.05)
    ax.set_xlabel("balance of the units: downstream < 0 < upstream")
    ax.legend(fontsize=8, frameon=False, loc="lower right")


def _mechanisms(mechanisms: Mapping[str, Any] | None, ax: Axes) -> None:
    if mechanisms is None:
        return _say(ax, "no two consecutive layers")
    pairs: Sequence[Mapping[str, Any]] = mechanisms["pairs"]
    plot_mechanism_terms(pairs, ax)


def _say(ax: Axes, why: str) -> None:
    ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", color=MUTED, wrap=True)
    ax.set_axis_off()


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
