"""The numeric block of encoded columns: medians for gaps, curves, centre and scale, and indicators of gaps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..exceptions import DataError
from .tables import Table, column_place, row_chunks
from .transforms import Curves, Sample, curves_from_dict, fit_curves

__all__ = ["NumericBlock", "fit_numeric"]

Vector = NDArray[np.float64]

GROUP_NUMBERS = 2**25  # float64 numbers of the columns that are sorted together (256 MB)


@dataclass(frozen=True, eq=False)
class NumericBlock:
    """What was learned from the q numeric input columns, of which r vary and s had gaps.

    Attributes
    ----------
    positions : array of shape (q,)
        Their places among the input columns.
    kept, gaps : arrays of shape (q,), bool
        Columns that vary in training; columns that had gaps there, and so get an indicator.
    fill : array of shape (q,)
        Training medians, put in for gaps; 0 where they were not needed.
    curves : Curves or None
        Of the r columns that vary.
    mean, scale : arrays of shape (r,)
        Encoded is (curve - mean) / scale.
    spread : array of shape (r + s,)
        Standard deviations of the encoded columns over the training rows.
    """

    positions: NDArray[np.int64]
    kept: NDArray[np.bool_]
    gaps: NDArray[np.bool_]
    fill: Vector
    curves: Curves | None
    mean: Vector
    scale: Vector
    spread: Vector

    @property
    def input_of(self) -> NDArray[np.int64]:
        """Input column of each encoded one: first those that vary, then the indicators."""
        return np.concatenate([self.positions[self.kept], self.positions[self.gaps]])

    def encode(self, numbers: Vector) -> Vector:
        """Encoded rows (m, r + s) of the numbers (m, q) that :func:`read_numbers` gave."""
        values = _curved(numbers[:, self.kept], self.fill[self.kept], self.curves)
        values -= self.mean
        values /= self.scale
        return np.concatenate([values, np.isnan(numbers[:, self.gaps])], axis=1)

    def new_gaps(self, numbers: Vector) -> NDArray[np.int64]:
        """Input columns that are encoded without an indicator and have a gap here."""
        return self.positions[self.kept & ~self.gaps & np.isnan(numbers).any(axis=0)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        arrays = {name: getattr(self, name).tolist() for name in self.__dataclass_fields__ if name != "curves"}
        return arrays | {"curves": None if self.curves is None else self.curves.to_dict()}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> NumericBlock:
        """Block that :meth:`to_dict` described."""
        kinds = {"positions": np.int64, "kept": np.bool_, "gaps": np.bool_}
        arrays: dict[str, Any] = {
            name: np.array(values, dtype=kinds.get(name, np.float64))
            for name, values in plain.items()
            if name != "curves"
        }
        return cls(**arrays, curves=None if plain["curves"] is None else curves_from_dict(plain["curves"]))


def read_numbers(table: Table, rows: slice, positions: NDArray[np.int64], *, missing: str) -> Vector:
    """Numbers (m, q) of these rows; DataError at infinity, and at NaN unless ``missing`` is "indicator"."""
    numbers = table.numbers(rows, positions)
    if np.isfinite(numbers).all():
        return numbers
    bad = np.isinf(numbers)
    if not bad.any() and missing == "indicator":
        return numbers
    bad = bad if bad.any() else np.isnan(numbers)
    row, j = np.argwhere(bad)[0].tolist()
    place = column_place(int(positions[j]), table.labels)
    advice = (
        "Impute it, or use columns=Columns(missing='indicator')."
        if np.isnan(numbers[row, j])
        else "Clip it, or replace it by NaN and use columns=Columns(missing='indicator')."
    )
    raise DataError(
        f"Got {'NaN' if np.isnan(numbers[row, j]) else numbers[row, j]} in row {rows.start + row}, {place} of X, but "
        f"expected finite numbers. {advice}"
    )


def fit_numeric(
    table: Table,
    positions: NDArray[np.int64],
    weights: Vector | None,
    *,
    standardize: bool,
    missing: str,
    transform: str,
) -> NumericBlock:
    """Block of the columns at ``positions``, from the rows of positive weight.

    Three passes over the rows at most, in chunks: ranges; medians and curves, where asked, by groups of columns; means
    and deviations.
    """
    low, high, share = _ranges(table, positions, weights, missing)
    with np.errstate(over="ignore"):
        # Numbers a few roundings apart are one number.
        kept = high - low > 8 * np.finfo(np.float64).eps * np.maximum(np.abs(low), np.abs(high))
    fill, curves = np.zeros(len(positions)), None
    if missing == "indicator" or transform != "none":
        samples = _samples(table, positions[kept], weights)
        if transform == "none":
            fill[kept] = [sample.quantile(0.5) for sample in samples]
        else:
            curves = fit_curves(transform, _noting_medians(samples, fill, kept))
    mean, deviation = _moments(table, positions[kept], weights, fill[kept], curves)
    if not np.isfinite(deviation).all():
        place = column_place(int(positions[kept][~np.isfinite(deviation)][0]), table.labels)
        raise DataError(
            f"Got numbers in {place} of X that are so large that their variance overflows, but expected a finite one. "
            "Rescale the column or take logarithms."
        )
    gaps = (share > 0) & (share < 1)
    indicators = np.sqrt(share[gaps] * (1 - share[gaps]))
    if not standardize:
        mean, scale, spread = np.zeros_like(mean), np.ones_like(mean), deviation
    else:
        scale, spread = deviation, np.ones_like(deviation)
    return NumericBlock(positions, kept, gaps, fill, curves, mean, scale, np.concatenate([spread, indicators]))


def _curved(values: Vector, fill: Vector, curves: Curves | None) -> Vector:
    filled = np.where(np.isnan(values), fill, values)
    return filled if curves is None else curves(filled)


def _weighted_chunks(
    table: Table, positions: NDArray[np.int64], weights: Vector | None, missing: str
) -> Iterator[tuple[Vector, Vector]]:
    """Pairs (numbers, weights) over chunks of the rows of positive weight."""
    for rows in row_chunks(table.n_rows, table.n_columns):
        numbers = read_numbers(table, rows, positions, missing=missing)
        weight = np.ones(len(numbers)) if weights is None else weights[rows]
        yield numbers[weight > 0], weight[weight > 0]


def _ranges(
    table: Table, positions: NDArray[np.int64], weights: Vector | None, missing: str
) -> tuple[Vector, Vector, Vector]:
    """Smallest and largest number of each column, and the share of weight on gaps."""
    low, high = np.full(len(positions), np.inf), np.full(len(positions), -np.inf)
    absent, total = np.zeros(len(positions)), 0.0
    for numbers, weight in _weighted_chunks(table, positions, weights, missing):
        low = np.fmin(low, np.fmin.reduce(numbers, axis=0, initial=np.inf))
        high = np.fmax(high, np.fmax.reduce(numbers, axis=0, initial=-np.inf))
        absent += weight @ np.isnan(numbers)
        total += weight.sum()
    return low, high, absent / total


def _samples(table: Table, positions: NDArray[np.int64], weights: Vector | None) -> Iterator[Sample]:
    """One sample a column, one after the other: all of them together would be twice the data."""
    step = max(1, GROUP_NUMBERS // table.n_rows)
    for start in range(0, len(positions), step):
        group = positions[start : start + step]
        numbers = np.empty((len(group), table.n_rows))
        for rows in row_chunks(table.n_rows, table.n_columns):
            numbers[:, rows] = table.numbers(rows, group).T
        yield from (Sample.of(column, weights) for column in numbers)


def _noting_medians(samples: Iterator[Sample], fill: Vector, kept: NDArray[np.bool_]) -> Iterator[Sample]:
    """The samples as they pass, their medians written to the places of ``fill`` that are ``kept``."""
    for j, sample in zip(np.flatnonzero(kept).tolist(), samples, strict=True):
        fill[j] = sample.quantile(0.5)
        yield sample


def _moments(
    table: Table, positions: NDArray[np.int64], weights: Vector | None, fill: Vector, curves: Curves | None
) -> tuple[Vector, Vector]:
    """Weighted mean and standard deviation of the filled and curved columns, by merging the moments of chunks."""
    mean, squares, total = np.zeros(len(positions)), np.zeros(len(positions)), 0.0
    for numbers, weight in _weighted_chunks(table, positions, weights, "indicator"):
        values, here = _curved(numbers, fill, curves), float(weight.sum())
        if not here:
            continue
        with np.errstate(over="ignore", invalid="ignore"):  # the caller looks at the result
            middle = weight @ values / here
            step = middle - mean
            squares += weight @ (values - middle) ** 2 + step**2 * (total * here / (total + here))
            mean += step * (here / (total + here))
        total += here
    return mean, np.sqrt(squares / total)
