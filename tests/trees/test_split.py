"""The best split against direct evaluation of every candidate, a fine grid, and between the two backends."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featlearn.exceptions import DataError
from featlearn.trees.split import SortedRows, Split, backend_for, best_sorted_split, best_split, gain_at

BACKENDS = ["numpy", "numba"]


def direct_gain(z, Y, w, t, h):
    """Q(t) by its definition, and the weight of the lighter side."""
    s = (z > t).astype(float) if h == 0 else np.array([min(1.0, max(0.0, (v - t + h) / (2 * h))) for v in z])
    total, parts = w @ Y, []
    for share in (1 - s, s):
        weight, sums = (w * share).sum(), (w * share) @ Y
        parts.append((weight, sums @ sums / weight if weight > 1e-9 else 0.0))
    gain = parts[0][1] + parts[1][1] - total @ total / w.sum()
    return gain, min(parts[0][0], parts[1][0])


def problem(seed, columns=3, outputs=None):
    """Rows with ties, repeated rows, weights some of which are 0, and one or several targets."""
    rng = np.random.default_rng(seed)
    n, outputs = int(rng.integers(2, 30)), outputs or int(rng.integers(1, 4))
    Z = rng.normal(size=(n, columns))
    if seed % 3 == 0:
        Z = Z.round(1)
    Y = rng.normal(size=(n, outputs)) if seed % 2 else np.eye(outputs)[rng.integers(0, outputs, n)] + 5.0
    w = rng.integers(0, 4, n).astype(float) if seed % 4 == 1 else rng.uniform(0.1, 2, n)
    w[0] = 1.0
    h = [0.0, 0.05, 0.3, 1.0][seed // 4 % 4]
    min_weight = [0.0, 0.2, 0.45][seed // 16 % 3] * w.sum()
    return Z, Y, w, h, min_weight


def best_by_hand(Z, Y, w, h, min_weight):
    """Largest direct gain over all breakpoints, or all midpoints, that leave enough weight on both sides."""
    best = 0.0
    for z in Z[w > 0].T:
        values = np.unique(z)
        candidates = (values[1:] + values[:-1]) / 2 if h == 0 else np.concatenate([values - h, values + h])
        for t in candidates:
            gain, lighter = direct_gain(z, Y[w > 0], w[w > 0], t, h)
            if lighter >= max(min_weight - 1e-9, 1e-9):
                best = max(best, gain)
    return best


def test_no_breakpoint_has_a_larger_gain():
    found = 0
    for seed in range(300):
        Z, Y, w, h, min_weight = problem(seed)
        best = best_by_hand(Z, Y, w, h, min_weight)
        for backend in BACKENDS:
            split = best_split(Z, Y, w, h, min_weight, backend=backend)
            if split is None:
                assert best <= 1e-12
                continue
            found += 1
            gain, lighter = direct_gain(Z[:, split.feature], Y, w, split.threshold, h)
            assert split.gain == pytest.approx(gain, rel=1e-12, abs=1e-12)
            assert lighter >= min_weight - 1e-9
            # Ends of the feasible interval can only add to the breakpoints; crisp candidates are all there is.
            assert split.gain >= best * (1 - 1e-12) - 1e-12
            if h == 0:
                assert split.gain == pytest.approx(best, rel=1e-12)
    assert found > 400


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_threshold_of_a_fine_grid_has_a_larger_gain(backend):
    for seed in range(300):
        Z, Y, w, h, min_weight = problem(seed, columns=1)
        if h == 0:
            continue
        split = best_split(Z, Y, w, h, min_weight, backend=backend)
        z, grid = Z[:, :1], np.linspace(Z.min() - h, Z.max() + h, 1500)
        s = np.clip((z - grid + h) / (2 * h), 0, 1)
        weights, sums = w @ s, (w[:, None, None] * s[:, :, None] * Y[:, None, :]).sum(axis=0)
        left_weights, left_sums = w.sum() - weights, w @ Y - sums
        inside = np.minimum(weights, left_weights) >= max(min_weight, 1e-9 * w.sum())
        gains = np.square(sums[inside]).sum(1) / weights[inside]
        gains += np.square(left_sums[inside]).sum(1) / left_weights[inside] - (w @ Y) @ (w @ Y) / w.sum()
        best = gains.max(initial=0.0)
        assert (0.0 if split is None else split.gain) >= best - 1e-12 * max(1.0, np.square(w @ Y).sum())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("outlier", "cut"), [(7, 6), (0, 1)])
def test_leaf_constraint_is_met_with_equality_at_either_end(backend, outlier, cut):
    # An outlier at one end wants to be alone; with a weight of 1.5 it takes half of its neighbour, which is a threshold
    # exactly there, between that neighbour's two breakpoints.
    z, Y, h = np.arange(8.0)[:, None] / 4, np.zeros((8, 1)), 0.1
    Y[outlier] = 9
    split = best_split(z, Y, np.ones(8), h, 1.5, backend=backend)
    assert split.threshold == pytest.approx(z[cut, 0], rel=1e-12)
    assert direct_gain(z[:, 0], Y, np.ones(8), split.threshold, h) == pytest.approx((split.gain, 1.5), rel=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_forty_outputs_are_summed_over(backend):
    for seed in range(20):
        Z, Y, w, h, min_weight = problem(seed, outputs=40)
        split = best_split(Z, Y, w, h, min_weight, backend=backend)
        best = best_by_hand(Z, Y, w, h, min_weight)
        assert (0.0 if split is None else split.gain) >= best - 1e-14 * np.square(w @ Y).sum()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("h", [0.0, 0.1])
@pytest.mark.parametrize(
    ("Z", "Y"),
    [
        (np.ones((1, 2)), np.ones((1, 1))),
        (np.ones((6, 2)), np.arange(6.0)[:, None]),
        (np.arange(6.0)[:, None], np.full((6, 2), 0.1)),
        (np.ones((6, 0)), np.arange(6.0)[:, None]),
    ],
    ids=["one row", "equal rows", "equal targets", "no columns"],
)
def test_nothing_to_split_gives_none(backend, h, Z, Y):
    assert best_split(Z, Y, np.ones(len(Z)), h, backend=backend) is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_too_little_weight_for_two_leaves_gives_none(backend):
    Z, Y = np.arange(4.0)[:, None], np.arange(4.0)[:, None]
    for h in (0.0, 0.3):
        assert best_split(Z, Y, np.ones(4), h, 2.0, backend=backend) is not None
        assert best_split(Z, Y, np.ones(4), h, 2.01, backend=backend) is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_flat_gain_puts_the_threshold_into_the_middle_of_the_gap(backend):
    z = np.array([0.0, 0.2, 1.0, 1.2])[:, None]
    split = best_split(z, np.array([[0.0], [0.0], [1.0], [1.0]]), np.ones(4), 0.1, backend=backend)
    assert (split.threshold, split.gain) == pytest.approx((0.6, 1.0))


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_equal_maxima_with_a_dip_between_them_give_the_lower_one(backend):
    z, Y = np.array([[0.0], [1.0]]), np.array([[0.0], [1.0]])
    split = best_split(z, Y, np.ones(2), 0.6, backend=backend)  # by symmetry Q(.4) = Q(.6), and Q(.5) is less
    assert split.threshold == pytest.approx(0.4)
    assert gain_at(z[:, 0], Y, np.ones(2), 0.5, 0.6) < split.gain - 1e-3
    assert gain_at(z[:, 0], Y, np.ones(2), 0.6, 0.6) == pytest.approx(split.gain)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("h", [0.0, 0.2])
def test_ties_between_columns_go_to_the_first(backend, h):
    rng = np.random.default_rng(3)
    z, Y = rng.normal(size=50), rng.normal(size=(50, 2))
    noise = rng.normal(size=50) * 1e-3
    for columns in ([noise, z, z], [noise, z, -z], [noise, -z, z]):
        split = best_split(np.column_stack(columns), Y, np.ones(50), h, backend=backend)
        assert split.feature in (0, 1)
        assert split.feature == 0 or split.gain == pytest.approx(
            gain_at(columns[1], Y, np.ones(50), split.threshold, h)
        )
    assert best_split(np.column_stack([z, z, -z]), Y, np.ones(50), h, backend=backend).feature == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_crisp_threshold_between_numbers_that_differ_by_rounding(backend):
    z = np.array([[0.3], [0.1 + 0.2], [0.7], [0.1 * 7]])
    Y = np.array([[0.0], [1.0], [0.2], [0.9]])
    split = best_split(z, Y, np.ones(4), 0.0, backend=backend)
    assert split.threshold == pytest.approx(0.5)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_backends_agree(seed):
    Z, Y, w, h, min_weight = problem(seed)
    one, other = (best_split(Z, Y, w, h, min_weight, backend=backend) for backend in BACKENDS)
    assert (one is None) == (other is None)
    if one is not None:
        assert one.feature == other.feature
        assert one.threshold == pytest.approx(other.threshold, rel=1e-10, abs=1e-10)
        assert one.gain == pytest.approx(other.gain, rel=1e-10)


@pytest.mark.parametrize("h", [0.0, 1e-3, 0.1])
def test_backends_agree_on_many_rows(h):
    rng = np.random.default_rng(0)
    Z, Y = rng.normal(size=(20_000, 4)), np.eye(3)[rng.integers(0, 3, 20_000)]
    Y[Z[:, 2] > 0.3] = np.eye(3)[0]
    one, other = (best_split(Z, Y, np.ones(20_000), h, 5.0, backend=backend) for backend in BACKENDS)
    assert one == other
    assert one.feature == 2


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_weights_are_repetitions_and_rows_have_no_order(seed):
    Z, Y, _, h, _ = problem(seed)
    rng = np.random.default_rng(seed)
    w = rng.integers(0, 4, len(Z))
    w[0] = 1
    rows = rng.permutation(np.repeat(np.arange(len(Z)), w))
    one = best_split(Z, Y, w.astype(float), h, 0.3 * w.sum())
    other = best_split(Z[rows], Y[rows], np.ones(len(rows)), h, 0.3 * w.sum())
    assert (one is None) == (other is None)
    if one is not None:
        assert one.feature == other.feature
        assert one.threshold == pytest.approx(other.threshold, rel=1e-9, abs=1e-9)
        assert one.gain == pytest.approx(other.gain, rel=1e-9)


def test_filtered_rows_are_as_if_sorted_anew():
    rng = np.random.default_rng(5)
    Z, w = rng.normal(size=(40, 3)).round(1), rng.integers(0, 3, 40).astype(float)
    keep = rng.random(40) < 0.5
    ordered = SortedRows.of(Z, w)
    filtered, fresh = ordered.only(keep[ordered.rows]), SortedRows.of(Z, w * keep)
    np.testing.assert_array_equal(filtered.rows, fresh.rows)
    np.testing.assert_array_equal(filtered.orders, fresh.orders)
    np.testing.assert_array_equal(filtered.values, fresh.values)
    none = ordered.only(np.zeros(len(ordered.rows), bool))
    assert none.orders.shape == none.values.shape == (3, 0)


def test_sorted_rows_split_like_the_rows_themselves():
    Z, Y, w, h, _ = problem(7)
    ordered = SortedRows.of(Z, w)
    assert best_sorted_split(ordered, Y[ordered.rows], w[ordered.rows], h) == best_split(Z, Y, w, h)


def test_split_does_not_depend_on_the_number_of_threads():
    rng = np.random.default_rng(1)
    Z, Y = rng.normal(size=(20_000, 8)), rng.normal(size=(20_000, 2))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(best_split(Z, Y, np.ones(20_000), 0.1, 5.0, backend="numba"))
    finally:
        torch.set_num_threads(before)
    assert isinstance(found[0], Split)
    assert found[0] == found[1] == found[2]


def test_size_alone_chooses_the_backend_and_unknown_ones_are_refused():
    assert (backend_for(10, 10), backend_for(10_000, 10)) == ("numpy", "numba")
    with pytest.raises(DataError, match="Got backend='cuda', but expected 'auto', 'numpy' or 'numba'"):
        best_split(np.eye(2), np.eye(2), np.ones(2), 0.0, backend="cuda")
