"""Labels that have nothing to do with the inputs: one leaf, where the price or the guard says so."""

from __future__ import annotations

import pytest
from planted_rules import Task


@pytest.mark.slow
@pytest.mark.parametrize("n", [300, 500])
def test_the_noise_safe_price_leaves_one_leaf(n):
    task = Task("noise", n, 10, seed=n)
    choice = task.choose(lambda rows: [*task.kernel_starts(rows), task.random_start(rows)], scale=1.0)
    assert choice.candidate.tree.n_leaves == 1


@pytest.mark.slow
def test_the_guard_of_held_out_rows_leaves_one_leaf():
    task = Task("noise", 300, 5, seed=1)
    guarded = task.choose(task.kernel_starts, selection="validation")
    assert guarded.guarded
    assert guarded.candidate.tree.n_leaves == 1
    # The same rows do look like something to a lower price and no held-out rows.
    assert task.choose(task.kernel_starts).candidate.tree.n_leaves > 2
