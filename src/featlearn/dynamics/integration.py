"""The independent path of every model: its raw equations, integrated by scipy."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from ..exceptions import ConvergenceWarning, DataError

__all__ = ["integrate"]

Floats = NDArray[np.float64]


def integrate(
    flow: Callable[[Floats], Floats],
    start: Floats,
    t: Floats,
    *,
    method: Literal["DOP853", "LSODA"] = "DOP853",
    rtol: float = 1e-11,
    atol: float = 1e-12,
) -> Floats:
    """Solution of ``dx/dt = flow(x)`` at times in any order.

    Parameters
    ----------
    flow : callable
        Array of the shape of ``start`` to an array of that shape.
    start : array
        x at time 0.
    t : array of shape (T,)
        Finite times of at least 0.
    method : {"DOP853", "LSODA"}, default "DOP853"
        The second when the run is stiff.
    rtol, atol : float
        Tolerances of a step.

    Returns
    -------
    array of shape (*start.shape, T)
        nan after the time at which the integrator gave up, with a ConvergenceWarning.

    Raises
    ------
    DataError
        An infinite time.

    Examples
    --------
    >>> integrate(lambda x: -x, np.array([1.0]), np.array([1.0, 0.0])).round(6).tolist()
    [[0.367879, 1.0]]
    """
    if not np.isfinite(t).all():
        raise DataError(
            "Got t=inf, but expected finite times: an integrator takes steps, only a closed form has a limit."
        )
    times, place = np.unique(np.append(t, 0.0), return_inverse=True)
    values = np.full((start.size, len(times)), np.nan)
    values[:, 0] = start.ravel()
    if len(times) > 1:
        solution = solve_ivp(
            lambda _, x: flow(x.reshape(start.shape)).ravel(),
            (0.0, times[-1]),
            start.ravel(),
            method=method,
            t_eval=times,
            rtol=rtol,
            atol=atol,
        )
        values[:, : solution.y.shape[1]] = solution.y
        if not solution.success:
            warnings.warn(f"The integration stopped early: {solution.message}", ConvergenceWarning, stacklevel=2)
    return values[:, place[:-1]].reshape(*start.shape, len(t))
