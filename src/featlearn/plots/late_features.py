"""Figures of features that weight decay makes late: loss and angle over the steps, the certificate on the circle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from .palette import ALIGNMENT, CENTERED, COMPARISON, INK, MUTED

__all__ = ["plot_certificate", "plot_late_features"]

_FLOOR = 1e-9  # of the logarithmic axis: rounding below


def plot_late_features(run: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Loss and mean angle to the teacher over the steps of gradient descent; dotted: the weight decay changes.

    Parameters
    ----------
    run : mapping
        Lists "step", "loss", "angle" and "decay" of the columns of ``LateFeatures.frame()``.
    ax : Axes, optional
        Drawn into; by default a new figure.

    Returns
    -------
    Axes
    """
    ax = ax if ax is not None else plt.subplots(figsize=(6.4, 4.0), layout="constrained")[1]
    step, decay = np.asarray(run["step"]), np.asarray(run["decay"])
    for key, color, label in (("angle", ALIGNMENT, "angle to the teacher, radians"), ("loss", CENTERED, "loss")):
        ax.plot(step, np.maximum(run[key], _FLOOR), color=color, linewidth=1.8, label=label)
    ax.set_yscale("log")
    ends = np.flatnonzero(np.diff(decay) != 0)
    for place in step[ends]:
        ax.axvline(place, color=COMPARISON, linewidth=0.8, linestyle=":")
    for first, last in zip(np.append(0, ends + 1), np.append(ends, len(step) - 1), strict=True):
        middle = (step[first] + step[last]) / 2
        ax.text(
            middle, 1.01, f"{decay[last]:g}", transform=ax.get_xaxis_transform(), ha="center", color=MUTED, fontsize=8
        )
    ax.set_title("weight decay", fontsize=9, color=MUTED, pad=16)
    ax.set_xlabel("step of gradient descent")
    ax.legend(fontsize=8, frameon=False)
    return ax


def plot_certificate(result: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """What a new neuron of each direction would find, over the half circle, within the band of the weight decay.

    Parameters
    ----------
    result : mapping
        "angles" and "certificate" of the curve; "decay"; "teachers", their angles; "neurons", their angles, with their
        "mass" and the certificate "at_neurons".
    ax : Axes, optional
        Drawn into; by default a new figure.

    Returns
    -------
    Axes
    """
    ax = ax if ax is not None else plt.subplots(figsize=(5.6, 3.8), layout="constrained")[1]
    decay = result["decay"]
    ax.axhspan(
        -decay,
        decay,
        color=COMPARISON,
        alpha=0.15,
        linewidth=0,
        label="weight decay: an optimum touches it at live neurons",
    )
    for i, angle in enumerate(result["teachers"]):
        ax.axvline(angle, color=INK, linewidth=1.0, linestyle="--", label="teachers" if i == 0 else "")
    ax.plot(result["angles"], result["certificate"], color=ALIGNMENT, linewidth=1.8)
    mass = np.abs(np.asarray(result["mass"]))
    alive = mass > 1e-3 * mass.max()
    ax.scatter(
        np.asarray(result["neurons"])[alive],
        np.asarray(result["at_neurons"])[alive],
        s=12 + 90 * mass[alive] / mass.max(),
        color=CENTERED,
        alpha=0.7,
        linewidths=0,
        zorder=3,
        label="live neurons, by mass",
    )
    ax.set_xticks(np.linspace(0, np.pi, 5), ["0", "45°", "90°", "135°", "180°"])
    ax.set_xlabel("direction of a neuron")
    ax.set_ylabel("certificate r")
    reach = max(decay, float(np.abs(result["certificate"]).max()))
    ax.set_ylim(-1.1 * reach, 1.9 * reach)  # room for the legend above the band
    ax.legend(fontsize=8, frameon=False, loc="upper left")
    return ax
