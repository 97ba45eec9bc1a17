"""``featlearn groups``: how a classifier does on every group, from a table of its predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from .group_options import Html, Json, Png, Quiet, Seed, Traceback

__all__ = ["groups"]


def groups(
    predictions: Annotated[
        Path, Argument(metavar="PREDICTIONS", help="Table with a row a prediction: .csv, .tsv or .parquet.")
    ],
    truth: Annotated[str, Option(metavar="NAME", help="Column with the true label.")],
    predicted: Annotated[str, Option(metavar="NAME", help="Column with the predicted label.")],
    group: Annotated[
        list[str], Option(metavar="NAME", help="Column that makes groups; repeatable, columns are crossed in order.")
    ],
    train_groups: Annotated[
        Path | None,
        Option(metavar="FILE", help="Table of the training rows with the same columns: adds the mean of the papers."),
    ] = None,
    split_column: Annotated[
        str | None,
        Option(
            metavar="NAME",
            help="Column that says train, held-out or test (or 0, 1, 2); by default split, if there is one. Then test "
            "rows are judged, and training rows weigh a mean; without it all rows are judged.",
        ),
    ] = None,
    information: Annotated[
        str | None, Option(metavar="TEXT", help="Which labels the method used, for the report.")
    ] = None,
    selection: Annotated[
        str | None, Option(metavar="RULE", help="What chose its hyperparameters, for the report.")
    ] = None,
    confidence: Annotated[float, Option(metavar="LEVEL", help="Of all intervals.")] = 0.95,
    html: Html = None,
    json: Json = None,
    png: Png = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> int:
    """Accuracy by group, and the worst beside chance.

    Prints the accuracy of every group with its interval, the worst group beside what the worst of equal groups would
    be by chance, and the means.

    Rules of selection: none, train-environment validation, leave-one-environment-out, group-labelled validation,
    class-balanced validation, oracle (test).

    Example: featlearn groups predictions.csv --truth y --predicted p --group y --group background
    """
    from .groups_run import run_groups
    from .outcome import Outcome

    outcome = Outcome(html, png, json, quiet)
    columns = {"truth": truth, "predicted": predicted}
    told = {"information": information, "selection": selection, "confidence": confidence, "random_state": seed}
    return run_groups(predictions, columns, group, split_column, train_groups, told, outcome)
