r"""One-hot rows minus class frequencies stand for the regular simplex whose origin is the prior.

Derived for this library: with vertices :math:`v_1 .. v_K` in K - 1 dimensions, :math:`v_k \cdot v_l = 1[k = l] - 1/K`,
targets :math:`v_y - \sum_k \pi_k v_k` give the same scores and the same AGOP, hence the same machine.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import normal

from featlearn.machines.columns import Columns
from featlearn.machines.rfm import RFMClassifier, RFMRegressor

FAST = {"kernel": "laplace", "alpha": 1e-2, "max_iter": 3, "selection": None, "columns": Columns(), "random_state": 0}


def simplex(classes: int) -> torch.Tensor:
    """Vertices (K, K - 1) of the regular simplex around 0."""
    centred = torch.eye(classes, dtype=torch.float64) - 1 / classes
    values, vectors = torch.linalg.eigh(centred)
    return vectors[:, 1:] * values[1:].sqrt()


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_the_simplex_code_learns_the_same_metric_and_decodes_to_the_same_scores(classes):
    x, z = normal(90, 5, seed=1).numpy(), normal(40, 5, seed=2).numpy()
    cuts = np.quantile(x[:, 0] * x[:, 1], np.linspace(0, 1, classes + 1)[1:-1] ** 1.5)  # classes of unequal sizes
    labels = np.digitize(x[:, 0] * x[:, 1], cuts)
    vertices = simplex(classes).numpy()
    np.testing.assert_allclose(vertices @ vertices.T, np.eye(classes) - 1 / classes, atol=1e-12)

    one_hot = RFMClassifier(**FAST).fit(x, labels)
    coded = RFMRegressor(**FAST).fit(x, vertices[labels])  # a regressor subtracts the mean, which is the prior's point
    shares = np.bincount(labels) / 90
    assert np.ptp(shares) > 0.05 or classes == 2

    expansion = (coded.predict(z) - shares @ vertices) @ vertices.T
    found = one_hot.coding_.scores(one_hot.predictor_.expansion(z)).numpy()
    np.testing.assert_allclose(found, shares + expansion, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(one_hot.agop_, coded.agop_, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(one_hot.metric_at(3), coded.metric_at(3), rtol=1e-7, atol=1e-10)
    gram = [machine.dual_coef_ @ machine.dual_coef_.T for machine in (one_hot, coded)]
    np.testing.assert_allclose(*gram, rtol=1e-6, atol=1e-9)


def test_plain_one_hot_targets_are_another_machine():
    x = normal(90, 5, seed=1).numpy()
    labels = (x[:, 0] > 0.8).astype(int)
    plain, centred = (RFMClassifier(**FAST, coding=coding).fit(x, labels) for coding in ("one_hot", "prevalence"))
    far = np.full((1, 5), 1e4)
    np.testing.assert_allclose(centred.coding_.scores(centred.predictor_.expansion(far))[0], np.bincount(labels) / 90)
    np.testing.assert_allclose(plain.coding_.scores(plain.predictor_.expansion(far))[0], 0, atol=1e-12)
    assert np.abs(plain.metric_at(3) - centred.metric_at(3)).max() > 1e-3
