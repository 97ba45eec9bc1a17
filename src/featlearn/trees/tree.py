r"""A binary tree in arrays of its own: sides, paths and predictions, crisp and fuzzy."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, csr_matrix
from scipy.special import expit

from ..exceptions import DataError

__all__ = ["NO_CHILD", "NO_FEATURE", "Node", "Tree", "leaf_tree", "share_right", "tree_from"]

NO_CHILD, NO_FEATURE = -1, -2  # what scikit-learn's trees write at leaves, too

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Tree:
    r"""Nodes in preorder: the root is 0, a left child follows its parent, every child comes after its parent.

    Attributes
    ----------
    children_left, children_right : int32 array of shape (m,)
        Node ids, -1 at leaves.
    feature : int32 array of shape (m,)
        Column that a node tests, -2 at leaves.
    threshold : array of shape (m,)
        In units of that column, NaN at leaves. A row goes right when its value is above.
    value : array of shape (m, K)
        Weighted mean of the targets of the node's rows.
    n_node_weight : array of shape (m,)
        Weight of the node's rows, in a fuzzy tree their memberships.
    gain : array of shape (m,)
        :math:`|C_L|^2 / W_L + |C_R|^2 / W_R - |C|^2 / W` of the split, with sums C of weighted targets and weights W;
        0 at leaves. It is what the split takes off the sum of weighted squared errors.
    impurity : array of shape (m,)
        Weighted mean of the squared distance of the node's targets from ``value``.

    Examples
    --------
    >>> root = Node.of([[0.0], [0.0], [3.0]], [1.0, 1.0, 1.0])
    >>> root.feature, root.threshold, root.gain = 1, 0.5, 6.0
    >>> root.left, root.right = Node.of([[0.0], [0.0]], [1.0, 1.0]), Node.of([[3.0]], [1.0])
    >>> tree = tree_from(root)
    >>> tree.predict(np.array([[0.0, 0.2], [0.0, 0.9]])).tolist()
    [[0.0], [3.0]]
    """

    children_left: NDArray[np.int32]
    children_right: NDArray[np.int32]
    feature: NDArray[np.int32]
    threshold: Array
    value: Array
    n_node_weight: Array
    gain: Array
    impurity: Array

    @property
    def n_nodes(self) -> int:
        """Inner nodes and leaves."""
        return len(self.feature)

    @property
    def is_leaf(self) -> NDArray[np.bool_]:
        """Which nodes have no children, (m,)."""
        return self.children_left == NO_CHILD

    @property
    def n_leaves(self) -> int:
        """One more than there are splits."""
        return int(self.is_leaf.sum())

    @property
    def split_nodes(self) -> list[int]:
        """Ids of the nodes with children, parents before children."""
        return [int(node) for node in np.flatnonzero(~self.is_leaf)]

    @property
    def depth(self) -> int:
        """Splits on the longest path, 0 for a single leaf."""
        depths = np.zeros(self.n_nodes, np.int64)
        for node in self.split_nodes:
            depths[[self.children_left[node], self.children_right[node]]] = depths[node] + 1
        return int(depths.max())

    @property
    def used_features(self) -> NDArray[np.int32]:
        """Columns that some node tests, each once, ascending."""
        return np.unique(self.feature[~self.is_leaf])

    def apply(self, Z: Array) -> NDArray[np.int32]:
        """Leaf of every row of Z (n, q), as node ids (n,)."""
        nodes = np.zeros(len(Z), np.int32)
        moving = np.arange(len(Z)) if self.n_nodes > 1 else np.arange(0)
        while len(moving):
            at = nodes[moving]
            right = Z[moving, self.feature[at]] > self.threshold[at]
            nodes[moving] = np.where(right, self.children_right[at], self.children_left[at])
            moving = moving[~self.is_leaf[nodes[moving]]]
        return nodes

    def predict(self, Z: Array) -> Array:
        """Value of the leaf of every row, (n, K)."""
        return self.value[self.apply(Z)]

    def decision_path(self, Z: Array) -> csr_matrix:
        """Nodes that every row passes, as ones in a sparse matrix (n, m)."""
        passed = np.eye(self.n_nodes, dtype=np.int64)
        for node in self.split_nodes:
            for child in (self.children_left[node], self.children_right[node]):
                passed[child] += passed[node]
        return csr_matrix(csr_array(passed)[self.apply(Z)])

    def reach(self, Z: Array, h: float, smooth: bool = False) -> Array:
        r"""Weight with which every row arrives at every node, the product of shares along the path.

        Parameters
        ----------
        Z : array of shape (n, q)
        h : float
            Half-width of the transition, in units of the columns; 0 for crisp sides.
        smooth : bool
            Logistic sides instead of piecewise linear ones.

        Returns
        -------
        array of shape (n, m)
            Column 0 is 1; the columns of the leaves sum to 1. Columns are contiguous.
        """
        reach = np.empty((len(Z), self.n_nodes), order="F")
        reach[:, 0] = 1
        for node in self.split_nodes:
            share = share_right(Z[:, self.feature[node]], self.threshold[node], h, smooth)
            reach[:, self.children_right[node]] = reach[:, node] * share
            reach[:, self.children_left[node]] = reach[:, node] * (1 - share)
        return reach

    def predict_fuzzy(self, Z: Array, h: float, smooth: bool = False) -> Array:
        """Values of the leaves, averaged with the weights of :meth:`reach`, (n, K)."""
        return self.reach(Z, h, smooth)[:, self.is_leaf] @ self.value[self.is_leaf]

    def root(self) -> Node:
        """The same tree in linked nodes, which can be changed freely; :func:`tree_from` leads back."""
        nodes = [
            Node(self.value[v].copy(), float(self.n_node_weight[v]), float(self.impurity[v]))
            for v in range(self.n_nodes)
        ]
        for v in self.split_nodes:
            node = nodes[v]
            node.feature, node.threshold = int(self.feature[v]), float(self.threshold[v])
            node.gain = float(self.gain[v])
            node.left, node.right = nodes[self.children_left[v]], nodes[self.children_right[v]]
        return nodes[0]

    def renumbered_features(self, kept: ArrayLike) -> Tree:
        """The tree for ``Z[:, kept]``: a test of column j becomes a test of its place in ``kept``.

        Raises
        ------
        DataError
            ``kept`` misses a column that the tree uses.
        """
        places = {int(feature): place for place, feature in enumerate(np.asarray(kept).tolist())}
        missing = sorted({int(feature) for feature in self.used_features} - set(places))
        if missing:
            raise DataError(f"Got kept features without {missing}, but expected all that the tree uses. Keep them.")
        feature = [NO_FEATURE if j == NO_FEATURE else places[j] for j in self.feature.tolist()]
        return replace(self, feature=np.array(feature, np.int32))

    def mirrored(self, features: ArrayLike) -> Tree:
        """The tree for columns of opposite sign.

        Parameters
        ----------
        features : bool array of shape (q,)
            Columns that become ``-z``: their thresholds change sign, and left and right change places.

        Returns
        -------
        Tree
            It predicts for the changed columns what this one does for the old ones, but for rows exactly on a crisp
            threshold, which are on the left before and after.
        """
        flipped = np.asarray(features)
        root = self.root()
        for node in root.walk():
            if node.left is not None and flipped[node.feature]:
                node.threshold, node.left, node.right = -node.threshold, node.right, node.left
        return tree_from(root)


@dataclass(eq=False)
class Node:
    """A node under construction: a leaf until ``feature``, ``threshold``, ``gain``, ``left`` and ``right`` are set.

    Attributes
    ----------
    value : array of shape (K,)
    weight, impurity : float
    feature : int
    threshold, gain : float
    left, right : Node or None
        Both, or none at a leaf. What they mean, see :class:`Tree`.
    """

    value: Array
    weight: float
    impurity: float
    feature: int = NO_FEATURE
    threshold: float = np.nan
    gain: float = 0.0
    left: Node | None = None
    right: Node | None = None

    @classmethod
    def of(cls, Y: ArrayLike, w: ArrayLike) -> Node:
        """The leaf of rows with targets Y (n, K) and weights w (n,), of which one is positive."""
        targets, weights = np.asarray(Y, np.float64), np.asarray(w, np.float64)
        total = float(weights.sum())
        # Sums along an axis, never products of matrices, whose last digits depend on the threads of the library.
        value = (weights[:, None] * targets).sum(axis=0) / total
        squares = np.square(targets - value).sum(axis=1)
        return cls(value, total, float((weights * squares).sum()) / total)

    def walk(self) -> list[Node]:
        """The node and all below it, in preorder."""
        found, waiting = [], [self]
        while waiting:
            node = waiting.pop()
            found.append(node)
            if node.left is not None and node.right is not None:
                waiting += [node.right, node.left]
        return found


def tree_from(root: Node) -> Tree:
    """Arrays of linked nodes.

    Parameters
    ----------
    root : Node

    Returns
    -------
    Tree
        Numbers of nodes without children are not read: they become -2, NaN and 0.
    """
    nodes = root.walk()
    place = {id(node): position for position, node in enumerate(nodes)}
    inner = np.array([node.left is not None for node in nodes])
    left = [NO_CHILD if node.left is None else place[id(node.left)] for node in nodes]
    right = [NO_CHILD if node.right is None else place[id(node.right)] for node in nodes]
    return Tree(
        children_left=np.array(left, np.int32),
        children_right=np.array(right, np.int32),
        feature=np.where(inner, [node.feature for node in nodes], NO_FEATURE).astype(np.int32),
        threshold=np.where(inner, [node.threshold for node in nodes], np.nan),
        value=np.stack([node.value for node in nodes]),
        n_node_weight=np.array([node.weight for node in nodes], np.float64),
        gain=np.where(inner, [node.gain for node in nodes], 0.0),
        impurity=np.array([node.impurity for node in nodes], np.float64),
    )


def leaf_tree(Y: ArrayLike, w: ArrayLike) -> Tree:
    """The tree of a single leaf, for targets Y (n, K) and weights w (n,)."""
    return tree_from(Node.of(Y, w))


def share_right(z: Array, threshold: float | Array, h: float, smooth: bool = False) -> Array:
    r"""Share of a row that goes right: :math:`F((z - t) / h)`, or 1 above t and 0 elsewhere when h is 0.

    .. math:: F(u) = \min(1, \max(0, (u + 1) / 2)) \qquad \text{or, smooth,} \qquad F(u) = 1 / (1 + e^{-\pi u})

    Both have variance 1/3 as distributions.
    """
    if h == 0:
        return np.asarray(z > threshold, np.float64)
    if smooth:
        return np.asarray(expit(np.pi / h * (z - threshold)), np.float64)
    return np.clip((z - threshold + h) / (2 * h), 0, 1)
