"""Intervals of trees: coverage, a width of every leaf, and rows that nothing else sees."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

from featlearn.exceptions import DataError
from featlearn.machines import RFMRegressor
from featlearn.machines.tree import RFMTreeRegressor
from featlearn.machines.tree_intervals import Residuals, set_aside

FAST = {"kernel": "laplace", "alpha": 1e-2, "max_iter": 1, "selection": None}


def draw(n, seed, noise=1.0):
    """Rows whose noise is ten times larger on the right."""
    random = np.random.default_rng(seed)
    X = random.normal(size=(n, 2))
    noise = noise * np.where(X[:, 0] > 0, 1.0, 0.1) * random.normal(size=n)
    return X, 4 * X[:, 0] + noise


def tree(leaf=None, **parameters):
    settings = {"max_leaf_size": 130, "random_state": 0, "intervals": "split", "routing": "hard", **parameters}
    return RFMTreeRegressor(LinearRegression() if leaf is None else leaf, **settings)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_the_coverage_is_the_level_on_average_over_data(level):
    covered = []
    for seed in range(40):
        X, y = draw(300, seed)
        Z, z = draw(400, 1000 + seed)
        low, high = tree(random_state=seed).fit(X, y).predict_interval(Z, level).T
        covered.append(np.mean((low <= z) & (z <= high)))
    # Between level and level + 1 / 31: 30 residuals give the quantile.
    error = np.std(covered) / math.sqrt(len(covered))
    assert level - 4 * error <= np.mean(covered) <= level + 1 / 31 + 4 * error


def test_leaves_with_more_noise_have_wider_intervals():
    X, y = draw(1000, 0, noise=0.1)  # more of it would be what the split is along
    Z, _ = draw(300, 1)
    fitted = tree(max_leaf_size=500).fit(X, y)
    low, high = fitted.predict_interval(Z).T
    assert len(fitted.leaves_) == 2
    widths = [np.unique((high - low)[fitted.leaf_of(Z) == leaf].round(9)) for leaf in (0, 1)]
    assert [len(width) for width in widths] == [1, 1]
    quiet, loud = sorted(float(width[0]) for width in widths)
    assert 4 < loud / quiet < 25


def test_the_interval_is_the_quantile_of_scaled_residuals_by_hand():
    random = np.random.default_rng(0)
    residuals = random.normal(size=(200, 1)) * np.repeat([[1.0], [7.0]], 100, axis=0)
    leaves = np.repeat([0, 1], 100)
    order = random.permutation(200)
    residuals, leaves = residuals[order], leaves[order]
    found = Residuals.of(torch.tensor(residuals), torch.tensor(leaves), 2).interval(
        torch.tensor([[3.0], [5.0]], dtype=torch.float64), torch.tensor([1, 0]), 0.8
    )
    one, other = slice(0, None, 2), slice(1, None, 2)
    # torch takes the lower of two medians.
    medians = [np.sort(abs(residuals[other][leaves[other] == leaf, 0])) for leaf in (0, 1)]
    unit = np.array([values[(len(values) - 1) // 2] for values in medians])
    scaled = np.sort(abs(residuals[one][:, 0]) / unit[leaves[one]])
    half = scaled[math.ceil(0.8 * 101) - 1]
    expected = [[[3 - half * unit[1], 3 + half * unit[1]]], [[5 - half * unit[0], 5 + half * unit[0]]]]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_leaf_of_few_residuals_has_the_width_of_the_whole_tree():
    residuals = torch.ones(100, 1, dtype=torch.float64)
    residuals[[1, 3]] = 50.0
    leaves = torch.zeros(100, dtype=torch.int64)
    leaves[[1, 3]] = 1
    assert Residuals.of(residuals, leaves, 2).widths.tolist() == [[1.0], [1.0]]


def test_exact_predictions_have_intervals_of_no_width():
    X, _ = draw(300, 0)
    fitted = tree(max_leaf_size=100).fit(X, np.where(X[:, 0] > 0, 1.0, 1.0))
    interval = fitted.predict_interval(X)
    np.testing.assert_array_equal(interval, np.ones((300, 2)))


def test_outputs_have_widths_of_their_own():
    X, y = draw(600, 0)
    both = tree().fit(X, np.c_[y, 1000 * y])
    found = both.predict_interval(X[:40])
    assert found.shape == (40, 2, 2)
    np.testing.assert_allclose(1000 * found[:, 0], found[:, 1], rtol=1e-6)


def test_rows_set_aside_change_nothing_but_the_widths():
    X, y = draw(300, 0)
    aside = set_aside(torch.arange(300), 0).numpy()
    assert len(aside) == 60
    changed_X, changed_y = X.copy(), y.copy()
    changed_X[aside] *= 3
    changed_y[aside] += 5
    leaf = RFMRegressor(**FAST)
    one = tree(leaf, routing="soft").fit(X, y)
    other = tree(leaf, routing="soft").fit(changed_X, changed_y)
    np.testing.assert_array_equal(one.predict(X), other.predict(X))
    assert (one.predict_interval(X) != other.predict_interval(X)).any()
    assert sum(part.n for part in one.leaves_) == 240


def test_too_few_residuals_give_the_whole_line():
    X, y = draw(40, 0)
    assert np.isinf(tree().fit(X, y).predict_interval(X, 0.99)).all()


def test_rows_of_no_weight_are_not_set_aside():
    X, y = draw(300, 0)
    weights = np.ones(300)
    weights[:100] = 0
    fitted = tree().fit(X, np.where(weights > 0, y, 1e9), sample_weight=weights)
    assert (np.diff(fitted.predict_interval(X)) < 100).all()


@pytest.mark.parametrize(
    ("intervals", "message"), [("cv_plus", 'a tree offers "split" alone'), ("jackknife", "Got intervals='jackknife'")]
)
def test_other_intervals_are_refused_before_any_work(intervals, message):
    X, y = draw(100, 0)
    machine = tree(intervals=intervals)
    with pytest.raises(DataError, match=message):
        machine.fit(X, y)
    assert not hasattr(machine, "coding_")


def test_levels_outside_of_zero_and_one_and_trees_without_intervals_are_refused():
    X, y = draw(100, 0)
    with pytest.raises(DataError, match="Got level=90"):
        tree().fit(X, y).predict_interval(X, 90)
    with pytest.raises(DataError, match="fitted without intervals"):
        tree(intervals=None).fit(X, y).predict_interval(X)


def test_one_row_cannot_be_divided():
    X, y = draw(2, 0)
    with pytest.raises(DataError, match="sets a fifth aside"):
        tree().fit(X, y)
