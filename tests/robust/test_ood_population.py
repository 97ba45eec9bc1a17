"""The head on whole distributions: rows are nodes of a quadrature, weights their probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, roots_hermitenorm
from scipy.stats import norm

from featlearn.robust.ood import OODHead

CORE, SPURIOUS, CORRELATIONS = 1.5, 2.5, (0.95, 0.8)


def grid(nodes: int = 16):
    """Core axis y CORE + N(0, 1), spurious axis a SPURIOUS + N(0, 1), P(a = y) the correlation of the environment."""
    x, weight = roots_hermitenorm(nodes)
    first, second = (part.ravel() for part in np.meshgrid(x, x, indexing="ij"))
    weights = np.outer(weight, weight).ravel() / weight.sum() ** 2
    parts = []
    for e, correlation in enumerate(CORRELATIONS):
        for y in (-1, 1):
            for a in (-1, 1):
                Z = np.stack([y * CORE + first, a * SPURIOUS + second], axis=1)
                share = 0.5 * (correlation if a == y else 1 - correlation)
                parts.append((Z, np.full(len(Z), y), np.full(len(Z), e), share * weights))
    Z, y, environments, weights = (np.concatenate(column) for column in zip(*parts, strict=True))
    there = weights > 1e-12
    return Z[there], y[there], environments[there], weights[there]


def fitted(objective: str, weight: float | tuple[float, float] = 0.0, **options):
    Z, y, environments, weights = grid()
    head = OODHead(objective, weight, alpha=0.0, **({"max_iter": 800, "learning_rate": 0.02, "tol": 1e-7} | options))
    return head.fit(Z, y, environments, sample_weight=weights)


# By another quadrature (a grid of 161 x 161) and another minimiser (Nelder-Mead, p raised in steps from the ERM head).
TABLE = [
    ("erm", 0.0, 0.687, 0.8168),
    ("irm", 1e1, 0.652, 0.8257),
    ("irm", 1e2, 0.494, 0.8641),
    ("irm", 1e4, 0.033, 0.9296),
    ("irm", 1e6, 0.0004, 0.9332),
    ("vrex", 1e1, 0.581, 0.8406),
    ("vrex", 1e2, 0.300, 0.8932),
    ("vrex", 1e4, 0.0067, 0.9325),
    ("irmx", 1e2, 0.277, 0.8996),
    ("irmx", 1e4, 0.0057, 0.9326),
    ("irmx", (1e4, 1e2), 0.0316, 0.9297),
    ("groupdro", 0.0, 0.4838, 0.8605),
]


@pytest.mark.parametrize(("objective", "weight", "spurious", "accuracy"), TABLE)
def test_spurious_coefficient_and_minority_accuracy_of_the_population_optimum(objective, weight, spurious, accuracy):
    head = fitted(objective, weight, group_step=1.0)
    u, v = head.coef_[0]
    assert v == pytest.approx(spurious, abs=0.005)
    assert norm.cdf((u * CORE - v * SPURIOUS) / np.hypot(u, v)) == pytest.approx(accuracy, abs=0.001)
    assert not head.degenerate_
    assert abs(head.intercept_[0]) < 0.01  # the classes are alike


@pytest.mark.parametrize(("objective", "irm", "vrex"), [("irm", 100.0, 0.0), ("vrex", 0.0, 100.0)])
def test_the_optimum_is_that_of_another_minimiser_of_the_written_objective(objective, irm, vrex):
    Z, y, environments, weights = grid()

    def J(w):
        margin = y * (Z @ w)
        losses, slopes = (
            np.array([weights[environments == e] @ values[environments == e] for e in (0, 1)])
            for values in (np.logaddexp(0, -margin), -margin * expit(-margin))
        )
        return losses.mean() + irm * (slopes**2).mean() + vrex * losses.var()

    start = minimize(lambda w: weights @ np.logaddexp(0, -y * (Z @ w)), [1.0, 1.0], method="BFGS").x
    expected = minimize(J, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-12}).x
    np.testing.assert_allclose(fitted(objective, 100.0).coef_[0], expected, atol=5e-3)


def test_the_penalty_of_irm_falls_to_nothing_only_at_the_invariant_point_or_at_zero():
    """D_e of u = 3, v = 0, where logits are the log odds given the core column, is 0 in both environments."""
    Z, y, environments, weights = grid()
    options = {"init": "given", "learning_rate": 1e-12, "max_iter": 1, "alpha": 0.0}
    penalties = {}
    for u, v in ((2 * CORE, 0.0), (3.0, 0.5), (2.0, 0.0), (1e-6, 1e-6)):
        head = OODHead(**options).fit
        if u < 1e-3:
            with pytest.warns(UserWarning, match="degenerate"):
                found = head(Z, y, environments, sample_weight=weights, coef_init=[u, v])
        else:
            found = head(Z, y, environments, sample_weight=weights, coef_init=[u, v])
        penalties[u, v] = found.history_[0]["penalty"]
    assert max(penalties[3.0, 0.0]) < 1e-6  # of the quadrature
    assert max(penalties[1e-6, 1e-6]) < 1e-10
    assert min(penalties[2.0, 0.0]) > 1e-4
    assert max(penalties[3.0, 0.5]) > 1e-4


def test_group_dro_is_erm_of_the_worst_environment_and_a_small_step_is_too_slow():
    Z, y, environments, weights = grid()
    worst = environments == 1
    alone = OODHead("erm", alpha=0.0).fit(Z[worst], y[worst], sample_weight=weights[worst])
    assert alone.coef_[0, 1] == pytest.approx(0.48383, abs=1e-3)
    head = fitted("groupdro", max_iter=1500)
    np.testing.assert_allclose(head.coef_, alone.coef_, atol=5e-3)
    assert head.history_[-1]["share"][1] > 0.99
    slow = fitted("groupdro", group_step=0.01)
    assert slow.coef_[0, 1] > 0.52
