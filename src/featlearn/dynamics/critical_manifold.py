"""Where a fast alignment rests while a slow second layer drifts: the curve, its stability, and where it ends."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.polynomial import Polynomial
from numpy.typing import NDArray

from ..exceptions import ConvergenceWarning
from .short_repr import short_repr

__all__ = ["CriticalManifold", "Fate"]

Floats = NDArray[np.float64]
Outcome = Literal["learn", "partial", "unlearn", "separatrix"]

_MERGED = 1e-6  # two roots of a fold lie within about the square root of rounding
_SAME = 1e-9


@dataclass(frozen=True)
class Fate:
    """Where the flow ends when the alignment is infinitely fast.

    Attributes
    ----------
    outcome : {"learn", "partial", "unlearn", "separatrix"}
        Alignment of size 1; between 0 and 1; 0; or a start on the border between two of these.
    R, a : float
        Limits of alignment and second layer; the latter may be infinite.
    corners : tuple of (R, a)
        The start, and both ends of every jump and of every drift along a branch.
    jumps : int
        Jumps after the first, fast approach to the manifold.
    """

    outcome: Outcome
    R: float
    a: float
    corners: tuple[tuple[float, float], ...]
    jumps: int


@short_repr
@dataclass(frozen=True, eq=False)
class CriticalManifold:
    r"""Curve ``a = A(R)`` on which the alignment rests, and the slow drift ``G(R)`` of a along it.

    .. math::
        A(R) = \frac{\sum_k k \sigma_k \tau_k R^{k-1}}{\sum_k k \sigma_k^2 R^{2k-1}}, \quad
        G(R) = \sum_k \sigma_k R^k (\tau_k - A \sigma_k R^k)

    Parameters
    ----------
    sigma, tau : array of shape (K,)
        Hermite coefficients of student and teacher from degree 1 on; some sigma is not 0.

    Notes
    -----
    Everything is a root of a polynomial of degree below 3 K, found as eigenvalues of its companion matrix.

    Examples
    --------
    >>> manifold = CriticalManifold(np.array([1.0, 0.5]), np.array([1.0, 0.1]))
    >>> manifold.fate(0.05, 1.0).outcome, round(manifold.fate(0.05, 1.0).R, 3)
    ('partial', 0.2)
    """

    sigma: Floats
    tau: Floats

    # --- the curve ----------------------------------------------------------------------------------------------------

    @cached_property
    def _numerator(self) -> Polynomial:
        degrees = np.arange(1, len(self.sigma) + 1)
        return Polynomial(degrees * self.sigma * self.tau)

    @cached_property
    def _denominator(self) -> Polynomial:
        coefficients = np.zeros(2 * len(self.sigma))
        coefficients[1::2] = np.arange(1, len(self.sigma) + 1) * self.sigma**2
        return Polynomial(coefficients)

    @cached_property
    def drift(self) -> Polynomial:
        r"""Numerator of G over the same denominator, :math:`\sum_{jk} (k-j) \sigma_j \tau_j \sigma_k^2 R^{j+2k-1}`."""
        return self._pairs(lambda j, k: k - j, -1)

    @cached_property
    def slope(self) -> Polynomial:
        r"""Numerator of A' over the denominator's square, :math:`\sum_{jk} jk (j-2k) \sigma_j \tau_j \sigma_k^2
        R^{j+2k-3}`.
        """
        return self._pairs(lambda j, k: j * k * (j - 2 * k), -3)

    def _pairs(self, factor: Callable[[Any, Any], Any], shift: int) -> Polynomial:
        # Written out pair by pair, equal degrees cancel exactly; as products of polynomials they would leave rounding
        # errors, and these would be roots.
        K = len(self.sigma)
        j, k = np.meshgrid(np.arange(1, K + 1), np.arange(1, K + 1), indexing="ij")
        terms = factor(j, k) * (self.sigma * self.tau)[:, np.newaxis] * self.sigma**2
        return Polynomial(np.bincount((j + 2 * k + shift).ravel(), weights=terms.ravel(), minlength=3 * K))

    def A(self, R: Floats | float) -> Floats:
        """Second layer at which alignment R rests; infinite at a pole."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self._numerator(R) / self._denominator(R))

    def G(self, R: Floats | float) -> Floats:
        """Drift of a on the manifold, ``da / d(eps t)``."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.drift(R) / self._denominator(R))

    def attracting(self, R: Floats | float) -> NDArray[np.bool_]:
        """Whether the alignment returns to the manifold after a small push."""
        return np.asarray(self._numerator(R) * self.slope(R) < 0)  # the sign of A D A', which decides at any sign of a

    @cached_property
    def folds(self) -> Floats:
        """Alignments inside (-1, 1), not 0, at which branches of the manifold meet: ``A' = 0``."""
        return _roots(self.slope)

    @cached_property
    def equilibria(self) -> Floats:
        """Alignments inside (-1, 1), not 0, at which the whole flow rests: ``G = 0``."""
        return _roots(self.drift)

    @cached_property
    def _vanishing(self) -> Floats:
        return _roots(self._numerator)

    # --- the walk -----------------------------------------------------------------------------------------------------

    def fate(self, R: float, a: float) -> Fate:
        """Limit of a flow from alignment R and second layer a: fast approach, drift along branches, jumps off folds."""
        corners = [(R, a)]
        sign = float(np.sign(a) or np.sign(self._strength(R)))
        direction = float(np.sign(sign * self._field(R, a)))
        at_rest = [root for root in self._rests(a) if abs(root - R) <= _SAME * abs(root) and self._holds(root, a)]
        if not at_rest and direction == 0:
            return Fate("separatrix", R, a, tuple(corners), 0)
        R = at_rest[0] if at_rest else self._land(R, a, direction)
        corners.append((R, a))
        jumps = 0
        for _ in range(20 * len(self.sigma)):
            arrived, R_next, a_next, direction = self._edge(R, a) if abs(R) == 1 else self._branch(R, a)
            if arrived:
                return Fate(arrived, R_next, a_next, (*corners, (R_next, a_next)), jumps)
            corners.append((R_next, a_next))
            R, a = R_next, a_next
            if direction:
                R, jumps = self._land(R, a, direction, _MERGED), jumps + 1
                corners.append((R, a))
        warnings.warn(f"The drift from R={corners[0][0]:g}, a={corners[0][1]:g} did not end.", ConvergenceWarning, 2)
        return Fate("partial", R, a, tuple(corners), jumps)

    def _field(self, R: float, a: float) -> float:
        return float(self._numerator(R) - a * self._denominator(R))

    def _strength(self, R: float) -> float:
        return float(np.sum(self.sigma * self.tau * R ** np.arange(1, len(self.sigma) + 1)))

    def _holds(self, R: float, a: float) -> bool:
        """Whether a start at rest stays there under small pushes."""
        return a * float(self._numerator.deriv()(R) - a * self._denominator.deriv()(R)) < 0

    def _land(self, R: float, a: float, direction: float, merged: float = 0.0) -> float:
        """First alignment in this direction at which the fast flow rests, beyond R and what is merged with it."""
        beyond = [root for root in self._rests(a) if (root - R) * direction > merged * abs(R)]
        return min(beyond, key=lambda root: abs(root - R)) if beyond else math.copysign(1.0, direction)

    def _rests(self, a: float) -> list[float]:
        """Alignments inside (-1, 1) at which the fast flow rests."""
        zero = [0.0] if self._numerator.coef[0] == 0 else []
        return [*_roots(self._numerator - a * self._denominator).tolist(), *zero]

    def _branch(self, R: float, a: float) -> tuple[Outcome | None, float, float, float]:
        """Drift along a branch to its next event: (outcome, R, a, direction of the jump or 0)."""
        if R == 0:
            return "unlearn", 0.0, a, 0.0
        near = self.equilibria[np.abs(self.equilibria - R) <= _SAME * abs(R)]
        if len(near) or not self.drift.coef.any():
            unstable = len(near) and self.drift.deriv()(R) * self._denominator(R) * self.slope(R) > 0
            return "separatrix" if unstable else "partial", R, a, 0.0
        growth = float(np.sign(self.drift(R) * self._denominator(R)))
        way = growth * float(np.sign(self.slope(R)))
        events = np.concatenate([self.equilibria, self.folds, self._vanishing, [0.0, way]])
        beyond = events[(events - R) * way > 0]
        end = float(beyond[np.argmin(np.abs(beyond - R))])
        if end in self.equilibria:
            return "partial", end, float(self.A(end)), 0.0
        if end == 0.0:
            return "unlearn", 0.0, self._at_zero(growth), 0.0
        if abs(end) == 1:
            at = float(self.A(end))
            return ("learn" if self._rests_at(end) else None), end, at, 0.0
        if end in self._vanishing:  # a changes its sign, and with it the fast flow
            return None, end, 0.0, growth * float(np.sign(self._numerator((R + end) / 2)))
        at = float(self.A(end))
        return None, end, at, float(-np.sign(at) * growth * np.sign(self._denominator(end)))

    def _at_zero(self, growth: float) -> float:
        """Limit of A at R = 0, where the branch's a grows without bound unless the lowest powers are the same."""
        top, bottom = (p.coef[np.flatnonzero(p.coef)] for p in (self._numerator, self._denominator))
        degree_top, degree_bottom = (int(np.flatnonzero(p.coef)[0]) for p in (self._numerator, self._denominator))
        if degree_top < degree_bottom:
            return growth * math.inf
        return float(top[0] / bottom[0]) if degree_top == degree_bottom else 0.0

    def _rests_at(self, edge: float) -> bool:
        """Whether the second layer that fits best at full alignment is the one at which the branch gets there."""
        return abs(self._best(edge) - float(self.A(edge))) <= _SAME * (1 + abs(self._best(edge)))

    def _best(self, edge: float) -> float:
        return self._strength(edge) / float(np.sum(self.sigma**2))

    def _edge(self, R: float, a: float) -> tuple[Outcome | None, float, float, float]:
        """Drift at full alignment, where a tends to its best value unless the edge loses its stability before."""
        best, leave = self._best(R), float(self.A(R))
        near = _SAME * (1 + abs(a) + abs(best))
        losses = [c for c in (leave, 0.0) if min(a, best) + near < c < max(a, best) - near]
        if not losses:
            return "learn", R, best, 0.0
        at = min(losses, key=lambda c: abs(c - a))
        growth = math.copysign(1.0, best - a)
        if at == leave and at != 0 and self.attracting(R) and -R * float(self.slope(R)) * growth > 0:
            return None, math.nextafter(R, 0.0), at, 0.0  # the branch takes over without a jump
        return None, R, at, -R


def _roots(polynomial: Polynomial) -> Floats:
    """Real roots inside (-1, 1), not 0, in increasing order; those at the ends up to rounding are left out."""
    coefficients = np.trim_zeros(polynomial.coef)
    if len(coefficients) < 2:
        return np.zeros(0)
    roots = Polynomial(coefficients).roots()
    real = np.real(roots[np.abs(np.imag(roots)) <= _SAME * np.maximum(np.abs(roots), _SAME)])
    return np.unique(real[np.abs(real) < 1 - _SAME])
