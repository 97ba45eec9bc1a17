"""A fitted machine on a terminal: its scores, and under them what was chosen and what matters."""

from __future__ import annotations

import math
import shutil
import textwrap
from collections.abc import Mapping
from typing import IO, Any

import typer

from ..machines.scores import beats_constant
from .tables import UNLIMITED, count

__all__ = ["machine_lines", "measured", "print_machine", "score_lines"]

NAMES = {
    "r2": "R2",
    "rmse": "RMSE",
    "mae": "mean error",
    "accuracy": "accuracy",
    "log_loss": "log loss",
    "brier": "Brier score",
}
SHOWN = 6  # columns that are named


def print_machine(told: Mapping[str, Any], stream: IO[str]) -> None:
    """Print ``to_dict()`` of a machine, as wide as the terminal allows."""
    width = shutil.get_terminal_size().columns if stream.isatty() else UNLIMITED
    lines = machine_lines(told)
    scores = score_lines(told)
    text = [textwrap.fill(lines[0], width), "", *([*scores, ""] if scores else [])]
    text += [textwrap.fill(line, width) for line in lines[1:]]
    typer.echo("\n".join(text), file=stream)


def score_lines(told: Mapping[str, Any]) -> list[str]:
    """Table of the scores: test rows, held-out rows, and the best constant prediction of the former; or nothing."""
    test, held = told.get("test"), told["scores"]
    sides = [(f"{name} ({scored['rows']:,} rows)", scored["scores"]) for name, scored in
             (("test", test), ("held out", held)) if scored]  # fmt: skip
    if not sides:
        return []
    names = [name for name in NAMES if name in sides[0][1]]
    columns = [[label, *(_score(scores.get(name)) for name in names)] for label, scores in sides]
    columns.append(["constant", *(_short(sides[0][1][name]["constant"]) for name in names)])
    rows = [["", *(NAMES[name] for name in names)], *columns]
    widths = [max(map(len, column)) for column in rows]
    return [
        "  ".join(cell.ljust(width) if not place else cell.rjust(width) for place, (cell, width) in
                  enumerate(zip(cells, widths, strict=True))).rstrip()
        for cells in zip(*rows, strict=True)
    ]  # fmt: skip


def machine_lines(told: Mapping[str, Any]) -> list[str]:
    """What the machine is, in sentences: task, scores, choice, columns, notes, cost."""
    about, chosen, selection = told["provenance"], told["chosen"], told["selection"]
    what = f"{about['target']} of {about['data']}" if "target" in about else told["machine"]
    kind = told["task"] if told["classes"] is None else f"{told['task']}, {len(told['classes'])} classes"
    lines = [f"{what}: {kind}, {count(told['rows'], 'training row')}, {count(len(told['features']), 'column')}."]
    if told.get("test"):
        lines.append("Test rows were set aside before anything else and used for nothing else.")
    if told["scores"]:
        entries = len(selection["table"])
        lines.append(
            f"Held-out rows ({told['scores']['how']}) chose the machine, best of {entries} candidates and iterates: "
            "that flatters it a little."
        )
    scored = told.get("test") or told["scores"]
    if not scored:
        lines.append("No rows were held out: nothing says how good the predictions are.")
    elif not beats_constant(scored["scores"]):
        lines.append("That is not clearly better than a constant prediction (by two standard errors).")
    coverage = (told.get("test") or {}).get("coverage")
    if coverage:
        held = measured(coverage["value"], coverage["standard_error"])
        lines.append(f"Intervals of level {coverage['level']:g} ({told['intervals']}) held {held} of the test targets.")
    columns = "as given" if chosen["columns"] == "none" else chosen["columns"]
    lines.append(
        f"Chosen: kernel {chosen['kernel']}, columns {columns}, ridge {chosen['alpha']:g}, power {chosen['power']:g}, "
        f"{count(chosen['iteration'], 'AGOP step')}."
    )
    lines.append(_importances(told))
    lines += [f"Note: {note}" for note in told["notes"]]
    if "seconds" in about:
        lines.append(f"{about['seconds']:.1f} s on {about['device']}.")
    return lines


def _importances(told: Mapping[str, Any]) -> str:
    pairs = sorted(zip(told["features"], told["importances"], strict=True), key=lambda pair: -pair[1])
    used = [(name, share) for name, share in pairs if share > 0]
    if not used:
        return "No column matters: the predictions are constant."
    shown, others = used[:SHOWN], used[SHOWN:]
    text = ", ".join(f"{name} {_percent(share)}" for name, share in shown)
    rest = f"; {count(len(others), 'other')} {_percent(sum(share for _, share in others))}" if others else ""
    return f"Columns that matter: {text}{rest}."


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 else "<1%"


def _score(entry: Mapping[str, float] | None) -> str:
    return "-" if entry is None else measured(entry["value"], entry["standard_error"])


def measured(value: float, error: float) -> str:
    """A value with its standard error, both to the second digit of the error."""
    if not (math.isfinite(error) and error > 0):
        return _short(value)
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}" if digits <= 6 else f"{value:.3g} ± {error:.2g}"


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 or not math.isfinite(value) else f"{value:.0f}"
