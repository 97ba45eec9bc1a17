"""Looking two levels ahead: the score against its definition, XOR, and when greedy growth is kept."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from random_trees import loss_by_rows
from scipy.sparse import csr_array

from featlearn.trees._lookahead_numba import gain_of_two_levels
from featlearn.trees.grow import grow
from featlearn.trees.lookahead import grow_looking_ahead
from featlearn.trees.split import SortedRows


def xor(n_rows, seed, n_features=2):
    Z = np.random.default_rng(seed).standard_normal((n_rows, n_features))
    return Z, np.eye(2)[((Z[:, 0] > 0) ^ (Z[:, 1] > 0)).astype(int)]


def error(Y, w):
    return w @ ((Y - w @ Y / w.sum()) ** 2).sum(axis=1) if len(w) else 0.0


def best_gain(Z, Y, w, min_weight):
    gains = [0.0]
    for z in Z.T:
        for t in np.unique(z):
            right = z > t
            if min(w[right].sum(), w[~right].sum()) >= max(min_weight, 1):
                gains.append(error(Y, w) - error(Y[right], w[right]) - error(Y[~right], w[~right]))
    return max(gains)


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("targets", ["labels", "numbers"])
@pytest.mark.parametrize("min_weight", [0.0, 12.0])
def test_score_is_the_gain_plus_the_best_gain_of_each_side(min_weight, targets, ties):
    rng = np.random.default_rng(1)
    for _ in range(5):
        Z, w = rng.standard_normal((40, 3)), rng.integers(1, 4, 40).astype(float)
        if ties:
            Z = np.round(Z)
        Y = np.eye(3)[rng.integers(0, 3, 40)] if targets == "labels" else 5 + rng.standard_normal((40, 2))
        ordered, sparse = SortedRows.of(Z, w), csr_array(Y)
        for feature, threshold in [(0, 0.4), (1, -0.3), (2, -1.1)]:
            score = gain_of_two_levels(
                ordered.values, ordered.orders, sparse.indptr, sparse.indices, sparse.data, w, Y.shape[1],
                feature, threshold, min_weight,
            )  # fmt: skip
            right = Z[:, feature] > threshold
            gain = error(Y, w) - error(Y[right], w[right]) - error(Y[~right], w[~right])
            below = sum(best_gain(Z[side], Y[side], w[side], min_weight) for side in (right, ~right))
            if min(w[right].sum(), w[~right].sum()) < max(min_weight, 1):
                assert score == -np.inf
            else:
                assert_allclose(score, gain + below, rtol=1e-10)


def test_a_side_that_is_too_light_has_no_score():
    Z, w = np.arange(6.0)[:, None], np.ones(6)
    ordered, sparse = SortedRows.of(Z, w), csr_array(np.eye(2)[[0, 0, 1, 1, 0, 0]])
    arguments = (ordered.values, ordered.orders, sparse.indptr, sparse.indices, sparse.data, w, 2, 0)
    assert gain_of_two_levels(*arguments, 0.5, 2.0) == -np.inf
    assert gain_of_two_levels(*arguments, 9.0, 0.0) == -np.inf
    assert gain_of_two_levels(*arguments, 1.5, 2.0) > 0


def test_xor_is_found_in_four_leaves_which_greedy_growth_finds_by_luck_only():
    w, looked, greedy = np.ones(800), [], []
    for seed in range(8):
        Z, Y = xor(800, seed)
        tree = grow_looking_ahead(Z, Y, w, max_depth=2, min_weight=5.0)
        assert tree.n_leaves == 4
        looked.append(loss_by_rows(tree, Z, Y, w))
        greedy.append(loss_by_rows(grow(Z, Y, w, 0.0, max_depth=2, min_weight=5.0), Z, Y, w))
    assert max(looked) < 0.1
    assert np.median(greedy) > 0.2


def test_balanced_xor_without_any_gain_at_the_root_is_split():
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1.0]])
    Z, w = np.repeat(corners, 10, axis=0), np.ones(40)
    Y = (Z[:, :1] != Z[:, 1:]).astype(float)
    assert grow(Z, Y, w, 0.0, max_depth=2, min_weight=5.0).n_leaves == 1
    tree = grow_looking_ahead(Z, Y, w, max_depth=2, min_weight=5.0)
    assert tree.n_leaves == 4
    assert loss_by_rows(tree, Z, Y, w) == 0
    assert tree.gain[0] == pytest.approx(0, abs=1e-12)


def test_greedy_growth_is_kept_where_it_is_best():
    rng = np.random.default_rng(0)
    Z, w = rng.standard_normal((300, 2)), np.ones(300)
    Y = np.eye(2)[(Z[:, 0] > 0.3).astype(int)]
    assert grow_looking_ahead(Z, Y, w, max_depth=3, min_weight=5.0) is None
    assert grow_looking_ahead(*xor(300, 0), w, max_depth=1, min_weight=5.0) is None


def test_leaves_keep_their_least_weight_and_depth():
    Z, Y = xor(500, 1, n_features=3)
    w = np.random.default_rng(0).integers(0, 3, 500).astype(float)
    tree = grow_looking_ahead(Z, Y, w, max_depth=3, min_weight=40.0)
    assert tree.n_node_weight.min() >= 40
    assert tree.depth <= 3


@pytest.mark.parametrize("n_rows", [300, 2500])
def test_weights_are_repetitions_and_the_order_of_rows_does_not_matter(n_rows):
    rng = np.random.default_rng(2)
    Z, Y = xor(n_rows, 2, n_features=3)
    Z = np.round(Z, 1)  # many ties
    w = rng.integers(0, 3, n_rows).astype(float)
    rows = rng.permutation(np.repeat(np.arange(n_rows), w.astype(int)))
    weighted = grow_looking_ahead(Z, Y, w, max_depth=3, min_weight=5.0)
    repeated = grow_looking_ahead(Z[rows], Y[rows], np.ones(len(rows)), max_depth=3, min_weight=5.0)
    assert_array_equal(weighted.feature, repeated.feature)
    assert_array_equal(weighted.threshold, repeated.threshold)
    assert_allclose(weighted.value, repeated.value, rtol=1e-12)
