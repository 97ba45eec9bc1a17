"""Figures of one linear neuron: the path of its function, output against kernel, and both layers over time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from .palette import ALIGNMENT, CENTERED, COMPARISON, FAINT, INK
from .panels import panels

__all__ = ["balance_colors", "plot_implicit_bias", "plot_single_neuron"]

Floats = NDArray[np.float64]

_MOST_NAMED = 8
_ZERO = 1e-12


def balance_colors(delta: Iterable[float]) -> list[str]:
    """Orange downstream, dark when balanced, blue upstream, deeper the farther from balance; ``#rrggbb`` each."""
    values = np.asarray(list(delta), dtype=np.float64)
    # Small differences of balance matter as much as large ones: the square root spreads them.
    place = np.sign(values) * np.sqrt(np.abs(values) / (np.abs(values).max(initial=0.0) or 1.0))
    stops = np.array([to_rgb(CENTERED), to_rgb(INK), to_rgb(ALIGNMENT)])
    red, green, blue = (np.interp(place, [-1, 0, 1], stops[:, k]) for k in range(3))
    return [to_hex(color) for color in zip(red, green, blue, strict=True)]


def plot_single_neuron(
    model: Mapping[str, Any],
    closed: Mapping[str, Any],
    simulated: Mapping[str, Any] | None = None,
    ax: Axes | Iterable[Axes] | None = None,
) -> list[Axes]:
    """Path of beta in the plane of the target and the initial weights; kernel against output; layers over time.

    Parameters
    ----------
    model : mapping
        ``SingleNeuron.to_dict()``; each element of a batch is one colour, by its balance.
    closed : mapping
        ``Trajectory.to_dict()`` of the closed form, times in increasing order: lines.
    simulated : mapping, optional
        ``Trajectory.to_dict()`` of the simulation: dots.
    ax : Axes or three Axes, optional
        Drawn into; one Axes gets the path alone. By default a new figure.

    Returns
    -------
    list of Axes

    Raises
    ------
    DataError
        Another number of Axes.
    """
    axes = panels(ax, 3, (13.0, 4.0))
    deltas = np.ravel(np.asarray(model["delta"], dtype=np.float64))
    curves = [_curve(model, closed, i) for i in range(len(deltas))]
    dots = [_curve(model, simulated, i) for i in range(len(deltas))] if simulated is not None else [None] * len(deltas)
    for color, delta, curve, points in zip(balance_colors(deltas), deltas, curves, dots, strict=True):
        _plane(axes[0], curve, points, color, f"{delta if abs(delta) > _ZERO else 0.0:.2g}")
        if len(axes) == 3:
            _kernel(axes[1], curve, points, color)
            _layers(axes[2], curve, points, color)
    _finish(axes, curves)
    return axes


def _curve(model: Mapping[str, Any], trajectory: Mapping[str, Any], i: int) -> dict[str, Floats]:
    """Of one element of the batch: beta along the target and across it, its kernel, and the sizes of the layers."""
    w0, target = (np.asarray(model[name], dtype=np.float64) for name in ("w0", "target"))
    n, T = w0.shape[-1], len(trajectory["t"])
    w0, target = w0.reshape(-1, n)[i], target.reshape(-1, n)[i]
    eta_a, eta_w = (np.ravel(np.asarray(model[name], dtype=np.float64))[i] for name in ("eta_a", "eta_w"))
    a = np.asarray(trajectory["values"]["a"], dtype=np.float64).reshape(-1, T)[i]
    w = np.asarray(trajectory["values"]["w"], dtype=np.float64).reshape(-1, n, T)[i]
    size = float(np.linalg.norm(target))
    unit = target / size if size > 0 else target
    across = w0 - (w0 @ unit) * unit
    length = float(np.linalg.norm(across))
    across = across / length if length > 0 else across
    norm = np.linalg.norm(w, axis=0)
    return {
        "t": np.asarray(trajectory["t"], dtype=np.float64),
        "along": a * (unit @ w),
        "across": a * (across @ w),
        "target": np.array(size),
        "output": a * norm,
        "kernel": eta_w * a**2 + eta_a * norm**2,
        "delta": np.array(np.ravel(np.asarray(model["delta"], dtype=np.float64))[i]),
        "omega": np.array(2 * np.sqrt(eta_a * eta_w)),
        "a": a,
        "w": norm,
    }


def _plane(ax: Axes, curve: Mapping[str, Floats], points: Mapping[str, Floats] | None, color: str, name: str) -> None:
    ax.plot(curve["along"], curve["across"], color=color, linewidth=1.8, label=name)
    ax.plot(curve["along"][0], curve["across"][0], "o", color=color, markersize=6)
    ax.plot(float(curve["target"]), 0.0, "*", color=INK, markersize=13, zorder=4)
    if points is not None:
        ax.plot(points["along"], points["across"], "o", color=color, markersize=4, markerfacecolor="white")


def _kernel(ax: Axes, curve: Mapping[str, Floats], points: Mapping[str, Floats] | None, color: str) -> None:
    reach = 1.1 * max(float(np.abs(curve["output"]).max()), float(curve["target"]))
    outputs = np.linspace(-reach, reach, 301)
    kernel = np.hypot(float(curve["delta"]), float(curve["omega"]) * outputs)
    ax.plot(outputs, kernel, color=FAINT, linewidth=1.0, zorder=1)
    ax.plot(curve["output"], curve["kernel"], color=color, linewidth=2.2, zorder=2)
    ax.plot(curve["output"][0], curve["kernel"][0], "o", color=color, markersize=6, zorder=3)
    ax.plot(curve["output"][-1], curve["kernel"][-1], "*", color=color, markersize=12, zorder=3)
    if points is not None:
        ax.plot(points["output"], points["kernel"], "o", color=color, markersize=4, markerfacecolor="white")


def _layers(ax: Axes, curve: Mapping[str, Floats], points: Mapping[str, Floats] | None, color: str) -> None:
    later = curve["t"] > 0
    for name, style, face in (("w", "-", "white"), ("a", "--", color)):
        ax.plot(curve["t"][later], curve[name][later], style, color=color, linewidth=1.6)
        if points is not None:
            shown = points["t"] > 0
            ax.plot(points["t"][shown], points[name][shown], "o", color=color, markersize=3.5, markerfacecolor=face)


def _finish(axes: list[Axes], curves: list[dict[str, Floats]]) -> None:
    plane = axes[0]
    plane.set_xlabel("beta along the target")
    plane.set_ylabel("beta across it, along the initial w")
    plane.axhline(0.0, color=COMPARISON, linewidth=0.5, zorder=0)
    plane.set_title("from the start (dot) to the target (star)", fontsize=10)
    plane.set_aspect("equal", adjustable="datalim")
    if len(curves) <= _MOST_NAMED:
        place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.17), "ncols": len(curves)}
        plane.legend(title="delta", fontsize=8, title_fontsize=8, frameon=False, columnspacing=1.0, **place)
    if len(axes) == 3:
        axes[1].set_xlabel("output, sign(a) |beta|")
        axes[1].set_ylabel("kernel, eta_w a² + eta_a |w|²")
        axes[1].set_ylim(bottom=0.0)
        axes[1].set_title("each on its own hyperbola", fontsize=10)
        axes[2].set_xscale("log")
        axes[2].set_xlabel("time")
        axes[2].axhline(0.0, color=COMPARISON, linewidth=0.5, zorder=0)
        axes[2].set_title("|w| (line), a (dashed)", fontsize=10)


def plot_implicit_bias(result: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Coefficients at the end of training beside those of the solution of least norm; features count from 0.

    Parameters
    ----------
    result : mapping
        ``ImplicitBias.to_dict()`` and ``delta``, the balance of each start; each element of a batch is one colour.
    ax : Axes, optional
        Drawn into; by default a new figure.

    Returns
    -------
    Axes
    """
    axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")[1] if ax is None else ax
    beta, least = (np.asarray(result[name], dtype=np.float64) for name in ("beta", "min_norm"))
    features = np.arange(beta.shape[-1])
    beta, least = beta.reshape(-1, len(features)), least.reshape(-1, len(features))
    delta = np.ravel(result["delta"])
    shift = np.linspace(-0.3, 0.3, len(beta)) if len(beta) > 1 else np.zeros(1)
    width = 0.6 / max(len(beta), 2)
    named = len(beta) <= _MOST_NAMED
    for row, start, color, by, balance in zip(beta, least, balance_colors(delta), shift, delta, strict=True):
        axes.bar(features + by, start, width, color=FAINT, zorder=1)
        label = f"end from delta = {balance:.2g}" if named else ""
        axes.plot(features + by, row, "o", color=color, markersize=5, zorder=3, label=label)
    if not named:
        axes.plot([], [], "o", color=INK, label="end of training (blue upstream, orange downstream)")
    axes.bar([0], [0], color=FAINT, label="solution of least norm")
    axes.axhline(0.0, color=COMPARISON, linewidth=0.8, zorder=2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="input feature", ylabel="coefficient")
    axes.legend(frameon=False, fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return axes
