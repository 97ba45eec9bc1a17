"""Gaussian rows with a core and a spurious direction: accuracy of every group, of linear rules and of the best rule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import norm

from ..exceptions import DataError
from .arguments import finite, share, whole_number

__all__ = ["LinearRule", "SpuriousGaussian"]

# Equal steps, exact to rounding for smooth functions of a normal variable, and fine enough for Bayes' rule with a weak
# core, which turns within a hundredth: eighty Gauss-Hermite nodes are off by .005 there.
_NODES = np.linspace(-10, 10, 4001)
_WEIGHTS = norm.pdf(_NODES) * (_NODES[1] - _NODES[0])


@dataclass(frozen=True)
class LinearRule:
    """A linear rule ``sign(u t_core + v x_spurious)``, ``t_core`` along the unit core direction.

    Attributes
    ----------
    u, v : float
        Weights on the core direction and on the spurious column.
    aligned, minority : float
        Its accuracy on rows whose spurious attribute agrees with the label, and on the others.
    """

    u: float
    v: float
    aligned: float
    minority: float

    @property
    def ratio(self) -> float:
        """``v / u``: reliance on the spurious column."""
        return self.v / self.u


@dataclass(frozen=True)
class SpuriousGaussian:
    r"""The distribution of :func:`make_spurious_tabular`, with its accuracies in closed form.

    .. math:: x_{core} \sim N(y \, m_c / \sqrt{k} \cdot 1, I_k), \quad x_{spur} \sim N(a \, m_s, 1), \quad
              x_{noise} \sim N(0, I), \qquad y, a \in \{-1, +1\}

    Parameters
    ----------
    core_margin : float, default 1.5
        :math:`m_c`, above 0: distance of the two classes' centres from 0 along the core direction.
    spurious_margin : float, default 2.5
        :math:`m_s`.
    n_core : int, default 5
        k, core columns; they come first, then one spurious column.
    n_noise : int, default 50
        Columns of noise, after those.

    Raises
    ------
    DataError
        A number that does not fit.

    Notes
    -----
    Formulas and numbers are the library's own. Expectations are sums over a fine grid of one normal variable: right to
    1e-9 from a ``core_margin`` of .01 on.

    Examples
    --------
    >>> exact = SpuriousGaussian()
    >>> {name: round(value, 4) for name, value in exact.bayes_group_accuracy(0.95).items()}
    {'aligned': 0.9921, 'minority': 0.7045, 'average': 0.9777}
    >>> round(exact.population_logistic(0.95).ratio, 3), round(exact.population_lda(0.95).ratio, 3)
    (0.359, 0.686)
    """

    core_margin: float = 1.5
    spurious_margin: float = 2.5
    n_core: int = 5
    n_noise: int = 50

    def __post_init__(self) -> None:
        finite("core_margin", self.core_margin, above=0)
        finite("spurious_margin", self.spurious_margin)
        whole_number("n_core", self.n_core, 1)
        whole_number("n_noise", self.n_noise, 0)

    @property
    def n_features(self) -> int:
        """Columns of a row."""
        return self.n_core + 1 + self.n_noise

    @property
    def core_direction(self) -> NDArray[np.float64]:
        """Unit vector (n_features,) along which the class means differ."""
        return np.r_[np.full(self.n_core, 1 / math.sqrt(self.n_core)), np.zeros(1 + self.n_noise)]

    def linear_group_accuracy(self, w: Any, b: Any = 0.0) -> NDArray[np.float64]:
        r"""Accuracy of ``sign(w . x + b)`` on the four groups ``2 y + s``, exactly.

        .. math:: \Phi\left((m_c \, w \cdot e_{core} + y a \, w_s m_s + y b) / \|w\|\right)

        Parameters
        ----------
        w : array of n_features numbers
            For raw (unscaled) columns; ``coef_`` of a scikit-learn classifier fits.
        b : float or array of one number, default 0
            Intercept.

        Returns
        -------
        ndarray of shape (4,)
            Groups (y, s) = (0, 0), (0, 1), (1, 0), (1, 1).

        Raises
        ------
        DataError
            Another number of weights, or weights that are not finite.
        """
        try:
            weights, intercept = np.ravel(np.asarray(w, dtype=float)), np.ravel(np.asarray(b, dtype=float))
        except (TypeError, ValueError, RuntimeError) as problem:
            raise DataError(f"Got weights that are no numbers, but expected {self.n_features}: {problem}.") from problem
        if weights.shape != (self.n_features,) or intercept.shape != (1,):
            raise DataError(
                f"Got {weights.size} weights and {intercept.size} intercepts, but expected {self.n_features} and 1: a "
                "weight for each column."
            )
        if not np.isfinite(weights).all() or not np.isfinite(intercept).all():
            raise DataError(
                "Got weights that are not finite, but expected finite numbers. Look at how they were fitted."
            )
        y, a = np.array([-1, -1, 1, 1]), np.array([-1, 1, -1, 1])
        largest = np.abs(weights).max()
        if largest == 0:
            # scikit-learn's rule: a decision of 0 is the first class.
            return np.asarray(y == (1 if intercept[0] > 0 else -1), dtype=float)
        # Squares of very large or small weights are not numbers; the rule does not depend on their size.
        weights, intercept = weights / largest, intercept / largest
        size = np.linalg.norm(weights)
        margin = self.core_margin * (weights @ self.core_direction)
        spurious = weights[self.n_core] * self.spurious_margin
        return np.asarray(norm.cdf((margin + y * a * spurious + y * intercept[0]) / size))

    def bayes_group_accuracy(self, correlation: float) -> dict[str, float]:
        r"""Group accuracies of the rule with the best mean accuracy when ``P(a = y) = correlation``.

        .. math:: E_{x \sim N(\pm m_s, 1)} \Phi\left(m_c + h(x) / (2 m_c)\right), \quad
                  h(x) = \log \frac{\rho e^{m_s x} + (1 - \rho) e^{-m_s x}}{\rho e^{-m_s x} + (1 - \rho) e^{m_s x}}

        Parameters
        ----------
        correlation : float
            rho, from 0 to 1.

        Returns
        -------
        dict
            "aligned" (a = y), "minority", and their "average" in the shares rho and 1 - rho.
        """
        rho = share("correlation", correlation)
        with np.errstate(divide="ignore"):
            log_rho, log_rest = np.log([rho, 1 - rho])
        aligned, minority = (
            float(_WEIGHTS @ norm.cdf(self.core_margin + self._evidence(_NODES + center, log_rho, log_rest)))
            for center in (self.spurious_margin, -self.spurious_margin)
        )
        return {"aligned": aligned, "minority": minority, "average": rho * aligned + (1 - rho) * minority}

    def _evidence(self, x: NDArray[np.float64], log_rho: float, log_rest: float) -> NDArray[np.float64]:
        tilt = self.spurious_margin * x
        towards = np.logaddexp(log_rho + tilt, log_rest - tilt)
        against = np.logaddexp(log_rho - tilt, log_rest + tilt)
        return np.asarray((towards - against) / (2 * self.core_margin))

    def population_logistic(self, correlation: float) -> LinearRule:
        r"""Logistic regression on infinitely many rows with ``P(a = y) = correlation``, without a penalty.

        .. math:: \min_{u, v} \; E \log(1 + e^{-z}), \qquad z \sim N(u m_c \pm v m_s, u^2 + v^2)
                  \text{ with probability } \rho, 1 - \rho

        Parameters
        ----------
        correlation : float
            rho, from 0 to 1.

        Returns
        -------
        LinearRule
            The intercept and the weights of noise columns are 0 by symmetry.

        Notes
        -----
        Not the direction of linear discriminant analysis, except at rho = 0, 1/2 and 1: the two classes are mixtures.
        """
        rho = share("correlation", correlation)
        # One row each for the aligned and the minority: means of (t_core, x_spurious) times y, and masses.
        means = np.array([[self.core_margin, self.spurious_margin], [self.core_margin, -self.spurious_margin]])
        mass = np.array([[rho], [1 - rho]]) * _WEIGHTS

        def loss(rule: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            size = np.linalg.norm(rule)
            z = (means @ rule)[:, None] + size * _NODES
            pull = -mass * expit(-z)
            gradient = pull.sum(axis=1) @ means + (pull @ _NODES).sum() * rule / size
            return float((mass * np.logaddexp(0, -z)).sum()), gradient

        found = minimize(loss, x0=[2 * self.core_margin, 0.0], jac=True, method="BFGS", options={"gtol": 1e-10})
        return self._rule(float(found.x[0]), float(found.x[1]))

    def population_lda(self, correlation: float) -> LinearRule:
        r"""Linear discriminant analysis on infinitely many rows with ``P(a = y) = correlation``.

        .. math:: u = m_c, \qquad v = \frac{(2 \rho - 1) m_s}{1 + 4 \rho (1 - \rho) m_s^2}

        Parameters
        ----------
        correlation : float
            rho, from 0 to 1.

        Returns
        -------
        LinearRule
        """
        rho = share("correlation", correlation)
        spread = 1 + 4 * rho * (1 - rho) * self.spurious_margin**2
        return self._rule(self.core_margin, (2 * rho - 1) * self.spurious_margin / spread)

    def _rule(self, u: float, v: float) -> LinearRule:
        aligned, minority = (
            float(norm.cdf((u * self.core_margin + sign * v * self.spurious_margin) / math.hypot(u, v)))
            for sign in (1, -1)
        )
        return LinearRule(u, v, aligned, minority)
