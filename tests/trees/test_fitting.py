"""Where features start, and that a tree on given features is scikit-learn's."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.model_selection import KFold, cross_val_score
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from featlearn.trees.crisp import crisp_tree
from featlearn.trees.estimators import FeatureTreeClassifier, FeatureTreeRegressor
from featlearn.trees.features import LinearMap, PrototypeMap
from featlearn.trees.starts import directions_from_agop, kernel_agop

RANDOM = np.random.default_rng(7)
X = RANDOM.standard_normal((300, 4)) * [1, 30, 0.2, 5] + [0, 100, 0, -4]
SCORES = X[:, 0] + (X[:, 1] - 100) / 30 + 0.8 * RANDOM.standard_normal(300)
LABELS = np.digitize(SCORES, [-0.7, 0.9])
NO_WORK = {"max_iter": 0, "n_init": 0}


@pytest.fixture
def greedy(monkeypatch):
    """Growth alone, as scikit-learn grows."""
    monkeypatch.setattr("featlearn.trees.problem.crisp_tree", partial(crisp_tree, look_ahead=False, refined=False))


def cases():
    yield FeatureTreeClassifier, DecisionTreeClassifier, LABELS
    yield FeatureTreeClassifier, DecisionTreeClassifier, np.array(["no", "yes"])[(LABELS > 0).astype(int)]
    yield FeatureTreeRegressor, DecisionTreeRegressor, SCORES
    yield FeatureTreeRegressor, DecisionTreeRegressor, np.c_[SCORES / SCORES.std(), X[:, 3] / X[:, 3].std()]


@pytest.mark.parametrize("case", range(4))
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.usefixtures("greedy")
def test_on_the_inputs_themselves_it_is_the_tree_of_scikit_learn(case, depth):
    kind, reference, y = list(cases())[case]
    options = {"init_directions": np.eye(4), "alpha": 0.0, "l0": 0.0, **NO_WORK}
    tree = kind(max_depth=depth, min_weight_leaf=12, **options).fit(X, y)
    cart = reference(max_depth=depth, min_samples_leaf=12, random_state=0).fit(X, y)
    own, other = tree.tree_, cart.tree_
    split = ~own.is_leaf
    inputs = np.abs(tree.components_).argmax(axis=1)[own.feature[split]]
    assert_array_equal(own.children_left, other.children_left)
    assert_array_equal(own.children_right, other.children_right)
    assert_array_equal(inputs, other.feature[split])
    assert_array_equal(own.n_node_weight, other.weighted_n_node_samples)
    sizes = tree.components_[own.feature[split], inputs]
    # scikit-learn reads numbers in single precision.
    assert_allclose(tree.thresholds_[split] / sizes, other.threshold[split], rtol=1e-5, atol=1e-6)
    assert_array_equal(tree.apply(X), cart.apply(X))
    assert_allclose(tree.score(X, y), cart.score(X, y), rtol=1e-9)
    if hasattr(cart, "classes_"):
        assert_allclose(tree.predict_proba(X), cart.predict_proba(X), atol=1e-12)
        assert_allclose(own.impurity, other.impurity, atol=1e-12)  # Brier of the mean is Gini


@pytest.mark.usefixtures("greedy")
def test_weights_too():
    w = RANDOM.integers(0, 3, 300).astype(float)
    options = {"init_directions": np.eye(4), "alpha": 0.0, "l0": 0.0, **NO_WORK}
    tree = FeatureTreeClassifier(max_depth=2, min_weight_leaf=1, **options).fit(X, LABELS, sample_weight=w)
    cart = DecisionTreeClassifier(max_depth=2, random_state=0).fit(X, LABELS, sample_weight=w)
    assert_array_equal(tree.apply(X), cart.apply(X))
    assert_allclose(tree.predict_proba(X), cart.predict_proba(X), atol=1e-12)


def spied(monkeypatch, **options):
    """Starts of a fit."""
    seen = []

    def choose(X, Y, w, make_starts, *args, **kwargs):
        from featlearn.trees import choice

        seen.extend(make_starts(np.arange(len(X))))
        return choice.choose(X, Y, w, make_starts, *args, **kwargs)

    monkeypatch.setattr("featlearn.trees.fitting.choose", choose)
    FeatureTreeClassifier(bandwidth=0, random_state=0, **options).fit(X, LABELS)
    return seen


def test_names_and_routes_of_starts(monkeypatch):
    def told(**options):
        return [(start.name, start.route, start.map.n_features) for start in spied(monkeypatch, **options)]

    kernel = [("kernel", "direct", 4), ("kernel, varimax", "direct", 4)]
    assert told() == [*kernel, ("random", "learned", 4)]
    assert told(n_init=2) == [*kernel, ("random 1", "learned", 4), ("random 2", "learned", 4)]
    assert told(n_init=0, n_features=1) == [("kernel", "direct", 1)]
    assert told(init_directions=np.eye(4)[:2]) == [("directions", "direct", 2), ("random", "learned", 4)]
    assert told(init_directions=None, n_features=9) == [("random", "learned", 9)]
    assert told(features="prototype") == [(f"random {place}", "learned", 3) for place in (1, 2, 3)]
    assert told(max_iter=0) == kernel
    assert told(features=PrototypeMap(np.zeros((1, 4)), np.ones((1, 4)))) == [("random", "learned", 4)]


def test_the_number_of_features_follows_the_classes(monkeypatch):
    wide = np.c_[X, RANDOM.standard_normal((300, 8))]
    for classes, expected in ((3, 4), (6, 6), (12, 8)):
        seen = []
        monkeypatch.setattr(
            "featlearn.trees.fitting.directions_from_agop",
            lambda agop, count, seen=seen, **options: (seen.append(count), directions_from_agop(agop, count))[1],
        )
        FeatureTreeClassifier(**NO_WORK).fit(wide, np.arange(300) % classes)
        assert set(seen) == {expected}


def test_kernel_starts_are_those_of_standardised_inputs(monkeypatch):
    starts = spied(monkeypatch, n_init=0, n_features=2)
    order = np.lexsort([*X.T[::-1], LABELS])
    rows = ((X - X.mean(axis=0)) / X.std(axis=0))[order]
    agop = kernel_agop(rows, np.eye(3)[LABELS[order]], np.ones(300), random_state=0)
    for start, rotate in zip(starts, (None, "varimax"), strict=True):
        expected = directions_from_agop(agop, 2, rotate=rotate)
        cosines = np.abs((start.map.weights * expected).sum(axis=1))
        assert_allclose(cosines, 1, atol=1e-9)


def test_directions_act_on_raw_inputs(monkeypatch):
    directions = np.array([[1.0, 1 / 30, 0, 0]])
    (start,) = spied(monkeypatch, n_init=0, init_directions=directions)
    rows = (X - X.mean(axis=0)) / X.std(axis=0)
    assert np.ptp(rows @ start.map.weights[0] - X @ directions[0]) < 1e-10
    tree = FeatureTreeClassifier(init_directions=directions, **NO_WORK).fit(X, LABELS)
    assert_allclose(tree.components_[0] / tree.components_[0, 0], directions[0], rtol=1e-12)
    for same in (directions.tolist(), torch.tensor(directions), lambda X, y: directions):
        again = FeatureTreeClassifier(init_directions=same, **NO_WORK).fit(X, LABELS)
        assert_array_equal(again.predict_proba(X), tree.predict_proba(X))


@pytest.mark.parametrize("selection", ["penalty", "validation"])
def test_a_callable_sees_training_rows_only(selection):
    seen = []

    def spy(rows, labels):
        seen.append((rows, labels))
        return np.eye(4)[:2]

    words = np.array(["a", "b", "c"])[LABELS]
    tree = FeatureTreeClassifier(init_directions=spy, selection=selection, **NO_WORK, random_state=0)
    place = {row.tobytes(): i for i, row in enumerate(X)}
    for train, test in KFold(3, shuffle=True, random_state=0).split(X):
        seen.clear()
        cross_val_score(tree, X, words, cv=[(train, test)])
        found = [[place[row.tobytes()] for row in rows] for rows, _ in seen]
        for rows, (_, labels) in zip(found, seen, strict=True):
            assert set(rows) <= set(train.tolist())
            assert_array_equal(labels, words[rows])
        if selection == "penalty":
            assert found == [train.tolist()]
        else:  # three quarters first, where the penalty is chosen
            assert len(found[0]) == 150
            assert found[1:] in ([], [train.tolist()])


def test_a_callable_does_not_see_rows_of_weight_zero():
    seen = []
    w = np.arange(300) % 3.0

    def spy(rows, labels):
        seen.append((rows, labels))
        return np.eye(4)

    FeatureTreeRegressor(init_directions=spy, **NO_WORK).fit(X, np.c_[SCORES, X[:, 3]], sample_weight=w)
    ((rows, targets),) = seen
    assert_array_equal(rows, X[w > 0])
    assert_array_equal(targets, np.c_[SCORES, X[:, 3]][w > 0])


def test_rules_have_their_largest_weight_positive_and_rows_keep_their_leaves():
    directions = np.array([[-1.0, 0.01, 0, 0], [0, -1 / 30, 1, 0]])
    turned, straight = (
        FeatureTreeClassifier(init_directions=sign * directions, **NO_WORK).fit(X, LABELS) for sign in (1, -1)
    )
    for tree in (turned, straight):
        weights = tree.components_standardized_
        assert len(weights) == 2
        assert (weights[np.arange(2), np.abs(weights).argmax(axis=1)] > 0).all()
        side = X @ tree.components_[tree.tree_.feature[0]] > tree.thresholds_[0]
        root = tree.tree_
        assert_array_equal(side, tree.decision_path(X).toarray()[:, root.children_right[0]] == 1)
    assert_array_equal(turned.predict_proba(X), straight.predict_proba(X))


def test_few_rows_that_are_all_alike_have_no_direction():
    rare = np.zeros(12)
    rare[0] = 1
    for seed in range(4):  # among three quarters of the rows there may be one class only
        tree = FeatureTreeClassifier(selection="validation", n_init=0, random_state=seed).fit(X[:12], rare)
        assert tree.predict(X[:12]).shape == (12,)
        many = FeatureTreeRegressor(selection="validation", n_init=0, random_state=seed).fit(X[:12], rare)
        assert np.isfinite(many.predict(X)).all()


def test_linear_features_of_the_users_own_start_where_linear_ones_do():
    given = FeatureTreeClassifier(features=LinearMap(np.eye(4)), init_directions=None, max_iter=2, random_state=0)
    named = FeatureTreeClassifier(features="linear", init_directions=None, max_iter=2, random_state=0)
    assert_array_equal(given.fit(X, LABELS).predict_proba(X), named.fit(X, LABELS).predict_proba(X))


def test_features_learned_on_some_rows_get_a_tree_of_all(monkeypatch):
    monkeypatch.setattr("featlearn.trees.learn.MAX_LEARN_ROWS", 100)
    tree = FeatureTreeClassifier(n_init=0, max_depth=2, random_state=0).fit(X, LABELS)
    assert tree.n_leaves_ > 1
    leaves = tree.apply(X)
    for leaf in np.unique(leaves):
        assert tree.tree_.n_node_weight[leaf] == (leaves == leaf).sum()
        assert_allclose(tree.tree_.value[leaf], np.eye(3)[LABELS[leaves == leaf]].mean(axis=0), atol=1e-12)
    assert_allclose(tree.transform(X).std(axis=0), 1, rtol=1e-9)
    assert_allclose(tree.loss_, np.square(tree.predict_proba(X) - np.eye(3)[LABELS]).sum(axis=1).mean())
    again = FeatureTreeClassifier(n_init=0, max_depth=2, random_state=0).fit(X[::-1], LABELS[::-1])
    assert_array_equal(again.thresholds_, tree.thresholds_)
