"""Cholesky in place: no copy, K still there, honest failures; and torch's factor, which other devices use, agrees."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from featlearn.exceptions import DataError
from featlearn.linalg import cholesky
from featlearn.linalg.cholesky import CholeskyFactor, ridge_diagonal, solve_cholesky

DTYPES = [torch.float32, torch.float64]
SIZES = [1, 2, 40, 511, 512, 513, 1030]


def tolerance(dtype: torch.dtype) -> float:
    return 1e-3 if dtype == torch.float32 else 1e-11


class OnOtherDevice(CholeskyFactor):
    """As on a device that scipy cannot reach."""

    def __init__(self, gram: torch.Tensor, ridge: torch.Tensor) -> None:
        self.gram, self.diagonal, self.ridge = gram, gram.diagonal().clone(), ridge
        self.in_place = False
        gram.diagonal().add_(ridge)
        self._torch_cholesky()


@pytest.mark.parametrize("kind", [CholeskyFactor, OnOtherDevice])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
def test_solution_residual_and_inverse_diagonal(make_system, n: int, dtype: torch.dtype, kind: type) -> None:
    system = make_system(n, dtype=dtype)
    ridge = ridge_diagonal(0.1, system.weights, system.gram)
    torch.testing.assert_close(ridge, 0.1 / system.weights)
    matrix = (system.gram + torch.diag(ridge)).double()
    work = system.gram.clone()
    factor = kind(work, ridge)
    assert factor.pivot == 0
    dual = factor.solve(system.targets)
    assert dual.is_contiguous()
    exact = torch.linalg.solve(matrix, system.targets.double())
    torch.testing.assert_close(dual.double(), exact, rtol=0, atol=tolerance(dtype))
    assert factor.smallest_pivot() == pytest.approx(
        float(torch.linalg.cholesky(matrix).diagonal().min()) ** 2, rel=1e-3
    )

    wrong = dual + 0.01 * torch.ones_like(dual)
    residual = (system.targets.double() - matrix @ wrong.double()).norm(dim=0) / system.targets.double().norm(dim=0)
    assert factor.relative_residual(wrong, system.targets) == pytest.approx(float(residual.max()), rel=1e-3)
    assert factor.relative_residual(dual, system.targets) < tolerance(dtype)

    diagonal = factor.inverse_diagonal_()
    torch.testing.assert_close(diagonal.double(), torch.linalg.inv(matrix).diagonal(), rtol=0, atol=tolerance(dtype))
    assert torch.equal(factor.restore_(), system.gram)
    assert torch.equal(work, system.gram)


@pytest.mark.parametrize("dtype", DTYPES)
def test_lapack_writes_into_the_matrix_itself(make_system, dtype: torch.dtype) -> None:
    system = make_system(100, dtype=dtype)
    work = system.gram.clone()
    factor = CholeskyFactor(work, ridge_diagonal(0.1, None, work))
    assert np.shares_memory(factor.square, work.numpy())
    assert factor.square.flags.f_contiguous
    expected = torch.linalg.cholesky(system.gram.double() + 0.1 * torch.eye(100, dtype=torch.float64))
    torch.testing.assert_close(work.triu().double(), expected.mT, rtol=0, atol=1e-5)
    assert torch.equal(work.tril(-1), system.gram.tril(-1))


def test_a_matrix_that_lapack_would_copy_is_refused(make_system) -> None:
    gram = make_system(20).gram.repeat_interleave(2, dim=1)[:, ::2]
    with pytest.raises(DataError, match="contiguous"):
        CholeskyFactor(gram, ridge_diagonal(0.1, None, gram))


@pytest.mark.parametrize("pivot", [1, 300, 600])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_failing_pivot_is_named_and_the_matrix_comes_back(make_system, dtype: torch.dtype, pivot: int) -> None:
    gram = make_system(600, dtype=dtype).gram
    gram[pivot - 1, pivot - 1] = -1
    before = gram.clone()
    assert CholeskyFactor(gram, ridge_diagonal(0.1, None, gram)).pivot == pivot
    assert torch.equal(gram, before)


def test_single_precision_is_repeated_in_double_where_it_fails(make_system, monkeypatch: pytest.MonkeyPatch) -> None:
    system = make_system(200, dtype=torch.float32)
    gram = (system.gram.double() @ system.gram.double()).float()  # eigenvalues squared: condition 1e7 and more
    tried = []

    class Recording(CholeskyFactor):
        def __init__(self, gram: torch.Tensor, ridge: torch.Tensor) -> None:
            super().__init__(gram, ridge)
            tried.append((gram.dtype, self.pivot))

    monkeypatch.setattr(cholesky, "CholeskyFactor", Recording)
    options = {"tol": 1e-4, "double": False, "overwrite": False}
    matrix = gram.double() + 1e-4 * torch.eye(200, dtype=torch.float64)
    assert float(torch.linalg.eigvalsh(gram.double())[0]) > -1e-4
    found = solve_cholesky(gram, system.targets, 1e-4, None, **options)
    assert [dtype for dtype, _ in tried] == [torch.float32, torch.float64]
    assert found is not None
    torch.testing.assert_close(matrix @ found.dual, system.targets.double(), rtol=0, atol=1e-6)
    tried.clear()
    assert solve_cholesky(gram, system.targets, 1.0, None, **{**options, "tol": 1e-2}) is not None
    assert tried == [(torch.float32, 0)]
    tried.clear()
    assert solve_cholesky(gram, system.targets, 1.0, None, **{**options, "double": True}) is not None
    assert tried == [(torch.float64, 0)]


@pytest.mark.parametrize("shift", [0.0, 1e-6, 3.0, 1e6])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_alpha_that_an_error_names_works(make_system, shift: float, weighted: bool) -> None:
    system = make_system(40)
    rows = torch.cat([torch.arange(40), torch.arange(10)])
    gram, targets = system.gram[rows][:, rows] - shift * torch.eye(50, dtype=torch.float64), system.targets[rows]
    weights = system.weights[rows] if weighted else None
    options = {"tol": 1e-4, "double": False, "overwrite": False}
    with pytest.raises(DataError, match=r"pivot \d+ of 50") as caught:
        solve_cholesky(gram - 1e-12 * torch.eye(50, dtype=torch.float64), targets, 1e-16, weights, **options)
    named = float(str(caught.value).split("alpha=")[2].split(" works")[0])
    assert 1e-16 < named < 1e3 * max(shift, 1e-11)
    assert (
        solve_cholesky(gram - 1e-12 * torch.eye(50, dtype=torch.float64), targets, named, weights, **options)
        is not None
    )


def test_a_matrix_without_any_positive_alpha_says_so() -> None:
    gram = -torch.eye(3, dtype=torch.float64) * 1e30
    with pytest.raises(DataError, match="is the kernel positive definite"):
        solve_cholesky(gram, torch.ones(3, 1).double(), 1e-3, None, tol=1e-4, double=False, overwrite=False)
