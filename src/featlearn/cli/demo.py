"""``featlearn demo``: a small network learns features on bundled images, and the report shows where."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

__all__ = ["demo"]


def demo(
    context: typer.Context,
    out: Annotated[Path, Option(metavar="FOLDER", help="Where report.html and report.json go.")] = Path(
        "featlearn-demo"
    ),
    epochs: Annotated[int, Option(min=1, metavar="N", help="Passes over the 4,000 images.")] = 8,
    seed: Annotated[int, Option(min=0, metavar="N", help="Of the weights and the order of the images.")] = 0,
    quiet: Annotated[bool, Option("--quiet", "-q", help="No progress bar.")] = False,
    traceback: Annotated[bool, Option("--traceback", help="Show the traceback of an error.")] = False,
) -> int:
    """Train a small CNN on bundled images, show what it learned.

    Trains on 4,000 images of Fashion-MNIST, follows the features along the way, measures them on 1,000 unseen images
    before and after, prints what was found and writes the report. Nothing is downloaded.
    """
    from .demo_run import Plan, run

    return run(Plan(epochs=epochs, seed=seed), out, quiet, context.obj)
