"""Readers of image data sets: files in, ``ImageData`` out; nothing is downloaded unasked."""

from __future__ import annotations

import io
import zipfile
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..exceptions import DataError
from .fashion_mnist import read_fashion_mnist
from .files import data_file, data_folder, read_idx
from .image_data import ImageData

__all__ = ["load_cifar10_jpeg", "load_fashion_mnist", "load_mnist"]

FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
BUNDLED = Path(__file__).parent / "data" / "fashion_mnist_subset.npz"
DIGITS = tuple("0123456789")


def load_fashion_mnist(
    split: str = "train",
    *,
    n: int | None = None,
    folder: str | PathLike[str] | None = None,
    full: bool = False,
    download: bool = False,
) -> ImageData:
    """Fashion-MNIST, 28x28 grey images of ten kinds of clothes; by default the subset that comes with featlearn.

    Parameters
    ----------
    split : {"train", "test"}
        The subset has the first 400 training and the first 100 test images of every class, in the order of the original
        files: 4,000 and 1,000 images.
    n : int, optional
        Only the first ``n`` images.
    folder : path, optional
        Folder with the original ``*-ubyte`` or ``*-ubyte.gz`` files: 60,000 and 10,000 images.
    full : bool, default False
        The original files even without ``folder``. They are looked for in ``fashion-mnist`` of the folder that the
        environment variable ``FEATLEARN_DATA`` names; where Debian's package ``dataset-fashion-mnist`` puts them; and
        in the user's cache: ``featlearn/fashion-mnist`` in ``XDG_CACHE_HOME``, by default ``~/.cache``.
    download : bool, default False
        The original files, fetched if they are in none of these places, into ``folder`` or else the cache.

    Returns
    -------
    ImageData

    Raises
    ------
    DataError
        Unknown split, fewer than ``n`` images, or files that are absent, cannot be fetched, or are not the original
        ones.

    Notes
    -----
    Original files are recognised by the SHA-256 of their unpacked bytes; a download is checked before it is written,
    and put in its place in one step.

    References
    ----------
    Xiao, Rasul and Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms,
    arXiv:1708.07747. MIT licence.

    Examples
    --------
    >>> load_fashion_mnist("train")
    ImageData('Fashion-MNIST (subset)', 'train', 4000 images of shape (1, 28, 28))
    """
    _check_split(split)
    if full or download or folder is not None:
        images, labels = read_fashion_mnist(split, folder, download=download)
        return _image_data(images[:, None], labels, n, FASHION_CLASSES, "Fashion-MNIST", split)
    with np.load(BUNDLED, allow_pickle=False) as stored:
        images, labels = stored[f"{split}_images"], stored[f"{split}_labels"]
    return _image_data(images[:, None], labels, n, FASHION_CLASSES, "Fashion-MNIST (subset)", split)


def load_mnist(split: str = "train", *, n: int | None = None, folder: str | PathLike[str] | None = None) -> ImageData:
    """MNIST, 28x28 grey images of handwritten digits, from the four original files.

    Parameters
    ----------
    split : {"train", "test"}
        60,000 and 10,000 images.
    n : int, optional
        Only the first ``n`` images.
    folder : path, optional
        Folder with the four ``*-ubyte`` or ``*-ubyte.gz`` files. Default: ``mnist`` in the folder that the environment
        variable ``FEATLEARN_DATA`` names.

    Returns
    -------
    ImageData

    Raises
    ------
    DataError
        Unknown split, fewer than ``n`` images, or files that are absent or not of the idx format.
    """
    return _load_idx(data_folder(folder, "mnist"), split, n, DIGITS, "MNIST")


def load_cifar10_jpeg(
    split: str = "train", *, n: int | None = None, folder: str | PathLike[str] | None = None
) -> ImageData:
    """CIFAR-10 (JPEG): 32x32 colour photographs of ten classes that were recompressed as JPEG.

    Parameters
    ----------
    split : {"train", "test"}
        20,000 and 4,000 images, shuffled, in file order.
    n : int, optional
        Only the first ``n`` images; only these are decoded.
    folder : path, optional
        Folder with ``cifar10_jpeg_24k.npz``. Default: ``cifar10_jpeg`` in the folder that the environment variable
        ``FEATLEARN_DATA`` names.

    Returns
    -------
    ImageData

    Raises
    ------
    DataError
        Unknown split, fewer than ``n`` images, or a file that is absent or not of this format.

    Notes
    -----
    Compression costs accuracy: never compare with published CIFAR-10 numbers. Decodes several thousand images a second.
    """
    from PIL import Image

    _check_split(split)
    path = data_file(data_folder(folder, "cifar10_jpeg"), "cifar10_jpeg_24k.npz")
    try:
        with np.load(path, allow_pickle=False) as stored:
            blob, offsets, is_test = stored["blob"], stored["offsets"], stored["is_test"]
            labels, classes = stored["labels"], tuple(str(label) for label in stored["classes"])
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"Got {path.name}, but expected an npz of JPEG files with offsets: {error}.") from error
    chosen = np.flatnonzero(is_test == (split == "test"))[:n]
    files = (blob[offsets[i] : offsets[i + 1]].tobytes() for i in chosen)
    images = np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])
    return _image_data(images.transpose(0, 3, 1, 2), labels[chosen], n, classes, "CIFAR-10 (JPEG)", split)


def _check_split(split: str) -> None:
    if split not in ("train", "test"):
        raise DataError(f"Got split={split!r}, but expected 'train' or 'test'.")


def _load_idx(folder: Path, split: str, n: int | None, classes: tuple[str, ...], name: str) -> ImageData:
    _check_split(split)
    prefix = "train" if split == "train" else "t10k"
    images = read_idx(data_file(folder, f"{prefix}-images-idx3-ubyte*"))
    labels = read_idx(data_file(folder, f"{prefix}-labels-idx1-ubyte*"))
    return _image_data(images[:, None], labels, n, classes, name, split)


def _image_data(
    images: NDArray[np.uint8],
    labels: NDArray[np.integer],
    n: int | None,
    classes: tuple[str, ...],
    name: str,
    split: str,
) -> ImageData:
    if len(images) != len(labels):
        raise DataError(f"Got {len(images)} images but {len(labels)} labels of {name}, but expected as many.")
    if n is not None and not 1 <= n <= len(images):
        raise DataError(f"Got n={n}, but expected 1 to {len(images)}: the {split} images of {name}.")
    pixels = torch.from_numpy(np.array(images[:n]))
    return ImageData(pixels, torch.from_numpy(labels[:n].astype(np.int64)), classes, name, split)
