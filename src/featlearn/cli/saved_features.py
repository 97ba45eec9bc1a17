"""Features that were saved: arrays by name in files of numpy or safetensors, in tables, or in a folder of them."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import typer
from numpy.typing import NDArray

from ..exceptions import DataError
from .table_data import read_table

__all__ = ["SavedFeatures", "find_features"]

TABLES = (".csv", ".tsv", ".parquet")
SUFFIXES = (".npy", ".npz", ".safetensors", *TABLES)
Read = Callable[[], NDArray[Any]]


class SavedFeatures:
    """Arrays that are read when they are asked for.

    Parameters
    ----------
    path : Path
        For messages.
    sources : mapping of str to callable
        What reads an array, by its name.
    """

    def __init__(self, path: Path, sources: Mapping[str, Read]) -> None:
        self.path = path
        self._sources = dict(sources)

    @property
    def names(self) -> list[str]:
        """In the order of numbers where names hold them: "epoch 2" before "epoch 10"."""
        return sorted(self._sources, key=_natural)

    def chosen(self, wanted: Sequence[str]) -> list[str]:
        """The names themselves.

        Raises
        ------
        typer.BadParameter
            One of them is not there.
        """
        for name in wanted:
            if name not in self._sources:
                raise typer.BadParameter(
                    f"Got --layer {name}, but {self.path} holds {', '.join(self.names)}. Name one of these."
                )
        return list(dict.fromkeys(wanted))

    def read(self, name: str, n: int) -> NDArray[Any]:
        """One array as (n, d): axes after the first are flattened.

        Raises
        ------
        DataError
            It cannot be read, has another number of rows, or holds no real numbers.
        """
        try:
            array = self._sources[name]()
        except DataError:
            raise
        except Exception as problem:  # the readers of three formats have no error in common
            raise DataError(
                f"Got {self.path}, of which {name!r} cannot be read: {str(problem).splitlines()[0]}. Save plain "
                "arrays, with numpy.save or safetensors."
            ) from problem
        if array.ndim < 2 or array.dtype.kind not in "fiub" or not array.size:
            raise DataError(
                f"Got features {name!r} of shape {array.shape} and dtype {array.dtype} in {self.path}, but expected "
                "real numbers of shape (n, d)."
            )
        if len(array) != n:
            raise DataError(
                f"Got {len(array):,} rows of features {name!r} in {self.path}, but --groups has {n:,}. Save one row a "
                "sample, in the order of that table."
            )
        return array.reshape(n, -1)


def find_features(path: Path, besides: Path) -> SavedFeatures:
    """What a file or folder holds, without reading the numbers.

    Parameters
    ----------
    path : Path
        A file of one array (.npy, a table) or of several by name (.npz, .safetensors); or a folder of such files,
        whose arrays are called by their file, and by their own name too where it has several.
    besides : Path
        A file that is no features wherever it lies: the table of groups.

    Raises
    ------
    DataError
        Nothing there, another kind of file, damage, or two files with one name.
    """
    if path.is_dir():
        files = [
            file
            for file in sorted(path.iterdir())
            if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.resolve() != besides.resolve()
        ]
        if not files:
            raise DataError(f"Got {path}, which holds no features ({', '.join(SUFFIXES)}). Save one file a layer.")
        found: dict[str, Read] = {}
        for file in files:
            arrays = _arrays_of(file)
            for key, read in arrays.items():
                name = file.stem if len(arrays) == 1 else f"{file.stem}.{key}"
                if name in found:
                    raise DataError(f"Got two files called {name} in {path}, but expected one a layer. Move one away.")
                found[name] = read
        return _some(path, found)
    if not path.is_file():
        raise DataError(f"Got {path}, but there is no such file or folder.")
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"Got {path}, but expected a folder, or a file ending in {', '.join(SUFFIXES)}.")
    return _some(path, _arrays_of(path))


def _some(path: Path, found: Mapping[str, Read]) -> SavedFeatures:
    if not found:
        raise DataError(f"Got {path}, which holds no array. Save one a layer.")
    return SavedFeatures(path, found)


def _arrays_of(file: Path) -> dict[str, Read]:
    kind = file.suffix.lower()
    if kind == ".npy":
        return {file.stem: lambda: np.load(file, mmap_mode="r", allow_pickle=False)}
    if kind in TABLES:
        return {file.stem: partial(_read_numbers, file)}
    from safetensors import SafetensorError, safe_open

    try:
        if kind == ".npz":
            with np.load(file, allow_pickle=False) as archive:
                return {key: partial(_read_member, file, key) for key in archive.files}
        with safe_open(file, "np") as tensors:
            return {key: partial(_read_tensor, file, key) for key in tensors.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, ValueError, zipfile.BadZipFile, SafetensorError) as problem:
        raise DataError(
            f"Got {file}, which cannot be read: {str(problem).splitlines()[0]}. Save it again."
        ) from problem


def _read_member(file: Path, key: str) -> NDArray[Any]:
    with np.load(file, allow_pickle=False) as archive:
        array: NDArray[Any] = archive[key]
        return array


def _read_tensor(file: Path, key: str) -> NDArray[Any]:
    from safetensors import safe_open

    # By way of torch, which knows bfloat16.
    with safe_open(file, "pt") as tensors:
        array: NDArray[Any] = tensors.get_tensor(key).float().numpy()
        return array


def _read_numbers(file: Path) -> NDArray[Any]:
    table = read_table(file)
    texts = [name for name, dtype in table.dtypes.items() if dtype.kind not in "fiub"]
    if texts:
        raise DataError(f"Got the column {texts[0]} of {file} with entries that are no numbers, but expected features.")
    array: NDArray[Any] = table.to_numpy(dtype=np.float64)
    return array


def _natural(name: str) -> list[tuple[int, int | str]]:
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]
