"""Rules that were planted are found: accuracy on new rows, leaves and weights, from every kind of start."""

from __future__ import annotations

import numpy as np
import pytest
from planted_rules import Task, cosine
from sklearn.model_selection import GridSearchCV
from sklearn.tree import DecisionTreeClassifier

from featlearn import FeatureTreeClassifier
from featlearn.trees.features import LinearMap
from featlearn.trees.problem import Start

pytestmark = pytest.mark.slow


def test_a_diagonal_line_is_one_rule_of_two_weights():
    task = Task("sum", 800, 10, seed=0)
    candidate = task.choose(task.kernel_starts).candidate
    assert task.score(candidate) >= 0.985
    assert candidate.tree.n_leaves == 2
    np.testing.assert_array_equal(np.flatnonzero(candidate.map.weights[0]), [0, 1])
    assert cosine(candidate.map.weights[0] / task.std, np.eye(10)[0] + np.eye(10)[1]) > 0.995


def test_a_band_is_two_thresholds_on_one_difference():
    task = Task("band", 800, 10, seed=1)
    candidate = task.choose(task.kernel_starts).candidate
    assert task.score(candidate) >= 0.98
    assert candidate.tree.n_leaves <= 4
    assert cosine(candidate.map.weights[0] / task.std, np.eye(10)[0] - np.eye(10)[1]) > 0.99


def test_xor_of_two_diagonals_takes_four_leaves():
    task = Task("xor", 800, 10, seed=0)
    candidate = task.choose(task.kernel_starts).candidate
    assert task.score(candidate) >= 0.975
    assert candidate.tree.n_leaves == 4
    assert sorted(np.flatnonzero(row).tolist() for row in candidate.map.weights) == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("kind", "n", "d", "score", "leaves"),
    [("sum", 800, 10, 0.985, 3), ("xor", 800, 10, 0.975, 6), ("xor", 800, 30, 0.975, 6), ("three", 300, 30, 0.94, 4)],
)
def test_three_draws_of_four_are_found(kind, n, d, score, leaves):
    tasks = [Task(kind, n, d, seed=seed) for seed in range(1, 5)]
    found = [task.choose(task.kernel_starts).candidate for task in tasks]
    met = [task.score(each) >= score and each.tree.n_leaves <= leaves for task, each in zip(tasks, found, strict=True)]
    assert sum(met) >= 3


def test_the_true_rows_are_a_start():
    task = Task("xor", 300, 10, seed=1)
    rows = np.zeros((2, 10))
    rows[0, :2], rows[1, 2:4] = 1, (1, -1)
    start = Start("truth", LinearMap(rows * task.std), "direct")
    assert task.score(task.choose(lambda _: [start]).candidate) >= 0.98


def test_two_rules_of_three_weights_among_thirty_inputs():
    task = Task("three", 300, 30, seed=0)
    candidate = task.choose(task.kernel_starts).candidate
    assert task.score(candidate) >= 0.94
    assert candidate.tree.n_leaves == 3
    assert sorted(candidate.map.n_weights) <= [4, 4]


def test_steps_of_two_sums_are_found_in_a_regression():
    task = Task("steps", 800, 10, seed=0)
    candidate = task.choose(task.kernel_starts).candidate
    assert task.score(candidate) >= 0.97
    assert candidate.tree.n_leaves == 4


def test_rules_along_the_axes_come_out_as_those_of_cart():
    task = Task("axis", 800, 10, seed=0)
    candidate = task.choose(task.kernel_starts).candidate
    grid = {"ccp_alpha": [0.0, 0.001, 0.003, 0.01]}
    cart = GridSearchCV(DecisionTreeClassifier(random_state=0), grid, cv=5).fit(task.X, task.labels)
    assert task.score(candidate) >= cart.score(task.new, task.truth) - 0.01
    assert (candidate.map.n_weights == 1).all()


def test_three_circles_of_four_are_found_by_default():
    met = []
    for seed in range(4):
        task = Task("circle", 800, 10, seed=seed)
        tree = FeatureTreeClassifier("prototype", random_state=seed).fit(task.X, task.labels)
        met.append(tree.score(task.new, task.truth) >= 0.98)
    assert sum(met) >= 3


def test_a_circle_is_closeness_to_one_prototype():
    task = Task("circle", 800, 10, seed=4)
    candidate = task.choose(task.prototype_starts).candidate
    assert task.score(candidate) >= 0.98
    assert candidate.tree.n_leaves == 2
    place = int(candidate.tree.feature[0])
    np.testing.assert_array_equal(np.sort(np.argsort(-np.abs(candidate.map.masks[place]))[:2]), [0, 1])
    centre = candidate.map.prototypes[place, :2] * task.std[:2] + task.mean[:2]
    np.testing.assert_allclose(centre, [0.3, -0.2], atol=0.1)
