"""The gradient through a fixed fuzzy tree, against finite differences and a recursion over rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from random_trees import random_tree

from featlearn.trees.features import LinearMap, PrototypeMap
from featlearn.trees.gradient import loss_and_gradient
from featlearn.trees.tree import leaf_tree

OUTPUTS = pytest.mark.parametrize("n_outputs", [1, 3])
BANDWIDTH = 0.4


def problem(n_outputs, n_rows=25, n_features=4, seed=0):
    rng = np.random.default_rng(seed)
    Z, Y = rng.standard_normal((n_rows, n_features)), rng.standard_normal((n_rows, n_outputs))
    # The last feature is never tested.
    return random_tree(rng, 6, n_features - 1, n_outputs), Z, Y, rng.integers(0, 4, n_rows).astype(float)


def loss_by_recursion(tree, Z, Y, w, h):
    def output(v, z):
        if tree.children_left[v] < 0:
            return tree.value[v]
        share = 1 / (1 + np.exp(-np.pi * (z[tree.feature[v]] - tree.threshold[v]) / h))
        return (1 - share) * output(tree.children_left[v], z) + share * output(tree.children_right[v], z)

    return sum(weight * np.sum((output(0, z) - y) ** 2) for z, y, weight in zip(Z, Y, w, strict=True)) / w.sum()


def slope(function, at, step=1e-5):
    """Central differences of fourth order in every entry."""
    found = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        move = np.zeros_like(at)
        move[place] = step
        near, far = function(at + move) - function(at - move), function(at + 2 * move) - function(at - 2 * move)
        found[place] = (8 * near - far) / (12 * step)
    return found


def assert_close(found, expected):
    assert np.abs(expected).max() > 1e-3
    assert np.abs(found - expected).max() < 1e-6 * np.abs(expected).max()


@OUTPUTS
def test_loss_is_the_recursion_s(n_outputs):
    tree, Z, Y, w = problem(n_outputs)
    loss, _, _ = loss_and_gradient(tree, Z, Y, w, BANDWIDTH)
    assert_allclose(loss, loss_by_recursion(tree, Z, Y, w, BANDWIDTH), rtol=1e-12)


@OUTPUTS
def test_slopes_in_features_and_thresholds_are_finite_differences(n_outputs):
    tree, Z, Y, w = problem(n_outputs)
    _, by_features, by_thresholds = loss_and_gradient(tree, Z, Y, w, BANDWIDTH)
    assert_close(by_features, slope(lambda moved: loss_by_recursion(tree, moved, Y, w, BANDWIDTH), Z))
    splits = ~tree.is_leaf

    def of_thresholds(moved):
        threshold = tree.threshold.copy()
        threshold[splits] = moved
        return loss_by_recursion(replace(tree, threshold=threshold), Z, Y, w, BANDWIDTH)

    assert_close(by_thresholds[splits], slope(of_thresholds, tree.threshold[splits]))
    assert (by_thresholds[tree.is_leaf] == 0).all()


@OUTPUTS
@pytest.mark.parametrize("kind", ["linear", "prototype"])
def test_slopes_in_the_parameters_of_a_map_are_finite_differences(kind, n_outputs):
    tree, _, Y, w = problem(n_outputs)
    rng = np.random.default_rng(1)
    X = rng.standard_normal((len(Y), 3))
    shape = (4, 3)
    features = (
        LinearMap(rng.standard_normal(shape))
        if kind == "linear"
        else PrototypeMap(rng.standard_normal(shape), rng.uniform(0.3, 0.8, shape))
    )
    _, by_features, _ = loss_and_gradient(tree, features.forward(X), Y, w, BANDWIDTH)
    for place, found in enumerate(features.backward(X, by_features)):

        def loss(moved, place=place):
            parameters = [*features.parameters[:place], moved, *features.parameters[place + 1 :]]
            return loss_by_recursion(tree, features.with_parameters(tuple(parameters)).forward(X), Y, w, BANDWIDTH)

        assert_close(found, slope(loss, features.parameters[place]))
        assert (found[-1] == 0).all()  # the feature that no split tests


def test_features_without_a_split_and_rows_of_weight_zero_have_no_slope():
    tree, Z, Y, w = problem(2)
    _, by_features, _ = loss_and_gradient(tree, Z, Y, w, BANDWIDTH)
    assert (by_features[:, -1] == 0).all()
    assert (w == 0).any()
    assert (by_features[w == 0] == 0).all()


def test_a_single_leaf_has_no_slope_and_the_variance_as_loss():
    _, Z, Y, w = problem(2)
    loss, by_features, by_thresholds = loss_and_gradient(leaf_tree(Y, w), Z, Y, w, BANDWIDTH)
    assert_allclose(loss, (w @ (Y - w @ Y / w.sum()) ** 2).sum() / w.sum(), rtol=1e-12)
    assert not by_features.any()
    assert not by_thresholds.any()


def test_a_weight_is_a_number_of_repetitions():
    tree, Z, Y, w = problem(2)
    loss, by_features, by_thresholds = loss_and_gradient(tree, Z, Y, w, BANDWIDTH)
    rows = np.repeat(np.arange(len(Z)), w.astype(int))
    again, by_copies, by_thresholds_again = loss_and_gradient(tree, Z[rows], Y[rows], np.ones(len(rows)), BANDWIDTH)
    summed = np.zeros_like(Z)
    np.add.at(summed, rows, by_copies)
    assert_allclose(again, loss, rtol=1e-12)
    assert_allclose(summed, by_features, atol=1e-15)
    assert_allclose(by_thresholds_again, by_thresholds, atol=1e-15)


def test_a_narrow_bandwidth_gives_the_crisp_loss_without_warnings():
    tree, Z, Y, w = problem(2)
    loss, by_features, _ = loss_and_gradient(tree, Z, Y, w, 1e-6)
    assert_allclose(loss, w @ ((tree.predict(Z) - Y) ** 2).sum(axis=1) / w.sum(), rtol=1e-12)
    assert np.isfinite(by_features).all()
