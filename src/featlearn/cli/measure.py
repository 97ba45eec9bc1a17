"""``featlearn measure``: the user's own model on the user's own data, from one line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

__all__ = ["measure"]


def measure(  # one parameter an option: typer reads the command line from this signature
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="package.module:factory or path/to/file.py:factory, called without arguments or with --model-args; "
            "a module object is taken as it is.",
        ),
    ],
    data: Annotated[
        str,
        Option(
            metavar="DATA",
            help="Folder of images (a subfolder a class, or flat), .npz file with X and optionally y, or "
            "module:loader (a Dataset, an iterable of batches, or a function that returns one).",
        ),
    ],
    weights: Annotated[
        Path | None, Option(metavar="FILE", help="Checkpoint: .safetensors, or .pt, .pth, .th read weights-only.")
    ] = None,
    reference: Annotated[
        Path | None, Option(metavar="FILE", help="Earlier checkpoint: adds what changed since then.")
    ] = None,
    model_args: Annotated[str | None, Option(metavar="JSON", help="Keyword arguments of the factory.")] = None,
    allow_partial: Annotated[
        bool, Option("--allow-partial", help="Load the weights that fit, list the others.")
    ] = False,
    layers: Annotated[list[str] | None, Option(metavar="GLOB", help="Layers by name or glob; repeatable.")] = None,
    n: Annotated[int, Option("--n", "-n", min=1, metavar="N", help="Samples, after a shuffle by --seed.")] = 1000,
    batch_size: Annotated[int, Option(min=1, metavar="N", help="Samples a batch; a loader keeps its own.")] = 50,
    image_size: Annotated[
        int | None, Option(min=1, metavar="S", help="Resize the shorter side, crop the centre S x S.")
    ] = None,
    mean: Annotated[
        str | None, Option(metavar="A,B,C", help="Subtracted per channel; pixels are 0 to 1 before.")
    ] = None,
    std: Annotated[str | None, Option(metavar="A,B,C", help="Divided by, per channel.")] = None,
    outputs: Annotated[
        str | None,
        Option(metavar="MODULE:CALLABLE", help="(model, batch) -> tensor (n, ...) in place of the logits."),
    ] = None,
    loss: Annotated[
        str | None,
        Option(metavar="LOSS", help="cross_entropy, mse or MODULE:CALLABLE: adds the measures of the loss."),
    ] = None,
    probes: Annotated[
        str,
        Option(
            metavar="exact|auto|INT", help="Every output; as many random probes as an error of 3% needs; or so many."
        ),
    ] = "exact",
    power: Annotated[float, Option(metavar="P", help="Compare W^T W with AGOP^P.")] = 1.0,
    statistic: Annotated[str, Option(metavar="pearson|cosine", help="Correlation.")] = "pearson",
    seed: Annotated[int, Option(min=0, metavar="N", help="Of the shuffle, the probes and the null.")] = 0,
    device: Annotated[str, Option(metavar="NAME", help="Where to compute: cpu, cuda, cuda:1, mps.")] = "cpu",
    html: Annotated[
        Path | None, Option(metavar="FILE", help="Write the report page, and its numbers as .json beside it.")
    ] = None,
    json: Annotated[str | None, Option(metavar="FILE", help="Write the numbers as JSON; - is standard output.")] = None,
    quiet: Annotated[bool, Option("--quiet", "-q", help="No table, no progress bar, no notes.")] = False,
    traceback: Annotated[bool, Option("--traceback", help="Show the traceback of an error.")] = False,
) -> int:
    """Measure feature learning in every layer of a model.

    Prints one row a layer: how far the layer's weights have aligned with the directions the outputs are sensitive to
    (NFA), the value expected by chance, and the excess over it with its standard error. --html and --json write the
    full report.

    Example: featlearn measure nets.py:resnet20 --weights best.pt --data photos --image-size 32 --html report.html
    """
    from .data_loading import Preparation, load_data, read_numbers
    from .measure_run import measure_data, measure_options, print_outcome
    from .model_loading import load_device, load_model, load_reference, load_weights
    from .output_files import ReportFiles, command_line

    # Everything that can be refused is refused before the measurement, the cheapest first.
    files = ReportFiles.plan(html, json)
    options = measure_options(layers, outputs, loss, probes, power, statistic, seed)
    scale = read_numbers(mean, "--mean"), read_numbers(std, "--std", positive=True)
    network = load_model(model, model_args, seed, load_device(device))
    notes = [] if weights is None else load_weights(network, weights, allow_partial)
    if reference is not None:
        options["reference"], remarks = load_reference(network, reference, allow_partial)
        notes += remarks
    samples = load_data(data, Preparation(n, batch_size, seed, image_size, *scale), network)
    for note in () if quiet else notes:
        typer.echo(f"featlearn: note: {note}.", err=True)

    report = measure_data(network, samples, options, quiet)
    about = report["provenance"]
    about |= {"data": samples.name, "command": command_line(context.obj), "notes": [*about["notes"], *notes]}
    if reference is not None:
        about["reference"] = str(reference)
    written = files.write(report, image_shape=samples.image_shape)
    print_outcome(report, files, written, quiet)
    return 0 if about["complete"] else 130
