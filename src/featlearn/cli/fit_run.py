"""The parts of ``featlearn fit`` that are about the training: its options, its rows, its run, its files."""

from __future__ import annotations

import math
import os
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import typer
from numpy.typing import NDArray

from ..exceptions import DataError
from .output_files import STANDARD_OUTPUT, check_writable
from .table_data import TableSplit, column_named, read_table, split_rows, target_of, task_of

__all__ = ["FitOptions", "MachineFiles", "TableProblem", "load_problem", "print_fit", "train"]

LEVEL = 0.9  # of the intervals whose coverage is tested
DISTINCT = 0.5  # share of distinct texts from which a column looks like an identifier


@dataclass(frozen=True)
class FitOptions:
    """Parameters of the machine, as far as the command line has them."""

    task: str
    rule: str
    kernel: list[str] | None
    max_iter: int | None
    intervals: str | None
    jobs: int
    seed: int

    @classmethod
    def checked(
        cls,
        task: str,
        rule: str,
        kernel: list[str] | None,
        max_iter: int | None,
        intervals: str | None,
        jobs: int,
        seed: int,
    ) -> FitOptions:
        """BadParameter for values that no option can have."""
        from ..machines.rules import KERNELS, RULES

        known = {
            "--task": ([task], ["auto", "regression", "classification"]),
            "--rule": ([rule], list(RULES)),
            "--kernel": (kernel or [], list(KERNELS)),
            "--intervals": ([] if intervals is None else [intervals], ["split", "cv_plus"]),
        }
        for option, (values, allowed) in known.items():
            for value in values:
                if value not in allowed:
                    raise typer.BadParameter(f"Got {option} {value}, but expected one of {', '.join(allowed)}.")
        return cls(task, rule, kernel or None, max_iter, intervals, jobs, seed)

    def machine(self, task: str, verbose: bool) -> Any:
        """The estimator, not fitted."""
        from ..machines.columns import Columns
        from ..machines.rfm import RFMClassifier, RFMRegressor
        from ..machines.rules import RULES

        rule = RULES[self.rule]
        # Gaps are never refused: a table to predict may have some where that of training had none.
        columns = [Columns(rule.standardize, missing="indicator", transform=name) for name in rule.transforms]
        common: dict[str, Any] = {
            "rule": self.rule, "kernel": self.kernel, "max_iter": self.max_iter, "columns": columns,
            "n_jobs": self.jobs, "random_state": self.seed, "verbose": int(verbose),
        }  # fmt: skip
        if task == "classification":
            return RFMClassifier(**common)
        return RFMRegressor(**common, intervals=self.intervals)


@dataclass(frozen=True, eq=False)
class TableProblem:
    """Columns and target of all rows, and which rows are for what."""

    X: pd.DataFrame
    y: NDArray[Any]
    task: str
    rows: TableSplit
    notes: list[str] = field(default_factory=list)


def load_problem(
    data: Path, target: str, options: FitOptions, test_fraction: float, n: int, drop: list[str], categorical: list[str]
) -> TableProblem:
    """The table as it is to be learned.

    Raises
    ------
    DataError
        Data that cannot be read or used.
    typer.BadParameter
        A column that is not there, or an option that does not fit the task.
    """
    table = read_table(data, categorical)
    column_named(table, target, "--target")
    for option, names in (("--drop", drop), ("--categorical", categorical)):
        for name in names:
            if column_named(table, name, option) == target:
                raise typer.BadParameter(f"Got {option} {name}, which is the target, but expected another column.")
    task, remark = task_of(table[target], options.task)
    if options.intervals and task == "classification":
        raise typer.BadParameter(
            f"Got --intervals {options.intervals} for classes, but expected a number to predict. Leave it out: classes "
            "get probabilities."
        )
    y = target_of(table[target], task)
    X = table.drop(columns=[target, *drop])
    if not X.shape[1]:
        raise DataError(f"Got {data} without a column besides {target}, but expected some to predict it from.")
    rows = split_rows(y, task, test_fraction, n, options.seed)
    notes = [] if remark is None else [remark]
    left = len(y) - len(rows.train) - len(rows.test)
    if left:
        notes.append(f"{left:,} rows were left out, so that {len(rows.train):,} train the machine; see --n")
    return TableProblem(X, y, task, rows, [*notes, *_identifiers(X)])


def _identifiers(X: pd.DataFrame) -> list[str]:
    """Remarks on columns of text in which few rows share an entry."""
    texts = [name for name in X.columns if not pd.api.types.is_numeric_dtype(X[name].dtype)]
    distinct = {name: X[name].nunique() for name in texts}
    return [
        f"{name} has {count:,} distinct texts in {len(X):,} rows: if it only names the rows, pass --drop {name}"
        for name, count in distinct.items()
        if count > max(10, DISTINCT * len(X))
    ]


def train(problem: TableProblem, options: FitOptions, quiet: bool) -> tuple[Any, dict[str, Any]]:
    """The fitted machine, and ``to_dict()`` of it with the scores of the test rows.

    Interrupting the selection raises KeyboardInterrupt; nothing has been written then.
    """
    begun = time.perf_counter()
    machine = options.machine(problem.task, verbose=sys.stderr.isatty() and not quiet)
    rows = problem.rows
    try:
        machine.fit(problem.X.iloc[rows.train], problem.y[rows.train])
    except KeyboardInterrupt:
        typer.echo("featlearn: interrupted before a machine was chosen: nothing was written.", err=True)
        raise
    told = machine.to_dict()
    told["test"] = _test(machine, problem) if len(rows.test) else None
    told["provenance"] |= {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": time.perf_counter() - begun,
        "notes": problem.notes,
    }
    return machine, told


def _test(machine: Any, problem: TableProblem) -> dict[str, Any]:
    """Scores on the rows that were set aside, and of how many targets intervals hold there."""
    from ..machines.scores import class_scores, regression_scores

    X, y = problem.X.iloc[problem.rows.test], problem.y[problem.rows.test]
    if problem.task == "classification":
        labels = machine.coding_.indices(y, len(y))
        return {"rows": len(y), "scores": class_scores(labels, torch.from_numpy(machine.predict_proba(X)))}
    targets, predictions = torch.from_numpy(y)[:, None], torch.from_numpy(machine.predict(X))[:, None]
    found: dict[str, Any] = {"rows": len(y), "scores": regression_scores(targets, predictions)}
    if machine.intervals is not None:
        bounds = machine.predict_interval(X, LEVEL)
        share = float(np.mean((bounds[:, 0] <= y) & (y <= bounds[:, 1])))
        error = math.sqrt(share * (1 - share) / len(y))
        found["coverage"] = {"level": LEVEL, "value": share, "standard_error": error}
    return found


@dataclass(frozen=True)
class MachineFiles:
    """Where a machine goes, and what is told of it."""

    model: Path
    html: Path | None
    json: Path | None
    folder: Path | None = None
    to_stdout: bool = False

    @classmethod
    def plan(cls, data: Path, output: str | None, report: Path | None, json: str | None) -> MachineFiles:
        """BadParameter for places that cannot be written, or that two files would share."""
        folder = None
        model = Path(f"{data.stem}.safetensors")
        if output is None and model.exists():
            raise typer.BadParameter(f"Got no --output, and {model} is there already. Name it to replace it.")
        if output is not None:
            model = Path(output)
            if model.is_dir() or output.endswith(("/", os.sep)):
                folder, model = model, model / "machine.safetensors"
                report = report or folder / "report.html"
                json = json or str(folder / "report.json")
        to_stdout = json == STANDARD_OUTPUT
        numbers = None if json is None or to_stdout else Path(json)
        places = {"--output": model, "--report": report, "--json": numbers}
        named = {option: place for option, place in places.items() if place is not None}
        if len({place.resolve() for place in named.values()}) < len(named):
            raise typer.BadParameter(f"Got one file for two of {', '.join(named)}, but expected different ones.")
        for option, place in named.items():
            if folder is not None and place.parent == folder and not folder.exists():
                check_writable(folder, option)
            else:
                check_writable(place, option)
        if data.exists() and data.resolve() in {place.resolve() for place in named.values()}:
            raise typer.BadParameter(f"Got {data} as data and as a file to write, but expected different ones.")
        return cls(model, report, numbers, folder, to_stdout)

    def write(self, machine: Any, told: dict[str, Any]) -> list[Path]:
        """Write the machine, the page and the numbers; return what was written."""
        from ..machines.export import save_machine
        from ..report.json import write_json
        from ..report.machine import write_machine_report

        if self.folder is not None:
            self.folder.mkdir(exist_ok=True)
        save_machine(machine, self.model, told=told)
        if self.html is not None:
            write_machine_report(told, self.html)
        if self.json is not None:
            write_json(told, self.json)
        return [path for path in (self.model, self.html, self.json) if path is not None]


def print_fit(told: dict[str, Any], files: MachineFiles, written: list[Path], quiet: bool) -> None:
    """Print the numbers where asked for, then the scores and the names of the files."""
    from .machine_text import print_machine

    if files.to_stdout:
        from ..report.json import dump_json

        typer.echo(dump_json(told))
    if not quiet:
        stream = sys.stderr if files.to_stdout else sys.stdout
        print_machine(told, stream)
        typer.echo(f"Wrote {', '.join(str(path) for path in written)}.", file=stream)
