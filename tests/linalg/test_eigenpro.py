"""EigenPro: the fixed point is the ridge solution, the preconditioner pays, and a score stops it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from featlearn.exceptions import DataError, FeatlearnWarning
from featlearn.linalg.eigenpro import _Run, solve_eigenpro
from featlearn.linalg.gram import TiledGram
from featlearn.linalg.solution import RidgeSolver


def test_a_step_is_the_one_of_the_docstring(make_system) -> None:
    """One batch of all rows from zero: ``beta = g Y - g E D E^T K_SX Y``, written with dense matrices."""
    system = make_system(30)
    run = _Run(system.gram, system.targets, 0.2, system.weights, 12, 4, torch.Generator().manual_seed(0))
    matrix = system.gram + torch.diag(0.2 / system.weights)
    s = run.subset
    values, vectors = torch.linalg.eigh(matrix[s][:, s] / 12)
    edge, top, basis = values[-5], values[-4:], vectors[:, -4:]
    largest = matrix.diagonal().max()
    batch = int(largest / edge)
    step = 1 / (largest + (batch - 1) * edge)
    assert run.batch == min(30, batch)
    assert run.step == pytest.approx(float(step))
    run.batch = 30
    correction = basis @ torch.diag((1 - edge / top) / (12 * top)) @ basis.mT @ matrix[s] @ system.targets
    expected = run.step * system.targets
    expected[s] -= run.step * correction
    run.epoch()
    torch.testing.assert_close(run.dual, expected, rtol=1e-12, atol=1e-12)


def test_ridgeless_runs_interpolate(make_system) -> None:
    system = make_system(150)
    solution = solve_eigenpro(system.gram, system.targets, solver=RidgeSolver("eigenpro", tol=1e-7, max_iter=20_000))
    assert solution.reason == "tolerance"
    torch.testing.assert_close(system.gram @ solution.dual_coef, system.targets, rtol=0, atol=1e-6)


def test_damping_makes_batches_larger_for_about_the_same_progress_an_epoch(make_system) -> None:
    system = make_system(400, 1)
    plain = _Run(system.gram, system.targets, 0.0, None, 120, 0, torch.Generator().manual_seed(1))
    damped = _Run(system.gram, system.targets, 0.0, None, 120, 16, torch.Generator().manual_seed(1))
    assert damped.batch > 5 * plain.batch
    solver = RidgeSolver("eigenpro", tol=0.05, max_iter=2000)
    counts = [
        solve_eigenpro(system.gram, system.targets, 0.1, solver=solver, subset=120, top=top).n_iter for top in (0, 16)
    ]
    assert counts[1] < 2 * counts[0]


@pytest.mark.parametrize("tile", [1, 7, 1000])
def test_tiles_of_a_batch_change_nothing(make_system, tile: int) -> None:
    system = make_system(90)
    gram = TiledGram(lambda index: system.gram[index], 90)
    runs = [_Run(gram, system.targets, 0.1, system.weights, 30, 6, torch.Generator().manual_seed(0)) for _ in range(2)]
    runs[1].tile = tile
    residuals = [run.epoch() for run in runs]
    assert residuals[0] == pytest.approx(residuals[1], rel=1e-12)
    torch.testing.assert_close(runs[0].dual, runs[1].dual, rtol=1e-12, atol=1e-12)


def test_a_score_stops_it_and_the_best_iterate_comes_back(make_system) -> None:
    """Noisy targets without a ridge: the validation error falls, then rises."""
    system = make_system(300, 1, seed=3)
    held = torch.arange(300) >= 200
    gram, cross = system.gram[~held][:, ~held], system.gram[held][:, ~held]
    generator = torch.Generator().manual_seed(0)
    noise = 2 * torch.randn(300, 1, generator=generator, dtype=torch.float64)
    targets = system.targets + noise
    seen: list[float] = []

    def score(dual: Tensor) -> float:
        seen.append(float((targets[held] - cross @ dual).square().mean()))
        return seen[-1]

    solver = RidgeSolver("eigenpro", tol=1e-9, max_iter=500)
    solution = solve_eigenpro(gram, targets[~held], solver=solver, score=score, patience=4)
    assert solution.reason == "early_stopping"
    assert solution.n_iter == len(seen) < 500
    assert seen.index(min(seen)) == len(seen) - 1 - 4
    assert float((targets[held] - cross @ solution.dual_coef).square().mean()) == pytest.approx(min(seen), rel=1e-12)


def test_the_generator_decides_the_batches(make_system) -> None:
    system = make_system(100)
    solver = RidgeSolver("eigenpro", tol=1e-3)
    first, again, other = (
        solve_eigenpro(system.gram, system.targets, 0.5, solver=solver, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first.dual_coef, again.dual_coef)
    assert not torch.equal(first.dual_coef, other.dual_coef)


def test_single_precision_that_asks_for_more_than_rounding_allows_stagnates(make_system) -> None:
    system = make_system(60, 1, dtype=torch.float32)
    with pytest.warns(FeatlearnWarning, match="stagnated"):
        solution = solve_eigenpro(
            system.gram, system.targets, 1.0, solver=RidgeSolver("eigenpro", tol=1e-12, max_iter=5000)
        )
    assert solution.reason == "stagnated"
    torch.testing.assert_close(solution.dual_coef, system.dense_solution(1.0).float(), rtol=0, atol=1e-4)


def test_divergence_is_a_breakdown(make_system) -> None:
    """A subset that saw none of the large rows: eigenvalues far too small for the step."""
    system = make_system(60, 1)
    unseen = torch.randperm(60, generator=torch.Generator().manual_seed(0))[6:]
    large = torch.zeros(60, dtype=torch.float64)
    large[unseen] = 1000
    gram = system.gram + torch.outer(large.sqrt(), large.sqrt())
    generator = torch.Generator().manual_seed(0)
    with pytest.warns(FeatlearnWarning, match="breakdown"):
        solution = solve_eigenpro(gram, system.targets, subset=6, top=2, generator=generator)
    assert solution.reason == "breakdown"
    assert torch.isfinite(solution.dual_coef).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patience": 0}, "patience=0"),
        ({"subset": 0}, "subset=0"),
        ({"subset": 41}, "subset=41"),
        ({"top": -1}, "top=-1"),
        ({"subset": 8, "top": 8}, "top=8"),
        ({"alpha": -1.0}, "alpha=-1.0"),
    ],
)
def test_bad_sizes_are_refused(make_system, change: dict, message: str) -> None:
    system = make_system()
    with pytest.raises(DataError, match=message):
        solve_eigenpro(system.gram, system.targets, **change)


def test_a_subset_without_enough_rank_is_refused() -> None:
    gram, targets = torch.ones(20, 20, dtype=torch.float64), torch.ones(20, 1, dtype=torch.float64)
    with pytest.raises(DataError, match="smaller top"):
        solve_eigenpro(-gram, targets, subset=10, top=3)
