"""Under weight decay the loss stops falling at N^2/4 neurons, where it meets the nuclear-norm bound.

Task of Jacot, Golikov, Hongler and Gabriel (arXiv 2205.15809), published: the optimum has rank N^2/4, and a plateau is
reached by N (N + 1) neurons at the latest. The losses and the bound are computed here.
"""

from __future__ import annotations

import numpy as np
import pytest

from featlearn.dynamics.attraction_repulsion import attraction_repulsion, bipartite_example
from featlearn.dynamics.plateau import plateau


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "widths", "losses"), [(4, (3, 4, 6), (16.2962, 15.988, 15.988)), (6, (8, 9, 10), (36.1112, 35.97, 35.97))]
)
def test_best_losses(n, widths, losses):
    task = bipartite_example(n)
    found = plateau(task.X, task.Y, widths, weight_decay=1e-3, random_state=0)
    np.testing.assert_allclose(found.loss / 1e-3, losses, atol=1e-3)
    assert found.lower_bound / 1e-3 == pytest.approx(losses[-1], abs=1e-3)
    assert found.n_rays[1] == n**2 // 4
    assert found.n_rays[2] >= n**2 // 4  # wider optima are not unique


@pytest.mark.parametrize("n", [4, 6, 8])
def test_the_constructed_network_is_in_equilibrium(n):
    task = bipartite_example(n)
    assert attraction_repulsion(task.weights, task.X, bias=0.0, ridge=0.0)[0].residual < 1e-10
