"""Phase diagrams: a map in colour, the lines between its phases, and parametrisations as named points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from ..exceptions import DataError
from .palette import INK, MUTED, diverging

__all__ = ["plot_phase_diagram"]

Floats = NDArray[np.float64]

_COLORS = ListedColormap(diverging(np.linspace(-1.0, 1.0, 256)) / 255.0)
_HALO = [withStroke(linewidth=2.5, foreground="white")]


def plot_phase_diagram(diagram: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """One plane of ``PhaseDiagram.to_dict()``.

    Parameters
    ----------
    diagram : mapping
        Of either plane: rho in decades over the exponents, or the slope of the weights' change over the initial scales.
    ax : Axes, optional
        Drawn into; by default a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    DataError
        Another plane.
    """
    if diagram["plane"] not in ("exponents", "initialisation"):
        raise DataError(
            f"Got a diagram of the plane {diagram['plane']!r}, but expected 'exponents' or 'initialisation'."
        )
    ax = ax if ax is not None else plt.subplots(figsize=(6.6, 5.2), layout="constrained")[1]
    x, y = (np.asarray(axis, dtype=np.float64) for axis in diagram["axes"].values())
    if diagram["plane"] == "exponents":
        _map(ax, x, y, np.log10(np.asarray(diagram["grids"]["rho"])), 3.0, "log10 of rho, the growth of the kernel")
        _exponent_lines(ax, x, y)
        ax.set_xlabel("exponent of the initial kernel, eT")
        ax.set_ylabel("exponent of what learning adds to its square, eF")
        ax.set_title(f"width {diagram['settings']['width']}, target {diagram['settings']['target']:g}", fontsize=10)
    else:
        _map(ax, x, y, np.asarray(diagram["grids"]["slope"]), 1.5, "slope: log change of the weights / log width")
        _initialisation_lines(ax, x, y)
        ax.set_xlabel("gamma: product of the initial scales falls as width^-gamma")
        ax.set_ylabel("gamma': their ratio falls as width^-gamma'")
    _dots(ax, diagram["points"], tuple(diagram["axes"]), (float(x[0]), float(x[-1])))
    ax.set_xlim(x[0], x[-1])
    ax.set_ylim(y[0], y[-1])
    return ax


def _map(ax: Axes, x: Floats, y: Floats, values: Floats, reach: float, label: str) -> None:
    image = ax.pcolormesh(
        x, y, values, cmap=_COLORS, vmin=-reach, vmax=reach, shading="nearest", rasterized=True, alpha=0.85
    )
    ax.figure.colorbar(image, ax=ax, label=label, extend="both", shrink=0.85)


def _exponent_lines(ax: Axes, x: Floats, y: Floats) -> None:
    ax.plot(x, 2 * x, color=INK, linewidth=1.6)
    # M = 0: no part of the kernel grows or vanishes, so that steps of order 1 train in a time of order 1.
    ax.plot([x[0], 0.0, 0.0], [0.0, 0.0, y[0]], color=INK, linewidth=1.6, linestyle="--")
    grid_x, grid_y = np.meshgrid(x, y)
    with plt.rc_context({"hatch.linewidth": 0.5, "hatch.color": MUTED}):
        exponent = np.maximum(grid_x, grid_y / 2)
        ax.contourf(grid_x, grid_y, exponent, levels=[0.0, np.inf], colors="none", hatches=["////"])
        ax.contourf(grid_x, grid_y, exponent, levels=[-np.inf, 0.0], colors="none", hatches=[".."])
    for text, place in {
        "feature phase": (0.03, 0.965),
        "unstable at steps of order 1": (0.30, 0.90),
        "kernel phase": (0.76, 0.06),
        "frozen at steps of order 1": (0.03, 0.06),
    }.items():
        ax.text(*place, text, transform=ax.transAxes, color=INK, fontsize=9, va="center", path_effects=_HALO)


def _initialisation_lines(ax: Axes, x: Floats, y: Floats) -> None:
    ax.plot([1.0, 1.0], [y[0], 0.0], color=INK, linewidth=1.6)
    ax.plot([1.0, x[-1]], [0.0, x[-1] - 1.0], color=INK, linewidth=1.6)
    for text, place in {"linear: weights stay": (0.03, 0.94), "condensed: weights move": (0.60, 0.06)}.items():
        ax.text(*place, text, transform=ax.transAxes, color=INK, fontsize=9, va="center", path_effects=_HALO)


def _dots(ax: Axes, points: Sequence[Mapping[str, Any]], axes: tuple[str, ...], limits: tuple[float, float]) -> None:
    labels: dict[tuple[float, float], list[str]] = {}
    for point in points:
        labels.setdefault((point[axes[0]], point[axes[1]]), []).append(point["label"])
    own = {(point[axes[0]], point[axes[1]]) for point in points if point["name"] == "mine"}
    for place, names in labels.items():
        ax.plot(*place, "D" if place in own else "o", color=INK, markersize=7, markeredgecolor="white")
        right = place[0] > 0.6 * limits[1] + 0.4 * limits[0]  # where a label to the right would leave the axes
        ax.annotate(
            "\n".join(names),
            place,
            xytext=(-6, -13) if right else (7, 5),
            ha="right" if right else "left",
            textcoords="offset points",
            fontsize=8,
            color=INK,
            path_effects=_HALO,
        )
