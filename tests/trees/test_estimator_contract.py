"""The checks of scikit-learn, for trees on a kernel's directions, on prototypes, and on random starts alone."""

from __future__ import annotations

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from featlearn.trees.estimators import FeatureTreeClassifier, FeatureTreeRegressor

SMALL = {"max_depth": 2, "max_iter": 2, "selection": "penalty", "random_state": 0}
CONFIGURATIONS = {
    "kernel": {"init_directions": "kernel", "n_init": 0},
    "prototype": {"features": "prototype"},
    "random starts": {"init_directions": None, "n_init": 1},
}


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    """The checks ask for manners, not for learned features, which take most of the time."""
    monkeypatch.setattr("featlearn.trees.problem.STEPS", 2)
    monkeypatch.setattr("featlearn.trees.learn.DIRECT_BANDWIDTHS", (1.0,))
    monkeypatch.setattr("featlearn.trees.learn.LATER_ROUNDS", 2)
    monkeypatch.setattr("featlearn.trees.learn.LATER_ANNEALED", 1)
    monkeypatch.setattr("featlearn.trees.polish.ROUNDS", 1)


@parametrize_with_checks(
    [
        estimator(**options, **SMALL)
        for options in CONFIGURATIONS.values()
        for estimator in (FeatureTreeClassifier, FeatureTreeRegressor)
    ]
)
def test_contract(estimator, check):
    check(estimator)
