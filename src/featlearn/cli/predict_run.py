"""The parts of ``featlearn predict``: the machine or tree, the rows, the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import typer

from ..exceptions import DataError
from .output_files import STANDARD_OUTPUT, check_writable
from .table_data import read_table
from .table_model import TableModel, read_model

__all__ = ["load_model", "predictions_of", "write_predictions"]


def load_model(path: Path, proba: bool, interval: float | None, output: str) -> TableModel:
    """The machine or tree, once it is known that it can give what is asked for and that it can be written.

    Raises
    ------
    ModelError
        No machine and no tree there.
    typer.BadParameter
        What it cannot give.
    """
    if output != STANDARD_OUTPUT:
        check_writable(Path(output), "--output")
    if interval is not None and not 0 < interval < 1:
        raise typer.BadParameter(f"Got --interval {interval}, but expected a number between 0 and 1, such as 0.9.")
    model = read_model(path)
    if proba and not model.classifies:
        raise typer.BadParameter(f"Got --proba for a {model.what} that predicts numbers, but expected one for classes.")
    if interval is not None and model.classifies:
        raise typer.BadParameter(f"Got --interval for a {model.what} that predicts classes. Use --proba.")
    if interval is not None and not model.has_intervals:
        raise typer.BadParameter(
            f"Got --interval for a {model.what} without intervals. Fit a machine with --intervals split or --intervals "
            "cv_plus."
        )
    return model


def predictions_of(model: TableModel, data: Path, proba: bool, interval: float | None, keep: bool) -> pd.DataFrame:
    """One row for each row of the data.

    Raises
    ------
    DataError
        Data that cannot be read, or that lack a column of training.
    """
    table = read_table(data, model.texts)
    machine, X = model.fitted, model.encode(_columns(model, table, data))
    found = _numbered("prediction", machine.predict(X))
    if proba:
        names = [f"probability {label}" for label in machine.classes_]
        found = pd.concat([found, pd.DataFrame(machine.predict_proba(X), columns=names)], axis=1)
    if interval is not None:
        bounds = machine.predict_interval(X, interval)
        ends = [_numbered(name, bounds[..., place]) for place, name in enumerate(("lower", "upper"))]
        found = pd.concat([found, *ends], axis=1)
    if not keep:
        return found
    twice = [name for name in found if name in table]
    if twice:
        raise DataError(f"Got {data} with a column {twice[0]!r}, as --keep would add. Rename it, or leave --keep out.")
    return pd.concat([table.reset_index(drop=True), found], axis=1)


def write_predictions(found: pd.DataFrame, output: str) -> None:
    """Whole or not at all; every number so that it reads back exactly."""
    text = found.to_csv(index=False, lineterminator="\n")
    if output == STANDARD_OUTPUT:
        typer.echo(text, nl=False)
        return
    from ..report.files import atomic_write

    atomic_write(output, text)


def _columns(model: TableModel, table: pd.DataFrame, data: Path) -> pd.DataFrame:
    names = model.names
    if names is None:
        return table
    missing = [name for name in names if name not in table.columns]
    if missing:
        shown = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
        raise DataError(f"Got {data} without {shown}, but expected all {len(names)} columns of training.")
    return table[names]


def _numbered(name: str, values: Any) -> pd.DataFrame:
    """One column, or one an output."""
    if values.ndim == 1:
        return pd.DataFrame({name: values})
    return pd.DataFrame(values, columns=[f"{name} {output}" for output in range(values.shape[1])])
