"""Rows, each once and in an order of their own."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from featlearn.trees.rows import distinct_rows


@st.composite
def rows(draw):
    """Rows with many ties, two targets of which may be asked for, and weights."""
    n, d = draw(st.integers(1, 25)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    X = rng.integers(-1, 2, size=(n, d)).astype(float)
    y = rng.integers(0, 2, size=(n, 2) if draw(st.booleans()) else n)
    if draw(st.booleans()):
        y = np.array(["no", "yes"], dtype=object)[y]
    return X, y, rng.choice([0.1, 0.2, 0.3, 1.0], size=n), rng.permutation(n)


def key(x, y):
    return tuple(x), tuple(np.atleast_1d(y))


@settings(max_examples=60, deadline=None)
@given(rows())
def test_equal_rows_are_merged_and_others_are_not(case):
    X, y, w, _ = case
    found = distinct_rows(X, y, w)
    expected = defaultdict(float)
    for x, target, weight in zip(X, y, w, strict=True):
        expected[key(x, target)] += weight
    keys = [key(x, target) for x, target in zip(found.X, found.y, strict=True)]
    assert len(set(keys)) == len(keys) == len(expected)
    np.testing.assert_allclose(found.w, [expected[each] for each in keys], rtol=1e-14)
    assert [keys[place] for place in found.place] == [key(x, target) for x, target in zip(X, y, strict=True)]


@settings(max_examples=60, deadline=None)
@given(rows())
def test_the_order_of_the_rows_says_nothing_to_the_bit(case):
    X, y, w, order = case
    one, other = distinct_rows(X, y, w), distinct_rows(X[order], y[order], w[order])
    for name in ("X", "y", "w"):
        assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_weight_is_a_number_of_repetitions_to_the_bit():
    rng = np.random.default_rng(3)
    X, y, times = rng.integers(0, 2, (30, 3)).astype(float), rng.integers(0, 2, 30), rng.integers(1, 4, 30)
    weighted, repeated = distinct_rows(X, y, times.astype(float)), distinct_rows(
        np.repeat(X, times, axis=0), np.repeat(y, times), np.ones(times.sum())
    )  # fmt: skip
    for name in ("X", "y", "w"):
        assert_array_equal(getattr(weighted, name), getattr(repeated, name))


def test_given_rows_come_back_with_their_repetitions_in_their_own_order():
    X = np.array([[2.0], [1.0], [2.0], [0.0]])
    y = np.array(["b", "a", "b", "b"])
    found = distinct_rows(X, y, np.ones(4))
    assert_array_equal(found.X.ravel(), [1, 0, 2])  # by class first
    some, labels = found.given(np.array([2, 0]))
    assert_array_equal(some.ravel(), [2, 1, 2])
    assert_array_equal(labels, ["b", "a", "b"])


def test_zero_of_either_sign_is_one_number():
    found = distinct_rows(np.array([[0.0], [-0.0]]), np.array([1, 1]), np.ones(2))
    assert_array_equal(found.w, [2.0])
