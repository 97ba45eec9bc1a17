"""Mean-field networks whose neurons are functions: the optimum by a problem in as few dimensions as there are data."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..exceptions import ConvergenceWarning, DataError
from .functional_dual import MOST_SOBOL_DIMENSIONS, Dual, grid_rules, sobol_rules
from .functional_mean_field_results import FunctionalOptimum, ParticleRun
from .hermite import Activation, Function, activation_named
from .short_repr import short_repr
from .solvable import Agreement, Trajectory, agreement, as_floats

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["FunctionalMeanField", "FunctionalOptimum", "ParticleRun"]

Floats = NDArray[np.float64]
Method = Literal["auto", "quadrature", "sobol"]
Solver = Literal["newton", "coordinate_ascent"]

_RANK = 1e-10  # singular values below this share of the largest move no score by more than rounding
_MOST_DIMENSIONS = 3
_NODES, _POINTS = 40, 2**16
_FEWEST_NODES, _MOST_NODES = 4, 200
_FEWEST_EFFECTIVE = 100.0
_LARGEST_ERROR = 5e-3
_SOLVERS = ("newton", "coordinate_ascent")


@short_repr
@dataclass(frozen=True, eq=False)
class FunctionalMeanField:
    r"""Infinitely many neurons, each of them a function, fitted to functional data.

    .. math::
        \min_\mu \; \frac{1}{n} \sum_{i=1}^n \tfrac12 (f(x_i) - y_i)^2 + T \, \mathrm{KL}(\mu | \nu), \quad
        f(x) = E_{w \sim \mu} h(\langle w, x \rangle), \quad \nu = N(0, \mathrm{diag}\, C)

    over all distributions of neurons w, in the coefficients of any orthonormal basis. The optimum is

    .. math::
        \mu^* \propto \nu \, \exp\Bigl(-\frac{1}{nT} \sum_i g_i h(\langle w, x_i \rangle)\Bigr), \quad g = f - y

    and sees w only through its n scores :math:`\langle w, x_i \rangle`, which are Gaussian under the prior: the problem
    has as many dimensions as X has independent rows, whatever M is.

    Parameters
    ----------
    X : array_like of shape (n, M)
        Coefficients of the inputs, not all zero.
    y : array_like of shape (n,)
        Targets.
    prior : array_like of shape (M,)
        C, the variances of the neurons' coefficients, positive; summable as M grows.
    activation : str or (function, derivative), default "tanh"
        h: "tanh", "erf", "sin", "sigmoid", or functions over arrays, bounded by 1.
    temperature : float, default 0.02
        T, positive.

    Raises
    ------
    DataError
        Numbers that are not finite or out of range, or shapes that do not fit.

    Notes
    -----
    Provenance: that neurons in a Hilbert space can be optimised with a Kullback-Leibler penalty by particle methods is
    published (abstract); the reduction, its solvers and both particle methods are derived here, checked, and are not
    the algorithms of that paper.

    References
    ----------
    Nishikawa, Suzuki and Nitanda, "Two-layer neural network on infinite dimensional data: global optimization guarantee
    in the mean-field regime", NeurIPS 2022.

    Examples
    --------
    >>> k = np.arange(1, 201)
    >>> X = np.cos(np.outer([1, 2, 3], k)) / k
    >>> model = FunctionalMeanField(X, [0.5, -0.4, 0.2], prior=1 / k**2)
    >>> model.theory().f.round(4).tolist()
    [0.1975, -0.2753, -0.0446]
    """

    X: Floats
    y: Floats
    prior: Floats
    activation: Activation
    temperature: float
    _singular: tuple[Floats, Floats] = field(repr=False)

    def __init__(
        self,
        X: ArrayLike,
        y: ArrayLike,
        prior: ArrayLike,
        *,
        activation: str | tuple[Function, Function] = "tanh",
        temperature: float = 0.02,
    ) -> None:
        inputs, targets = as_floats(X, "X"), as_floats(y, "y")
        variances = as_floats(prior, "prior", positive=True)
        if inputs.ndim != 2 or targets.shape != inputs.shape[:1] or variances.shape != inputs.shape[1:]:
            raise DataError(
                f"Got X of shape {inputs.shape}, y of shape {targets.shape} and prior of shape {variances.shape}, "
                "but expected (n, M), (n,) and (M,)."
            )
        if not inputs.any():
            raise DataError("Got X that is all zero, but expected inputs that neurons can tell apart.")
        if as_floats(temperature, "temperature", positive=True).ndim:
            raise DataError("Got an array as temperature, but expected one number; make a model for each.")
        left, values, right = np.linalg.svd(inputs * np.sqrt(variances), full_matrices=False)
        kept = values > _RANK * values[0]
        fields = {"X": inputs, "y": targets, "prior": variances, "temperature": float(temperature)}
        fields |= {"activation": _bounded(activation), "_singular": (left[:, kept] * values[kept], right[kept])}
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @property
    def rank(self) -> int:
        """Number of independent scores, the dimensions of the problem."""
        return self._singular[0].shape[1]

    @property
    def score_root(self) -> Floats:
        """Matrix (n, rank) that makes the scores of a neuron of standard normal z (rank,)."""
        return self._singular[0]

    @property
    def directions(self) -> Floats:
        """Orthonormal rows (rank, M): z of a neuron w is ``directions @ (w / sqrt(prior))``."""
        return self._singular[1]

    # --- theory -------------------------------------------------------------------------------------------------------

    @cached_property
    def optimum(self) -> FunctionalOptimum:
        """:meth:`theory` with its defaults, computed once."""
        return self.theory()

    def theory(
        self,
        method: Method = "auto",
        *,
        solver: Solver = "newton",
        n_points: int | None = None,
        tol: float = 1e-12,
        max_iter: int = 1000,
        random_state: int | None = None,
    ) -> FunctionalOptimum:
        r"""The optimum, from its dual.

        .. math::
            D(g) = -\frac{1}{n} \sum_i \left(\tfrac12 g_i^2 + g_i y_i\right) - T \log Z(g), \quad
            \text{primal at } \mu_g \text{ minus } D(g) = \frac{1}{2n} |f - y - g|^2

        Parameters
        ----------
        method : {"auto", "quadrature", "sobol"}
            How to average over the prior: on an even grid, for up to three dimensions, or over scrambled Sobol points.
        solver : {"newton", "coordinate_ascent"}
            The second takes many cheap steps, none of which makes the dual smaller.
        n_points : int, optional
            Nodes of the grid a dimension, 40 by default; or Sobol points, a power of 2, 65536 by default.
        tol : float, default 1e-12
            Largest ``|f - y - g|`` at which to stop.
        max_iter : int, default 1000
            Newton steps, or rounds over all coordinates.
        random_state : int, optional
            Of the Sobol points; by default a fresh one.

        Returns
        -------
        FunctionalOptimum

        Raises
        ------
        DataError
            Unknown names, bad numbers, or quadrature in more than three dimensions.

        Warns
        -----
        ConvergenceWarning
            No convergence within ``max_iter``; fewer than 100 Sobol points that count at the optimum; or an f that
            another rule for the average moves by more than 0.005.

        Notes
        -----
        Newton takes four to ten steps. Each costs O(n^2) a point, 64000 points in three dimensions.
        """
        quadrature, count = self._checked(method, solver, n_points, tol, max_iter)
        rules = grid_rules(self.rank, count) if quadrature else sobol_rules(self.rank, count, random_state)
        points, log_prior = next(rules)
        dual = self._dual(points, log_prior)
        g, gaps = (dual.newton if solver == "newton" else dual.coordinate_ascent)(tol, max_iter)
        weights, log_z, f = dual.at(g)
        if np.abs(f - self.y - g).max() > tol:
            text = f"The dual has a gap of {gaps[-1]:.2g} after {len(gaps) - 1} iterations"
            warnings.warn(f"{text}; raise max_iter or tol.", ConvergenceWarning, stacklevel=2)
        error = float(np.abs(self._dual(*next(rules)).at(g)[2] - f).max())
        effective = 1.0 / float(np.sum(weights**2))
        if error > _LARGEST_ERROR or (not quadrature and effective < _FEWEST_EFFECTIVE):
            text = f"The averages are rough: another rule moves f by {error:.2g}, {effective:.0f} points count"
            warnings.warn(f"{text}; raise n_points or the temperature.", ConvergenceWarning, stacklevel=2)
        kl = float(-(g @ f) / (len(f) * self.temperature) - log_z)
        loss = float(np.mean((f - self.y) ** 2)) / 2
        return FunctionalOptimum(
            f=f,
            dual=g,
            objective=loss + self.temperature * kl,
            loss=loss,
            kl=kl,
            gaps=gaps,
            method="quadrature" if quadrature else "sobol",
            solver=solver,
            effective_points=effective,
            integration_error=error,
            points=points,
            weights=weights,
            model=self,
        )

    def _checked(self, method: str, solver: str, n_points: int | None, tol: float, max_iter: int) -> tuple[bool, int]:
        """Whether to use quadrature, and the number of its nodes or of Sobol points."""
        if method not in ("auto", "quadrature", "sobol"):
            raise DataError(f"Got method={method!r}, but expected 'auto', 'quadrature' or 'sobol'.")
        if solver not in _SOLVERS:
            raise DataError(f"Got solver={solver!r}, but expected one of {_SOLVERS}.")
        as_floats(tol, "tol", positive=True)
        _positive(max_iter, "max_iter")
        if method == "quadrature" and self.rank > _MOST_DIMENSIONS:
            raise DataError(
                f"Got {self.rank} independent inputs, but quadrature takes at most {_MOST_DIMENSIONS}: use 'sobol'."
            )
        quadrature = method == "quadrature" or (method == "auto" and self.rank <= _MOST_DIMENSIONS)
        if not quadrature and self.rank > MOST_SOBOL_DIMENSIONS:
            text = (
                f"Got {self.rank} independent inputs, but Sobol points have at most {MOST_SOBOL_DIMENSIONS} dimensions"
            )
            raise DataError(f"{text}; fit a subset.")
        count = n_points if n_points is not None else _NODES if quadrature else _POINTS
        _positive(count, "n_points")
        if quadrature and not _FEWEST_NODES <= count <= _MOST_NODES:
            raise DataError(f"Got n_points={count}, but expected {_FEWEST_NODES} to {_MOST_NODES} nodes a dimension.")
        if not quadrature and count & (count - 1):
            raise DataError(f"Got n_points={count}, but expected a power of 2 for Sobol points.")
        return quadrature, count

    def _dual(self, points: Floats, log_weights: Floats) -> Dual:
        h = np.asarray(self.activation.function(points @ self.score_root.T), dtype=np.float64)
        return Dual(h, log_weights, self.y, self.temperature)

    # --- simulation ---------------------------------------------------------------------------------------------------

    def simulate(
        self,
        n_particles: int = 200,
        step: float = 0.05,
        n_steps: int = 600,
        method: Literal["preconditioned", "semi_implicit"] = "preconditioned",
        random_state: int | None = None,
    ) -> ParticleRun:
        r"""Noisy gradient descent of finitely many neurons, started from the prior.

        .. math::
            \text{preconditioned: } w \leftarrow e^{-s} w - (1 - e^{-s}) \frac{C}{T} \nabla
            + \sqrt{1 - e^{-2s}} \sqrt{C} \, \xi, \qquad
            \text{semi_implicit: } w \leftarrow \frac{w - s \nabla + \sqrt{2 s T} \, \xi}{1 + s T / C}

        with :math:`\nabla = \frac{1}{n} \sum_i (f(x_i) - y_i) \, h'(\langle w, x_i \rangle) \, x_i`.

        Parameters
        ----------
        n_particles : int, default 200
        step : float, default 0.05
            s, positive.
        n_steps : int, default 600
            f is the average over the second half of them.
        method : {"preconditioned", "semi_implicit"}
            The first is exact for the prior in every mode. The second makes modes with ``s T / C > 1`` too narrow: the
            variance of one of curvature c is ``2 s T / ((1 + s T / C)^2 - (1 - s c)^2)``.
        random_state : int, optional
            Seed; by default a fresh one.

        Returns
        -------
        ParticleRun

        Raises
        ------
        DataError
            An unknown method, or bad numbers.

        Notes
        -----
        Costs O(n_particles n M) a step; neither method diverges, at any step. The explicit step would for
        ``s > 2 min(C) / T``, which is soon everything as M grows.
        """
        if method not in ("preconditioned", "semi_implicit"):
            raise DataError(f"Got method={method!r}, but expected 'preconditioned' or 'semi_implicit'.")
        for name, count in (("n_particles", n_particles), ("n_steps", n_steps)):
            _positive(count, name)
        if as_floats(step, "step", positive=True).ndim:
            raise DataError("Got an array as step, but expected one number.")
        keep, push, spread = self._particle_factors(step, method)
        rng = np.random.default_rng(random_state)
        W = rng.standard_normal((n_particles, len(self.prior))) * np.sqrt(self.prior)
        outputs = np.empty((len(self.y), n_steps + 1))
        for i in range(n_steps + 1):
            scores = W @ self.X.T
            outputs[:, i] = f = self.activation.function(scores).mean(axis=0)
            if i < n_steps:
                gradient = (self.activation.derivative(scores) * ((f - self.y) / len(f))) @ self.X
                W = keep * W - push * gradient + spread * rng.standard_normal(W.shape)
        loss = np.mean((outputs - self.y[:, np.newaxis]) ** 2, axis=0) / 2
        units = "gradient flow" if method == "semi_implicit" else "gradient flow preconditioned by prior / temperature"
        trajectory = Trajectory(step * np.arange(n_steps + 1.0), {"f": outputs, "loss": loss}, units)
        biased = int(np.sum(step * self.temperature > self.prior)) if method == "semi_implicit" else 0
        half = (n_steps + 1) // 2
        return ParticleRun(outputs[:, half:].mean(axis=1), W, trajectory, method, float(step), biased)

    def _particle_factors(self, step: float, method: str) -> tuple[Any, Floats, Floats]:
        """Of the old particle, its gradient and the noise."""
        if method == "preconditioned":
            kept, variance = np.exp(-step), -np.expm1(-2 * step)
            return kept, -np.expm1(-step) * self.prior / self.temperature, np.sqrt(variance * self.prior)
        shrink = self.prior / (self.prior + step * self.temperature)
        return shrink, step * shrink, np.sqrt(2 * step * self.temperature) * shrink

    def verify(self, run: ParticleRun | None = None, *, tolerance: float = 0.02) -> Agreement:
        """The optimum's f against that of particles, input by input; by default ``simulate(random_state=0)``."""
        found = run if run is not None else self.simulate(random_state=0)
        inputs = np.arange(len(self.y), dtype=np.float64)
        theory, particles = (Trajectory(inputs, {"f": f}, "inputs") for f in (self.optimum.f, found.f))
        return agreement(theory, particles, tolerance)

    # --- showing ------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Parameters as plain numbers."""
        arrays = {name: getattr(self, name).tolist() for name in ("X", "y", "prior")}
        plain = {"activation": self.activation.name, "temperature": self.temperature}
        return {"kind": "FunctionalMeanField", "schema": 1} | arrays | plain

    def frame(self) -> pd.DataFrame:
        """One row an input: target, output and dual of :attr:`optimum`."""
        return self.optimum.frame()

    def plot(
        self,
        basis: ArrayLike | None = None,
        ax: Axes | Iterable[Axes] | None = None,
        *,
        at: ArrayLike | None = None,
        run: ParticleRun | None = None,
    ) -> list[Axes]:
        """Neurons of :attr:`optimum` as functions, its outputs, and its gap; see :meth:`FunctionalOptimum.plot`."""
        return self.optimum.plot(basis, ax, at=at, run=run)


def _bounded(activation: str | tuple[Function, Function]) -> Activation:
    found = activation_named(activation, "activation")
    largest = float(np.abs(found.function(np.linspace(-100.0, 100.0, 4001))).max())
    if not largest <= 1 + 1e-12:
        raise DataError(f"Got activation={found.name!r} with values up to {largest:g}, but expected at most 1.")
    return found


def _positive(count: Any, name: str) -> None:
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
        raise DataError(f"Got {name}={count!r}, but expected a positive integer.")
