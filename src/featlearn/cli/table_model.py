"""What ``featlearn fit`` and ``featlearn tree`` wrote, read back to predict the rows of a table."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import typer

from ..exceptions import DataError, ModelError
from .tree_columns import NumberColumns

__all__ = ["TableModel", "read_model"]

MACHINE, TREE = "machine.safetensors", "tree.json"  # in the folder of a fit


@dataclass(frozen=True)
class TableModel:
    """A fitted model, and how rows of a table reach it.

    Attributes
    ----------
    fitted : estimator
        With ``predict``, of classes with ``predict_proba``.
    what : str
        "machine" or "tree".
    names : list of str or None
        Columns of training, in their order; None if they had no names.
    texts : list of str
        Those that were text: in a short table their entries may all look like numbers.
    encode : callable
        What the model is given for a table of these columns.
    """

    fitted: Any
    what: str
    names: list[str] | None
    texts: list[str]
    encode: Callable[[pd.DataFrame], Any]

    @property
    def classifies(self) -> bool:
        """Whether it predicts classes."""
        return hasattr(self.fitted, "classes_")

    @property
    def has_intervals(self) -> bool:
        """Whether it was fitted with intervals."""
        return bool(getattr(self.fitted, "has_intervals", False))


def read_model(path: Path) -> TableModel:
    """The machine or the tree of a file, or of the folder that it is in.

    Raises
    ------
    ModelError
        Neither is there.
    typer.BadParameter
        A folder with both.
    """
    if path.is_dir():
        found = [path / name for name in (MACHINE, TREE) if (path / name).exists()]
        if len(found) == 2:
            raise typer.BadParameter(f"Got {path} with a machine and a tree. Name one: {found[0]} or {found[1]}.")
        if not found:
            raise ModelError(f"Got {path}, but expected {MACHINE} or {TREE} in it, as featlearn fit or tree write it.")
        path = found[0]
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise ModelError(
            f"Got {path}, but it cannot be read ({error.strerror}). Expected a file of featlearn fit or tree."
        ) from error
    # A machine starts with a length of eight bytes, the last of them 0, which no text holds.
    return _tree(path) if start.lstrip()[:1] == b"{" and b"\0" not in start else _machine(path)


def _machine(path: Path) -> TableModel:
    from ..machines.export import load

    machine = load(path)
    columns, names = machine.columns, machine.columns.feature_names
    texts = [] if names is None else [names[block.position] for block in columns.categories if block.kind == "text"]
    return TableModel(machine, "machine", None if names is None else list(names), texts, lambda table: table)


def _tree(path: Path) -> TableModel:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"Got {path}, which cannot be read as a tree ({error}). Write it again.") from error
    # featlearn tree writes the tree among its scores, and which columns of the table are categories.
    tree = told.get("tree", told)
    if not isinstance(tree, dict) or "nodes" not in tree:
        raise ModelError(f"Got {path}, which holds no tree, but expected what featlearn tree or export_dict() wrote.")
    try:
        return _of_tree(tree, told.get("columns"))
    except DataError as error:  # no table has been read yet, so that this is about the file
        raise ModelError(f"Got {path}, but it cannot be used. {error}") from error
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"Got {path}, whose contents do not fit together ({type(error).__name__}: {error}), but expected a tree as "
            "featlearn tree or export_dict() wrote it. Write it again."
        ) from error


def _of_tree(tree: dict[str, Any], categories: dict[str, list[Any] | None] | None) -> TableModel:
    from ..trees.estimators import FeatureTreeClassifier, FeatureTreeRegressor

    fitted = (FeatureTreeClassifier if tree["task"] == "classification" else FeatureTreeRegressor).from_dict(tree)
    # Each predicts one row, so that what does not fit together fails here.
    if not hasattr(fitted, "feature_names_in_"):  # fitted to an array: columns count by their place
        fitted.predict(np.zeros((1, fitted.n_features_in_)))
        return TableModel(
            fitted, "tree", None, [], lambda table: NumberColumns(dict.fromkeys(table)).new(table).to_numpy()
        )
    columns = NumberColumns(dict.fromkeys(fitted.input_names_) if categories is None else categories)
    some = {name: [0.0 if entries is None else entries[0]] for name, entries in columns.categories.items()}
    fitted.predict(columns.numbers(pd.DataFrame(some)))
    return TableModel(fitted, "tree", list(some), columns.texts, columns.new)
