"""Accuracy against size: every tree that a fit considered, and scikit-learn's pruned trees behind them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from .._arrays import plain
from ..exceptions import DataError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from .estimators import FeatureTreeBase

__all__ = ["TreePath", "path_of"]

CART_SIZES = 40  # most trees behind the picture


@dataclass(frozen=True, eq=False)
class TreePath:
    """Scores of trees of all sizes.

    Attributes
    ----------
    rows : list of dict
        Of the candidates: ``kappa``, ``s`` (weights a rule could have), ``start``, ``route``, ``stage``, ``loss`` and
        ``objective`` (training), ``leaves``, ``weights`` (of all rules), ``held_out`` (validation score of the
        selection, or None), ``score`` (on the rows given, or None), ``chosen``. The chosen one is told as it was put:
        by "validation" it was learned again on all rows, and ``held_out`` is of the candidate before.
    cart : list of dict
        ``leaves``, ``weights`` (one a split) and ``score`` of scikit-learn's pruned trees; empty if not asked for.
    metric : str
        What ``score`` is: "accuracy" or "R2".
    score_of : str
        The rows behind it: "given rows", or "training rows" (where it is 1 - loss over that of a single leaf).
    """

    rows: list[dict[str, Any]]
    cart: list[dict[str, Any]]
    metric: str
    score_of: str

    def frame(self) -> pd.DataFrame:
        """The candidates, smallest first."""
        import pandas as pd

        return pd.DataFrame(self.rows).sort_values(["leaves", "weights", "loss"], kind="stable", ignore_index=True)

    def best_by_leaves(self) -> list[dict[str, Any]]:
        """Of the candidates with equally many leaves the one with the lowest training objective, smallest first.

        Never chosen by ``score``: the best of many on the same rows would flatter.
        """
        best: dict[int, dict[str, Any]] = {}
        for row in self.rows:
            known = best.get(row["leaves"])
            if known is None or row["objective"] < known["objective"]:
                best[row["leaves"]] = row
        return [best[leaves] for leaves in sorted(best)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"rows": self.rows, "cart": self.cart, "metric": self.metric, "score_of": self.score_of}

    def plot(self, ax: Axes | Iterable[Axes] | None = None) -> list[Axes]:
        """Score against leaves and against the weights of all rules, CART behind."""
        from ..plots.feature_tree import plot_tree_path

        return plot_tree_path(self.to_dict(), self.best_by_leaves(), ax=ax)

    def _repr_html_(self) -> str:
        return str(self.frame().to_html(index=False, float_format="{:.4g}".format))


def path_of(fitted: FeatureTreeBase, X: Any, y: Any, cart: tuple[Any, Any] | None) -> TreePath:
    """The candidates of a fit, scored: see ``path_frame`` of the estimators."""
    check_is_fitted(fitted, "tree_")
    if not hasattr(fitted, "candidates_"):
        raise DataError("Got a tree read by from_dict, which keeps no search. Call path_frame on the fitted estimator.")
    if (X is None) != (y is None):
        raise DataError("Got one of X and y, but expected both: rows to score on, or none.")
    if X is None and cart is not None:
        raise DataError("Got cart without X and y, but expected rows to score on, other than those of cart.")
    if cart is not None and not (isinstance(cart, tuple | list) and len(cart) == 2):
        raise DataError(f"Got cart of type {type(cart).__name__}, but expected a pair: X and y of the training rows.")
    classes = getattr(fitted, "classes_", None)
    metric = "R2" if classes is None else "accuracy"
    table: list[dict[str, Any]] = fitted.path_.to_dict("records")
    for row in table:
        if row["chosen"]:
            row |= {"loss": fitted.loss_, "objective": fitted.objective_, "leaves": fitted.n_leaves_}
            row["weights"] = int(fitted.n_weights_[fitted.tree_.feature[fitted.tree_.split_nodes]].sum())
    if X is None:
        rows = [{**row, "score": 1 - row["loss"] / fitted.tree_.impurity[0]} for row in table]
        return TreePath(rows, [], "1 - loss / variance", "training rows")
    targets, scored = np.asarray(plain(y)), fitted.inputs_.rows(fitted._checked_rows(X))
    if len(targets) != len(scored):
        raise DataError(f"Got X with {len(scored)} rows and y with {len(targets)}, but expected as many.")
    rows = []
    for row, candidate in zip(table, fitted.candidates_, strict=True):
        if row["chosen"]:
            values = fitted._values(X)
        else:
            values = candidate.predict(scored) * fitted._targets_scale + fitted._targets_center
        predicted = values if classes is None else classes[values.argmax(axis=1)]
        rows.append({**row, "score": _score(targets, predicted, classes is None)})
    return TreePath(rows, [] if cart is None else _cart_path(fitted, X, targets, cart), metric, "given rows")


def _score(targets: NDArray[Any], predicted: NDArray[Any], regression: bool) -> float:
    from sklearn.metrics import accuracy_score, r2_score

    if regression:
        return float(r2_score(targets.reshape(len(targets), -1), predicted.reshape(len(targets), -1)))
    return float(accuracy_score(targets, predicted))


def _cart_path(fitted: FeatureTreeBase, X: Any, targets: NDArray[Any], cart: tuple[Any, Any]) -> list[dict[str, Any]]:
    """scikit-learn's tree, pruned by cost complexity, at up to CART_SIZES sizes."""
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    regression = not hasattr(fitted, "classes_")
    kind = DecisionTreeRegressor if regression else DecisionTreeClassifier
    train, labels = fitted._checked_rows(cart[0]), np.asarray(plain(cart[1]))
    alphas = np.unique(kind(random_state=0).cost_complexity_pruning_path(train, labels).ccp_alphas)
    # Small trees are those that matter: all of them, and ever fewer of the large ones.
    steps = np.unique(np.geomspace(1, len(alphas), CART_SIZES).round().astype(int))
    alphas = np.sort(alphas[-steps])
    rows, scored = [], fitted._checked_rows(X)
    for alpha in alphas[::-1]:
        tree = kind(random_state=0, ccp_alpha=max(float(alpha), 0.0)).fit(train, labels)
        leaves = int(tree.get_n_leaves())
        score = _score(targets, tree.predict(scored), regression)
        rows.append({"leaves": leaves, "weights": leaves - 1, "score": score})
    return rows
