"""A network of finitely many neurons whose infinite-width limit is the fast alignment with a slow second layer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .integration import integrate

__all__ = ["train_neurons"]

Floats = NDArray[np.float64]


def train_neurons(
    sigma: Floats,
    tau: Floats,
    a0: Floats,
    R0: Floats,
    eps: Floats,
    t: Floats,
    *,
    n_neurons: int,
    dim: int,
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Gradient flow of all weights on the exact population loss; second layer and alignment, (..., N, T) each.

    The neurons start with one alignment R0 and second layer a0, and random directions beside the teacher's.
    """
    # The flow does not know the teacher's direction, so that it may be the first axis.
    beside = rng.standard_normal((n_neurons, dim - 1))
    beside /= np.linalg.norm(beside, axis=-1, keepdims=True)
    start = np.empty((*a0.shape, n_neurons, dim + 1))
    start[..., 0], start[..., 1] = a0[..., np.newaxis], R0[..., np.newaxis]
    start[..., 2:] = np.sqrt(1 - R0**2)[..., np.newaxis, np.newaxis] * beside

    def flow(state: Floats) -> Floats:
        a, W = state[..., 0], state[..., 1:]
        R, overlaps = W[..., 0], W @ W.mT
        output, signal, pull = np.zeros_like(a), np.zeros_like(a), np.zeros_like(overlaps)
        for k in range(1, sigma.shape[-1] + 1):
            student, both = sigma[..., k - 1, np.newaxis] ** 2, (sigma * tau)[..., k - 1, np.newaxis]
            output += both * R**k - student * (overlaps**k @ a[..., np.newaxis])[..., 0] / n_neurons
            signal += k * both * R ** (k - 1)
            pull += k * student[..., np.newaxis] * overlaps ** (k - 1)
        force = -(pull * a[..., np.newaxis, :]) @ W / n_neurons
        force[..., 0] += signal
        force -= np.sum(force * W, axis=-1, keepdims=True) * W  # the neurons stay on the sphere
        return np.concatenate([(eps[..., np.newaxis] * output)[..., np.newaxis], a[..., np.newaxis] * force], axis=-1)

    states = integrate(flow, start, t, rtol=1e-8, atol=1e-10)
    return states[..., 0, :], states[..., 1, :]
