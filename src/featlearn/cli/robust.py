"""``featlearn robust``: the last layer fitted anew to balanced held-out rows, beside its baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from . import group_options as options

__all__ = ["robust"]


def robust(  # one parameter an option: typer reads the command line from this signature
    context: typer.Context,
    groups: options.Groups,
    label: options.Label,
    group: options.GroupColumns,
    features: options.FeaturesPath = None,
    layer: Annotated[
        str | None,
        Option(metavar="NAME", help="Which of several saved arrays; of a model by default what the last layer reads."),
    ] = None,
    split_column: options.SplitColumn = None,
    train_groups: Annotated[
        Path | None,
        Option(metavar="FILE", help="Table of the training rows, where --groups has none: adds the papers' mean."),
    ] = None,
    predicted: Annotated[
        str | None,
        Option(
            metavar="NAME",
            help="Column with the network's own predictions; by default predicted, if there is one, or what --model "
            "says.",
        ),
    ] = None,
    information: Annotated[
        str | None, Option(metavar="TEXT", help="Which labels the network itself was trained with.")
    ] = None,
    selection: Annotated[
        str | None, Option(metavar="RULE", help="What chose its hyperparameters; see featlearn groups.")
    ] = None,
    model: options.Model = None,
    model_args: options.ModelArgs = None,
    weights: options.Weights = None,
    allow_partial: options.AllowPartial = False,
    images: options.Images = None,
    file_column: options.FileColumn = "file",
    image_size: options.ImageSize = None,
    mean: options.Mean = None,
    std: options.Std = None,
    batch_size: options.BatchSize = 64,
    device: options.Device = "cpu",
    save: Annotated[
        Path | None, Option(metavar="FILE", help="Write the new last layer: a .safetensors with coef and intercept.")
    ] = None,
    save_network: Annotated[
        Path | None, Option(metavar="FILE", help="Write --model's weights with it in place: a .safetensors.")
    ] = None,
    html: options.Html = None,
    json: options.Json = None,
    png: options.Png = None,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    traceback: options.Traceback = False,
) -> int:
    """Retrain the last layer on group-balanced held-out rows.

    Fits deep feature reweighting (DFR) and its baselines to features of rows that the network was not trained on, and
    prints how each does on every group of the test rows, which labels it used and what chose its hyperparameters.

    Example: featlearn robust features.npy --groups groups.csv --label y --group background --html report.html
    """
    from .feature_source import FeatureSource
    from .outcome import Outcome
    from .output_files import command_line
    from .robust_run import RobustOptions, run_robust

    source = FeatureSource(
        features, model, model_args, weights, allow_partial, images, file_column, image_size, mean, std, batch_size,
        device, seed,
    )  # fmt: skip
    written = {option: path for option, path in (("--save", save), ("--save-network", save_network)) if path}
    wanted = RobustOptions(
        groups, label, group, layer, split_column, train_groups, predicted, information, selection, save, save_network
    )
    return run_robust(source, wanted, Outcome(html, png, json, quiet, written), command_line(context.obj))
