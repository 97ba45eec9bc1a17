"""Changing any constructor argument of a machine of images changes what it predicts: none is accepted and ignored."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from featlearn import ConvRFMClassifier, ConvRFMRegressor, DeepConvRFMClassifier
from featlearn.machines.rules import MetricRule

RANDOM = np.random.default_rng(4)
X = RANDOM.normal(size=(48, 54)).astype(np.float32)  # 1 x 9 x 6 or 1 x 6 x 9 pixels
NEW = RANDOM.normal(size=(6, 54)).astype(np.float32)
Y = X[:, 20] * X[:, 21] + X[:, 30] + 0.3 * RANDOM.normal(size=48)
LABELS = np.digitize(Y, [-0.5, 1.0])

# How, not what: these must not change the answer, or do so by their nature alone.
OF_RUNNING = {"verbose", "n_jobs", "callback", "warm_start", "random_state"}

COMMON: dict[str, Any] = {
    "depth": 2, "alpha": (1e-3, 1e-1), "max_iter": 2, "agop_images": 20, "selection": "cv", "image_shape": (9, 6),
    "random_state": 0,
}  # fmt: skip
OTHER: dict[str, Any] = {
    "patch_size": 2,
    "depth": 1,
    "padding": 1,
    "alpha": (1.0, 3.0),
    "max_iter": 0,
    "rule": MetricRule(0.5, "trace", points=100),
    "agop_images": 5,
    "landmarks": 20,
    "selection": None,
    "image_shape": (6, 9),
    "class_weight": {0: 9.0},
    "tol": 10.0,
    "layers": 1,
    "width": 5,
    "nonlinearity": "none",
    "filters": "directions",
}
# Where a change shows only under other circumstances.
GIVEN: dict[str, dict[str, Any]] = {
    "selection": {"alpha": (10.0, 1e-3)},
    "tol": {"selection": None, "alpha": 1e-2},
    "rule": {"selection": None, "alpha": 1e-2},
    "agop_images": {"selection": None, "alpha": 1e-2},
    "max_iter": {"selection": None, "alpha": 1e-2},
}
DEEP = {key: value for key, value in COMMON.items() if key != "depth"} | {"layers": 2, "width": 4}
MACHINES = {
    ConvRFMRegressor: COMMON,
    ConvRFMClassifier: COMMON,
    DeepConvRFMClassifier: DEEP,
}


def arguments(estimator: type) -> list[str]:
    return [name for name in inspect.signature(estimator).parameters if name not in OF_RUNNING]


def outputs(estimator: type, options: dict[str, Any]) -> np.ndarray:
    regression = estimator is ConvRFMRegressor
    machine = estimator(**options).fit(X, Y if regression else LABELS)
    return machine.predict(NEW) if regression else machine.decision_function(NEW)


@pytest.mark.parametrize(
    ("estimator", "name"), [(estimator, name) for estimator in MACHINES for name in arguments(estimator)]
)
@pytest.mark.filterwarnings("ignore:.*selection uses . folds:featlearn.exceptions.FeatlearnWarning")
def test_it_changes_the_answer(estimator, name):
    base = MACHINES[estimator] | GIVEN.get(name, {})
    changed = base | {name: OTHER[name]}
    before, after = outputs(estimator, base), outputs(estimator, changed)
    assert not np.allclose(before, after, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("estimator", MACHINES)
def test_how_a_machine_runs_does_not(estimator):
    quiet = outputs(estimator, MACHINES[estimator])
    names = inspect.signature(estimator).parameters
    running = {"verbose": 1, "n_jobs": 2, "callback": lambda entry: None, "warm_start": True}
    loud = {name: value for name, value in running.items() if name in names}
    np.testing.assert_array_equal(outputs(estimator, MACHINES[estimator] | loud), quiet)
