"""The page of a fitted machine: one self-contained file, made from a plain dictionary by templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from ..machines.scores import beats_constant
from ..plots.alignments import number
from ..plots.candidates import CandidateCurve, candidate_curves, check_machine, importance_rows
from .charts import selection_chart, share_bars
from .environment import environment
from .files import atomic_write
from .machine_tables import SCORES, candidate_table, directions_of, history_table, member_table, score_table

__all__ = ["write_machine_report"]

SHOWN = 20  # columns with a bar
CURVES = 6  # candidates with a curve
MOST = 0.9  # of the dependence, by how many columns and directions it is carried

KERNELS = {
    "laplace": "a Laplace kernel with a full metric",
    "gaussian": "a Gaussian kernel with a full metric",
    "lpq": "a product of Laplace kernels, one a column, each with a weight",
    "quadratic": "squared inner products with a full metric",
    "rotated": "a Laplace kernel of warped columns with a full metric, which may turn the axes",
    "aligned": "a Laplace kernel of warped columns, each with a weight",
    "coordinates": "a product of Laplace kernels of warped columns, one a column, each with a weight",
    "rotated+coordinates": "the mean of two kernels of warped columns: one with a full metric, which may turn the axes "
    "and a product of one a column, each with a weight",
}
COLUMNS = {
    "quantile": "replaced by normal scores of their ranks",
    "uniform": "replaced by their ranks between zero and one",
    "robust": "clipped smoothly about their median",
}


def write_machine_report(machine: Mapping[str, Any], path: str | PathLike[str], *, title: str | None = None) -> None:
    """Write the description of a machine as one page that needs no network, no server and no other file.

    Parameters
    ----------
    machine : mapping
        ``to_dict()`` of a fitted machine, or its JSON read back. Entries that the command line adds are shown too:
        ``test`` (rows, scores, coverage) and, in ``provenance``, data, target, command, date and seconds.
    path : path-like
        Written whole or not at all; the folder must exist.
    title : str, optional
        Heading of the page.

    Raises
    ------
    DataError
        Not a machine.
    OSError
        The file cannot be written.
    """
    about = check_machine(machine)["provenance"]
    selection = machine["selection"]
    curves = [] if selection is None else candidate_curves(selection)
    importances = importance_rows(machine, len(machine["features"]))
    shares = [number(share) for share in machine["direction_shares"]]
    target = about.get("target")
    page = {
        "title": title or (f"{target}, predicted" if target else machine["machine"]),
        "machine": machine,
        "about": {key: value for key, value in about.items() if key != "notes"},
        "chosen": machine["chosen"],
        "members": member_table(machine),
        "kernel": KERNELS.get(machine["chosen"]["kernel"]),
        "columns": COLUMNS.get(machine["chosen"]["columns"]),
        "test": machine.get("test"),
        "held": machine["scores"],
        "tiles": _tiles(machine),
        "better": _better(machine),
        "scores": score_table(machine),
        "score_words": SCORES,
        "bars": share_bars(importances[:SHOWN]),
        "others": len(importances) - len(importances[:SHOWN]),
        "unused": len(machine["features"]) - len(importances),
        "most_columns": _carrying([share for _, share in importances]),
        "most_directions": _carrying(shares),
        "directions": directions_of(machine),
        "candidates": candidate_table(curves) if curves else None,
        "entries": 0 if selection is None else len(selection["table"]),
        "charts": [selection_chart(drawn, "held-out squared error")] if (drawn := _drawn(curves)) else [],
        "gain": _gain(curves),
        "history": history_table(machine),
        "notes": [*machine["notes"], *about.get("notes", [])],
    }
    atomic_write(path, environment().get_template("machine.html").render(page))


def _tiles(machine: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The first two scores of the most honest rows there are."""
    scored = machine.get("test") or machine["scores"]
    if scored is None:
        return []
    return [(SCORES[name][0], scored["scores"][name]) for name in SCORES if name in scored["scores"]][:2]


def _better(machine: Mapping[str, Any]) -> bool:
    """Whether the most honest scores there are beat a constant prediction."""
    scored = machine.get("test") or machine["scores"]
    return scored is not None and beats_constant(scored["scores"])


def _carrying(shares: Sequence[float]) -> int | None:
    """How many of the shares, the largest first, add to most of the whole; None when they do not."""
    total = 0.0
    for place, share in enumerate(shares):
        total += share
        if total >= MOST:
            return place + 1
    return None


def _drawn(curves: Sequence[CandidateCurve]) -> list[CandidateCurve]:
    return [curve for curve in curves if curve.finalist][:CURVES]


def _gain(curves: Sequence[CandidateCurve]) -> tuple[float, float] | None:
    """Scores of the chosen candidate before any AGOP step and where it was stopped; None when that is the same."""
    chosen = next((curve for curve in curves if curve.chosen is not None), None)
    if chosen is None or not chosen.chosen:
        return None
    return chosen.scores[0], chosen.scores[chosen.chosen]
