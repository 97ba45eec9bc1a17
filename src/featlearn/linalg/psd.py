"""Positive semi-definite matrices: leading eigenvectors and random rotations."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["fix_signs", "haar_orthogonal", "top_eigenvectors"]


def fix_signs(vectors: Tensor) -> Tensor:
    """Columns with the largest-magnitude entry made positive, so that eigenvectors compare and draw the same way."""
    largest = vectors.abs().argmax(dim=0, keepdim=True)
    return vectors * torch.where(vectors.gather(0, largest) < 0, -1.0, 1.0).to(vectors.dtype)


def top_eigenvectors(matrix: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Largest eigenvalues (top,) and their eigenvectors (d, top) of a symmetric matrix, signs fixed."""
    values, vectors = torch.linalg.eigh(matrix.double())
    return values.flip(0)[:top], fix_signs(vectors.flip(1)[:, :top])


def haar_orthogonal(shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype = torch.float64) -> Tensor:
    """Orthogonal matrices (..., r, r) distributed uniformly (Haar): QR of a Gaussian matrix, signs fixed by diag(R)."""
    q, r = torch.linalg.qr(torch.randn(*shape, generator=generator, dtype=dtype))
    signs = r.diagonal(dim1=-2, dim2=-1).sign()
    return q * torch.where(signs == 0, torch.ones_like(signs), signs).unsqueeze(-2)
