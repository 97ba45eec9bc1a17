"""What both RFM trees share: parameters, growing, fitting the leaves, the temperature."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from .._random import generator
from ..exceptions import DataError
from .columns import Columns
from .estimator import RFMBase
from .parameters import as_seed, is_whole
from .routing import Routing, take
from .tables import as_table
from .tree_growth import Growth, Leaf, Targets, grow
from .tree_leaves import (
    TreeLeaf,
    choose_temperature,
    fit_leaf,
    held_out,
    shared_choices,
    varies,
)
from .tree_shown import TreeShown
from .tree_use import Tree, sliceable
from .weights import as_weights

__all__ = ["RFMTree"]


class RFMTree(Tree, TreeShown, BaseEstimator):
    """What both trees share."""

    def __init__(
        self,
        leaf: Any = None,
        *,
        max_leaf_size: int = 10_000,
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
        X, weights, seed = sliceable(X), as_weights(sample_weight, n), as_seed(self.random_state)
        self.coding_, targets = self._targets(y, n, weights)
        rows = torch.arange(n) if weights is None else weights.nonzero()[:, 0]
        rows, aside = self._set_aside(rows, seed)
        columns = self._columns(leaf).fit(X, weights if len(aside) == 0 else _only(rows, weights, n))
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
            TreeLeaf(part.heap, part.depth, len(part.rows), machine, targets.mean(part.rows, weights))
            for part, machine in zip(parts, machines, strict=True)
        ]
        self._set_temperature(X, targets, weights, torch.cat(held).sort().values)
        self._calibrate(X, targets, aside)
        return self

    def _set_aside(self, rows: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Rows to fit to, ascending, and rows that nothing may see but the calibration of intervals."""
        return rows, rows[:0]

    def _calibrate(self, X: Any, targets: Targets, aside: Tensor) -> None:
        """Intervals, for trees that have them."""

    def _checked_leaf(self) -> Any:
        """The unfitted leaf; DataError for parameters that cannot be used."""
        for name, least in (("max_leaf_size", 10), ("split_samples", 10)):
            value = getattr(self, name)
            if not is_whole(value) or value < least:
                raise DataError(f"Got {name}={value!r}, but expected a whole number of at least {least}.")
        if self.routing not in ("soft", "hard") and not _is_temperature(self.routing):
            raise DataError(f'Got routing={self.routing!r}, but expected "soft", "hard" or a temperature >= 0.')
        if self.selection not in ("shared", "leaf"):
            raise DataError(f'Got selection={self.selection!r}, but expected "shared" or "leaf".')
        if self.columns is not None and not isinstance(self.columns, Columns):
            raise DataError(f"Got columns={self.columns!r}, but expected Columns(...) or None.")
        self._check_own()
        leaf = self._default_leaf() if self.leaf is None else self.leaf
        if isinstance(leaf, type) or not hasattr(leaf, "fit") or not self._is_kind(leaf):
            raise DataError(f"Got leaf={leaf!r}, but expected {self._kind}.")
        if self.columns is not None and isinstance(leaf, RFMBase) and leaf.columns is None:
            return type(leaf)(**{**leaf.get_params(deep=False), "columns": self.columns})
        return leaf

    def _columns(self, leaf: Any) -> Columns:
        """How rows are encoded for the splits."""
        return _own_columns(self.columns, leaf) or Columns()

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
        parameters = {**self._own_seed(leaf, 0, seed), "blend": 1}  # one set of choices is wanted
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
                self.routing_, self.leaves_, take(X, held), targets.coded(held), own, getattr(self, "classes_", None)
            )

    # what the two differ in ---------------------------------------------------------------------------------------

    _kind: str

    def _default_leaf(self) -> Any:
        raise NotImplementedError

    def _constant(self) -> Any:
        raise NotImplementedError

    def _is_kind(self, leaf: Any) -> bool:
        raise NotImplementedError

    def _check_own(self) -> None:
        """Refuse parameters that only one of the trees has."""

    def _targets(self, y: Any, n: int, weights: Tensor | None) -> tuple[Any, Targets]:
        raise NotImplementedError

    def _decoded(self, values: Tensor) -> NDArray[Any]:
        raise NotImplementedError

    # use ----------------------------------------------------------------------------------------------------------

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

    def export(self, path: str | PathLike[str]) -> None:
        """Write the fitted tree to one safetensors file, from which ``featlearn.machines.load`` predicts the same.

        No pickle, and no training data but the rows as the kernels of the leaves see them: see
        :func:`featlearn.machines.export.save_machine`. ModelError for leaves that are no machines of this package.
        """
        from .export import save_machine

        save_machine(self, path)

    def _checked_rows(self, X: Any) -> Any:
        check_is_fitted(self)
        rows = super()._checked_rows(X)
        validate_data(self, X, skip_check_array=True, reset=False)
        return rows

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        columns = _own_columns(self.columns, self.leaf)
        tags.input_tags.allow_nan = columns is not None and columns.missing == "indicator"
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        return tags


def _own_columns(columns: Any, leaf: Any) -> Columns | None:
    """Those of the tree, else the first of its leaf; None where neither has any."""
    if columns is None and isinstance(leaf, RFMBase):
        columns = leaf.columns
    if isinstance(columns, Sequence) and columns:
        columns = columns[0]
    return columns if isinstance(columns, Columns) else None


def _only(rows: Tensor, weights: Tensor | None, n: int) -> Tensor:
    """Weights (n,) that are 0 outside of ``rows``."""
    kept = torch.zeros(n, dtype=torch.float64)
    kept[rows] = 1.0 if weights is None else weights[rows]
    return kept


def _is_temperature(value: Any) -> bool:
    real = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return real and bool(0 <= value < np.inf)
