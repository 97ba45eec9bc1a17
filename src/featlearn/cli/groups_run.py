"""The body of ``featlearn groups``, and how a group report looks on a screen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from numpy.typing import NDArray

from ..exceptions import DataError
from ..plots.group_layout import figure_size, interval_words
from .group_table import crossed_columns, label_of, told_rows
from .outcome import Outcome, text_table, wrapped
from .table_data import read_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["caveat_lines", "figure_size", "fixed", "interval", "run_groups"]


def run_groups(
    path: Path,
    columns: Mapping[str, str],
    names: Sequence[str],
    split: str | None,
    train_path: Path | None,
    told: dict[str, Any],
    outcome: Outcome,
) -> int:
    """Print the report and write what was asked for; 0.

    Parameters
    ----------
    path : Path
    columns : mapping
        "truth" and "predicted".
    names : sequence of str
        Columns that are crossed.
    split : str or None
        Column that says which rows are judged.
    train_path : Path or None
        Table of training rows.
    told : dict
        More arguments of :func:`featlearn.robust.group_report.group_report`.
    outcome : Outcome
    """
    from ..robust.group_report import group_report
    from ..robust.selection import check_selection

    outcome.check([path, train_path])
    try:
        check_selection(told["selection"])
    except DataError as problem:
        raise typer.BadParameter(str(problem).replace("selection=", "--selection ")) from problem
    table, training, note = _judged(read_table(path), names, split, train_path)
    if note is not None:
        outcome.note(note)
    truth, predicted = (label_of(table, columns[key], f"--{key}") for key in ("truth", "predicted"))
    groups = crossed_columns(table, names)
    try:
        with outcome.warned():
            report = group_report(truth, predicted, groups, train_groups=training, **told)
    except DataError as problem:  # files were read and are whole: what is left is the choice of columns
        raise typer.BadParameter(_in_columns(str(problem), columns)) from problem
    outcome.tell(_lines(path, report.to_dict(), names))
    outcome.write(
        report.to_dict(),
        lambda page: report.to_html(page, title=f"Accuracy of every group: {path.name}"),
        figure_size([entry.label for entry in report.entries], 1),
        lambda figure: report.plot(figure.subplots()),
    )
    return 0


def _judged(
    table: pd.DataFrame, names: Sequence[str], split: str | None, train_path: Path | None
) -> tuple[pd.DataFrame, dict[str, NDArray[Any]] | None, str | None]:
    """Rows that are judged, groups of the training rows, and what the user must know of the choice."""
    told = told_rows(table, split, ["test"])
    training = None if train_path is None else crossed_columns(read_table(train_path), names, f"({train_path}) --group")
    if told is None:
        return table, training, None
    if len(told.train):
        if train_path is not None:
            raise typer.BadParameter(
                f"Got --train-groups {train_path}, but the table has training rows too. Leave one of them out."
            )
        training = crossed_columns(table.iloc[told.train], names)
    rest = len(table) - len(told.test)
    weigh = f" {len(told.train):,} training rows weigh a mean." if len(told.train) else ""
    note = f"{len(told.test):,} test rows are judged, {told.how}; {rest:,} others are not.{weigh}" if rest else None
    return table.iloc[told.test], training, note


def _in_columns(message: str, columns: Mapping[str, str]) -> str:
    """The message with the names that the command line has."""
    words = {"y_true": f"--truth {columns['truth']}", "y_pred": f"--predicted {columns['predicted']}"}
    for ours, theirs in words.items():
        message = message.replace(ours, theirs)
    return message


def _lines(path: Path, report: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    weighted = any(math.isfinite(entry["train_share"]) for entry in report["groups"])
    head = [
        "group",
        "n",
        "correct",
        "accuracy",
        interval_words(report["confidence"]),
        *(["of training"] if weighted else []),
        "",
    ]
    rows = [
        [
            entry["label"],
            f"{entry['n']:,}",
            f"{entry['n_correct']:,}",
            fixed(entry["accuracy"]),
            interval(entry["low"], entry["high"]),
            *([f"{entry['train_share']:.1%}"] if weighted else []),
            "worst" if entry["label"] == report["worst_group"] else "" if entry["n"] else "no rows",
        ]
        for entry in report["groups"]
    ]
    crossed = " x ".join(dict.fromkeys(names))
    return [
        f"{path}: {report['n']:,} rows, {len(rows)} groups of {crossed}",
        "",
        *text_table(head, rows, texts=(0, -1), optional=[2, *([5] if weighted else [])]),
        "",
        *wrapped(report["summary"].splitlines()),
        "",
        *caveat_lines(report["caveats"]),
    ]


def caveat_lines(caveats: Sequence[str]) -> list[str]:
    """What to beware of, a line each."""
    return wrapped([f"- {caveat}" for caveat in caveats], "  ")


def fixed(value: float) -> str:
    """Three decimals; a dash for what is not defined."""
    return f"{value:.3f}" if math.isfinite(value) else "-"


def interval(low: float, high: float) -> str:
    """``0.913 to 0.951``."""
    return f"{low:.3f} to {high:.3f}" if math.isfinite(low) and math.isfinite(high) else "-"
