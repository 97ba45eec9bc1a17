r"""More columns than rows: the loop in the span of the training rows, where it is the same and small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..kernels import Kernel, Metric, RadialKernel
from .rules import Part

__all__ = ["Span", "lives_in_the_span"]


def lives_in_the_span(parts: Sequence[Part]) -> bool:
    """Whether all gradients are combinations of training rows and the metric may be any matrix.

    True for one radial kernel with a full metric and no warp.
    """
    return (
        len(parts) == 1 and isinstance(parts[0].kernel, RadialKernel) and parts[0].shape == "full" and not parts[0].warp
    )


class Span:
    r"""Coordinates in the span of the rows of X (n, d), d > n, and the distance from it.

    .. math:: X^\top = Q R, \qquad z \mapsto \big[\, z Q, \; |z - z Q Q^\top| \,\big]

    Distances to training rows are kept exactly. The gradients of an expansion at training rows lie in the span, so
    every learned metric ignores the last coordinate, as the metric over all d columns ignores what it stands for.

    Notes
    -----
    ``2 d n^2`` flops once; a metric has ``n^2`` numbers instead of ``d^2``.
    """

    def __init__(self, x: Tensor) -> None:
        self.basis = torch.linalg.qr(x.mT).Q

    def __call__(self, z: Tensor) -> Tensor:
        """Coordinates (m, n + 1) of rows (m, d); the last is 0 for training rows, up to rounding."""
        inside = z @ self.basis
        outside = (z - inside @ self.basis.mT).norm(dim=1, keepdim=True)
        return torch.cat([inside, outside], dim=1)

    def lift(self, kernel: Kernel) -> Kernel:
        """The same kernel for rows of d columns: its factor becomes (d, k)."""
        if not isinstance(kernel, Metric) or kernel.factor is None:
            return kernel
        return replace(kernel, factor=self.basis @ kernel.factor[:-1])
