"""``featlearn fit``: a recursive feature machine for a table, from one line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

__all__ = ["fit"]


def fit(  # one parameter an option: typer reads the command line from this signature
    context: typer.Context,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Table: .csv, .tsv or .parquet.")],
    target: Annotated[str, Option(metavar="NAME", help="Column to predict; all others are used.")],
    task: Annotated[
        str,
        Option(
            metavar="auto|regression|classification",
            help="auto: text, truth values and up to ten distinct whole numbers are classes.",
        ),
    ] = "auto",
    output: Annotated[
        str | None,
        Option(
            metavar="PATH",
            help="The machine; a folder (existing, or with a / at the end) gets page and numbers too. "
            "Default: DATA's name with .safetensors, here.",
        ),
    ] = None,
    report: Annotated[Path | None, Option(metavar="FILE", help="Write a page about the machine.")] = None,
    json: Annotated[str | None, Option(metavar="FILE", help="Write its numbers as JSON; - is standard output.")] = None,
    test_fraction: Annotated[
        float, Option(min=0, max=0.9, metavar="F", help="Rows set aside first, for the test alone; 0 for none.")
    ] = 0.2,
    n: Annotated[
        int, Option("--n", "-n", min=0, metavar="N", help="Training rows at most, drawn by --seed; 0 for all.")
    ] = 20_000,
    drop: Annotated[list[str] | None, Option(metavar="NAME", help="Leave a column out; repeatable.")] = None,
    categorical: Annotated[
        list[str] | None, Option(metavar="NAME", help="Numbers that name categories; repeatable. Text does so anyway.")
    ] = None,
    rule: Annotated[
        str, Option(metavar="NAME", help="featlearn, or a published convention: science, uci, pip, grokking, xrfm.")
    ] = "featlearn",
    kernel: Annotated[
        list[str] | None,
        Option(metavar="NAME", help="Choose among these only; repeatable. One alone is some four times faster."),
    ] = None,
    max_iter: Annotated[int | None, Option(min=0, metavar="T", help="AGOP steps at most.")] = None,
    intervals: Annotated[
        str | None,
        Option(metavar="split|cv_plus", help="Prepare prediction intervals: a fifth of the rows, or five more fits."),
    ] = None,
    jobs: Annotated[int, Option(min=1, metavar="N", help="Candidates that run at once, in threads.")] = 1,
    seed: Annotated[int, Option(min=0, metavar="N", help="Of all that is drawn.")] = 0,
    quiet: Annotated[bool, Option("--quiet", "-q", help="No table, no progress bar, no notes.")] = False,
    traceback: Annotated[bool, Option("--traceback", help="Show the traceback of an error.")] = False,
) -> int:
    """Fit a recursive feature machine to a table.

    Chooses kernel, columns, ridge and AGOP steps on held-out training rows, prints scores with standard errors on test
    rows that nothing has seen, and writes the machine to a file for featlearn predict.

    Example: featlearn fit houses.csv --target price --output houses/
    """
    from .fit_run import FitOptions, MachineFiles, load_problem, print_fit, train
    from .output_files import command_line

    # Everything that can be refused is refused before the training, the cheapest first.
    options = FitOptions.checked(task, rule, kernel, max_iter, intervals, jobs, seed)
    files = MachineFiles.plan(data, output, report, json)
    problem = load_problem(data, target, options, test_fraction, n, drop or [], categorical or [])
    for note in () if quiet else problem.notes:
        typer.echo(f"featlearn: note: {note}.", err=True)

    machine, told = train(problem, options, quiet)
    told["provenance"] |= {"data": str(data), "target": target, "command": command_line(context.obj)}
    written = files.write(machine, told)
    print_fit(told, files, written, quiet)
    return 0
