"""Figures that the solvable models share: the plane of output and kernel, and a closed form beside its simulation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ..exceptions import DataError
from .palette import ALIGNMENT, CENTERED, COMPARISON, FAINT, INK, MUTED, layer_colors
from .panels import panels

__all__ = ["plot_hyperbola", "plot_linear_net", "plot_mechanism_plane", "plot_trajectories"]

_FEW = (ALIGNMENT, CENTERED, INK, "#c2418f")
_POINTS = 200


def plot_hyperbola(
    models: Iterable[Any], ax: Axes | None = None, *, labels: Sequence[str] | None = None, normalize: bool = False
) -> Axes:
    """Output against kernel: a model's hyperbola in grey, its way from the start (dot) to the limit (star) in colour.

    Parameters
    ----------
    models : iterable
        ``Hyperbola.to_dict()``, or whatever has a ``to_dict()`` of that form; each element of a batch is one curve.
    ax : Axes, optional
        Drawn into; by default a new figure.
    labels : sequence of str, optional
        One a curve.
    normalize : bool, default False
        Draw ``omega F / kappa`` against ``Theta / kappa``, where all models move on one curve; those with kappa = 0
        are refused.

    Returns
    -------
    Axes

    Raises
    ------
    DataError
        Nothing to draw, another number of labels, or kappa = 0 with ``normalize``.
    """
    curves = [curve for model in models for curve in _curves(model)]
    if not curves:
        raise DataError("Got no models, but expected at least one Hyperbola.to_dict().")
    if labels is not None and len(labels) != len(curves):
        raise DataError(f"Got {len(labels)} labels, but expected one for each of the {len(curves)} curves.")
    if normalize:
        curves = [_normalized(curve) for curve in curves]
    ax = ax if ax is not None else plt.subplots(figsize=(5.4, 4.2), layout="constrained")[1]
    reach = max(max(abs(curve["F0"]), abs(curve["F_limit"])) for curve in curves) or 1.0
    outputs = np.linspace(-1.15 * reach, 1.15 * reach, 2 * _POINTS + 1)
    backgrounds = {(curve["kappa"], curve["omega"]) for curve in curves}
    for kappa, omega in backgrounds:
        ax.plot(outputs, np.hypot(kappa, omega * outputs), color=FAINT, linewidth=1.2, zorder=1)
    for omega in {omega for _, omega in backgrounds}:
        ax.plot(outputs, omega * np.abs(outputs), color=FAINT, linewidth=0.8, linestyle="--", zorder=1)
    for i, (curve, color) in enumerate(zip(curves, _colors(len(curves)), strict=True)):
        path = np.linspace(curve["F0"], curve["F_limit"], _POINTS)
        kernel = np.hypot(curve["kappa"], curve["omega"] * path)
        ax.plot(path, kernel, color=color, linewidth=2.6, zorder=2, label=labels[i] if labels else "")
        ax.plot(path[0], kernel[0], "o", color=color, markersize=6, zorder=3)
        ax.plot(path[-1], kernel[-1], "*", color=color, markersize=12, zorder=3)
    _name_the_ends(ax, curves, reach, room=0.07 * sum(bool(label) for label in labels or ()))
    ax.set_xlabel("output, omega F / kappa" if normalize else "output F")
    ax.set_ylabel("kernel, Theta / kappa" if normalize else "kernel Theta")
    if labels is not None:
        ax.legend(fontsize=8, frameon=False, loc="upper center")
    return ax


def _curves(model: Any) -> list[dict[str, float]]:
    numbers = model if isinstance(model, Mapping) else model.to_dict()
    names = ("F0", "F_limit", "kappa", "omega")
    columns = [np.ravel(np.asarray(numbers[name], dtype=np.float64)) for name in names]
    return [dict(zip(names, map(float, row), strict=True)) for row in zip(*columns, strict=True)]


def _normalized(curve: Mapping[str, float]) -> dict[str, float]:
    kappa, omega = curve["kappa"], curve["omega"]
    if kappa == 0:
        raise DataError("Got a model with kappa=0, which has no scale to normalize by; draw it with normalize=False.")
    return {"F0": omega * curve["F0"] / kappa, "F_limit": omega * curve["F_limit"] / kappa, "kappa": 1.0, "omega": 1.0}


def _colors(count: int) -> Sequence[str]:
    return _FEW[:count] if count <= len(_FEW) else layer_colors(count)


def _name_the_ends(ax: Axes, curves: Sequence[Mapping[str, float]], reach: float, room: float) -> None:
    top = max(np.hypot(curve["kappa"], 1.15 * reach * curve["omega"]) for curve in curves)
    ax.set_ylim(-0.08 * top, (1.13 + room) * top)  # room for the legend above the curves
    ax.text(0.5, 0.015, "lazy: flat", transform=ax.transAxes, ha="center", color=MUTED, fontsize=9)
    for side, ha in ((0.015, "left"), (0.985, "right")):
        ax.text(side, 0.965, "rich: steep", transform=ax.transAxes, ha=ha, va="top", color=MUTED, fontsize=9)


def plot_trajectories(
    closed: Mapping[str, Any],
    quantities: Mapping[str, str],
    axes: Sequence[Axes],
    *,
    simulated: Mapping[str, Any] | None = None,
) -> list[Axes]:
    """Quantities over time, one panel each: the closed form as a line, a simulation as dots.

    Parameters
    ----------
    closed : mapping
        ``Trajectory.to_dict()``.
    quantities : mapping of str to str
        Name of the quantity to the title of its panel; leading axes are drawn as several curves.
    axes : sequence of Axes
        One a quantity.
    simulated : mapping, optional
        ``Trajectory.to_dict()`` of the simulation, possibly at other times.

    Returns
    -------
    list of Axes
    """
    for ax, (name, title) in zip(axes, quantities.items(), strict=True):
        lines = _rows(closed, name)
        colors = _colors(len(lines))
        for line, color in zip(lines, colors, strict=True):
            ax.plot(closed["t"], line, color=color, linewidth=1.6)
        if simulated is not None:
            for dots, color in zip(_rows(simulated, name), colors, strict=True):
                ax.plot(simulated["t"], dots, "o", color=color, markersize=4, markerfacecolor="white")
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("time")
        ax.axhline(0.0, color=COMPARISON, linewidth=0.5, zorder=0)
    return list(axes)


def _rows(trajectory: Mapping[str, Any], name: str) -> NDArray[np.float64]:
    return np.atleast_2d(np.asarray(trajectory["values"][name], dtype=np.float64)).reshape(-1, len(trajectory["t"]))


_LINEAR_NET = {
    "F": "output F",
    "Theta": "kernel Theta",
    "cos": "cosine of the layers",
    "norm": "product of their norms",
}


def plot_linear_net(
    closed: Mapping[str, Any], simulated: Mapping[str, Any] | None = None, ax: Axes | Iterable[Axes] | None = None
) -> list[Axes]:
    """Output, kernel, cosine and norms of a two-layer linear network over time; one Axes gets the output alone."""
    axes = panels(ax, 4, (13.0, 3.2))
    quantities = dict(list(_LINEAR_NET.items())[: len(axes)])
    return plot_trajectories(closed, quantities, axes, simulated=simulated)


def plot_mechanism_plane(
    trajectories: Iterable[Mapping[str, Any]], ax: Axes | None = None, *, labels: Sequence[str] | None = None
) -> Axes:
    """Cosine of two layers against the product of their norms, from the start (dot) to the end (star).

    To the right is alignment, to the left disalignment, up and down rescaling; lines of constant output are dashed.

    Parameters
    ----------
    trajectories : iterable of mapping
        ``Trajectory.to_dict()`` with "cos" and "norm", times in increasing order; each element of a batch is a curve.
    ax : Axes, optional
        Drawn into; by default a new figure.
    labels : sequence of str, optional
        One a curve.

    Returns
    -------
    Axes

    Raises
    ------
    DataError
        Nothing to draw, or another number of labels.
    """
    curves = [
        pair
        for trajectory in trajectories
        for pair in zip(np.abs(_rows(trajectory, "cos")), _rows(trajectory, "norm"), strict=True)
    ]
    if not curves:
        raise DataError("Got no trajectories, but expected at least one.")
    if labels is not None and len(labels) != len(curves):
        raise DataError(f"Got {len(labels)} labels, but expected one for each of the {len(curves)} curves.")
    ax = ax if ax is not None else plt.subplots(figsize=(7.0, 4.2), layout="constrained")[1]
    for i, ((cos, norm), color) in enumerate(zip(curves, _colors(len(curves)), strict=True)):
        ax.plot(cos, norm, color=color, linewidth=2.2, label=labels[i] if labels else "")
        ax.plot(cos[0], norm[0], "o", color=color, markersize=6)
        ax.plot(cos[-1], norm[-1], "*", color=color, markersize=12)
    lowest, highest = min(norm.min() for _, norm in curves), max(norm.max() for _, norm in curves)
    ax.set_xlim(-0.03, 1.03)
    ax.set_ylim(lowest / 1.6, highest * 1.6)
    cosines = np.linspace(0.004, 1.03, 200)
    for product in np.geomspace(lowest / 10, highest, 7):
        ax.plot(cosines, product / cosines, color=FAINT, linewidth=0.8, linestyle="--", zorder=0)
    ax.set_yscale("log")
    ax.set_xlabel("|cosine| of the layers")
    ax.set_ylabel("product of their norms")
    if labels is not None:
        ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return ax
