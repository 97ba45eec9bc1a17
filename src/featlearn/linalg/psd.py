"""Positive semi-definite matrices: congruence, leading eigenvectors and random rotations."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["congruence", "congruent_eigenvalues", "fix_signs", "haar_orthogonal", "top_eigenvectors"]

STRIP = 512  # columns made at once, where half of a symmetric product can be saved


def congruence(weight: Tensor, kernel: Tensor) -> Tensor:
    """``W^T K W`` of shape (..., d, d) for W (..., k, d) and symmetric K (..., k, k), exactly symmetric.

    Costs ``k d^2 + 2 k^2 d`` flops for d well above 512: only the upper half is multiplied.
    """
    right = kernel @ weight
    d = weight.shape[-1]
    product = torch.empty(*weight.shape[:-2], d, d, dtype=right.dtype, device=right.device)
    for start in range(0, d, STRIP):
        stop = min(start + STRIP, d)
        product[..., start:stop, start:] = weight[..., start:stop].mT @ right[..., start:]
        product[..., stop:, start:stop] = product[..., start:stop, stop:].mT
        square = product[..., start:stop, start:stop]
        square.copy_((square + square.mT) / 2)
    return product


def congruent_eigenvalues(weight: Tensor, kernel: Tensor) -> Tensor:
    """Eigenvalues (..., d) of ``W^T K W``, ascending, K positive semi-definite; from a k x k matrix where k < d."""
    k, d = weight.shape[-2:]
    if d <= k:
        return torch.linalg.eigvalsh(congruence(weight, kernel))
    values, vectors = torch.linalg.eigh(kernel)
    root = vectors * values.clamp_min(0).sqrt().unsqueeze(-2)
    small = torch.linalg.eigvalsh(root.mT @ (weight @ weight.mT) @ root)
    return torch.cat([small.new_zeros(*small.shape[:-1], d - k), small], dim=-1)


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
