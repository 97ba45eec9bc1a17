"""With few entries, LinearRFM at power 1/2 recovers a low-rank matrix that the smallest nuclear norm does not.

At power 1/4 it comes to the minimiser of the nuclear norm itself, which is found here by Douglas-Rachford splitting.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from featlearn.machines.linear_rfm import LinearRFM

Matrix = NDArray[np.float64]


def problem(share: float, seed: int, size: int = 40, rank: int = 2) -> tuple[Matrix, Matrix]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(size, rank)) @ rng.normal(size=(rank, size))
    truth /= np.sqrt((truth**2).mean())
    return truth, np.where(rng.random(truth.shape) < share, truth, np.nan)


def smallest_nuclear_norm(X: Matrix, step: float = 1.0) -> Matrix:
    """The matrix of smallest nuclear norm with the observed entries of X."""
    seen, state = ~np.isnan(X), np.nan_to_num(X)
    for _ in range(20_000):
        feasible = np.where(seen, X, state)
        left, singular, right = np.linalg.svd(2 * feasible - state, full_matrices=False)
        shrunk = (left * np.maximum(singular - step, 0)) @ right
        state = state + shrunk - feasible
        if np.abs(shrunk - feasible).max() < 1e-4:
            return feasible
    raise RuntimeError("Douglas-Rachford splitting did not converge.")


def error(completed: Matrix, truth: Matrix, X: Matrix) -> float:
    """Mean square of the entries that were not observed, whose own mean square is about 1."""
    return float(((completed - truth)[np.isnan(X)] ** 2).mean())


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_half_recovers_what_the_nuclear_norm_does_not(seed: int) -> None:
    truth, X = problem(0.25, seed)
    machine = LinearRFM(0.5, validation_fraction=0.0).fit(X)
    assert error(machine.completed_, truth, X) < 1e-4
    assert machine.rank_ == 2
    assert error(smallest_nuclear_norm(X), truth, X) > 1e-2


def test_a_quarter_comes_to_the_smallest_nuclear_norm() -> None:
    truth, X = problem(0.3, 0)
    convex = smallest_nuclear_norm(X)
    slow = LinearRFM(0.25, validation_fraction=0.0, tol=0.0, decay=0.98, max_iter=1000).fit(X).completed_
    lowest, found, of_truth = (np.linalg.norm(matrix, "nuc") for matrix in (convex, slow, truth))
    assert lowest == pytest.approx(56.057, abs=1e-3)
    assert lowest < found < lowest + 0.3 * (of_truth - lowest)
    assert np.abs(slow - convex).mean() < 0.5 * np.abs(truth - convex).mean()


def test_a_constant_epsilon_sticks() -> None:
    truth, X = problem(0.25, 0)
    stuck = LinearRFM(0.5, epsilon=1e-9, validation_fraction=0.0).fit(X)
    assert error(stuck.completed_, truth, X) > 0.1
