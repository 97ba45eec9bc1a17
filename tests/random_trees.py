"""Trees of random splits and values, and the slowest way to read one."""

from __future__ import annotations

from featlearn.trees.tree import Node, Tree, tree_from


def random_tree(rng, n_splits, n_features, n_outputs) -> Tree:
    """Random leaves are split one after the other; tests and values are normal, weights 1 and gains 0."""

    def leaf():
        return Node(rng.standard_normal(n_outputs), 1.0, 1.0)

    root = leaf()
    leaves = [root]
    for _ in range(n_splits):
        node = leaves.pop(rng.integers(len(leaves)))
        node.feature, node.threshold = int(rng.integers(n_features)), float(rng.normal(scale=0.7))
        node.left, node.right = leaf(), leaf()
        leaves += [node.left, node.right]
    return tree_from(root)


def loss_by_rows(tree, Z, Y, w) -> float:
    """Weighted mean of squared errors, one row and one step at a time."""
    total = 0.0
    for z, y, weight in zip(Z, Y, w, strict=True):
        v = 0
        while tree.children_left[v] >= 0:
            v = tree.children_right[v] if z[tree.feature[v]] > tree.threshold[v] else tree.children_left[v]
        total += weight * sum((tree.value[v][k] - y[k]) ** 2 for k in range(len(y)))
    return total / sum(w)
