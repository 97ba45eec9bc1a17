"""Neural tangent kernel of a ReLU network."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..exceptions import DataError
from .base import Kernel, blocks, check_pair, own_pairs, weighted_sums

__all__ = ["PARALLEL", "ArcCosNTK", "cut_off_activations", "relu_activations"]

PARALLEL = {torch.float32: 1e-6, torch.float64: 1e-12}  # squared sine below which two rows count as parallel


@dataclass(frozen=True)
class ArcCosNTK(Kernel):
    r"""Tangent kernel of an infinitely wide ReLU network without biases.

    .. math:: S = T = x \cdot z; \qquad \text{depth times:} \quad
        \rho = \frac{S}{|x| |z|}, \quad S \leftarrow |x| |z| \, \kappa_1(\rho), \quad
        T \leftarrow S + T \, \kappa_0(\rho); \qquad k(x, z) = T,

    with :math:`\kappa_0 = (\pi - \arccos \rho) / \pi` and
    :math:`\kappa_1 = (\sqrt{1 - \rho^2} + \rho \, (\pi - \arccos \rho)) / \pi`. Homogeneous of degree 1 in each
    argument, so that ``gradient . z = k``.

    Parameters
    ----------
    depth : int, default 1
        Hidden layers.

    Raises
    ------
    DataError
        Unless ``depth`` is an integer of at least 1.

    Notes
    -----
    The library neural-tangents returns this over d. For parallel rows the derivative of ``arccos`` is infinite; it
    counts as 0 there, and so does the whole gradient where a row is 0.
    """

    depth: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.depth, int) or isinstance(self.depth, bool) or self.depth < 1:
            raise DataError(f"Got depth={self.depth!r}, but expected an integer of at least 1.")

    def definition(self, x: Tensor, z: Tensor) -> Tensor:
        """The recursion, with the derivative of ``arccos`` cut off where rows are parallel."""
        norm, blank = _norm_product(x, z)
        s = t = x @ z.mT
        for _ in range(self.depth):
            k0, k1 = cut_off_activations(s / norm)
            s = norm * k1
            t = s + t * k0
        return t.masked_fill(blank, 0)

    def _matrix(self, x: Tensor, z: Tensor) -> Tensor:
        out = x.new_empty(len(x), len(z))
        for rows, columns in blocks(len(x), len(z)):
            norm, blank = _norm_product(x[rows], z[columns])
            s = t = x[rows] @ z[columns].mT
            for _ in range(self.depth):
                k0, k1, _ = relu_activations((s / norm).clamp_(-1, 1))
                s = k1.mul_(norm)
                t = torch.addcmul(s, t, k0)
            out[rows, columns] = t.masked_fill_(blank, 0)
        return out

    def diagonal(self, x: Tensor) -> Tensor:
        """``(depth + 1) |x|^2``, which rounding in ``arccos`` would miss."""
        return (self.depth + 1) * x.square().sum(dim=1)

    @torch.no_grad()
    def expansion_gradient(self, x: Tensor, z: Tensor, dual: Tensor, *, rows: Tensor | None = None) -> Tensor:
        """Gradients (m, C, d) of a kernel expansion, as :meth:`Kernel.expansion_gradient`.

        Notes
        -----
        ``2 m n d (C + 1)`` flops and ``depth`` arcus cosines a pair; holds blocks only.
        """
        check_pair(x, z, dual, rows)
        gradients = z.new_zeros(len(z), dual.shape[1], z.shape[1])
        for part, columns in blocks(len(z), len(x)):
            own = None if rows is None else own_pairs(rows[part], columns)
            along_x, along_z = self._slopes(z[part], x[columns], own)
            gradients[part] += weighted_sums(along_x, dual[columns], x[columns])
            gradients[part] += (along_z @ dual[columns])[..., None] * z[part, None]
        return gradients

    def _slopes(self, z: Tensor, x: Tensor, own: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """P and Q (m, n) with ``d k(x_i, z_j) / d z_j = P_ji x_i + Q_ji z_j``: the recursion in reverse."""
        norm, blank = _norm_product(z, x)
        ratio = (norm / z.square().sum(dim=1)[:, None]).masked_fill_(blank, 0)  # |x| / |z|
        s = z @ x.mT
        if own is not None:
            s[own] = norm[own]  # exactly parallel, which rounding would miss
        t = s
        layers = []
        for _ in range(self.depth):
            rho = (s / norm).clamp_(-1, 1)
            k0, k1, sine = relu_activations(rho)
            k0_slope = (1 / (math.pi * sine)).masked_fill_(sine.square() < PARALLEL[x.dtype], 0)
            layers.append((rho, k0, sine, t * k0_slope))
            s = norm * k1
            t = torch.addcmul(s, t, k0)
        by_s, by_t, by_b = torch.zeros_like(s), torch.ones_like(s), torch.zeros_like(s)
        for rho, k0, sine, t_slope in reversed(layers):
            by_n = by_s + by_t
            # b is the squared norm of z.
            by_b += by_n * ratio * sine / (2 * math.pi) - by_t * t_slope * rho * ratio / (2 * norm)
            by_s = by_n * k0 + by_t * t_slope / norm
            by_t = by_t * k0
        return (by_s + by_t).masked_fill_(blank, 0), by_b.mul_(2).masked_fill_(blank, 0)


def _norm_product(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """``|x_i| |z_j|`` (1 where it is 0), and where it is 0."""
    product = x.square().sum(dim=1)[:, None] * z.square().sum(dim=1)
    blank = product == 0
    return torch.where(blank, 1.0, product).sqrt(), blank


def relu_activations(rho: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``kappa_0``, ``kappa_1`` and ``sqrt(1 - rho^2)``."""
    sine = ((1 - rho) * (1 + rho)).sqrt()
    rest = math.pi - rho.acos()
    return rest / math.pi, torch.addcmul(sine, rho, rest) / math.pi, sine


def cut_off_activations(rho: Tensor) -> tuple[Tensor, Tensor]:
    """``kappa_0`` and ``kappa_1``; for parallel rows with slopes 0 and kappa_0 instead of an infinite one."""
    exact = rho.detach().clamp(-1, 1)
    k0, k1, sine = relu_activations(exact)
    parallel = sine.square() < PARALLEL[rho.dtype]
    inside0, inside1, _ = relu_activations(torch.where(parallel, 0.0, rho))
    return torch.where(parallel, k0, inside0), torch.where(parallel, k1 + k0 * (rho - exact), inside1)
