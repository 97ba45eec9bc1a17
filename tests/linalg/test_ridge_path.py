"""One eigendecomposition gives what a dense solve gives at every alpha."""

from __future__ import annotations

import pytest
import torch

from featlearn.exceptions import DataError
from featlearn.linalg.ridge import RidgePath

ALPHAS = [1e-6, 1e-3, 0.1, 10.0, 1e4]


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_solutions_and_leverages(make_system, alpha: float, weighted: bool) -> None:
    system = make_system()
    weights = system.weights if weighted else None
    path = RidgePath(system.gram, system.targets, weights)
    torch.testing.assert_close(path.solve(alpha), system.dense_solution(alpha, weights), rtol=1e-7, atol=1e-9)
    ridge = alpha / (system.weights if weighted else torch.ones(40, dtype=torch.float64))
    hat = torch.linalg.solve(system.gram + torch.diag(ridge), system.gram, left=False)
    torch.testing.assert_close(path.leverage(alpha), hat.diagonal(), rtol=1e-8, atol=1e-10)
    assert ((path.leverage(alpha) > 0) & (path.leverage(alpha) < 1)).all()


def test_the_matrix_is_read_and_not_kept(make_system) -> None:
    system = make_system(dtype=torch.float32)
    before = system.gram.clone()
    path = RidgePath(system.gram, system.targets, system.weights)
    assert torch.equal(system.gram, before)
    first = path.solve(0.1)
    system.gram.fill_(torch.nan)
    assert torch.equal(path.solve(0.1), first)
    assert first.dtype == path.leave_one_out(0.1).dtype == path.leverage(0.1).dtype == torch.float32
    assert path.eigenvalues.dtype == torch.float64


def test_small_alphas_are_not_lost_in_single_precision(make_system) -> None:
    system = make_system(200, dtype=torch.float32)
    expected = system.dense_solution(1e-5).float()
    torch.testing.assert_close(RidgePath(system.gram, system.targets).solve(1e-5), expected, rtol=1e-5, atol=1e-5)


def test_alpha_zero_is_the_inverse_or_the_pseudo_inverse(make_system) -> None:
    system = make_system(20)
    path = RidgePath(system.gram, system.targets)
    assert not path.is_singular()
    torch.testing.assert_close(path.solve(0.0), torch.linalg.solve(system.gram, system.targets), rtol=1e-9, atol=1e-9)
    rows = torch.cat([torch.arange(20), torch.tensor([7])])
    gram, targets = system.gram[rows][:, rows], system.targets[rows]
    singular = RidgePath(gram, targets)
    assert singular.is_singular()
    expected = torch.linalg.pinv(gram, hermitian=True, rtol=1e-12) @ targets
    torch.testing.assert_close(singular.solve(0.0), expected, rtol=1e-9, atol=1e-9)


def test_an_alpha_below_the_smallest_is_refused_and_one_above_works(make_system) -> None:
    system = make_system(30)
    path = RidgePath(system.gram - 0.5 * torch.eye(30, dtype=torch.float64), system.targets)
    smallest = path.smallest_alpha
    assert smallest == pytest.approx(0.5 - float(torch.linalg.eigvalsh(system.gram)[0]), rel=1e-9)
    with pytest.raises(DataError, match=r"not positive definite with alpha=0.01. Any alpha above"):
        path.solve(0.01)
    with pytest.raises(DataError, match="not positive definite"):
        path.leave_one_out(0.01)
    assert torch.isfinite(path.solve(smallest * 1.001)).all()
    assert RidgePath(system.gram, system.targets).smallest_alpha == 0


@pytest.mark.parametrize("alpha", [-1.0, float("nan"), float("inf")])
def test_bad_alphas_are_refused(make_system, alpha: float) -> None:
    system = make_system(5)
    path = RidgePath(system.gram, system.targets)
    for call in (path.solve, path.leave_one_out, path.leverage):
        with pytest.raises(DataError, match="alpha="):
            call(alpha)


def test_bad_matrices_are_refused(make_system) -> None:
    system = make_system(5)
    with pytest.raises(DataError, match="shape"):
        RidgePath(system.gram[:4], system.targets)
    with pytest.raises(DataError, match="weight 0"):
        RidgePath(system.gram, system.targets, torch.zeros(5))
    gram = system.gram.clone()
    gram[1, 3] = gram[3, 1] = torch.inf
    with pytest.raises(DataError, match="NaN or infinity"):
        RidgePath(gram, system.targets)
