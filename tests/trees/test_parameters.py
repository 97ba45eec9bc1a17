"""Parameters that cannot be meant are refused before any work, each with its name and what to do."""

from __future__ import annotations

import re

import numpy as np
import pytest

from featlearn.exceptions import DataError
from featlearn.trees.estimators import FeatureTreeClassifier, FeatureTreeRegressor
from featlearn.trees.features import LinearMap

X = np.random.default_rng(0).standard_normal((40, 3))
LABELS = X[:, 0] > 0


class Nothing:
    """Features that cannot do anything."""


BAD = [
    ({"bandwidth": 5e-4}, "bandwidth=0.0005, but expected 0 or at least 0.001"),
    ({"bandwidth": -0.1}, "bandwidth=-0.1, but expected a finite number of at least 0"),
    ({"bandwidth": float("nan")}, "bandwidth=nan"),
    ({"bandwidth": "wide"}, "bandwidth='wide'"),
    ({"max_depth": 0}, "max_depth=0, but expected a whole number of at least 1"),
    ({"max_depth": 2.5}, "max_depth=2.5"),
    ({"max_depth": None}, "max_depth=None"),
    ({"max_depth": True}, "max_depth=True"),
    ({"penalty_scale": -1.0}, "penalty_scale=-1.0"),
    ({"penalty_scale": float("inf")}, "penalty_scale=inf"),
    ({"alpha": -0.1}, "alpha=-0.1, but expected 'auto' or a finite number of at least 0"),
    ({"alpha": "high"}, "alpha='high'"),
    ({"l0": -0.1}, "l0=-0.1"),
    ({"l0": None}, "l0=None"),
    ({"min_weight_leaf": -1}, "min_weight_leaf=-1"),
    ({"n_features": 0}, "n_features=0, but expected 'auto' or a whole number of at least 1"),
    ({"n_features": np.array([1, 2])}, "n_features=array"),
    ({"n_features": "all"}, "n_features='all'"),
    ({"n_init": -1}, "n_init=-1"),
    ({"n_init": 1.0}, "n_init=1.0"),
    ({"max_iter": -1}, "max_iter=-1"),
    ({"selection": "cv"}, "selection='cv', but expected one of 'penalty', 'validation'"),
    ({"selection": None}, "selection=None"),
    ({"predict_mode": "soft"}, "predict_mode='soft', but expected one of 'crisp', 'fuzzy'"),
    ({"features": "quadratic"}, "features='quadratic'"),
    ({"features": Nothing()}, "without start, forward, backward"),
    ({"init_directions": "lda"}, "init_directions='lda', but expected 'kernel', None, an array (k, d) or a callable"),
    ({"init_directions": None, "n_init": 0}, "n_init=0 and no directions"),
    ({"features": "prototype", "n_init": 0}, "n_init=0 and no directions"),
    ({"features": "prototype", "init_directions": np.eye(3)}, "directions are where linear rules start"),
    ({"features": "prototype", "init_directions": lambda X, y: np.eye(3)}, "directions are where linear rules start"),
    ({"features": LinearMap(np.eye(3)), "init_directions": np.eye(3)}, "directions are where linear rules start"),
]

BAD_DIRECTIONS = [
    (np.eye(2), "shape (2, 2), but expected (k, 3)"),
    (np.ones(3), "shape (3,), but expected (k, 3)"),
    (np.zeros((0, 3)), "shape (0, 3), but expected (k, 3)"),
    (np.array([[1.0, np.nan, 0.0]]), "NaN or infinity"),
    (np.array([[1.0, np.inf, 0.0]]), "NaN or infinity"),
    (np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), "zeros only in row 1"),
    ([["a", "b", "c"]], "no array of numbers (k, 3)"),
    ([[1.0, 2.0], [1.0]], "no array of numbers (k, 3)"),
    (lambda X, y: np.eye(X.shape[1] + 1), "shape (4, 4), but expected (k, 3)"),
    (lambda X, y: None, "shape (), but expected (k, 3)"),
]


@pytest.mark.parametrize("estimator", [FeatureTreeClassifier, FeatureTreeRegressor])
@pytest.mark.parametrize(("options", "told"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_they_are_refused(estimator, options, told, monkeypatch):
    def work(*args, **kwargs):
        raise AssertionError("work began")

    monkeypatch.setattr("featlearn.trees.estimators.fit_tree", work)
    with pytest.raises(DataError, match=re.escape(told)):
        estimator(**options).fit(X, LABELS.astype(float))


@pytest.mark.parametrize(("directions", "told"), BAD_DIRECTIONS, ids=[str(i) for i in range(len(BAD_DIRECTIONS))])
def test_directions_are_refused(directions, told, monkeypatch):
    def work(*args, **kwargs):
        raise AssertionError("work began")

    monkeypatch.setattr("featlearn.trees.choice.learn", work)
    with pytest.raises(DataError, match=re.escape(told)):
        FeatureTreeClassifier(init_directions=directions).fit(X, LABELS)


def test_numbers_of_numpy_and_the_ends_of_ranges_are_accepted():
    options = {"max_depth": np.int64(1), "n_init": np.int32(0), "max_iter": np.int64(0), "n_features": np.int64(3)}
    bounds = {"bandwidth": 0, "penalty_scale": np.float32(0), "alpha": 0, "l0": np.float64(0), "min_weight_leaf": 0}
    tree = FeatureTreeClassifier(**options, **bounds, init_directions=np.eye(3)).fit(X, LABELS)
    assert tree.score(X, LABELS) == 1
    assert FeatureTreeClassifier(**options | {"max_iter": 1}, bandwidth=1e-3, init_directions=np.eye(3)).fit(X, LABELS)


def test_directions_that_no_row_varies_along_are_refused_only_if_all_are():
    fixed = X.copy()
    fixed[:, 2] = 7
    options = {"max_iter": 0, "n_init": 0}
    with pytest.raises(DataError, match="columns that do not vary only"):
        FeatureTreeClassifier(init_directions=[[0, 0, 1.0]], **options).fit(fixed, LABELS)
    tree = FeatureTreeClassifier(init_directions=[[0, 0, 1.0], [1.0, 0, 5.0]], **options).fit(fixed, LABELS)
    np.testing.assert_allclose(tree.components_[0, 1:], 0)
    assert tree.score(fixed, LABELS) == 1
