r"""Ridge regression on the kernel functions of p landmarks (Nystrom), for many alphas, with leave-one-out residuals."""

from __future__ import annotations

import torch
from torch import Tensor

from ..exceptions import DataError
from .gram import check_alpha, check_weights

__all__ = ["LandmarkPath"]

ROWS = 4096  # rows in double precision at once


class LandmarkPath:
    r"""``f = K_np theta`` with the ridge of the kernel's own norm, for any alpha.

    .. math::

        \min_\theta \; \sum_i w_i |y_i - (K_{np} \theta)_i|^2 + \alpha \, \theta^\top K_{pp} \theta, \qquad
        K_{pp} = U \operatorname{diag}(e) U^\top, \quad \Phi = K_{np} U e^{-1/2}, \quad
        \Phi^\top W \Phi = V \operatorname{diag}(g) V^\top

    Parameters
    ----------
    gram : Tensor of shape (p, p)
        ``K_pp``.
    cross : Tensor of shape (n, p)
        ``K_np``; **workspace**: it holds ``Phi V`` afterwards.
    targets : Tensor of shape (n, C)
    weights : Tensor of shape (n,), optional
        Positive.

    Attributes
    ----------
    rank : int
        Directions of ``K_pp`` that were kept: those above the rounding of its entries, taken as 16 units of their
        precision times its largest diagonal entry; p x p independent errors of that size have a norm of
        ``32 sqrt(p)`` units. (A bound of p units times the largest eigenvalue would drop most of a thousand
        landmarks in single precision.)

    Raises
    ------
    DataError
        For shapes that do not fit, values that are not finite, or weights that are not positive.

    Notes
    -----
    ``4 n p^2`` flops, half of them in double precision: a single-precision Gram matrix is not positive definite in
    practice. ``18 p^3`` for the two eigendecompositions. Every alpha costs ``2 n p`` more for leave-one-out residuals.

    Examples
    --------
    >>> import torch
    >>> gram = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    >>> path = LandmarkPath(gram, gram.clone(), torch.tensor([[1.0], [0.0]]))  # all rows are landmarks: plain ridge
    >>> path.solve(1.0)
    tensor([[ 0.3750],
            [-0.1250]])
    """

    def __init__(self, gram: Tensor, cross: Tensor, targets: Tensor, weights: Tensor | None = None) -> None:
        n, p = len(targets), len(gram)
        if targets.dim() != 2 or gram.shape != (p, p) or cross.shape != (n, p) or not p:
            raise DataError(
                f"Got shapes {tuple(gram.shape)}, {tuple(cross.shape)} and {tuple(targets.shape)}, but expected "
                "(p, p), (n, p) and (n, C)."
            )
        check_weights(weights, n)
        if not (torch.isfinite(gram.sum()) and torch.isfinite(cross.sum()) and torch.isfinite(targets).all()):
            raise DataError("Got a kernel matrix or targets with NaN or infinity, but expected finite numbers.")
        self.targets = targets
        self.weights = torch.ones_like(targets[:, 0]) if weights is None else weights.to(targets)
        values, vectors = torch.linalg.eigh(gram.double())
        rounding = 32 * p**0.5 * torch.finfo(gram.dtype).eps * gram.diagonal().max()
        kept = values > torch.maximum(rounding.to(values), p * torch.finfo(values.dtype).eps * values[-1])
        self.rank = int(kept.sum())
        whitening = vectors[:, kept] / values[kept].sqrt()
        square = torch.zeros(self.rank, self.rank, dtype=torch.float64, device=gram.device)
        features = cross[:, : self.rank]
        for rows in self._parts():
            block = cross[rows].double() @ whitening
            square.addmm_(block.mT * self.weights[rows].double(), block)
            features[rows] = block.to(cross)
        self._values, rotation = torch.linalg.eigh(square)
        self._whitening = whitening @ rotation
        single = rotation.to(cross)
        for rows in self._parts():
            features[rows] = features[rows] @ single
        self._features = features
        self._projected = features.double().mT @ (self.weights[:, None] * targets).double()

    def _parts(self) -> list[slice]:
        n = len(self.targets)
        return [slice(start, min(start + ROWS, n)) for start in range(0, n, ROWS)]

    def solve(self, alpha: float) -> Tensor:
        """Coefficients theta (p, C)."""
        return (self._whitening @ self._shrunk(alpha)).to(self.targets)

    def residuals(self, alpha: float) -> Tensor:
        """``Y - f`` (n, C)."""
        return self.targets - self._features @ self._shrunk(alpha).to(self.targets)

    def leave_one_out(self, alpha: float) -> Tensor:
        r"""Residuals (n, C) of n refits that each leave one row out, landmarks and kernel fixed.

        .. math:: \frac{(y - f)_i}{1 - H_{ii}}, \qquad H = \Phi (\Phi^\top W \Phi + \alpha I)^{-1} \Phi^\top W
        """
        inverse = (1 / (self._values.clamp_min(0) + check_alpha(alpha))).to(self.targets)
        leverage = torch.cat([self._features[rows].square() @ inverse for rows in self._parts()]) * self.weights
        return self.residuals(alpha) / (1 - leverage)[:, None]

    def _shrunk(self, alpha: float) -> Tensor:
        if check_alpha(alpha) == 0:
            raise DataError("Got alpha=0, but expected alpha > 0 with landmarks.")
        return self._projected / (self._values.clamp_min(0) + alpha)[:, None]
