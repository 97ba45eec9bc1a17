r"""The chance level: K turned at random inside the column space of W (``K_r -> O K_r O^T``, O Haar-distributed).

A random weight and a random kernel already correlate, because F and G share the row space of W.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..linalg.psd import haar_orthogonal
from .coordinates import Factors, Weight, combine

__all__ = ["DRAWS", "closed_form_null", "sampled_null"]

DRAWS = 32
NUMBERS_AT_ONCE = 2**22


def closed_form_null(weight: Weight, t1: Tensor, t2: Tensor, statistic: str) -> float:
    r"""Null of the correlation at power 1 from exact Haar moments.

    With :math:`t_1 = \mathrm{tr} K_r`, :math:`t_2 = \mathrm{tr} K_r^2`,

    .. math:: \alpha = \frac{(r+1) t_1^2 - 2 t_2}{r (r-1)(r+2)}, \quad \beta = \frac{r t_2 - t_1^2}{r (r-1)(r+2)},

    :math:`E\langle F,G\rangle = t_1 \|F\|^2 / r`, :math:`E\|G\|^2 = (\alpha+\beta)\|F\|^2 + \beta (\sum_j s_j^2)^2`,
    :math:`E S_G^2 = (\alpha + 2\beta) S_F^2`, each summed over the groups.

    Parameters
    ----------
    weight : Weight
    t1, t2 : Tensor of shape (groups,)
    statistic : {"pearson", "cosine"}

    Returns
    -------
    float
        Ratio of the means: at most .025 below the mean ratio at r = 16, .005 at r >= 64.
    """
    r = weight.ranks.to(t1)
    t2 = torch.maximum(t2, t1**2 / r.clamp_min(1))  # what holds for every K, but not for every estimate of t2
    denominator = torch.where(r > 1, r * (r - 1) * (r + 2), 1.0)
    alpha = torch.where(r > 1, ((r + 1) * t1**2 - 2 * t2) / denominator, t1**2)
    beta = torch.where(r > 1, (r * t2 - t1**2) / denominator, 0.0)
    norm_f, entries_f = weight.norm, weight.entries
    mean = torch.where(r > 0, t1 / r.clamp_min(1), 0.0)  # (groups,)
    norm_g = ((alpha + beta) * norm_f + beta * weight.trace**2).sum()
    # E (sum_g S_g)^2: the groups are turned independently.
    expected = mean * entries_f
    square = ((alpha + 2 * beta) * entries_f**2).sum() + expected.sum() ** 2 - (expected**2).sum()
    inner = (mean * norm_f).sum()
    null = combine(
        inner, norm_f.sum(), norm_g, entries_f.sum(), expected.sum(), weight.size, statistic, square_g=square
    )
    return float(null)


def sampled_null(
    reduced: Tensor,
    factors: Factors,
    powers: Sequence[float],
    statistics: Sequence[str],
    generator: torch.Generator,
    floor: float,
) -> dict[tuple[float, str], tuple[float, float]]:
    """Mean and standard deviation of the correlation over 32 Haar rotations, by (power, statistic).

    Parameters
    ----------
    reduced : Tensor of shape (groups, r, r)
        ``U^T K U``.
    generator : torch.Generator
        On the CPU.
    """
    moments = {power: torch.zeros(3, DRAWS, dtype=torch.float64) for power in powers}
    for rank in factors.ranks.unique().tolist():
        if rank == 0:
            continue
        rows = (factors.ranks == rank).nonzero().flatten()
        kernel, s, t = reduced[rows, :rank, :rank], factors.s[rows, :rank], factors.t[rows, :rank]
        if rank > 64 and floor > rank * 1e-8:  # the kernel itself is no more precise than float32
            kernel, s, t = kernel.float(), s.float(), t.float()
        step = max(1, min(DRAWS, NUMBERS_AT_ONCE // (len(rows) * rank**2)))
        for start in range(0, DRAWS, step):
            stop = min(start + step, DRAWS)
            turns = haar_orthogonal((stop - start, len(rows), rank, rank), generator, kernel.dtype).to(kernel.device)
            turned = s.unsqueeze(-1) * (turns @ kernel @ turns.mT) * s.unsqueeze(-2)
            for power in powers:
                moments[power][:, start:stop] += _moments(turned, s, t, power, floor).double().cpu()
    norm_f, entries_f = (factors.s**4).sum().cpu(), (factors.s**2 * factors.t**2).sum().cpu()
    size = len(factors.s) * factors.d**2
    nulls = {}
    for power in powers:
        inner, norm_g, entries = moments[power]
        for statistic in statistics:
            drawn = combine(inner, norm_f.double(), norm_g, entries_f.double(), entries, size, statistic)
            nulls[float(power), statistic] = (float(drawn.mean()), float(drawn.std()))
    return nulls


def _moments(turned: Tensor, s: Tensor, t: Tensor, power: float, floor: float) -> Tensor:
    """<F, G^a>, ||G^a||^2 and 1^T G^a 1 of each draw, (3, draws), summed over groups."""
    if power == 1:
        inner = (turned.diagonal(dim1=-2, dim2=-1) * s**2).sum((-2, -1))
        entries = torch.einsum("ngij,gi,gj->n", turned, t, t)
        return torch.stack([inner, (turned**2).sum((-3, -2, -1)), entries])
    lam, vectors = torch.linalg.eigh(turned)
    if power < 1:
        lam = torch.where(lam > floor * lam.amax(dim=(-2, -1), keepdim=True), lam, 0.0)
    powers = lam.clamp_min(0) ** power
    c = (s.unsqueeze(-1) ** 2 * vectors**2).sum(-2)
    q = (t.unsqueeze(-1) * vectors).sum(-2)
    return torch.stack([(powers * c).sum((-2, -1)), (powers**2).sum((-2, -1)), (powers * q**2).sum((-2, -1))])
