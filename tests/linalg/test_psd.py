"""Leading eigenvectors with fixed signs, and uniformly distributed rotations."""

from __future__ import annotations

import math

import pytest
import torch
from cases import normal

from featlearn.linalg.psd import congruence, congruent_eigenvalues, fix_signs, haar_orthogonal, top_eigenvectors


def psd(d: int, seed: int = 1) -> torch.Tensor:
    root = normal(d, d, seed=seed)
    return root @ root.mT


@pytest.mark.parametrize("top", [1, 3, 6, 10])
def test_top_eigenvectors_are_the_largest_ones(top: int) -> None:
    matrix = psd(6)
    values, vectors = top_eigenvectors(matrix, top)
    kept = min(top, 6)
    assert values.shape == (kept,)
    assert vectors.shape == (6, kept)
    torch.testing.assert_close(values, torch.linalg.eigvalsh(matrix).flip(0)[:kept])
    torch.testing.assert_close(matrix @ vectors, vectors * values)
    torch.testing.assert_close(vectors.mT @ vectors, torch.eye(kept, dtype=torch.float64))


def test_single_precision_is_decomposed_in_double() -> None:
    values, vectors = top_eigenvectors(psd(5).float(), 2)
    assert values.dtype == vectors.dtype == torch.float64


def test_signs_make_the_largest_entry_positive() -> None:
    vectors = normal(5, 4)
    fixed = fix_signs(vectors)
    assert torch.equal(fixed.abs(), vectors.abs())
    for column in fixed.mT:
        assert float(column[column.abs().argmax()]) > 0
    assert torch.equal(fix_signs(-vectors), fixed)
    assert torch.equal(fix_signs(vectors * torch.tensor([-1.0, 1.0, -1.0, 1.0])), fixed)
    assert torch.equal(fix_signs(torch.zeros(3, 2)), torch.zeros(3, 2))
    assert fix_signs(vectors.float()).dtype == torch.float32


def test_rotations_are_orthogonal_and_reproducible() -> None:
    drawn = haar_orthogonal((7, 5, 5), torch.Generator().manual_seed(3))
    assert drawn.dtype == torch.float64
    torch.testing.assert_close(drawn @ drawn.mT, torch.eye(5, dtype=torch.float64).expand(7, -1, -1))
    assert torch.equal(drawn, haar_orthogonal((7, 5, 5), torch.Generator().manual_seed(3)))
    assert not torch.allclose(drawn, haar_orthogonal((7, 5, 5), torch.Generator().manual_seed(4)))
    assert haar_orthogonal((2, 2), torch.Generator(), torch.float32).dtype == torch.float32


@pytest.mark.parametrize("r", [1, 2, 3, 6])
def test_rotations_have_the_moments_of_haar(r: int) -> None:
    """E o = 0, E o^2 = 1/r, E o^4 = 3 / (r (r + 2)), and both determinants are as likely; without fixed signs of R the
    first column would not be uniform.
    """
    draws = 20_000
    o = haar_orthogonal((draws, r, r), torch.Generator().manual_seed(0))
    for moment, expected in ((1, 0.0), (2, 1 / r), (4, 3 / (r * (r + 2)))):
        mean = (o**moment).mean(dim=0)
        deviation = (o**moment).std(dim=0) / math.sqrt(draws) + 1e-12
        assert float(((mean - expected).abs() / deviation).max()) < 5
    signs = torch.linalg.det(o).sign().mean()
    assert abs(float(signs)) < 5 / math.sqrt(draws)


@pytest.mark.parametrize(("k", "d"), [(3, 5), (5, 3), (4, 4), (3, 1030)])
def test_congruence_is_the_triple_product(k: int, d: int) -> None:
    generator = torch.Generator().manual_seed(k * d)
    weight = torch.randn(2, k, d, generator=generator, dtype=torch.float64)
    root = torch.randn(2, k, k - 1, generator=generator, dtype=torch.float64)
    kernel = root @ root.mT
    expected = torch.einsum("gik,gij,gjl->gkl", weight, kernel, weight)
    product = congruence(weight, kernel)
    torch.testing.assert_close(product, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(product, product.mT)
    eigenvalues = torch.linalg.eigvalsh(expected)
    torch.testing.assert_close(congruent_eigenvalues(weight, kernel), eigenvalues, rtol=1e-10, atol=1e-10 * d)
