"""Where data files lie, and how idx files read."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Callable
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..exceptions import DataError

__all__ = ["data_file", "data_folder", "parse_idx", "read_content", "read_idx", "unpack"]


def data_folder(folder: str | PathLike[str] | None, room: str) -> Path:
    """``folder`` if given, else ``room`` in the folder that ``FEATLEARN_DATA`` names; ``DataError`` without either."""
    if folder is not None:
        return Path(folder)
    root = os.environ.get("FEATLEARN_DATA")
    if not root:
        raise DataError(
            f"Got neither folder= nor the environment variable FEATLEARN_DATA, but expected one of them to say where "
            f"the files lie. Pass folder=, or set FEATLEARN_DATA to the folder that holds {room!r}."
        )
    return Path(root) / room


def data_file(folder: Path, pattern: str) -> Path:
    """The one file of ``folder`` that matches the glob ``pattern``; ``DataError`` if there is none."""
    found = sorted(folder.glob(pattern))
    if not found:
        raise DataError(
            f"Got folder {str(folder)!r}, but expected it to hold {pattern}. Pass folder= with these files."
        )
    return found[0]


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Array of an idx file of bytes, plain or gzipped.

    Parameters
    ----------
    path : Path
        Two zero bytes, the type 0x08, the number of axes, one big-endian 32-bit length an axis, then the entries.

    Raises
    ------
    DataError
        The file does not read so.
    """
    return parse_idx(read_content(path), path.name)


def read_content(path: Path) -> bytes:
    """What a file holds, unpacked where its name ends in ``.gz``; ``DataError`` if it cannot be read."""
    content = _attempt(path.read_bytes, path.name)
    return unpack(content, path.name) if path.suffix == ".gz" else content


def unpack(content: bytes, name: str) -> bytes:
    """``content`` without its gzip; ``DataError`` if it is none."""
    return _attempt(lambda: gzip.decompress(content), name)


def _attempt(read: Callable[[], bytes], name: str) -> bytes:
    try:
        return read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"Got {name}, but expected an idx file of bytes: {error}. Get it anew.") from error


def parse_idx(content: bytes, name: str) -> NDArray[np.uint8]:
    """Array of the content of an idx file; ``DataError`` that tells ``name`` if it is none."""
    try:
        zero, kind, rank = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{rank}I", content, 4)
        if (zero, kind) != (0, 8):
            raise ValueError(f"it starts with the bytes {content[:4]!r}")
        return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (ValueError, struct.error) as error:
        raise DataError(f"Got {name}, but expected an idx file of bytes: {error}. Get it anew.") from error
