"""Kernels that are quadratic in each argument."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..exceptions import DataError
from .base import Kernel, check_pair

__all__ = ["QuadraticKernel"]


@dataclass(frozen=True)
class QuadraticKernel(Kernel):
    r"""Squared inner product, and its generalisation by norms.

    .. math:: k(x, z) = (x \cdot z)^2 \; \Big[ + \tfrac{1}{2} (|x|^2 - 1)(|z|^2 - 1) \Big], \qquad
        \nabla_z k = 2 (x \cdot z) \, x \; \Big[ + (|x|^2 - 1) \, z \Big]

    Parameters
    ----------
    general : bool, default False
        Whether to add the term in brackets.

    Raises
    ------
    DataError
        Unless ``general`` is a bool.

    Notes
    -----
    A predictor is a quadratic form, ``f_c(z) = z H_c z^T / 2 + const`` (:meth:`hessian`), so gradients need no kernel
    values. Together with a metric, "norm" and inner product are those of the metric.
    """

    general: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.general, bool):
            raise DataError(f"Got general={self.general!r}, but expected True or False.")

    def definition(self, x: Tensor, z: Tensor) -> Tensor:
        """The formula."""
        values = (x @ z.mT) ** 2
        if self.general:
            values = values + _excess(x)[:, None] * _excess(z) / 2
        return values

    def _matrix(self, x: Tensor, z: Tensor) -> Tensor:
        values = torch.mm(x, z.mT).square_()
        return values.addr_(_excess(x), _excess(z), alpha=0.5) if self.general else values

    def diagonal(self, x: Tensor) -> Tensor:
        """``|x|^4``, and half the squared excess of the norm."""
        excess = _excess(x)
        values = (excess + 1) ** 2
        return values + excess**2 / 2 if self.general else values

    def hessian(self, x: Tensor, dual: Tensor) -> Tensor:
        r"""Second derivative of one output of a kernel expansion; its gradient at z is ``z H``.

        .. math:: H = 2 X^\top \operatorname{diag}(\beta) X \; \Big[ + \sum_i \beta_i (|x_i|^2 - 1) \, I \Big]

        Parameters
        ----------
        x : Tensor of shape (n, d)
        dual : Tensor of shape (n,)

        Returns
        -------
        Tensor of shape (d, d)
            Symmetric. Costs ``2 n d^2`` flops.
        """
        hessian = 2 * x.mT @ (dual[:, None] * x)
        if self.general:
            hessian.diagonal().add_(dual @ _excess(x))
        return hessian

    @torch.no_grad()
    def expansion_gradient(self, x: Tensor, z: Tensor, dual: Tensor, *, rows: Tensor | None = None) -> Tensor:
        """Gradients (m, C, d) of a kernel expansion, as :meth:`Kernel.expansion_gradient`.

        Notes
        -----
        ``2 C d^2 (n + m)`` flops without any kernel values; with fewer points than coordinates ``2 C m n d`` from them.
        """
        check_pair(x, z, dual, rows)
        columns = dual.mT.unbind()
        if len(z) >= x.shape[1]:
            return torch.stack([z @ self.hessian(x, column) for column in columns], dim=1)
        products = 2 * z @ x.mT
        gradients = torch.stack([products @ (column[:, None] * x) for column in columns], dim=1)
        if self.general:
            gradients.addcmul_((dual.mT @ _excess(x))[:, None], z[:, None])
        return gradients


def _excess(x: Tensor) -> Tensor:
    return x.square().sum(dim=1) - 1
