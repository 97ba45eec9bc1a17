"""A table of any kind read in chunks of rows: numbers of some columns, or the plain values of one column."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..exceptions import DataError

__all__ = ["EntryTypeError", "Kind", "Level", "Table", "as_table", "column_place", "missing_entries", "row_chunks"]

Level = float | str
"""A value of a categorical column, plain enough for JSON."""

Kind = Literal["number", "bool", "text", "levels"]
"""What a column holds: numbers; truth values; text; or numbers that pandas calls categories."""

CHUNK_ROWS = 65_536
CHUNK_NUMBERS = 2**22  # float64 numbers of one chunk (32 MB), however many columns there are


class EntryTypeError(DataError, TypeError):
    """An entry is neither a number nor text; a TypeError too, as scikit-learn's contract asks."""


class Table(Protocol):
    """Rows and columns of data, whatever holds them; missing entries are NaN among numbers and None among values."""

    @property
    def n_rows(self) -> int:
        """Samples."""

    @property
    def n_columns(self) -> int:
        """Input columns."""

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the columns, where all of them are text."""

    def kind(self, column: int) -> Kind:
        """What the column holds; DataError if that is of no use."""

    def numbers(self, rows: slice, columns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Numbers of these rows and columns, float64 and a copy."""

    def values(self, rows: slice, column: int) -> list[Level | None]:
        """Values of one column as floats or text."""


def as_table(X: Any) -> Table:
    """Table of a tensor, an array or memmap, a pandas DataFrame or a nested sequence, of shape (n, d).

    Nothing is copied here, apart from sequences.

    Raises
    ------
    DataError
        ``X`` has not two axes, no row or no column, is sparse, complex, masked or made of dates or bytes.
    """
    # An object of pandas can only exist once pandas has been imported, so looking for it need not import it.
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(X, pandas.DataFrame):
        _check_shape(X.shape)
        texts = all(isinstance(label, str) for label in X.columns)
        return _Frame(X, len(X), X.shape[1], tuple(X.columns) if texts else None)
    if isinstance(X, torch.Tensor):
        if X.layout != torch.strided:
            raise DataError("Got X as a sparse tensor, but expected a dense one. Pass X.to_dense().")
        _check_complex(X.is_complex())
        _check_shape(tuple(X.shape))
        return _Numbers(X.detach(), *X.shape)
    return _array_table(X)


def _array_table(X: Any) -> Table:
    if hasattr(X, "tocsr"):
        raise DataError("Got X as a sparse matrix, but expected a dense array. Pass X.toarray().")
    if isinstance(X, np.ma.MaskedArray):
        raise DataError("Got X as a masked array, but expected missing entries as NaN. Pass X.filled(numpy.nan).")
    try:
        array = np.asarray(X)
        if array.dtype.kind == "U" and not isinstance(X, np.ndarray):
            # Among lists, one text would turn every number of every column into text.
            array = np.array(X, dtype=object)
    except (TypeError, ValueError) as error:  # ragged sequences, tensors of a device inside a list
        raise DataError(f"Got X of type {type(X).__name__}, but expected a table: {error}") from error
    _check_complex(array.dtype.kind == "c")
    _check_shape(array.shape)
    if array.dtype.kind in "biuf":
        return _Numbers(array, *array.shape)
    if array.dtype.kind in "OUT":
        return _Objects(array.astype(object, copy=False), *array.shape)
    raise DataError(f"Got X of dtype {array.dtype}, but expected {_EXPECTED}. {_ADVICE}")


_EXPECTED = "numbers, text, truth values or categories"
_ADVICE = "Turn dates into numbers (days since a fixed date, say), decode bytes, and drop what holds no data."


def _check_shape(shape: Sequence[int]) -> None:
    if len(shape) != 2:
        raise DataError(
            f"Got X of shape {tuple(shape)}, but expected two axes, (samples, columns). Reshape your data: "
            "X.reshape(-1, 1) if it is one column, X.reshape(1, -1) if it is one sample."
        )
    if 0 in shape:
        empty = "sample(s)" if shape[0] == 0 else "feature(s)"
        raise DataError(f"Got X with 0 {empty} (shape={tuple(shape)}) while a minimum of 1 is required.")


def _check_complex(is_complex: bool) -> None:
    if is_complex:
        raise DataError("Got complex numbers. Complex data not supported: pass real and imaginary part as columns.")


def row_chunks(n_rows: int, width: int) -> Iterator[slice]:
    """Slices over ``n_rows`` rows of ``width`` numbers; their length depends on the width only."""
    step = max(1, min(CHUNK_ROWS, CHUNK_NUMBERS // max(1, width)))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


@dataclass(frozen=True)
class _Numbers:
    """Real numbers in an array, a memmap or a tensor; missing ones are NaN."""

    data: Any
    n_rows: int
    n_columns: int
    labels: tuple[str, ...] | None = None

    def kind(self, column: int) -> Kind:
        return "number"

    def numbers(self, rows: slice, columns: NDArray[np.int64]) -> NDArray[np.float64]:
        chunk = self.data[rows]
        if isinstance(chunk, torch.Tensor):
            chunk = chunk.cpu().double().numpy()
        everything = len(columns) == self.n_columns and np.array_equal(columns, np.arange(self.n_columns))
        return np.array(chunk if everything else chunk[:, columns], dtype=np.float64)

    def values(self, rows: slice, column: int) -> list[Level | None]:
        return _numbers_or_none(self.numbers(rows, np.array([column]))[:, 0])


@dataclass(frozen=True)
class _Objects:
    """Python objects in an array: every column has a kind of its own."""

    data: NDArray[Any]
    n_rows: int
    n_columns: int
    labels: tuple[str, ...] | None = None

    def kind(self, column: int) -> Kind:
        return _object_kind(self.data[:, column], column_place(column, None))

    def numbers(self, rows: slice, columns: NDArray[np.int64]) -> NDArray[np.float64]:
        chunk = self.data[rows]
        numbers = np.empty((len(chunk), len(columns)))
        for place, j in enumerate(columns.tolist()):
            numbers[:, place] = _object_numbers(chunk[:, j], column_place(j, None))
        return numbers

    def values(self, rows: slice, column: int) -> list[Level | None]:
        return _object_values(self.data[rows, column], column_place(column, None))


@dataclass(frozen=True)
class _Frame:
    """A pandas DataFrame: columns by position, so that equal or unusual labels do no harm."""

    data: Any
    n_rows: int
    n_columns: int
    labels: tuple[str, ...] | None = None

    def kind(self, column: int) -> Kind:
        series = self.data.iloc[:, column]
        place = column_place(column, self.labels)
        if _is_category(series):
            return "levels" if all(_is_number(type(level)) for level in series.cat.categories) else "text"
        kind = getattr(series.dtype, "kind", "O")
        if kind in "iuf":
            return "number"
        if kind == "b":
            return "bool"
        _check_complex(kind == "c")
        if kind in "mM":
            raise DataError(f"Got {place} of dtype {series.dtype}, but expected {_EXPECTED}. {_ADVICE}")
        return _object_kind(series.to_numpy(dtype=object), place)

    def numbers(self, rows: slice, columns: NDArray[np.int64]) -> NDArray[np.float64]:
        numbers = np.empty((len(range(self.n_rows)[rows]), len(columns)))
        for place, j in enumerate(columns.tolist()):
            numbers[:, place] = self._column(rows, j)
        return numbers

    def values(self, rows: slice, column: int) -> list[Level | None]:
        series = self.data.iloc[rows, column]
        if _is_category(series):
            levels = [_plain(level) for level in series.cat.categories]
            if not all(isinstance(level, float) for level in levels):
                levels = [str(level) for level in series.cat.categories]
            # Code -1 is a missing entry.
            return [None if code < 0 else levels[code] for code in series.cat.codes.tolist()]
        if getattr(series.dtype, "kind", "O") in "biuf":
            return _numbers_or_none(self._column(rows, column))
        return _object_values(series.to_numpy(dtype=object), column_place(column, self.labels))

    def _column(self, rows: slice, column: int) -> NDArray[np.float64]:
        series = self.data.iloc[rows, column]
        if getattr(series.dtype, "kind", "O") in "biuf" and not _is_category(series):
            return np.array(series.to_numpy(dtype=np.float64, na_value=np.nan))
        return _object_numbers(np.asarray(series, dtype=object), column_place(column, self.labels))


def column_place(column: int, labels: tuple[str, ...] | None) -> str:
    """How messages call a column."""
    return f"column {column}" if labels is None else f"column {labels[column]!r}"


def _is_category(series: Any) -> bool:
    return isinstance(series.dtype, sys.modules["pandas"].CategoricalDtype)


def _is_number(kind: type) -> bool:
    return issubclass(kind, Real | Decimal | np.bool_)


def missing_entries(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which entries of an array (n,) are None, NaN, or what pandas puts for them."""
    pandas = sys.modules.get("pandas")
    if pandas is not None:
        return np.asarray(pandas.isna(values), dtype=bool)
    return np.array([value is None or (isinstance(value, float) and value != value) for value in values], dtype=bool)


def _entry_types(values: NDArray[Any], place: str) -> set[type]:
    """Types of the entries that are there; EntryTypeError for anything but numbers and text."""
    present = values[~missing_entries(values)]
    types = set(map(type, present))
    for kind in types:
        if not (_is_number(kind) or issubclass(kind, str)):
            raise EntryTypeError(
                f"Got an entry of type {kind.__name__} in {place} of X, but an argument must be a string or a number. "
                f"{_ADVICE}"
            )
    texts = {kind for kind in types if issubclass(kind, str)}
    if texts and texts != types:
        text = next(value for value in present if isinstance(value, str))
        raise DataError(
            f"Got both numbers and text in {place} of X (for example {text!r}), but expected one of the two. Replace "
            "marks of missing entries by NaN, or turn the whole column into text."
        )
    return types


def _object_kind(values: NDArray[Any], place: str) -> Kind:
    types = _entry_types(values, place)
    if types and all(issubclass(kind, str) for kind in types):
        return "text"
    return "bool" if types and types <= {bool, np.bool_} else "number"


def _object_numbers(values: NDArray[Any], place: str) -> NDArray[np.float64]:
    if any(issubclass(kind, str) for kind in _entry_types(values, place)):
        text = next(value for value in values if isinstance(value, str))
        raise DataError(
            f"Got the text {text!r} in {place} of X, but expected numbers. Convert the column, or encode it."
        )
    missing = missing_entries(values)
    numbers = np.full(len(values), np.nan)
    numbers[~missing] = values[~missing].astype(np.float64)
    return numbers


def _object_values(values: NDArray[Any], place: str) -> list[Level | None]:
    _entry_types(values, place)
    missing = missing_entries(values).tolist()
    return [None if gone else _plain(value) for value, gone in zip(values, missing, strict=True)]


def _plain(value: Any) -> Level:
    return float(value) if _is_number(type(value)) else str(value)


def _numbers_or_none(numbers: NDArray[np.float64]) -> list[Level | None]:
    return [None if number != number else number for number in numbers.tolist()]
