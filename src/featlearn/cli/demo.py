"""``featlearn demo``: networks and kernel machines learn features on bundled images, and two pages show which."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

__all__ = ["demo"]


def demo(
    context: typer.Context,
    out: Annotated[Path, Option(metavar="FOLDER", help="Where report and filters go, html and json each.")] = Path(
        "featlearn-demo"
    ),
    epochs: Annotated[int, Option(min=1, metavar="N", help="Passes of the CNN over the 4,000 images.")] = 8,
    seed: Annotated[int, Option(min=0, metavar="N", help="Of weights, orders and draws of images.")] = 0,
    quiet: Annotated[bool, Option("--quiet", "-q", help="No progress bar.")] = False,
    traceback: Annotated[bool, Option("--traceback", help="Show the traceback of an error.")] = False,
) -> int:
    """Train a small CNN on images, show what it learned.

    Trains on 4,000 images of Fashion-MNIST, follows the features along the way, measures them on 1,000 unseen images
    before and after, prints what was found and writes the report. Then a fixed convolutional kernel, ConvRFM, Deep
    ConvRFM and a CNN learn from the same 800 images; a second page shows who is right how often, and the filter
    covariance and patch AGOP of the CNN beside the metric of ConvRFM. Nothing is downloaded.
    """
    from .demo_run import Plan, run

    return run(Plan(epochs=epochs, seed=seed), out, quiet, context.obj)
