"""Columns of a table as a tree needs them: numbers, categories as one column each, nothing missing."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..exceptions import DataError, FeatlearnWarning

__all__ = ["NumberColumns"]

MOST_CATEGORIES = 30


@dataclass(frozen=True)
class NumberColumns:
    """How columns become numbers.

    Attributes
    ----------
    categories : dict of str to list
        By column, in its order: None for numbers, or the entries that have a column of their own. Of two there is one
        column, for the second.
    """

    categories: dict[str, list[Any] | None]

    @classmethod
    def of(cls, table: pd.DataFrame, train: NDArray[np.int64]) -> NumberColumns:
        """Columns of a table, their categories from the training rows.

        Raises
        ------
        DataError
            Gaps, dates, infinite numbers, and categories that no small tree could tell apart.
        """
        found: dict[str, list[Any] | None] = {}
        for name in table.columns:
            column = table[name]
            _check_whole(column, f", or pass --drop {name}")
            if pd.api.types.is_numeric_dtype(column.dtype):
                found[name] = None
                continue
            if pd.api.types.is_datetime64_any_dtype(column.dtype):
                raise DataError(f"Got dates in {name}, but expected numbers or text. Pass --drop {name}.")
            entries = sorted(column.iloc[train].unique().tolist(), key=str)
            if len(entries) > MOST_CATEGORIES:
                raise DataError(
                    f"Got {len(entries)} distinct texts in {name}, but a tree that can be read takes at most "
                    f"{MOST_CATEGORIES}: each becomes an input of its own. Pass --drop {name}, or group them first."
                )
            found[name] = entries
        return cls(found)

    def numbers(self, table: pd.DataFrame) -> pd.DataFrame:
        """The columns, and one of 0 and 1 for every entry of a category; an entry that is not known has 0 in all."""
        made: dict[str, Any] = {}
        for name, entries in self.categories.items():
            if entries is None:
                made[name] = table[name].to_numpy(dtype=np.float64)
                continue
            shown = entries[1:] if len(entries) == 2 else entries
            made |= {f"{name}[{entry}]": (table[name] == entry).to_numpy(dtype=np.float64) for entry in shown}
        return pd.DataFrame(made, index=table.index)

    @property
    def texts(self) -> list[str]:
        """Columns whose entries are text, whatever those of another table look like."""
        return [name for name, entries in self.categories.items() if entries and isinstance(entries[0], str)]

    def new(self, table: pd.DataFrame) -> pd.DataFrame:
        """:meth:`numbers` of rows that were not there when the columns were made, with the same columns.

        Raises
        ------
        DataError
            Gaps, text among numbers, infinite numbers.

        Warns
        -----
        FeatlearnWarning
            Entries of a category that training did not have.
        """
        for name, entries in self.categories.items():
            column = table[name]
            _check_whole(column)
            if entries is not None:
                _warn_of_unknown(column, entries)
            elif not pd.api.types.is_numeric_dtype(column.dtype):
                place = int(pd.to_numeric(column, errors="coerce").isna().to_numpy().argmax())
                raise DataError(
                    f"Got {column.iloc[place]!r} in {name} (row {place + 1} of the data), but expected numbers, as in "
                    "training."
                )
        return self.numbers(table)


def _check_whole(column: pd.Series, or_else: str = "") -> None:
    missing = column.isna().to_numpy()
    if missing.any():
        raise DataError(
            f"Got {missing.sum():,} gaps in {column.name} (the first in row {int(missing.argmax()) + 1} of the data), "
            f"but expected an entry in every row. Fill them, or remove these rows{or_else}."
        )
    if pd.api.types.is_numeric_dtype(column.dtype):
        bad = ~np.isfinite(column.to_numpy(dtype=np.float64))
        if bad.any():
            raise DataError(
                f"Got an infinite number in {column.name} (row {int(bad.argmax()) + 1} of the data), but expected "
                f"finite ones. Remove this row{or_else}."
            )


def _warn_of_unknown(column: pd.Series, entries: list[Any]) -> None:
    unknown = ~column.isin(entries).to_numpy()
    if unknown.any():
        as_what = f"are taken as {entries[0]!r}" if len(entries) == 2 else "count as none of its entries"
        warnings.warn(
            f"Got {column.iloc[int(unknown.argmax())]!r} in {column.name} (row {int(unknown.argmax()) + 1} of the "
            f"data), which training did not have. Such rows, {unknown.sum():,} here, {as_what}.",
            FeatlearnWarning,
            stacklevel=2,
        )
