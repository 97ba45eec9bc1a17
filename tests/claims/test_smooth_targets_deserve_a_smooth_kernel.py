"""Derived: where the target is smooth and without noise, the race takes the Gaussian kernel and errs less by half."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import make_friedman1

from featlearn import RFMRegressor

KINKED = ["rotated+coordinates", "rotated", "aligned", "coordinates"]


@pytest.mark.slow
def test_the_gaussian_kernel_wins_on_a_smooth_target():
    X, y = make_friedman1(1300, noise=0.0, random_state=0)
    settings = {"alpha": 1e-3, "power": 0.5, "max_iter": 3, "random_state": 0}
    errors = {}
    for name, kernels in {"with": [*KINKED, "gaussian"], "without": KINKED}.items():
        machine = RFMRegressor(kernel=kernels, **settings).fit(X[:400], y[:400])
        errors[name] = np.sqrt(np.mean((machine.predict(X[400:]) - y[400:]) ** 2)) / y.std()
        assert (machine.kernel_name_ == "gaussian") == (name == "with")
    assert errors["with"] < 0.5 * errors["without"], errors
