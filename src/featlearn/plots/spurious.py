"""Figures of data with a spurious attribute: examples of every group, or the core direction against the shortcut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from .palette import ALIGNMENT, CENTERED, COMPARISON

__all__ = ["plot_examples", "plot_groups"]

_EXAMPLES = 4
_MOST_POINTS = 500
# What two channels look like: both bright on black, and told apart by colour-blind readers.
_CHANNELS = np.array([[0x56, 0xB4, 0xE9], [0xE6, 0x9F, 0x00]]) / 255


def plot_examples(
    images: Any, groups: Any, names: Sequence[str], *, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """The first four images of every group in a row, with the group's name, size and share.

    Parameters
    ----------
    images : array of shape (n, C, H, W)
        From 0 to 1. One channel is grey; two are blue and orange; three are red, green and blue.
    groups : array of shape (n,)
        Numbers of groups.
    names : sequence of str
        Name of every group.
    ax : Axes, optional
        Drawn into; by default a new figure.
    title : str, optional
        Above the images.

    Returns
    -------
    Axes
    """
    images, groups = np.asarray(images), np.asarray(groups)
    height, width = images.shape[2:]
    gap = max(1, width // 8)
    labels = [_label(name, int((groups == place).sum()), len(groups)) for place, name in enumerate(names)]
    if ax is None:
        side = 1.1 * math.sqrt(width / height)  # inches of an image's width
        words = 0.09 * max(len(line) for label in labels for line in label.split("\n"))
        size = (0.3 + words + 1.1 * side * _EXAMPLES, 0.5 + 1.1 * side * len(names) * height / width)
        ax = plt.subplots(figsize=size, layout="compressed")[1]
    sheet = np.ones((len(names) * (height + gap) - gap, _EXAMPLES * (width + gap) - gap, 3))
    for place in range(len(names)):
        rows = np.flatnonzero(groups == place)
        for column, row in enumerate(rows[:_EXAMPLES]):
            top, left = place * (height + gap), column * (width + gap)
            sheet[top : top + height, left : left + width] = _colours(images[row])
    ax.imshow(sheet, interpolation="nearest")
    ax.set_yticks([place * (height + gap) + (height - 1) / 2 for place in range(len(names))], labels)
    ax.tick_params(length=0, labelsize=8.5)
    ax.set_xticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    if title:
        ax.set_title(title, fontsize=9)
    return ax


def plot_groups(
    core: Any, spurious: Any, groups: Any, names: Sequence[str], *, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Rows as points: colour is the label, filled where the spurious attribute agrees with it, a cross where not.

    Parameters
    ----------
    core, spurious : array of shape (n,)
        The two coordinates.
    groups : array of shape (n,)
        0 to 3: ``2 y + s``. At most 500 rows of each are drawn, the first ones.
    names : sequence of four str
    ax : Axes, optional
        Drawn into; by default a new figure.
    title : str, optional

    Returns
    -------
    Axes
    """
    core, spurious, groups = np.asarray(core), np.asarray(spurious), np.asarray(groups)
    ax = ax if ax is not None else plt.subplots(figsize=(5.6, 4.4), layout="constrained")[1]
    for place in (0, 3, 1, 2):  # the rare groups on top
        rows = np.flatnonzero(groups == place)
        shown = rows[:_MOST_POINTS]
        agrees = place in (0, 3)
        ax.scatter(
            core[shown], spurious[shown], s=9 if agrees else 26, marker="o" if agrees else "x", linewidths=1,
            alpha=0.5 if agrees else 1.0, color=ALIGNMENT if place < 2 else CENTERED,
            label=f"{names[place]}: n = {len(rows)} ({len(rows) / max(len(groups), 1):.1%})",
        )  # fmt: skip
    ax.axvline(0, color=COMPARISON, linewidth=0.8, linestyle="--")
    ax.set_xlabel("core direction")
    ax.set_ylabel("spurious column")
    ax.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    if title:
        ax.set_title(title, fontsize=9)
    return ax


def _label(name: str, count: int, total: int) -> str:
    return name.replace(", ", "\n") + f"\nn = {count} ({count / max(total, 1):.1%})"


def _colours(image: Any) -> Any:
    """(C, H, W) as red, green and blue (H, W, 3)."""
    channels = np.moveaxis(image, 0, -1)
    if channels.shape[-1] == 2:
        return np.clip(channels @ _CHANNELS, 0, 1)
    return np.clip(channels if channels.shape[-1] == 3 else channels.mean(axis=-1, keepdims=True), 0, 1)
