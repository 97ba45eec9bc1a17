"""Where the steps of a linear head begin: at the minimiser of the plain loss, at a head of the user's, or near zero."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from .._arrays import as_tensor
from ..exceptions import ConvergenceWarning, DataError
from .environments import EnvironmentRows
from .logistic import LinearFit, PenalisedLogistic

__all__ = ["erm_start", "given_start", "random_start"]

RANDOM_SCALE = 0.01  # standard deviation of the coefficients of a random start
LBFGS_TOL, LBFGS_STEPS = 1e-6, 1000  # of the start at ERM: largest gradient of the mean loss, and most steps


def erm_start(rows: EnvironmentRows, n_classes: int, alpha: float) -> LinearFit:
    """Minimiser of the mean loss over environments plus ``alpha`` times the sum of squared coefficients.

    Warns
    -----
    ConvergenceWarning
        L-BFGS was stopped on its way.
    """
    # The solver minimises C sum_i s_i loss_i + |coef|^2 / 2; the weights of all environments together sum to 1.
    solver = PenalisedLogistic(n_classes, l1_ratio=0.0, max_iter=LBFGS_STEPS, tol=LBFGS_TOL)
    strength = 1 / (2 * alpha) if alpha else np.inf
    weights = rows.weights.mean(dim=0).numpy()
    found = solver.fit(rows.features.numpy(), rows.labels.numpy(), strength, 0, weights)
    if not found.converged:
        warnings.warn(
            f"The start at ERM is where L-BFGS was after {LBFGS_STEPS} steps, short of the minimum. Standardise the "
            "features, or raise alpha.",
            ConvergenceWarning,
            stacklevel=3,
        )
    return found


def given_start(coef_init: Any, intercept_init: Any, n_classes: int, width: int) -> LinearFit:
    """The user's coefficients and intercepts; the latter are 0 by default.

    Raises
    ------
    DataError
        Without coefficients, or for shapes that do not fit ``width`` features and so many classes.
    """
    if coef_init is None:
        raise DataError('Got init="given" without coef_init, but expected coefficients to start from.')
    outputs = n_outputs(n_classes)
    coef = np.atleast_2d(as_tensor(coef_init, name="coef_init")[0].detach().cpu().numpy())
    intercept = np.zeros(outputs)
    if intercept_init is not None:
        intercept = as_tensor(intercept_init, name="intercept_init")[0].detach().cpu().numpy()
    if coef.shape != (outputs, width) or intercept.shape != (outputs,):
        raise DataError(
            f"Got coef_init of shape {coef.shape} and intercept_init of shape {intercept.shape}, but expected "
            f"{(outputs, width)} and {(outputs,)} for {n_classes} classes and {width} features."
        )
    return LinearFit(coef, intercept, 0, True)


def random_start(n_classes: int, width: int, rng: np.random.RandomState) -> LinearFit:
    """Coefficients from N(0, 0.01^2), intercepts 0."""
    outputs = n_outputs(n_classes)
    return LinearFit(rng.normal(0.0, RANDOM_SCALE, (outputs, width)), np.zeros(outputs), 0, True)


def n_outputs(n_classes: int) -> int:
    """Logits of a head: one for two classes, else one a class."""
    return 1 if n_classes == 2 else n_classes
