"""``featlearn tree``: a small tree on learned features for a table, from one line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from . import group_options as options

__all__ = ["tree"]


def tree(  # one parameter an option: typer reads the command line from this signature
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
        Path | None,
        Option(metavar="FOLDER", help="Write tree.txt, .html, .json and .png, and sizes.png, into this folder."),
    ] = None,
    text: Annotated[Path | None, Option(metavar="FILE", help="Write the rules in words.")] = None,
    html: Annotated[Path | None, Option(metavar="FILE", help="Write the tree as an interactive page.")] = None,
    json: Annotated[
        str | None, Option(metavar="FILE", help="Write tree and scores as JSON; - is standard output.")
    ] = None,
    picture: Annotated[Path | None, Option(metavar="FILE", help="Draw the tree: .png, .svg or .pdf.")] = None,
    png: Annotated[
        Path | None, Option(metavar="FILE", help="Draw accuracy against leaves: .png, .svg or .pdf.")
    ] = None,
    test_fraction: Annotated[
        float, Option(min=0, max=0.9, metavar="F", help="Rows set aside first, for the test alone; 0 for none.")
    ] = 0.2,
    drop: Annotated[list[str] | None, Option(metavar="NAME", help="Leave a column out; repeatable.")] = None,
    categorical: Annotated[
        list[str] | None, Option(metavar="NAME", help="Numbers that name categories; repeatable. Text does so anyway.")
    ] = None,
    features: Annotated[
        str, Option(metavar="linear|prototype", help="What rules test: weighted sums, or closeness to a point.")
    ] = "linear",
    selection: Annotated[
        str,
        Option(
            metavar="validation|penalty",
            help="validation: a quarter of the training rows chooses the smallest tree that is good enough. penalty: a "
            "price of rules and weights, on all of them; some four times faster.",
        ),
    ] = "validation",
    max_depth: Annotated[int, Option(min=1, metavar="D", help="Rules on a path at most.")] = 4,
    terms: Annotated[int, Option(min=1, metavar="K", help="Inputs of a rule that are shown.")] = 6,
    image_shape: Annotated[
        str | None, Option(metavar="HxW", help="Columns are pixels, row by row: rules are drawn as maps.")
    ] = None,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    traceback: options.Traceback = False,
) -> int:
    """Fit a small tree whose rules are learned, and read it.

    Prints the rules, and scores on test rows that nothing has seen, beside those of axis-aligned trees (CART); writes
    the tree in words, as a page, as numbers and as a picture, and accuracy against leaves.

    Example: featlearn tree wine.csv --target cultivar --output wine/
    """
    from .output_files import command_line
    from .tree_run import TreeFiles, TreeOptions, run_tree

    wanted = TreeOptions.checked(task, features, selection, max_depth, terms, image_shape, seed)
    files = TreeFiles.plan(output, text, html, json, picture, png, quiet)
    files.spare(data)
    return run_tree(
        data, target, wanted, files, test_fraction, drop or [], categorical or [], command_line(context.obj)
    )
