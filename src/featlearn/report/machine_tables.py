"""Tables of the page of a machine: scores, candidates, directions, steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from ..plots.alignments import number
from ..plots.candidates import CandidateCurve
from .numbers import NOTHING, count, fixed, general, measured, name
from .tables import Column, Row, Table

__all__ = ["SCORES", "Direction", "candidate_table", "directions_of", "history_table", "member_table", "score_table"]

SCORES = {
    "r2": ("R²", "Share of the target's variance that is explained: one is perfect, zero no better than the mean."),
    "rmse": ("RMSE", "Root of the mean squared error, in units of the target."),
    "mae": ("mean error", "Mean of the absolute errors, in units of the target."),
    "accuracy": ("accuracy", "Share of the rows whose class is predicted."),
    "log_loss": ("log loss", "Mean of −log p, p the probability given to the true class; smaller is better."),
    "brier": ("Brier score", "Squared distance of the probabilities from the truth, zero to two; smaller is better."),
}
AS_GIVEN = {"none": "as given"}
SHOWN_DIRECTIONS = 6
SHOWN_COLUMNS = 6
NEGLIGIBLE = 1e-3  # share from which a direction is worth a line
SMALL = 0.15  # entries of a unit vector that are not worth a word


def score_table(machine: Mapping[str, Any]) -> Table | None:
    """Held-out and test scores beside those of a constant prediction; ``None`` when there are neither."""
    held = (machine["scores"] or {}).get("scores", {})
    test = (machine.get("test") or {}).get("scores", {})
    scored = [score for score in SCORES if score in held or score in test]
    if not scored:
        return None
    columns = []
    if test:
        columns.append(
            Column("test", "On rows set aside before anything else, ± one standard error.", lambda x: _score(x["test"]))
        )
    if held:
        meaning = "On the rows by which the machine was chosen, ± one standard error."
        columns.append(Column("held out", meaning, lambda x: _score(x["held"])))
    constant = "Of the best constant prediction for the same rows: what it takes to be better than nothing."
    columns.append(Column("constant", constant, lambda x: general((x["test"] or x["held"])["constant"])))
    rows = []
    for score in scored:
        entry = {"test": test.get(score), "held": held.get(score)}
        heading = Markup('<span title="{}">{}</span>').format(SCORES[score][1], SCORES[score][0])
        rows.append(Row(score, heading, [column.cell(entry) for column in columns], False))
    return Table("Scores", columns, rows)


def _score(entry: Mapping[str, Any] | None) -> Markup:
    return NOTHING if entry is None else measured(entry["value"], entry["standard_error"])


def candidate_table(curves: Sequence[CandidateCurve]) -> Table:
    """Best iterate of every candidate, the chosen one first; grey where the scores are of other rows."""
    columns = [
        Column("steps", "AGOP steps of its best iterate.", lambda x: count(x["iteration"])),
        Column("ridge", "Ridge of that iterate.", lambda x: general(x["alpha"])),
        Column(
            "score",
            "Squared error on left-out rows, summed over outputs, over the mean square of the targets; ± one standard "
            "error. Classes are targets of zero and one minus their share.",
            lambda x: measured(x["score"], x["standard_error"]),
        ),
        Column("splits", "How many times it was fitted and scored.", lambda x: count(x["splits"])),
        Column("rows", "To which it was fitted each time.", lambda x: count(x["rows"])),
    ]
    rows = []
    for curve in curves:
        entry = curve.best if curve.chosen is None else curve.entries[curve.chosen]
        words = Markup("<strong>{}</strong>") if curve.chosen is not None else Markup("{}")
        heading = words.format(name(curve.label))
        rows.append(Row(curve.label, heading, [column.cell(entry) for column in columns], not curve.finalist))
    return Table("Candidates", columns, rows)


def member_table(machine: Mapping[str, Any]) -> Table | None:
    """The machines that are averaged; None where there is one alone."""
    columns = [
        Column("weight", "Share in the predictions.", lambda x: fixed(x["weight"], 2)),
        Column("kernel", "What measures how alike rows are.", lambda x: name(str(x["kernel"]))),
        Column(
            "columns", "What is done to numbers first.", lambda x: name(AS_GIVEN.get(x["columns"], str(x["columns"])))
        ),
        Column("power", "Of the AGOP.", lambda x: general(x["power"])),
        Column("steps", "AGOP steps.", lambda x: count(x["iteration"])),
        Column("ridge", "Added to the diagonal of the kernel matrix.", lambda x: general(x["alpha"])),
    ]
    members = machine.get("members", [])
    if len(members) < 2:
        return None
    rows = [
        Row(str(place), count(place), [column.cell(member) for column in columns], False)
        for place, member in enumerate(members, 1)
    ]
    return Table("Averaged machines", columns, rows)


def history_table(machine: Mapping[str, Any]) -> Table:
    """Every step of the final fit."""
    columns = [
        Column("ridge", "Added to the diagonal of the kernel matrix.", lambda x: general(x["alpha"])),
        Column("bandwidth", "Of each kernel, in the metric of the step.", _bandwidths),
        Column(
            "training error",
            "Squared error on the rows it was fitted to, over the mean square of the targets: no measure of quality.",
            lambda x: general(x["train_score"]),
        ),
        Column("change", "Relative change to the next metric.", lambda x: general(x["metric_change"])),
        Column("solver", "Why the solver of the ridge system stopped.", lambda x: escape(x["solver_reason"])),
        Column("seconds", "Of the step.", lambda x: fixed(x.get("seconds"), 2)),
    ]
    rows = [
        Row(str(entry["iteration"]), count(entry["iteration"]), [column.cell(entry) for column in columns], False)
        for entry in machine["history"]
    ]
    return Table("Steps of the final fit", columns, rows)


def _bandwidths(entry: Mapping[str, Any]) -> Markup:
    found = entry["bandwidth"]
    return Markup(", ").join(general(x) for x in (found if isinstance(found, list | tuple) else [found]))


@dataclass(frozen=True)
class Direction:
    """One eigenvector of the AGOP among the input columns: its share, that of all so far, and its largest entries."""

    share: float
    together: float
    entries: list[tuple[str, float]]
    others: int


def directions_of(machine: Mapping[str, Any]) -> list[Direction]:
    """The leading directions, as far as they have a share to speak of."""
    found: list[Direction] = []
    shares = [number(share) for share in machine["direction_shares"]]
    for j, (share, vector) in enumerate(zip(shares, machine["directions"], strict=True)):
        if j == SHOWN_DIRECTIONS or not share > (NEGLIGIBLE if j else 0):
            break
        pairs = sorted(zip(machine["features"], map(number, vector), strict=True), key=lambda pair: -abs(pair[1]))
        large = [pair for pair in pairs if abs(pair[1]) >= SMALL] or pairs[:1]
        shown = large[:SHOWN_COLUMNS]
        found.append(Direction(share, math.fsum(shares[: j + 1]), shown, len(large) - len(shown)))
    return found
