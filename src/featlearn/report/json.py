"""Strict JSON of plain dictionaries: numbers that are not finite become ``null``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

import numpy as np

from .files import atomic_write

__all__ = ["dump_json", "write_json"]


def dump_json(obj: Any) -> str:
    """One line of JSON that every reader accepts.

    Parameters
    ----------
    obj : mapping, sequence, number, string or None, nested
        numpy numbers and arrays become numbers and lists, tuples lists, paths strings. JSON has no nan or infinity:
        they become ``null``, which ``from_dict`` of every result reads as nan.

    Returns
    -------
    str
        Floats are written so that they read back exactly.

    Raises
    ------
    TypeError
        An object of another kind, with the place where it was found.
    """
    return json.dumps(_plain(obj, "the object"), allow_nan=False, ensure_ascii=False)


def write_json(obj: Any, path: str | PathLike[str]) -> None:
    """Write :func:`dump_json` to a file, whole or not at all.

    Raises
    ------
    TypeError
        As for ``dump_json``; nothing is written.
    OSError
        As for :func:`featlearn.report.files.atomic_write`.
    """
    atomic_write(path, dump_json(obj) + "\n")


def _plain(obj: Any, place: str) -> Any:
    if obj is None or isinstance(obj, str | bool | int):
        return obj
    if isinstance(obj, float):
        return float(obj) if math.isfinite(obj) else None
    if isinstance(obj, np.ndarray | np.generic):
        return _plain(obj.tolist(), place)
    if isinstance(obj, Mapping):
        wrong = next((key for key in obj if not isinstance(key, str)), None)
        if wrong is not None:
            raise TypeError(f"Got the key {wrong!r} in {place}, but expected strings as keys.")
        return {key: _plain(value, f"{place}[{key!r}]") for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_plain(value, f"{place}[{index}]") for index, value in enumerate(obj)]
    if isinstance(obj, PathLike):
        return fspath(obj)
    raise TypeError(f"Got {type(obj).__name__} as {place}, but expected plain numbers, strings, lists and mappings.")
