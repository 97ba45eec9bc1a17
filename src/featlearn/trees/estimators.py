"""Small trees whose rules test features that are learned with the tree, as scikit-learn estimators."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    RegressorMixin,
    TransformerMixin,
)
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from .._arrays import floats_like, like, plain
from ..exceptions import DataError, FeatlearnWarning
from .columns import check_finite, check_numbers
from .described import described
from .explain import Explanation, explain
from .export import tree_from_dict, tree_to_dict, tree_to_text
from .features import FeatureMap
from .fitting import Fit, fit_tree
from .inputs import Inputs
from .parameters import check_parameters
from .path import TreePath, path_of
from .permutation import PermutationReport, permutation_report
from .rows import distinct_rows
from .rules import rules_of
from .targets import Targets, as_classes, as_outputs, check_labels
from .tree import Tree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FeatureTreeBase", "FeatureTreeClassifier", "FeatureTreeRegressor"]

Floats = NDArray[np.float64]


class FeatureTreeBase(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """What classifier and regressor share."""

    def __init__(
        self,
        features: Any = "linear",
        init_directions: Any = "kernel",
        *,
        n_features: Any = "auto",
        n_init: int | str = "auto",
        max_depth: int = 4,
        bandwidth: float = 0.1,
        penalty_scale: float = 0.1,
        alpha: Any = "auto",
        l0: Any = "auto",
        min_weight_leaf: float = 5.0,
        selection: str = "penalty",
        predict_mode: str = "crisp",
        max_iter: int = 15,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.features = features
        self.init_directions = init_directions
        self.n_features = n_features
        self.n_init = n_init
        self.max_depth = max_depth
        self.bandwidth = bandwidth
        self.penalty_scale = penalty_scale
        self.alpha = alpha
        self.l0 = l0
        self.min_weight_leaf = min_weight_leaf
        self.selection = selection
        self.predict_mode = predict_mode
        self.max_iter = max_iter
        self.random_state = random_state
        self.verbose = verbose

    # fitting ----------------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn features and tree.

        Parameters
        ----------
        X : array, DataFrame or Tensor of shape (n, d)
            Finite numbers.
        y : array of shape (n,); for regression (n, K) too
        sample_weight : array of shape (n,), optional
            2 means that the row was given twice, 0 that it was left out.

        Returns
        -------
        self
            Interrupted (Ctrl-C) it is the best tree found until then, and ``interrupted_`` is True.

        Raises
        ------
        DataError
            For parameters or data that cannot be used, before any work.
        """
        check_parameters(self)
        before = dict(self.__dict__)
        try:
            return self._fit(X, y, sample_weight)
        except BaseException:
            # A fit that was refused, or stopped before there was a tree, leaves the one before it whole.
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def _fit(self, X: Any, y: Any, sample_weight: Any) -> Self:
        check_numbers(X)
        names = _names_of(y)
        X, y = self._validated(X, y)
        w = _check_sample_weight(plain(sample_weight), X, dtype=np.float64, ensure_non_negative=True)
        kept = w > 0
        if not kept.any():
            raise DataError("Got a sample_weight that is zero in every row, but expected a positive weight in some.")
        self._warn_of_shares(w[kept])
        rows = distinct_rows(X[kept], y[kept], w[kept])
        inputs, targets = Inputs.fit(rows.X, rows.w), self._targets(rows.y, rows.w)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        fit = fit_tree(self, rows, inputs, targets, seed)

        self.one_output_ = y.ndim == 1
        self.output_names_ = self._output_names(targets, names)
        self.selection_, self.interrupted_ = fit.choice.selection, fit.choice.interrupted
        self.fuzzy_bandwidth_ = float(self.bandwidth) if self.predict_mode == "fuzzy" else 0.0
        self._store_tree(inputs, fit.map, fit.tree, targets.classes)
        self._store_search(fit, targets)
        return self

    def _warn_of_shares(self, w: Floats) -> None:
        least, total = 2 * self.min_weight_leaf, float(w.sum())
        if total < least <= len(w):
            warnings.warn(
                f"The weights of {len(w)} rows sum to {total:.3g}, and a weight counts repetitions of a row: with "
                f"min_weight_leaf={self.min_weight_leaf:g} no row can be split off. Multiply the weights, so that they "
                "sum to the number of rows.",
                FeatlearnWarning,
                stacklevel=4,
            )

    def _validated(self, X: Any, y: Any) -> tuple[Floats, NDArray[Any]]:
        raise NotImplementedError

    def _targets(self, y: NDArray[Any], w: Floats) -> Targets:
        raise NotImplementedError

    def _output_names(self, targets: Targets, names: list[str] | None) -> tuple[str, ...]:
        raise NotImplementedError

    def _store_tree(self, inputs: Inputs, features: FeatureMap, tree: Tree, classes: NDArray[Any] | None) -> None:
        """What predictions and pictures are made from."""
        self.inputs_, self.map_, self.tree_ = inputs, features, tree
        if classes is not None:
            self.classes_ = classes
        rules = rules_of(features, inputs)
        offsets = np.array([rule.offset for rule in rules] + [0.0])  # the last one is for leaves
        self.thresholds_ = tree.threshold + offsets[np.where(tree.is_leaf, -1, tree.feature)]
        width = len(inputs.mean)
        self.components_, self.components_standardized_ = np.zeros((2, len(rules), width))
        for row, rule in enumerate(rules):
            self.components_[row, list(rule.inputs)] = rule.weights
            self.components_standardized_[row, list(rule.inputs)] = rule.standardized_weights
        self.prototypes_ = self._prototypes()
        self.n_leaves_ = tree.n_leaves
        self.n_weights_ = np.asarray(features.n_weights)
        self.feature_importances_ = self._importances()
        self._n_features_out = features.n_features

    def _prototypes(self) -> Floats | None:
        from .features import PrototypeMap

        if not isinstance(self.map_, PrototypeMap):
            return None
        inputs = self.inputs_
        places = np.tile(inputs.mean, (self.map_.n_features, 1))
        places[:, inputs.kept] += self.map_.prototypes * inputs.scale[inputs.kept]
        return places

    def _importances(self) -> Floats:
        """Gains of the nodes, shared among the inputs of their rules by the sizes of the weights."""
        total = np.zeros(len(self.inputs_.mean))
        sizes = np.abs(self.components_standardized_)
        for node in self.tree_.split_nodes:
            row = sizes[self.tree_.feature[node]]
            if row.any():
                total += self.tree_.gain[node] * row / row.sum()
        return total / total.sum() if total.any() else total

    def _store_search(self, fit: Fit, targets: Targets) -> None:
        """How the tree was found."""
        import pandas as pd

        choice = fit.choice
        self.loss_, self.objective_ = choice.candidate.loss, choice.candidate.objective
        self.penalty_scale_, self.alpha_, self.l0_ = choice.scale, choice.alpha, choice.l0
        self.guarded_ = choice.guarded
        self.history_, self.n_iter_ = choice.history, len(choice.history)
        self.path_ = pd.DataFrame(choice.table)
        self.candidates_ = choice.candidates
        self._targets_center, self._targets_scale = targets.center, targets.scale

    # use --------------------------------------------------------------------------------------------------------------

    @property
    def input_names_(self) -> tuple[str, ...]:
        """Names of the columns of X: those of a DataFrame, or x0, x1, ..."""
        check_is_fitted(self, "tree_")
        if hasattr(self, "feature_names_in_"):
            return tuple(map(str, self.feature_names_in_))
        return tuple(f"x{j}" for j in range(self.n_features_in_))

    def _features(self, X: Any) -> Floats:
        """What the rules test, (n, q)."""
        check_is_fitted(self, "tree_")
        return self.map_.forward(self.inputs_.rows(self._checked_rows(X)))

    def _checked_rows(self, X: Any) -> Floats:
        check_numbers(X)
        rows = validate_data(self, plain(X), dtype=np.float64, reset=False, ensure_all_finite=False)
        check_finite(rows, getattr(self, "feature_names_in_", None))
        return np.asarray(rows)

    def _values(self, X: Any) -> Floats:
        """Values (n, K)."""
        Z = self._features(X)
        if self.fuzzy_bandwidth_:
            return self.tree_.predict_fuzzy(Z, self.fuzzy_bandwidth_)
        return self.tree_.predict(Z)

    def transform(self, X: Any) -> Any:
        """The features that the rules test, (n, q): the columns of ``tree_``, in standard deviations."""
        return floats_like(X, self._features(X))

    def apply(self, X: Any) -> Any:
        """Leaf of every row, as a node of ``tree_``, (n,): the crisp side at every node."""
        Z = self._features(X)
        return like(X, self.tree_.apply(Z))

    def decision_path(self, X: Any) -> csr_matrix:
        """Nodes that every row passes, as ones in a sparse matrix (n, nodes)."""
        Z = self._features(X)
        return self.tree_.decision_path(Z)

    def get_depth(self) -> int:
        """Rules on the longest path."""
        check_is_fitted(self, "tree_")
        return self.tree_.depth

    def get_n_leaves(self) -> int:
        """Number of leaves."""
        check_is_fitted(self, "tree_")
        return self.tree_.n_leaves

    def explain(self, x: Any) -> Explanation:
        """The prediction for one row as a sum: the value at the root, and what every rule on the path adds.

        Parameters
        ----------
        x : array, Series, DataFrame or Tensor of shape (d,) or (1, d)

        Returns
        -------
        Explanation
            Printed, a table (``frame()``), or plain values (``to_dict()``).

        Raises
        ------
        DataError
            For more than one row.

        Notes
        -----
        Crisp: a node adds ``V_child - V_node``; fuzzy: ``reach ((1 - s) V_left + s V_right - V_node)``, at every node.
        The parts sum to the prediction exactly. They tell what the tree does, not what causes the target.
        """
        check_is_fitted(self, "tree_")
        if hasattr(x, "to_frame"):
            x = x.to_frame().T
        elif not hasattr(x, "columns"):
            x = np.asarray(plain(x))
            if x.ndim == 0:
                raise DataError(f"Got {x}, but expected a row: {self.n_features_in_} numbers, such as X[0].")
            x = x[None] if x.ndim == 1 else x
        rows = self._checked_rows(x)
        if len(rows) != 1:
            raise DataError(f"Got {len(rows)} rows, but expected one. Call explain for each.")
        return explain(self, rows[0], self.output_names_)

    def export_text(self, units: str = "original", decimals: int = 3, max_terms: int | None = 6) -> str:
        """The tree as nested rules.

        Parameters
        ----------
        units : {"original", "standardized"}, default="original"
            Weights per unit of the inputs, or per standard deviation.
        decimals : int, default=3
            Significant digits; more for inputs that are far from 0 for their spread, so that the rule remains the same.
        max_terms : int or None, default=6
            Terms of a rule that are written, the largest first; how many are not is told. None: all.

        Returns
        -------
        str
        """
        return tree_to_text(tree_to_dict(self, exact=False), units=units, decimals=decimals, max_terms=max_terms)

    def export_dict(self) -> dict[str, Any]:
        """The tree as plain values, ready for JSON, from which :meth:`from_dict` predicts the same.

        Returns
        -------
        dict
            ``nodes``: a list of id, left, right, n, value, gain, impurity, and for rules ``terms`` (name and weight in
            units of the input, the largest per standard deviation first), ``threshold`` (right if larger),
            ``standardized``, ``means`` of the inputs in training, and ``centers`` of prototypes, for which the
            weighted squared distance, taken negative, is compared; ``task``, ``features``, ``outputs``, ``classes``,
            ``importances``, ``selection``, ``units``, ``versions``; ``exact``: what predictions are computed from.

        Raises
        ------
        DataError
            For features of the user's own class, which a file cannot hold.
        """
        return tree_to_dict(self)

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Self:
        """The fitted estimator that :meth:`export_dict` was called on; its search is not kept.

        Raises
        ------
        DataError
            For anything else, for a later format, and for a tree of the other task.
        """
        fitted = cls()
        tree_from_dict(fitted, told)
        return fitted

    def path_frame(self, X: Any = None, y: Any = None, *, cart: tuple[Any, Any] | None = None) -> TreePath:
        """Accuracy against leaves and weights of all trees that the fit considered.

        Parameters
        ----------
        X, y : rows of shape (n, d) and (n,) or (n, K), optional
            To score on; best rows that the fit did not see. By default scores are of the training rows.
        cart : pair of X and y, optional
            Training rows, to fit scikit-learn's tree on, pruned to every size; needs X and y.

        Returns
        -------
        TreePath
            With ``frame()`` and ``plot()``.

        Raises
        ------
        DataError
            For ``cart`` without rows to score on, and after ``from_dict``, which keeps no search.
        """
        return path_of(self, X, y, cart)

    def permutation_report(
        self, X: Any, y: Any, *, sample_weight: Any = None, n_permutations: int = 19, random_state: int = 0
    ) -> PermutationReport:
        """What the same search explains of permuted targets.

        See :func:`featlearn.trees.permutation.permutation_report`.
        """
        return permutation_report(
            self, X, y, sample_weight=sample_weight, n_permutations=n_permutations, random_state=random_state
        )

    def plot(self, *, max_terms: int = 6, image_shape: tuple[int, ...] | None = None) -> Figure:
        """The tree as a picture: each rule a small chart of signed weights, or a map of pixels.

        Parameters
        ----------
        max_terms : int, default=6
            Bars of a rule, the largest first.
        image_shape : (height, width), optional
            Inputs are pixels, row by row: rules are drawn as maps of their weights.
        """
        from ..plots.feature_tree import plot_feature_tree

        return plot_feature_tree(tree_to_dict(self, exact=False), max_terms=max_terms, image_shape=image_shape)

    def to_html(
        self,
        path: str | PathLike[str],
        *,
        title: str | None = None,
        max_terms: int = 6,
        image_shape: tuple[int, ...] | None = None,
    ) -> None:
        """Write the tree as one self-contained page that folds, and in which the inputs of a row can be moved.

        See :func:`featlearn.report.tree.write_tree_page`.
        """
        from ..report.tree import write_tree_page

        write_tree_page(self.export_dict(), path, title=title, max_terms=max_terms, image_shape=image_shape)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = False
        return tags


class FeatureTreeClassifier(ClassifierMixin, FeatureTreeBase):
    """Classification tree of few leaves on features that are learned with it."""

    def _validated(self, X: Any, y: Any) -> tuple[Floats, NDArray[Any]]:
        X, y = validate_data(self, plain(X), plain(y), dtype=np.float64, ensure_all_finite=False, ensure_min_samples=2)
        check_finite(X, getattr(self, "feature_names_in_", None))
        check_labels(y)
        return X, y

    def _targets(self, y: NDArray[Any], w: Floats) -> Targets:
        return as_classes(y, w)

    def _output_names(self, targets: Targets, names: list[str] | None) -> tuple[str, ...]:
        return tuple(str(label) for label in np.asarray(targets.classes).tolist())

    def predict_proba(self, X: Any) -> Any:
        """Shares of the classes, (n, K), in the order of ``classes_``. A tensor for a tensor."""
        return floats_like(X, self._values(X))

    def predict(self, X: Any) -> Any:
        """Classes (n,), the first of equally frequent ones. A tensor for a tensor, if classes are numbers."""
        codes = self._values(X).argmax(axis=1)
        return like(X, self.classes_[codes])


class FeatureTreeRegressor(RegressorMixin, FeatureTreeBase):
    """Regression tree of few leaves on features that are learned with it."""

    def _validated(self, X: Any, y: Any) -> tuple[Floats, NDArray[Any]]:
        X, y = validate_data(
            self, plain(X), plain(y), dtype=np.float64, ensure_all_finite=False, ensure_min_samples=2,
            multi_output=True, y_numeric=True,
        )  # fmt: skip
        check_finite(X, getattr(self, "feature_names_in_", None))
        return X, np.asarray(y, np.float64)

    def _targets(self, y: NDArray[Any], w: Floats) -> Targets:
        return as_outputs(y.reshape(len(y), -1), w)

    def _output_names(self, targets: Targets, names: list[str] | None) -> tuple[str, ...]:
        count = targets.Y.shape[1]
        return tuple(names or (["y"] if count == 1 else [f"y{k}" for k in range(count)]))

    def predict(self, X: Any) -> Any:
        """Outputs, (n,) or (n, K) as in fit. A tensor for a tensor."""
        values = self._values(X)
        return floats_like(X, values[:, 0] if self.one_output_ else values)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _names_of(y: Any) -> list[str] | None:
    """Names of the outputs that a DataFrame or Series brings along."""
    if hasattr(y, "columns"):
        return [str(name) for name in y.columns]
    return None if getattr(y, "name", None) is None else [str(y.name)]


described(
    FeatureTreeClassifier,
    targets="y the classes as columns of zeros and ones (the Brier score)",
    units="",
    classes="""classes_ : array of shape (K,)
        Labels, ascending.
    """,
    example=""">>> y = np.where(X[:, 0] + 2 * X[:, 1] > 0, "yes", "no")
    >>> tree = FeatureTreeClassifier(max_depth=2, random_state=0).fit(X, y)
    >>> tree.get_n_leaves(), tree.score(X, y) > 0.97
    (2, True)
    >>> (tree.components_[0] / tree.components_[0].max()).round(1)
    array([0.5, 1. , 0. ])""",
)
described(
    FeatureTreeRegressor,
    targets="y each output divided by its standard deviation",
    units=", outputs divided by their standard deviations, while value is in their own units",
    classes="",
    example=""">>> y = 10.0 * (X[:, 0] + 2 * X[:, 1] > 0)
    >>> tree = FeatureTreeRegressor(max_depth=2, random_state=0).fit(X, y)
    >>> tree.get_n_leaves(), tree.score(X, y) > 0.9
    (2, True)
    >>> (tree.components_[0] / tree.components_[0].max()).round(1)
    array([0.5, 1. , 0. ])""",
)
