r"""AGOP of a kernel expansion, from gradients in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..exceptions import DataError
from ..kernels import Kernel, Metric, QuadraticKernel, RadialKernel
from ..kernels.base import blocks_below

__all__ = ["KernelAGOP", "agop_of_expansion", "combine_gradients", "gradients_from_gram", "principal_outputs"]

SLAB = 2**26  # bytes of gradients held at once


@dataclass(frozen=True)
class KernelAGOP:
    """AGOP of a kernel expansion and how well it is known.

    Attributes
    ----------
    matrix : Tensor of shape (d, d) or (d,)
        The AGOP, or its diagonal; in (output units / input unit)^2.
    standard_error : float
        Of the Frobenius norm, relative to it: what a random draw of the points contributes. 0 if all rows were used.
    n_points : int
        Points at which gradients were taken.
    rank_outputs : int
        Combinations of outputs whose gradients were taken.
    """

    matrix: Tensor
    standard_error: float
    n_points: int
    rank_outputs: int


def principal_outputs(dual: Tensor, tolerance: float = 1e-6) -> Tensor:
    r"""Fewer outputs with the same AGOP: (n, r) from dual coefficients (n, C).

    The AGOP depends on the coefficients only through :math:`\beta \beta^\top = (\beta V)(\beta V)^\top`, with the
    orthonormal eigenvectors V of :math:`\beta^\top \beta`. Those of a singular value below ``tolerance`` times the
    first are dropped. Centred one-hot targets of K classes have rank K - 1. ``2 n C^2`` flops.
    """
    if dual.shape[1] == 1:
        return dual
    double = dual.double()
    values, vectors = torch.linalg.eigh(double.mT @ double)
    return (double @ vectors[:, values > tolerance**2 * values[-1]]).to(dual)


def agop_of_expansion(
    kernel: Kernel,
    factor: Tensor | None,
    x: Tensor,
    dual: Tensor,
    points: Tensor,
    *,
    rows: Tensor | None = None,
    center: bool = False,
    diagonal: bool = False,
    blocks: Sequence[Tensor] | None = None,
    weights: Tensor | None = None,
    gram: Tensor | None = None,
    tolerance: float = 1e-6,
) -> KernelAGOP:
    r"""AGOP of ``f_o(z) = sum_i dual_io k(x_i A, z A)``: mean over points, sum over outputs.

    .. math:: G = \frac{1}{m} \sum_{j=1}^{m} \sum_o \nabla f_o(z_j)^\top \nabla f_o(z_j)

    Parameters
    ----------
    kernel : Kernel
    factor : Tensor of shape (d, k) or (d,), optional
        A of the metric; None where the kernel already has one.
    x : Tensor of shape (n, d)
        Training rows, not multiplied by the factor.
    dual : Tensor of shape (n, C)
    points : Tensor of shape (m, d)
    rows : Tensor of shape (m,), int64, optional
        The row of ``x`` that each point is. Those terms count as 0 where the kernel has no gradient.
    center : bool, default False
        Subtract each output's mean gradient.
    diagonal : bool, default False
        Only the diagonal, (d,).
    blocks : sequence of int64 Tensors, optional
        Index blocks; entries outside of all are 0.
    weights : Tensor of shape (m,), optional
        The mean over points becomes the weighted mean.
    gram : Tensor of shape (n, n), optional
        The kernel matrix of ``x``, where the points are all of its rows in order: radial kernels then read the
        distances off it, each pair once.
    tolerance : float, default 1e-6
        Of :func:`principal_outputs`.

    Returns
    -------
    KernelAGOP

    Raises
    ------
    DataError
        For no points, or weights that do not fit.

    Notes
    -----
    ``2 m n k r`` flops for radial kernels, r the rank of ``dual``; memory is 64 MB of gradients. A quadratic kernel
    has gradients that are linear in z, so its AGOP takes ``r (n d^2 + d^3)`` flops and no pairs at all. The points are
    taken to be drawn without replacement from n rows in the standard error.

    References
    ----------
    Radhakrishnan, Beaglehole, Pandit, Belkin (2024), Science 383; arXiv:2212.13881.
    """
    if len(points) == 0:
        raise DataError("Got no points, but expected at least one to take gradients at.")
    if weights is not None and (weights.shape != points.shape[:1] or not bool(weights.sum() > 0)):
        raise DataError(f"Got weights {tuple(weights.shape)}, but expected ({len(points)},) with a positive sum.")
    outputs = principal_outputs(dual, tolerance)
    share = torch.full_like(points[:, 0], 1 / len(points)) if weights is None else weights.to(points) / weights.sum()
    if isinstance(kernel, QuadraticKernel) and not diagonal:
        matrix = _quadratic(kernel, factor, x, outputs, points, share, center)
        return KernelAGOP(_only(matrix, blocks), math.nan, len(points), outputs.shape[1])
    kernel = kernel if factor is None else Metric(kernel, factor)
    whole = None if gram is None or len(points) != len(x) else gradients_from_gram(kernel, gram, x, outputs)
    slab = max(1, SLAB // max(1, outputs.shape[1] * x.shape[1] * x.element_size()))
    total = x.new_zeros(x.shape[1], dtype=torch.float64) if diagonal else x.new_zeros(x.shape[1], x.shape[1])
    means = x.new_zeros(outputs.shape[1], x.shape[1])
    fourth = 0.0
    for start in range(0, len(points), slab):
        part = slice(start, start + slab)
        own = None if rows is None else rows[part]
        gradients = whole[part] if whole is not None else kernel.expansion_gradient(x, points[part], outputs, rows=own)
        weighted = gradients * share[part, None, None]
        means += weighted.sum(dim=0)
        if diagonal:
            total += (weighted * gradients).sum(dim=(0, 1))
        else:
            total.addmm_(weighted.flatten(end_dim=1).mT, gradients.flatten(end_dim=1))
        fourth += float((share[part] * (gradients @ gradients.mT).square().sum(dim=(1, 2))).sum())
    if center:
        total -= means.square().sum(dim=0) if diagonal else means.mT @ means
    size = float(total.double().square().sum())
    spread = max(fourth - size, 0.0) / max(1, len(points) - 1) * max(0.0, 1 - len(points) / len(x))
    error = math.sqrt(spread / size) if size > 0 and not (center or diagonal) else (0.0 if spread == 0 else math.nan)
    return KernelAGOP(_only(total.to(x.dtype), blocks), error, len(points), outputs.shape[1])


def gradients_from_gram(kernel: Kernel, gram: Tensor, x: Tensor, outputs: Tensor) -> Tensor | None:
    """Gradients (n, r, d) at the training rows from their kernel matrix, which is left as it is.

    None where the kernel is not a radial one, perhaps with a factor around it.
    """
    metric = kernel if isinstance(kernel, Metric) else Metric(kernel)
    if not isinstance(metric.kernel, RadialKernel) or metric.warp is not None:
        return None
    inner, projected = metric.kernel, metric.project(x)
    distances = inner.distances(projected, projected)
    gradients = projected.new_zeros(len(x), outputs.shape[1], projected.shape[1])
    for rows, columns in blocks_below(len(x)):
        w = inner.slope_of_value_(gram[rows, columns].clone())
        distances.add_gradients_(rows, columns, w, outputs[columns], gradients[rows])
        if rows != columns:
            distances.add_gradients_(columns, rows, w.mT, outputs[rows], gradients[columns])
    factor = metric.factor
    if factor is None:
        return gradients
    return gradients * factor if factor.dim() == 1 else gradients @ factor.mT


def combine_gradients(gradients: Tensor, share: Tensor, *, diagonal: bool = False) -> Tensor:
    """``sum_j share_j sum_o g_jo g_jo^T`` (d, d), or its diagonal (d,), of gradients (m, r, d)."""
    if diagonal:
        return (gradients.square() * share[:, None, None]).sum(dim=(0, 1))
    flat = gradients.flatten(end_dim=1)
    return (flat * share.repeat_interleave(gradients.shape[1])[:, None]).mT @ flat


def _quadratic(
    kernel: QuadraticKernel,
    factor: Tensor | None,
    x: Tensor,
    outputs: Tensor,
    points: Tensor,
    share: Tensor,
    center: bool,
) -> Tensor:
    """``sum_o H_o S H_o`` with the Hessians H_o of the outputs and the second moment S of the points."""
    metric = Metric(kernel, factor)
    inner, at = metric.project(x), metric.project(points)
    if center:
        at = at - share @ at
    moment = (at * share[:, None]).mT @ at
    total = torch.zeros_like(moment)
    for output in outputs.mT:
        hessian = kernel.hessian(inner, output)
        total += hessian @ moment @ hessian
    if factor is None:
        return total
    return total * factor[:, None] * factor if factor.dim() == 1 else factor @ total @ factor.mT


def _only(matrix: Tensor, blocks: Sequence[Tensor] | None) -> Tensor:
    """The matrix with zeros outside the blocks."""
    if blocks is None or matrix.dim() == 1:
        return matrix
    kept = torch.zeros_like(matrix)
    for block in blocks:
        place = (block[:, None], block)
        kept[place] = matrix[place]
    return kept
