"""Images that a maker of data sets draws from, each of them at most once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..exceptions import DataError
from .arguments import entries
from .fashion_mnist import has_fashion_mnist
from .image_data import ImageData
from .images import load_fashion_mnist

__all__ = ["DIGITS", "SUBSET", "ImagePool", "Request", "image_pool"]

DIGITS = "digits of scikit-learn"
SUBSET = "Fashion-MNIST (subset)"
_NAMES = ("digits", "fashion-mnist", "auto")


@dataclass(frozen=True)
class Request:
    """``count`` images of one kind for one split; ``name`` is what a message calls the kind."""

    split: str
    kind: int
    count: int
    name: str


@dataclass(frozen=True, eq=False)
class ImagePool:
    """Grey images with labels; images of an official test split are kept apart.

    Attributes
    ----------
    images : ndarray of shape (n, H, W)
        Pixels from 0 to ``white``.
    labels : ndarray of shape (n,), int64
    is_test : ndarray of shape (n,), bool, or None
        Images of the official test split; None where there is none.
    white : float
        Value of a white pixel.
    classes : dict of int to str
        Names of the labels.
    source : str
        As ``SpuriousDataset.source`` tells it.
    """

    images: NDArray[Any]
    labels: NDArray[np.int64]
    is_test: NDArray[np.bool_] | None
    white: float
    classes: dict[int, str]
    source: str

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image."""
        return self.images.shape[1], self.images.shape[2]

    def pixels(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Images of the given rows, (m, H, W), from 0 to 1."""
        return self.images[rows].astype(np.float32) / np.float32(self.white)

    def request(self, split: str, label: int, count: int) -> Request:
        """Images of one class."""
        return Request(split, label, count, f"class {self.class_name(label)}")

    def class_name(self, label: int) -> str:
        """Name of a class, or its number."""
        return self.classes.get(label, str(label))

    def class_pair(self, name: str, pair: Any) -> tuple[int, int]:
        """``pair`` if it is two classes of these images, else ``DataError`` about the argument ``name``."""
        present = np.unique(self.labels).tolist()
        known = [label for label in entries(name, pair, 2) if label in present]
        if len(set(known)) != 2:
            raise DataError(f"Got {name}={pair!r}, but expected two different classes of {present}.")
        return int(known[0]), int(known[1])

    def reuse_note(self, times: int) -> str:
        """What a description says of images that were used several times."""
        return f", images used up to {times} times" if times > 1 else ""

    def available(self, split: str, kinds: NDArray[np.int64], kind: int) -> NDArray[np.int64]:
        """Rows that ``split`` may use of one kind."""
        chosen = kinds == kind
        if self.is_test is not None:
            chosen &= self.is_test == self._is_official(split)
        return np.flatnonzero(chosen)

    def deal(
        self, requests: Sequence[Request], kinds: NDArray[np.int64], random: np.random.Generator, *, reuse: bool
    ) -> tuple[list[NDArray[np.int64]], int]:
        """Rows for every request, in random order, no row for two of them; and how often a row is used at most.

        Parameters
        ----------
        requests : sequence of Request
        kinds : ndarray of shape (n,)
            Kind of every image.
        random : numpy.random.Generator
        reuse : bool
            Where there are too few images, use each of them several times within one request.

        Raises
        ------
        DataError
            Too few images.
        """
        # Requests for the same images: of the same kind, from the same part of the source.
        rivals: dict[tuple[int, bool], list[int]] = defaultdict(list)
        for place, request in enumerate(requests):
            if request.count:
                rivals[request.kind, self._is_official(request.split)].append(place)
        there = {
            key: self.available(requests[places[0]].split, kinds, key[0]) for key, places in sorted(rivals.items())
        }
        self._check_enough([([requests[place] for place in rivals[key]], len(there[key])) for key in there], reuse)
        rows, times = [np.empty(0, dtype=np.int64) for _ in requests], 1
        for key, found in there.items():
            bounds = _bounds([requests[place].count for place in rivals[key]], len(found))
            shuffled = random.permutation(found)
            for place, first, last in zip(rivals[key], bounds, bounds[1:], strict=False):
                count = requests[place].count
                rows[place] = random.permutation(np.resize(shuffled[first:last], count))
                times = max(times, -(-count // (last - first)))
        return rows, times

    def _is_official(self, split: str) -> bool:
        return self.is_test is not None and split == "test"

    def _check_enough(self, rivals: list[tuple[list[Request], int]], reuse: bool) -> None:
        short = []
        for requests, available in rivals:
            least = len(requests) if reuse else sum(request.count for request in requests)
            if available < least:
                official = self._is_official(requests[0].split)
                part = "" if self.is_test is None else " for testing" if official else " for training and validation"
                short.append(f"{least} images of {requests[0].name}{part} ({available} available)")
        if short:
            way_out = "" if reuse else ", or reuse=True to use images several times"
            raise DataError(
                f"Got too few images of {self.source}, but expected {'; '.join(short)}. Pass smaller sizes, or more "
                f"images{way_out}."
            )


def image_pool(images: Any, labels: Any = None) -> ImagePool:
    """Pool of named images, an :class:`ImageData`, arrays, or a pair (train, test) of these.

    Parameters
    ----------
    images : "digits", "fashion-mnist", "auto", ImageData, array of shape (n, H, W) or (n, 1, H, W), or a pair
        Arrays hold bytes, or floats from 0 to 1.
    labels : array of shape (n,), or a pair, optional
        Whole numbers, one an image; only with arrays.

    Raises
    ------
    DataError
        Images or labels that do not fit.
    """
    if isinstance(images, str) and images not in _NAMES:
        raise DataError(f"Got images={images!r}, but expected one of {', '.join(map(repr, _NAMES))}, or arrays.")
    paired = isinstance(images, tuple) and len(images) == 2
    if isinstance(images, str | ImageData) or (paired and all(isinstance(part, ImageData) for part in images)):
        if labels is not None:
            raise DataError("Got labels= of images that bring their own, but expected none. Leave labels= away.")
        return _named(images) if isinstance(images, str) else _of_image_data(images)
    if labels is None:
        raise DataError("Got images as arrays without labels=, but expected their classes too. Pass labels=.")
    if paired != (isinstance(labels, tuple) and len(labels) == 2):
        raise DataError("Got a pair (train, test) of images or of labels alone, but expected both or neither.")
    parts = [_arrays(*part) for part in (zip(images, labels, strict=True) if paired else [(images, labels)])]
    return _join(parts, {}, "arrays")


def _named(name: str) -> ImagePool:
    full = name != "digits" and has_fashion_mnist()
    if full or name == "fashion-mnist":
        train, test = (load_fashion_mnist(split, full=full) for split in ("train", "test"))
        return _of_image_data((train, test))
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = digits.target.astype(np.int64)
    return ImagePool(digits.images, labels, None, 16.0, {k: str(k) for k in range(10)}, DIGITS)


def _of_image_data(data: ImageData | tuple[ImageData, ImageData]) -> ImagePool:
    parts = data if isinstance(data, tuple) else (data,)
    arrays = [_arrays(part.images, part.labels) for part in parts]
    return _join(arrays, dict(enumerate(parts[0].classes)), parts[0].name)


def _join(parts: list[tuple[NDArray[Any], NDArray[np.int64]]], classes: dict[int, str], source: str) -> ImagePool:
    kinds = sorted({f"{images.dtype.kind} of shape {images.shape[1:]}" for images, _ in parts})
    if len(kinds) > 1:
        raise DataError(f"Got images of {' and '.join(kinds)}, but expected one kind and one shape in both splits.")
    images, labels = (np.concatenate([part[place] for part in parts]) for place in (0, 1))
    is_test = np.repeat([False, True], [len(part[0]) for part in parts]) if len(parts) == 2 else None
    return ImagePool(images, labels, is_test, 255.0 if images.dtype == np.uint8 else 1.0, classes, source)


def _arrays(images: Any, labels: Any) -> tuple[NDArray[Any], NDArray[np.int64]]:
    pixels, classes = _as_array("images", images), _as_array("labels", labels)
    if pixels.ndim == 4 and pixels.shape[1] == 1:
        pixels = pixels[:, 0]
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise DataError(
            f"Got images of shape {pixels.shape}, but expected (n, H, W) or (n, 1, H, W): grey images. Average colours."
        )
    if classes.shape == pixels.shape[:1] and classes.dtype.kind in "UOS":
        raise DataError(
            f"Got labels such as {classes[0]!r}, but expected whole numbers. Number the classes: "
            "numpy.unique(labels, return_inverse=True)[1]."
        )
    if classes.shape != pixels.shape[:1] or classes.dtype.kind not in "iu":
        raise DataError(
            f"Got labels of shape {classes.shape} and type {classes.dtype}, but expected whole numbers of shape "
            f"({len(pixels)},): one an image."
        )
    # Written so that nan is refused as well.
    fits = pixels.dtype == np.uint8 or (pixels.dtype.kind == "f" and pixels.min() >= 0 and pixels.max() <= 1)
    if not fits:
        raise DataError(
            f"Got images of type {pixels.dtype}, but expected bytes, or floats from 0 to 1. Divide them by the largest "
            "value a pixel can have."
        )
    return pixels, classes.astype(np.int64)


def _as_array(name: str, value: Any) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as problem:  # lists of unequal lengths, tensors that numpy cannot take
        raise DataError(
            f"Got {name} that make no array: {problem}. Pass one array, or a pair (train, test) as a tuple of two."
        ) from problem


def _bounds(needs: list[int], available: int) -> list[int]:
    """Where the share of every request begins and ends: what it needs, or in proportion where that is too much."""
    total = sum(needs)
    if total <= available:
        return [0, *np.cumsum(needs).tolist()]
    # One image each, the rest in proportion.
    spare = available - len(needs)
    sizes = [1 + spare * need // total for need in needs]
    return [0, *np.cumsum(sizes).tolist()]
