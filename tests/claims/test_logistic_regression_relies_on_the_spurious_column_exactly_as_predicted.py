"""How far logistic regression leans on a spurious column follows from its correlation, before anything is trained.

Derived for this library: the population optimum of the logistic loss on the mixture of four Gaussians.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression

from featlearn.datasets.spurious_gaussian import SpuriousGaussian
from featlearn.datasets.tabular import make_spurious_tabular

SEEDS = range(10)


def by_integration(rho):
    """Weights (u, v) on the core direction and the spurious column, by a trapezoid over the margin u t + v x."""
    z = np.linspace(-9, 9, 2001)
    density = norm.pdf(z) * (z[1] - z[0])

    def loss(weights):
        size = np.linalg.norm(weights)
        centres = weights[0] * 1.5 + weights[1] * np.array([2.5, -2.5])
        means = np.log1p(np.exp(-(centres[:, None] + size * z))) @ density
        return np.array([rho, 1 - rho]) @ means

    return minimize(loss, np.array([1.0, 0.5]), method="BFGS", options={"gtol": 1e-9}).x


@pytest.fixture(scope="module")
def erm():
    """Ratio |v/u| and worst-group accuracy of unpenalised logistic regression, ten draws of 4000 rows."""
    found = []
    for seed in SEEDS:
        data = make_spurious_tabular(random_state=seed)
        fit = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(data.train.X.astype(float), data.train.y)
        core, spurious = fit.coef_[0] @ data.exact.core_direction, fit.coef_[0, data.exact.n_core]
        found.append((abs(spurious / core), data.exact.linear_group_accuracy(fit.coef_, fit.intercept_).min()))
    return np.array(found)


def test_the_prediction_is_that_of_an_independent_integral():
    for rho, ratio in ((0.95, 0.3590), (0.90, 0.2607), (0.80, 0.1613)):
        u, v = by_integration(rho)
        assert v / u == pytest.approx(ratio, abs=2e-4)
        assert SpuriousGaussian().population_logistic(rho).ratio == pytest.approx(v / u, abs=2e-5)


def test_reliance_of_every_fit_is_the_predicted_one(erm):
    predicted = SpuriousGaussian().population_logistic(0.95).ratio
    np.testing.assert_allclose(erm[:, 0], predicted, atol=0.05)
    assert erm[:, 0].mean() == pytest.approx(predicted, abs=0.025)


def test_so_is_the_accuracy_of_the_minority(erm):
    predicted = SpuriousGaussian().population_logistic(0.95).minority
    assert predicted == pytest.approx(0.7147, abs=1e-4)
    # Fits to 4000 rows in 56 columns lose a point to the population's optimum.
    assert erm[:, 1].mean() == pytest.approx(0.70, abs=0.03)
    assert erm[:, 1].mean() < predicted


def test_a_discriminant_analysis_would_lean_nearly_twice_as_much(erm):
    assert SpuriousGaussian().population_lda(0.95).ratio > 1.8 * erm[:, 0].max()
