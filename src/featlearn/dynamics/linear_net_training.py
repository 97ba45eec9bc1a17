"""The linear network on one-dimensional data as a torch module, trained by gradient descent."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..exceptions import DataError

if TYPE_CHECKING:
    from .linear_net_1d import LinearNet1D

__all__ = ["train_linear_net"]

Floats = NDArray[np.float64]


class _Network(nn.Module):
    """A batch of independent networks ``g u.(w x)``."""

    def __init__(self, u: Tensor, w: Tensor, g: Tensor) -> None:
        super().__init__()
        self.u, self.w, self.g = nn.Parameter(u), nn.Parameter(w), g

    def forward(self, x: Tensor) -> Tensor:
        """Inputs (..., N) to outputs (..., N)."""
        hidden = self.w[..., None, :] * x[..., None]
        return self.g[..., None] * (hidden @ self.u[..., None]).squeeze(-1)


def train_linear_net(model: LinearNet1D, t: Floats, lr: float) -> tuple[Floats, Floats]:
    """Weights u, w at times t, (..., d, T): gradient descent by autograd, linear between steps.

    Parameters
    ----------
    model : LinearNet1D
        Whose data become two samples ``x = +-sqrt(E[x^2])`` with the labels that give ``E[xy]``.
    t : array of shape (T,)
        Finite times of at least 0.
    lr : float
        Step; one of them is a time of ``lr``, with the rates ``lr eta_u`` and ``lr eta_w``.
    """
    if not (lr > 0 and math.isfinite(lr)):
        raise DataError(f"Got lr={lr}, but expected a positive finite number.")
    if not np.isfinite(t).all():
        raise DataError("Got t=inf, but expected finite times: gradient descent takes steps.")
    u, w, g, eta_u, eta_w, Exx, Exy = (
        torch.tensor(np.array(getattr(model, name))) for name in ("u0", "w0", "g", "eta_u", "eta_w", "Exx", "Exy")
    )
    network = _Network(u, w, g)
    x = torch.stack([-Exx.sqrt(), Exx.sqrt()], dim=-1)
    y = Exy[..., None] / Exx[..., None] * x
    steps = t / lr
    history = [(u.numpy().copy(), w.numpy().copy())]
    for _ in range(math.ceil(steps.max())):
        loss = 0.5 * (network(x) - y).square().mean(dim=-1).sum()  # a sum over networks, which do not interact
        gradients = torch.autograd.grad(loss, [network.u, network.w])
        with torch.no_grad():
            for weight, rate, gradient in zip((network.u, network.w), (eta_u, eta_w), gradients, strict=True):
                weight.sub_(lr * rate[..., None] * gradient)
        history.append((network.u.detach().numpy().copy(), network.w.detach().numpy().copy()))
    return _between(np.stack([u for u, _ in history], axis=-1), steps), _between(
        np.stack([w for _, w in history], axis=-1), steps
    )


def _between(history: Floats, steps: Floats) -> Floats:
    before = np.minimum(np.floor(steps).astype(int), history.shape[-1] - 1)
    after = np.minimum(before + 1, history.shape[-1] - 1)
    share = steps - before
    return (1 - share) * history[..., before] + share * history[..., after]
