"""Feature maps: values and gradients against their definitions, rescaling, supports that stay frozen."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featlearn._random import generator
from featlearn.exceptions import DataError
from featlearn.trees.features import LinearMap, PrototypeMap

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 5))
Y = np.eye(3)[RNG.integers(0, 3, 40)]
W = RNG.integers(1, 4, 40).astype(float)
MAPS = {
    "linear": LinearMap(RNG.standard_normal((3, 5))),
    "prototype": PrototypeMap(RNG.standard_normal((3, 5)), RNG.standard_normal((3, 5))),
}
maps = pytest.mark.parametrize("name", list(MAPS))


def weights_of(features):
    return features.parameters[-1]


def test_linear_features_are_inner_products():
    features = MAPS["linear"]
    slow = [[sum(features.weights[j, i] * x[i] for i in range(5)) for j in range(3)] for x in X]
    np.testing.assert_allclose(features.forward(X), slow, rtol=1e-12)


def test_prototype_features_are_negative_masked_squared_distances():
    features = MAPS["prototype"]
    p, m = features.parameters
    slow = [[-sum(((x[i] - p[j, i]) * m[j, i]) ** 2 for i in range(5)) for j in range(3)] for x in X]
    np.testing.assert_allclose(features.forward(X), slow, rtol=1e-12, atol=1e-12)


@maps
def test_backward_equals_central_differences(name):
    features = MAPS[name]
    upstream = np.random.default_rng(1).standard_normal((40, 3))
    gradients = features.backward(X, upstream)
    for place, gradient in enumerate(gradients):
        for entry in np.ndindex(gradient.shape):
            sides = []
            for step in (1e-5, -1e-5):
                moved = [values.copy() for values in features.parameters]
                moved[place][entry] += step
                sides.append((features.with_parameters(tuple(moved)).forward(X) * upstream).sum())
            assert gradient[entry] == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-6, abs=1e-6)


@maps
def test_a_feature_without_upstream_gradient_has_none(name):
    upstream = np.random.default_rng(1).standard_normal((40, 3))
    upstream[:, 1] = 0
    for gradient in MAPS[name].backward(X, upstream):
        assert (gradient[1] == 0).all()
        assert (gradient[0] != 0).all()


@maps
def test_rescaled_features_have_unit_weighted_deviation(name):
    Z = MAPS[name].rescaled(X, W).forward(X)
    repeated = np.repeat(Z, W.astype(int), axis=0)
    np.testing.assert_allclose(repeated.std(axis=0), 1, rtol=1e-12)


@maps
def test_rescaling_keeps_directions_and_is_done_once(name):
    once = MAPS[name].rescaled(X, W)
    twice = once.rescaled(X, W)
    np.testing.assert_allclose(weights_of(twice), weights_of(once), rtol=1e-12)
    ratio = weights_of(once) / weights_of(MAPS[name])
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1], ratio.shape), rtol=1e-12)


def test_a_feature_that_does_not_vary_is_left_alone():
    rows = np.array([[2.0, 1.0], [0.0, 0.0]])
    signs = np.array([[1.0, 0.0], [-1.0, 1.0], [1.0, 2.0], [-1.0, 3.0]])
    assert (LinearMap(rows).rescaled(signs, np.ones(4)).weights[1] == 0).all()
    # Both signs are as far from 0, so this prototype measures a constant.
    constant = PrototypeMap(np.zeros((1, 2)), np.array([[3.0, 0.0]])).rescaled(signs, np.ones(4))
    np.testing.assert_array_equal(constant.masks, [[3.0, 0.0]])


@given(s=st.integers(1, 6), seed=st.integers(0, 50))
def test_keep_largest_keeps_the_largest(s, seed):
    weights = np.random.default_rng(seed).standard_normal((4, 5))
    kept = LinearMap(weights).keep_largest(s)
    assert (kept.n_weights == min(s, 5)).all()
    for before, after in zip(weights, kept.weights, strict=True):
        largest = sorted(range(5), key=lambda i: -abs(before[i]))[:s]
        np.testing.assert_array_equal(np.flatnonzero(after), sorted(largest))
        np.testing.assert_array_equal(after[largest], before[largest])


@maps
def test_what_was_zeroed_stays_zero(name):
    features = MAPS[name].keep_largest(3)
    frozen = weights_of(features) == 0
    assert frozen.sum() == 6
    moved = features.with_parameters(tuple(values + 1.0 for values in features.parameters))
    assert (weights_of(moved)[frozen] == 0).all()
    assert (weights_of(moved)[~frozen] != 0).all()
    for gradient in moved.backward(X, np.ones((40, 3))):
        assert (gradient[frozen] == 0).all()
    # What was frozen never comes back, however many weights may be kept later.
    again = moved.rescaled(X, W).keep_largest(5)
    assert (weights_of(again)[frozen] == 0).all()
    assert (again.with_parameters(MAPS[name].parameters).n_weights == 3).all()


@maps
def test_zeros_that_were_given_are_free_to_move(name):
    parameters = [values.copy() for values in MAPS[name].parameters]
    parameters[-1][:, 0] = 0
    features = type(MAPS[name])(*parameters)
    assert (features.n_weights == 4).all()
    assert (features.with_parameters(MAPS[name].parameters).n_weights == 5).all()
    # Keeping as many as there are is how zeros are frozen.
    assert (features.keep_largest(5).with_parameters(MAPS[name].parameters).n_weights == 4).all()


@maps
def test_selected_features_keep_values_and_supports(name):
    features = MAPS[name].keep_largest(2)
    chosen = features.select(np.array([2, 0]))
    np.testing.assert_array_equal(chosen.forward(X), features.forward(X)[:, [2, 0]])
    assert (chosen.with_parameters(tuple(np.ones((2, 5)) for _ in features.parameters)).n_weights == 2).all()
    assert chosen.n_features == 2


@maps
def test_the_start_does_not_see_how_rows_are_counted(name):
    kind = type(MAPS[name])
    weighted = kind.start(X, Y, W, 4, generator(3, "start"))
    places = np.repeat(np.arange(40), W.astype(int))
    repeated = kind.start(X[places], Y[places], np.ones(len(places)), 4, generator(3, "start"))
    for one, other in zip(weighted.parameters, repeated.parameters, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    another = kind.start(X, Y, W, 4, generator(4, "start"))
    assert np.abs(weights_of(another) / weights_of(weighted) - 1).max() > 1e-3


def test_random_rows_do_not_depend_on_the_data():
    few, many = (LinearMap.start(X[:n], Y[:n], W[:n], 4, generator(3, "start")).weights for n in (20, 40))
    np.testing.assert_allclose(few / few[:, :1], many / many[:, :1], rtol=1e-12)


def test_prototypes_start_at_class_means_in_turn():
    centres = np.array([[50.0, 0.0], [0.0, 50.0], [-50.0, 0.0]])
    points, labels = np.repeat(centres, 10, axis=0), np.repeat(np.eye(3), 10, axis=0)
    start = PrototypeMap.start(points, labels, np.ones(30), 4, generator(0, "start"))
    np.testing.assert_allclose(start.prototypes, centres[[0, 1, 2, 0]], atol=5)
    regression = PrototypeMap.start(points, points, np.ones(30), 2, generator(0, "start"))
    np.testing.assert_allclose(regression.prototypes, points.mean(axis=0) * np.ones((2, 1)), atol=5)


@maps
def test_maps_survive_pickle(name):
    features = MAPS[name].keep_largest(2)
    copy = pickle.loads(pickle.dumps(features))
    np.testing.assert_array_equal(copy.forward(X), features.forward(X))
    assert (copy.with_parameters(MAPS[name].parameters).n_weights == 2).all()


def test_keeping_no_weight_is_refused():
    with pytest.raises(DataError, match="s=0"):
        MAPS["linear"].keep_largest(0)
