"""Growth of a crisp tree that looks two levels ahead, where one split alone shows nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from .refit import midpoint
from .split import EQUAL, SortedRows, Split, backend_for, best_sorted_split, gain_at
from .tree import Node, Tree, tree_from

__all__ = ["MAX_FEATURES", "grow_looking_ahead"]

MAX_FEATURES = 8  # the cost of a node goes with their square
MAX_ROWS = 2000  # with which the tests of a node are scored
LEVELS = np.arange(1, 10) / 10  # quantiles at which a feature is cut
BETTER = 1.001  # what a score has to be, in scores of the greedy split, to take its place

Floats = NDArray[np.float64]


def grow_looking_ahead(
    Z: Floats, Y: Floats, w: Floats, *, max_depth: int, min_weight: float, ordered: SortedRows | None = None
) -> Tree | None:
    """Growth in which a split is worth its gain plus the best gain of a split of each of its sides.

    Thresholds at the weighted deciles of each feature are scored, and the greedy split; it gives way to one whose score
    is .1% better. On the last level, and where nothing beats it, the greedy split is taken.

    Parameters
    ----------
    Z : array of shape (n, q)
        Features, at most :data:`MAX_FEATURES`.
    Y : array of shape (n, K)
        Targets.
    w : array of shape (n,)
        Weights of the rows, not negative, with a positive sum.
    max_depth : int
        Most splits on a path.
    min_weight : float
        Least weight of a leaf.
    ordered : SortedRows, optional
        Those of ``Z`` and ``w``, if they are known.

    Returns
    -------
    Tree or None
        None where the greedy split was best at every node: the tree is that of :func:`~featlearn.trees.grow.grow`.

    Notes
    -----
    A node costs ``18 q^2`` sweeps over at most 2000 rows: those in the middle of 2000 equal shares of its weight, in
    the order of the first feature, so that neither the order of rows nor repetition in place of weight matters. The
    constants are the library's own.

    Examples
    --------
    >>> import numpy as np
    >>> Z = np.random.default_rng(0).standard_normal((400, 2))
    >>> Y = ((Z[:, :1] > 0) != (Z[:, 1:] > 0)).astype(float)
    >>> tree = grow_looking_ahead(Z, Y, np.ones(400), max_depth=2, min_weight=5.0)
    >>> tree.n_leaves, bool(abs(tree.threshold[0]) < 0.2)
    (4, True)
    """
    ordered = SortedRows.of(Z, w) if ordered is None else ordered
    backend = backend_for(len(ordered.rows), Z.shape[1])
    if len(ordered.rows) > MAX_ROWS:
        ordered = _without_ties(ordered, Z, Y)
    root = Node.of(Y[ordered.rows], w[ordered.rows])
    looked = False
    waiting = [(root, ordered, max_depth)]
    while waiting:
        node, members, levels = waiting.pop()
        targets, weights = Y[members.rows], w[members.rows]
        if weights.sum() < 2 * min_weight:
            continue
        greedy = split = best_sorted_split(members, targets, weights, 0.0, min_weight, backend=backend)
        if levels > 1 and node.impurity > 0:
            least = EQUAL * node.impurity * node.weight
            split = _best_of_two_levels(members, targets, weights, min_weight, greedy, least)
        if split is None:
            continue
        looked |= split is not greedy
        node.feature, node.threshold, node.gain = split.feature, split.threshold, split.gain
        right = Z[members.rows, split.feature] > split.threshold
        node.left, node.right = (Node.of(targets[side], weights[side]) for side in (~right, right))
        if levels > 1:
            waiting += [(node.right, members.only(right), levels - 1), (node.left, members.only(~right), levels - 1)]
    return tree_from(root) if looked else None


def _best_of_two_levels(
    members: SortedRows, Y: Floats, w: Floats, min_weight: float, greedy: Split | None, least: float
) -> Split | None:
    """The test of highest score above ``least``, or the greedy split if none is clearly better."""
    from ._lookahead_numba import gain_of_two_levels  # numba loads at first use

    sample, weights, rows = _shares(members, w)
    targets = csr_array(Y[rows])

    def score(feature: int, threshold: float) -> float:
        gain: float = gain_of_two_levels(
            sample.values, sample.orders, targets.indptr, targets.indices, targets.data, weights, Y.shape[1],
            feature, threshold, min_weight,
        )  # fmt: skip
        return gain

    best = None
    highest = BETTER * max(score(greedy.feature, greedy.threshold), least) if greedy else least
    for feature, threshold in _cuts(sample, weights):
        reached = score(feature, threshold)
        if reached > highest:
            best, highest = (feature, threshold), reached
    if best is None:
        return greedy
    feature, threshold = best
    z = members.values[feature]
    order = members.orders[feature]
    return Split(feature, threshold, gain_at(z, Y[order], w[order], threshold, 0.0))


def _cuts(members: SortedRows, w: Floats) -> Iterator[tuple[int, float]]:
    """Thresholds at the weighted deciles of every column, in the gap above them."""
    for feature, (z, order) in enumerate(zip(members.values, members.orders, strict=True)):
        weights = np.cumsum(w[order])
        places = np.searchsorted(weights, LEVELS * weights[-1])
        above = np.unique(np.searchsorted(z, z[places] + EQUAL * max(-z[0], z[-1]), side="right"))
        for k in above[above < len(z)]:
            yield feature, midpoint(float(z[k - 1]), float(z[k]))


def _shares(members: SortedRows, w: Floats) -> tuple[SortedRows, Floats, NDArray[np.intp]]:
    """At most 2000 of the rows, still sorted, their weights, and which of the given rows they are."""
    total = w.sum()
    if max(total, len(w)) <= MAX_ROWS:
        return members, w, np.arange(len(w))
    order = members.orders[0]
    middles = (np.arange(MAX_ROWS) + 0.5) / MAX_ROWS * total
    counts = np.bincount(order[np.searchsorted(np.cumsum(w[order]), middles)], minlength=len(w))
    kept = counts > 0
    return members.only(kept), counts[kept] * (total / MAX_ROWS), np.flatnonzero(kept)


def _without_ties(ordered: SortedRows, Z: Floats, Y: Floats) -> SortedRows:
    """Rows that are equal in the first feature, in the order of the others: which are scored is no matter of luck."""
    orders = ordered.orders.copy()
    orders[0] = np.lexsort([*Y[ordered.rows].T, *Z[ordered.rows].T[::-1]])
    return replace(ordered, orders=orders)
