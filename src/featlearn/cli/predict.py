"""``featlearn predict``: what ``featlearn fit`` or ``featlearn tree`` wrote, on new rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

__all__ = ["predict"]


def predict(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="File of featlearn fit or of .export(), JSON of featlearn tree, or the folder it is in.",
        ),
    ],
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Table with the columns of training; others are ignored.")
    ],
    output: Annotated[str, Option(metavar="FILE", help="Where the .csv goes; - is standard output.")] = "-",
    proba: Annotated[bool, Option("--proba", help="Add the probability of every class.")] = False,
    interval: Annotated[
        float | None,
        Option(metavar="LEVEL", help="Add bounds that hold the target with this probability, such as 0.9."),
    ] = None,
    keep: Annotated[bool, Option("--keep", help="Put all columns of DATA before the predictions.")] = False,
    traceback: Annotated[bool, Option("--traceback", help="Show the traceback of an error.")] = False,
) -> int:
    """Predict the rows of a table.

    Writes one row for each row of DATA, in its order, with the column prediction, and with --proba or --interval more.

    Example: featlearn predict houses/ new.csv --interval 0.9 --output predictions.csv
    """
    from .predict_run import load_model, predictions_of, write_predictions

    found = load_model(model, proba, interval, output)
    write_predictions(predictions_of(found, data, proba, interval, keep), output)
    return 0
