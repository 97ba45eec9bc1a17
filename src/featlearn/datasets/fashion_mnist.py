"""The original files of Fashion-MNIST: where they lie, whether they are the right ones, and how to fetch them."""

from __future__ import annotations

import hashlib
import os
from http.client import HTTPException
from os import PathLike
from pathlib import Path
from urllib.request import urlopen
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from ..exceptions import DataError
from .files import parse_idx, read_content, unpack

__all__ = ["has_fashion_mnist", "read_fashion_mnist"]

URL = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
# Of the unpacked bytes: the same images are packed differently by different publishers.
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
_SECONDS_WITHOUT_ANSWER = 60


def read_fashion_mnist(
    split: str, folder: str | PathLike[str] | None = None, *, download: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (n, 28, 28) and labels (n,) of one split, from files whose checksum is right.

    Parameters
    ----------
    split : {"train", "test"}
    folder : path, optional
        Looked into instead of the usual folders.
    download : bool, default False
        Fetch what is nowhere, into ``folder`` or else the user's cache.

    Raises
    ------
    DataError
        Files that are absent, cannot be fetched, or have other content.
    """
    names = _names(split)
    folders = _folders(folder)
    found = _first_with(names, folders)
    if found is None:
        if not download:
            raise DataError(
                f"Got no folder with {' and '.join(names)} (or .gz), but expected one of: "
                f"{', '.join(map(str, folders))}. Install Debian's package dataset-fashion-mnist, pass folder= or "
                "download=True, or leave folder= and full= away for the subset that comes with featlearn."
            )
        found = folders[-1]
        for name in names:
            _fetch(name, found)
    images, labels = (_read(_file(found, name), name) for name in names)
    return images, labels


def has_fashion_mnist() -> bool:
    """Whether the original files of both splits lie in one of the usual folders."""
    folders = _folders(None)
    return all(_first_with(_names(split), folders) is not None for split in ("train", "test"))


def _names(split: str) -> list[str]:
    return [name for name in SHA256 if name.startswith("train" if split == "train" else "t10k")]


def _folders(folder: str | PathLike[str] | None) -> list[Path]:
    """Where to look, in this order; a download goes to the last."""
    if folder is not None:
        return [Path(folder)]
    data = os.environ.get("FEATLEARN_DATA")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [*([Path(data) / "fashion-mnist"] if data else []), DEBIAN_FOLDER, cache / "featlearn" / "fashion-mnist"]


def _first_with(names: list[str], folders: list[Path]) -> Path | None:
    return next((folder for folder in folders if all(_file(folder, name).exists() for name in names)), None)


def _file(folder: Path, name: str) -> Path:
    packed = folder / f"{name}.gz"
    return packed if packed.exists() else folder / name


def _read(path: Path, name: str) -> NDArray[np.uint8]:
    content = read_content(path)
    _check(content, name, str(path))
    return parse_idx(content, path.name)


def _check(content: bytes, name: str, where: str) -> None:
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256[name]:
        raise DataError(
            f"Got {where} with {len(content)} bytes of SHA-256 {digest} (unpacked), but expected {SHA256[name]}: it is "
            "broken, or not of Fashion-MNIST. Remove it and get it anew."
        )


def _fetch(name: str, folder: Path) -> None:
    """Download one file, look whether it is right, and only then put it into ``folder``, in one step."""
    url = f"{URL}{name}.gz"
    try:
        with urlopen(url, timeout=_SECONDS_WITHOUT_ANSWER) as answer:
            packed: bytes = answer.read()
    except (OSError, HTTPException) as error:  # the second, where an answer ends too early
        raise DataError(
            f"Got no answer from {url}: {error}. Get the file in another way and pass folder= with its folder."
        ) from error
    _check(unpack(packed, url), name, url)
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".{name}.{uuid4().hex}.tmp"
    try:
        beside.write_bytes(packed)
        beside.replace(folder / f"{name}.gz")
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
