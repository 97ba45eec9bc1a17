"""RFM trees: one recursive feature machine a leaf, for more rows than one kernel matrix can hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_classifier, is_regressor
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.utils import check_random_state
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from .._random import generator
from ..exceptions import DataError
from .columns import Columns
from .estimator import RFMBase, like
from .rfm import RFMClassifier, RFMRegressor
from .routing import Routing, take
from .tables import as_table
from .targets import ClassCoding, RegressionCoding
from .tree_growth import Growth, Leaf, Targets, grow
from .tree_leaves import (
    TreeLeaf,
    choose_temperature,
    fit_leaf,
    held_out,
    mix,
    shared_choices,
    varies,
)
from .weights import as_weights

__all__ = ["RFMTreeClassifier", "RFMTreeRegressor"]


class _Tree(BaseEstimator):
    """What both trees share."""

    coding_: Any

    def __init__(
        self,
        leaf: Any = None,
        *,
        max_leaf_size: int = 5000,
        split_samples: int = 2000,
        routing: Any = "soft",
        selection: str = "shared",
        columns: Columns | None = None,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.leaf = leaf
        self.max_leaf_size = max_leaf_size
        self.split_samples = split_samples
        self.routing = routing
        self.selection = selection
        self.columns = columns
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    # fitting ------------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Grow the tree, fit a machine to every leaf, and choose how soft the routing is.

        Parameters
        ----------
        X : array, memmap, DataFrame or Tensor of shape (n, d)
            Read in chunks of rows; no copy of the whole is made.
        y : array of shape (n,); for regression (n, C) too
        sample_weight : array of shape (n,), optional
            2 means that the row was given twice, 0 that it was left out; the sizes of nodes count rows.

        Returns
        -------
        self

        Raises
        ------
        DataError
            For data or parameters that cannot be used, before any work.
        """
        leaf = self._checked_leaf()
        n = as_table(X).n_rows
        validate_data(self, X, skip_check_array=True, reset=True)
        X, weights, seed = _sliceable(X), as_weights(sample_weight, n), self._seed()
        self.coding_, targets = self._targets(y, n, weights)
        rows = torch.arange(n) if weights is None else weights.nonzero()[:, 0]
        columns = self._columns(leaf).fit(X, weights)
        rule = Growth(int(self.max_leaf_size), int(self.split_samples), seed)
        nodes, parts = grow(X, columns, targets, weights, rows, rule, self._runner)
        self.nodes_, self.routing_ = nodes, Routing(columns, nodes)
        held = [rows[:0]] * len(parts)
        if nodes and self.routing == "soft":
            held = [held_out(part.rows, part.heap, len(parts), seed) for part in parts]
        shared: dict[str, Any] = {}
        if nodes and self.selection == "shared":
            shared = self._pilot(leaf, X, targets, weights, rows, seed)
        machines = self._runner(self._leaf_tasks(leaf, shared, X, targets, weights, parts, held, seed))
        self.leaves_ = [
            TreeLeaf(part.heap, part.depth, len(part.rows), machine)
            for part, machine in zip(parts, machines, strict=True)
        ]
        self._set_temperature(X, targets, weights, torch.cat(held).sort().values)
        return self

    def _checked_leaf(self) -> Any:
        """The unfitted leaf; DataError for parameters that cannot be used."""
        for name, least in (("max_leaf_size", 10), ("split_samples", 10)):
            value = getattr(self, name)
            if not _is_whole(value) or value < least:
                raise DataError(f"Got {name}={value!r}, but expected a whole number of at least {least}.")
        if self.routing not in ("soft", "hard") and not _is_temperature(self.routing):
            raise DataError(f'Got routing={self.routing!r}, but expected "soft", "hard" or a temperature >= 0.')
        if self.selection not in ("shared", "leaf"):
            raise DataError(f'Got selection={self.selection!r}, but expected "shared" or "leaf".')
        if self.columns is not None and not isinstance(self.columns, Columns):
            raise DataError(f"Got columns={self.columns!r}, but expected Columns(...) or None.")
        leaf = self._default_leaf() if self.leaf is None else self.leaf
        self._check_kind(leaf)
        if self.columns is not None and isinstance(leaf, RFMBase) and leaf.columns is None:
            return type(leaf)(**{**leaf.get_params(deep=False), "columns": self.columns})
        return leaf

    def _columns(self, leaf: Any) -> Columns:
        """How rows are encoded for the splits."""
        own = leaf.columns if self.columns is None and isinstance(leaf, RFMBase) else self.columns
        return own if isinstance(own, Columns) else Columns()

    def _seed(self) -> int:
        if _is_whole(self.random_state):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _runner(self, tasks: Iterable[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
        if self.verbose:
            from rich.progress import track

            tasks = track(list(tasks), description="Tree")
        return list(Parallel(n_jobs=self.n_jobs)(delayed(function)(*arguments) for function, arguments in tasks))

    def _pilot(
        self, leaf: Any, X: Any, targets: Targets, weights: Tensor | None, rows: Tensor, seed: int
    ) -> dict[str, Any]:
        """What a machine with the rows of one leaf, drawn from all of them, chooses for all leaves."""
        if not isinstance(leaf, RFMBase) or leaf.selection is None:
            return {}
        order = torch.randperm(len(rows), generator=generator(seed, "pilot"))
        drawn = rows[order[: int(self.max_leaf_size)].sort().values]
        if targets.constant(drawn):
            return {}
        parameters = self._own_seed(leaf, 0, seed)
        return shared_choices(fit_leaf(leaf, parameters, *self._rows(X, targets, weights, drawn)))

    def _leaf_tasks(
        self,
        leaf: Any,
        shared: dict[str, Any],
        X: Any,
        targets: Targets,
        weights: Tensor | None,
        parts: list[Leaf],
        held: list[Tensor],
        seed: int,
    ) -> Iterable[tuple[Callable[..., Any], tuple[Any, ...]]]:
        """One fit a leaf; its rows are read when its turn comes."""
        for part, aside in zip(parts, held, strict=True):
            rows = part.rows[~torch.isin(part.rows, aside)]
            own = self._rows(X, targets, weights, rows)
            if varies(self.routing_.columns.transform(own[0]), targets, rows):
                yield fit_leaf, (leaf, {**shared, **self._own_seed(leaf, part.heap, seed)}, *own)
            else:
                yield fit_leaf, (self._constant(), {}, *own)

    def _own_seed(self, leaf: Any, heap: int, seed: int) -> dict[str, Any]:
        """A random_state for a leaf that asks for one and has none."""
        if "random_state" not in leaf.get_params() or leaf.random_state is not None:
            return {}
        return {"random_state": int(torch.randint(2**31 - 1, (), generator=generator(seed, "leaf", heap)))}

    def _rows(
        self, X: Any, targets: Targets, weights: Tensor | None, rows: Tensor
    ) -> tuple[Any, NDArray[Any], NDArray[Any] | None]:
        """Rows of X, of y as the user gave it, and of the weights."""
        return take(X, rows), self._decoded(targets.values[rows]), None if weights is None else weights[rows].numpy()

    def _set_temperature(self, X: Any, targets: Targets, weights: Tensor | None, held: Tensor) -> None:
        self.temperatures_: list[dict[str, float]] = []
        self.temperature_ = 0.0 if isinstance(self.routing, str) else float(self.routing)
        if len(held):
            own = None if weights is None else weights[held]
            self.temperature_, self.temperatures_ = choose_temperature(
                self.routing_, self.leaves_, take(X, held), targets.coded(held), own, self._classes()
            )

    # what the two differ in ---------------------------------------------------------------------------------------

    def _default_leaf(self) -> Any:
        raise NotImplementedError

    def _constant(self) -> Any:
        raise NotImplementedError

    def _check_kind(self, leaf: Any) -> None:
        raise NotImplementedError

    def _targets(self, y: Any, n: int, weights: Tensor | None) -> tuple[Any, Targets]:
        raise NotImplementedError

    def _decoded(self, values: Tensor) -> NDArray[Any]:
        raise NotImplementedError

    def _classes(self) -> NDArray[Any] | None:
        raise NotImplementedError

    def _width(self) -> int:
        raise NotImplementedError

    # use ----------------------------------------------------------------------------------------------------------

    def leaf_of(self, X: Any) -> NDArray[np.int64]:
        """Place among ``leaves_`` (m,) of the leaf on whose side of every threshold a row lies."""
        X = self._check_rows(X)
        routing = self.routing_
        places = [routing.leaf_of(routing.projections(take(X, rows))) for rows in routing.chunks(X)]
        return torch.cat(places).numpy()

    def shares(self, X: Any) -> NDArray[np.float64]:
        """Shares (m, L) of the leaves in the predictions of the rows of X; rows add to 1, at most 12 are not 0."""
        X = self._check_rows(X)
        routing = self.routing_
        parts = [routing.shares(routing.projections(take(X, rows)), self.temperature_) for rows in routing.chunks(X)]
        return torch.cat(parts).numpy()

    @property
    def feature_importances_(self) -> NDArray[np.float64]:
        """Mean (d,) of the importances of the leaves, weighted by their rows; a constant leaf has none."""
        check_is_fitted(self)
        total, size = np.zeros(self.n_features_in_), 0
        for leaf in self.leaves_:
            if not isinstance(leaf.estimator, DummyRegressor | DummyClassifier):
                total += leaf.n * np.asarray(torch.as_tensor(leaf.estimator.feature_importances_).cpu())
                size += leaf.n
        return total / size if size else total

    def _mixed(self, X: Any) -> Tensor:
        """Predictions (m, C), float64."""
        X = self._check_rows(X)
        routing, classes, width = self.routing_, self._classes(), self._width()
        chunks = []
        for rows in routing.chunks(X):
            part = take(X, rows)
            shares = routing.shares(routing.projections(part), self.temperature_)
            chunks.append(mix(shares, part, self.leaves_, classes, width))
        return torch.cat(chunks)

    def _check_rows(self, X: Any) -> Any:
        check_is_fitted(self)
        as_table(X)  # refuses what is no table
        validate_data(self, X, skip_check_array=True, reset=False)
        return _sliceable(X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = isinstance(self.columns, Columns) and self.columns.missing == "indicator"
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        return tags


class RFMTreeRegressor(RegressorMixin, _Tree):
    """A tree with a recursive feature machine in every leaf, for regression."""

    def predict(self, X: Any) -> Any:
        """Predictions (m,) or (m, C), of the kind of X."""
        return _like(X, self.coding_.decode(self._mixed(X)))

    def _default_leaf(self) -> Any:
        return RFMRegressor(kernel="rotated+coordinates", selection="holdout", max_iter=3)

    def _constant(self) -> Any:
        return DummyRegressor()

    def _check_kind(self, leaf: Any) -> None:
        if not is_regressor(leaf):
            raise DataError(f"Got leaf={leaf!r}, but expected a regressor, such as RFMRegressor().")

    def _targets(self, y: Any, n: int, weights: Tensor | None) -> tuple[RegressionCoding, Targets]:
        coding = RegressionCoding.fit(y, n, weights, center=False)
        return coding, Targets(coding.encode(y, n))

    def _decoded(self, values: Tensor) -> NDArray[Any]:
        return np.asarray(self.coding_.decode(values))

    def _classes(self) -> None:
        return None

    def _width(self) -> int:
        return len(self.coding_.mean)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class RFMTreeClassifier(ClassifierMixin, _Tree):
    """A tree with a recursive feature machine in every leaf, for classification."""

    @property
    def classes_(self) -> NDArray[Any]:
        """Labels (K,), ascending."""
        return np.asarray(self.coding_.classes)

    def predict(self, X: Any) -> NDArray[Any]:
        """Labels (m,) of the largest probability; ties go to the first class."""
        return np.asarray(self.classes_[self._mixed(X).numpy().argmax(axis=1)])

    def predict_proba(self, X: Any) -> Any:
        """Probabilities (m, K): those of the leaves, by their shares."""
        return _like(X, self._mixed(X))

    def _default_leaf(self) -> Any:
        return RFMClassifier(kernel="rotated+coordinates", selection="holdout", max_iter=3)

    def _constant(self) -> Any:
        return DummyClassifier()

    def _check_kind(self, leaf: Any) -> None:
        if not is_classifier(leaf) or not hasattr(leaf, "predict_proba"):
            raise DataError(
                f"Got leaf={leaf!r}, but expected a classifier with predict_proba, such as RFMClassifier()."
            )

    def _targets(self, y: Any, n: int, weights: Tensor | None) -> tuple[ClassCoding, Targets]:
        coding = ClassCoding.fit(y, n, weights)
        there = torch.arange(n) if weights is None else weights.nonzero()[:, 0]
        labels = torch.zeros(n, dtype=torch.int64)
        labels[there] = coding.indices(take(_sliceable(y), there), len(there))
        return coding, Targets(labels, len(coding.classes))

    def _decoded(self, values: Tensor) -> NDArray[Any]:
        return np.asarray(self.classes_[values.numpy()])

    def _classes(self) -> NDArray[Any]:
        return self.classes_

    def _width(self) -> int:
        return len(self.classes_)


def _sliceable(X: Any) -> Any:
    """X, or an array where it is a sequence; text among numbers keeps the numbers."""
    if hasattr(X, "shape"):
        return X
    array = np.asarray(X)
    return np.array(X, dtype=object) if array.dtype.kind == "U" else array


def _like(X: Any, values: Tensor) -> Any:
    """Values of the kind and precision of X."""
    return like(X, values.float() if getattr(X, "dtype", None) == np.float32 else values)


def _is_temperature(value: Any) -> bool:
    real = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return real and bool(0 <= value < np.inf)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
