"""What small trees on learned features are compared with, each tuned inside the rows it is given, and their sizes.

Tuned by 5-fold cross-validation inside the training rows: the price of a leaf of CART on the inputs, on the inputs and
LDA's or PCA's components (and how many), and on randomly rotated inputs (and which of ten rotations); price of a leaf
and inputs a rule of obliquetree; C and depth of STree; C of L1 logistic regression, alpha of the lasso. Forest and
boosted trees have their defaults. The feature trees choose by their own penalty, or by rows that they hold out
themselves.

STree and obliquetree are not dependencies: `pip install stree obliquetree` beside featlearn.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import Lasso, LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from featlearn.trees.estimators import FeatureTreeBase, FeatureTreeClassifier, FeatureTreeRegressor

PRICES = (0.0, 1e-4, 3e-4, 1e-3, 2e-3, 4e-3, 8e-3, 16e-3, 32e-3)  # of a leaf, in units of the impurity
FEW_PRICES = (3e-4, 2e-3, 8e-3)
ROTATIONS = 10
OBLIQUE = ("obliquetree", "stree", "treeple")
PAIRS_OF_THREE = 12  # inputs up to which obliquetree tries rules of three: it goes through all combinations


class RandomRotation(TransformerMixin, BaseEstimator):
    """Columns turned by a random orthogonal matrix."""

    def __init__(self, seed: int = 0):
        self.seed = seed

    def fit(self, X: np.ndarray, y: Any = None) -> RandomRotation:
        normal = np.random.default_rng(self.seed).standard_normal((X.shape[1], X.shape[1]))
        self.rotation_ = np.linalg.qr(normal)[0]
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        return X @ self.rotation_


class PairTree(BaseEstimator):
    """obliquetree's trees, which are not estimators that a grid search can copy."""

    def __init__(self, task: str = "classification", depth: int = 4, price: float = 0.0, inputs: int = 2):
        self.task = task
        self.depth = depth
        self.price = price
        self.inputs = inputs

    def fit(self, X: np.ndarray, y: np.ndarray) -> PairTree:
        library = importlib.import_module("obliquetree")
        kind = library.Regressor if self.task == "regression" else library.Classifier
        self.tree_ = kind(
            use_oblique=True, max_depth=self.depth, ccp_alpha=self.price, n_pair=self.inputs, random_state=0
        ).fit(X, y)
        self.leaves_ = len(np.unique(self.tree_.apply(X)))
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.tree_.predict(X)

    def score(self, X: np.ndarray, y: np.ndarray) -> float:
        return score(self.task, y, self.predict(X))


def score(task: str, y: np.ndarray, predicted: np.ndarray) -> float:
    """Accuracy, or R2."""
    if task == "regression":
        return float(1 - np.mean((y - predicted) ** 2) / np.var(y))
    return float(np.mean(y == predicted))


def missing() -> dict[str, str]:
    """Why an oblique tree of the package index is not among the contestants."""
    reasons = {}
    for name in OBLIQUE:
        try:
            importlib.import_module(name)
        except (ImportError, ValueError) as error:  # ValueError: compiled for another scikit-learn
            reasons[name] = f"{type(error).__name__}: {error}"
    if "treeple" not in reasons:
        reasons["treeple"] = "installs, but is not among the contestants"
    return reasons


def cart(task: str, **options: Any) -> Any:
    """scikit-learn's tree."""
    return (DecisionTreeRegressor if task == "regression" else DecisionTreeClassifier)(random_state=0, **options)


def cart_of(task: str, X: np.ndarray, y: np.ndarray, leaves: int) -> Any:
    """scikit-learn's tree of so many leaves, the best split first."""
    options = {"max_leaf_nodes": leaves} if leaves > 1 else {"min_impurity_decrease": np.inf}
    return cart(task, **options).fit(X, y)


def feature_trees(task: str, seed: int, depth: int = 4) -> dict[str, FeatureTreeBase]:
    """The feature tree by how it starts and how it is chosen."""
    kind = FeatureTreeRegressor if task == "regression" else FeatureTreeClassifier
    common = {"max_depth": depth, "random_state": seed}
    return {
        "feature tree": kind(**common),
        "feature tree, penalty scale 1": kind(penalty_scale=1.0, **common),
        "feature tree, three random starts": kind(init_directions=None, n_init=3, **common),
        "feature tree, validation": kind(selection="validation", **common),
    }


def rivals(task: str, d: int, classes: int, seed: int, depth: int = 4) -> dict[str, Any]:
    """All others that are installed; `depth` is that of the feature trees, and the most of the oblique ones."""
    inner = KFold(5, shuffle=True, random_state=seed) if task == "regression" else _stratified(seed)

    def tuned(model: Any, **grid: Any) -> GridSearchCV:
        return GridSearchCV(model, grid, cv=inner)

    def before_cart(name: str, step: Any) -> Pipeline:
        return Pipeline([("scale", StandardScaler()), (name, step), ("cart", cart(task))])

    parts = sorted({part for part in (2, 4, 8, d) if part <= d})
    found: dict[str, Any] = {
        "CART": tuned(cart(task), ccp_alpha=PRICES),
        "PCA + CART": tuned(
            before_cart("more", beside_inputs(PCA())),
            more__components__n_components=parts,
            cart__ccp_alpha=PRICES[1::2],
        ),
        "rotation + CART": tuned(
            before_cart("rotation", RandomRotation()), rotation__seed=range(ROTATIONS), cart__ccp_alpha=FEW_PRICES
        ),
    }
    absent = missing()
    if "obliquetree" not in absent:
        inputs = (2, 3) if d <= PAIRS_OF_THREE else (2,)
        found["obliquetree"] = tuned(PairTree(task, depth), price=FEW_PRICES, inputs=inputs)
    if task == "regression":
        found["lasso"] = tuned(
            make_pipeline(StandardScaler(), Lasso(max_iter=5000)), lasso__alpha=np.geomspace(1e-3, 0.3, 8)
        )
        found["forest"] = RandomForestRegressor(300, random_state=seed)
        found["boosting"] = HistGradientBoostingRegressor(random_state=seed)
        return found
    found["LDA + CART"] = tuned(
        before_cart("more", beside_inputs(LinearDiscriminantAnalysis())), cart__ccp_alpha=PRICES
    )
    if "stree" not in absent:
        from stree import Stree

        found["STree"] = tuned(
            Pipeline([("scale", StandardScaler()), ("tree", Stree(random_state=0))]),
            tree__C=(0.01, 0.1, 1.0, 10.0), tree__max_depth=sorted({2, depth}),
        )  # fmt: skip
    solver = "liblinear" if classes == 2 else "saga"
    logistic = LogisticRegression(l1_ratio=1.0, solver=solver, tol=1e-3, max_iter=1000, random_state=seed)
    found["L1 logistic"] = tuned(
        Pipeline([("scale", StandardScaler()), ("logistic", logistic)]), logistic__C=np.geomspace(0.01, 10, 7)
    )
    found["forest"] = RandomForestClassifier(300, random_state=seed)
    found["boosting"] = HistGradientBoostingClassifier(random_state=seed)
    return found


def beside_inputs(components: Any) -> FeatureUnion:
    """So that a rule may test an input or a component."""
    return FeatureUnion([("inputs", "passthrough"), ("components", components)])


def _stratified(seed: int) -> StratifiedKFold:
    return StratifiedKFold(5, shuffle=True, random_state=seed)


def size_of(model: Any, d: int) -> dict[str, float | None]:
    """Leaves, depth, weights a rule (mean over the splits) and of all splits together; None: no such thing.

    Of a linear model: weights that are not zero, a class and together. Of forests and boosted trees nothing is counted.
    """
    model = getattr(model, "best_estimator_", model)
    last = model[-1] if isinstance(model, Pipeline) else model
    if isinstance(last, FeatureTreeBase):
        tree = last.tree_
        return _size(tree.n_leaves, tree.depth, last.n_weights_[tree.feature[tree.split_nodes]])
    if isinstance(last, DecisionTreeClassifier | DecisionTreeRegressor):
        tests = last.tree_.feature[last.tree_.feature >= 0]
        inputs = 0 if "rotation" in dict(getattr(model, "named_steps", {})) else d  # columns that are inputs, first
        return _size(int(last.get_n_leaves()), int(last.get_depth()), np.where(tests < inputs, 1, d))
    if isinstance(last, PairTree):
        return _size(last.leaves_, None, np.full(last.leaves_ - 1, last.inputs))
    if hasattr(last, "nodes_leaves"):
        nodes, leaves = last.nodes_leaves()
        return _size(int(leaves), int(last.depth_) - 1, np.full(int(nodes - leaves), d))
    if hasattr(last, "coef_"):
        return _size(None, None, (np.atleast_2d(last.coef_) != 0).sum(axis=1))
    return _size(None, None, None)


def _size(leaves: int | None, depth: int | None, rules: np.ndarray | None) -> dict[str, float | None]:
    mean = None if rules is None else float(np.mean(rules)) if len(rules) else 0.0
    return {
        "leaves": leaves, "depth": depth, "weights_a_rule": mean, "weights": None if rules is None else int(rules.sum())
    }  # fmt: skip
