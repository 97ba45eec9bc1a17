"""What a machine was chosen among, as one curve a candidate; numbers only, no figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..exceptions import DataError
from .alignments import number

__all__ = ["CandidateCurve", "candidate_curves", "check_machine", "importance_rows"]

KEYS = ("kernel", "columns", "bandwidth", "power")


@dataclass(frozen=True)
class CandidateCurve:
    """One candidate along its iterates.

    Attributes
    ----------
    label : str
        What tells it apart from the others.
    entries : tuple of mappings
        Its rows in the table of the selection, by iteration.
    chosen : int or None
        Place in ``entries`` of the iterate that was chosen.
    finalist : bool
        Whether it was scored on the same rows as the chosen one; if not, its scores do not compare with those.
    """

    label: str
    entries: tuple[Mapping[str, Any], ...]
    chosen: int | None
    finalist: bool

    @property
    def steps(self) -> list[int]:
        """Iterations."""
        return [int(entry["iteration"]) for entry in self.entries]

    @property
    def scores(self) -> list[float]:
        """Score of each; smaller is better."""
        return [number(entry["score"]) for entry in self.entries]

    @property
    def errors(self) -> list[float]:
        """Standard error of each, nan where unknown."""
        return [number(entry["standard_error"]) for entry in self.entries]

    @property
    def best(self) -> Mapping[str, Any]:
        """The iterate with the smallest score."""
        return min(self.entries, key=lambda entry: number(entry["score"]))


def candidate_curves(selection: Mapping[str, Any]) -> list[CandidateCurve]:
    """All candidates: the chosen one, then those scored on the same rows, then the others; each by its best score.

    Parameters
    ----------
    selection : mapping
        ``Selection.to_dict()``, or its JSON read back.

    Raises
    ------
    DataError
        Not a selection.
    """
    if not isinstance(selection, Mapping) or not {"table", "chosen"} <= set(selection) or not selection["table"]:
        raise DataError("Got no selection, but expected Selection.to_dict() of a fitted machine.")
    table: Sequence[Mapping[str, Any]] = selection["table"]
    best = table[selection["chosen"]]
    grouped: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for entry in table:
        grouped.setdefault(tuple(entry[key] for key in KEYS), []).append(entry)
    varying = [key for key in KEYS if len({entry[key] for entry in table}) > 1] or ["kernel"]
    curves = []
    for entries in grouped.values():
        chosen = next((i for i, entry in enumerate(entries) if entry is best), None)
        same = all(entries[0][key] == best[key] for key in ("splits", "rows"))
        curves.append(CandidateCurve(_label(entries[0], varying), tuple(entries), chosen, same))
    return sorted(curves, key=lambda curve: (curve.chosen is None, not curve.finalist, number(curve.best["score"])))


def _label(entry: Mapping[str, Any], varying: Sequence[str]) -> str:
    words = {
        "kernel": str(entry["kernel"]),
        "columns": {"none": "as given"}.get(entry["columns"], str(entry["columns"])),
        "bandwidth": str(entry["bandwidth"]),
        "power": f"power {number(entry['power']):g}",
    }
    return ", ".join(words[key] for key in varying)


def importance_rows(machine: Mapping[str, Any], top: int) -> list[tuple[str, float]]:
    """Names and importances of the ``top`` columns, the largest first; columns that count for nothing are left out."""
    pairs = zip(check_machine(machine)["features"], map(number, machine["importances"]), strict=True)
    return [pair for pair in sorted(pairs, key=lambda pair: -pair[1])[:top] if pair[1] > 0]


def check_machine(machine: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same mapping; DataError unless it describes a machine."""
    wanted = {"machine", "task", "features", "importances", "direction_shares", "selection"}
    if not isinstance(machine, Mapping) or not wanted <= set(machine):
        raise DataError(
            f"Got {type(machine).__name__} that describes no machine, but expected to_dict() of a fitted one."
        )
    return machine
