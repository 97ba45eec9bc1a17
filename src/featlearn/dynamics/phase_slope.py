"""Do the weights of a wide ReLU network move? Exponents of their change over the plane of initial scales."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import RK45
from scipy.optimize import brentq

from ..exceptions import ConvergenceWarning, DataError, RegimeWarning
from .short_repr import short_repr
from .solvable import Agreement, as_floats, as_widths, broadcast, worst_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["PhaseSlope", "kernel_regime_of", "phase_slope", "regime_of"]

Floats = NDArray[np.float64]
Words = NDArray[np.str_]

# Exponents that the user computed lie beside the lines between regimes by rounding only.
_ROUNDING = 1e-9
_STIFF_WIDTH = 512
# A run whose loss falls by less than this share over so many steps is caught above the loss that was asked for.
_PATIENCE, _STALLED = 1000, 1e-6
_INPUTS = ((-1.0,), (-0.4,), (0.3,), (1.0,))
_TARGETS = (0.6, -0.5, 0.4, -0.3)


def regime_of(gam: ArrayLike, gamp: ArrayLike) -> tuple[Words, Floats]:
    r"""Regime of the weights of an infinitely wide two-layer ReLU network, and the exponent of their relative change.

    For ``f = (1/alpha) sum_k a_k relu(w_k.(x, 1))`` with m neurons, :math:`a \sim N(0, b_1^2)` and
    :math:`w \sim N(0, b_2^2)`,

    .. math::
        \frac{b_1 b_2}{\alpha} \sim m^{-\gamma}, \quad \frac{b_1}{b_2} \sim m^{-\gamma'}, \quad
        \frac{|w(\infty) - w(0)|}{|w(0)|} \sim m^S

    - linear, ``gamma < 1`` or ``gamma' > gamma - 1``: :math:`S = \max(\gamma - 1 - 2 \max(\gamma', 0),\,
      2 (\gamma - 1 - \gamma'))`, the second only for ``gamma > 1``;
    - condensed, ``gamma > 1`` and ``gamma' < gamma - 1``: :math:`S = \gamma - 1` if :math:`\gamma - 1 < -\gamma'`,
      else :math:`(\gamma - 1 - \gamma') / 2`;
    - critical, on the lines between the two: S = 0.

    Parameters
    ----------
    gam, gamp : array_like
        gamma and gamma'; they broadcast.

    Returns
    -------
    regime : array of str
        "linear", "critical" or "condensed": the change tends to 0, to a number, or to infinity.
    S : array of float
        Of the common shape.

    Raises
    ------
    DataError
        Numbers that are not finite, or shapes that do not broadcast.

    Notes
    -----
    NTK scaling is (1/2, 0), LeCun's and Kaiming's (1/2, 1/2), Xavier's and the mean-field one (1, 0); muP differs by
    its rates and has no place in this plane. Provenance: the three regimes are published (abstract); their lines and
    the exponents are derived here, and checked by :func:`phase_slope`.

    References
    ----------
    Luo, Xu, Ma and Zhang, "Phase diagram for two-layer ReLU neural networks at infinite-width limit", arXiv 2007.07497.

    Examples
    --------
    >>> regime, S = regime_of([0.5, 1.0, 1.5], 0.0)
    >>> regime.tolist(), S.tolist()
    (['linear', 'critical', 'condensed'], [-0.5, 0.0, 0.25])
    """
    over, gamp = _plane(gam, gamp)
    condensed = (over > 0) & (gamp < over)
    still = over - 2 * np.maximum(gamp, 0.0)
    still = np.where(over > 0, np.maximum(still, 2 * (over - gamp)), still)
    slope = np.where(condensed, np.where(over < -gamp, over, (over - gamp) / 2), still)
    critical = ((over == 0) & (gamp <= 0)) | ((over == gamp) & (over >= 0))
    regime = np.where(critical, "critical", np.where(condensed, "condensed", "linear"))
    return regime, np.where(critical, 0.0, slope)


def kernel_regime_of(gam: ArrayLike, gamp: ArrayLike) -> tuple[Words, Floats]:
    r"""Regime of the tangent kernel of the linear network with the same initial scales, and the exponent of its change.

    .. math::
        \frac{\Theta_\infty}{\Theta_0} - 1 = \sqrt{1 + O(m^{2 e})} - 1, \quad e = \gamma - 1 - |\gamma'|

    It is frozen iff ``gamma < 1 + |gamma'|``, while its weights stay put iff ``gamma < 1 + max(gamma', 0)``
    (:func:`regime_of`). Between the two, for ``gamma' < 0``, the input layer moves far and the kernel, which the output
    layer then dominates, does not notice: the upstream regime of a linear neuron. A ReLU network changes its
    activations there, and with them its kernel.

    Parameters
    ----------
    gam, gamp : array_like
        gamma and gamma'; they broadcast.

    Returns
    -------
    regime : array of str
        "frozen", "critical" or "growing".
    S : array of float
        Exponent of ``Theta_inf / Theta_0 - 1``: 2 e where it is frozen, e where it grows, 0 between.

    Notes
    -----
    Provenance: derived here, checked against the exact solution.

    Examples
    --------
    >>> regime_of(1.25, -0.5)[0].item(), kernel_regime_of(1.25, -0.5)[0].item()
    ('condensed', 'frozen')
    """
    over, gamp = _plane(gam, gamp)
    exponent = over - np.abs(gamp)
    exponent = np.where(np.abs(exponent) < _ROUNDING, 0.0, exponent)
    regime = np.where(exponent < 0, "frozen", np.where(exponent > 0, "growing", "critical"))
    return regime, np.where(exponent < 0, 2 * exponent, exponent)


def _plane(gam: ArrayLike, gamp: ArrayLike) -> tuple[Floats, Floats]:
    """``gamma - 1`` and ``gamma'``, put on the lines between the regimes where only rounding keeps them apart."""
    both = broadcast(gam=as_floats(gam, "gam"), gamp=as_floats(gamp, "gamp"))
    over, gamp = both["gam"] - 1.0, np.where(np.abs(both["gamp"]) < _ROUNDING, 0.0, both["gamp"])
    over = np.where(np.abs(over) < _ROUNDING, 0.0, over)
    return np.where(np.abs(over - gamp) < _ROUNDING, gamp, over), gamp


@short_repr
@dataclass(frozen=True, eq=False)
class PhaseSlope:
    """How far the weights and the kernel of ReLU networks moved until they fitted, width by width.

    Attributes
    ----------
    gam, gamp : float
        gamma and gamma' of the initial scales.
    widths : tuple of int
    rd : array of shape (n_widths, n_repeats)
        ``|w(T) - w(0)| / |w(0)|`` of the input layer.
    kernel_change : array of shape (n_widths, n_repeats)
        ``|K(T) - K(0)| / |K(0)|`` of the tangent kernel on the inputs.
    slope, kernel_slope : float
        Exponents of the width in their geometric means over the repeats that fitted, by least squares; nan with fewer
        than two such widths.
    predicted : float
        Exponent at infinite width, :func:`regime_of`.
    regime : str
        "linear", "critical" or "condensed".
    reached : array of bool, shape (n_widths, n_repeats)
        Whether the run came down to the loss that was asked for.
    """

    gam: float
    gamp: float
    widths: tuple[int, ...]
    rd: Floats
    kernel_change: Floats = field(repr=False)
    slope: float
    kernel_slope: float
    predicted: float
    regime: str
    reached: NDArray[np.bool_] = field(repr=False)

    def frame(self) -> pd.DataFrame:
        """One row a width and repeat."""
        import pandas as pd

        columns = {"rd": self.rd, "kernel_change": self.kernel_change, "reached": self.reached}
        place = {
            "width": np.repeat(self.widths, self.rd.shape[1]),
            "repeat": np.tile(np.arange(self.rd.shape[1]), len(self.widths)),
        }
        return pd.DataFrame(place | {name: column.ravel() for name, column in columns.items()})

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        plain = {name: getattr(self, name) for name in ("gam", "gamp", "slope", "kernel_slope", "predicted", "regime")}
        arrays = {name: getattr(self, name).tolist() for name in ("rd", "kernel_change", "reached")}
        return {"kind": "PhaseSlope", "schema": 1, "widths": list(self.widths)} | plain | arrays

    def verify(self, *, tolerance: float = 0.15) -> Agreement:
        """How far the fitted exponent of the weights is from that of infinite width.

        The tolerance is that of widths of some hundreds; for ``gamma' > 0`` the exponent of finite widths comes down
        slowly, and the two may disagree.
        """
        return worst_of([{"quantity": "slope", "worst": abs(self.slope - self.predicted), "at": self.gam}], tolerance)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Relative change of the weights over the width, with the fitted and the predicted exponent."""
        from ..plots.phase_slope import plot_phase_slope

        return plot_phase_slope(self.to_dict(), ax)

    def _repr_html_(self) -> str:
        text = f"{self.regime}: slope {self.slope:+.2f}, at infinite width {self.predicted:+.2f}"
        return f"<p>{text}</p>{self.frame().to_html(float_format=lambda value: format(value, '.3g'))}"


def phase_slope(
    gam: float,
    gamp: float,
    widths: Sequence[int] = (32, 128, 512),
    *,
    X: ArrayLike | None = None,
    y: ArrayLike | None = None,
    n_repeats: int = 3,
    loss: float = 1e-4,
    max_steps: int = 100_000,
    random_state: int | None = None,
    verbose: int = 0,
) -> PhaseSlope:
    r"""Train two-layer ReLU networks of several widths, and fit the exponent of their relative change.

    .. math::
        \dot a = -\frac{1}{\kappa'} E[e \, \mathrm{relu}(w \cdot x)], \quad
        \dot w = -\kappa' E[e \, a \, \mathrm{relu}'(w \cdot x) \, x], \quad
        f = \kappa \sum_k a_k \, \mathrm{relu}(w_k \cdot x), \quad e = f - y

    with :math:`\kappa = m^{-\gamma}`, :math:`\kappa' = m^{-\gamma'}` and standard normal weights, which is gradient
    flow of the network of :func:`regime_of` in its natural units; x carries a constant 1.

    Parameters
    ----------
    gam, gamp : float
        gamma and gamma'.
    widths : sequence of int, default (32, 128, 512)
        Even numbers of neurons, at least two of them: neurons come in pairs of opposite output weight, so that f starts
        at 0.
    X : array_like of shape (n, d) or (n,), optional
        Inputs without the constant; by default four points on a line.
    y : array_like of shape (n,), optional
        Targets, given if and only if ``X`` is.
    n_repeats : int, default 3
        Initialisations a width.
    loss : float, default 1e-4
        Value of ``E[e^2] / 2`` at which a run stops.
    max_steps : int, default 100000
        Steps of the integrator after which a run gives up.
    random_state : int, optional
        Seed; by default a fresh one.
    verbose : int, default 0
        A progress bar if positive.

    Returns
    -------
    PhaseSlope

    Raises
    ------
    DataError
        Bad numbers or shapes.

    Warns
    -----
    ConvergenceWarning
        A run gave up: it is too slow, or caught where its neurons no longer see the data. The slopes leave it out.
    RegimeWarning
        ``gamma > 1``, ``gamma' < 0`` and a width above 512: the flow is stiff and takes minutes.

    Notes
    -----
    RK45 with relative tolerance 1e-4; seconds for the default widths where the flow is not stiff. Exponents of finite
    widths approach the prediction slowly for ``gamma' > 0``: at (1.5, 1) the slope is still -.5 where -1 is predicted.
    Provenance: regimes published (abstract), exponents derived here.

    References
    ----------
    Luo, Xu, Ma and Zhang, arXiv 2007.07497.

    Examples
    --------
    >>> lazy = phase_slope(0.5, 0.0, widths=(16, 64), n_repeats=2, random_state=0)
    >>> lazy.regime, lazy.predicted, bool(abs(lazy.slope + 0.5) < 0.2)
    ('linear', -0.5, True)
    """
    gam, gamp = _scalar(gam, "gam"), _scalar(gamp, "gamp")
    inputs, targets = _data(X, y)
    sizes = _widths(widths)
    for name, count in (("n_repeats", n_repeats), ("max_steps", max_steps)):
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
            raise DataError(f"Got {name}={count!r}, but expected a positive integer.")
    if not (loss > 0 and np.isfinite(loss)):
        raise DataError(f"Got loss={loss}, but expected a positive finite number.")
    if gam > 1 and gamp < 0 and max(sizes) > _STIFF_WIDTH:
        text = f"The flow at gam={gam:g}, gamp={gamp:g} is stiff: widths above {_STIFF_WIDTH} take minutes."
        warnings.warn(text, RegimeWarning, stacklevel=2)
    rng = np.random.default_rng(random_state)
    runs = _tracked([width for width in sizes for _ in range(n_repeats)], verbose)
    rows = [_Network(width, gam, gamp, inputs, targets, rng).train(loss, max_steps) for width in runs]
    rd, kernel_change, reached = (np.array(column).reshape(len(sizes), n_repeats) for column in zip(*rows, strict=True))
    if not reached.all():
        text = f"{(~reached).sum()} of {reached.size} runs ended above the loss {loss:g}; the slopes leave them out."
        warnings.warn(text, ConvergenceWarning, stacklevel=2)
    regime, predicted = regime_of(gam, gamp)
    return PhaseSlope(
        gam=gam,
        gamp=gamp,
        widths=sizes,
        rd=rd,
        kernel_change=kernel_change,
        slope=_exponent(sizes, rd, reached),
        kernel_slope=_exponent(sizes, kernel_change, reached),
        predicted=float(predicted),
        regime=str(regime),
        reached=reached,
    )


def _scalar(value: float, name: str) -> float:
    array = as_floats(value, name)
    if array.ndim:
        raise DataError(f"Got {name} of shape {array.shape}, but expected one exponent; call once for each.")
    return float(array)


def _data(X: ArrayLike | None, y: ArrayLike | None) -> tuple[Floats, Floats]:
    if (X is None) != (y is None):
        raise DataError("Got only one of X and y, but expected both or neither.")
    inputs, targets = as_floats(_INPUTS if X is None else X, "X"), as_floats(_TARGETS if y is None else y, "y")
    inputs = inputs[:, np.newaxis] if inputs.ndim == 1 else inputs
    if inputs.ndim != 2 or targets.shape != inputs.shape[:1]:
        raise DataError(f"Got X of shape {inputs.shape} and y of shape {targets.shape}, but expected (n, d) and (n,).")
    return np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1), targets


def _widths(widths: Sequence[int]) -> tuple[int, ...]:
    sizes = as_widths(widths)
    if any(width % 2 for width in sizes) or len(set(sizes)) < 2:
        raise DataError(f"Got widths={sizes}, but expected at least two different even numbers.")
    return sizes


def _tracked(runs: list[int], verbose: int) -> Iterable[int]:
    if not verbose:
        return runs
    from rich.console import Console
    from rich.progress import track

    return track(runs, description="Training", console=Console(stderr=True), transient=True)


def _exponent(widths: Sequence[int], values: Floats, reached: NDArray[np.bool_]) -> float:
    counted = reached & (values > 0)
    logs = {
        width: float(np.log(row[fitted]).mean())
        for width, row, fitted in zip(widths, values, counted, strict=True)
        if fitted.any()
    }
    return float(np.polyfit(np.log(list(logs)), list(logs.values()), 1)[0]) if len(logs) > 1 else float("nan")


class _Network:
    """One network in its natural units, on inputs that carry the constant."""

    def __init__(
        self, width: int, gam: float, gamp: float, inputs: Floats, targets: Floats, rng: np.random.Generator
    ) -> None:
        self.inputs, self.targets = inputs, targets
        self.scale, self.ratio = float(width) ** -gam, float(width) ** -gamp
        a, w = rng.standard_normal(width // 2), rng.standard_normal((width // 2, inputs.shape[1]))
        self.a0, self.w0 = np.concatenate([a, -a]), np.concatenate([w, w])

    def train(self, loss: float, max_steps: int) -> tuple[float, float, bool]:
        """Relative change of the input weights and of the kernel, and whether the loss was reached."""
        start = np.concatenate([self.a0, self.w0.ravel()])
        flow = RK45(lambda _, state: self._flow(state), 0.0, start, np.inf, rtol=1e-4, atol=1e-7)
        now, mark, steps = self._loss(flow.y), np.inf, 0
        # Neurons that are all dead do not move, and the integrator would search for its step without end.
        while now > loss and flow.status == "running" and steps < max_steps and flow.f.any():
            if steps % _PATIENCE == 0:
                if now > mark * (1 - _STALLED):
                    break
                mark = now
            flow.step()
            now = self._loss(flow.y)
            steps += 1
        end = flow.y
        if now <= loss and steps:
            path = flow.dense_output()
            end = path(brentq(lambda t: self._loss(path(t)) - loss, flow.t_old, flow.t))
        a, w = self._weights(end)
        before, after = self._kernel(self.a0, self.w0), self._kernel(a, w)
        size, change = float(np.linalg.norm(before)), float(np.linalg.norm(after - before))
        moved = np.linalg.norm(w - self.w0) / np.linalg.norm(self.w0)
        return float(moved), change / size if size else float("nan"), now <= loss

    def _weights(self, state: Floats) -> tuple[Floats, Floats]:
        m = len(self.a0)
        return state[:m], state[m:].reshape(m, -1)

    def _loss(self, state: Floats) -> float:
        a, w = self._weights(state)
        error = self.scale * a @ np.maximum(w @ self.inputs.T, 0.0) - self.targets
        return float(error @ error) / (2 * len(error))

    def _flow(self, state: Floats) -> Floats:
        a, w = self._weights(state)
        hidden = np.maximum(w @ self.inputs.T, 0.0)
        error = (self.scale * a @ hidden - self.targets) / len(self.targets)
        back = (hidden > 0) * (a[:, np.newaxis] * error)
        return -np.concatenate([hidden @ error / self.ratio, self.ratio * (back @ self.inputs).ravel()])

    def _kernel(self, a: Floats, w: Floats) -> Floats:
        hidden = np.maximum(w @ self.inputs.T, 0.0)
        gates = a[:, np.newaxis] * (hidden > 0)
        return hidden.T @ hidden / self.ratio + self.ratio * (gates.T @ gates) * (self.inputs @ self.inputs.T)
