"""What a tracker recorded, as one curve a layer; numbers only, no figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from ..exceptions import DataError
from .alignments import number

__all__ = ["grows_geometrically", "history_rows", "history_series"]


# What one report contributes to a history, by the names of FeatureReport.frame(): alignment, number in it.
_OF_A_REPORT = {
    "nfa": ("nfa", "value"),
    "nfa_null": ("nfa", "null"),
    "nfa_excess": ("nfa", "excess"),
    "nfa_standard_error": ("nfa", "standard_error"),
    "centered_nfa": ("centered", "value"),
}


def history_rows(history: Any) -> list[dict[str, Any]]:
    """One row a step and layer, whatever the history is kept in. Trivial layers are left out.

    Parameters
    ----------
    history : DataFrame, or iterable
        A frame or rows with ``step``, ``layer`` and quantities; one entry a step, ``{"step": int, "layers": {name:
        {quantity: value}}}``; or pairs of a step and a ``FeatureReport`` or its dictionary.

    Raises
    ------
    DataError
        No rows, or rows of another form.
    """
    if hasattr(history, "to_dict") and hasattr(history, "columns"):
        frame = history if {"step", "layer"} <= set(history.columns) else history.reset_index()
        entries: Iterable[Any] = frame.to_dict("records")
    else:
        entries = history
    rows = [row for entry in entries for row in _rows_of(entry) if not row.get("trivial", False)]
    if not rows:
        raise DataError("Got an empty history, but expected at least one recorded step of a layer.")
    return rows


def _rows_of(entry: Any) -> list[dict[str, Any]]:
    if isinstance(entry, tuple | list) and len(entry) == 2:
        step, report = entry
        layers = (report if isinstance(report, Mapping) else report.to_dict())["layers"]
        return [
            {"step": step, "layer": name, "trivial": layer["trivial"]}
            | {
                quantity: None if layer[key] is None else layer[key][entry]
                for quantity, (key, entry) in _OF_A_REPORT.items()
            }
            for name, layer in layers.items()
        ]
    if isinstance(entry, Mapping) and "step" in entry and "layers" in entry:
        return [{"step": entry["step"], "layer": name, **values} for name, values in entry["layers"].items()]
    if isinstance(entry, Mapping) and "step" in entry and "layer" in entry:
        return [dict(entry)]
    got = sorted(map(str, entry)) if isinstance(entry, Mapping) else type(entry).__name__
    raise DataError(f"Got a history entry with {got}, but expected step and layer, step and layers, or a pair.")


def history_series(history: Any, quantity: str) -> dict[str, tuple[list[float], list[float]]]:
    """Steps and values of one quantity for every layer, in the order of the first record; unmeasured values are nan.

    Raises
    ------
    DataError
        No row has the quantity as a number.
    """
    rows = history_rows(history)
    known = {
        key
        for row in rows
        for key, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    } - {"step"}
    if quantity not in known:
        raise DataError(f"Got quantity={quantity!r}, but expected one of {', '.join(sorted(known))}.")
    series: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        steps, values = series.setdefault(row["layer"], ([], []))
        steps.append(float(row["step"]))
        values.append(number(row.get(quantity)))
    return series


def grows_geometrically(steps: Sequence[float]) -> bool:
    """Whether the steps spread so unevenly that they are read better on a logarithmic axis."""
    gaps = sorted(later - earlier for earlier, later in pairwise(sorted(set(steps))))
    return len(gaps) >= 3 and gaps[-1] >= 8 * gaps[0]
