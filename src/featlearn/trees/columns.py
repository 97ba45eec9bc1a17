"""Columns of X that cannot be used, refused by name."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..exceptions import DataError

__all__ = ["check_finite", "check_numbers"]

NUMBERS = "biuf"  # kinds of numpy's types that are real numbers


def check_numbers(X: Any) -> None:
    """Refuse a DataFrame with columns that hold no numbers.

    Raises
    ------
    DataError
        With the names of words, categories that are none, and dates.
    """
    # A DataFrame can only exist once pandas has been imported, so looking for it need not import it.
    pandas = sys.modules.get("pandas")
    if pandas is None or not isinstance(X, pandas.DataFrame):
        return
    bad = [str(X.columns[i]) for i in range(X.shape[1]) if not _holds_numbers(X.iloc[:, i])]
    if bad:
        raise DataError(
            f"Got X with the columns {', '.join(map(repr, bad))} that hold no numbers, but expected numbers. Encode or "
            "drop them."
        )


def _holds_numbers(column: Any) -> bool:
    if getattr(column.dtype, "kind", "O") in NUMBERS:
        return True
    try:
        column.astype(np.float64)
    except (TypeError, ValueError):
        return False
    return True


def check_finite(X: NDArray[np.float64], names: NDArray[Any] | None) -> None:
    """Refuse NaN and infinity in X (n, d), naming the first column that has them.

    Raises
    ------
    DataError
        With row and column of the first entry, and how many there are.
    """
    bad = ~np.isfinite(X)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        label = f"column {column}" if names is None else f"column {names[column]!r}"
        kind = "NaN" if np.isnan(X[row, column]) else "inf (infinity)"
        raise DataError(
            f"Got {kind} in {label} of X (row {row}; {int(bad.sum())} such entries in {int(bad.any(axis=0).sum())} "
            "columns), but expected finite numbers. Impute them, or drop these rows."
        )
