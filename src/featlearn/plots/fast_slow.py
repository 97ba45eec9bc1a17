"""Figures of feature unlearning: the flow's portrait with its critical manifold, and both variables over time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from .palette import ALIGNMENT, CENTERED, COMPARISON, INK, layer_colors
from .panels import panels

__all__ = ["plot_fast_slow"]

Floats = NDArray[np.float64]


def plot_fast_slow(
    curve: Mapping[str, Sequence[float]],
    path: Mapping[str, Any],
    law: Mapping[str, Any] | None = None,
    ax: Axes | Iterable[Axes] | None = None,
) -> list[Axes]:
    """Alignment against second layer, with the curve on which the alignment rests; and both over time.

    Parameters
    ----------
    curve : mapping
        "R", "A", "G" and "attracting" along the critical manifold.
    path : mapping
        ``Trajectory.to_dict()`` with "R" and "a", times in increasing order.
    law : mapping, optional
        ``Trajectory.to_dict()`` of how the alignment fades, at the same times; dashed.
    ax : Axes or two Axes, optional
        Drawn into; one Axes gets the portrait alone. By default a new figure.

    Returns
    -------
    list of Axes

    Raises
    ------
    DataError
        Another number of Axes.
    """
    axes = panels(ax, 2, (10.4, 4.0))
    _portrait(axes[0], {name: np.asarray(values) for name, values in curve.items()}, path)
    if len(axes) == 2:
        _over_time(axes[1], path, law)
    return axes


def _portrait(ax: Axes, curve: Mapping[str, Floats], path: Mapping[str, Any]) -> None:
    R, a = (np.asarray(path["values"][name]) for name in ("R", "a"))
    one_sided = bool((R >= 0).all() and (a > 0).all())
    if one_sided:
        at_full = float(curve["A"][-1])
        levels = [*a, at_full] if at_full > 0 else a
        low, high = min(levels) / 1.8, max(levels) * 1.8
        ax.set_yscale("log")
    else:
        low, high = -1.25 * np.abs(a).max(), 1.25 * np.abs(a).max()
    ax.set_xlim(-0.02 if one_sided else -1.03, 1.03)
    ax.set_ylim(low, high)
    shown = (curve["A"] > low / 1.05) & (curve["A"] < 1.05 * high) if one_sided else np.abs(curve["A"]) < 1.05 * high
    shown &= curve["R"] > (0 if one_sided else -2)
    _draw_manifold(ax, curve, shown)
    ax.plot(R, a, color=INK, linewidth=1.4, zorder=3)
    ax.plot(R[0], a[0], "o", color=INK, markersize=6, zorder=4)
    ax.plot(R[-1], a[-1], "*", color=INK, markersize=11, zorder=4)
    ax.set_xlabel("alignment R")
    ax.set_ylabel("second layer a")


def _draw_manifold(ax: Axes, curve: Mapping[str, Floats], shown: NDArray[np.bool_]) -> None:
    drawn: set[tuple[bool, bool]] = set()
    for grows, color in ((True, CENTERED), (False, ALIGNMENT)):
        for attracting, style in ((True, "-"), (False, (0, (2, 2)))):
            here = shown & ((curve["G"] > 0) == grows) & (curve["attracting"] == attracting)
            pieces = _pieces(curve["R"], curve["A"], here)
            ax.add_collection(LineCollection(pieces, colors=color, linestyles=[style], linewidths=2.2))
            if pieces:
                drawn.add((grows, attracting))
    ax.legend(handles=_legend(drawn), fontsize=8, frameon=False, loc="upper right")


def _pieces(R: Floats, A: Floats, here: NDArray[np.bool_]) -> list[Floats]:
    """Runs of the curve that belong to this kind and do not lie on both sides of a pole."""
    points = np.stack([R, A], axis=1)
    runs = np.split(
        np.arange(len(R)), np.flatnonzero((np.diff(here.astype(int)) != 0) | (np.diff(np.sign(R)) != 0)) + 1
    )
    return [points[run] for run in runs if len(run) > 1 and here[run[0]]]


def _legend(drawn: set[tuple[bool, bool]]) -> list[Line2D]:
    handles = [Line2D([], [], color=INK, marker="o", markersize=4, label="flow, from the dot to the star")]
    for grows, color, label in ((True, CENTERED, "grows"), (False, ALIGNMENT, "falls")):
        if any(kind[0] == grows for kind in drawn):
            handles.append(Line2D([], [], color=color, linewidth=2.2, label=f"alignment rests, a {label}"))
    if any(not kind[1] for kind in drawn):
        handles.append(Line2D([], [], color=COMPARISON, linewidth=2.2, linestyle=(0, (2, 2)), label="repelling"))
    return handles


def _over_time(ax: Axes, path: Mapping[str, Any], law: Mapping[str, Any] | None) -> None:
    for name, label, color in (("R", "alignment |R|", INK), ("a", "second layer |a|", layer_colors(3)[1])):
        t, values = np.asarray(path["t"]), np.abs(path["values"][name])
        ax.plot(t[t > 0], values[t > 0], color=color, linewidth=1.8, label=label)
        if law is not None:
            t, fading = np.asarray(law["t"]), np.abs(law["values"][name])
            late = t > 0.01 * t[-1]
            ax.plot(t[late], fading[late], color=COMPARISON, linewidth=1.4, linestyle="--")
    if law is not None:
        ax.plot([], [], color=COMPARISON, linewidth=1.4, linestyle="--", label="law of fading")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("time")
    ax.legend(fontsize=8, frameon=False)
