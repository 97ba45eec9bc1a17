"""Conjugate gradients: each row its own system, honest about why it stopped."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from featlearn.exceptions import DataError
from featlearn.linalg.nystrom import NystromPreconditioner
from featlearn.linalg.pcg import PATIENCE, conjugate_gradients


def spd(eigenvalues: Tensor, seed: int = 0) -> Tensor:
    n = len(eigenvalues)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    return (q * eigenvalues) @ q.mT


def rows(outputs: int, n: int, seed: int = 1) -> Tensor:
    return torch.randn(outputs, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def solve(matrix: Tensor, targets: Tensor, **changes: Any):
    options = {"tol": 1e-10, "max_iter": 500, **changes}
    precondition = options.pop("precondition", torch.clone)
    return conjugate_gradients(lambda right: right @ matrix, targets, precondition, **options)


def test_as_many_iterations_as_distinct_eigenvalues() -> None:
    matrix = spd(torch.tensor([1.0] * 20 + [5.0] * 20 + [30.0] * 20, dtype=torch.float64))
    targets = rows(4, 60)
    found = solve(matrix, targets)
    assert found.n_iter == 3
    assert found.reason == "tolerance"
    torch.testing.assert_close(found.rows, torch.linalg.solve(matrix, targets.mT).mT, rtol=0, atol=1e-9)


def test_outputs_are_solved_as_if_alone_and_frozen_when_done() -> None:
    matrix = spd(torch.logspace(-2, 1, 50, dtype=torch.float64))
    _, vectors = torch.linalg.eigh(matrix)
    targets = torch.stack([vectors[:, 3], *rows(2, 50)])  # an eigenvector takes one iteration
    widths = []

    def product(right: Tensor) -> Tensor:
        widths.append(len(right))
        return right @ matrix

    together = conjugate_gradients(product, targets, torch.clone, tol=1e-8, max_iter=500)
    assert widths[:2] == [3, 2]
    assert widths == sorted(widths, reverse=True)
    for output, target in enumerate(targets):
        alone = solve(matrix, target[None], tol=1e-8)
        torch.testing.assert_close(together.rows[output], alone.rows[0], rtol=0, atol=1e-7)
        assert alone.n_iter <= together.n_iter


@pytest.mark.parametrize("tol", [1e-2, 1e-5, 1e-9])
def test_the_residual_of_every_output_is_below_the_tolerance(tol: float) -> None:
    matrix, targets = spd(torch.logspace(-3, 1, 80, dtype=torch.float64)), rows(5, 80)
    targets *= torch.logspace(-6, 6, 5, dtype=torch.float64)[:, None]
    found = solve(matrix, targets, tol=tol)
    relative = (targets - found.rows @ matrix).norm(dim=1) / targets.norm(dim=1)
    assert float(relative.max()) < tol * (1 + 1e-3)
    assert found.relative_residual == pytest.approx(float(relative.max()), rel=1e-3)
    assert found.reason == "tolerance"


def test_a_looser_tolerance_stops_earlier() -> None:
    matrix, targets = spd(torch.logspace(-3, 1, 80, dtype=torch.float64)), rows(2, 80)
    counts = [solve(matrix, targets, tol=tol).n_iter for tol in (1e-1, 1e-3, 1e-6)]
    assert counts == sorted(set(counts))


def test_the_best_iterate_is_returned() -> None:
    """The residual of conjugate gradients is not monotone; what comes back is no worse than any earlier iterate."""
    matrix, targets = spd(torch.logspace(-6, 2, 100, dtype=torch.float64)), rows(3, 100)
    residuals = [solve(matrix, targets, max_iter=steps).relative_residual for steps in range(1, 40)]
    assert residuals == sorted(residuals, reverse=True)
    assert len(set(residuals)) < len(residuals)


def test_single_precision_stagnates_where_rounding_stops_it() -> None:
    matrix, targets = spd(torch.logspace(-7, 3, 200, dtype=torch.float64)).float(), rows(2, 200).float()
    found = solve(matrix, targets, tol=1e-6, max_iter=5000)
    assert found.reason in ("stagnated", "breakdown")
    assert PATIENCE <= found.n_iter < 5000
    true = (targets.double() - found.rows.double() @ matrix.double()).norm(dim=1) / targets.double().norm(dim=1)
    assert float(true.max()) > 1e-6
    assert found.relative_residual == pytest.approx(float(true.max()), rel=0.2)


def test_a_drifted_residual_is_found_out() -> None:
    """Products that are slightly and newly wrong each time: the updated residual converges, the true one cannot."""
    matrix, targets = spd(torch.linspace(1, 2, 60, dtype=torch.float64)).float(), rows(2, 60).float()
    generator = torch.Generator().manual_seed(0)
    calls = 0

    def noisy(right: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return (right @ matrix) * (1 + 1e-3 * torch.randn(60, generator=generator))

    found = conjugate_gradients(noisy, targets, torch.clone, tol=1e-5, max_iter=500)
    assert found.reason == "stagnated"
    assert found.n_iter == calls < 100
    assert 1e-5 < found.relative_residual < 1e-2
    unchecked = conjugate_gradients(noisy, targets, torch.clone, tol=1e-2, max_iter=500)
    assert unchecked.reason == "tolerance"


def test_the_check_costs_one_product_and_counts() -> None:
    matrix, targets = spd(torch.linspace(1, 2, 60, dtype=torch.float64)).float(), rows(2, 60).float()
    calls = []

    def product(right: Tensor) -> Tensor:
        calls.append(len(right))
        return right @ matrix

    checked = conjugate_gradients(product, targets, torch.clone, tol=1e-4, max_iter=500)
    assert checked.n_iter == len(calls)
    assert solve(matrix.double(), targets.double(), tol=1e-4).n_iter == checked.n_iter - 1


def test_curvature_that_is_not_positive_breaks_down_for_that_output_alone() -> None:
    eigenvalues = torch.linspace(1, 2, 30, dtype=torch.float64)
    eigenvalues[0] = -1
    matrix = spd(eigenvalues)
    _, vectors = torch.linalg.eigh(matrix)
    found = solve(matrix, torch.stack([vectors[:, 0] + 1e-3 * vectors[:, 5], vectors[:, 7]]), tol=1e-6, max_iter=300)
    assert found.reason == "breakdown"
    assert torch.isfinite(found.rows).all()
    torch.testing.assert_close(found.rows[1] @ matrix, vectors[:, 7], rtol=0, atol=1e-6)


def test_max_iter_is_the_number_of_products() -> None:
    matrix, targets = spd(torch.logspace(-3, 1, 80, dtype=torch.float64)), rows(2, 80)
    for limit in (1, 2, 7):
        calls = []

        def product(right: Tensor, calls: list[int] = calls) -> Tensor:
            calls.append(1)
            return right @ matrix

        initial = 0.01 * targets
        for start in (None, initial):
            calls.clear()
            found = conjugate_gradients(product, targets, torch.clone, tol=1e-9, max_iter=limit, initial=start)
            assert found.reason == "max_iter"
            assert found.n_iter == len(calls) == limit


def test_a_start_that_is_worse_than_zero_is_dropped_for_that_output_alone() -> None:
    matrix, targets = spd(torch.logspace(-1, 1, 40, dtype=torch.float64)), rows(2, 40)
    exact = torch.linalg.solve(matrix, targets.mT).mT
    initial = torch.stack([exact[0], 1e6 * exact[1]])
    cold, warm = solve(matrix, targets[1:]), solve(matrix, targets, initial=initial)
    assert torch.equal(warm.rows[0], exact[0])
    torch.testing.assert_close(warm.rows[1], cold.rows[0], rtol=0, atol=1e-9)
    assert warm.n_iter == cold.n_iter + 1


def test_zero_rows_are_solved_by_zeros() -> None:
    matrix, targets = spd(torch.logspace(-1, 1, 40, dtype=torch.float64)), rows(3, 40)
    targets[1] = 0
    for initial in (None, torch.ones_like(targets)):
        found = solve(matrix, targets, initial=initial)
        assert torch.equal(found.rows[1], torch.zeros(40, dtype=torch.float64))
        assert found.reason == "tolerance"
    nothing = solve(matrix, torch.zeros_like(targets))
    assert (nothing.n_iter, nothing.relative_residual, nothing.reason) == (0, 0.0, "tolerance")


@pytest.mark.parametrize("at", range(1, 12))
def test_an_interrupt_anywhere_leaves_a_whole_iterate(at: int) -> None:
    matrix, targets = spd(torch.logspace(-3, 1, 80, dtype=torch.float64)), rows(2, 80)
    calls = 0

    def interrupting(right: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt
        return right.clone()

    found = solve(matrix, targets, precondition=interrupting)
    assert found.reason == "interrupted"
    relative = (targets - found.rows @ matrix).norm(dim=1) / targets.norm(dim=1)
    assert found.relative_residual == pytest.approx(float(relative.max()), rel=1e-9)
    assert found.relative_residual <= 1


@pytest.mark.parametrize("initial", [None, torch.ones(1, 10, dtype=torch.float64)])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_refused(value: float, initial: Tensor | None) -> None:
    matrix = torch.eye(10, dtype=torch.float64)
    matrix[2, 3] = matrix[3, 2] = value
    with pytest.raises(DataError, match="NaN or infinity"):
        solve(matrix, rows(1, 10), initial=initial)


def test_a_preconditioner_changes_the_path_and_not_the_answer(make_system) -> None:
    system = make_system(300)
    matrix, targets = system.gram + 1e-3 * torch.eye(300, dtype=torch.float64), system.targets.mT.contiguous()
    index = torch.arange(0, 300, 5)
    preconditioner = NystromPreconditioner(lambda some: system.gram[some], index, 1e-3)
    plain, fast = solve(matrix, targets, tol=1e-8), solve(matrix, targets, tol=1e-8, precondition=preconditioner.apply)
    assert fast.n_iter < plain.n_iter / 2
    torch.testing.assert_close(fast.rows, plain.rows, rtol=0, atol=1e-4)
