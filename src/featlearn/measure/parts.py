r"""Where the ansatz comes from: initial and learned weights, shared directions and shared sizes.

With ``M = W W^T``, the cosine of ``F = W^T W`` with ``G = W^T K W`` needs no input-space matrix:

.. math:: \frac{\langle F, G \rangle}{\|F\| \|G\|} = \frac{\mathrm{tr}\, M^2 K}{\|M\| \sqrt{\mathrm{tr}\, K M K M}}
    = \cos(M,\; M^{1/2} K M^{1/2}),

the alignment of the weights' left singular structure with the tangent kernel, seen through the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .alignment import Aligned
from .coordinates import Factors

__all__ = ["AlignmentParts", "alignment_parts"]

NAN = float("nan")
SAME = 1e-5  # relative distance below which neighbouring singular values count as one
CERTAIN = 1 - 1e-6  # a chance level above this leaves no room for an excess


@dataclass(frozen=True, kw_only=True)
class AlignmentParts:
    r"""The cosine ansatz at power 1 as a sum over initial and learned weights, and as a product of two cosines.

    A part that was not asked for is ``None``; all are nan where the cosine itself is.

    Attributes
    ----------
    initial, mixed, learned : float or None
        With ``W = W_0 + D``, F and G are sums of three matrices each: of ``W_0`` alone, of ``D`` alone, of both. K is
        at the current weights. Of the nine inner products over ``||F|| ||G||``, ``initial`` is that of the two matrices
        of ``W_0``, ``learned`` that of the two of ``D``, ``mixed`` the other seven. They sum to the cosine (need
        ``reference=``).
    weight_kernel, weight_kernel_null : float
        ``cos(M, K)`` inside the column space of W, which is all of output space for a weight of full rank and
        ``k <= d``; and its mean over random rotations of K there, ``tr M tr K / (r ||M|| ||K||)``. nan where the
        rank of W could not be told.
    directional, spectral : float or None
        Their product is the cosine. In the basis of W's left singular vectors, with singular values s,
        ``directional`` is :math:`\sqrt{\sum_i s_i^4 K_{ii}^2 / \sum_{ij} s_i^2 s_j^2 K_{ij}^2}`, 1 when W and K share
        directions, and ``spectral`` is :math:`\sum_i s_i^4 K_{ii} / (\|s^2\| \sqrt{\sum_i s_i^4 K_{ii}^2})`, 1 when K
        weighs all of W's directions equally. Where singular values are equal, the basis is the one that diagonalises K
        (need spectra).
    """

    initial: float | None = None
    mixed: float | None = None
    learned: float | None = None
    weight_kernel: float = NAN
    weight_kernel_null: float = NAN
    directional: float | None = None
    spectral: float | None = None

    @property
    def weight_kernel_excess(self) -> float:
        """``(weight_kernel - null) / (1 - null)``; nan where chance is already 1."""
        null = self.weight_kernel_null
        return (self.weight_kernel - null) / (1 - null) if null <= CERTAIN else NAN

    def to_dict(self) -> dict[str, float]:
        """Plain numbers; what was not asked for is left out, since JSON knows one null only."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> AlignmentParts:
        """Inverse of :meth:`to_dict`; ``None`` (JSON has no nan) reads as nan."""
        return cls(**{key: NAN if value is None else value for key, value in plain.items()})


def alignment_parts(
    whole: Aligned,
    factors: Factors | None,
    kernel: Tensor,
    reference: Tensor | None,
    change: Aligned | None,
) -> AlignmentParts:
    """Parts of the cosine of one weight with one kernel.

    Parameters
    ----------
    whole, change : Aligned
        Of W, and of ``D = W - W_0`` (``None`` without a reference), with the same kernel.
    factors : Factors or None
        Of W; ``None`` leaves ``directional`` and ``spectral`` out.
    kernel : Tensor of shape (groups, k, k)
        K, in its coordinates.
    reference : Tensor of shape (groups, k, d) or None
        ``W_0``, in the same coordinates.

    Returns
    -------
    AlignmentParts
        With random probes, ``||G||`` is the debiased one of the report, so that the parts still make up the reported
        cosine; ``directional`` can then exceed 1 by their noise.

    Notes
    -----
    ``2 k^2 d + 2 k^3`` flops: ``W_0 W_0^T`` and its product with K. What W and D give is known already.
    """
    cosine = whole.at(1.0, "cosine").value
    norms = whole.norms[0] * whole.norms[1]
    defined = math.isfinite(cosine) and norms > 0
    initial = mixed = learned = directional = spectral = None
    if reference is not None and change is not None:
        initial = _inner(reference, kernel) / norms if defined else NAN
        learned = change.inner / norms if defined else NAN
        mixed = cosine - initial - learned
    if factors is not None:
        directional = spectral = NAN
        if defined:
            directional, spectral = _directional_and_spectral(factors.s, whole)
    return AlignmentParts(
        initial=initial,
        mixed=mixed,
        learned=learned,
        weight_kernel=whole.weight_kernel[0],
        weight_kernel_null=whole.weight_kernel[1],
        directional=directional,
        spectral=spectral,
    )


def _inner(weight: Tensor, kernel: Tensor) -> float:
    """``tr (W W^T)^2 K``, scaled so that float32 holds it."""
    weight = weight.to(kernel)
    of_weight = float(weight.abs().amax()) or 1.0
    of_kernel = float(kernel.diagonal(dim1=-2, dim2=-1).amax()) or 1.0
    weight = weight / of_weight
    gram = weight @ weight.mT
    return float((gram @ (kernel / of_kernel) * gram).sum()) * of_weight**4 * of_kernel


def _directional_and_spectral(s: Tensor, whole: Aligned) -> tuple[float, float]:
    squares, reduced = s.double().cpu() ** 2, whole.reduced.double().cpu()
    diagonals = [_own_diagonal(one, kernel) for one, kernel in zip(s.double().cpu(), reduced, strict=True)]
    scaled = squares * torch.stack(diagonals)
    norm = float((scaled**2).sum().sqrt())
    spectral = float((squares * scaled).sum()) / (whole.norms[0] * norm)
    return norm / whole.norms[1], spectral


def _own_diagonal(s: Tensor, kernel: Tensor) -> Tensor:
    """Diagonal of K in the left singular basis that diagonalises it wherever singular values are equal.

    Any basis of such a block is one of singular vectors; this one makes the factors functions of W and K alone, and
    ``directional`` the largest that any of them gives.
    """
    diagonal = kernel.diagonal().clone()
    breaks = (s[:-1] - s[1:] > SAME * s[:-1]).nonzero().flatten() + 1
    edges = [0, *breaks.tolist(), len(s)]
    for start, stop in pairwise(edges):
        if stop - start > 1 and s[start] > 0:
            diagonal[start:stop] = torch.linalg.eigvalsh(kernel[start:stop, start:stop])
    return diagonal
