"""Losses over environments and the penalties of out-of-distribution objectives, as functions of logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .._parameters import check_amount
from ..exceptions import DataError

__all__ = [
    "OBJECTIVES",
    "environment_weights",
    "group_shares",
    "halves",
    "irm_penalties",
    "objective",
    "penalty_weights",
    "point_losses",
    "point_slopes",
    "vrex_penalty",
]

OBJECTIVES = ("erm", "irm", "vrex", "irmx", "groupdro")


def point_losses(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Logistic loss of every row.

    .. math:: \ell_i = \log(1 + e^{z_i}) - y_i z_i, \qquad \ell_i = \log \sum_c e^{z_{ic}} - z_{i y_i}

    Parameters
    ----------
    logits : Tensor of shape (n,) or (n, K)
        One logit a row for two classes, else one a class.
    labels : Tensor of shape (n,), int64
        0 or 1; or places among the K classes.

    Returns
    -------
    Tensor of shape (n,), in nats
    """
    if logits.ndim == 1:
        return functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")
    return functional.cross_entropy(logits, labels, reduction="none")


def point_slopes(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Derivative of every row's loss in a factor ``w`` on its logits, at ``w = 1``.

    .. math:: \frac{d}{dw} \ell_i(w z) = (\sigma(z_i) - y_i) z_i, \qquad
              \frac{d}{dw} \ell_i(w z) = \sum_c (\mathrm{softmax}(z_i)_c - 1[y_i = c]) z_{ic}

    Parameters
    ----------
    logits, labels
        As for :func:`point_losses`.

    Returns
    -------
    Tensor of shape (n,), in nats

    Notes
    -----
    Their mean over an environment is the ``D_e`` of IRMv1, without a second pass of autograd.
    """
    if logits.ndim == 1:
        return (logits.sigmoid() - labels) * logits
    return (logits.softmax(dim=1) * logits).sum(dim=1) - logits.gather(1, labels[:, None])[:, 0]


def environment_weights(codes: Tensor, count: int, sample_weight: Tensor | None = None) -> Tensor:
    r"""Share of every row in the mean over its environment.

    .. math:: W_{ei} = \frac{1[e_i = e] \, w_i}{\sum_j 1[e_j = e] \, w_j}

    Parameters
    ----------
    codes : Tensor of shape (n,), int64
        Environment of every row, 0 to ``count - 1``.
    count : int
        Number E of environments; each has a row of positive weight.
    sample_weight : Tensor of shape (n,), optional
        Equal weights by default.

    Returns
    -------
    Tensor of shape (E, n), rows that sum to 1
        ``W @ point_losses(...)`` is the loss L_e of every environment, ``W @ point_slopes(...)`` is D_e. Points that
        environments share with different probabilities are described by the same matrix.

    Notes
    -----
    Takes E n numbers. float64 unless ``sample_weight`` has another type.

    Examples
    --------
    >>> environment_weights(torch.tensor([0, 1, 0]), 2)
    tensor([[0.5000, 0.0000, 0.5000],
            [0.0000, 1.0000, 0.0000]], dtype=torch.float64)
    """
    row_weights = torch.ones(len(codes), dtype=torch.float64) if sample_weight is None else sample_weight
    masses = functional.one_hot(codes, count).T * row_weights
    return masses / masses.sum(dim=1, keepdim=True)


def halves(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (E, n) of the even and of the odd rows of every environment, each with rows that sum to 1.

    Rows are counted within their environment, among those of positive weight.

    Raises
    ------
    DataError
        An environment has a single row.
    """
    there = weights > 0
    if int(there.sum(dim=1).min()) < 2:
        raise DataError('Got an environment with one row, but expected two or more: "split" halves each of them.')
    odd = there & (there.cumsum(dim=1) % 2 == 0)
    first, second = weights * (there & ~odd), weights * odd
    return first / first.sum(dim=1, keepdim=True), second / second.sum(dim=1, keepdim=True)


def irm_penalties(
    logits: Tensor, labels: Tensor, weights: Tensor, split: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    r"""Penalty of IRMv1 in every environment.

    .. math:: D_e^2 = \Big( \frac{d}{dw} L_e(w z) \Big|_{w=1} \Big)^2

    Parameters
    ----------
    logits, labels
        As for :func:`point_losses`.
    weights : Tensor of shape (E, n)
        Rows that sum to 1, see :func:`environment_weights`.
    split : pair of Tensors of shape (E, n), optional
        :func:`halves` of the weights: then D of the even rows times D of the odd rows, which is unbiased for
        mini-batches and can be negative.

    Returns
    -------
    Tensor of shape (E,), in nats squared

    References
    ----------
    Arjovsky, Bottou, Gulrajani, Lopez-Paz (2019). Invariant risk minimization. arXiv:1907.02893.

    Examples
    --------
    >>> logits, labels = torch.tensor([2.0, -1.0]), torch.tensor([1, 1])
    >>> irm_penalties(logits, labels, torch.tensor([[0.5, 0.5]]))
    tensor([0.0606])
    """
    slopes = point_slopes(logits, labels)
    if split is None:
        return (weights @ slopes).square()
    first, second = split
    return (first @ slopes) * (second @ slopes)


def vrex_penalty(losses: Tensor) -> Tensor:
    r"""Variance of the losses (E,) over environments, the penalty of V-REx.

    .. math:: \frac{1}{E} \sum_e \Big( L_e - \frac{1}{E} \sum_{e'} L_{e'} \Big)^2

    References
    ----------
    Krueger et al. (2021). Out-of-distribution generalization via risk extrapolation. arXiv:2003.00688.
    """
    return (losses - losses.mean()).square().mean()


def objective(
    losses: Tensor,
    penalties: Tensor,
    *,
    irm: float = 0.0,
    vrex: float = 0.0,
    ridge: Tensor | float = 0.0,
    shares: Tensor | None = None,
) -> Tensor:
    r"""What is minimised, divided by the largest penalty weight where that exceeds 1.

    .. math:: J = \frac{\sum_e q_e L_e + \frac{p_\mathrm{irm}}{E} \sum_e D_e^2 + p_\mathrm{vrex} \mathrm{Var}_e L_e
                  + \mathrm{ridge}}{\max(1, p_\mathrm{irm}, p_\mathrm{vrex})}

    Parameters
    ----------
    losses, penalties : Tensor of shape (E,)
        Losses L_e and :func:`irm_penalties`.
    irm, vrex : float, default=0
        Penalty weights; both 0 is empirical risk minimisation.
    ridge : 0-d Tensor or float, default=0
        Added before the division.
    shares : Tensor of shape (E,), optional
        Weights q of the environments, which group DRO moves; 1/E by default.

    Returns
    -------
    0-d Tensor

    Notes
    -----
    Means over environments and the biased variance. For two environments, codes that add the losses instead
    (with the same mean of D_e^2) use twice our weight of the IRM penalty and twice our ridge. The division is that of
    several published codes: it keeps the gradient of the same size when the penalty is switched on.
    """
    risk = losses.mean() if shares is None else shares @ losses
    penalised = risk + ridge
    if irm:
        penalised = penalised + irm * penalties.mean()
    if vrex:
        penalised = penalised + vrex * vrex_penalty(losses)
    return penalised / max(1.0, irm, vrex)


def group_shares(shares: Tensor, losses: Tensor, step: float) -> Tensor:
    r"""Weights of the environments after one step of group DRO.

    .. math:: q_e \leftarrow \frac{q_e e^{\eta L_e}}{\sum_{e'} q_{e'} e^{\eta L_{e'}}}

    References
    ----------
    Sagawa, Koh, Hashimoto, Liang (2020). Distributionally robust neural networks for group shifts. arXiv:1911.08731.
    """
    return (shares.log() + step * losses).softmax(dim=0)


def penalty_weights(name: str, penalty_weight: Any) -> tuple[float, float]:
    """Weights of the IRM and of the V-REx penalty.

    Parameters
    ----------
    name : str
        One of ``OBJECTIVES``, or another without penalties.
    penalty_weight : float or pair of float
        A pair (IRM, V-REx) for "irmx" alone.

    Raises
    ------
    DataError
        Anything but finite numbers of at least 0, and so many.

    Examples
    --------
    >>> penalty_weights("irm", 10.0), penalty_weights("irmx", (10.0, 5.0)), penalty_weights("erm", 10.0)
    ((10.0, 0.0), (10.0, 5.0), (0.0, 0.0))
    """
    pair = isinstance(penalty_weight, tuple | list)
    if pair and (name != "irmx" or len(penalty_weight) != 2):
        raise DataError(
            f"Got penalty_weight={penalty_weight!r} for objective={name!r}, but expected one number, or for "
            '"irmx" a pair (IRM, V-REx).'
        )
    irm, vrex = (check_amount("penalty_weight", p) for p in (penalty_weight if pair else (penalty_weight,) * 2))
    return (irm if name in ("irm", "irmx") else 0.0, vrex if name in ("vrex", "irmx") else 0.0)
