"""How many neurons a task needs under weight decay: the best loss of a two-layer ReLU network, width by width."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

from ..exceptions import ConvergenceWarning, DataError
from .condensation import condensation
from .short_repr import short_repr
from .solvable import Agreement, as_floats, as_widths, worst_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Plateau", "plateau"]

Floats = NDArray[np.float64]

_RAY = 0.999  # cosine above which neurons count as one
_SAME = 1e-6  # relative difference up to which two losses are one optimum
_MAX_ITER = 20_000


@short_repr
@dataclass(frozen=True, eq=False)
class Plateau:
    """Best regularised loss of each width.

    Attributes
    ----------
    widths : tuple of int
    loss : array of shape (n_widths,)
        The best over the restarts.
    losses : array of shape (n_widths, n_restarts)
        All of them.
    n_rays : array of int, shape (n_widths,)
        Directions of the activations of the neurons that are alive in the best network.
    found : array of int, shape (n_widths,)
        Restarts that ended at the best loss, up to 1e-6 of it.
    lower_bound : float
        No width has a lower loss, by the nuclear norm of the outputs; nan with biases.
    weight_decay : float
    n_samples : int
    weights : tuple of (W1, W2)
        The best network of each width.
    """

    widths: tuple[int, ...]
    loss: Floats
    losses: Floats = field(repr=False)
    n_rays: NDArray[np.int64]
    found: NDArray[np.int64]
    lower_bound: float
    weight_decay: float
    n_samples: int
    weights: tuple[tuple[Floats, Floats], ...] = field(repr=False)

    @property
    def flagged(self) -> NDArray[np.bool_]:
        """Widths whose restarts disagree: only one of several found the best loss, and there may be a better one."""
        return (self.found < 2) & (self.losses.shape[1] > 1)

    def frame(self) -> pd.DataFrame:
        """One row a width."""
        import pandas as pd

        columns = {name: getattr(self, name) for name in ("loss", "n_rays", "found", "flagged")}
        columns["loss / decay"] = self.loss / self.weight_decay
        return pd.DataFrame(columns, index=pd.Index(self.widths, name="width"))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        arrays = {name: getattr(self, name).tolist() for name in ("loss", "losses", "n_rays", "found", "flagged")}
        plain = {name: getattr(self, name) for name in ("lower_bound", "weight_decay", "n_samples")}
        return {"kind": "Plateau", "schema": 1, "widths": list(self.widths)} | plain | arrays

    def verify(self, *, tolerance: float = 1e-3) -> Agreement:
        """Whether the losses keep to what holds for minima: above the bound, and none worse than a narrower width's.

        In units of the weight decay. A loss that stays above the bound is no disagreement: for few neurons, or other
        inputs than unit ones, the bound need not be reached.
        """
        order = np.argsort(self.widths)
        loss = self.loss[order] / self.weight_decay
        rises = np.maximum(loss - np.minimum.accumulate(loss), 0.0)
        below = np.maximum(self.lower_bound / self.weight_decay - loss, 0.0)
        found = {"rise over the width": rises} | ({"below the bound": below} if np.isfinite(self.lower_bound) else {})
        rows = [
            {"quantity": name, "worst": float(values.max()), "at": float(self.widths[order[int(np.argmax(values))]])}
            for name, values in found.items()
        ]
        return worst_of(rows, tolerance)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Best loss over the width, the bound dashed, ``N^2 / 4`` marked."""
        from ..plots.attraction_repulsion import plot_plateau

        return plot_plateau(self.to_dict(), ax)

    def _repr_html_(self) -> str:
        return str(self.frame().to_html(float_format=lambda value: format(value, ".6g")))


def plateau(
    X: ArrayLike,
    Y: ArrayLike,
    widths: Sequence[int],
    *,
    weight_decay: float = 1e-3,
    n_restarts: int = 15,
    bias: float = 0.0,
    random_state: int | None = None,
    verbose: int = 0,
) -> Plateau:
    r"""Minimise the regularised loss of two-layer ReLU networks of several widths.

    .. math:: \frac1N |Y - f(X)|_F^2 + \lambda (|W_1|_F^2 + |W_2|_F^2)

    From some width on, at most N (N + 1), more neurons do not help. For any width, without biases,

    .. math:: \text{loss} \ge \frac1N \sum_i \min(s_i, \tau)^2 + \frac{2 \lambda}{|X|} \sum_i \max(s_i - \tau, 0),
              \quad \tau = N \lambda / |X|

    with the singular values s of Y and the spectral norm :math:`|X|`: the two layers pay at least for the nuclear norm
    of their product.

    Parameters
    ----------
    X : array_like of shape (N, d)
    Y : array_like of shape (N, n_outputs)
    widths : sequence of int
        Numbers of hidden neurons.
    weight_decay : float, default 1e-3
        Positive.
    n_restarts : int, default 15
        Initialisations a width.
    bias : float, default 0.0
        Value of a constant unit in the input and the hidden layer, whose weights decay like all others; 0: none.
    random_state : int, optional
        Seed; by default a fresh one.
    verbose : int, default 0
        A progress bar if positive.

    Returns
    -------
    Plateau

    Raises
    ------
    DataError
        Numbers that are not finite or out of range, or shapes that do not fit.

    Warns
    -----
    ConvergenceWarning
        The best run of a width did not converge.

    Notes
    -----
    L-BFGS-B, about ten milliseconds a restart for a handful of samples. The loss has local minima: read ``flagged``.
    Provenance: the plateau and its width are published; the bound is derived here, checked.

    References
    ----------
    Jacot, Golikov, Hongler and Gabriel, "Feature learning in L2-regularized DNNs: attraction/repulsion and sparsity",
    arXiv 2205.15809.

    Examples
    --------
    >>> found = plateau([[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]], [1, 2], random_state=0)
    >>> (found.loss / found.weight_decay).round(3).tolist(), round(found.lower_bound / found.weight_decay, 3)
    ([3.998, 3.998], 3.998)
    """
    inputs, targets = as_floats(X, "X"), as_floats(Y, "Y")
    if inputs.ndim != 2 or targets.ndim != 2 or len(inputs) != len(targets):
        raise DataError(f"Got X of shape {inputs.shape} and Y of shape {targets.shape}, but expected one row a sample.")
    sizes = as_widths(widths)
    if isinstance(n_restarts, bool) or not isinstance(n_restarts, int | np.integer) or n_restarts < 1:
        raise DataError(f"Got n_restarts={n_restarts!r}, but expected a positive integer.")
    if as_floats(weight_decay, "weight_decay", positive=True).ndim:
        raise DataError(f"Got weight_decay={weight_decay!r}, but expected one number.")
    if not (np.isfinite(bias) and bias >= 0):
        raise DataError(f"Got bias={bias}, but expected a finite number of at least 0.")
    problem = _Problem(inputs.T, targets.T, weight_decay, bias)
    rng = np.random.default_rng(random_state)
    best = [problem.best(width, n_restarts, rng) for width in _tracked(sizes, verbose)]
    losses = np.array([run.losses for run in best])
    return Plateau(
        widths=sizes,
        loss=losses.min(axis=1),
        losses=losses,
        n_rays=np.array([problem.rays(run.weights[0]) for run in best]),
        found=np.sum(losses <= losses.min(axis=1, keepdims=True) * (1 + _SAME), axis=1),
        lower_bound=problem.lower_bound(),
        weight_decay=float(weight_decay),
        n_samples=len(inputs),
        weights=tuple(run.weights for run in best),
    )


def _tracked(widths: Sequence[int], verbose: int) -> Iterable[int]:
    if not verbose:
        return widths
    from rich.console import Console
    from rich.progress import track

    return track(widths, description="Minimising", console=Console(stderr=True), transient=True)


@dataclass(frozen=True, eq=False)
class _Best:
    losses: list[float]
    weights: tuple[Floats, Floats]


@dataclass(frozen=True, eq=False)
class _Problem:
    """Inputs (d, N) and targets (n_outputs, N)."""

    X: Floats
    Y: Floats
    decay: float
    bias: float

    def best(self, width: int, n_restarts: int, rng: np.random.Generator) -> _Best:
        d, outputs = len(self.X) + (self.bias > 0), len(self.Y)
        shapes = (width, d), (outputs, width + (self.bias > 0))
        # Twice the norm of an optimum, or so: from smaller starts fewer runs reach it.
        size = 2 * np.sqrt(np.linalg.norm(self.Y) / np.linalg.norm(self.X) / width) if self.X.any() else 1.0
        runs = [
            minimize(
                self._objective,
                size * rng.standard_normal(np.prod(shapes[0]) + np.prod(shapes[1])),
                args=(shapes,),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": _MAX_ITER, "maxfun": 2 * _MAX_ITER, "ftol": 1e-15, "gtol": 1e-10, "maxcor": 30},
            )
            for _ in range(n_restarts)
        ]
        first = min(runs, key=lambda run: float(run.fun))
        # Status 2: no further descent at the precision of the loss, which is what was asked for.
        if first.status == 1:
            warnings.warn(
                f"The best of {n_restarts} runs at width {width} was still descending after {_MAX_ITER} iterations.",
                ConvergenceWarning,
                stacklevel=3,
            )
        return _Best([float(run.fun) for run in runs], _split(first.x, shapes))

    def _objective(self, x: Floats, shapes: tuple[tuple[int, int], tuple[int, int]]) -> tuple[float, Floats]:
        W1, W2 = _split(x, shapes)
        below, hidden = self._with_bias(self.X), self._hidden(W1)
        above = self._with_bias(hidden)
        error = W2 @ above - self.Y
        back = 2 / self.Y.shape[1] * error
        of_hidden = (W2.T @ back)[: len(hidden)] * (hidden > 0)
        gradient = np.concatenate([(of_hidden @ below.T).ravel(), (back @ above.T).ravel()])
        return float(np.sum(error**2)) / self.Y.shape[1] + self.decay * float(x @ x), gradient + 2 * self.decay * x

    def _hidden(self, W1: Floats) -> Floats:
        return np.maximum(W1 @ self._with_bias(self.X), 0.0)

    def _with_bias(self, rows: Floats) -> Floats:
        return np.concatenate([rows, np.full((1, rows.shape[1]), self.bias)]) if self.bias else rows

    def rays(self, W1: Floats) -> int:
        hidden = self._hidden(W1)
        return condensation(hidden, tol=_RAY, min_norm=1e-3).n_orientations if hidden.any() else 0

    def lower_bound(self) -> float:
        size = float(np.linalg.norm(self.X, 2))
        if self.bias:
            return float("nan")
        if size == 0:
            return float(np.sum(self.Y**2)) / self.Y.shape[1]
        values = np.linalg.svd(self.Y, compute_uv=False)
        threshold = self.Y.shape[1] * self.decay / size
        paid = 2 * self.decay / size * np.sum(np.maximum(values - threshold, 0.0))
        return float(np.sum(np.minimum(values, threshold) ** 2) / self.Y.shape[1] + paid)


def _split(x: Floats, shapes: tuple[tuple[int, int], tuple[int, int]]) -> tuple[Floats, Floats]:
    first = shapes[0][0] * shapes[0][1]
    return x[:first].reshape(shapes[0]), x[first:].reshape(shapes[1])
