"""Trees read from a file: they predict, and cannot be fitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier, DummyRegressor
from torch import Tensor

from ..exceptions import ModelError
from .columns import FittedColumns
from .estimator import RFMBase
from .routing import Routing, TreeNode
from .tables import as_table
from .targets import ClassCoding
from .tree_intervals import Residuals
from .tree_leaves import TreeLeaf
from .tree_shown import TreeShown
from .tree_use import ClassificationTree, RegressionTree, Tree

__all__ = [
    "ConstantClassifier",
    "ConstantRegressor",
    "LoadedTree",
    "LoadedTreeClassifier",
    "LoadedTreeRegressor",
    "loaded_tree",
]


@dataclass(frozen=True, eq=False)
class ConstantRegressor:
    """The same values (C,) for every row: a leaf whose targets or rows did not differ."""

    values: Tensor

    def predict(self, X: Any) -> Tensor:
        """Values (m, C)."""
        return self.values.repeat(as_table(X).n_rows, 1)


@dataclass(frozen=True, eq=False)
class ConstantClassifier:
    """The same probabilities (K,) of its ``classes_`` for every row."""

    classes_: NDArray[Any]
    shares: Tensor

    def predict_proba(self, X: Any) -> Tensor:
        """Probabilities (m, K)."""
        return self.shares.repeat(as_table(X).n_rows, 1)


@dataclass(frozen=True, eq=False, repr=False)
class LoadedTree(Tree, TreeShown):
    """What a file holds of a tree.

    Attributes
    ----------
    routing_ : Routing
        The splits, ``routing_.nodes``, and the encoding of rows for them.
    leaves_ : tuple of TreeLeaf
        With read-only machines, or constants, as their ``estimator``; their ``to_dict`` is empty.
    temperature_ : float
    coding_ : RegressionCoding or ClassCoding
    told : dict
        What ``to_dict`` of the estimator said.
    """

    routing_: Routing
    leaves_: tuple[TreeLeaf, ...]
    temperature_: float
    coding_: Any
    told: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values of the fitted estimator, as at its export."""
        return dict(self.told)

    @property
    def nodes_(self) -> Sequence[TreeNode]:
        """The splits, the root first."""
        return self.routing_.nodes

    @property
    def columns(self) -> FittedColumns:
        """How rows are encoded for the splits."""
        return self.routing_.columns

    @property
    def n_features_in_(self) -> int:
        """Columns that predictions need."""
        return self.columns.n_features_in

    @property
    def feature_names_in_(self) -> NDArray[Any] | None:
        """Their names, if the tree was fitted to a DataFrame."""
        names = self.columns.feature_names
        return None if names is None else np.array(names, dtype=object)

    def check(self) -> None:
        """ValueError where nodes and leaves make no tree."""
        nodes, n_leaves = self.routing_.nodes, self.routing_.n_leaves
        places = sorted(place for node in nodes for place in (node.left, node.right))
        # Every leaf, and every node but the root, has one parent, which stands before it.
        whole = places == [*range(-n_leaves, 0), *range(1, len(nodes))] if nodes else len(self.leaves_) == 1
        ordered = all(place < 0 or place > i for i, node in enumerate(nodes) for place in (node.left, node.right))
        if not whole or not ordered or len(self.leaves_) != n_leaves:
            raise ValueError(f"{len(nodes)} nodes and {len(self.leaves_)} leaves make no tree")
        width = len(self.routing_.columns.names)
        if any(node.direction.shape != (width,) for node in nodes):
            raise ValueError(f"a direction has not {width} entries")
        self.routing_.shares(torch.zeros(1, len(nodes), dtype=torch.float64), self.temperature_)

    def __repr__(self) -> str:
        rows = sum(leaf.n for leaf in self.leaves_)
        leaves = "one leaf" if len(self.leaves_) == 1 else f"{len(self.leaves_):,} leaves"
        return f"{type(self).__name__}({rows:,} training rows, {leaves})"


@dataclass(frozen=True, eq=False, repr=False)
class LoadedTreeRegressor(LoadedTree, RegressionTree):
    """An :class:`~featlearn.RFMTreeRegressor` read from a file."""

    residuals_: Residuals | None = None

    @property
    def has_intervals(self) -> bool:
        """Whether ``predict_interval`` was prepared."""
        return self.residuals_ is not None


@dataclass(frozen=True, eq=False, repr=False)
class LoadedTreeClassifier(LoadedTree, ClassificationTree):
    """An :class:`~featlearn.RFMTreeClassifier` read from a file."""


def loaded_tree(
    tree: Any, told: Mapping[str, Any] | None, loaded: Callable[[Any, Mapping[str, Any]], Any]
) -> LoadedTree:
    """What a file shall hold of a fitted tree; ``loaded`` gives it of the machine in a leaf.

    Raises
    ------
    ModelError
        A leaf that is neither a recursive feature machine nor a constant.
    """
    leaves = tuple(replace(leaf, estimator=_read_only(leaf, loaded)) for leaf in tree.leaves_)
    told = dict(tree.to_dict() if told is None else told)
    routing = Routing(tree.routing_.columns, tuple(tree.routing_.nodes))
    if isinstance(tree.coding_, ClassCoding):
        return LoadedTreeClassifier(routing, leaves, tree.temperature_, tree.coding_, told)
    return LoadedTreeRegressor(routing, leaves, tree.temperature_, tree.coding_, told, tree.residuals_)


def _read_only(leaf: TreeLeaf, loaded: Callable[[Any, Mapping[str, Any]], Any]) -> Any:
    machine = leaf.estimator
    if isinstance(machine, RFMBase):
        return loaded(machine, {})
    if isinstance(machine, DummyRegressor) and machine.strategy == "mean":
        return ConstantRegressor(torch.from_numpy(np.asarray(machine.constant_, dtype=np.float64).ravel()))
    if isinstance(machine, DummyClassifier) and machine.strategy == "prior":
        return ConstantClassifier(np.asarray(machine.classes_), torch.from_numpy(np.array(machine.class_prior_)))
    raise ModelError(
        f"Got a tree with {type(machine).__name__} in a leaf, but expected RFMRegressor or RFMClassifier, or a "
        "constant: a file holds nothing else. Save the tree with joblib."
    )
