"""One penalised logistic regression: which of scikit-learn's solvers fits it, and what it does with several classes."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit, softmax
from sklearn.exceptions import ConvergenceWarning as SolverWarning
from sklearn.linear_model import LogisticRegression

__all__ = ["LinearFit", "PenalisedLogistic", "predicted_codes", "probabilities"]

# It draws from one generator a process. Threads that fit at once would draw from each other's.
LIBLINEAR = Lock()


@dataclass(frozen=True, eq=False)
class LinearFit:
    """Coefficients (K, d), or (1, d) for two classes, intercepts, iterations of the solver and whether it converged."""

    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]
    n_iter: int
    converged: bool

    def scores(self, Z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Logits (n, K), or (n, 1) for two classes."""
        return Z @ self.coef.T + self.intercept

    def codes(self, Z: NDArray[np.float64]) -> NDArray[np.int64]:
        """Predicted classes as indices."""
        return predicted_codes(self.scores(Z))


@dataclass(frozen=True)
class PenalisedLogistic:
    r"""Minimiser of a weighted sum of logistic losses and an elastic net.

    .. math:: C \sum_i s_i \, \ell(y_i, w \cdot z_i + b) + \rho \|w\|_1 + \tfrac{1 - \rho}{2} \|w\|_2^2

    Parameters
    ----------
    n_classes : int
    l1_ratio : float
        :math:`\rho`. At 1 liblinear fits it, at 0 (and without penalty, C infinite) lbfgs, in between saga.
    max_iter : int
    tol : float

    Notes
    -----
    liblinear knows two classes only and treats the intercept as one more coefficient, with a penalty: several classes
    are told apart one against the rest. The other two fit several classes at once (multinomial), and penalise no
    intercept.
    """

    n_classes: int
    l1_ratio: float
    max_iter: int
    tol: float

    def one_vs_rest(self, C: float) -> bool:
        """Whether the logits are those of one class against the rest."""
        return self.n_classes > 2 and self._solver(C) == "liblinear"

    def fit(
        self,
        Z: NDArray[np.float64],
        codes: NDArray[np.int64],
        C: float,
        seed: int,
        weights: NDArray[np.float64] | None = None,
    ) -> LinearFit:
        """Fit to standardised rows Z (n, d) of classes ``codes``, which must all be there.

        Notes
        -----
        An iteration costs ``O(n d)``. What scikit-learn warns of at ``max_iter`` becomes ``converged``.
        """
        targets = [codes == k for k in range(self.n_classes)] if self.one_vs_rest(C) else [codes]
        machines = [self._machine(C, seed) for _ in targets]
        with warnings.catch_warnings():
            # Many fits would say the same. At any other end the solver is at the limit of its precision.
            warnings.simplefilter("ignore", SolverWarning)
            for machine, target in zip(machines, targets, strict=True):
                with LIBLINEAR if machine.solver == "liblinear" else nullcontext():
                    machine.fit(Z, target, sample_weight=weights)
        n_iter = max(int(machine.n_iter_.max()) for machine in machines)
        return LinearFit(
            np.concatenate([machine.coef_ for machine in machines]),
            np.concatenate([machine.intercept_ for machine in machines]),
            n_iter,
            n_iter < self.max_iter,
        )

    def _solver(self, C: float) -> str:
        if self.l1_ratio == 0 or np.isinf(C):
            return "lbfgs"
        return "liblinear" if self.l1_ratio == 1 else "saga"

    def _machine(self, C: float, seed: int) -> Any:
        solver = self._solver(C)
        options: dict[str, Any] = {"l1_ratio": 0.0 if solver == "lbfgs" else self.l1_ratio}
        if getattr(LogisticRegression(), "penalty", "deprecated") != "deprecated":
            # Before scikit-learn 1.8 the penalty has a name, and l1_ratio alone is ignored.
            named = {"lbfgs": "l2", "liblinear": "l1", "saga": "elasticnet"}[solver]
            options = {"penalty": named} | (options if solver == "saga" else {})
        return LogisticRegression(
            C=C, solver=solver, max_iter=self.max_iter, tol=self.tol, random_state=seed, **options
        )


def predicted_codes(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Classes as indices (n,) of logits (n, K), or (n, 1) for two classes."""
    return (scores[:, 0] > 0).astype(np.int64) if scores.shape[1] == 1 else scores.argmax(axis=1)


def probabilities(scores: NDArray[np.float64], one_vs_rest: bool) -> NDArray[np.float64]:
    """Probabilities (n, K) of logits (n, K), or (n, 2) of (n, 1).

    Parameters
    ----------
    scores : array
        Logits.
    one_vs_rest : bool
        Whether every logit is that of a class against the rest. Then its sigmoids are divided by their sum.
    """
    if scores.shape[1] == 1:
        second = expit(scores)
        return np.hstack([1 - second, second])
    return softmax(log_expit(scores) if one_vs_rest else scores, axis=1)
