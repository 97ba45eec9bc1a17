"""A product of two inputs behind a gate, and a plain product, are learned step by step as in the published notebooks.

Published (notebooks with the code of arXiv 2212.13881): test errors over the iterates, and a test R^2 after five steps.
Their draws of the data are others than ours.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cases import normal
from torch import Tensor

from featlearn.machines.loop import HeldOut, Recipe, run
from featlearn.machines.rules import KERNELS, RULES


def errors(
    n: int, d: int, deviation: float, target: Callable[[Tensor], Tensor], alpha: float
) -> tuple[list[float], float]:
    """Test errors of iterates 0 to 5 by the convention "science", and the variance of the test targets."""
    rule = RULES["science"]
    x, z = (deviation * normal(n, d, seed=seed).float() for seed in (1, 2))
    recipe = Recipe(KERNELS["laplace"], rule.bandwidths[0], ((alpha,),), rule.metric, 5, tol=0.0, selected=False)
    truth = target(z)[:, None]
    found = run(recipe, x, target(x)[:, None], judge=HeldOut(z, truth))
    return [entry["score"] for entry in found.history], float(truth.var())


@pytest.mark.slow
def test_the_gated_product():
    published = [0.01229, 0.00630, 0.00317, 0.00235, 0.00209, 0.00200]
    found, _ = errors(4000, 20, 0.5, lambda x: x[:, 0] * x[:, 1] * (x[:, 5] > 0), alpha=1e-3)
    assert found == pytest.approx(published, rel=0.25)


def test_the_product_in_a_hundred_dimensions():
    found, variance = errors(2000, 100, 1.0, lambda x: x[:, 0] * x[:, 1], alpha=1e-4)
    scores = [1 - error / variance for error in found]
    assert scores[0] < 0.15  # no kernel without a metric sees it
    assert scores[1] > 0.7
    assert scores[5] == pytest.approx(0.923, abs=0.05)
