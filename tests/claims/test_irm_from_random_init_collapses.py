"""Zero logits satisfy IRMv1: from small random coefficients its head stays there, whatever the features hold.

A fact about the objective of Arjovsky et al. (2019), derived and measured here, on the population (quadrature) and on
samples: beside zero lies a local minimum, with logits of the order of 1/p. V-REx has none.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, roots_hermitenorm
from scipy.stats import norm

from featlearn.datasets.tabular import make_spurious_tabular
from featlearn.exceptions import FeatlearnWarning
from featlearn.robust.ood import OODHead

CORE, SPURIOUS, CORRELATIONS = 1.5, 2.5, (0.95, 0.8)


def population(nodes: int = 16):
    x, weight = roots_hermitenorm(nodes)
    first, second = (part.ravel() for part in np.meshgrid(x, x, indexing="ij"))
    weights = np.outer(weight, weight).ravel() / weight.sum() ** 2
    parts = [
        (
            np.stack([y * CORE + first, a * SPURIOUS + second], axis=1),
            np.full(len(first), y),
            np.full(len(first), e),
            (correlation if a == y else 1 - correlation) * weights,
        )
        for e, correlation in enumerate(CORRELATIONS)
        for y in (-1, 1)
        for a in (-1, 1)
    ]
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def losses_and_slopes(w, Z, y, environments, weights):
    margin = y * (Z @ w)
    return (
        np.array([np.average(v[environments == e], weights=weights[environments == e]) for e in (0, 1)])
        for v in (np.logaddexp(0, -margin), -margin * expit(-margin))
    )


@pytest.mark.parametrize("weight", [1e2, 1e4])
def test_beside_zero_lies_a_local_minimum_with_logits_of_the_size_of_one_over_p(weight):
    Z, y, environments, weights = population()

    def J(w):
        losses, slopes = losses_and_slopes(w, Z, y, environments, weights)
        return losses.mean() + weight * (slopes**2).mean()

    found = minimize(J, [0.01, 0.02], method="BFGS", options={"gtol": 1e-8})
    assert np.abs(found.x).max() < 1 / weight
    assert found.fun < np.log(2)
    step = 1e-2 / weight
    around = [found.x + step * np.array([np.cos(t), np.sin(t)]) for t in np.linspace(0, 2 * np.pi, 60)]
    assert min(map(J, around)) > found.fun


@pytest.mark.parametrize("objective", ["irm", "irmx"])
def test_a_head_from_near_zero_ends_near_zero_in_the_population(objective):
    """With p = 1e4; the barrier of p = 1e2, 0.015 high, is one that Adam jumps over."""
    Z, y, environments, weights = population()
    head = OODHead(objective, alpha=0.0, init="given", max_iter=400)
    with pytest.warns(FeatlearnWarning, match="degenerate"):
        head.fit(Z, y, environments, sample_weight=weights, coef_init=[0.01, 0.02])
    assert np.abs(head.coef_).max() < 0.01
    assert head.degenerate_


@pytest.mark.parametrize(("objective", "spurious"), [("vrex", 0.0067), ("groupdro", 0.4838)])
def test_vrex_and_group_dro_end_where_they_end_from_erm(objective, spurious):
    Z, y, environments, weights = population()
    head = OODHead(objective, 1e4, alpha=0.0, init="given", max_iter=1000, learning_rate=0.02, group_step=1.0, tol=1e-7)
    head.fit(Z, y, environments, sample_weight=weights, coef_init=[0.01, 0.02])
    assert head.coef_[0, 1] == pytest.approx(spurious, abs=0.02)
    assert not head.degenerate_


def test_the_barrier_grows_with_the_penalty_weight():
    """Along the ray to the invariant point (3, 0) the objective first rises: from a height below log 2 only when p is
    small. Logits at its first minimum shrink like 1/p."""
    Z, y, environments, weights = population()
    scales = np.geomspace(1e-6, 1.0, 200)
    minima, heights = [], []
    for p in (1e2, 1e3, 1e4):
        values = []
        for scale in scales:
            losses, slopes = losses_and_slopes(np.array([3.0 * scale, 0.0]), Z, y, environments, weights)
            values.append(losses.mean() + p * (slopes**2).mean())
        first = int(np.flatnonzero(np.diff(values) > 0)[0])
        assert values[first] < np.log(2)
        minima.append(scales[first])
        heights.append(max(values[first:]) - values[first])
        assert values[-1] < 0.2  # and yet the invariant point is far better
    np.testing.assert_allclose(np.array(minima[:-1]) / np.array(minima[1:]), 10.0, rtol=0.1)
    assert heights[0] > 1.0
    np.testing.assert_allclose(np.array(heights[1:]) / np.array(heights[:-1]), 10.0, rtol=0.3)


@pytest.mark.parametrize("seed", range(3))
def test_on_samples_its_accuracy_is_noise_where_the_start_at_erm_works(seed):
    parts = [
        make_spurious_tabular(n_train=2000, n_noise=0, correlation=rho, random_state=10 * seed + i)
        for i, rho in enumerate(CORRELATIONS)
    ]
    Z, y = (np.concatenate([getattr(part.train, name) for part in parts]) for name in ("X", "y"))
    environments, exact = np.repeat([0, 1], 2000), parts[0].exact

    def worst(head):
        return np.min(exact.linear_group_accuracy(head.coef_[0], head.intercept_[0]))

    with pytest.warns(FeatlearnWarning, match="degenerate"):
        collapsed = OODHead("irm", init="random", max_iter=500, random_state=seed).fit(Z, y, environments)
    assert np.mean(collapsed.history_[-1]["loss"]) > 0.65
    assert worst(collapsed) < 0.1
    erm = OODHead("erm").fit(Z, y, environments)
    found = OODHead("irm", max_iter=500).fit(Z, y, environments)
    assert worst(found) > max(0.84, worst(erm) + 0.02)
    assert worst(found) < norm.cdf(CORE)  # what the core columns allow
