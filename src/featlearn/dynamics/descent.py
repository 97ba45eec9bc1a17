"""The second independent path of models that are networks: gradient descent by autograd, step by step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..exceptions import ConvergenceWarning, DataError

__all__ = ["descend"]

Floats = NDArray[np.float64]

_ROUNDING = 1e-9


def descend(
    loss: Callable[..., Tensor],
    start: Sequence[Floats],
    t: Floats,
    lr: float,
    rates: Sequence[Floats] | None = None,
    *,
    stable: float = np.inf,
) -> list[Floats]:
    """Weights of gradient descent at times t, linear between steps.

    Parameters
    ----------
    loss : callable
        Tensors like ``start`` to a scalar; the sum over a batch trains its elements independently.
    start : sequence of arrays
        Weights at time 0.
    t : array of shape (T,)
        Finite times; a step is ``lr`` units.
    lr : float
        Step size, positive.
    rates : sequence of arrays, optional
        One a weight, broadcast to it, times ``lr``; 1 by default.
    stable : float
        The largest step that is known to follow the flow.

    Returns
    -------
    list of arrays of shape (*weight.shape, T)

    Raises
    ------
    DataError
        An infinite time, or a step size that is not positive.

    Warns
    -----
    ConvergenceWarning
        Steps above ``stable``; steps so large that the loss rises, which that of gradient flow never does, or that the
        weights overflow, which are nan from there on.

    Examples
    --------
    >>> descend(lambda w: (w**2).sum() / 2, [np.array([1.0])], np.array([0.0, 0.15]), lr=0.1)[0].round(4).tolist()
    [[1.0, 0.855]]
    """
    if not (lr > 0 and np.isfinite(lr)):
        raise DataError(f"Got lr={lr}, but expected a positive finite number.")
    if not np.isfinite(t).all():
        raise DataError("Got t=inf, but expected finite times: descent takes steps, only a closed form has a limit.")
    weights = [torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in start]
    factors = [torch.tensor(lr * np.asarray(rate)) for rate in (rates or [np.ones(())] * len(weights))]
    before = np.floor(t / lr).astype(np.int64)
    share = t / lr - before
    steps, place = np.unique(np.stack([before, before + 1]), return_inverse=True)
    found: list[list[Floats]] = []
    made = 0
    losses = []
    for step in steps:
        for _ in range(step - made):
            value = loss(*weights)
            losses.append(value.detach())
            gradients = torch.autograd.grad(value, weights)
            with torch.no_grad():
                for weight, gradient, factor in zip(weights, gradients, factors, strict=True):
                    weight -= factor * gradient
        made = step
        found.append([weight.detach().numpy().copy() for weight in weights])
    problem = ""
    if not all(bool(weight.isfinite().all()) for weight in weights):
        problem = f"Descent with lr={lr:g} diverged; take a smaller step."
    elif _rises(torch.stack([*losses, loss(*weights).detach()])):
        problem = f"The loss of descent with lr={lr:g} rose, which that of the flow never does; take a smaller step."
    elif lr > stable:
        problem = f"Got lr={lr:g}, but descent follows the flow up to {stable:.3g} only; take a smaller step."
    if problem:
        warnings.warn(problem, ConvergenceWarning, stacklevel=3)
    histories = [np.stack(snapshots, axis=-1) for snapshots in zip(*found, strict=True)]
    early, late = place.reshape(2, -1)
    return [(1 - share) * history[..., early] + share * history[..., late] for history in histories]


def _rises(losses: Tensor) -> bool:
    """Beyond rounding, relative to where it starts."""
    return bool((losses.diff() > _ROUNDING * losses[0].abs()).any())
