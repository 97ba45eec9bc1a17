"""``featlearn probe``: whether the core feature can be read from the layers of a network, beside the spurious one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from . import group_options as options

__all__ = ["probe"]


def probe(  # one parameter an option: typer reads the command line from this signature
    context: typer.Context,
    groups: options.Groups,
    label: options.Label,
    group: Annotated[str, Option(metavar="NAME", help="Its column with the spurious attribute.")],
    features: options.FeaturesPath = None,
    layer: Annotated[
        list[str] | None,
        Option(metavar="NAME", help="Layers, in the order of the figure; repeatable. Default: all that were saved."),
    ] = None,
    no_baselines: Annotated[
        bool, Option("--no-baselines", help="Go without pixels and init: then nothing shows that anything was learned.")
    ] = False,
    split_column: options.SplitColumn = None,
    refits: Annotated[int, Option(min=1, metavar="N", help="Balanced samples that a probe averages.")] = 5,
    model: options.Model = None,
    model_args: options.ModelArgs = None,
    weights: options.Weights = None,
    checkpoint: Annotated[
        list[Path] | None,
        Option(metavar="FILE", help="Probe these weights, called by their file, in this order; repeatable."),
    ] = None,
    untrained: Annotated[
        Path | None, Option(metavar="FILE", help="Weights at initialisation; by default drawn anew.")
    ] = None,
    pool: Annotated[
        str,
        Option(
            metavar="HOW", help="flatten keeps every number of a layer; auto takes the mean over positions of images."
        ),
    ] = "auto",
    allow_partial: options.AllowPartial = False,
    images: options.Images = None,
    file_column: options.FileColumn = "file",
    image_size: options.ImageSize = None,
    mean: options.Mean = None,
    std: options.Std = None,
    batch_size: options.BatchSize = 64,
    device: options.Device = "cpu",
    html: options.Html = None,
    json: options.Json = None,
    png: options.Png = None,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    traceback: options.Traceback = False,
) -> int:
    """Is the right feature in the network?

    Prints how well a linear probe of every layer tells the label and the spurious attribute in its worst group, beside
    the raw input (pixels) and an untrained network (init). Saved features need both, as arrays of these names; with
    --model they are made.

    Example: featlearn probe features/ --groups groups.csv --label y --group background --html report.html
    """
    from .feature_source import FeatureSource
    from .outcome import Outcome
    from .output_files import command_line
    from .probe_run import ProbeOptions, run_probe

    source = FeatureSource(
        features, model, model_args, weights, allow_partial, images, file_column, image_size, mean, std, batch_size,
        device, seed,
    )  # fmt: skip
    wanted = ProbeOptions(
        groups, label, group, layer or [], not no_baselines, split_column, refits, checkpoint or [], untrained, pool
    )
    return run_probe(source, wanted, Outcome(html, png, json, quiet), command_line(context.obj))
