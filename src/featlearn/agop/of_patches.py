"""Patch AGOP of an expansion in a convolutional kernel, from gradients in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..exceptions import DataError
from ..kernels import PatchMetric
from .of_kernel import KernelAGOP, principal_outputs

__all__ = ["patch_agop_of_expansion"]


@torch.no_grad()
def patch_agop_of_expansion(
    metric: PatchMetric,
    x: Tensor,
    dual: Tensor,
    points: Tensor,
    *,
    weights: Tensor | None = None,
    population: int | None = None,
    tolerance: float = 1e-6,
) -> KernelAGOP:
    r"""AGOP with respect to patches of ``f_o(z) = sum_i dual_io k(x_i, z)``: mean over images, sums over the rest.

    .. math:: G = \frac{1}{m} \sum_{j=1}^{m} \sum_p \sum_o \nabla_{v_p} f_o(z_j)^\top \nabla_{v_p} f_o(z_j)

    Patches count as independent inputs, whether they overlap or not.

    Parameters
    ----------
    metric : PatchMetric
    x : Tensor of shape (n, c, H, W)
    dual : Tensor of shape (n, C)
    points : Tensor of shape (m, c, H, W)
    weights : Tensor of shape (m,), optional
        The mean over images becomes the weighted mean.
    population : int, optional
        Images that the points were drawn from, without replacement; default n. Enters the standard error alone.
    tolerance : float, default 1e-6
        Of :func:`~featlearn.agop.of_kernel.principal_outputs`.

    Returns
    -------
    KernelAGOP
        ``matrix`` (q, q) for patches of q = c patch_size^2 numbers, in (output units / pixel unit)^2; the standard
        error of its Frobenius norm, relative, from the spread over images.

    Raises
    ------
    DataError
        For no points, or weights that do not fit.

    Notes
    -----
    One reverse pass of the kernel for each pair serves all outputs; ``2 q r (n + q)`` flops more for each image and
    position, r the rank of ``dual``, and ``4 q^3`` for each image.

    References
    ----------
    Beaglehole, Radhakrishnan, Pandit, Belkin (2023), arXiv:2309.00570.
    """
    if len(points) == 0:
        raise DataError("Got no images, but expected at least one to take gradients at.")
    metric.check(x, points)
    if dual.dim() != 2 or len(dual) != len(x):
        raise DataError(f"Got dual coefficients {tuple(dual.shape)}, but expected ({len(x)}, C).")
    unfit = weights is not None and (weights.shape != points.shape[:1] or bool((weights < 0).any()))
    if weights is not None and (unfit or not bool(weights.sum() > 0)):
        raise DataError(
            f"Got weights {tuple(weights.shape)}, but expected ({len(points)},) of at least 0 with a positive sum."
        )
    outputs = principal_outputs(dual, tolerance)
    share = torch.full_like(points[:, 0, 0, 0], 1 / len(points)) if weights is None else weights.to(points)
    share = share / share.sum()
    q = points.shape[1] * metric.kernel.patch_size**2
    total, fourth = points.new_zeros(q, q, dtype=torch.float64), 0.0
    last = metric.outer_factor(points.shape[1])
    for part, gradients in metric.inner_gradients(x, points, outputs):
        rows = gradients.flatten(1, 3)
        each = rows.mT @ rows
        # The metric once for each image, not for each of its gradients.
        each = each / (points.shape[1] * metric.scale) ** 2 if last is None else last @ each @ last
        each = each.double()
        total += torch.einsum("j,jqr->qr", share[part].double(), each)
        fourth += float(share[part].double() @ each.square().sum(dim=(1, 2)))
    size = float(total.square().sum())
    drawn_from = max(len(points), len(x) if population is None else population)
    spread = max(fourth - size, 0.0) / max(1, len(points) - 1) * (1 - len(points) / drawn_from)
    error = math.sqrt(spread / size) if size > 0 else 0.0
    return KernelAGOP(total.to(points), error, len(points), outputs.shape[1])
