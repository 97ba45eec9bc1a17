"""Tables named on the command line: read, with their target apart, and a part of the rows set aside."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import typer
from numpy.typing import NDArray

from .._random import generator
from ..exceptions import DataError

__all__ = ["TableSplit", "column_named", "read_table", "split_rows", "target_of", "task_of"]

PARQUET = (".parquet", ".pq")
SEPARATORS = {".csv": None, ".tsv": "\t"}
MOST_CLASSES = 10  # distinct whole numbers that are taken as classes
SOME = 8  # columns named in a message


def read_table(path: Path, texts: Collection[str] = ()) -> pd.DataFrame:
    """Table of a .csv, .tsv or .parquet file; a first column without a name, as pandas writes its index, is left out.

    Parameters
    ----------
    path : Path
        A .csv file may be separated by commas, semicolons or tabs: whichever its first line has most of.
    texts : collection of str
        Columns that are text, even if all their entries look like numbers.

    Raises
    ------
    DataError
        Missing, empty, damaged, or of another kind.
    """
    if path.suffix.lower() not in (*SEPARATORS, *PARQUET):
        raise DataError(f"Got {path}, but expected a .csv, .tsv or .parquet file.")
    if not path.is_file():
        what = "which is a folder" if path.is_dir() else "but there is no such file"
        raise DataError(f"Got {path}, {what}: expected a .csv, .tsv or .parquet file.")
    table = _read_parquet(path) if path.suffix.lower() in PARQUET else _read_text(path, texts)
    table.columns = [str(label) for label in table.columns]
    if table.columns.has_duplicates:
        twice = table.columns[table.columns.duplicated()][0]
        raise DataError(f"Got {path} with two columns {twice!r}, but expected different names. Rename one.")
    if not len(table) or not table.shape[1]:
        raise DataError(f"Got {path} with {len(table)} rows and {table.shape[1]} columns, but expected some of both.")
    for name in set(texts) & set(table):
        there = table[name].notna()
        table[name] = table[name].astype(object).where(~there, table[name].astype(str))
    return table


def _read_text(path: Path, texts: Collection[str]) -> pd.DataFrame:
    try:
        separator = SEPARATORS[path.suffix.lower()] or _separator(path)
        table = pd.read_csv(path, sep=separator, dtype=dict.fromkeys(texts, str), low_memory=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"Got {path}, which cannot be read as a table: {str(error).strip()}.") from error
    return table.drop(columns=[label for label in table.columns[:1] if str(label) == "Unnamed: 0"])


def _separator(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        header = file.readline()
    return max(",;\t", key=lambda mark: (header.count(mark), mark == ","))


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise DataError(f"Got {path}, which cannot be read as a parquet file: {str(error).strip()}.") from error


def column_named(table: pd.DataFrame, name: str, option: str) -> str:
    """The name itself; BadParameter, with what comes near to it, if the table has no such column."""
    if name in table.columns:
        return name
    near = difflib.get_close_matches(name, table.columns, SOME, 0.5) or list(table.columns[:SOME])
    raise typer.BadParameter(
        f"Got {option} {name}, but there is no such column. Some of the {table.shape[1]}: {', '.join(near)}."
    )


def task_of(target: pd.Series, task: str) -> tuple[str, str | None]:
    """Regression or classification, and a remark where numbers were taken as classes.

    "auto": text, truth values, and up to ten distinct whole numbers are classes.
    """
    if task != "auto":
        return task, None
    if not pd.api.types.is_numeric_dtype(target.dtype) or pd.api.types.is_bool_dtype(target.dtype):
        return "classification", None
    values = target.dropna().unique()
    if len(values) > MOST_CLASSES or not np.equal(np.mod(values.astype(float), 1), 0).all():
        return "regression", None
    return "classification", (
        f"{target.name} has {len(values)} distinct whole numbers, which were taken as classes; to predict it as a "
        "number pass --task regression"
    )


def target_of(target: pd.Series, task: str) -> NDArray[Any]:
    """Numbers (n,), or labels (n,) of one type.

    Raises
    ------
    DataError
        Rows without a target; text where numbers were asked for; nearly as many classes as rows.
    """
    missing = target.isna().to_numpy()
    if missing.any():
        raise DataError(
            f"Got {missing.sum()} rows without {target.name} (the first is row {int(missing.argmax()) + 1} of the "
            "data), but expected a target in every row. Remove these rows."
        )
    if task == "regression":
        if not pd.api.types.is_numeric_dtype(target.dtype):
            bad = pd.to_numeric(target, errors="coerce").isna().to_numpy().argmax()
            raise DataError(
                f"Got {target.iloc[bad]!r} as {target.name} in row {bad + 1} of the data, but expected numbers for "
                "--task regression."
            )
        return target.to_numpy(dtype=np.float64)
    labels = np.array(target.tolist())
    if labels.dtype.kind == "f" and np.equal(np.mod(labels, 1), 0).all():
        labels = labels.astype(np.int64)
    classes = len(np.unique(labels))
    if classes > max(2, len(labels) // 2):
        raise DataError(
            f"Got {classes} distinct values of {target.name} in {len(labels)} rows, but expected classes with several "
            "rows each. Choose another --target, or --task regression if it is a number: that names what is none."
        )
    return labels


@dataclass(frozen=True)
class TableSplit:
    """Rows to train on, and rows set aside for the test."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]


def split_rows(y: NDArray[Any], task: str, test_fraction: float, most: int, seed: int) -> TableSplit:
    """Rows drawn by ``seed``; of every class the same share is set aside, rounded down, so that none is lost.

    Parameters
    ----------
    y : array of shape (n,)
    task : str
    test_fraction : float
        Share of all rows for the test, in [0, 1).
    most : int
        Training rows at most, of those that are left; 0 for all.
    seed : int

    Raises
    ------
    DataError
        Fewer than two rows on one of the sides.
    """
    order = torch.randperm(len(y), generator=generator(seed, "test")).numpy()
    groups: Sequence[NDArray[np.int64]] = [order]
    if task == "classification":
        groups = [order[y[order] == label] for label in np.unique(y)]
    counts = [int(test_fraction * len(group) + 1e-9) for group in groups]
    test = np.concatenate([group[:count] for group, count in zip(groups, counts, strict=True)])
    train = np.setdiff1d(order, test)
    if len(train) < 2 or (test_fraction > 0 and len(test) < 2):
        raise DataError(
            f"Got {len(y)} rows, of which --test-fraction {test_fraction:g} makes {len(test)} test rows and "
            f"{len(train)} training rows, but expected two of each. Use more data, or --test-fraction 0."
        )
    if most and len(train) > most:
        train = train[torch.randperm(len(train), generator=generator(seed, "rows")).numpy()[:most]]
    return TableSplit(np.sort(train), np.sort(test))
