"""Tables of labels and groups named on the command line, and which of their rows fit, which judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from ..exceptions import DataError
from ..robust.groups import as_groups
from ..robust.label_columns import label_column
from .table_data import column_named, read_table

__all__ = ["GroupTable", "Rows", "crossed_columns", "label_of", "read_groups", "told_rows"]

Indices = NDArray[np.int64]

UNTOLD = (
    "nothing says which rows trained the network, so every group was halved at random. If some rows did, the numbers "
    "are too good: say train, held-out or test in a column split."
)
SPLIT = "split"  # the column that says so by itself
# The numbers are those of the metadata that come with Waterbirds, CelebA and WILDS.
WORDS = {
    "train": ("train", "training", "0"),
    "held-out": ("held-out", "held_out", "heldout", "val", "valid", "validation", "fit", "1"),
    "test": ("test", "2"),
}


def label_of(table: pd.DataFrame, name: str, option: str) -> NDArray[Any]:
    """A column of whole numbers, words or truth values.

    Raises
    ------
    typer.BadParameter
        No such column, missing values, or numbers that are not whole.
    """
    column_named(table, name, option)
    try:
        return label_column(table[name], f"{option} {name}")
    except DataError as problem:
        raise typer.BadParameter(str(problem)) from problem


def crossed_columns(table: pd.DataFrame, names: Sequence[str], option: str = "--group") -> dict[str, NDArray[Any]]:
    """Columns that are crossed to groups, by name; each once.

    Raises
    ------
    typer.BadParameter
        As for :func:`label_of`; or columns that make no groups, such as an index.
    """
    columns = {name: label_of(table, name, option) for name in names}
    try:
        as_groups(columns, len(table))
    except DataError as problem:
        raise typer.BadParameter(str(problem)) from problem
    return columns


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a table by their use.

    Attributes
    ----------
    fit, test : array of int
        Rows that a last layer or a probe is fitted to, and those that judge it.
    train : array of int
        Rows that trained the network: their groups weigh a mean. May be empty.
    how : str
        Where the split comes from, in words.
    note : str or None
        What the user must see to because of it.
    """

    fit: Indices
    test: Indices
    train: Indices
    how: str
    note: str | None = None


@dataclass(frozen=True, eq=False)
class GroupTable:
    """Labels and groups of all rows.

    Attributes
    ----------
    path : Path
    frame : DataFrame
        All columns.
    label : str
    columns : dict of str to array
        Label first, then attributes: crossed they are the groups.
    rows : Rows
    """

    path: Path
    frame: pd.DataFrame
    label: str
    columns: dict[str, NDArray[Any]]
    rows: Rows

    def labels(self, rows: Indices) -> NDArray[Any]:
        """Labels of some rows."""
        return self.columns[self.label][rows]

    def groups(self, rows: Indices) -> dict[str, NDArray[Any]]:
        """Columns to cross, of some rows."""
        return {name: column[rows] for name, column in self.columns.items()}

    def counts(self) -> list[dict[str, Any]]:
        """Rows of every group by their use: label, train, fit, test."""
        labels = as_groups(self.columns, len(self.frame))
        assert labels.codes is not None  # crossed columns never overlap
        uses = {"train": self.rows.train, "fit": self.rows.fit, "test": self.rows.test}
        found = {use: np.bincount(labels.codes[rows], minlength=len(labels)) for use, rows in uses.items()}
        return [
            {"label": name, **{use: int(counts[place]) for use, counts in found.items()}}
            for place, name in enumerate(labels.names)
        ]


def read_groups(
    path: Path, label: str, groups: Sequence[str], split: str | None, seed: int, *, single: bool = False
) -> GroupTable:
    """The table of ``--groups`` with its columns checked and its rows split.

    Parameters
    ----------
    path : Path
    label, split : str
        Columns; no split means the column called split, if there is one, else halves of every group drawn by ``seed``.
    groups : sequence of str
        Columns of attributes; the label is crossed with them in any case.
    single : bool, default False
        Refuse several attributes.

    Raises
    ------
    DataError
        The file cannot be read, or a group is too small to be halved.
    typer.BadParameter
        Columns that do not exist or cannot be used.
    """
    table = read_table(path)
    attributes = [name for name in dict.fromkeys(groups) if name != label]
    if not attributes or (single and len(attributes) > 1):
        expected = "one column" if single else "at least one column"
        raise typer.BadParameter(
            f"Got --group {' --group '.join(groups)} with --label {label}, but expected {expected} besides the label, "
            "such as the background. Label and attributes are crossed."
        )
    columns = {label: label_of(table, label, "--label"), **crossed_columns(table, attributes)}
    for name, column in columns.items():
        if len(np.unique(column)) < 2:
            raise typer.BadParameter(f"Got {name} with one value, {column[0]}, in all rows, but expected two or more.")
    told = told_rows(table, split, ("held-out", "test"))
    return GroupTable(path, table, label, columns, _halved(columns, seed) if told is None else told)


def told_rows(table: pd.DataFrame, split: str | None, needed: Sequence[str]) -> Rows | None:
    """Rows by what a column says of them; None without one.

    Parameters
    ----------
    table : DataFrame
    split : str or None
        The column; by default the one called split, if there is one.
    needed : sequence of {"held-out", "test"}
        Kinds of which there must be rows.

    Raises
    ------
    typer.BadParameter
        No such column, other words in it, or no rows of a kind that is needed.
    """
    name = split if split is not None else SPLIT
    if split is None and SPLIT not in table:
        return None
    values = label_of(table, name, "--split-column")
    words = np.array([str(value).strip().lower() for value in values])
    use = {word: use for use, known in WORDS.items() for word in known}
    strange = [word for word in dict.fromkeys(words.tolist()) if word not in use]
    if strange:
        expected = "; ".join(" or ".join(dict.fromkeys((use, *known[-1:]))) for use, known in WORDS.items())
        hint = (
            ""
            if split is not None
            else f" Rename it, or name another with --split-column, if {name} is about something else."
        )
        raise typer.BadParameter(f"Got {strange[0]!r} in the column {name}, but expected {expected}.{hint}")
    found = {use: np.flatnonzero(np.isin(words, known)) for use, known in WORDS.items()}
    empty = [kind for kind in needed if not len(found[kind])]
    if empty:
        uses = {"held-out": "the held-out ones are fitted to", "test": "the test ones judge"}
        raise typer.BadParameter(
            f"Got the column {name} without {' or '.join(empty)} rows, but expected some: "
            f"{', '.join(uses[kind] for kind in needed)}. Rows that trained the network must not."
        )
    return Rows(found["held-out"], found["test"], found["train"], f"by the column {name}")


def _halved(columns: dict[str, NDArray[Any]], seed: int) -> Rows:
    labels = as_groups(columns)
    codes = labels.codes
    small = [name for name, count in zip(labels.names, labels.counts, strict=True) if count == 1]
    if small:
        raise DataError(
            f"Got one row in {'; '.join(small)}, but expected two or more in every group, to fit and to judge. Add "
            "rows, or say with --split-column which is which."
        )
    fit, test = train_test_split(
        np.arange(len(next(iter(columns.values())))), test_size=0.5, stratify=codes, random_state=seed
    )
    return Rows(
        np.sort(fit),
        np.sort(test),
        np.array([], dtype=np.int64),
        f"by halving every group at random (seed {seed})",
        UNTOLD,
    )
