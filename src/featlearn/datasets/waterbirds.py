"""Items on striped backgrounds: the direction of the stripes mostly goes with the kind of item, as in Waterbirds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..exceptions import DataError
from .arguments import entries, finite, random_generator, whole_number
from .image_pool import DIGITS, ImagePool, image_pool
from .spurious_dataset import Split, SpuriousDataset

__all__ = ["make_waterbirds_like"]

# Rows of the groups (0, 0), (0, 1), (1, 0), (1, 1) in Waterbirds; its test groups are replaced by equal ones.
_TRAIN, _VALIDATION, _TEST = [3498, 184, 56, 1057], [467, 466, 133, 133], [500] * 4
_STRIPES = ("horizontal", "vertical")


@dataclass(frozen=True)
class _Background:
    """Gratings: ``clip(0.5 a (1 + sin(2 pi f u + phase)) + noise)``, u along rows or columns, from 0 to 1."""

    contrast: tuple[float, float]
    frequency: tuple[float, float]
    noise: float

    def draw(self, s: NDArray[np.int64], size: tuple[int, int], random: np.random.Generator) -> NDArray[np.float32]:
        """One background (H, W) for every entry of ``s``."""
        n, (height, width) = len(s), size
        a, f = random.uniform(*self.contrast, (n, 1, 1)), random.uniform(*self.frequency, (n, 1, 1))
        phase = random.uniform(0, 2 * math.pi, (n, 1, 1))
        down = np.broadcast_to(np.arange(height)[:, None] / height, size)
        across = np.broadcast_to(np.arange(width) / width, size)
        waves = np.sin(2 * math.pi * f * np.where(s[:, None, None] == 0, down, across) + phase)
        noisy = 0.5 * a * (1 + waves) + self.noise * random.standard_normal((n, height, width))
        return np.clip(noisy, 0, 1).astype(np.float32)


def make_waterbirds_like(
    images: Any = "digits",
    labels: Any = None,
    *,
    classes: tuple[int, int] | None = None,
    sizes: Sequence[int] | None = None,
    validation_sizes: Sequence[int] | None = None,
    test_per_group: int | None = None,
    contrast: tuple[float, float] = (0.2, 0.6),
    frequency: tuple[float, float] = (2, 5),
    noise: float = 0.05,
    threshold: float = 0.1,
    flat: bool = False,
    reuse: bool = False,
    random_state: int = 0,
) -> SpuriousDataset:
    r"""Images of two classes in front of stripes, whose direction is the spurious attribute; groups as in Waterbirds.

    .. math:: x = \begin{cases} \text{item} & \text{item} > \theta \\ \text{background} & \text{else} \end{cases}, \quad
              \text{background} = \mathrm{clip}\left(\tfrac{a}{2} (1 + \sin(2 \pi f u + \phi)) + N(0, \sigma^2)\right)

    with u the row (s = 0, horizontal stripes) or the column (s = 1, vertical stripes), from 0 to 1.

    Parameters
    ----------
    images, labels
        As for :func:`make_colored`.
    classes : pair of int, optional
        Labels of the items that stand for y = 0 and 1. By default 3 and 8 of the digits, 2 and 4 of all others.
    sizes, validation_sizes : four int, optional
        Rows of the groups (y, s) = (0, 0), (0, 1), (1, 0), (1, 1). By default those of Waterbirds: (3498, 184, 56,
        1057) and (467, 466, 133, 133), all reduced by one factor, to 1 row at least, where there are too few images.
    test_per_group : int, optional
        Test rows of every group. By default 500, reduced in the same way.
    contrast, frequency : pair of float, default (0.2, 0.6) and (2, 5)
        Ranges of a, in units of white, and of f, stripes an image; both uniform, and so is the phase.
    noise : float, default 0.05
        :math:`\sigma`, of every pixel of the background.
    threshold : float, default 0.1
        :math:`\theta`, above which a pixel belongs to the item.
    flat : bool, default False
        ``X`` of shape (n, H W) instead of (n, 1, H, W).
    reuse : bool, default False
        Images may be used several times, each in one split only, where there are too few.
    random_state : int, default 0
        For all draws.

    Returns
    -------
    SpuriousDataset
        ``environments``: "test_foreground_only", the test rows on black, and "test_background_only", the same rows
        without their items. ``ceilings``: accuracy of predicting by the item alone ("item": 1, supposing that it is
        recognised without error), and by the stripes alone, "background_train" and "background_test".

    Raises
    ------
    DataError
        A number that does not fit, or too few images.

    Notes
    -----
    Group sizes are those of Waterbirds; images, backgrounds and results are not, and must not be compared. The random
    phase hides the direction of the stripes from linear probes of the pixels.

    References
    ----------
    Sagawa, Koh, Hashimoto, Liang (2020): Distributionally Robust Neural Networks for Group Shifts, arXiv:1911.08731
    (Waterbirds).

    Examples
    --------
    >>> data = make_waterbirds_like(sizes=(80, 4, 4, 80), test_per_group=10)
    >>> data.test, list(data.environments)
    (Split(40 rows of shape (1, 8, 8), groups [10, 10, 10, 10]), ['test_foreground_only', 'test_background_only'])
    """
    background = _Background(_range("contrast", contrast), _range("frequency", frequency), finite("noise", noise))
    if background.noise < 0:
        raise DataError(f"Got noise={noise!r}, but expected at least 0.")
    cut, random, pool = finite("threshold", threshold), random_generator(random_state), image_pool(images, labels)
    pair = pool.class_pair("classes", ((3, 8) if pool.source == DIGITS else (2, 4)) if classes is None else classes)
    cells = _cells(pool, pair, sizes, validation_sizes, test_per_group)
    requests = [pool.request(split, pair[g // 2], n) for split, counts in cells.items() for g, n in enumerate(counts)]
    dealt, times = pool.deal(requests, pool.labels, random, reuse=reuse)
    splits: dict[str, Split] = {}
    for place, (split, counts) in enumerate(cells.items()):
        order = random.permutation(sum(counts))
        index = np.concatenate(dealt[4 * place : 4 * place + 4])[order]
        group = np.repeat(np.arange(4), counts)[order]
        item, behind = pool.pixels(index), background.draw(group % 2, pool.size, random)
        made = {split: np.where(item > cut, item, behind)}
        if split == "test":
            made |= {
                "test_foreground_only": np.where(item > cut, item, np.float32(0)),
                "test_background_only": behind,
            }
        for name, X in made.items():
            X = X.reshape(len(X), -1) if flat else X[:, None]
            splits[name] = Split.of(X, group // 2, group % 2, index)
    train = cells["train"]
    return SpuriousDataset(
        train=splits.pop("train"),
        validation=splits.pop("validation"),
        test=splits.pop("test"),
        environments=splits,
        group_names=[f"y={pool.class_name(y)}, background={s}" for y in pair for s in _STRIPES],
        ceilings={"item": 1.0, "background_train": (train[0] + train[3]) / sum(train), "background_test": 0.5},
        source=pool.source,
        description="items on stripes" + pool.reuse_note(times),
        image_shape=(1, *pool.size),
    )


def _range(name: str, bounds: Any) -> tuple[float, float]:
    low, high = (finite(f"{name} entry", value) for value in entries(name, bounds, 2))
    if not 0 <= low <= high:
        raise DataError(f"Got {name}={bounds!r}, but expected 0 <= lowest <= highest.")
    return low, high


def _cells(
    pool: ImagePool,
    pair: tuple[int, int],
    sizes: Sequence[int] | None,
    validation_sizes: Sequence[int] | None,
    test_per_group: int | None,
) -> dict[str, list[int]]:
    """Rows of the four groups in every split; those that are not asked for, by what is left."""
    asked = {
        "train": _checked(sizes, "sizes"),
        "validation": _checked(validation_sizes, "validation_sizes"),
        "test": None if test_per_group is None else [whole_number("test_per_group", test_per_group, 1)] * 4,
    }
    usual = {"train": _TRAIN, "validation": _VALIDATION, "test": _TEST}
    if asked["train"] is not None and not sum(asked["train"]):
        raise DataError(f"Got sizes={sizes!r}, but expected at least one row to train on.")
    factor = _factor(pool, pair, asked, usual)
    return {
        split: [max(1, int(factor * n)) for n in usual[split]] if counts is None else counts
        for split, counts in asked.items()
    }


def _checked(counts: Any, name: str) -> list[int] | None:
    if counts is None:
        return None
    return [whole_number(f"{name} entry", count, 0) for count in entries(name, counts, 4)]


def _factor(
    pool: ImagePool,
    pair: tuple[int, int],
    asked: dict[str, list[int] | None],
    usual: dict[str, list[int]],
) -> float:
    """The largest factor, up to 1, at which the usual sizes fit beside those that are asked for."""
    factor = 1.0
    parts = [["train", "validation", "test"]] if pool.is_test is None else [["train", "validation"], ["test"]]
    for splits in parts:
        for y, label in enumerate(pair):
            groups = slice(2 * y, 2 * y + 2)
            taken = sum(sum(counts[groups]) for split in splits if (counts := asked[split]) is not None)
            wanted = sum(sum(usual[split][groups]) for split in splits if asked[split] is None)
            if wanted:
                left = len(pool.available(splits[0], pool.labels, label)) - taken
                factor = min(factor, max(left, 0) / wanted)
    return factor
