"""One-hot blocks of categorical columns."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..exceptions import DataError, FeatlearnWarning
from .tables import Kind, Level, Table, column_place, row_chunks

__all__ = ["CategoryBlock", "fit_category"]

FEW_LEVELS = 20  # text that reads as so few numbers may well be codes


@dataclass(frozen=True)
class CategoryBlock:
    """What was learned from one categorical column.

    Attributes
    ----------
    position : int
        Its place among the input columns.
    kind : "text", "number" or "bool"
        What its levels are; truth values are kept as 0.0 and 1.0.
    levels : tuple of floats or of text
        Levels with a column of their own, ascending.
    missing : bool
        Whether missing entries have a column of their own, the last one.
    shares : tuple of float
        Share of the training weight on each encoded column.
    others : int
        Levels that were seen but are too rare for a column; they share the zero block with those never seen.
    """

    position: int
    kind: str
    levels: tuple[Level, ...]
    missing: bool
    shares: tuple[float, ...]
    others: int

    @property
    def width(self) -> int:
        """Encoded columns."""
        return len(self.levels) + self.missing

    @property
    def spread(self) -> NDArray[np.float64]:
        """Standard deviations of the encoded columns over the training rows."""
        shares = np.array(self.shares)
        return np.asarray(np.sqrt(shares * (1 - shares)))

    def names(self, column: str) -> list[str]:
        """Names of the encoded columns, given that of the input column."""
        return [f"{column}={self._shown(level)}" for level in self.levels] + [f"{column} is missing"] * self.missing

    def _shown(self, level: Level) -> str:
        if isinstance(level, str):
            return level
        if self.kind == "bool":
            return str(bool(level))
        return str(int(level)) if level.is_integer() else repr(level)

    def codes(self, values: list[Level | None], place: str) -> NDArray[np.int64]:
        """Encoded column of each value, counted from the first of the block; -1 for the zero block.

        DataError for a text where levels are numbers, and the other way round: that is another column, or was read
        from a file in another way, and would pass for a level never seen.
        """
        lookup: dict[Level | None, int] = {level: code for code, level in enumerate(self.levels)}
        if self.missing:
            lookup[None] = len(self.levels)
        codes = np.fromiter((lookup.get(value, -1) for value in values), np.int64, len(values))
        for row in np.flatnonzero(codes < 0).tolist():
            value = values[row]
            if value is not None and isinstance(value, str) != (self.kind == "text"):
                raise DataError(
                    f"Got {value!r} in {place} of X, but expected {'text' if self.kind == 'text' else 'numbers'}, as "
                    f"in fit (levels {_listed(self.levels)}). Convert the column to the type it had there."
                )
        return codes

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"levels": list(self.levels), "shares": list(self.shares)}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> CategoryBlock:
        """Block that :meth:`to_dict` described."""
        return cls(**(plain | {"levels": tuple(plain["levels"]), "shares": tuple(plain["shares"])}))


def fit_category(
    table: Table,
    position: int,
    kind: Kind,
    weights: NDArray[np.float64] | None,
    *,
    missing: str,
    max_levels: int | None,
) -> CategoryBlock:
    """Block of one column, from the rows of positive weight."""
    place = column_place(position, table.labels)
    mass = _level_mass(table, position, weights)
    total = sum(mass.values())
    absent = mass.pop(None, 0.0)
    if absent and missing == "error":
        raise DataError(
            f"Got a missing entry in {place} of X, but expected a category in every row. Name the missing category, "
            "or use columns=Columns(missing='indicator')."
        )
    if any(isinstance(level, float) and math.isinf(level) for level in mass):
        raise DataError(f"Got an infinite category in {place} of X, but expected text or finite numbers. Replace it.")
    if kind == "text" and len(mass) > max(FEW_LEVELS, table.n_rows / 2) and all(map(_reads_as_number, mass)):
        warnings.warn(
            f"Got text in {place} of X that reads as numbers, {len(mass)} different ones: each is taken as a category "
            "of its own, and none that training did not have tells anything. Convert the column to numbers first.",
            FeatlearnWarning,
            stacklevel=2,
        )
    # Ties in frequency go to the smaller level, whatever order the rows have.
    ascending = sorted(mass)  # type: ignore[type-var]  # one kind a column: the table saw to it
    frequent = sorted(ascending, key=lambda level: -mass[level])[:max_levels]
    levels = tuple(level for level in sorted(frequent) if level is not None)  # type: ignore[type-var]
    return CategoryBlock(
        position=position,
        kind=kind if kind in ("text", "bool") else "number",
        levels=levels,
        missing=absent > 0,
        shares=tuple(mass[level] / total for level in levels) + ((absent / total,) if absent else ()),
        others=len(ascending) - len(levels),
    )


def _reads_as_number(level: Level | None) -> bool:
    try:
        float(str(level))
    except ValueError:
        return False
    return True


def _level_mass(table: Table, position: int, weights: NDArray[np.float64] | None) -> dict[Level | None, float]:
    """Weight on each level; None stands for missing."""
    number: dict[Level | None, int] = {}
    mass = np.zeros(0)
    for rows in row_chunks(table.n_rows, 1):
        values = table.values(rows, position)
        codes = np.fromiter((number.setdefault(value, len(number)) for value in values), np.int64, len(values))
        weight = np.ones(len(codes)) if weights is None else weights[rows]
        here = np.asarray(np.bincount(codes, weight, minlength=len(number)), dtype=np.float64)
        here[: len(mass)] += mass
        mass = here
    return {level: float(mass[code]) for level, code in number.items() if mass[code] > 0}


def _listed(levels: tuple[Level, ...]) -> str:
    shown = ", ".join(map(repr, levels[:5]))
    return shown if len(levels) <= 5 else f"{shown}, ..."
