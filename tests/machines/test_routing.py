"""Which leaves answer for a point: hard and soft routing against plain recursions, and their invariances."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featlearn.machines.columns import Columns
from featlearn.machines.routing import Routing, TreeNode, kept_shares, take
from featlearn.machines.tree_growth import cut_at_median

D = 3
COLUMNS = Columns(standardize=False).fit(np.random.default_rng(0).normal(size=(50, D)))


def random_tree(n_splits, seed):
    """Routing over a tree of any shape: every split divides a leaf drawn at random."""
    rng = np.random.default_rng(seed)
    children, leaves = {}, [1]  # by heap index
    for _ in range(n_splits):
        heap = leaves.pop(rng.integers(len(leaves)))
        children[heap] = (2 * heap, 2 * heap + 1)
        leaves += children[heap]
    order = sorted(children)
    places = {heap: place for place, heap in enumerate(order)}
    places |= {heap: -1 - place for place, heap in enumerate(rng.permutation(leaves).tolist())}
    nodes = []
    for heap in order:
        direction = rng.normal(size=D)
        left, right = (places[child] for child in children[heap])
        nodes.append(
            TreeNode(
                heap=heap,
                depth=heap.bit_length() - 1,
                n=10,
                direction=torch.from_numpy(direction / np.linalg.norm(direction)),
                threshold=float(rng.normal() / 2),
                iqr=float(rng.uniform(0.3, 3)),
                left=left,
                right=right,
            )
        )
    return Routing(COLUMNS, nodes)


def points(m, seed=1):
    return np.random.default_rng(seed).normal(size=(m, D))


def leaf_by_recursion(nodes, x, place=0):
    """Leaf of one row: left where ``x . v <= b``."""
    if not nodes or place < 0:
        return -1 - place if nodes else 0
    node = nodes[place]
    return leaf_by_recursion(nodes, x, node.left if x @ node.direction.numpy() <= node.threshold else node.right)


def probabilities_by_recursion(nodes, x, temperature, place=0):
    """``{leaf: P}`` of one row, as products of sigmoids along the paths."""
    if not nodes:
        return {0: 1.0}
    if place < 0:
        return {-1 - place: 1.0}
    node = nodes[place]
    side = (x @ node.direction.numpy() - node.threshold) / (temperature * node.iqr)
    right = 1 / (1 + np.exp(-side))
    found = {}
    for child, passed in ((node.left, 1 - right), (node.right, right)):
        for leaf, below in probabilities_by_recursion(nodes, x, temperature, child).items():
            found[leaf] = passed * below
    return found


def kept_by_loop(probability):
    """The largest entries of a row, one by one until they hold 0.99 of the mass or are 12, divided by their sum."""
    kept, mass = np.zeros_like(probability), 0.0
    for count, leaf in enumerate(np.argsort(-probability, kind="stable")):
        if mass >= 0.99 or count == 12:
            break
        kept[leaf] = probability[leaf]
        mass += probability[leaf]
    return kept / kept.sum()


trees = st.builds(random_tree, st.integers(0, 40), st.integers(0, 10_000))
temperatures = st.floats(0.02, 5.0)


# hard ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_splits", [0, 1, 2, 7, 30])
def test_hard_routing_is_the_recursive_definition(n_splits):
    routing, z = random_tree(n_splits, seed=n_splits), points(200)

    leaf = routing.leaf_of(routing.projections(z))

    assert leaf.dtype == torch.int64
    np.testing.assert_array_equal(leaf, [leaf_by_recursion(routing.nodes, x) for x in z])


def test_a_row_on_the_threshold_goes_left():
    direction = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    routing = Routing(COLUMNS, [TreeNode(1, 0, 10, direction, 0.5, 1.0, -1, -2)])
    z = np.array([[0.5, 9, 9], [np.nextafter(0.5, 1), -9, -9], [np.nextafter(0.5, 0), 0, 0]])

    np.testing.assert_array_equal(routing.leaf_of(routing.projections(z)), [0, 1, 0])
    np.testing.assert_array_equal(routing.shares(routing.projections(z), 0.0), [[1, 0], [0, 1], [1, 0]])


def test_temperature_zero_gives_the_whole_share_to_the_leaf_of_hard_routing():
    routing, z = random_tree(20, seed=3), points(100)
    projections = routing.projections(z)

    shares = routing.shares(projections, 0.0)

    assert shares.dtype == torch.float64
    np.testing.assert_array_equal(shares.argmax(dim=1), routing.leaf_of(projections))
    np.testing.assert_array_equal(shares.sum(dim=1), np.ones(100))
    assert set(shares.unique().tolist()) == {0.0, 1.0}


def test_one_leaf_answers_for_everything_without_splits():
    routing, z = Routing(COLUMNS, []), points(5)

    assert routing.n_leaves == 1
    projections = routing.projections(z)
    assert projections.shape == (5, 0)
    np.testing.assert_array_equal(routing.leaf_of(projections), np.zeros(5))
    for temperature in (0.0, 1.0):
        np.testing.assert_array_equal(routing.shares(projections, temperature), np.ones((5, 1)))


# soft ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.05, 0.4, 4.5])
@pytest.mark.parametrize("n_splits", [1, 3, 11, 40])
def test_probabilities_are_products_of_sigmoids_along_the_path(n_splits, temperature):
    routing, z = random_tree(n_splits, seed=n_splits), points(30)

    found = routing.log_shares(routing.projections(z), temperature).exp().numpy()

    expected = np.zeros((30, n_splits + 1))
    for row, x in enumerate(z):
        for leaf, probability in probabilities_by_recursion(routing.nodes, x, temperature).items():
            expected[row, leaf] = probability
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(trees, temperatures, st.integers(0, 1000))
def test_shares_are_the_largest_probabilities_up_to_99_percent_and_twelve_leaves(routing, temperature, seed):
    z = points(8, seed)
    projections = routing.projections(z)
    probability = np.zeros((8, routing.n_leaves))
    for row, x in enumerate(z):
        for leaf, value in probabilities_by_recursion(routing.nodes, x, temperature).items():
            probability[row, leaf] = value

    shares = routing.shares(projections, temperature).numpy()

    assert (shares >= 0).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-12)
    assert (np.count_nonzero(shares, axis=1) <= 12).all()
    mass = np.where(shares > 0, probability, 0).sum(axis=1)
    full = np.count_nonzero(shares, axis=1) < 12
    assert (mass[full] >= 0.99 - 1e-12).all()
    ordered = np.sort(probability, axis=1)[:, ::-1].cumsum(axis=1)
    clear = (np.abs(ordered - 0.99) > 1e-9).all(axis=1)  # rounding may decide where the mass is 0.99 to the last digit
    expected = np.stack([kept_by_loop(row) for row in probability])
    np.testing.assert_allclose(shares[clear], expected[clear], rtol=1e-9, atol=1e-13)


def test_of_twenty_equal_leaves_twelve_answer_alike():
    shares = kept_shares(torch.full((2, 20), 0.05, dtype=torch.float64)).numpy()

    assert (np.count_nonzero(shares, axis=1) == 12).all()
    np.testing.assert_allclose(shares[shares > 0], 1 / 12, rtol=1e-14)


def test_a_leaf_with_less_than_a_hundredth_of_the_mass_does_not_answer():
    kept = kept_shares(torch.tensor([[0.005, 0.745, 0.25], [0.02, 0.73, 0.25]], dtype=torch.float64))

    np.testing.assert_allclose(kept, [[0, 0.745 / 0.995, 0.25 / 0.995], [0.02, 0.73, 0.25]], rtol=1e-14)


@settings(max_examples=40, deadline=None)
@given(trees, st.one_of(st.just(0.0), temperatures), st.randoms(use_true_random=False))
def test_shares_of_a_row_do_not_depend_on_the_other_rows(routing, temperature, random):
    z = points(12)
    order = list(range(12))
    random.shuffle(order)

    together = routing.shares(routing.projections(z), temperature)
    permuted = routing.shares(routing.projections(z[order]), temperature)
    alone = torch.cat([routing.shares(routing.projections(z[[row]]), temperature) for row in range(12)])

    np.testing.assert_allclose(permuted, together[order], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(alone, together, rtol=1e-9, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(trees, st.integers(0, 1000))
def test_cold_soft_routing_is_hard_routing(routing, seed):
    z = points(6, seed)
    projections = routing.projections(z)
    gaps = [float((projections[:, j] - node.threshold).abs().min()) / node.iqr for j, node in enumerate(routing.nodes)]
    temperature = min(gaps, default=1.0) / 50  # every sigmoid is 0 or 1 to 1e-21 then

    np.testing.assert_allclose(
        routing.shares(projections, max(temperature, 1e-12)), routing.shares(projections, 0.0), atol=1e-12
    )


def test_points_far_from_every_threshold_keep_finite_shares():
    routing = random_tree(20, seed=2)

    shares = routing.shares(routing.projections(1e12 * points(20)), 0.025)

    assert bool(shares.isfinite().all())
    np.testing.assert_allclose(shares.sum(dim=1), 1, rtol=1e-12)


# thresholds ---------------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=2, max_size=60))
def test_the_cut_divides_distinct_neighbours_as_evenly_as_any_threshold_can(values):
    values = np.array(values, dtype=np.float64)
    cut = cut_at_median(torch.from_numpy(values))
    distinct = np.unique(values)
    if len(distinct) == 1:
        assert cut is None
        return

    midpoints = (distinct[1:] + distinct[:-1]) / 2
    smaller = [min((values <= b).mean(), (values > b).mean()) for b in midpoints]

    assert cut.threshold in midpoints
    assert cut.smaller == pytest.approx(max(smaller), abs=1e-12)
    assert min((values <= cut.threshold).mean(), (values > cut.threshold).mean()) == pytest.approx(max(smaller))


@pytest.mark.parametrize("n", [2, 3, 10, 101, 1000])
def test_distinct_projections_are_cut_in_halves(n):
    values = np.random.default_rng(n).normal(size=n)

    cut = cut_at_median(torch.from_numpy(values))

    left = int((values <= cut.threshold).sum())
    assert abs(left - (n - left)) <= 1
    assert cut.smaller == (n // 2) / n


def test_the_interquartile_range_is_that_of_the_projections_and_never_zero():
    values = np.random.default_rng(0).normal(size=4001)
    low, high = np.quantile(values, [0.25, 0.75])
    assert cut_at_median(torch.from_numpy(values)).iqr == pytest.approx(high - low, rel=1e-3)

    mostly_equal = torch.tensor([0.0] * 99 + [1.0], dtype=torch.float64)
    assert cut_at_median(mostly_equal).iqr == 1e-6


def test_rounding_errors_do_not_count_as_distinct_values():
    values = torch.tensor([0.1 + 0.2, 0.3, 0.3, 0.1 + 0.2], dtype=torch.float64)

    assert cut_at_median(values) is None
    assert cut_at_median(torch.cat([values, values.new_tensor([0.4])])).threshold == pytest.approx(0.35)


# rows of any table --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["array", "frame", "tensor"])
def test_rows_are_taken_in_order_from_any_kind_of_table(kind):
    table = np.arange(12.0).reshape(6, 2)
    X = {"array": table, "frame": pd.DataFrame(table, index=list("fedcba")), "tensor": torch.from_numpy(table)}[kind]

    picked = take(X, torch.tensor([4, 0, 0]))
    sliced = take(X, slice(1, 3))

    assert type(picked) is type(X)
    np.testing.assert_array_equal(np.asarray(picked), table[[4, 0, 0]])
    np.testing.assert_array_equal(np.asarray(sliced), table[1:3])


def test_the_chunks_cover_every_row_once():
    routing, z = random_tree(5, seed=0), points(70_000)

    covered = np.concatenate([np.arange(70_000)[rows] for rows in routing.chunks(z)])

    np.testing.assert_array_equal(covered, np.arange(70_000))
    assert len(list(routing.chunks(z))) > 1
