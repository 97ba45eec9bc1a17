"""The preconditioner is the inverse of a matrix that can be written down, and makes the system well conditioned."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featlearn.exceptions import DataError
from featlearn.linalg.nystrom import NystromPreconditioner


def rows_of(gram: torch.Tensor):
    return lambda index: gram[index]


@settings(deadline=None, max_examples=20)
@given(n=st.integers(2, 40), seed=st.integers(0, 10), alpha=st.sampled_from([0.0, 1e-3, 1.0]), data=st.data())
def test_it_inverts_the_nystrom_matrix_up_to_scale(n: int, seed: int, alpha: float, data: st.DataObject) -> None:
    """With N = K_:P (K_PP + jitter)^-1 K_P:, of smallest kept eigenvalue l: P (l + alpha) = N + alpha I on the range of
    N, and (l + alpha) I off it.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    gram = torch.exp(-torch.cdist(x, x))
    p = data.draw(st.integers(1, n))
    index = torch.randperm(n, generator=generator)[:p]
    preconditioner = NystromPreconditioner(rows_of(gram), index, alpha)
    square = gram[index][:, index]
    square = square + 1e-7 * square.trace() * torch.eye(p, dtype=torch.float64)
    nystrom = gram[:, index] @ torch.linalg.solve(square, gram[index])
    values, vectors = preconditioner.eigenvalues, preconditioner.vectors
    torch.testing.assert_close(values, torch.linalg.eigvalsh(nystrom).flip(0)[: len(values)], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(vectors @ vectors.mT, torch.eye(len(values), dtype=torch.float64), rtol=0, atol=1e-6)
    inverse = preconditioner.apply(torch.eye(n, dtype=torch.float64))
    off = torch.eye(n, dtype=torch.float64) - vectors.mT @ vectors
    matrix = nystrom + alpha * (torch.eye(n, dtype=torch.float64) - off) + (values[-1] + alpha) * off
    torch.testing.assert_close(
        inverse @ matrix, (values[-1] + alpha) * torch.eye(n, dtype=torch.float64), rtol=0, atol=1e-5
    )


def test_all_rows_make_the_system_the_identity(make_system) -> None:
    gram = make_system(60).gram
    preconditioner = NystromPreconditioner(rows_of(gram), torch.arange(60), 0.1)
    product = preconditioner.apply(gram + 0.1 * torch.eye(60, dtype=torch.float64))
    torch.testing.assert_close(product / product[0, 0], torch.eye(60, dtype=torch.float64), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("stretch", [1.0, 100.0])
def test_single_precision_stays_positive_definite(make_system, dtype: torch.dtype, stretch: float) -> None:
    """A nearly constant kernel has one huge eigenvalue, which rounding must not turn over."""
    gram = (make_system(300).gram.log() / stretch).exp().to(dtype)
    preconditioner = NystromPreconditioner(rows_of(gram), torch.arange(0, 300, 7), 1e-3)
    assert preconditioner.vectors.dtype == dtype
    assert preconditioner.eigenvalues.dtype == torch.float64
    inverse = preconditioner.apply(torch.eye(300, dtype=dtype)).double()
    eigenvalues = torch.linalg.eigvalsh((inverse + inverse.mT) / 2)
    assert float(eigenvalues[0]) > -1e-6
    assert float(eigenvalues[-1]) == pytest.approx(1, abs=1e-5)
    matrix = gram.double() + 1e-3 * torch.eye(300, dtype=torch.float64)
    if dtype == torch.float64:
        before = torch.linalg.cond(matrix)
        root = torch.linalg.cholesky(inverse)
        assert torch.linalg.cond(root.mT @ matrix @ root) < before / 10


def test_equal_rows_are_no_obstacle(make_system) -> None:
    gram = make_system(30).gram
    index = torch.cat([torch.arange(30), torch.arange(30)])
    double = gram[index][:, index]
    preconditioner = NystromPreconditioner(rows_of(double), torch.arange(60), 0.1)
    assert len(preconditioner.eigenvalues) == 30
    inverse = preconditioner.apply(torch.eye(60, dtype=torch.float64))
    assert float(torch.linalg.eigvalsh((inverse + inverse.mT) / 2)[0]) > 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -5.0])
def test_bad_rows_are_refused(make_system, value: float) -> None:
    gram = make_system(30).gram
    gram[4, 4] = value
    with pytest.raises(DataError, match="sampled rows are not positive definite or not finite"):
        NystromPreconditioner(rows_of(gram), torch.arange(10), 0.1)
