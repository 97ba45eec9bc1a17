"""The parts of ``featlearn tree`` that are about the tree: its options, its fit, its rivals, its files."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import typer
from numpy.typing import NDArray

from .figure_files import check_figure, write_figure
from .fit_run import FitOptions, TableProblem, load_problem
from .machine_text import measured
from .outcome import Outcome, text_table, wrapped
from .output_files import check_writable
from .tables import count
from .tree_columns import NumberColumns

__all__ = ["TreeFiles", "TreeOptions", "run_tree"]

INTERRUPTED = 130
FOLDS, PRUNINGS = 5, 30  # of the tuning of the axis-aligned tree
EXAMPLES = 5  # rows that the page can start from
METRICS = {"accuracy": "accuracy", "r2": "R2"}
SECOND = {"accuracy": ("brier", "Brier score"), "r2": ("rmse", "RMSE")}


@dataclass(frozen=True)
class TreeOptions:
    """Parameters of the tree, as far as the command line has them."""

    task: str
    features: str
    selection: str
    max_depth: int
    terms: int
    image_shape: tuple[int, int] | None
    seed: int

    @classmethod
    def checked(
        cls, task: str, features: str, selection: str, max_depth: int, terms: int, image_shape: str | None, seed: int
    ) -> TreeOptions:
        """BadParameter for values that no option can have."""
        known = {
            "--task": (task, ["auto", "regression", "classification"]),
            "--features": (features, ["linear", "prototype"]),
            "--selection": (selection, ["validation", "penalty"]),
        }
        for option, (value, allowed) in known.items():
            if value not in allowed:
                raise typer.BadParameter(f"Got {option} {value}, but expected one of {', '.join(allowed)}.")
        return cls(task, features, selection, max_depth, terms, _shape(image_shape), seed)

    def estimator(self, task: str, verbose: bool) -> Any:
        """The tree, not fitted."""
        from ..trees.estimators import FeatureTreeClassifier, FeatureTreeRegressor

        kind = FeatureTreeClassifier if task == "classification" else FeatureTreeRegressor
        return kind(
            features=self.features, max_depth=self.max_depth, selection=self.selection, random_state=self.seed,
            verbose=int(verbose),
        )  # fmt: skip


def _shape(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise typer.BadParameter(f"Got --image-shape {text}, but expected height and width, such as 8x8.")
    return int(sides[0]), int(sides[1])


@dataclass(frozen=True)
class TreeFiles:
    """Where everything goes; ``folder`` is made when there is something to put into it."""

    outcome: Outcome
    folder: Path | None

    @classmethod
    def plan(
        cls, folder: Path | None, text: Path | None, html: Path | None, json: str | None, picture: Path | None,
        png: Path | None, quiet: bool,
    ) -> TreeFiles:  # fmt: skip
        """BadParameter for places that cannot be written, or that two files would share."""
        given = {option: path for option, path in (("--text", text), ("--picture", picture)) if path is not None}
        if picture is not None:
            check_figure(picture, "--picture")
        if folder is None:
            made = cls(Outcome(html, png, json, quiet, given), None)
            made.outcome.check()
            return made
        if folder.exists() and not folder.is_dir():
            raise typer.BadParameter(f"Got --output {folder}, which is a file, but expected a folder.")
        others = {"--text": text or folder / "tree.txt", "--picture": picture or folder / "tree.png"}
        whole = Outcome(
            html or folder / "tree.html", png or folder / "sizes.png", json or str(folder / "tree.json"), quiet, others
        )
        if folder.is_dir():
            whole.check()
        else:
            check_writable(folder, "--output")
            Outcome(html, png, json, quiet, given).check()
        return cls(whole, folder)

    def spare(self, data: Path) -> None:
        """BadParameter if the data would be written over."""
        outcome = self.outcome
        places = [outcome.html, outcome.figure, outcome.json, *outcome.others.values()]
        if data.exists() and data.resolve() in {Path(place).resolve() for place in places if place is not None}:
            raise typer.BadParameter(f"Got {data} as data and as a file to write, but expected different ones.")

    def write(self, told: dict[str, Any], words: str, page: dict[str, Any], options: TreeOptions) -> None:
        """Write each file whole or not at all, and say so."""
        from matplotlib.figure import Figure

        from ..plots.feature_tree import plot_feature_tree, plot_tree_path
        from ..report.files import atomic_write
        from ..report.tree import write_tree_page

        if self.folder is not None:
            self.folder.mkdir(exist_ok=True)
        drawn: dict[str, Any] = {"max_terms": options.terms, "image_shape": options.image_shape}
        if "--text" in self.outcome.others:
            atomic_write(self.outcome.others["--text"], words + "\n")
        if "--picture" in self.outcome.others:
            figure = plot_feature_tree(told["tree"], figure=Figure(), **drawn)
            write_figure(figure, self.outcome.others["--picture"])
        self.outcome.write(
            told,
            lambda path: write_tree_page(told["tree"], path, **page, **drawn),
            (9.6, 3.8),
            lambda figure: plot_tree_path(told["curve"], told["best_by_leaves"], ax=figure.subplots(1, 2)),
        )


def run_tree(
    data: Path, target: str, options: TreeOptions, files: TreeFiles, test_fraction: float, drop: list[str],
    categorical: list[str], command: str,
) -> int:  # fmt: skip
    """Print the tree and its scores and write what was asked for; 0, or 130 for a search that was interrupted.

    Raises
    ------
    DataError
        Data that cannot be read or used.
    typer.BadParameter
        A column that is not there.
    """
    outcome = files.outcome
    # Columns, target, rows and their messages are those of featlearn fit.
    columns = FitOptions(options.task, "featlearn", None, None, None, 1, options.seed)
    problem = load_problem(data, target, columns, test_fraction, 0, drop, categorical)
    if problem.task == "classification" and problem.y.dtype.kind == "f":
        problem = replace(problem, y=problem.y.astype(str))  # fractions that name classes
    encoding = NumberColumns.of(problem.X, problem.rows.train)
    X = encoding.numbers(problem.X)
    if options.image_shape is not None and X.shape[1] != options.image_shape[0] * options.image_shape[1]:
        height, width = options.image_shape
        raise typer.BadParameter(
            f"Got --image-shape {height}x{width}, but expected {X.shape[1]} pixels, as many as there are inputs. Leave "
            "it out if they are none."
        )
    for note in problem.notes:
        outcome.note(f"{note}.")

    begun = time.perf_counter()
    with outcome.warned():
        fitted = options.estimator(problem.task, verbose=sys.stderr.isatty() and not outcome.quiet)
        fitted.fit(X.iloc[problem.rows.train], problem.y[problem.rows.train])
        told = _told(fitted, problem, X)
    if problem.task == "regression":
        told["tree"]["outputs"] = [target]
    told["columns"] = encoding.categories
    told["provenance"] = {
        "data": str(data), "target": target, "command": command, "seed": options.seed,
        "test_fraction": test_fraction, "rows": len(problem.rows.train), "interrupted": fitted.interrupted_,
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": time.perf_counter() - begun,
    }  # fmt: skip
    words = fitted.export_text(decimals=4, max_terms=None)
    outcome.tell(_lines(told, fitted.export_text(max_terms=options.terms), problem))
    files.write(told, words, _page(told, problem, X), options)
    return INTERRUPTED if fitted.interrupted_ else 0


# --- scores -----------------------------------------------------------------------------------------------------------


def _told(fitted: Any, problem: TableProblem, X: pd.DataFrame) -> dict[str, Any]:
    """The tree, its scores and those of its rivals on the test rows, and trees of all sizes."""
    rows, y = problem.rows, problem.y
    train = X.iloc[rows.train], y[rows.train]
    weights = int(fitted.n_weights_[fitted.tree_.feature[fitted.tree_.split_nodes]].sum())
    told: dict[str, Any] = {"kind": "FeatureTreeRun", "schema": 1, "tree": fitted.export_dict(), "test": None}
    if not len(rows.test):
        path = fitted.path_frame()
        return told | {"curve": path.to_dict(), "best_by_leaves": path.best_by_leaves()}
    test = X.iloc[rows.test], y[rows.test]
    regression = problem.task == "regression"
    tuned, equal = _tuned_cart(regression, *train), _cart(regression, fitted.n_leaves_, *train)
    table = [
        {"name": "feature tree", "leaves": fitted.n_leaves_, "weights": weights, "scores": _scores(fitted, *test)},
        _rival("CART, tuned", tuned, *test),
        _rival("CART of as many leaves", equal, *test),
    ]
    metric = next(iter(METRICS.keys() & table[0]["scores"].keys()))
    constant = {
        name: {"value": entry["constant"], "standard_error": None} for name, entry in table[0]["scores"].items()
    }
    table.append({"name": "constant", "leaves": 1, "weights": 0, "scores": constant})
    path = fitted.path_frame(*test, cart=train)
    told["test"] = {"rows": len(rows.test), "metric": metric, "table": table}
    return told | {
        "curve": path.to_dict() | {"score_of": "test rows"},
        "best_by_leaves": path.best_by_leaves(),
    }


def _scores(model: Any, X: pd.DataFrame, y: NDArray[Any]) -> dict[str, dict[str, float]]:
    from ..machines.scores import class_scores, regression_scores

    if hasattr(model, "predict_proba"):
        labels = torch.from_numpy(np.searchsorted(model.classes_, y))
        return class_scores(labels, torch.from_numpy(np.asarray(model.predict_proba(X))))
    return regression_scores(torch.from_numpy(y)[:, None], torch.from_numpy(np.asarray(model.predict(X)))[:, None])


def _rival(name: str, model: Any, X: pd.DataFrame, y: NDArray[Any]) -> dict[str, Any]:
    leaves = int(model.get_n_leaves())
    return {"name": name, "leaves": leaves, "weights": leaves - 1, "scores": _scores(model, X, y)}


def _cart(regression: bool, leaves: int | None, X: pd.DataFrame, y: NDArray[Any]) -> Any:
    """scikit-learn's tree of so many leaves; of one leaf the one that is pruned to its root."""
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    kind = DecisionTreeRegressor if regression else DecisionTreeClassifier
    if leaves == 1:
        return kind(ccp_alpha=np.finfo(np.float64).max, random_state=0).fit(X, y)
    return kind(max_leaf_nodes=leaves, random_state=0).fit(X, y)


def _tuned_cart(regression: bool, X: pd.DataFrame, y: NDArray[Any]) -> Any:
    """scikit-learn's tree with its pruning chosen by cross-validation on the training rows."""
    from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold

    whole = _cart(regression, None, X, y)
    alphas = np.unique(np.maximum(whole.cost_complexity_pruning_path(X, y).ccp_alphas, 0.0))
    alphas = alphas[np.unique(np.linspace(0, len(alphas) - 1, PRUNINGS).round().astype(int))]
    fewest = len(y) if regression else int(np.unique(y, return_counts=True)[1].min())
    folds = min(FOLDS, fewest)
    if folds < 2:
        return whole
    kind = KFold if regression else StratifiedKFold
    search = GridSearchCV(whole, {"ccp_alpha": alphas}, cv=kind(folds, shuffle=True, random_state=0))
    return search.fit(X, y).best_estimator_


# --- what it says -----------------------------------------------------------------------------------------------------


def _lines(told: Mapping[str, Any], words: str, problem: TableProblem) -> list[str]:
    about, test, tree = told["provenance"], told["test"], told["tree"]
    kind = problem.task if tree["classes"] is None else f"{problem.task}, {len(tree['classes'])} classes"
    lines = wrapped(
        [
            f"{about['target']} of {about['data']}: {kind}, {count(about['rows'], 'training row')}, "
            f"{count(len(tree['features']), 'input')}."
        ]
    )
    lines += ["", *words.splitlines(), ""]
    if about["interrupted"]:
        lines += [*wrapped(["Interrupted: this is the best tree that was found until then."]), ""]
    if test is None:
        return [*lines, "No rows were set aside: nothing says how good the predictions are."]
    metric, (second, second_name) = test["metric"], SECOND[test["metric"]]
    head = [f"on {count(test['rows'], 'test row')}", METRICS[metric], second_name, "leaves", "weights"]
    rows = [
        [
            entry["name"],
            *(_value(entry["scores"].get(name)) for name in (metric, second)),
            f"{entry['leaves']:,}",
            f"{entry['weights']:,}",
        ]
        for entry in test["table"]
    ]
    chosen = {
        "validation": "A quarter of the training rows chose the tree: the smallest within one standard error of the "
        "best.",
        "penalty": "The tree has the lowest sum of loss and price on the training rows.",
    }[tree["selection"]]
    said = f"Test rows were set aside before anything else and used for nothing else. {chosen} ± is one standard error."
    return [*lines, *text_table(head, rows, optional=[2]), "", *wrapped([said])]


def _value(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "-"
    return measured(entry["value"], float("nan") if entry["standard_error"] is None else entry["standard_error"])


def _page(told: Mapping[str, Any], problem: TableProblem, X: pd.DataFrame) -> dict[str, Any]:
    """What the page has besides the tree."""
    about, test = told["provenance"], told["test"]
    where, rows = ("test", problem.rows.test) if len(problem.rows.test) else ("training", problem.rows.train)
    scores = None
    if test is not None:
        table = [
            {**entry, **entry["scores"].get(test["metric"], {"value": None, "standard_error": None})}
            for entry in test["table"]
        ]
        scores = {"metric": METRICS[test["metric"]], "rows": test["rows"], "table": table}
    return {
        "title": f"{about['target']}: a tree on learned features",
        "curve": told["curve"],
        "scores": scores,
        "examples": [
            (f"{where} row {row + 1} of the data ({problem.y[row]})", X.iloc[row].tolist()) for row in rows[:EXAMPLES]
        ],
        "about": {key: str(about[key]) for key in ("data", "target", "command", "seed", "date")},
    }
