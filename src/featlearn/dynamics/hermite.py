"""Gaussian averages of activations: how much of one is linear, and how well another, smoothed, can imitate it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.special import erf, expit, ndtr

from ..exceptions import DataError

__all__ = ["ACTIVATIONS", "Activation", "HermiteNumbers", "activation_named", "hermite_numbers", "smoothed_fit"]

Floats = NDArray[np.float64]
Function = Callable[[Any], Any]

_REACH = 12.0  # standard deviations; the density there is 2e-32


@dataclass(frozen=True)
class Activation:
    """A scalar function and its derivative, both over arrays."""

    name: str
    function: Function
    derivative: Function


def _normal(z: Any) -> Any:
    return np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)


ACTIVATIONS = {
    activation.name: activation
    for activation in (
        Activation("identity", lambda z: 1.0 * z, np.ones_like),
        Activation("tanh", np.tanh, lambda z: 1 - np.tanh(z) ** 2),
        Activation("erf", erf, lambda z: 2 / np.sqrt(np.pi) * np.exp(-(z**2))),
        Activation("sin", np.sin, np.cos),
        Activation("relu", lambda z: np.maximum(z, 0.0), lambda z: np.heaviside(z, 0.0)),
        Activation("softplus", lambda z: np.logaddexp(0.0, z), expit),
        Activation("sigmoid", expit, lambda z: expit(z) * expit(-z)),
        Activation("gelu", lambda z: z * ndtr(z), lambda z: ndtr(z) + z * _normal(z)),
    )
}


def activation_named(activation: str | tuple[Function, Function], argument: str) -> Activation:
    """Activation of a name, or of a pair (function, derivative)."""
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            known = ", ".join(map(repr, ACTIVATIONS))
            raise DataError(f"Got {argument}={activation!r}, but expected {known} or a pair (function, derivative).")
        return ACTIVATIONS[activation]
    if not (isinstance(activation, tuple) and len(activation) == 2 and all(map(callable, activation))):
        raise DataError(f"Got {argument}={activation!r}, but expected a name or a pair (function, derivative).")
    return Activation(getattr(activation[0], "__name__", "custom"), *activation)


@dataclass(frozen=True)
class HermiteNumbers:
    """Mean, linear part and all the rest of an activation under a standard normal.

    Attributes
    ----------
    mu0, mu1 : float
        ``E s(z)`` and ``E z s(z)``.
    mu2_squared : float
        ``E s(z)^2 - mu0^2 - mu1^2``, at least 0.
    """

    mu0: float
    mu1: float
    mu2_squared: float


@lru_cache(maxsize=256)
def hermite_numbers(function: Function) -> HermiteNumbers:
    r"""Zeroth and first Hermite coefficient of a function, and the energy of the higher ones.

    .. math:: \mu_0 = E\,s(z), \quad \mu_1 = E\,z s(z), \quad \mu_2^2 = E\,s(z)^2 - \mu_0^2 - \mu_1^2

    Parameters
    ----------
    function : callable
        Real function of one number; kinks and jumps at 0 cost no precision.

    Returns
    -------
    HermiteNumbers

    Raises
    ------
    DataError
        The averages are not finite: such as those of a function that grows as fast as ``exp(z^2 / 4)``.

    Notes
    -----
    Adaptive quadrature, split at 0: Gauss-Hermite nodes are wrong in the third digit for a kink. Computed once a
    function.

    Examples
    --------
    >>> hermite_numbers(ACTIVATIONS["relu"].function)
    HermiteNumbers(mu0=0.3989422804, mu1=0.5, mu2_squared=0.0908450569)
    """

    def average(integrand: Function) -> float:
        halves = ((-_REACH, 0.0), (0.0, _REACH))
        return sum(
            quad(lambda z: float(integrand(z)) * _normal(z), *half, epsabs=1e-13, epsrel=1e-12)[0] for half in halves
        )

    values = {0: average(function), 1: average(lambda z: z * function(z)), 2: average(lambda z: function(z) ** 2)}
    at_the_ends = max(float(function(z)) ** 2 for z in (-_REACH, _REACH)) * _normal(_REACH)
    if not np.isfinite(list(values.values())).all() or at_the_ends > 1e-12 * values[2]:
        raise DataError(f"Got an activation with averages {values} under a standard normal, but expected finite ones.")
    return HermiteNumbers(values[0], values[1], max(0.0, values[2] - values[0] ** 2 - values[1] ** 2))


@lru_cache(maxsize=256)
def smoothed_fit(activation: Function, teacher: Function) -> tuple[float, float]:
    r"""How well a smoothed and stretched activation can imitate a centred teacher, and at which stretch.

    .. math:: \min_k \; E_{x_1} \left(\bar\sigma^*(x_1) - E_{x_2} \sigma(k x_1 + x_2)\right)^2, \quad |k| \le 100

    Parameters
    ----------
    activation, teacher : callable
        Over arrays; the mean of the teacher is removed.

    Returns
    -------
    float
        The least error.
    float
        The k that has it.

    Notes
    -----
    Gauss-Legendre on pieces split where the arguments are 0: 14000 evaluations a k, some 60 values of k; computed once
    a pair.

    Examples
    --------
    >>> error, k = smoothed_fit(ACTIVATIONS["erf"].function, ACTIVATIONS["erf"].function)
    >>> bool(error < 1e-12), round(k, 4)
    (True, 1.7321)
    """
    x, weights = _split_nodes(np.zeros(1), 64)
    x, weights = x[0], weights[0]
    target = teacher(x) - hermite_numbers(teacher).mu0

    def error(k: float) -> float:
        inner, inner_weights = _split_nodes(-k * x, 56)
        smoothed = np.sum(activation(k * x[:, np.newaxis] + inner) * inner_weights, axis=1)
        return float(np.sum((target - smoothed) ** 2 * weights))

    scales = np.geomspace(0.05, 100.0, 17)
    grid = np.concatenate([-scales[::-1], [0.0], scales])
    best = int(np.argmin([error(float(k)) for k in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = minimize_scalar(error, bounds=(low, high), method="bounded", options={"xatol": 1e-10})
    return float(found.fun), float(found.x)


def _split_nodes(at: Floats, count: int) -> tuple[Floats, Floats]:
    """Nodes and normal weights on nine standard deviations, split at ``at`` (m,): both (m, 2 count)."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    reach = 9.0
    split = np.clip(at, -reach, reach)[:, np.newaxis]
    below, above = (split + reach) / 2, (reach - split) / 2
    z = np.concatenate([split + below * (nodes - 1), split + above * (nodes + 1)], axis=1)
    return z, np.concatenate([below * weights, above * weights], axis=1) * _normal(z)
