"""Monte Carlo of one gradient step and the ridge regression after it: two-layer networks drawn, moved and measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from ..exceptions import DataError
from .hermite import Activation, Function
from .short_repr import short_repr

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["OneStepDraws", "RiskSummary", "check_sizes", "draw_risks", "gradient_step"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RiskSummary:
    """Means over the draws and their standard errors."""

    risk0: float
    risk: float
    gain: float
    risk0_error: float
    risk_error: float
    gain_error: float


@short_repr
@dataclass(frozen=True, eq=False)
class OneStepDraws:
    """Risks of independent draws, before and after the step on the same data.

    Attributes
    ----------
    risk0, risk : array of shape (n_repeats,)
    d, n, N : int
        Inputs, samples, neurons.
    """

    risk0: Floats
    risk: Floats
    d: int
    n: int
    N: int

    @property
    def gain(self) -> Floats:
        """``risk0 - risk``, draw by draw."""
        return self.risk0 - self.risk

    def summary(self) -> RiskSummary:
        """Means and standard errors; the latter are nan for one draw."""
        columns = (self.risk0, self.risk, self.gain)
        many = len(self.risk) > 1
        errors = [float(x.std(ddof=1)) / math.sqrt(len(x)) if many else math.nan for x in columns]
        return RiskSummary(*(float(x.mean()) for x in columns), *errors)

    def frame(self) -> pd.DataFrame:
        """One row a draw."""
        import pandas as pd

        return pd.DataFrame({"risk0": self.risk0, "risk": self.risk, "gain": self.gain})

    def to_dict(self) -> dict[str, Any]:
        """Plain lists."""
        risks = {"risk0": self.risk0.tolist(), "risk": self.risk.tolist()}
        return {"kind": "OneStepDraws", "schema": 1, **risks, "d": self.d, "n": self.n, "N": self.N}


def check_sizes(d: int, n_repeats: int, n_test: int, psi1: float, psi2: float) -> tuple[int, int]:
    """Samples and neurons at d inputs, or an error that names what is too small."""
    for name, count in (("d", d), ("n_repeats", n_repeats), ("n_test", n_test)):
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
            raise DataError(f"Got {name}={count!r}, but expected a positive integer.")
    n, N = round(psi1 * d), round(psi2 * d)
    if n < 1 or N < 1:
        raise DataError(
            f"Got psi1={psi1:g} and psi2={psi2:g} at d={d}, which round to {n} samples and {N} neurons, "
            "but expected at least one of each; increase d."
        )
    return n, N


def draw_risks(
    activation: Activation,
    target: Function,
    sizes: tuple[int, int, int],
    *,
    ridge: float,
    noise: float,
    eta: float,
    n_repeats: int,
    n_test: int,
    random_state: int | None,
) -> OneStepDraws:
    """Risks of ``n_repeats`` independent networks with and without one gradient step of their first layer."""
    d, n, N = sizes
    risks = [
        _one_draw(activation, target, sizes, ridge, noise, eta, n_test, np.random.default_rng(seed))
        for seed in np.random.SeedSequence(random_state).spawn(n_repeats)
    ]
    before, after = np.array(risks).T
    return OneStepDraws(before, after, d, n, N)


def _one_draw(
    activation: Activation,
    target: Function,
    sizes: tuple[int, int, int],
    ridge: float,
    noise: float,
    eta: float,
    n_test: int,
    rng: np.random.Generator,
) -> list[float]:
    d, n, N = sizes
    beta = rng.standard_normal(d)
    beta /= np.linalg.norm(beta)
    W, a = rng.standard_normal((d, N)) / np.sqrt(d), rng.standard_normal(N) / np.sqrt(N)

    def sample() -> tuple[Floats, Floats]:
        X = rng.standard_normal((n, d))
        return X, target(X @ beta) + noise * rng.standard_normal(n)

    X, y = sample()
    moved = gradient_step(activation, W, a, X, y, eta)
    X, y = sample()
    fits = [_ridge(activation.function(X @ weights), y, n * ridge) for weights in (W, moved)]
    tests = rng.standard_normal((n_test, d))
    truth = target(tests @ beta)
    return [
        float(np.mean((activation.function(tests @ weights) @ fit - truth) ** 2))
        for weights, fit in zip((W, moved), fits, strict=True)
    ]


def gradient_step(activation: Activation, W: Floats, a: Floats, X: Floats, y: Floats, eta: float) -> Floats:
    """First layer after a step of ``eta sqrt(N)`` on ``(1/2) mean (f - y)^2``, ``f = sigma(X W) a / sqrt(N)``."""
    h = X @ W
    residual = y - activation.function(h) @ a / np.sqrt(len(a))
    # The gradient's 1 / sqrt(N) and the rate's sqrt(N) are one.
    return W + eta / len(X) * X.T @ (np.outer(residual, a) * activation.derivative(h))


def _ridge(features: Floats, y: Floats, alpha: float) -> Floats:
    gram = features.T @ features
    gram[np.diag_indices_from(gram)] += alpha
    return np.asarray(cho_solve(cho_factor(gram, lower=True), features.T @ y))
