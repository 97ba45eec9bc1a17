"""Options that ``featlearn groups``, ``robust`` and ``probe`` share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

__all__ = [
    "AllowPartial",
    "BatchSize",
    "Device",
    "FeaturesPath",
    "FileColumn",
    "GroupColumns",
    "Groups",
    "Html",
    "ImageSize",
    "Images",
    "Json",
    "Label",
    "Mean",
    "Model",
    "ModelArgs",
    "Png",
    "Quiet",
    "Seed",
    "SplitColumn",
    "Std",
    "Traceback",
    "Weights",
]

# What the rows are.
FeaturesPath = Annotated[
    Path | None,
    Argument(
        metavar="[FEATURES]",
        help="Saved features, rows in the order of --groups: .npy, .npz, .safetensors, .csv, or a folder of them. "
        "Left out with --model.",
        show_default=False,
    ),
]
Groups = Annotated[Path, Option(metavar="FILE", help="Table with a row a sample: label, attributes and split.")]
Label = Annotated[str, Option(metavar="NAME", help="Its column with the label.")]
GroupColumns = Annotated[
    list[str], Option("--group", metavar="NAME", help="Column of an attribute that makes groups; repeatable.")
]
SplitColumn = Annotated[
    str | None,
    Option(
        metavar="NAME",
        help="Column that says train, held-out or test (or 0, 1, 2); by default split, if there is one. Without it "
        "every group is halved at random.",
    ),
]

# Where features come from when they are not saved.
Model = Annotated[
    str | None,
    Option(metavar="MODEL", help="package.module:factory or path/to/file.py:factory, to extract features with."),
]
ModelArgs = Annotated[str | None, Option(metavar="JSON", help="Keyword arguments of the factory.")]
Weights = Annotated[
    Path | None, Option(metavar="FILE", help="Checkpoint: .safetensors, or .pt, .pth, .th read weights-only.")
]
AllowPartial = Annotated[bool, Option("--allow-partial", help="Load the weights that fit, list the others.")]
Images = Annotated[Path | None, Option(metavar="FOLDER", help="Images of the rows, for --model.")]
FileColumn = Annotated[str, Option(metavar="NAME", help="Column of --groups with the image's path inside the folder.")]
ImageSize = Annotated[int | None, Option(min=1, metavar="S", help="Resize the shorter side, crop the centre S x S.")]
Mean = Annotated[str | None, Option(metavar="A,B,C", help="Subtracted per channel; pixels are 0 to 1 before.")]
Std = Annotated[str | None, Option(metavar="A,B,C", help="Divided by, per channel.")]
BatchSize = Annotated[int, Option(min=1, metavar="N", help="Images a forward pass.")]
Device = Annotated[str, Option(metavar="NAME", help="Where the model runs: cpu, cuda, cuda:1, mps.")]

# What comes out.
Html = Annotated[Path | None, Option(metavar="FILE", help="Write the report page.")]
Png = Annotated[Path | None, Option(metavar="FILE", help="Draw the figure: .png, .svg or .pdf.")]
Json = Annotated[str | None, Option(metavar="FILE", help="Write the numbers as JSON; - is standard output.")]
Seed = Annotated[int, Option(min=0, metavar="N", help="Of all that is drawn.")]
Quiet = Annotated[bool, Option("--quiet", "-q", help="No table, no progress bar, no notes.")]
Traceback = Annotated[bool, Option("--traceback", help="Show the traceback of an error.")]
