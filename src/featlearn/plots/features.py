"""Figures of one feature report: alignment beside chance, spectra, directions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ..exceptions import DataError
from .alignments import AlignmentRow, alignment_rows, check_report, number
from .palette import ALIGNMENT, CENTERED, FAINT, INK, MUTED, layer_colors
from .patches import check_image_shape, first_patches

__all__ = ["SPECTRA", "plot_centered", "plot_directions", "plot_feature_report", "plot_spectra"]

SPECTRA = {
    "agop": ("agop_spectrum", "AGOP"),
    "nfm": ("nfm_spectrum", r"NFM, $W^\top W$"),
    "tangent": ("tangent_spectrum", "tangent kernel $K$"),
}
NEGLIGIBLE = 1e-8  # eigenvalues below this share of the largest are round-off in single precision
ROW = 0.26  # inches
LONGEST_NAME = 44  # characters


def plot_feature_report(report: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Bars of the neural feature ansatz, one a layer from first (top) to last, each beside its chance level.

    A bar is filled where the value is above chance by more than two standard deviations, of its own error and of the
    null's spread together, and hollow where it is not. The tick is the null with a band of two standard deviations,
    the whisker the 95% interval. Trivial layers are left out.

    Parameters
    ----------
    report : mapping
        ``FeatureReport.to_dict()``, or its JSON read back.
    ax : Axes, optional
        Drawn into; by default a new figure, as high as the layers need.

    Returns
    -------
    Axes

    Raises
    ------
    DataError
        Not a report.
    """
    about = check_report(report)["provenance"]
    statistic = "Pearson correlation" if about["statistic"] == "pearson" else "cosine"
    power = number(about["power"])
    target = "AGOP" if math.isclose(power, 1.0) else f"$\\mathrm{{AGOP}}^{{{power:g}}}$"
    return _bars(alignment_rows(report), rf"NFA: {statistic} of $W^\top W$ and {target}", ALIGNMENT, ax)


def plot_centered(report: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Bars of the centred ansatz, that of the weights' change since the reference; read like ``plot_feature_report``.

    Parameters
    ----------
    report : mapping
        ``FeatureReport.to_dict()`` of a measurement with ``reference=``.
    ax : Axes, optional
        Drawn into; by default a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    DataError
        The report was measured without a reference.
    """
    rows = alignment_rows(report, "centered")
    if not rows:
        raise DataError("Got a report without a centred ansatz. Measure with reference=, the weights before training.")
    return _bars(rows, "centred NFA: of the weights' change since the reference", CENTERED, ax)


def plot_spectra(report: Mapping[str, Any], ax: Axes | None = None, *, which: str = "agop") -> Axes:
    """Eigenvalues of one matrix in every layer on logarithmic axes, each spectrum relative to its largest eigenvalue.

    Parameters
    ----------
    report : mapping
        ``FeatureReport.to_dict()``.
    ax : Axes, optional
        Drawn into; by default a new figure.
    which : {"agop", "nfm", "tangent"}
        AGOP, ``W^T W``, or tangent kernel.

    Returns
    -------
    Axes

    Raises
    ------
    DataError
        Another ``which``, or not a report.
    """
    if which not in SPECTRA:
        raise DataError(f"Got which={which!r}, but expected one of {', '.join(SPECTRA)}.")
    key, title = SPECTRA[which]
    layers = {name: layer for name, layer in check_report(report)["layers"].items() if not layer["trivial"]}
    ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")[1] if ax is None else ax
    for color, (name, layer) in zip(layer_colors(len(layers)), layers.items(), strict=True):
        values = np.asarray(layer[key]["values"], dtype=np.float64)
        shown = values[values > NEGLIGIBLE * values.max(initial=0.0)]
        if len(shown):
            marker = "o" if len(shown) == 1 else None
            ax.loglog(np.arange(1, len(shown) + 1), shown / shown[0], color=color, lw=1.4, marker=marker, label=name)
    ax.set_xlabel("eigenvalue, by size")
    ax.set_ylabel("relative to the largest")
    ax.set_title(title, fontsize=10)
    _name_layers(ax)
    return ax


def plot_directions(
    report: Mapping[str, Any], layer: str | None = None, top: int = 8, image_shape: Sequence[int] | None = None
) -> Figure:
    """Top eigenvectors of a layer's AGOP above those of its ``W^T W``, as images of the layer's input patch.

    Each is scaled by its own largest magnitude: blue below zero, white, red above for one channel; red, green and blue
    about mid-grey for three.

    Parameters
    ----------
    report : mapping
        ``FeatureReport.to_dict()``.
    layer : str, optional
        By default the first convolution or, without one, the first layer.
    top : int, default 8
        Directions of each matrix; a report keeps at most ten.
    image_shape : tuple of int, optional
        (height, width) or (channels, height, width) of the input of a plain layer.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        Unknown layer, or directions that make no picture: too many channels, or ``image_shape`` missing or of another
        size.
    """
    layers, shape = check_report(report)["layers"], check_image_shape(image_shape)
    if top < 1:
        raise DataError(f"Got top={top}, but expected at least 1.")
    if layer is not None and layer not in layers:
        raise DataError(f"Got layer={layer!r}, but expected one of {', '.join(layers)}.")
    patches = first_patches(report, shape, top, layer)
    if patches is None:
        raise DataError(
            f"Got layer={layer!r} and image_shape={image_shape!r}, whose directions make no picture. Name a 2-D "
            "convolution with at most four input channels, or a plain layer with the image_shape of its input."
        )
    rows = (("AGOP", patches.agop), ("$W^\\top W$", patches.nfm))
    count = max(1, *(len(images) for _, images in rows))
    height, width = (patches.agop or patches.nfm)[0].shape[:2]
    side = min(1.0, 9.0 / count)
    size = (0.9 + side * count, 0.5 + 2 * (side * height / width + 0.1))
    figure, grid = plt.subplots(2, count, figsize=size, squeeze=False, layout="constrained")
    for axes, (label, images) in zip(grid, rows, strict=True):
        axes[0].text(-0.15, 0.5, label, transform=axes[0].transAxes, ha="right", va="center", fontsize=9)
        for axis in axes:
            axis.set_axis_off()
        for axis, image in zip(axes, images, strict=False):
            axis.imshow(image, interpolation="nearest")
    figure.suptitle(f"{_short(patches.layer)}: top directions, largest eigenvalue first", fontsize=10)
    return figure


def _bars(rows: Sequence[AlignmentRow], title: str, color: str, ax: Axes | None) -> Axes:
    """Horizontal bars: names stay readable however long or many they are."""
    if ax is None:
        ax = plt.subplots(figsize=(7.5, 1.5 + ROW * max(2, len(rows))), layout="constrained")[1]
    for place, row in enumerate(rows):
        filled = row.verdict == "above"
        ax.barh(place, row.value, height=0.62, color=color if filled else "none", edgecolor=color, linewidth=1.0)
        if math.isfinite(row.null_sd):
            ax.barh(place, 4 * row.null_sd, left=row.band[0], height=0.86, color=FAINT, alpha=0.75)
        ax.plot([row.null, row.null], [place - 0.43, place + 0.43], color=INK, lw=1.6, solid_capstyle="butt")
        if math.isfinite(row.low) and math.isfinite(row.high):
            about = [[max(0.0, row.value - row.low)], [max(0.0, row.high - row.value)]]
            ax.errorbar(row.value, place, xerr=about, color=INK, elinewidth=1.0, capsize=2.5)
        if not math.isfinite(row.value):
            ax.text(0.0, place, "  undefined", va="center", fontsize=8, color=MUTED)
    shown = [x for row in rows for x in row.extent]
    low, high = min([0.0, *shown]), max([1.0, *shown])
    ax.set_xlim(low - (0.02 if low < 0 else 0.0), high + 0.01)
    ax.axvline(0.0, color=MUTED, lw=0.6)
    ax.set_yticks(range(len(rows)), [_short(row.layer) for row in rows], fontsize=8)
    ax.set_ylim(max(len(rows), 1) - 0.4, -0.6)
    ax.set_title(title, fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    if not rows:
        ax.text(0.5, 0.5, "no layer to compare with chance", transform=ax.transAxes, ha="center", color=MUTED)
    ax.legend(handles=_legend(color), fontsize=8, frameon=False, ncols=5, columnspacing=1.2, loc="upper right")
    _move_legend_below_ticks(ax)
    return ax


def _legend(color: str) -> list[Patch | Line2D]:
    return [
        Patch(facecolor=color, edgecolor=color, label="above chance"),
        Patch(facecolor="none", edgecolor=color, label="not above chance"),
        Line2D([], [], color=INK, marker="|", markersize=9, ls="none", markeredgewidth=1.6, label="chance"),
        Patch(facecolor=FAINT, label="± 2 sd"),
        Line2D([], [], color=INK, lw=1.0, marker="|", markersize=5, label="95% interval"),
    ]


def _move_legend_below_ticks(ax: Axes) -> None:
    """A fixed distance in points, whatever the height of the figure."""
    legend = ax.get_legend()
    if legend is not None:
        inches = ax.get_window_extent().height / ax.figure.dpi
        legend.set_bbox_to_anchor((1.0, -0.22 / max(inches, 0.5)), transform=ax.transAxes)


def _name_layers(ax: Axes) -> None:
    """A legend that stays readable: every layer while they are few, else the first, middle and last."""
    handles, names = ax.get_legend_handles_labels()
    if len(handles) > 12:
        chosen = sorted({0, len(handles) // 4, len(handles) // 2, 3 * len(handles) // 4, len(handles) - 1})
        handles, names = [handles[i] for i in chosen], [names[i] for i in chosen]
    if handles:
        ax.legend(handles, [_short(name) for name in names], fontsize=7, frameon=False)


def _short(name: str) -> str:
    """A long name keeps its two ends, which tell layers apart."""
    half = LONGEST_NAME // 2 - 1
    return name if len(name) <= LONGEST_NAME else f"{name[:half]}…{name[-half:]}"
