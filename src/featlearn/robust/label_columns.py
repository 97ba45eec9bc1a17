"""Columns of labels at the door: whole numbers, words or booleans, in rows that match."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..exceptions import DataError

__all__ = ["check_order", "label_column", "plain_array"]


def label_column(values: Any, name: str, *, whole: bool = True) -> NDArray[Any]:
    """One column of labels as an array: whole numbers, booleans or words.

    Parameters
    ----------
    values : array, Series, tensor or sequence of shape (n,)
        Whole floating-point numbers become integers.
    name : str
        What messages call it.
    whole : bool, default True
        Refuse numbers that are not whole.

    Returns
    -------
    array of shape (n,)

    Raises
    ------
    DataError
        Another number of axes, no rows, a missing value, numbers that are not whole or exceed 64 bits, or dates.
    """
    import pandas as pd

    array = plain_array(values, name)
    if array.ndim != 1:
        raise DataError(f"Got {name} of shape {array.shape}, but expected one label a row: shape (n,).")
    if not len(array):
        raise DataError(f"Got no rows in {name}, but expected at least one.")
    missing = np.flatnonzero(pd.isna(array))
    if len(missing):
        raise DataError(
            f"Got missing values in {name} ({len(missing)} in all, the first in row {missing[0]}), but expected a "
            "label in every row. Leave those rows out, or give them a label of their own."
        )
    if array.dtype.kind == "O":  # of numbers it hides whether they are whole
        array = pd.Series(array).infer_objects().to_numpy()
    if array.dtype.kind not in "biufOSUT":
        raise DataError(
            f"Got {array.dtype} in {name}, but expected whole numbers, words or booleans. Make words of it with "
            "astype(str)."
        )
    if array.dtype.kind == "f" and whole:
        numbers = array.astype(np.float64)
        fine = (np.abs(numbers) < 2.0**63) & (numbers == np.rint(numbers))
        if not fine.all():
            raise DataError(
                f"Got {array[~fine][0]} in {name}, but expected whole numbers (of 64 bits), words or booleans. Round "
                "or bin them."
            )
        return numbers.astype(np.int64)
    return array


def check_order(**columns: Any) -> None:
    """Refuse columns with indices (pandas) that hold the same labels in different orders.

    Parameters
    ----------
    **columns : array, Series, DataFrame, or tuple or mapping of them
        By the names that messages call them. Rows are matched by position; columns without an index are left alone.

    Raises
    ------
    DataError
        It names the first two.
    """
    import pandas as pd

    parts = [pair for name, given in columns.items() for pair in _parts(name, given)]
    indexed = [(name, part.index) for name, part in parts if isinstance(getattr(part, "index", None), pd.Index)]
    for (first, mine), (second, other) in combinations(indexed, 2):
        if len(mine) == len(other) and not mine.equals(other) and Counter(mine) == Counter(other):
            raise DataError(
                f"Got {first} and {second} with the same index in different orders, but expected rows that match by "
                f"position. Reorder one of them ({second}.loc[{first}.index]), or drop both with "
                "reset_index(drop=True) if they do match."
            )


def plain_array(values: Any, name: str) -> NDArray[Any]:
    """Any array, Series, tensor or nested sequence as an array.

    Raises
    ------
    DataError
        Sequences of different lengths; the message calls them by ``name``.
    """
    try:
        return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    except ValueError:
        raise DataError(f"Got rows of different lengths in {name}, but expected one shape for all.") from None


def _parts(name: str, given: Any) -> list[tuple[str, Any]]:
    if isinstance(given, tuple):
        return [(f"{name}[{place}]", part) for place, part in enumerate(given)]
    if isinstance(given, Mapping):
        return [(f"{name}[{key!r}]", part) for key, part in given.items()]
    return [(name, given)]
