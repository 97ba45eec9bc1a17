"""Images whose class hangs on a small part of them: a star, a digit or one row, somewhere in noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .._random import generator
from ..exceptions import DataError
from .images import load_mnist

__all__ = ["LocalSignals", "digits_in_noise", "informative_rows", "stars_in_noise"]

STAR_SIZE, STAR_NOISE, STAR_SHIFTS = 32, 0.3, 18
# Row of the unshifted star: its columns.
STAR = {3: [10], 4: [9, 10, 11], 5: [7, 8, 9, 10, 11, 12, 13], 6: [8, 9, 10, 11, 12], 7: [9, 10, 11],
        8: [8, 9, 10, 11, 12], 9: [8, 9, 11, 12]}  # fmt: skip
DIGIT_SIZE, FRAME_SIZE = 28, 42
ROWS, ROW_LENGTH = 16, 32


@dataclass(frozen=True, eq=False)
class LocalSignals:
    """Images with the place of what tells their class.

    Attributes
    ----------
    X : Tensor of shape (n, channels, height, width), float32
        The images.
    y : Tensor of shape (n,), int64
        Their classes.
    informative : Tensor of shape (n, height, width), bool
        Where the signal was put, whatever the channel: what a map of where a machine looks is compared with.
    """

    X: Tensor
    y: Tensor
    informative: Tensor

    def __len__(self) -> int:
        return len(self.X)

    def __repr__(self) -> str:
        n, *shape = self.X.shape
        return f"LocalSignals({n} images of shape {tuple(shape)}, {len(self.y.unique())} classes)"


def stars_in_noise(n: int = 50, *, random_state: int = 0) -> LocalSignals:
    r"""Colour images of noise; those of class 1 have a small star somewhere.

    Every entry is drawn from ``N(0, 0.3^2)``. In an image of class 1 the 28 pixels of the star become exactly 1 in the
    first two channels; the third stays noise. In the rows 3 to 9 the star covers the columns 10, 9-11, 7-13, 8-12,
    9-11, 8-12 and 8-9 with 11-12; it is then moved down and to the right by two whole numbers, each uniform on 0 to 17.

    Parameters
    ----------
    n : int, default 50
        Images, at least 2. Half of them have a star; of an odd number, one fewer than not. The order is random.
    random_state : int, default 0
        For noise, places and order. Test images are those of another number.

    Returns
    -------
    LocalSignals
        ``X`` of shape (n, 3, 32, 32); ``informative`` is the star, empty in class 0.

    Raises
    ------
    DataError
        An ``n`` or ``random_state`` that is not such a whole number.

    Notes
    -----
    The best possible classifier makes no error, whether it knows the place or not: noise is almost never exactly 1.
    Nor is a filter with tolerance at fault in practice. Let s be the largest mean of the 56 star entries over the 324
    places; then s >= 1 in class 1, and in class 0 the means are ``N(0, 0.3^2 / 56)``, so that "star if s > 1/2" errs
    with probability at most ``162 Phi(-12.47)``, below 1e-33. What is hard is to learn it from few images.

    12 KB an image.

    References
    ----------
    Recipe of the public code of Beaglehole, Radhakrishnan, Pandit, Belkin (2023): Mechanism of feature learning in
    convolutional neural networks, arXiv:2309.00570 (50 training images).

    Examples
    --------
    >>> data = stars_in_noise(50)
    >>> data
    LocalSignals(50 images of shape (3, 32, 32), 2 classes)
    >>> data.informative.sum(dim=(1, 2)).unique().tolist(), data.y.bincount().tolist()
    ([0, 28], [25, 25])
    """
    _check_draw(n, random_state, least=2)
    draw = generator(random_state, "stars")
    X = STAR_NOISE * torch.randn(n, 3, STAR_SIZE, STAR_SIZE, generator=draw)
    y = _balanced_labels(n, draw)
    shifts = torch.randint(STAR_SHIFTS, (n, 2), generator=draw)
    star = torch.tensor([(row, column) for row, columns in STAR.items() for column in columns])
    starred = y.nonzero()
    rows, columns = (star + shifts[starred]).unbind(dim=-1)
    informative = torch.zeros(n, STAR_SIZE, STAR_SIZE, dtype=torch.bool)
    informative[starred, rows, columns] = True
    X[:, :2].masked_fill_(informative[:, None], 1.0)
    return LocalSignals(X, y, informative)


def digits_in_noise(
    n: int = 4000,
    *,
    split: str = "train",
    sigma: float = 1.0,
    overlay: str = "replace",
    random_state: int = 0,
    images: ArrayLike | Tensor | None = None,
    labels: ArrayLike | Tensor | None = None,
) -> LocalSignals:
    r"""Handwritten digits somewhere in a larger frame of noise.

    The frame has 42 x 42 entries from ``N(0, (0.5 sqrt(sigma))^2)``. A 28 x 28 image, its pixels scaled to 0..1, is
    laid on it with its upper left corner at (q, r), both uniform on 0 to 13.

    Parameters
    ----------
    n : int, default 4000
        Images, drawn at random without repetition.
    split : {"train", "test"}
        Of MNIST, which the files of :func:`load_mnist` hold. Random numbers differ between the splits, so that the
        noise of train and test is independent at the same ``random_state``, also with ``images``.
    sigma : float, default 1.0
        Variance of the noise in units of 1/4; 0 for none.
    overlay : {"replace", "add"}, default "replace"
        What happens to the noise below the image. "replace": it is lost, so that the digit itself is clean, on a
        black square, and noise is only around it; that is the recipe of the public code. "add": the pixels are added
        to it, so that ink is noisy and no square shows.
    random_state : int, default 0
        For the choice of images, noise and places.
    images : array of shape (m, 28, 28) or (m, 1, 28, 28), optional
        To be used in place of MNIST, with ``labels``: uint8 from 0 to 255, or floats from 0 to 1.
    labels : array of shape (m,), optional
        Whole numbers.

    Returns
    -------
    LocalSignals
        ``X`` of shape (n, 1, 42, 42). ``informative`` is where the digit has ink (pixels above 0), not its square.

    Raises
    ------
    DataError
        More images wanted than there are, a negative ``sigma``, images of another shape or range, images without labels
        or labels without images, or absent files of MNIST.

    Notes
    -----
    With "replace", exact zeros in the corners of an image (all MNIST images have them) give the square away, and the
    best possible classifier does as well as on images without a frame. With "add" no closed form is known; it can do
    no better than that.

    7 KB an image.

    References
    ----------
    Recipe of the public code of Beaglehole, Radhakrishnan, Pandit, Belkin (2023): Mechanism of feature learning in
    convolutional neural networks, arXiv:2309.00570, which takes the first images of the files instead of random ones.

    Examples
    --------
    >>> from featlearn.datasets import load_fashion_mnist
    >>> clothes = load_fashion_mnist("test")
    >>> digits_in_noise(200, images=clothes.images, labels=clothes.labels)
    LocalSignals(200 images of shape (1, 42, 42), 10 classes)
    """
    _check_draw(n, random_state, least=1)
    _check_sigma(sigma)
    for name, value, choices in (("split", split, ("train", "test")), ("overlay", overlay, ("replace", "add"))):
        if value not in choices:
            raise DataError(f"Got {name}={value!r}, but expected {choices[0]!r} or {choices[1]!r}.")
    pixels, classes = _digits(split, images, labels)
    if n > len(pixels):
        raise DataError(f"Got n={n}, but expected at most {len(pixels)}, the images there are. Lower n.")
    draw = generator(random_state, "digits", split)
    chosen = torch.randperm(len(pixels), generator=draw)[:n]
    digits = pixels[chosen].float() / (255 if pixels.dtype == torch.uint8 else 1)
    X = 0.5 * math.sqrt(sigma) * torch.randn(n, 1, FRAME_SIZE, FRAME_SIZE, generator=draw)
    corners = torch.randint(FRAME_SIZE - DIGIT_SIZE, (n, 2, 1), generator=draw)
    rows, columns = (corners + torch.arange(DIGIT_SIZE)).unbind(dim=1)
    square = (torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :])
    frame = X[:, 0]
    frame[square] = digits if overlay == "replace" else frame[square] + digits
    informative = torch.zeros(n, FRAME_SIZE, FRAME_SIZE, dtype=torch.bool)
    informative[square] = digits > 0
    return LocalSignals(X, classes[chosen], informative)


def informative_rows(n: int = 500, *, sigma: float = 1.0, random_state: int = 0) -> LocalSignals:
    r"""Rows of noise, one of which is constant; its sign is the class.

    An image has k = 16 rows of d = 32 entries, drawn from ``N(0, (sigma / d) I)``. One row, uniform among the 16, is
    then ``t w`` with ``w = (1, ..., 1) / sqrt(d)``, t = 1 in class 1 and t = -1 in class 0. Its squared length is 1;
    that of a row of noise has the mean sigma.

    Parameters
    ----------
    n : int, default 500
        Images, at least 2. Half of them are of class 1; of an odd number, one fewer than not. The order is random.
    sigma : float, default 1.0
        Expected squared length of a row of noise; 0 for none.
    random_state : int, default 0
        For noise, rows and order. Test images are those of another number.

    Returns
    -------
    LocalSignals
        ``X`` of shape (n, 1, 16, 32); ``informative`` is the whole constant row.

    Raises
    ------
    DataError
        An ``n`` or ``random_state`` that is not such a whole number, or a negative ``sigma``.

    Notes
    -----
    The best possible classifier makes no error, whether it knows the row or not: a row of noise is almost never
    constant. Of rules that see the rows through their projections ``z_r = w^T x_r`` (+-1 for the informative row,
    ``N(0, sigma / d)`` for the others), for sigma > 0:

    - the sign of ``sum_r z_r``, which is the linear least-squares rule for infinitely many images, errs with
      probability ``Phi(-sqrt(d / ((k - 1) sigma)))``: 0.072 at sigma = 1;
    - the sign of the ``z_r`` of largest magnitude errs with probability
      ``(1 - (1 - 2 Phi(-sqrt(d / sigma)))^(k - 1)) / 2``: 1.2e-7 at sigma = 1, 0.25 at sigma = 8.

    2 KB an image.

    References
    ----------
    Recipe of the public code of Beaglehole, Radhakrishnan, Pandit, Belkin (2023): Mechanism of feature learning in
    convolutional neural networks, arXiv:2309.00570, which draws each class by a coin instead of balancing them.

    Examples
    --------
    >>> data = informative_rows(500)
    >>> data
    LocalSignals(500 images of shape (1, 16, 32), 2 classes)
    >>> row = data.X[0, 0][data.informative[0]]
    >>> len(row), bool(row[0] > 0) == bool(data.y[0] == 1)
    (32, True)
    """
    _check_draw(n, random_state, least=2)
    _check_sigma(sigma)
    draw = generator(random_state, "rows")
    X = math.sqrt(sigma / ROW_LENGTH) * torch.randn(n, 1, ROWS, ROW_LENGTH, generator=draw)
    y = _balanced_labels(n, draw)
    images, rows = torch.arange(n), torch.randint(ROWS, (n,), generator=draw)
    X[images, 0, rows] = ((2 * y - 1) / math.sqrt(ROW_LENGTH))[:, None]
    informative = torch.zeros(n, ROWS, ROW_LENGTH, dtype=torch.bool)
    informative[images, rows] = True
    return LocalSignals(X, y, informative)


def _balanced_labels(n: int, draw: torch.Generator) -> Tensor:
    return (torch.arange(n) % 2)[torch.randperm(n, generator=draw)]


def _digits(split: str, images: ArrayLike | Tensor | None, labels: ArrayLike | Tensor | None) -> tuple[Tensor, Tensor]:
    """Images (m, 28, 28), uint8 or floats from 0 to 1, and their labels, int64."""
    if images is None and labels is None:
        mnist = load_mnist(split)
        return mnist.images[:, 0], mnist.labels
    if images is None or labels is None:
        given, missing = ("images", "labels") if labels is None else ("labels", "images")
        raise DataError(f"Got {given} without {missing}, but expected both or neither. Pass {missing}= as well.")
    pixels, classes = _tensor("images", images), _tensor("labels", labels)
    if pixels.ndim == 4 and pixels.shape[1] == 1:
        pixels = pixels[:, 0]
    if len(pixels) == 0 or pixels.shape[1:] != (DIGIT_SIZE, DIGIT_SIZE):
        raise DataError(
            f"Got images of shape {tuple(pixels.shape)}, but expected (m, 28, 28) or (m, 1, 28, 28). Resize them."
        )
    if classes.shape != pixels.shape[:1] or classes.is_floating_point():
        raise DataError(
            f"Got labels of shape {tuple(classes.shape)} and type {classes.dtype}, but expected whole numbers of shape "
            f"({len(pixels)},): one an image."
        )
    if pixels.dtype != torch.uint8:
        low, high = (value.item() for value in pixels.aminmax())
        if not pixels.is_floating_point() or not 0 <= low <= high <= 1:
            raise DataError(
                f"Got images of type {pixels.dtype} from {low:g} to {high:g}, but expected uint8, or floats from 0 to "
                "1. Divide them by the largest value a pixel can have."
            )
    return pixels, classes.long()


def _tensor(name: str, value: ArrayLike | Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    array = np.asarray(value)
    if array.dtype.kind not in "buif" or array.ndim == 0:
        raise DataError(f"Got {name} of type {array.dtype} and shape {array.shape}, but expected an array of numbers.")
    return torch.tensor(array)


def _check_draw(n: Any, random_state: Any, least: int) -> None:
    for name, value, smallest in (("n", n, least), ("random_state", random_state, 0)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < smallest:
            raise DataError(f"Got {name}={value!r}, but expected a whole number of at least {smallest}.")


def _check_sigma(sigma: Any) -> None:
    if not isinstance(sigma, int | float | np.number) or not 0 <= sigma < math.inf:
        raise DataError(f"Got sigma={sigma!r}, but expected a finite number of at least 0.")
