"""Balanced two-layer linear networks: one number, lambda, leads from features learned in steps to a constant kernel.

Published (abstract and public reviews of arXiv 2409.14623): rich as lambda -> 0, lazy as ``|lambda| -> infinity``. The
powers below are derived here. Large ``|lambda|`` also means large weights, and norm alone makes a random start lazy too
if it has as much to learn; but a large random start has a large output to unlearn, and a balanced one has not.
"""

from __future__ import annotations

import numpy as np
import pytest

from featlearn.dynamics.integration import integrate
from featlearn.dynamics.lambda_balanced import LambdaBalanced

FEATURES = np.array([2.0, 1.2, 0.6, 0.3])
INF = float("inf")


def sweep(lams: list[float], scale: float = 0.02, seed: int = 0) -> LambdaBalanced:
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.normal(size=(4, 4)))[0] for _ in range(2))
    return LambdaBalanced.sample(4, 4, 4, lams, scale=scale, Syx=(U * FEATURES) @ V, random_state=seed)


@pytest.mark.parametrize("seed", range(3))
def test_the_kernel_moves_less_the_larger_lambda_on_both_sides(seed: int) -> None:
    lams = [0.0, 0.3, 1.0, 3.0, 10.0]
    for side in (1, -1):
        distance = sweep([side * lam for lam in lams], seed=seed).kernel_distance(INF)[:, 0]
        assert (np.diff(distance) < 0).all()
        assert distance[0] > 0.1
        assert distance[-1] < 1e-3


def test_far_out_the_kernel_distance_falls_as_the_fourth_power() -> None:
    near, far = sweep([30.0, 300.0]).kernel_distance(INF)[:, 0]
    assert near / far == pytest.approx(1e4, rel=0.5)


def test_rich_features_are_learned_one_after_the_other_and_lazy_ones_together() -> None:
    rich, lazy = (_half_times(lam) for lam in (0.0, 30.0))
    assert (np.diff(rich) > 0).all()
    # By sigmoids whose rates are the features; together: one rate for all, lambda.
    assert rich[2] / rich[0] > 2
    assert lazy[2] / lazy[0] < 1.1
    assert lazy.max() * 30 == pytest.approx(np.log(2), rel=0.1)


def _half_times(lam: float) -> np.ndarray:
    """When each feature reaches half of its size, in the integrated raw layers."""
    model = sweep([lam], scale=0.02 if lam == 0 else 0.002)
    t = np.linspace(0, 8 if lam == 0 else 1, 4001)
    product = np.moveaxis(model.simulate(t).product[0], -1, 0)
    sizes = np.linalg.svd(product, compute_uv=False)[:, :3]
    return t[np.argmax(sizes > FEATURES[:3] / 2, axis=0)]


@pytest.mark.parametrize("seed", range(3))
def test_a_random_start_of_the_same_norm_is_lazy_only_without_an_output_to_unlearn(seed: int) -> None:
    model = sweep([30.0])
    half = np.sqrt(((model.W1**2).sum() + (model.W2**2).sum()) / 2)
    layers = [half * matrix / np.linalg.norm(matrix) for matrix in np.random.default_rng(seed).normal(size=(2, 4, 4))]
    target = model.Syx[0]
    balanced, rich = model.kernel_distance(INF)[0, 0], sweep([0.0]).kernel_distance(INF)[0, 0]
    assert balanced < 1e-5
    assert balanced * 50 < _distance(layers, target + layers[1] @ layers[0]) < rich / 50
    assert _distance(layers, target) > rich / 10


def _distance(layers: list[np.ndarray], target: np.ndarray) -> float:
    """Of the dense tangent kernel, from the start to the end of the integrated flow."""

    def flow(pair: np.ndarray) -> np.ndarray:
        missing = target - pair[1] @ pair[0]
        return np.stack([pair[1].T @ missing, missing @ pair[0].T])

    end = integrate(flow, np.stack(layers), np.array([60.0]))[..., 0]
    first, last = (np.kron(np.eye(4), W1.T @ W1) + np.kron(W2 @ W2.T, np.eye(4)) for W1, W2 in (layers, end))
    return float(1 - (first * last).sum() / (np.linalg.norm(first) * np.linalg.norm(last)))
