"""One row a layer: correlation, chance level and error bar; numbers only, no figure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..exceptions import DataError

__all__ = ["AlignmentRow", "alignment_rows", "check_report", "number"]

NAN = float("nan")


def number(value: Any) -> float:
    """A number of a report; ``None``, which is how JSON keeps nan, reads as nan."""
    return NAN if value is None else float(value)


def check_report(report: Any) -> Mapping[str, Any]:
    """The report itself, once it is known to be one.

    Raises
    ------
    DataError
        Not a mapping as ``FeatureReport.to_dict()`` makes it.
    """
    missing = {"layers", "skipped", "summary", "provenance"} - set(report if isinstance(report, Mapping) else ())
    if missing:
        got = (
            f"a mapping without {', '.join(sorted(missing))}" if isinstance(report, Mapping) else type(report).__name__
        )
        raise DataError(f"Got {got}, but expected FeatureReport.to_dict(), or its JSON read back.")
    return report


@dataclass(frozen=True)
class AlignmentRow:
    """Correlation of one layer beside its chance level. Undefined numbers are nan.

    Attributes
    ----------
    layer : str
    value, low, high : float
        Correlation, and the ends of its 95% interval.
    null, null_sd : float
        Chance level, and its standard deviation.
    excess, error : float
        Excess over chance, and its standard error.
    standard_error : float
        Standard error of ``value``.
    verdict : {"above", "below", "at", "unknown"}
        Where the value lies, seen from chance.
    """

    layer: str
    value: float
    low: float
    high: float
    null: float
    null_sd: float
    excess: float
    error: float
    standard_error: float
    verdict: str

    @property
    def band(self) -> tuple[float, float]:
        """Two standard deviations of chance about its mean; nan when the deviation is unknown."""
        return self.null - 2 * self.null_sd, self.null + 2 * self.null_sd

    @property
    def extent(self) -> list[float]:
        """Every finite number that a figure of this row must show."""
        return [x for x in (self.value, self.low, self.high, self.null, *self.band) if math.isfinite(x)]


def alignment_rows(report: Mapping[str, Any], key: str = "nfa") -> list[AlignmentRow]:
    """Rows of all layers where the correlation was measured and says something, in order of execution.

    Parameters
    ----------
    report : mapping
        ``FeatureReport.to_dict()``.
    key : {"nfa", "nfa_half", "centered", "derivative"}
        Which correlation. Trivial layers are left out.
    """
    layers = check_report(report)["layers"]
    return [_row(name, layer[key]) for name, layer in layers.items() if not layer["trivial"] and layer[key] is not None]


def _row(name: str, alignment: Mapping[str, Any]) -> AlignmentRow:
    keys = ("null", "null_sd", "excess", "excess_standard_error", "standard_error")
    low, high = alignment["interval"]
    null, null_sd, excess, error, standard_error = (number(alignment[key]) for key in keys)
    return AlignmentRow(
        name,
        number(alignment["value"]),
        number(low),
        number(high),
        null,
        null_sd,
        excess,
        error,
        standard_error,
        alignment["verdict"],
    )
