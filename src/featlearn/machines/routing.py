"""Which leaves of a tree answer for a point, and with what share: hard, or soft near the thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .columns import FittedColumns
from .tables import as_table, row_chunks

__all__ = ["Routing", "TreeNode", "kept_shares", "take"]

MASS = 0.99  # probability of the leaves that are kept
MOST_LEAVES = 12  # of one point


@dataclass(frozen=True, eq=False)
class TreeNode:
    r"""One split of a tree: left where ``x . direction <= threshold``.

    Attributes
    ----------
    heap : int
        Place in the binary tree: 1 for the root, ``2 i`` and ``2 i + 1`` for the children of i.
    depth : int
        0 for the root.
    n : int
        Training rows that reached it.
    direction : Tensor of shape (p,), float64
        Of norm 1, in encoded columns.
    threshold : float
    iqr : float
        Interquartile range of the projections of those rows, at least 1e-6: the unit of the distance to the threshold.
    left, right : int
        Place of the child among the nodes, or ``-1 - l`` for leaf l.
    """

    heap: int
    depth: int
    n: int
    direction: Tensor
    threshold: float
    iqr: float
    left: int
    right: int


@dataclass(frozen=True, eq=False)
class Routing:
    """The splits of a tree as one function of the rows.

    Attributes
    ----------
    columns : FittedColumns
        In which directions are written.
    nodes : sequence of TreeNode
        The root first, every node before its children; empty for a tree of one leaf.
    """

    columns: FittedColumns
    nodes: Sequence[TreeNode]

    @property
    def n_leaves(self) -> int:
        """One more than there are splits."""
        return len(self.nodes) + 1

    def chunks(self, X: Any) -> Iterator[slice]:
        """Slices of the rows of X whose projections and shares together stay below 64 MB."""
        return row_chunks(as_table(X).n_rows, max(self.n_leaves, len(self.columns.names)))

    def projections(self, X: Any) -> Tensor:
        """``x . v_j`` (m, J) of the rows of X on the direction of every node, float64."""
        encoded = self.columns.transform(X).cpu()
        if not self.nodes:
            return encoded.new_empty(len(encoded), 0)
        return encoded @ torch.stack([node.direction for node in self.nodes]).mT

    def leaf_of(self, projections: Tensor) -> Tensor:
        """Leaf (m,), int64, on whose side of every threshold a row lies."""
        if not self.nodes:
            return torch.zeros(len(projections), dtype=torch.int64)
        children = torch.tensor([[node.left, node.right] for node in self.nodes])
        threshold = torch.tensor([node.threshold for node in self.nodes], dtype=projections.dtype)
        place = torch.zeros(len(projections), dtype=torch.int64)
        while bool((place >= 0).any()):
            inside = (place >= 0).nonzero()[:, 0]
            node = place[inside]
            place[inside] = children[node, (projections[inside, node] > threshold[node]).long()]
        return -1 - place

    def log_shares(self, projections: Tensor, temperature: float) -> Tensor:
        r"""Log-probabilities (m, L) of all leaves, for a temperature T > 0.

        .. math:: \log P(l \mid x) = \sum_{j \in \mathrm{path}(l)} \log \sigma\!\Big(\mp \frac{x^\top v_j - b_j}{T\,
            \mathrm{IQR}_j}\Big)

        with the minus where the path goes left. They add to 1 over the leaves.
        """
        logs = projections.new_zeros(len(projections), self.n_leaves)
        reached = {0: projections.new_zeros(len(projections))}
        for j, node in enumerate(self.nodes):
            here = reached.pop(j)
            side = (projections[:, j] - node.threshold) / (temperature * node.iqr)
            for child, sign in ((node.left, -1), (node.right, 1)):
                passed = here + torch.nn.functional.logsigmoid(sign * side)
                if child >= 0:
                    reached[child] = passed
                else:
                    logs[:, -1 - child] = passed
        return logs

    def shares(self, projections: Tensor, temperature: float) -> Tensor:
        """Shares (m, L) of the leaves in a prediction, rows adding to 1; temperature 0 is hard routing."""
        if temperature == 0 or not self.nodes:
            return torch.nn.functional.one_hot(self.leaf_of(projections), self.n_leaves).to(projections)
        return kept_shares(self.log_shares(projections, temperature).exp())


def kept_shares(probabilities: Tensor) -> Tensor:
    """The most probable leaves of each row, up to 0.99 of the mass but at most 12, divided by their sum; others 0."""
    ordered, place = probabilities.sort(dim=1, descending=True, stable=True)
    before = ordered.cumsum(dim=1) - ordered
    ordered = ordered.masked_fill(before >= MASS, 0.0)
    ordered[:, MOST_LEAVES:] = 0.0
    shares = torch.zeros_like(probabilities).scatter_(1, place, ordered)
    return shares / shares.sum(dim=1, keepdim=True)


def take(X: Any, index: Tensor | slice) -> Any:
    """Rows of an array, memmap, DataFrame or tensor, of its kind."""
    if isinstance(index, slice):
        return X.iloc[index] if hasattr(X, "iloc") else X[index]
    if isinstance(X, Tensor):
        return X[index.to(X.device)]
    return X.iloc[index.numpy()] if hasattr(X, "iloc") else X[index.numpy()]
