"""The matrix Riccati flow of balanced linear networks, marched exactly through time in its eigenbasis."""

from __future__ import annotations

import math
import warnings

import numpy as np
from numpy.typing import NDArray

from ..exceptions import ConvergenceWarning

__all__ = ["march"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_REACH = 3.0  # largest exponent of a sub-step
_MOST = 100_000  # sub-steps
_STILL = 1e-14  # relative change of a sub-step that is rounding
_GONE = 1e-34  # of the largest diagonal entry
_FLAT = 1e-13  # of the largest rate, below which a rate is zero


def march(Q: Floats, rates: Floats, t: Floats) -> Floats:
    r"""Factors of the solution of ``dG/dt = F G + G F - G^2`` with ``F = diag(rates)`` and ``G = Q Q^T``.

    .. math::
        L L^\top = I + Q^\top \mathrm{diag}\Big(\frac{e^{2 l D} - 1}{2 l}\Big) Q, \qquad
        Q \leftarrow \mathrm{diag}(e^{l D}) \, Q \, L^{-\top}

    is exact for a step of any length D. Sub-steps are short enough that nothing overflows or cancels, and end when
    they change nothing; all times within one are reached from its start at once.

    Parameters
    ----------
    Q : array of shape (..., m, h)
        At time 0.
    rates : array of shape (..., m)
        l.
    t : array of shape (T,)
        Times in any order, infinity allowed.

    Returns
    -------
    array of shape (..., T, m, h)
        Up to a rotation of the last axis.

    Warns
    -----
    ConvergenceWarning
        After 100 000 sub-steps; what was reached is returned.
    """
    times, place = np.unique(t, return_inverse=True)
    states = np.empty((*Q.shape[:-2], len(times), *Q.shape[-2:]))
    flat = np.abs(rates) <= _FLAT * np.abs(rates).max(axis=-1, keepdims=True)
    now, done = 0.0, 0  # times[:done] have their states
    settled = bool(flat.all())
    for _ in range(_MOST):
        if settled:
            states[..., done:, :, :] = _rest(Q, flat, times[done:] - now)
            break
        length = _reach(Q, rates, flat)
        if math.isfinite(times[done]):  # all problems of a batch go together; to infinity, each in its own steps
            step = float(length.min())
            reached = int(np.searchsorted(times, now + step, side="right"))
            gaps = (times[done:reached] - now)[:, np.newaxis]
            states[..., done:reached, :, :] = _step(Q[..., np.newaxis, :, :], rates[..., np.newaxis, :], gaps)
            done = reached
            if done == len(times):
                break
            length, now = np.full_like(length, step), now + step
        before, Q = Q, _step(Q, rates, length)
        settled = _settled(before, Q, rates, flat)
    else:
        message = f"{_MOST} sub-steps did not reach a state that stays; what was reached is returned."
        warnings.warn(message, ConvergenceWarning, stacklevel=3)
        states[..., done:, :, :] = Q[..., np.newaxis, :, :]
    return states[..., place, :, :]


def _step(Q: Floats, rates: Floats, length: Floats) -> Floats:
    """Both sides of the formula times ``exp(-c D)``, c the largest rate: nothing overflows."""
    largest = rates.max(axis=-1, keepdims=True)
    size = np.abs(rates)
    area = np.where(size == 0, length, -np.expm1(-2 * size * length) / np.where(size == 0, 1.0, 2 * size))
    growth = np.exp(2 * (np.maximum(rates, 0.0) - largest) * length) * area
    one = np.exp(-2 * largest * length)[..., np.newaxis] * np.eye(Q.shape[-1])
    root = np.linalg.cholesky(one + Q.mT @ (growth[..., np.newaxis] * Q))
    grown = np.exp((rates - largest) * length)[..., np.newaxis] * Q
    return np.asarray(np.linalg.solve(root, grown.mT).mT)


def _reach(Q: Floats, rates: Floats, flat: Flags) -> Floats:
    """Length of a sub-step after which no row has lost its digits beside the others, shape (..., 1)."""
    fastest = np.abs(rates).max(axis=-1, keepdims=True)
    rows = (Q**2).sum(axis=-1)
    seen = rows > _GONE * rows.max(axis=-1, keepdims=True)
    if (seen & (flat | (rates < 0))).any():
        return _REACH / np.where(fastest > 0, fastest, 1.0)
    # Only growing rows are left. Where they fill all hidden units, only differences of their rates count: with fewer
    # units than features and a large balance these are tiny, and decide late which features are kept.
    spread = fastest - np.where(seen, rates, fastest).min(axis=-1, keepdims=True)
    filled = np.linalg.eigvalsh(Q.mT @ Q)
    full = filled[..., :1] > 1e-2 * filled[..., -1:]
    return _REACH / np.where(full, np.maximum(spread, _FLAT * fastest), fastest)


def _settled(before: Floats, after: Floats, rates: Floats, flat: Flags) -> bool:
    """Whether no row with a rate moves any more, and none that is too small to see will."""
    old, new = before @ before.mT, after @ after.mT
    first, last = np.diagonal(old, axis1=-2, axis2=-1), np.diagonal(new, axis1=-2, axis2=-1)
    seen = last > _GONE * last.max(axis=-1, keepdims=True)
    rising, falling = (rates > 0) & ~flat, (rates < 0) & ~flat
    if (falling & seen).any() or (rising & ~seen & (last > first)).any():
        return False
    high = rising & seen
    size = np.sqrt(last)
    rounding = _STILL * size[..., :, np.newaxis] * size[..., np.newaxis, :]
    moved = (np.abs(new - old) > rounding) & high[..., :, np.newaxis] & high[..., np.newaxis, :]
    joined = (np.abs(new) > rounding) & high[..., :, np.newaxis] & (flat & seen)[..., np.newaxis, :]
    return not (moved.any() or joined.any())


def _rest(Q: Floats, flat: Flags, gaps: Floats) -> Floats:
    """Rows of rate zero, alone from here on, decay as a power of time: one step of any length is exact."""
    Q, flat = Q[..., np.newaxis, :, :], flat[..., np.newaxis, :, np.newaxis]
    if not flat.any():
        return Q
    left, values, right = np.linalg.svd(np.where(flat, Q, 0.0), full_matrices=False)
    root = np.sqrt(gaps)[:, np.newaxis]
    values = np.where(np.isinf(root), 0.0, values / np.hypot(1.0, np.where(np.isinf(root), 0.0, root) * values))
    return np.where(flat, (left * values[..., np.newaxis, :]) @ right, Q)
