"""Figures of convolutional machines: directions as patches, where they look on images, layer after layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from .palette import ALIGNMENT, CENTERED
from .patches import patch_image

__all__ = ["plot_deep_conv_rfm", "plot_filters", "plot_saliency"]


def plot_filters(report: Mapping[str, Any]) -> Figure:
    """Leading directions of each matrix as patches, one row a matrix, with their shares and edge energies.

    Parameters
    ----------
    report : mapping
        ``EdgeReport.to_dict()``.
    """
    names = report["matrices"]
    top = max(len(report["directions"][name]) for name in names)
    shape = (report["channels"], report["patch_size"], report["patch_size"])
    # Two and four channels stand side by side.
    aspect = 1 if shape[0] in (1, 3) else shape[0]
    figure, grid = plt.subplots(
        len(names), top, figsize=(1.7 + 1.15 * aspect * top, 0.75 + 1.55 * len(names)), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for row, name in zip(grid, names, strict=True):
        numbers = zip(report["directions"][name], report["eigenvalues"][name], report["edge_energy"][name], strict=True)
        for ax, (direction, share, edge) in zip(row, numbers, strict=False):
            if share == 0:  # of a matrix that is zero there is no direction
                continue
            ax.imshow(patch_image(np.ravel(direction).tolist(), shape), interpolation="nearest")
            ax.set_xlabel(f"{share:.1%}\nedge {edge:.2f}", fontsize=8)
        for ax in row:
            ax.set_xticks([])
            ax.set_yticks([])
            for side in ax.spines.values():
                side.set_visible(False)
        row[0].set_ylabel(name, fontsize=9)
    figure.suptitle(
        "Leading directions: share of the trace, and energy in oriented derivatives\n"
        f"(a random direction has {report['chance_of_edge']:.2f})",
        fontsize=10,
    )
    return figure


def plot_saliency(
    images: Any, saliency: Any, leading: Any, sobel: Any, *, labels: Sequence[Any] | None = None
) -> Figure:
    """One row an image: the image, the machine's saliency, the leading direction's answer, the Sobel magnitude.

    Parameters
    ----------
    images : array of shape (n, c, H, W)
    saliency : array of shape (n, H, W)
    leading : array of shape (n, h, w)
        ``|u . v_p|`` of the leading direction.
    sobel : array of shape (n, H - 2, W - 2)
        Size of the Sobel gradient.
    labels : sequence of length n, optional
        Shown beside the images.
    """
    images, saliency, leading, sobel = (np.asarray(values) for values in (images, saliency, leading, sobel))
    figure, grid = plt.subplots(
        len(images), 4, figsize=(7.2, 0.6 + 1.8 * len(images)), squeeze=False, layout="constrained"
    )
    for ax, title in zip(grid[0], ("image", "saliency", "leading direction", "Sobel"), strict=True):
        ax.set_title(title, fontsize=10)
    for place, row in enumerate(grid):
        image = images[place]
        low, high = image.min(), image.max()
        shown = (image - low) / (high - low if high > low else 1.0)
        coloured = image.shape[0] == 3
        row[0].imshow(shown.transpose(1, 2, 0) if coloured else shown.mean(axis=0), cmap=None if coloured else "gray")
        for ax, values in zip(row[1:], (saliency[place], leading[place], sobel[place]), strict=True):
            ax.imshow(_framed(values, image.shape[1:]), cmap="magma")
        correlation = _correlation(leading[place], sobel[place])
        if correlation is not None:
            row[2].set_xlabel(f"correlation with Sobel {correlation:.2f}", fontsize=8)
        if labels is not None:
            row[0].set_ylabel(str(labels[place]), fontsize=9)
        for ax in row:
            ax.set_xticks([])
            ax.set_yticks([])
    return figure


def plot_deep_conv_rfm(told: Mapping[str, Any]) -> Figure:
    """One row a layer: scores of its iterates on images not seen, and the spectrum of its patch AGOP.

    Parameters
    ----------
    told : mapping
        ``DeepConvRFMClassifier.to_dict()``.
    """
    layers = told["layers"]
    figure, grid = plt.subplots(
        len(layers), 2, figsize=(8, 0.6 + 2.1 * len(layers)), squeeze=False, layout="constrained"
    )
    for place, (row, layer) in enumerate(zip(grid, layers, strict=True)):
        scores = layer["scores"]
        steps = [entry["iteration"] for entry in scores]
        # What is undefined is None in JSON.
        errors = np.nan_to_num(np.array([entry["standard_error"] for entry in scores], dtype=float))
        heights = np.array([entry["score"] for entry in scores], dtype=float)
        row[0].errorbar(steps, heights, errors, color=ALIGNMENT, marker="o", capsize=3)
        row[0].axvline(layer["iteration"], color="0.6", linewidth=1, linestyle=":", label="chosen")
        row[0].set_xticks(steps)
        height, width = layer["size"]
        name = f"layer {place + 1}\n" if len(layers) > 1 else ""
        row[0].set_ylabel(f"{name}{layer['channels']} x {height} x {width}", fontsize=9)
        shares = layer["shares"]
        row[1].bar(range(1, len(shares) + 1), shares, color=CENTERED)
        row[1].set_ylim(bottom=0)
    grid[0][0].legend(fontsize=8, frameon=False)
    grid[0][0].set_title("error on images not seen", fontsize=10)
    grid[0][1].set_title("shares of the AGOP's trace", fontsize=10)
    grid[-1][0].set_xlabel("AGOP step")
    grid[-1][1].set_xlabel("direction")
    return figure


def _framed(values: Any, size: tuple[int, int]) -> Any:
    """A map of windows in the middle of its image, so that places agree; nothing is drawn around it."""
    framed = np.full(np.maximum(size, values.shape), np.nan)
    top, left = ((np.array(framed.shape) - values.shape) // 2).tolist()
    framed[top : top + values.shape[0], left : left + values.shape[1]] = values
    return framed


def _correlation(first: Any, second: Any) -> float | None:
    """Pearson correlation of two maps, each cut to the middle they share; None where one of them is constant."""
    h, w = min(first.shape[0], second.shape[0]), min(first.shape[1], second.shape[1])
    cut = [
        values[(values.shape[0] - h) // 2 :, (values.shape[1] - w) // 2 :][:h, :w].ravel() for values in (first, second)
    ]
    return None if any(np.ptp(values) == 0 for values in cut) else float(np.corrcoef(cut)[0, 1])
