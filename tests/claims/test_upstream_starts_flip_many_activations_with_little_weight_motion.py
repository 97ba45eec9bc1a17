"""Rapid feature learning: at small scale, upstream starts switch many activations while their weights hardly move.

Published (arXiv 2406.06158): the setup, its measures, and that upstream starts can learn features fast in nonlinear
networks. Numbers and thresholds are this library's: three draws at its default size, 6000 steps of .02 / tau^2.
"""

from __future__ import annotations

import numpy as np
import pytest

from featlearn.dynamics.regime_grid import RegimeGrid, regime_grid

pytestmark = pytest.mark.slow

# At tau = .1 and delta = -1, 0, 1, as measured when the library was written, means of two draws.
TABLE = {
    "kernel_distance": (0.244, 0.233, 0.229),
    "hamming": (0.179, 0.425, 0.462),
    "parameter_distance": (3.37, 2.25, 0.85),
}


@pytest.fixture(scope="module")
def grid() -> RegimeGrid:
    return regime_grid([0.1, 2.0], [-1.0, 0.0, 1.0], n_repeats=3, checkpoints=[], random_state=0)


def test_a_large_scale_is_lazy_at_every_balance(grid: RegimeGrid) -> None:
    assert (grid.kernel_distance[1] < 0.01).all()
    assert (grid.hamming[1] < 0.03).all()
    assert (grid.balance_drift[1] < 1e-4).all()
    test = grid.at()["test"][1]
    assert np.ptp(test) < 0.1 * test.mean()


def test_a_small_scale_learns_features_and_the_teacher(grid: RegimeGrid) -> None:
    assert (grid.at()["kernel_distance"][0] > 0.15).all()
    assert (grid.at()["test"][0] < 0.008).all()
    assert (grid.at()["test"][1] > 3 * grid.at()["test"][0]).all()


def test_upstream_flips_more_and_moves_less_than_downstream(grid: RegimeGrid) -> None:
    downstream, _, upstream = np.moveaxis(grid.hamming[0, ..., -1], 0, 0)
    assert (upstream > 0.35).all()
    assert (downstream < 0.35).all()
    assert (np.diff(grid.parameter_distance[0, ..., -1], axis=0) < 0).all()


@pytest.mark.parametrize("name", TABLE)
def test_the_table_holds_for_other_draws(grid: RegimeGrid, name: str) -> None:
    np.testing.assert_allclose(grid.at()[name][0], TABLE[name], rtol=0.5)
