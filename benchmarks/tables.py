"""The 14 tabular sets of `FEATLEARN_DATA`, each with the train/test splits that every benchmark on them shares."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

SPLITS = 5
TARGETS = {
    "spam": "type",
    "letter": "lettr",
    "mlc_churn": "churn",
    "lending_club": "Class",
    "ames": "Sale_Price",
    "diamonds": "price",
}
UCI = ("airfoil", "concrete", "elevators", "pumadyn32nm", "protein", "pol", "skillcraft", "wine")
NAMES = (*TARGETS, *UCI)


@dataclass(frozen=True)
class TabularSet:
    """A table, its target and its splits.

    Attributes
    ----------
    name : str
    task : {"regression", "binary", "multiclass"}
    X : DataFrame (n, p)
        Numbers, and `category` columns that know all levels of the table; nothing is missing.
    y : ndarray (n,)
        Float targets, or classes 0 .. C-1.
    splits : list of (ndarray, ndarray)
        Row numbers of training and test, `SPLITS` times.
    """

    name: str
    task: str
    X: pd.DataFrame
    y: np.ndarray
    splits: list[tuple[np.ndarray, np.ndarray]]

    def __iter__(self) -> Iterator[object]:
        return iter((self.name, self.task, self.X, self.y, self.splits))


def load(name: str, root: Path | None = None) -> TabularSet:
    """One set by name; `root` is the folder that holds `tabular/`, by default `FEATLEARN_DATA`."""
    if name not in NAMES:
        raise ValueError(f"Got name={name!r}, but expected one of {', '.join(NAMES)}.")
    if root is None:
        if "FEATLEARN_DATA" not in os.environ:
            raise ValueError("FEATLEARN_DATA is unset, but expected the path of the data folder: set it.")
        root = Path(os.environ["FEATLEARN_DATA"])
    folder = root / "tabular"
    return _uci(name, folder / "uci" / name) if name in UCI else _csv(name, folder / f"{name}.csv.gz")


def load_all(root: Path | None = None) -> Iterator[TabularSet]:
    """Every set in turn, one in memory at a time."""
    return (load(name, root) for name in NAMES)


def _uci(name: str, folder: Path) -> TabularSet:
    """Target in the last column, splits from the published masks (column j of the mask: 1 = test row of split j)."""
    table = pd.read_csv(folder / "data.csv.gz", header=None)
    table.columns = [f"x{j}" for j in range(table.shape[1])]
    y = table.pop(table.columns[-1]).to_numpy(dtype=float)
    mask = pd.read_csv(folder / "test_mask.csv.gz", header=None).to_numpy() == 1
    splits = [(np.flatnonzero(~mask[:, j]), np.flatnonzero(mask[:, j])) for j in range(SPLITS)]
    return TabularSet(name, "regression", table, y, splits)


def _csv(name: str, path: Path) -> TabularSet:
    """Random 80/20 splits, stratified for classes. "None" and "NA" are levels, not missing values."""
    table = pd.read_csv(path, keep_default_na=False)
    target = table.pop(TARGETS[name])
    words = table.select_dtypes(exclude="number").columns
    table = table.astype(dict.fromkeys(words, "category"))
    if pd.api.types.is_numeric_dtype(target):
        task, y = "regression", target.to_numpy(dtype=float)
    else:
        levels, y = np.unique(target.to_numpy(dtype=str), return_inverse=True)
        task = "binary" if len(levels) == 2 else "multiclass"
    rows, strata = np.arange(len(y)), None if task == "regression" else y
    splits = [
        tuple(train_test_split(rows, test_size=0.2, random_state=seed, stratify=strata)) for seed in range(SPLITS)
    ]
    return TabularSet(name, task, table, y, splits)
