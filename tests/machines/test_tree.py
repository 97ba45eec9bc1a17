"""RFM trees: how they grow, what their leaves are, and how leaves are mixed; by hand and by definition."""

from __future__ import annotations

import pickle
from functools import cache

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.utils import get_tags
from threadpoolctl import threadpool_limits

from featlearn.exceptions import DataError, FeatlearnWarning
from featlearn.machines import tree_growth
from featlearn.machines.columns import Columns
from featlearn.machines.rfm import RFMClassifier, RFMRegressor
from featlearn.machines.tree import RFMTreeClassifier, RFMTreeRegressor
from featlearn.machines.tree_growth import Growth, Targets, grow

FAST = {"kernel": "laplace", "alpha": 1e-2, "max_iter": 1, "selection": None}
FIXED = {**FAST, "bandwidth": 3.0}  # a median distance would depend on rows given twice
SMALL = {"max_leaf_size": 60, "random_state": 0}


def rows(n, d=3, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def target(x):
    return np.where(x[:, 0] > 0, x[:, 1], np.sin(3 * x[:, 2]))


X = rows(240)
Y = target(X)
LABELS = np.array(["low", "middle", "top"])[np.digitize(Y, [-0.4, 0.4])]
Z = rows(50, seed=1)


def regressor(**changed):
    return RFMTreeRegressor(**{"leaf": RFMRegressor(**FAST), **SMALL, **changed})


def classifier(**changed):
    return RFMTreeClassifier(**{"leaf": RFMClassifier(**FAST), **SMALL, **changed})


class Memory(BaseEstimator):
    """A leaf that remembers its rows, and answers with those of its nearest neighbours."""

    def fit(self, x, y, sample_weight=None):
        self.x_, self.y_, self.weights_ = np.array(x), np.array(y), sample_weight
        self.inner_ = self.kind(n_neighbors=min(3, len(x))).fit(x, y)
        return self

    def predict(self, x):
        return self.inner_.predict(x)


class MemoryRegressor(RegressorMixin, Memory):
    kind = KNeighborsRegressor


class MemoryClassifier(ClassifierMixin, Memory):
    kind = KNeighborsClassifier

    @property
    def classes_(self):
        return self.inner_.classes_

    def predict_proba(self, x):
        return self.inner_.predict_proba(x)


def places_of(part, x):
    """Rows of x, all different, that are those of ``part``."""
    order = {row.tobytes(): place for place, row in enumerate(np.ascontiguousarray(x))}
    return np.array([order[row.tobytes()] for row in np.ascontiguousarray(part)], dtype=int)


def standardized(x, weights=None):
    """Rows in the encoded columns of a tree fitted to X."""
    centre = np.average(X, axis=0, weights=weights)
    return (x - centre) / np.sqrt(np.average((X - centre) ** 2, axis=0, weights=weights))


def shares_by_definition(tree, x, temperature, weights=None):
    """Shares (m, L) from nodes, as products of sigmoids (at temperature 0: indicators) along the paths."""
    shares = np.zeros((len(x), len(tree.leaves_)))

    def descend(place, passed):
        if place < 0:
            shares[:, -1 - place] = passed
            return
        node = tree.nodes_[place]
        beyond = standardized(x, weights) @ node.direction.numpy() - node.threshold
        with np.errstate(over="ignore"):
            right = 1 / (1 + np.exp(-beyond / (temperature * node.iqr))) if temperature else (beyond > 0).astype(float)
        descend(node.left, passed * (1 - right))
        descend(node.right, passed * right)

    descend(0 if tree.nodes_ else -1, np.ones(len(x)))
    for row in shares:
        order = np.argsort(-row, kind="stable")
        before = row[order].cumsum() - row[order]
        row[order[before >= 0.99]] = 0
        row[order[12:]] = 0
    return shares / shares.sum(axis=1, keepdims=True)


# growth -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "most"), [(240, 60), (241, 60), (150, 10), (77, 20)])
def test_the_tree_is_balanced_and_no_leaf_too_large(n, most):
    x = rows(n, seed=n)
    tree = RFMTreeRegressor(LinearRegression(), max_leaf_size=most, routing="hard", random_state=0).fit(x, target(x))
    sizes = [leaf.n for leaf in tree.leaves_]
    depth = int(np.ceil(np.log2(n / most)))

    assert sum(sizes) == n
    assert max(sizes) <= most
    assert min(sizes) > most / 2 - 1
    assert {leaf.depth for leaf in tree.leaves_} <= {depth - 1, depth}
    assert len(tree.nodes_) == len(sizes) - 1
    for node in tree.nodes_:
        children = [tree.nodes_[c] if c >= 0 else tree.leaves_[-1 - c] for c in (node.left, node.right)]
        assert [child.heap for child in children] == [2 * node.heap, 2 * node.heap + 1]
        assert [child.depth for child in children] == [node.depth + 1] * 2
        assert sum(child.n for child in children) == node.n
        assert abs(children[0].n - children[1].n) <= 1
    np.testing.assert_array_equal(np.bincount(tree.leaf_of(x)), sizes)


def agop_directions(x, targets, weights=None):
    """Eigenvectors, the leading one last, of the AGOP of a dense Laplace ridge predictor, gradients by autograd."""
    x, targets = torch.from_numpy(x), torch.from_numpy(targets).reshape(len(x), -1)
    weights = torch.ones(len(x), dtype=torch.float64) if weights is None else torch.from_numpy(weights)
    centred = targets - (weights @ targets) / weights.sum()
    distances = (x[:, None] - x[None]).square().sum(-1).sqrt()
    bandwidth = np.median(distances[np.triu_indices(len(x), 1)])
    dual = torch.linalg.solve(torch.exp(-distances / bandwidth) + 1e-3 * torch.diag(1 / weights), centred)
    agop = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for j in range(len(x)):
        others = torch.arange(len(x)) != j  # the kernel has no gradient at its own centre
        for output in range(targets.shape[1]):
            point = x[j].clone().requires_grad_()
            value = torch.exp(-(point - x[others]).square().sum(-1).sqrt() / bandwidth) @ dual[others, output]
            (gradient,) = torch.autograd.grad(value, point)
            agop += weights[j] / weights.sum() * torch.outer(gradient, gradient)
    return torch.linalg.eigh(agop)[1].numpy()


@pytest.mark.parametrize("case", ["one output", "two outputs", "weights", "classes"])
def test_every_split_is_along_the_top_eigenvector_of_the_agop_of_its_rows(case):
    weights = np.random.default_rng(3).uniform(0.5, 3, 240) if case == "weights" else None
    goal = {"two outputs": np.column_stack([Y, X[:, 1] ** 2]), "classes": LABELS}.get(case, Y)
    if case == "classes":
        tree = classifier(leaf=LogisticRegression(), max_leaf_size=100).fit(X, goal)
        goal = (LABELS[:, None] == np.unique(LABELS)).astype(float)
    else:
        tree = regressor(leaf=LinearRegression(), max_leaf_size=100).fit(X, goal, sample_weight=weights)
    encoded = standardized(X, weights)
    reached = {0: np.arange(240)}

    assert len(tree.nodes_) == 3
    for place, node in enumerate(tree.nodes_):
        own = reached[place]
        expected = agop_directions(encoded[own], goal[own], None if weights is None else weights[own])[:, -1]
        expected *= np.sign(expected[np.abs(expected).argmax()])
        np.testing.assert_allclose(node.direction, expected, atol=2e-4)
        projections = encoded[own] @ node.direction.numpy()
        assert node.n == len(own)
        assert node.threshold == pytest.approx(np.median(projections), abs=1e-9)
        assert node.iqr == pytest.approx(np.subtract(*np.quantile(projections, [0.75, 0.25])), rel=0.05)
        left = projections <= node.threshold
        reached |= {node.left: own[left], node.right: own[~left]}


def test_every_node_draws_its_own_sample_by_the_seed():
    samples = [regressor(split_samples=20, random_state=seed).fit(X, Y).nodes_ for seed in (0, 1)]
    everything = regressor(split_samples=240).fit(X, Y).nodes_

    assert not torch.allclose(samples[0][0].direction, samples[1][0].direction, atol=1e-3)
    assert not torch.allclose(samples[0][0].direction, everything[0].direction, atol=1e-3)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 6), st.sampled_from([15, 25, 60]))
@pytest.mark.filterwarnings("ignore:Got .* rows that no direction divides:featlearn.exceptions.FeatlearnWarning")
def test_training_rows_land_in_the_leaf_they_were_trained_in_whatever_ties(seed, levels, most):
    x = np.random.default_rng(seed).integers(0, levels, size=(120, 3)).astype(float)
    y = target(x) + 0.1 * np.random.default_rng(seed).normal(size=120)
    tree = RFMTreeRegressor(MemoryRegressor(), max_leaf_size=most, routing="hard", random_state=0).fit(x, y)

    leaf = tree.leaf_of(x)
    np.testing.assert_array_equal(np.bincount(leaf, minlength=len(tree.leaves_)), [leaf.n for leaf in tree.leaves_])
    for place, part in enumerate(tree.leaves_):
        if isinstance(part.estimator, DummyRegressor):
            np.testing.assert_allclose(tree.predict(x[leaf == place]), y[leaf == place].mean(), rtol=1e-12)
        else:
            np.testing.assert_array_equal(part.estimator.x_, x[leaf == place])
            np.testing.assert_array_equal(part.estimator.y_, y[leaf == place])


def grown(x, y, most, monkeypatch, directions):
    """Nodes and leaves where every split is offered these directions (columns)."""
    monkeypatch.setattr(tree_growth, "split_directions", lambda *sample: torch.from_numpy(directions))
    columns = Columns(standardize=False).fit(rows(9, x.shape[1]))
    return grow(
        x,
        columns,
        Targets(torch.from_numpy(y).reshape(-1, 1)),
        None,
        torch.arange(len(x)),
        Growth(most, 100, 0),
        lambda tasks: [function(*arguments) for function, arguments in tasks],
    )


def test_where_projections_tie_the_next_eigenvector_splits(monkeypatch):
    x, y = rows(100), rows(100, 1, seed=5)[:, 0]
    x[:, 0] = 7.0

    nodes, leaves = grown(x, y, 50, monkeypatch, np.eye(3))

    np.testing.assert_array_equal(nodes[0].direction, [0, 1, 0])
    assert [len(leaf.rows) for leaf in leaves] == [50, 50]
    np.testing.assert_array_equal(leaves[0].rows, np.flatnonzero(x[:, 1] <= nodes[0].threshold))


def test_a_sliver_is_cut_off_only_where_no_other_eigenvector_divides_better(monkeypatch):
    x, y = rows(100), rows(100, 1, seed=5)[:, 0]
    x[:, 0] = np.arange(100) < 2  # 2 % on one side

    assert grown(x, y, 60, monkeypatch, np.eye(3))[0][0].direction.tolist() == [0, 1, 0]
    x[:, 1:] = 0
    nodes, leaves = grown(x, y, 98, monkeypatch, np.eye(3))
    assert nodes[0].direction.tolist() == [1, 0, 0]
    assert sorted(len(leaf.rows) for leaf in leaves) == [2, 98]


def test_rows_that_no_eigenvector_divides_stay_one_leaf_with_a_warning(monkeypatch):
    x, y = np.ones((100, 3)), rows(100, 1, seed=5)[:, 0]

    with pytest.warns(FeatlearnWarning, match="Got 100 rows that no direction divides, but expected leaves of at most"):
        nodes, leaves = grown(x, y, 50, monkeypatch, np.eye(3))
    assert (len(nodes), len(leaves)) == (0, 1)


def test_repeated_rows_are_an_oversize_leaf_that_predicts_their_mean():
    x, y = np.repeat([[0.0, 1.0], [1.0, 0.0]], 50, axis=0), rows(100, 1)[:, 0]

    with pytest.warns(FeatlearnWarning, match="no direction divides") as caught:
        tree = regressor(max_leaf_size=20, routing="hard").fit(x, y)

    assert len(caught) == 2
    assert [leaf.n for leaf in tree.leaves_] == [50, 50]
    np.testing.assert_allclose(tree.predict(x[[0, 99]]), [y[:50].mean(), y[50:].mean()], rtol=1e-9)


def test_nodes_of_equal_targets_are_not_split():
    y = np.where(X[:, 0] > np.median(X[:, 0]), 1.0, -2.0)
    tree = RFMTreeRegressor(LinearRegression(), max_leaf_size=20, routing="hard", random_state=0).fit(X, y)
    constant = [leaf for leaf in tree.leaves_ if isinstance(leaf.estimator, DummyRegressor)]

    assert max(leaf.n for leaf in constant) > 20
    pure = [place for place, leaf in enumerate(tree.leaves_) if leaf in constant]
    inside = np.isin(tree.leaf_of(X), pure)
    np.testing.assert_allclose(tree.predict(X[inside]), y[inside], rtol=1e-12)


# leaves -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("routing", ["soft", "hard", 0.5])
def test_a_tree_of_one_leaf_is_the_machine_of_its_leaf(routing):
    leaf = RFMRegressor(kernel="laplace", alpha=(1e-2, 1.0), power=1.0, max_iter=1, selection="holdout", random_state=0)
    tree, machine = regressor(leaf=leaf, max_leaf_size=240, routing=routing).fit(X, Y), clone(leaf).fit(X, Y)

    assert (len(tree.nodes_), len(tree.leaves_), tree.leaves_[0].n) == (0, 1, 240)
    np.testing.assert_array_equal(tree.predict(Z), machine.predict(Z))
    np.testing.assert_allclose(tree.feature_importances_, machine.feature_importances_, rtol=1e-12)
    np.testing.assert_array_equal(tree.shares(Z), np.ones((50, 1)))


def test_a_classification_tree_of_one_leaf_is_the_machine_of_its_leaf():
    leaf = RFMClassifier(**FAST, random_state=0)
    tree, machine = classifier(leaf=leaf, max_leaf_size=240).fit(X, LABELS), clone(leaf).fit(X, LABELS)

    np.testing.assert_array_equal(tree.predict_proba(Z), machine.predict_proba(Z))
    np.testing.assert_array_equal(tree.predict(Z), machine.predict(Z))


def test_hard_routed_predictions_are_those_of_each_leaf_refitted_by_hand():
    tree = regressor(routing="hard").fit(X, Y)
    trained, asked = tree.leaf_of(X), tree.leaf_of(Z)
    predicted = tree.predict(Z)

    assert len(tree.leaves_) == 4
    for place, leaf in enumerate(tree.leaves_):
        machine = RFMRegressor(**FAST, random_state=leaf.estimator.random_state)
        machine.fit(X[trained == place], Y[trained == place])
        np.testing.assert_array_equal(predicted[asked == place], machine.predict(Z[asked == place]))


@pytest.mark.parametrize("routing", ["soft", 0.7, 3.0])
def test_soft_predictions_are_the_leaves_mixed_by_products_of_sigmoids(routing):
    tree = regressor(max_leaf_size=20, routing=routing).fit(X, np.column_stack([Y, X[:, 1] ** 2]))
    shares = shares_by_definition(tree, Z, tree.temperature_)

    assert len(tree.leaves_) == 16
    np.testing.assert_allclose(tree.shares(Z), shares, rtol=1e-8, atol=1e-12)
    leaves = np.stack([leaf.estimator.predict(Z) for leaf in tree.leaves_])
    np.testing.assert_allclose(tree.predict(Z), np.einsum("ml,lmc->mc", shares, leaves), rtol=1e-8, atol=1e-10)


def test_soft_probabilities_are_those_of_the_leaves_mixed():
    tree = classifier(routing=0.5).fit(X, LABELS)
    shares = shares_by_definition(tree, Z, 0.5)
    mixed = np.zeros((50, 3))
    for share, leaf in zip(shares.T, tree.leaves_, strict=True):
        mixed[:, np.isin(tree.classes_, leaf.estimator.classes_)] += share[:, None] * leaf.estimator.predict_proba(Z)

    np.testing.assert_allclose(tree.predict_proba(Z), mixed, rtol=1e-8, atol=1e-12)
    np.testing.assert_array_equal(tree.predict(Z), tree.classes_[mixed.argmax(axis=1)])


@pytest.mark.parametrize("routing", ["hard", 0.3])
def test_a_class_that_a_leaf_never_saw_has_no_probability_from_it(routing):
    y = np.where(X[:, 0] > 0, np.where(X[:, 1] > 0, "ape", "bee"), np.where(X[:, 2] > 0, "cat", "dog"))
    tree = classifier(routing=routing, max_leaf_size=40).fit(X, y)
    known = np.stack([np.isin(tree.classes_, leaf.estimator.classes_) for leaf in tree.leaves_])
    chances = tree.predict_proba(Z)

    assert tree.classes_.tolist() == ["ape", "bee", "cat", "dog"]
    assert not known.all()
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-12)
    possible = (tree.shares(Z) @ known) > 0
    assert not possible.all()
    assert (chances[~possible] == 0).all()
    assert (chances[possible] > 0).all()
    np.testing.assert_array_equal(tree.predict(Z), tree.classes_[chances.argmax(axis=1)])


def test_a_leaf_of_one_class_is_certain():
    y = np.where(X[:, 0] > 0, "right", "left")
    tree = classifier(max_leaf_size=20, routing="hard").fit(X, y)
    sure = [place for place, leaf in enumerate(tree.leaves_) if isinstance(leaf.estimator, DummyClassifier)]
    inside = np.isin(tree.leaf_of(Z), sure)

    assert inside.any()
    assert set(np.unique(tree.predict_proba(Z[inside]))) == {0.0, 1.0}


def test_the_choices_of_a_pilot_are_those_of_all_leaves():
    leaf = RFMRegressor(kernel="laplace", alpha=(1e-4, 1e-1, 10.0), power=(0.5, 1.0), max_iter=1, selection="holdout")
    shared = [leaf.estimator for leaf in regressor(leaf=leaf, max_leaf_size=100).fit(X, Y).leaves_]
    own = [part.estimator for part in regressor(leaf=leaf, max_leaf_size=100, selection="leaf").fit(X, Y).leaves_]

    assert all(machine.selection_ is None for machine in shared)
    assert len({(machine.alpha_, machine.power_, machine.n_iter_) for machine in shared}) == 1
    assert all(machine.selection_ is not None for machine in own)
    assert leaf.alpha == (1e-4, 1e-1, 10.0)


def test_leaves_differ_in_their_seed_unless_the_leaf_has_one():
    own = regressor().fit(X, Y).leaves_
    given = regressor(leaf=RFMRegressor(**FAST, random_state=7)).fit(X, Y).leaves_

    assert len({leaf.estimator.random_state for leaf in own}) == 4
    assert {leaf.estimator.random_state for leaf in given} == {7}


@pytest.mark.parametrize("leaf", [LinearRegression(), KNeighborsRegressor(5)])
def test_any_regressor_can_be_a_leaf(leaf):
    tree = regressor(leaf=leaf, routing="hard").fit(X, Y)
    place = tree.leaf_of(X)

    by_hand = [clone(leaf).fit(X[place == i], Y[place == i]).predict(Z) for i in range(4)]
    np.testing.assert_allclose(tree.predict(Z), np.stack(by_hand)[tree.leaf_of(Z), np.arange(50)], rtol=1e-10)


# temperature --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [False, True])
def test_the_temperature_is_chosen_on_rows_that_no_leaf_saw(classes, weighted):
    weights = np.random.default_rng(4).uniform(0.5, 3, 240) if weighted else None
    tree = classifier(leaf=MemoryClassifier()) if classes else regressor(leaf=MemoryRegressor())
    tree.fit(X, LABELS if classes else Y, sample_weight=weights)
    seen = [places_of(leaf.estimator.x_, X) for leaf in tree.leaves_]
    held = np.setdiff1d(np.arange(240), np.concatenate(seen))
    place = tree.leaf_of(X)

    assert [leaf.n for leaf in tree.leaves_] == [60] * 4
    for index, own in enumerate(seen):
        assert len(own) == 54  # a tenth is held out
        assert (place[own] == index).all()
        if weighted:
            np.testing.assert_array_equal(tree.leaves_[index].estimator.weights_, weights[own])
    goal = (LABELS[:, None] == tree.classes_).astype(float) if classes else Y[:, None]
    temperatures = [entry["temperature"] for entry in tree.temperatures_]
    np.testing.assert_allclose(temperatures, [0, *np.geomspace(0.025, 4.5, 20)], rtol=1e-12)
    scores = []
    for temperature in temperatures:
        mixed = np.zeros((len(held), goal.shape[1]))
        for share, leaf in zip(shares_by_definition(tree, X[held], temperature, weights).T, tree.leaves_, strict=True):
            machine = leaf.estimator
            if classes:
                known = np.isin(tree.classes_, machine.classes_)
                mixed[:, known] += share[:, None] * machine.predict_proba(X[held])
            else:
                mixed[:, 0] += share * machine.predict(X[held])
        errors = ((mixed - goal[held]) ** 2).sum(axis=1)
        scores.append(np.average(errors, weights=None if weights is None else weights[held]))
    np.testing.assert_allclose([entry["score"] for entry in tree.temperatures_], scores, rtol=1e-8)
    assert tree.temperature_ == temperatures[int(np.argmin(scores))]


@pytest.mark.parametrize(("routing", "temperature"), [("hard", 0.0), (0.0, 0.0), (0.8, 0.8), (2, 2.0)])
def test_nothing_is_held_out_where_the_routing_is_given(routing, temperature):
    tree = regressor(leaf=MemoryRegressor(), routing=routing).fit(X, Y)
    seen = np.concatenate([places_of(leaf.estimator.x_, X) for leaf in tree.leaves_])

    np.testing.assert_array_equal(np.sort(seen), np.arange(240))
    assert (tree.temperature_, tree.temperatures_) == (temperature, [])
    np.testing.assert_allclose(tree.shares(Z), shares_by_definition(tree, Z, temperature), rtol=1e-8, atol=1e-12)


def test_leaves_too_small_to_hold_rows_out_of_are_routed_hard():
    tree = regressor(leaf=MemoryRegressor(), max_leaf_size=10).fit(X[:18], Y[:18])

    assert [leaf.n for leaf in tree.leaves_] == [len(leaf.estimator.x_) for leaf in tree.leaves_] == [9, 9]
    assert (tree.temperature_, tree.temperatures_) == (0.0, [])


def test_a_class_of_one_row_is_no_obstacle():
    labels = LABELS.astype(object)
    labels[7] = "alone"
    leaf = RFMClassifier(kernel="laplace", alpha=(1e-2, 1.0), power=1.0, max_iter=1, selection="holdout")

    for selection in ("shared", "leaf"):
        tree = classifier(leaf=leaf, selection=selection).fit(X, labels)
        assert tree.classes_.tolist() == ["alone", "low", "middle", "top"]
        np.testing.assert_allclose(tree.predict_proba(Z).sum(axis=1), 1, rtol=1e-12)


# the same answer ----------------------------------------------------------------------------------------------------


def same(first, second):
    """Whether two trees are equal to the last bit."""
    assert [leaf.heap for leaf in first.leaves_] == [leaf.heap for leaf in second.leaves_]
    for one, other in zip(first.nodes_, second.nodes_, strict=True):
        assert torch.equal(one.direction, other.direction)
        assert (one.threshold, one.iqr, one.n) == (other.threshold, other.iqr, other.n)
    assert first.temperatures_ == second.temperatures_
    np.testing.assert_array_equal(first.predict(Z), second.predict(Z))


def test_the_seed_decides_everything_and_global_generators_nothing():
    state, of_torch = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    first = regressor(split_samples=50).fit(X, Y)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), of_torch)

    torch.rand(3)
    same(first, regressor(split_samples=50).fit(X, Y))
    drawn = [regressor(split_samples=50, random_state=np.random.RandomState(5)).fit(X, Y) for _ in range(2)]
    same(*drawn)
    assert not np.array_equal(drawn[0].predict(Z), first.predict(Z))


def test_two_jobs_give_the_same_tree_to_the_last_bit():
    with joblib.parallel_config(backend="threading"):
        same(regressor(split_samples=50, n_jobs=1).fit(X, Y), regressor(split_samples=50, n_jobs=2).fit(X, Y))


@pytest.fixture
def one_thread():
    """Sums are made in another order by more threads, and processes have fewer each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):  # those of numpy and scipy
        yield
    torch.set_num_threads(before)


@pytest.mark.slow  # of which nearly all is the start of the processes
@pytest.mark.usefixtures("one_thread")
def test_two_processes_give_the_same_tree_to_the_last_bit():
    alone = regressor(split_samples=50).fit(X, Y)
    chances = classifier(routing="hard").fit(X, LABELS).predict_proba(Z)
    with joblib.parallel_config(backend="loky", n_jobs=2, inner_max_num_threads=1):
        same(alone, regressor(split_samples=50).fit(X, Y))
        np.testing.assert_array_equal(classifier(routing="hard").fit(X, LABELS).predict_proba(Z), chances)


def test_memmaps_frames_and_tensors_give_the_same_tree(tmp_path):
    stored = np.memmap(tmp_path / "rows.bin", dtype=np.float64, mode="w+", shape=X.shape)
    stored[:] = X
    stored.flush()
    plain = regressor().fit(X, Y)

    for table in (
        np.memmap(tmp_path / "rows.bin", dtype=np.float64, mode="r", shape=X.shape),
        np.asfortranarray(X),
        X.tolist(),
        torch.from_numpy(X),
    ):
        same(plain, regressor().fit(table, Y))
    frame = pd.DataFrame(X, columns=["a", "b", "c"], index=np.arange(240)[::-1])
    of_frame = regressor().fit(frame, pd.Series(Y, index=frame.index))
    assert of_frame.feature_names_in_.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(of_frame.predict(pd.DataFrame(Z, columns=["a", "b", "c"])), plain.predict(Z))


def test_predictions_are_of_the_kind_of_the_rows():
    tree = regressor().fit(X, Y)

    assert isinstance(tree.predict(torch.from_numpy(Z)), torch.Tensor)
    np.testing.assert_array_equal(tree.predict(torch.from_numpy(Z)), tree.predict(Z))
    assert tree.predict(Z.astype(np.float32)).dtype == np.float32
    assert tree.predict(Z).dtype == np.float64
    assert regressor().fit(X, Y[:, None]).predict(Z).shape == (50, 1)


@cache
def soft_tree():
    return regressor(routing=0.5).fit(X, Y)


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(50)), st.integers(1, 49))
def test_the_answer_for_a_row_does_not_depend_on_the_rows_around_it(order, cut):
    tree = soft_tree()
    predicted = tree.predict(Z)

    np.testing.assert_allclose(tree.predict(Z[order]), predicted[order], rtol=1e-9, atol=1e-11)
    parts = np.concatenate([tree.predict(Z[:cut]), tree.predict(Z[cut:])])
    np.testing.assert_allclose(parts, predicted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("most", [60, 240])
def test_permuted_columns_permute_the_answer(most):
    order = [2, 0, 1]
    tree, permuted = (regressor(max_leaf_size=most).fit(X[:, by], Y) for by in ([0, 1, 2], order))

    np.testing.assert_allclose(permuted.predict(Z[:, order]), tree.predict(Z), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(permuted.feature_importances_, tree.feature_importances_[order], rtol=1e-3)


@pytest.mark.parametrize("build", [regressor, classifier], ids=["regressor", "classifier"])
def test_a_tree_survives_pickle_and_joblib(build, tmp_path):
    tree = build().fit(X, LABELS if build is classifier else Y)
    ask = "predict_proba" if build is classifier else "predict"
    joblib.dump(tree, tmp_path / "tree")

    for copy in (pickle.loads(pickle.dumps(tree)), joblib.load(tmp_path / "tree")):
        np.testing.assert_array_equal(getattr(copy, ask)(Z), getattr(tree, ask)(Z))
        assert copy.temperature_ == tree.temperature_
        np.testing.assert_array_equal(copy.leaf_of(Z), tree.leaf_of(Z))


# weights ------------------------------------------------------------------------------------------------------------


def test_in_a_single_leaf_weight_two_is_a_row_given_twice():
    # Where a tree splits, sizes of nodes count rows, and the median distance of a split is one between rows.
    weights = 1.0 + (np.arange(240) % 5 == 0)
    twice = np.repeat(np.arange(240), weights.astype(int))
    leaf = RFMRegressor(**FIXED)
    weighted = regressor(leaf=leaf, max_leaf_size=1000).fit(X, Y, sample_weight=weights)
    repeated = regressor(leaf=leaf, max_leaf_size=1000).fit(X[twice], Y[twice])

    assert (weighted.leaves_[0].n, repeated.leaves_[0].n) == (240, 288)
    np.testing.assert_allclose(weighted.predict(Z), repeated.predict(Z), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("build", [regressor, classifier], ids=["regressor", "classifier"])
def test_weight_zero_leaves_a_row_out(build):
    weights = np.random.default_rng(2).integers(1, 4, 240).astype(float)
    weights[::7] = 0
    kept = weights > 0
    x, y = X.copy(), (LABELS.astype(object) if build is classifier else Y.copy())
    x[~kept] = 1e3
    y[~kept] = "unseen" if build is classifier else 1e6
    ask = "predict_proba" if build is classifier else "predict"

    given = build().fit(x, y, sample_weight=weights)
    left_out = build().fit(X[kept], y[kept], sample_weight=weights[kept])

    assert sum(leaf.n for leaf in given.leaves_) == kept.sum()
    assert given.temperature_ == left_out.temperature_
    np.testing.assert_allclose(getattr(given, ask)(Z), getattr(left_out, ask)(Z), rtol=1e-5, atol=1e-6)


def test_equal_weights_are_no_weights():
    np.testing.assert_allclose(
        regressor(routing="hard").fit(X, Y, sample_weight=np.ones(240)).predict(Z),
        regressor(routing="hard").fit(X, Y).predict(Z),
        rtol=1e-5,
        atol=1e-6,
    )


# importances and accuracy -------------------------------------------------------------------------------------------


def test_importances_are_those_of_the_leaves_weighted_by_their_rows():
    x, y = rows(200, 4), rows(200, 4)[:, 2] ** 2
    tree = regressor(max_leaf_size=70).fit(x[:141], y[:141])
    sizes = np.array([leaf.n for leaf in tree.leaves_])
    own = np.stack([leaf.estimator.feature_importances_ for leaf in tree.leaves_])

    assert len(set(sizes)) > 1
    np.testing.assert_allclose(tree.feature_importances_, sizes @ own / sizes.sum(), rtol=1e-10)
    assert tree.feature_importances_.sum() == pytest.approx(1)
    assert tree.feature_importances_.argmax() == 2


def test_constant_leaves_have_no_importances():
    y = np.where(X[:, 0] > np.median(X[:, 0]), X[:, 1] ** 2 + 1, 0.0)
    tree = regressor(max_leaf_size=40, routing="hard").fit(X, y)
    machines = [leaf for leaf in tree.leaves_ if not isinstance(leaf.estimator, DummyRegressor)]
    sizes = np.array([leaf.n for leaf in machines])

    assert len(machines) < len(tree.leaves_)
    own = np.stack([leaf.estimator.feature_importances_ for leaf in machines])
    np.testing.assert_allclose(tree.feature_importances_, sizes @ own / sizes.sum(), rtol=1e-10)


def test_a_soft_tree_beats_one_leaf_of_the_same_size_on_a_piecewise_function():
    def pieces(x):
        return np.where(x[:, 0] > 0, 3 * x[:, 1], np.sin(3 * x[:, 2])) + np.where(x[:, 1] > 0, x[:, 3], -x[:, 2])

    x, test = rows(2000, 4, seed=6), rows(2000, 4, seed=7)
    tree = regressor(max_leaf_size=250, split_samples=500).fit(x, pieces(x))
    alone = RFMRegressor(**FAST, random_state=0).fit(x[:250], pieces(x[:250]))
    errors = [np.mean((machine.predict(test) - pieces(test)) ** 2) for machine in (tree, alone)]

    assert len(tree.leaves_) == 8
    assert errors[0] < 0.75 * errors[1]


def test_the_defaults_fit_a_tree_of_one_leaf():
    tree = RFMTreeRegressor(random_state=0).fit(X[:60], Y[:60])

    assert len(tree.leaves_) == 1
    assert tree.leaves_[0].estimator.kernel_name_ == "rotated+coordinates"
    assert tree.score(X[:60], Y[:60]) > 0.5


# tables and bad input -----------------------------------------------------------------------------------------------


def test_text_columns_and_gaps_reach_splits_and_leaves():
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    frame["side"] = np.where(X[:, 0] > 0, "right", "left")
    frame.loc[::9, "b"] = np.nan
    tree = regressor(columns=Columns(missing="indicator")).fit(frame, Y)

    assert tree.leaves_[0].estimator.columns == Columns(missing="indicator")
    assert len(tree.nodes_[0].direction) == len(tree.routing_.columns.names) == 6  # an indicator, and two levels
    assert tree.feature_importances_.shape == (4,)
    assert tree.score(frame, Y) > 0.7


@pytest.mark.parametrize(
    "columns",
    [
        Columns(missing="indicator"),
        [Columns(missing="indicator"), Columns(missing="indicator", transform="quantile")],
    ],
    ids=["one", "several"],
)
def test_gaps_that_the_leaves_take_are_taken_by_the_splits(columns):
    x = with_entry(np.nan)

    tree = regressor(leaf=RFMRegressor(**FAST, columns=columns)).fit(x, Y)

    assert len(tree.leaves_) == 4
    assert bool(np.isfinite(tree.predict(x)).all())


def test_the_tag_says_that_gaps_are_taken_where_the_leaf_takes_them():
    leaf = RFMRegressor(**FAST, columns=Columns(missing="indicator"))

    assert get_tags(leaf).input_tags.allow_nan
    assert get_tags(regressor(leaf=leaf)).input_tags.allow_nan


def with_entry(value):
    changed = X.astype(object if isinstance(value, str) else float)
    changed[7, 1] = value
    return changed


BAD_DATA = {
    "NaN": (with_entry(np.nan), Y, "NaN in row 7, column 1"),
    "infinity": (with_entry(np.inf), Y, "inf in row 7, column 1"),
    "no rows": (X[:0], Y[:0], r"0 sample\(s\)"),
    "one axis": (X[:, 0], Y, "expected two axes"),
    "mixed column": (with_entry("?"), Y, "both numbers and text in column 1"),
    "constant": (np.ones((240, 3)), Y, "no column varies"),
    "NaN in y": (X, np.where(np.arange(240) == 7, np.nan, Y), "NaN"),
    "infinity in y": (X, np.where(np.arange(240) == 7, np.inf, Y), "infinit"),
    "no y": (X, None, "y=None"),
    "short y": (X, Y[:-1], "239"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_data_that_are_refused(name):
    x, y, message = BAD_DATA[name]
    tree = regressor()
    with pytest.raises(DataError, match=message):
        tree.fit(x, y)
    assert not hasattr(tree, "leaves_")


BAD_LABELS = {
    "one class": (np.full(240, "a"), "one class only"),
    "real values": (Y, "Unknown label type"),
    "missing": (np.where(np.arange(240) == 3, None, LABELS.astype(object)), "missing label"),
    "short": (LABELS[:-1], "239"),
}


@pytest.mark.parametrize("name", BAD_LABELS)
def test_labels_that_are_refused(name):
    labels, message = BAD_LABELS[name]
    with pytest.raises(DataError, match=message):
        classifier().fit(X, labels)


BAD_WEIGHTS = {
    "negative": (np.where(np.arange(240) == 0, -1.0, 1.0), "negative sample_weight"),
    "all zero": (np.zeros(240), "zero in every row"),
    "NaN": (np.full(240, np.nan), "NaN"),
    "short": (np.ones(239), "one weight a row"),
}


@pytest.mark.parametrize("name", BAD_WEIGHTS)
def test_weights_that_are_refused(name):
    weights, message = BAD_WEIGHTS[name]
    with pytest.raises(DataError, match=message):
        regressor().fit(X, Y, sample_weight=weights)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"max_leaf_size": 9}, "Got max_leaf_size=9, but expected a whole number of at least 10"),
        ({"max_leaf_size": 50.0}, r"Got max_leaf_size=50\.0"),
        ({"max_leaf_size": True}, "Got max_leaf_size=True"),
        ({"split_samples": 5}, "Got split_samples=5"),
        ({"split_samples": None}, "Got split_samples=None"),
        ({"routing": "fuzzy"}, 'Got routing=\'fuzzy\', but expected "soft", "hard" or a temperature >= 0'),
        ({"routing": -0.5}, r"Got routing=-0\.5"),
        ({"routing": np.nan}, "Got routing=nan"),
        ({"routing": np.inf}, "Got routing=inf"),
        ({"routing": True}, "Got routing=True"),
        ({"routing": None}, "Got routing=None"),
        ({"selection": "auto"}, 'Got selection=\'auto\', but expected "shared" or "leaf"'),
        ({"columns": "auto"}, "Got columns='auto', but expected Columns"),
        ({"leaf": RFMClassifier()}, "expected a regressor"),
        ({"leaf": "laplace"}, "expected a regressor"),
        ({"leaf": RFMRegressor}, "expected a regressor"),
    ],
)
def test_parameters_that_are_refused_before_any_work(parameters, message):
    tree = regressor(**parameters)
    with pytest.raises(DataError, match=message):
        tree.fit(X, Y)
    assert not hasattr(tree, "coding_")


def test_classification_needs_probabilities_of_its_leaves():
    for leaf in (RFMRegressor(), RFMTreeRegressor()):
        with pytest.raises(DataError, match="expected a classifier with predict_proba"):
            classifier(leaf=leaf).fit(X, LABELS)


def test_rows_to_predict_are_checked_too():
    tree = regressor().fit(pd.DataFrame(X, columns=["a", "b", "c"]), Y)
    with pytest.raises(ValueError, match="feature names"):
        tree.predict(pd.DataFrame(Z, columns=["a", "b", "z"]))
    with pytest.raises(ValueError, match="now missing"):
        tree.leaf_of(pd.DataFrame(Z[:, :2], columns=["a", "b"]))
    with pytest.raises(ValueError, match="2 features"):
        regressor().fit(X, Y).predict(Z[:, :2])
    with pytest.raises(DataError, match="inf"):
        tree.shares(pd.DataFrame(np.where(Z[0, 0] == Z, np.inf, Z), columns=["a", "b", "c"]))
