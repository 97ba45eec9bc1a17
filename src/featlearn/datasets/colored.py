"""Coloured images: labels are noisy in the shape, and the colour follows the labels more or less."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..exceptions import DataError
from .arguments import entries, random_generator, share, whole_number
from .image_pool import ImagePool, Request, image_pool
from .spurious_dataset import Split, SpuriousDataset

__all__ = ["make_colored"]

_Labels = NDArray[np.int64]
_FOOTWEAR, _BAG = (5, 7, 9), 8
_SMALL = 16  # pixels; of smaller images every pixel is kept


def make_colored(
    images: Any = "digits",
    labels: Any = None,
    *,
    rule: str | Callable[[NDArray[np.int64]], Any] = "split5",
    label_noise: float = 0.25,
    train_noise: Sequence[float] = (0.1, 0.2),
    test_noise: Sequence[float] = (0.1, 0.5, 0.9),
    subsample: int | None = None,
    n_train: int | None = None,
    n_test: int | None = None,
    validation_fraction: float = 1 / 6,
    binarize: bool = False,
    exact_counts: bool = False,
    flat: bool = False,
    reuse: bool = False,
    random_state: int = 0,
) -> SpuriousDataset:
    r"""Images in one of two colours, after ColoredMNIST: the colour predicts the label well in training, then not.

    .. math:: y = y_{clean} \oplus B(\eta), \qquad c = y \oplus B(\epsilon_e), \qquad
              x = \text{image in channel } c \text{, channel } 1 - c \text{ zero}

    Parameters
    ----------
    images : "digits", "fashion-mnist", "auto", ImageData, array of shape (n, H, W), or a pair (train, test)
        The bundled digits; Fashion-MNIST, the original if it is found and else the bundled subset; the original
        Fashion-MNIST if it is found and else the digits. A pair keeps the official test split apart; without one,
        test images are drawn like all others.
    labels : array of shape (n,), or a pair, optional
        Classes of images that are arrays.
    rule : "split5", "footwear" or callable
        :math:`y_{clean}` of a class: class < 5; class in {5, 7, 9} after class 8 is left out; or a function that maps
        labels (n,) to 0, 1, and -1 for images to leave out.
    label_noise : float, default 0.25
        :math:`\eta`, 0 to 0.5.
    train_noise : sequence of float, default (0.1, 0.2)
        :math:`\epsilon_e` of the training environments, 0 to 0.5; rows belong to them in turn after one shuffle, in
        training and in validation.
    test_noise : sequence of float, default (0.1, 0.5, 0.9)
        The same test images with the same labels are coloured once for each; ``test`` is the last.
    subsample : int, optional
        Every how manyth row and column of pixels is kept; by default 2, and 1 for images below 16 pixels.
    n_train, n_test : int, optional
        Training rows of all environments together, and test images. By default all there are: the official test
        split, or a quarter of the images; of the others ``validation_fraction`` for validation and the rest to train.
    validation_fraction : float, default 1/6
        Share of the images not in ``test``, below 1.
    binarize : bool, default False
        Pixels above one half are 1, all others 0.
    exact_counts : bool, default False
        Noise hits the nearest whole number of rows of every class and environment, not a random number of them.
    flat : bool, default False
        ``X`` of shape (n, 2 H W) instead of (n, 2, H, W).
    reuse : bool, default False
        Images may be used several times, each in one split only, where there are too few.
    random_state : int, default 0
        For all draws.

    Returns
    -------
    SpuriousDataset
        ``s`` is the colour. ``environments``: the test images at each noise, "e=0.1" and so on; environment numbers go
        on after those of training. ``ceilings``: "shape", the best accuracy of a predictor that is blind to colour, in
        every environment; "colour_train" and "colour_e=0.9" and so on, of predicting by colour alone; "bayes_train",
        the best possible on the pooled training rows.

    Raises
    ------
    DataError
        A number that does not fit, a rule that does not give two classes, or too few images.

    Notes
    -----
    The best rule for the pooled training rows follows the colour if ``label_noise`` exceeds the mean of
    ``train_noise``, and the shape if it is below. A colour-blind model cannot exceed "shape": accuracy above it at a
    test noise above one half means that the model bets against the colour. "shape" supposes that the image tells its
    class; a real model stays below. The "footwear" rule has one class in three positive: compare with that, not with
    one half. Ceilings are those of the distribution; a sample scatters about them.

    References
    ----------
    Arjovsky, Bottou, Gulrajani, Lopez-Paz (2019): Invariant Risk Minimization, arXiv:1907.02893. Ahuja, Shanmugam,
    Varshney, Dhurandhar (2020): Invariant Risk Minimization Games, arXiv:2002.04692 (the footwear rule).

    Examples
    --------
    >>> data = make_colored()
    >>> data.train
    Split(1123 rows of shape (2, 8, 8), groups [447, 93, 97, 486])
    >>> data.ceilings["shape"], round(data.ceilings["bayes_train"], 2), round(data.ceilings["colour_e=0.9"], 2)
    (0.75, 0.85, 0.1)
    """
    _check_rates(label_noise, train_noise, test_noise, validation_fraction)
    random, pool = random_generator(random_state), image_pool(images, labels)
    step = (2 if min(pool.size) >= _SMALL else 1) if subsample is None else whole_number("subsample", subsample, 1)
    clean = _clean_labels(rule, pool.labels)
    sizes = _sizes(pool, clean, n_train, n_test, validation_fraction)
    requests = [Request(split, 1, n, "the classes that the rule keeps") for split, n in sizes.items()]
    dealt, times = pool.deal(requests, (clean >= 0).astype(np.int64), random, reuse=reuse)

    def noisy(y: _Labels, environment: _Labels, noise: NDArray[np.float64]) -> _Labels:
        return y ^ _flips(noise, 2 * environment + y, exact_counts, random)

    def split(rows: _Labels, y: _Labels, colour: _Labels, environment: _Labels) -> Split:
        grey = pool.pixels(rows)[:, ::step, ::step]
        X = _paint((grey > 0.5).astype(np.float32) if binarize else grey, colour)
        X = X.reshape(len(X), -1) if flat else X
        return Split.of(X, y, colour, rows, environment=environment, y_clean=clean[rows])

    seen = []
    for rows in dealt[:2]:
        environment = np.arange(len(rows)) % len(train_noise)
        y = noisy(clean[rows], environment, np.full(len(rows), label_noise))
        seen.append(split(rows, y, noisy(y, environment, np.asarray(train_noise)[environment]), environment))
    rows, tests = dealt[2], {}
    y = noisy(clean[rows], np.zeros_like(rows), np.full(len(rows), label_noise))
    for place, rate in enumerate(test_noise, start=len(train_noise)):
        environment = np.full_like(rows, place)
        tests[f"e={rate:g}"] = split(rows, y, noisy(y, environment, np.full(len(rows), rate)), environment)
    rule_name = rule if isinstance(rule, str) else "own rule"
    return SpuriousDataset(
        train=seen[0],
        validation=seen[1],
        test=tests[f"e={test_noise[-1]:g}"],
        environments=tests,
        group_names=[f"y={label}, colour={colour}" for label in (0, 1) for colour in (0, 1)],
        ceilings=_ceilings(label_noise, train_noise, test_noise),
        source=pool.source,
        description=f"coloured images, {rule_name}, label noise {label_noise:g}" + pool.reuse_note(times),
        image_shape=(2, -(-pool.size[0] // step), -(-pool.size[1] // step)),
    )


def _check_rates(label_noise: Any, train_noise: Any, test_noise: Any, validation_fraction: Any) -> None:
    for name, values in (("train_noise", train_noise), ("test_noise", test_noise)):
        for value in entries(name, values):
            share(f"{name} entry", value)
    for name, value in (("label_noise", share("label_noise", label_noise)), ("train_noise", max(train_noise))):
        if value > 0.5:
            raise DataError(f"Got {name} of {value:g}, but expected at most 0.5. Swap the classes or the colours.")
    if len({f"{value:g}" for value in test_noise}) < len(test_noise):
        raise DataError(f"Got test_noise={test_noise!r}, but expected numbers that differ: each names an environment.")
    if share("validation_fraction", validation_fraction) == 1:
        raise DataError("Got validation_fraction=1, but expected less: nothing would be left to train on.")


def _clean_labels(rule: Any, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 or 1 for every image, -1 for images to leave out."""
    if rule == "split5":
        return (labels < 5).astype(np.int64)
    if rule == "footwear":
        return np.where(labels == _BAG, -1, np.isin(labels, _FOOTWEAR))
    if not callable(rule):
        raise DataError(f"Got rule={rule!r}, but expected 'split5', 'footwear' or a function of the labels.")
    clean = np.asarray(rule(labels))
    if clean.shape != labels.shape or not np.isin(clean, (-1, 0, 1)).all():
        raise DataError(
            f"Got {np.unique(clean)[:5].tolist()} in shape {clean.shape} from the rule, but expected 0, 1 or -1 for "
            f"each of the {len(labels)} labels."
        )
    return clean.astype(np.int64)


def _sizes(
    pool: ImagePool, clean: NDArray[np.int64], n_train: int | None, n_test: int | None, fraction: float
) -> dict[str, int]:
    """Images of every split."""
    for name, n in (("n_train", n_train), ("n_test", n_test)):
        if n is not None:
            whole_number(name, n, 1)
    present = set(np.unique(clean[clean >= 0]).tolist())
    if present != {0, 1}:
        raise DataError(f"Got classes {sorted(present)} of the rule, but expected both 0 and 1 among the images.")
    kept = int((clean >= 0).sum())
    if pool.is_test is None:
        test = max(1, kept // 4) if n_test is None else n_test
        learn = kept - test
    else:
        official = int((clean[pool.is_test] >= 0).sum())
        test = official if n_test is None else n_test
        learn = kept - official
    if n_train is not None:
        return {"train": n_train, "validation": round(n_train * fraction / (1 - fraction)), "test": test}
    if learn < 1:
        raise DataError(
            f"Got {test:,} images for testing of {kept:,} in all, but expected some to train on. Pass a smaller "
            "n_test=, or n_train= and reuse=True."
        )
    validation = min(round(learn * fraction), learn - 1)
    return {"train": learn - validation, "validation": validation, "test": test}


def _flips(
    rates: NDArray[np.float64], strata: NDArray[np.int64], exact: bool, random: np.random.Generator
) -> NDArray[np.int64]:
    """1 with the given probabilities, or for the nearest whole number of rows of every stratum, which share a rate."""
    if not exact:
        return (random.random(len(rates)) < rates).astype(np.int64)
    flipped = np.zeros(len(rates), dtype=np.int64)
    for stratum in np.unique(strata):
        rows = random.permutation(np.flatnonzero(strata == stratum))
        flipped[rows[: round(float(rates[rows[0]]) * len(rows))]] = 1
    return flipped


def _paint(grey: NDArray[np.float32], colour: NDArray[np.int64]) -> NDArray[np.float32]:
    """(n, H, W) as (n, 2, H, W), each image in the channel of its colour."""
    painted = np.zeros((len(grey), 2, *grey.shape[1:]), dtype=np.float32)
    painted[np.arange(len(grey)), colour] = grey
    return painted


def _ceilings(label_noise: float, train_noise: Sequence[float], test_noise: Sequence[float]) -> dict[str, float]:
    shape, colour = 1 - float(label_noise), 1 - float(np.mean(train_noise))
    ceilings = {"shape": shape, "colour_train": colour, "bayes_train": max(shape, colour)}
    return ceilings | {f"colour_e={noise:g}": 1 - float(noise) for noise in test_noise}
