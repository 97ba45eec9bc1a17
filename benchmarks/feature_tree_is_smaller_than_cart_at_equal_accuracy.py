"""Trees on learned features beside CART, oblique trees, linear models and ensembles on eleven tables.

    FEATLEARN_DATA=... OMP_NUM_THREADS=1 python benchmarks/feature_tree_is_smaller_than_cart_at_equal_accuracy.py

Accuracy (R2 of regressions), leaves, weights a rule and CPU seconds over five folds, stratified for classes; twice five
on the three smallest sets, two on digits. The same folds for all; everything that is tuned is tuned inside the training
rows (see `smalltrees.py`), and inputs and targets are standardised with them. Of tables larger than MOST_ROWS that many
random rows are used; words become 0/1 columns. Also: CART of as many leaves as the feature tree of the fold, and the
curve of score against leaves: CART grown best split first to each of SIZES, and of all candidates of the feature tree's
fit the one of each number of leaves that has the lowest training objective.

It holds on a set if the feature tree has fewer leaves than tuned CART and its mean score is no more than one standard
error of the paired difference below CART's; it holds if it does so on all. Errors of differences are corrected for
training rows that folds share (Nadeau and Bengio 2003): sd * sqrt(1 / number of folds + test rows / training rows).

Fits are appended to `results/fits_of_small_trees.jsonl`, one line each, and not repeated: a run can be stopped and
started again. The sets energy and yacht are not in the data folder and are left out; selection on held-out rows is
tried on VALIDATION alone. About 30 minutes of CPU.

Arguments: --sets; --contestants; --repeats (1 for the first alone); --table, to sum up what the file holds.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from measuring import RESULTS, report
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.model_selection import KFold, StratifiedKFold
from smalltrees import cart_of, feature_trees, missing, rivals, score, size_of
from tables import load

FITS = RESULTS / "fits_of_small_trees.jsonl"
FOLDS, MOST_ROWS = {"digits": 2}, 1000  # 5 folds of the others
SIZES = (2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 32, 48, 64, 96, 128, 192)
OURS, CART, SAME_SIZE = "feature tree", "CART", "CART, as many leaves"
BUNDLED = {
    "iris": load_iris,
    "wine": load_wine,
    "breast cancer": load_breast_cancer,
    "diabetes": load_diabetes,
    "digits": load_digits,
}
TABLES = {
    "concrete": "concrete", "airfoil": "airfoil", "spam": "spam", "churn": "mlc_churn", "pumadyn32nm": "pumadyn32nm",
    "wine quality": "wine",
}  # fmt: skip
NAMES = (*BUNDLED, *TABLES)
WHOLE = ("concrete", "digits")  # although they have more rows
REPEATS = {"iris": 2, "wine": 2, "breast cancer": 2}
DEPTH = {"digits": 5}
VALIDATION = ("iris", "wine", "breast cancer", "diabetes", "concrete")  # takes three to five times as long


class Table(NamedTuple):
    """Inputs and targets of a set, and what is asked of them."""

    task: str
    X: np.ndarray
    y: np.ndarray


@lru_cache
def table(name: str) -> Table:
    """Numbers; targets as they are, or classes 0 .. K-1."""
    if name in BUNDLED:
        X, y = BUNDLED[name](return_X_y=True)
        task = "regression" if name == "diabetes" else "classification"
    else:
        data = load(TABLES[name])
        X, y = pd.get_dummies(data.X, drop_first=True).to_numpy(dtype=float), data.y
        task = "regression" if data.task == "regression" else "classification"
    if name not in WHOLE and len(y) > MOST_ROWS:
        rows = np.sort(np.random.default_rng(0).permutation(len(y))[:MOST_ROWS])
        X, y = X[rows], y[rows]
    return Table(task, np.asarray(X, dtype=float), y)


def folds_of(name: str) -> int:
    return FOLDS.get(name, 5)


def fold(name: str, repeat: int, place: int) -> tuple[np.ndarray, ...]:
    """Training rows and targets, test rows and theirs, standardised with the former."""
    task, X, y = table(name)
    kind = KFold if task == "regression" else StratifiedKFold
    train, test = list(kind(folds_of(name), shuffle=True, random_state=repeat).split(X, y))[place]
    scale = X[train].std(axis=0)
    X = (X - X[train].mean(axis=0)) / np.where(scale > 0, scale, 1.0)
    if task == "regression":
        y = (y - y[train].mean()) / y[train].std()
    return X[train], y[train], X[test], y[test]


def contestants(name: str, seed: int) -> dict[str, object]:
    task, X, y = table(name)
    depth = DEPTH.get(name, 4)
    ours = feature_trees(task, seed, depth)
    if name not in VALIDATION:
        del ours["feature tree, validation"]
    return ours | rivals(task, X.shape[1], len(np.unique(y)), seed, depth)


def fit(name: str, repeat: int, place: int, contestant: str) -> dict[str, object]:
    X, y, X_test, y_test = fold(name, repeat, place)
    task, d = table(name).task, X.shape[1]
    model = contestants(name, repeat)[contestant]
    start = time.process_time()
    model.fit(X, y)
    spent = time.process_time() - start
    record = {
        "set": name, "repeat": repeat, "fold": place, "contestant": contestant,
        "score": score(task, y_test, model.predict(X_test)), **size_of(model, d), "cpu_seconds": spent,
    }  # fmt: skip
    if contestant.startswith(OURS):
        path = model.path_frame(X_test, y_test).best_by_leaves()
        record["path"] = [[row["leaves"], row["weights"], row["score"]] for row in path]
    if contestant == CART:
        trees = [cart_of(task, X, y, size) for size in SIZES if size <= len(y)]
        record["path"] = [
            [int(tree.get_n_leaves()), int(tree.get_n_leaves()) - 1, score(task, y_test, tree.predict(X_test))]
            for tree in trees
        ]
    return record


def same_size(record: dict[str, object]) -> dict[str, object]:
    """CART of as many leaves as the feature tree of this record has."""
    name, repeat, place = (record[key] for key in ("set", "repeat", "fold"))
    X, y, X_test, y_test = fold(name, repeat, place)
    start = time.process_time()
    tree = cart_of(table(name).task, X, y, record["leaves"])
    spent = time.process_time() - start
    reached = score(table(name).task, y_test, tree.predict(X_test))
    key = {"set": name, "repeat": repeat, "fold": place, "contestant": SAME_SIZE}
    return {**key, "score": reached, **size_of(tree, X.shape[1]), "cpu_seconds": spent}


def difference(wide: pd.DataFrame, other: str, folds: int) -> dict[str, float]:
    """Mean of the feature tree's score less the other's, and its corrected standard error."""
    gaps = (wide[OURS] - wide[other]).dropna()
    error = gaps.std() * np.sqrt(1 / len(gaps) + 1 / (folds - 1)) if len(gaps) > 1 else np.nan
    return {"gap": float(gaps.mean()), "error": float(error), "folds": len(gaps)}


def curve(paths: pd.Series) -> list[dict[str, float]]:
    """Mean score and weights of all folds that have a tree of so many leaves."""
    rows = pd.DataFrame([row for path in paths for row in path], columns=["leaves", "weights", "score"])
    means = rows.groupby("leaves").agg(score=("score", "mean"), weights=("weights", "mean"), folds=("score", "size"))
    return means.reset_index().to_dict("records")


def of_set(records: pd.DataFrame, name: str) -> dict[str, object]:
    """Table, paired differences and curves of one set."""
    columns = ["score", "leaves", "depth", "weights_a_rule", "weights", "cpu_seconds"]
    grouped = records.groupby("contestant", sort=False)
    means = grouped[columns].mean().assign(sd=grouped["score"].std(), folds=grouped.size())
    wide = records.pivot(index=["repeat", "fold"], columns="contestant", values="score")
    gaps = {other: difference(wide, other, folds_of(name)) for other in wide if other != OURS}
    ours, cart = means.loc[OURS], means.loc[CART]
    curves = {who: curve(paths.dropna()) for who, paths in grouped["path"] if paths.notna().any()}
    enough = [row["leaves"] for row in curves[CART] if row["score"] >= ours["score"]]
    task, X, y = table(name)
    plain = means.astype(object).where(means.notna(), None).to_dict("index")
    return {
        "task": task, "rows": len(y), "inputs": X.shape[1], "classes": len(np.unique(y)) if task != "regression" else 0,
        "holds": bool(ours["leaves"] < cart["leaves"] and gaps[CART]["gap"] >= -gaps[CART]["error"]),
        "leaves_at_which_cart_is_as_good": min(enough) if enough else None,
        "contestants": plain, "feature_tree_less_others": gaps, "curves": curves,
    }  # fmt: skip


def run(asked: argparse.Namespace, records: list[dict[str, object]]) -> None:
    """Append what is missing: first repeats first, and in them the cheap contestants."""
    done = {(r["set"], r["repeat"], r["fold"], r["contestant"]) for r in records}

    def keep(record: dict[str, object]) -> None:
        records.append(record)
        with FITS.open("a") as file:
            file.write(json.dumps(record) + "\n")

    for repeat in range(asked.repeats):
        for name in asked.sets:
            if repeat >= REPEATS.get(name, 1):
                continue
            for contestant in contestants(name, repeat):
                if asked.contestants and contestant not in asked.contestants:
                    continue
                for place in range(folds_of(name)):
                    if (name, repeat, place, contestant) not in done:
                        keep(fit(name, repeat, place, contestant))
                        if contestant == OURS:
                            keep(same_size(records[-1]))
                mine = [r for r in records if (r["set"], r["repeat"], r["contestant"]) == (name, repeat, contestant)]
                told = {key: np.mean([r[key] or 0 for r in mine]) for key in ("score", "leaves", "cpu_seconds")}
                print(
                    name, repeat, contestant, {key: round(float(value), 3) for key, value in told.items()}, flush=True
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="*", default=NAMES)
    parser.add_argument("--contestants", nargs="*")
    parser.add_argument("--repeats", type=int, default=max(REPEATS.values()))
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    records = [json.loads(line) for line in FITS.read_text().splitlines()] if Path(FITS).exists() else []
    if not asked.table:
        run(asked, records)
    frame = pd.DataFrame(records)
    found = {name: of_set(frame[frame["set"] == name], name) for name in NAMES if (frame["set"] == name).any()}
    holds = set(found) == set(NAMES) and all(each["holds"] for each in found.values())
    report(
        __file__, holds, holds_on=[name for name, each in found.items() if each["holds"]],
        not_on=[name for name, each in found.items() if not each["holds"]], sets=found, missing=missing(),
        left_out={"energy, yacht": "not in the data folder"},
    )  # fmt: skip


if __name__ == "__main__":
    main()
