"""What is known of neurons that are functions: their optimal distribution, and a run of finitely many of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline

from ..exceptions import DataError
from .functional_dual import normal_grid
from .short_repr import short_repr
from .solvable import Trajectory, as_floats

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from .functional_mean_field import FunctionalMeanField

__all__ = ["FunctionalOptimum", "ParticleRun"]

Floats = NDArray[np.float64]

_NODES, _KNOTS = 40, 2000
_DRAWN = 30


@short_repr
@dataclass(frozen=True, eq=False)
class FunctionalOptimum:
    """The optimal distribution of neurons, as weights of points in the space of their scores.

    Attributes
    ----------
    f : array of shape (n,)
        Outputs at the inputs.
    dual : array of shape (n,)
        g, which is f - y at the optimum.
    objective, loss, kl : float
        ``loss + T kl``; half the mean squared error; Kullback-Leibler divergence from the prior.
    gaps : array
        Primal minus dual at the start and after each iteration.
    method, solver : str
    effective_points : float
        ``1 / sum of the squared weights``: how many points count.
    integration_error : float
        Largest change of f by another rule for the average at the same g.
    points : array of shape (K, rank)
        Standard normal under the prior.
    weights : array of shape (K,)
        Of the points, sum 1.
    model : FunctionalMeanField
    """

    f: Floats
    dual: Floats
    objective: float
    loss: float
    kl: float
    gaps: Floats = field(repr=False)
    method: str
    solver: str
    effective_points: float
    integration_error: float
    points: Floats = field(repr=False)
    weights: Floats = field(repr=False)
    model: FunctionalMeanField = field(repr=False)

    @property
    def gap(self) -> float:
        """Primal minus dual: the objective is at most this far above its minimum."""
        return float(self.gaps[-1])

    def predict(self, X: ArrayLike) -> Floats:
        """Outputs f at new inputs (n_new, M).

        Given the scores at the old inputs, that at a new one is Gaussian, as under the prior: one more average. Costs
        some 10 milliseconds an input for 65536 points.
        """
        inputs = as_floats(X, "X")
        if inputs.ndim != 2 or inputs.shape[1] != len(self.model.prior):
            raise DataError(f"Got X of shape {inputs.shape}, but expected (n, {len(self.model.prior)}).")
        whitened, directions = inputs * np.sqrt(self.model.prior), self.model.directions
        along = whitened @ directions.T
        rest = np.linalg.norm(whitened - along @ directions, axis=1)
        nodes, shares = normal_grid(_NODES)
        outputs = np.empty(len(inputs))
        for i, spread in enumerate(rest):
            means = self.points @ along[i]
            # What a neuron makes of the input on average is a smooth function of one number: tabulated, not repeated.
            knots = np.linspace(means.min() - 1e-9, means.max() + 1e-9, _KNOTS)
            smoothed = self.model.activation.function(knots[:, np.newaxis] + spread * nodes) @ shares
            outputs[i] = self.weights @ CubicSpline(knots, smoothed)(means)
        return outputs

    @property
    def mean_neuron(self) -> Floats:
        """Mean of w, shape (M,)."""
        return np.sqrt(self.model.prior) * (self.weights @ self.points @ self.model.directions)

    def draw(self, n_neurons: int, random_state: int | None = None) -> Floats:
        """Independent neurons w of the optimum, shape (n_neurons, M)."""
        if isinstance(n_neurons, bool) or not isinstance(n_neurons, int | np.integer) or n_neurons < 1:
            raise DataError(f"Got n_neurons={n_neurons!r}, but expected a positive integer.")
        rng = np.random.default_rng(random_state)
        z = self.points[rng.choice(len(self.points), n_neurons, p=self.weights)]
        free, directions = rng.standard_normal((n_neurons, len(self.model.prior))), self.model.directions
        return np.sqrt(self.model.prior) * (free + (z - free @ directions.T) @ directions)

    def frame(self) -> pd.DataFrame:
        """One row an input."""
        import pandas as pd

        return pd.DataFrame({"y": self.model.y, "f": self.f, "dual": self.dual})

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, without the points."""
        names = ("objective", "loss", "kl", "gap", "method", "solver", "effective_points", "integration_error")
        arrays = {name: getattr(self, name).tolist() for name in ("f", "dual", "gaps", "mean_neuron")}
        plain = {name: getattr(self, name) for name in names}
        return {"kind": "FunctionalOptimum", "schema": 1, "y": self.model.y.tolist()} | arrays | plain

    def plot(
        self,
        basis: ArrayLike | None = None,
        ax: Axes | Iterable[Axes] | None = None,
        *,
        at: ArrayLike | None = None,
        run: ParticleRun | None = None,
    ) -> list[Axes]:
        """Neurons as functions, outputs beside the targets, and the gap over the iterations.

        Parameters
        ----------
        basis : array_like of shape (M, P), optional
            The basis functions at P places; without it a neuron is its coefficients, in standard deviations.
        ax : Axes or three Axes, optional
            One Axes gets the neurons alone.
        at : array_like of shape (P,), optional
            The places; from 0 to 1 by default.
        run : ParticleRun, optional
            Drawn as dots beside the outputs.
        """
        from ..plots.functional_mean_field import plot_functional_mean_field

        prior = self.model.prior
        if basis is None:
            functions, places, kind = np.diag(prior**-0.5), np.arange(1.0, len(prior) + 1), "coefficient"
        else:
            functions, kind = as_floats(basis, "basis"), "place"
            if functions.ndim != 2 or len(functions) != len(prior):
                raise DataError(f"Got a basis of shape {functions.shape}, but expected ({len(prior)}, n_places).")
            places = np.linspace(0.0, 1.0, functions.shape[1]) if at is None else as_floats(at, "at")
            if places.shape != functions.shape[1:]:
                raise DataError(f"Got at of shape {places.shape}, but expected ({functions.shape[1]},).")
        neurons = {
            "kind": kind,
            "at": places.tolist(),
            "drawn": (self.draw(_DRAWN, random_state=0) @ functions).tolist(),
            "mean": (self.mean_neuron @ functions).tolist(),
            "prior_std": np.sqrt(prior @ functions**2).tolist(),
        }
        particles = None if run is None else run.f.tolist()
        return plot_functional_mean_field(self.to_dict(), neurons, particles, ax)

    def _repr_html_(self) -> str:
        text = (
            f"objective {self.objective:.6g} (gap {self.gap:.1g}): loss {self.loss:.4g}, divergence {self.kl:.4g}; "
            f"{self.method}, f known to {self.integration_error:.1g}"
        )
        return f"<p>{text}</p>{self.frame().to_html(float_format=lambda value: format(value, '.4f'))}"


@dataclass(frozen=True, eq=False)
class ParticleRun:
    """Finitely many neurons under noisy gradient descent.

    Attributes
    ----------
    f : array of shape (n,)
        Outputs, averaged over the second half of the steps.
    W : array of shape (n_particles, M)
        The neurons at the end.
    trajectory : Trajectory
        ``f`` (n, T) and ``loss`` (T,), step by step.
    method : str
    step : float
    biased_modes : int
        Coefficients with ``step * T > C``, whose variance the semi-implicit step makes clearly too small; else 0.
    """

    f: Floats
    W: Floats = field(repr=False)
    trajectory: Trajectory = field(repr=False)
    method: str
    step: float
    biased_modes: int

    def frame(self) -> pd.DataFrame:
        """The trajectory, tidy."""
        return self.trajectory.frame()

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        plain = {name: getattr(self, name) for name in ("method", "step", "biased_modes")}
        arrays = {"f": self.f.tolist(), "W": self.W.tolist(), "trajectory": self.trajectory.to_dict()}
        return {"kind": "ParticleRun", "schema": 1} | plain | arrays
