"""Dominoes: an image of the spurious class above an image of the class to be learned."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arguments import random_generator, share, whole_number
from .image_pool import DIGITS, SUBSET, ImagePool, image_pool
from .spurious_dataset import Split, SpuriousDataset

__all__ = ["make_dominoes"]

# Training, validation and test rows where none are asked for: round numbers that each source has enough images for.
_SIZES = {DIGITS: (120, 60, 60), SUBSET: (600, 200, 200)}
_OTHER_SIZES = (8000, 2000, 2000)


def make_dominoes(
    images: Any = "digits",
    labels: Any = None,
    *,
    top: tuple[int, int] | None = None,
    bottom: tuple[int, int] | None = None,
    correlation: float = 0.95,
    n_train: int | None = None,
    n_validation: int | None = None,
    n_test: int | None = None,
    flat: bool = False,
    reuse: bool = False,
    random_state: int = 0,
) -> SpuriousDataset:
    r"""Two images on top of each other: the lower one is the label, the upper one, easier, mostly goes with it.

    .. math:: y = \text{class of the lower image}, \qquad s = \text{class of the upper image}, \qquad P(s = y) = \rho

    Parameters
    ----------
    images, labels
        As for :func:`make_colored`. To pair two sources, pass their images together, with labels that differ.
    top, bottom : pair of int, optional
        Classes of the upper and of the lower image that stand for 0 and 1. By default (0, 1) and (3, 8) of the digits,
        and (1, 9) and (2, 4) of all others: trousers or boots above pullovers or coats in Fashion-MNIST.
    correlation : float, default 0.95
        :math:`\rho` in training: ``round((1 - rho) n_train / 2)`` rows of each class have s != y, exactly.
    n_train : int, even, optional
        Rows; half of them of each class. By default 120 of the digits, 600 of the bundled subset of Fashion-MNIST, and
        8000 of all others.
    n_validation, n_test : int, multiple of 4, optional
        Rows; a quarter in each group. By default 60, 200, and 2000.
    flat : bool, default False
        ``X`` of shape (n, 2 H W) instead of (n, 1, 2 H, W).
    reuse : bool, default False
        Images may be used several times, each in one split and one place only, where there are too few.
    random_state : int, default 0
        For all draws.

    Returns
    -------
    SpuriousDataset
        ``index`` has two columns: upper and lower image. ``ceilings``: accuracy of predicting by the upper image alone
        with certain knowledge of its class, "top_train" and "top_test", and "bottom" by the lower image: 1, as labels
        have no noise.

    Raises
    ------
    DataError
        A number that does not fit, or too few images.

    Notes
    -----
    No image is used twice, neither in two splits nor above and below. The best accuracy that is possible from pixels
    is unknown for photographs and drawings; the ceilings suppose that classes are recognised without error.

    References
    ----------
    Shah, Tamuly, Raghunathan, Jain, Netrapalli (2020): The Pitfalls of Simplicity Bias in Neural Networks,
    arXiv:2006.07710. Kirichenko, Izmailov, Wilson (2022): Last Layer Re-Training is Sufficient for Robustness to
    Spurious Correlations, arXiv:2204.02937.

    Examples
    --------
    >>> data = make_dominoes()
    >>> data.counts()
                  train  validation  test
    group
    y=3, top=0       57          15    15
    y=3, top=1        3          15    15
    y=8, top=0        3          15    15
    y=8, top=1       57          15    15
    """
    rho, random, pool = share("correlation", correlation), random_generator(random_state), image_pool(images, labels)
    above, below = ((0, 1), (3, 8)) if pool.source == DIGITS else ((1, 9), (2, 4))
    upper = pool.class_pair("top", above if top is None else top)
    lower = pool.class_pair("bottom", below if bottom is None else bottom)
    cells = _cells(pool, rho, n_train, n_validation, n_test)
    requests = [
        pool.request(split, label, count)
        for split, counts in cells.items()
        for group, count in enumerate(counts)
        for label in (upper[group % 2], lower[group // 2])
    ]
    dealt, times = pool.deal(requests, pool.labels, random, reuse=reuse)
    splits: dict[str, Split] = {}
    for place, (split, counts) in enumerate(cells.items()):
        mine = dealt[8 * place : 8 * place + 8]
        order = random.permutation(sum(counts))
        index = np.stack([np.concatenate(mine[0::2]), np.concatenate(mine[1::2])], axis=1)[order]
        group = np.repeat(np.arange(4), counts)[order]
        X = np.concatenate([pool.pixels(index[:, 0]), pool.pixels(index[:, 1])], axis=1)[:, None]
        splits[split] = Split.of(X.reshape(len(X), -1) if flat else X, group // 2, group % 2, index)
    height, width = pool.size
    train = cells["train"]
    return SpuriousDataset(
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        environments={},
        group_names=[f"y={pool.class_name(y)}, top={pool.class_name(s)}" for y in lower for s in upper],
        ceilings={"bottom": 1.0, "top_train": (train[0] + train[3]) / sum(train), "top_test": 0.5},
        source=pool.source,
        description=f"dominoes, correlation {rho:g}" + pool.reuse_note(times),
        image_shape=(1, 2 * height, width),
    )


def _cells(
    pool: ImagePool, rho: float, n_train: int | None, n_validation: int | None, n_test: int | None
) -> dict[str, list[int]]:
    """Rows of the four groups in every split."""
    asked = zip(_SIZES.get(pool.source, _OTHER_SIZES), (n_train, n_validation, n_test), strict=True)
    train, validation, test = (default if n is None else n for default, n in asked)
    half = whole_number("n_train", train, 2, multiple=2) // 2
    against = round((1 - rho) * half)
    cells = {"train": [half - against, against, against, half - against]}
    for split, n in (("validation", validation), ("test", test)):
        cells[split] = [whole_number(f"n_{split}", n, 4, multiple=4) // 4] * 4
    return cells
