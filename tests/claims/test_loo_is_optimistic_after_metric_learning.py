"""Leave-one-out scores fall on pure noise once the metric was learned from the same labels; the test error rises.

Derived for this library: the reason why selection re-learns the metric in every fold.
"""

from __future__ import annotations

import pytest
from cases import normal

from featlearn.machines.loop import LeaveOneOut, Recipe, run, squared_error
from featlearn.machines.rules import KERNELS, Bandwidth, MetricRule


@pytest.mark.parametrize("seed", range(3))
def test_leave_one_out_promises_what_noise_cannot_give(seed):
    x, y = normal(300, 50, seed=2 * seed), normal(300, 1, seed=2 * seed + 1)
    z, truth = normal(1000, 50, seed=100 + seed), normal(1000, 1, seed=200 + seed)
    recipe = Recipe(KERNELS["laplace"], Bandwidth(1.0), ((1e-1,),), MetricRule(1.0), max_iter=4, selected=False)
    found = run(recipe, x, y, judge=LeaveOneOut())
    promised = [entry["score"] for entry in found.history]
    test = squared_error(truth - found.kernel.expansion(x, z, found.dual))
    assert promised[0] > 0.85  # honest while the metric has seen no label
    assert promised[-1] < 0.7 * promised[0]
    assert test > 1.1
