"""``featlearn coordinate-check``: does training carry from a small model to a large one? For people, and for CI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

__all__ = ["coordinate_check"]


def coordinate_check(  # one parameter an option: typer reads the command line from this signature
    context: typer.Context,
    factory: Annotated[
        str,
        typer.Argument(
            metavar="FACTORY",
            help="package.module:factory or path/to/file.py:factory, called with a width (or depth): a new model.",
        ),
    ],
    optimizer: Annotated[
        str,
        Option(
            metavar="OPTIMIZER",
            help="sgd:RATE, adam:RATE or adamw:RATE, one rate for all parameters; or MODULE:CALLABLE, called with the "
            "model: the optimiser with the rates of a scaling rule.",
        ),
    ],
    loss: Annotated[str, Option(metavar="LOSS", help="cross_entropy, mse or MODULE:CALLABLE.")],
    widths: Annotated[
        str | None, Option(metavar="A,B,C", help="At least 3, ascending, each best twice the one before.")
    ] = None,
    depths: Annotated[str | None, Option(metavar="A,B,C", help="In place of --widths.")] = None,
    data: Annotated[
        str | None,
        Option(
            metavar="DATA",
            help="Folder of images, .npz file with X and y, or module:loader: the first batch of it is used.",
        ),
    ] = None,
    input_shape: Annotated[
        str | None,
        Option(
            metavar="D|C,H,W",
            help="Without --data: standard normal inputs of this shape with random targets, -1 or +1 for one output, "
            "classes for several.",
        ),
    ] = None,
    batch_size: Annotated[int, Option(min=1, metavar="N", help="Samples of the one batch.")] = 64,
    steps: Annotated[int, Option(min=1, metavar="N", help="Steps of training a model.")] = 3,
    seeds: Annotated[int, Option(min=1, metavar="N", help="Models a size.")] = 3,
    layers: Annotated[list[str] | None, Option(metavar="GLOB", help="Layers by name or glob; repeatable.")] = None,
    tolerance: Annotated[float, Option(metavar="SLOPE", help="Largest slope that counts as none.")] = 0.15,
    confidence: Annotated[float, Option(metavar="P", help="Of the intervals.")] = 0.95,
    seed: Annotated[int, Option(min=0, metavar="N", help="Of the models and of all that is drawn.")] = 0,
    json: Annotated[str | None, Option(metavar="FILE", help="Write the numbers as JSON; - is standard output.")] = None,
    plot: Annotated[Path | None, Option(metavar="FILE", help="Draw the slopes: .png, .svg or .pdf.")] = None,
    quiet: Annotated[bool, Option("--quiet", "-q", help="No table, no progress bar.")] = False,
    traceback: Annotated[bool, Option("--traceback", help="Show the traceback of an error.")] = False,
) -> int:
    """Check that training carries to other widths or depths.

    Trains a model of each size for a few steps and fits power laws in size to each layer's features, their change, and
    the angle between features and gradients. Exit code 0: all flat; 6: something depends on size; 7: undecided.

    Example: featlearn coordinate-check nets.py:mlp --widths 64,128,256,512 --input-shape 32 --loss mse --optimizer
    nets.py:mup_sgd
    """
    from .coordinate_check_run import (
        CheckFiles,
        check_options,
        choose_batch,
        load_factory,
        load_optimizer,
        print_check,
        run_check,
    )
    from .loss_loading import load_loss
    from .output_files import command_line

    # Everything that can be refused is refused before the training, the cheapest first.
    files = CheckFiles.plan(json, plot)
    options = check_options(widths, depths, steps, seeds, layers, tolerance, confidence, seed)
    options |= {"loss": load_loss(loss), "optimizer": load_optimizer(optimizer), "factory": load_factory(factory)}
    options["batch"], name = choose_batch(data, input_shape, batch_size, options)

    check = run_check(options, quiet)
    told = check.to_dict() | {"data": name, "command": command_line(context.obj)}
    print_check(check, told, files, files.write(told), quiet)
    return {True: 0, False: 6, None: 7}[check.passed]
