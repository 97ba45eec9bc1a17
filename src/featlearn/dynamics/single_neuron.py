"""One linear neuron: the smallest model in which scale and balance of the layers decide how it learns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..exceptions import DataError
from .integration import integrate
from .short_repr import short_repr
from .solvable import Agreement, Trajectory, agreement, as_floats, as_times, broadcast

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from matplotlib.axes import Axes

__all__ = ["SingleNeuron"]

Floats = NDArray[np.float64]

_ROUNDING = 1e-6  # of the weights, which may come from a model in float32
_SMALLEST = 1e-150  # whose square is a number; what is smaller counts as on the boundary of the basins
_STIFF = 1e4  # fastest rate times the length of the run
_PRECISE = {"rtol": 1e-12, "atol": 1e-13}  # ten times finer than usual: the closed form is closer than that


@short_repr
@dataclass(frozen=True, eq=False)
class SingleNeuron:
    r"""``f(x) = a w.x`` on whitened inputs, in closed form at any scale and any balance of the two layers.

    .. math::
        \mathcal{L} = \tfrac12 |a w - b|^2, \qquad
        \dot a = \eta_a \, w \cdot (b - a w), \quad \dot w = \eta_w \, a (b - a w), \qquad
        \delta = \eta_w a^2 - \eta_a |w|^2 \ \text{conserved}

    *Upstream* (:math:`\delta > 0`): the first layer is small and fast, w turns to its target at an almost constant
    kernel. *Balanced* (0): both grow together. *Downstream* (:math:`\delta < 0`): a is fast, it first fits what the
    initial direction of w can, and w turns late.

    Parameters
    ----------
    a0 : array_like of shape (...)
        Second layer at the start, in output units per unit of ``w.x``.
    w0 : array_like of shape (..., n)
        First layer at the start.
    target : array_like of shape (..., n)
        ``b = X^T y`` for inputs with ``X^T X = I``.
    eta_a, eta_w : array_like of shape (...), default 1.0
        Rates of the layers, positive.

    Raises
    ------
    DataError
        Numbers that are not finite, or out of range; shapes that do not broadcast.

    Notes
    -----
    Gradient flow of the loss above; one unit of time is one unit of that flow. The substitution ``N' = a^2 N`` makes
    ``(a N, w N)`` linear; everything is then a sum of decaying exponentials, for every sign of delta, and ``t = inf``
    is a time like any other. Where the neuron starts exactly on the boundary of :meth:`basin_boundary` it ends in a
    saddle: ``a = 0`` and w orthogonal to the target.
    Costs O(T n) a problem. Provenance: the model and its three regimes are published (abstract); the solution is
    derived here, checked against 400 digits and against integration.

    References
    ----------
    Kunin et al., "Get rich quick: exact solutions reveal how unbalanced initializations promote rapid feature
    learning", arXiv 2406.06158.

    Examples
    --------
    >>> neuron = SingleNeuron(a0=1.0, w0=[0.1, 0.0], target=[0.0, 1.0])
    >>> str(neuron.regime)
    'upstream'
    >>> neuron.closed_form([0.0, float("inf")]).beta.round(6).tolist()
    [[0.1, 0.0], [0.0, 1.0]]
    """

    a0: Floats
    w0: Floats
    target: Floats
    eta_a: Floats
    eta_w: Floats

    def __init__(
        self, a0: ArrayLike, w0: ArrayLike, target: ArrayLike, *, eta_a: ArrayLike = 1.0, eta_w: ArrayLike = 1.0
    ) -> None:
        scalars = {
            "a0": as_floats(a0, "a0"),
            "eta_a": as_floats(eta_a, "eta_a", positive=True),
            "eta_w": as_floats(eta_w, "eta_w", positive=True),
        }
        vectors = {"w0": as_floats(w0, "w0"), "target": as_floats(target, "target")}
        for name, vector in vectors.items():
            if vector.ndim == 0:
                raise DataError(f"Got {name} of shape (), but expected a vector: its last axis is that of the inputs.")
        columns = {name: array[..., np.newaxis] for name, array in scalars.items()}
        if vectors["w0"].shape[-1] != vectors["target"].shape[-1]:
            raise DataError(
                f"Got w0 of shape {vectors['w0'].shape} and target of shape {vectors['target'].shape}, but expected a "
                "weight for each entry of the target: their last axes must agree."
            )
        shared = broadcast(**vectors, **columns)
        for name in vectors:
            object.__setattr__(self, name, shared[name])
        for name in scalars:
            object.__setattr__(self, name, shared[name][..., 0])

    # --- numbers without time -----------------------------------------------------------------------------------------

    @property
    def delta(self) -> Floats:
        """Conserved balance ``eta_w a^2 - eta_a |w|^2``, shape (...)."""
        large, small = np.sqrt(self.eta_w) * np.abs(self.a0), np.sqrt(self.eta_a) * _norm(self.w0)
        return np.asarray((large - small) * (large + small))

    @property
    def regime(self) -> NDArray[np.str_]:
        """By name: "upstream", "balanced" or "downstream", the sign of delta, shape (...).

        Balanced up to the rounding of weights in float32: ``|delta| <= 1e-6 (eta_w a^2 + eta_a |w|^2)``.
        """
        scale = self.eta_w * self.a0**2 + self.eta_a * _norm(self.w0) ** 2
        sign = np.where(np.abs(self.delta) <= _ROUNDING * scale, 0, np.sign(self.delta))
        return np.asarray(np.choose(sign.astype(int) + 1, ["downstream", "balanced", "upstream"]))

    @property
    def sign(self) -> Floats:
        """Sign of a in the end; 0 for the saddle."""
        return np.asarray(np.sign(self._reduced.P))

    def basin_boundary(self) -> Floats:
        """Overlap ``w0 . target`` above which a ends positive, for these ``a0`` and ``|w0|``, shape (...).

        At the boundary itself the flow ends in the saddle. It may be out of reach (below ``-|w0| |target|``): for
        positive delta a keeps its sign.
        """
        core = self._reduced
        return np.asarray(-core.A0 * core.grow / 2 * (self.eta_w / self.eta_a) ** 0.25)

    def final(self) -> Trajectory:
        """Limit of the flow: ``closed_form(inf)``."""
        return self.closed_form(np.inf)

    @cached_property
    def _reduced(self) -> _Reduced:
        return _Reduced.of(self)

    # --- time ---------------------------------------------------------------------------------------------------------

    def closed_form(self, t: ArrayLike) -> Trajectory:
        """Weights, ``beta = a w`` and loss at times t (scalar or 1-D, at least 0, infinity allowed).

        Returns
        -------
        Trajectory
            ``a`` and ``loss`` of shape (..., T), ``w`` and ``beta`` of shape (..., n, T).
        """
        times = as_times(t)
        core = self._reduced
        a, along, across = core.at(times)
        ratio = ((self.eta_w / self.eta_a) ** 0.25)[..., np.newaxis]
        w = (
            core.unit[..., np.newaxis] * along[..., np.newaxis, :]
            + core.W0_across[..., np.newaxis] * (across[..., np.newaxis, :])
        )
        return self._trajectory(times, a / ratio, w * ratio[..., np.newaxis])

    def simulate(self, t: ArrayLike, *, method: Literal["ode", "network"] = "ode", lr: float = 1e-3) -> Trajectory:
        """The same from the raw weights: integrated, or trained by gradient descent with autograd.

        Parameters
        ----------
        t : array_like
            Finite times.
        method : {"ode", "network"}, default "ode"
            "ode" integrates ``da/dt, dw/dt``; "network" makes ``t / lr`` steps of gradient descent, with an error that
            falls in proportion to ``lr``.
        lr : float, default 1e-3
            Step of "network", times the rates of the layers.
        """
        times = as_times(t)
        if method == "ode":
            start = np.concatenate([self.a0[..., np.newaxis], self.w0], axis=-1)
            fastest = self.eta_w * self.a0**2 + self.eta_a * _norm(self.w0) ** 2 + self._speed * _norm(self.target)
            stiff = float(fastest.max()) * float(times.max()) > _STIFF
            weights = integrate(self._flow, start, times, method="LSODA" if stiff else "DOP853", **_PRECISE)
            return self._trajectory(times, weights[..., 0, :], weights[..., 1:, :])
        if method == "network":
            from .descent import descend

            rates = [self.eta_a, self.eta_w[..., np.newaxis]]
            a, w = descend(self._network_loss, [self.a0, self.w0], times, lr, rates)
            return self._trajectory(times, a, w)
        raise DataError(f"Got method={method!r}, but expected 'ode' or 'network'.")

    def verify(self, t: ArrayLike | None = None, *, tolerance: float = 1e-8) -> Agreement:
        """How far the closed form is from :meth:`simulate`; by default from the start to the limit."""
        times = np.linspace(0.0, self.horizon(), 60) if t is None else as_times(t)
        return agreement(self.closed_form(times), self.simulate(times), tolerance)

    def horizon(self) -> float:
        """Time by which every problem of the batch has come within a thousandth of its limit."""
        core = self._reduced
        moving = core.P != 0
        # N is made of 1 and 2 P^2 exp(grow T) / grow: the plateau lasts until the second is as large as the first.
        with np.errstate(divide="ignore"):
            head = np.log(core.grow / 2) - 2 * np.log(np.where(moving, np.abs(core.P), 1.0))
        plateau = np.where(moving, np.logaddexp(0.0, head), 0.0)
        rate = self._speed * np.where(moving, core.grow, core.fall)
        needed = (16 + plateau) / np.where(rate > 0, rate, np.inf)
        return float(needed.max()) if (rate > 0).any() else 8.0

    # --- the kernel ---------------------------------------------------------------------------------------------------

    def metric(self, t: ArrayLike) -> Floats:
        r"""``M = eta_w a^2 I + eta_a w w^T`` of ``d beta/dt = M (b - beta)``, shape (..., n, n, T).

        The neural tangent kernel on inputs X is ``X M X^T``, its layers weighted by their rates. With
        :math:`R = \sqrt{\delta^2 + 4 \eta_a \eta_w |\beta|^2}` it is a function of beta alone,
        :math:`\tfrac12 (R + \delta) I + \tfrac12 (R - \delta) \hat\beta \hat\beta^\top`: almost :math:`\delta I` far
        upstream, :math:`|\delta| \hat\beta \hat\beta^\top` far downstream.
        """
        path = self.closed_form(t)
        level, w = self._metric_parts(path.a, path.w)
        outer = w[..., :, np.newaxis, :] * w[..., np.newaxis, :, :]
        return level[..., np.newaxis, np.newaxis, :] * np.eye(w.shape[-2])[..., np.newaxis] + outer

    def kernel_distance(self, t: ArrayLike) -> Floats:
        r"""``1 - <K_0, K_t> / (|K_0| |K_t|)`` of the kernel :math:`X M X^\top`, shape (..., T); nan where it is 0.

        All of ``K_t`` is taken at time t. Distances down to 1e-30 are resolved: no number near 1 is subtracted.
        """
        path = self.closed_form(t)
        level, w = self._metric_parts(path.a, path.w)
        first, v = self._metric_parts(self.a0[..., np.newaxis], self.w0[..., np.newaxis])
        with np.errstate(divide="ignore", invalid="ignore"):
            now, start = _kernel_norm(level, w), _kernel_norm(first, v)
            w, v = w / np.sqrt(now)[..., np.newaxis, :], v / np.sqrt(start)[..., np.newaxis, :]
            moved = level / now - first / start
            # w w^T - v v^T = (s d^T + d s^T)/2 with s = w + v, d = w - v: nothing cancels where they are close.
            s, d = w + v, w - v
            cross = (s * d).sum(axis=-2)
            squares = ((s * s).sum(axis=-2) * (d * d).sum(axis=-2) + cross**2) / 2
            return np.asarray(np.maximum(w.shape[-2] * moved**2 + 2 * moved * cross + squares, 0.0) / 2)

    def _metric_parts(self, a: Floats, w: Floats) -> tuple[Floats, Floats]:
        return self.eta_w[..., np.newaxis] * a**2, np.sqrt(self.eta_a)[..., np.newaxis, np.newaxis] * w

    # --- raw equations ------------------------------------------------------------------------------------------------

    @property
    def _speed(self) -> Floats:
        return np.asarray(np.sqrt(self.eta_a) * np.sqrt(self.eta_w))

    def _trajectory(self, times: Floats, a: Floats, w: Floats) -> Trajectory:
        beta = a[..., np.newaxis, :] * w
        loss = ((beta - self.target[..., np.newaxis]) ** 2).sum(axis=-2) / 2
        return Trajectory(times, {"a": a, "w": w, "beta": beta, "loss": loss})

    def _flow(self, weights: Floats) -> Floats:
        a, w = weights[..., :1], weights[..., 1:]
        residual = self.target - a * w
        da = self.eta_a[..., np.newaxis] * (w * residual).sum(axis=-1, keepdims=True)
        return np.concatenate([da, self.eta_w[..., np.newaxis] * a * residual], axis=-1)

    def _network_loss(self, a: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return ((a.unsqueeze(-1) * w - w.new_tensor(self.target)) ** 2).sum() / 2

    # --- showing ------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Parameters and what follows from them, as plain numbers (nested lists for a batch)."""
        numbers = {name: getattr(self, name).tolist() for name in (*_PARAMETERS, "delta", "regime", "sign")}
        return {"kind": "SingleNeuron", "schema": 1, **numbers, "beta_inf": self.final().beta[..., 0].tolist()}

    def frame(self) -> pd.DataFrame:
        """One row an element of the batch: scalars, norms and the overlap with the target."""
        import pandas as pd

        columns = {name: getattr(self, name) for name in ("a0", "eta_a", "eta_w", "delta", "regime", "sign")}
        columns |= {"w0_norm": _norm(self.w0), "target_norm": _norm(self.target)}
        columns |= {"overlap": (self.w0 * self.target).sum(axis=-1), "basin_boundary": self.basin_boundary()}
        return pd.DataFrame({name: np.ravel(column) for name, column in columns.items()})

    def plot(self, t: ArrayLike | None = None, ax: Axes | list[Axes] | None = None) -> list[Axes]:
        """Path of beta, output against kernel on its hyperbola, and both layers over time; dots are the simulation.

        Parameters
        ----------
        t : array_like, optional
            Times; by default from a ten-thousandth of :meth:`horizon` to all of it, on a logarithmic axis.
        ax : Axes or three Axes, optional
            One Axes gets the path of beta alone.
        """
        from ..plots.single_neuron import plot_single_neuron

        times = self.horizon() * np.geomspace(1e-4, 1.0, 200) if t is None else as_times(t)
        sparse = np.concatenate([[0.0], times[:: max(len(times) // 16, 1)]])
        return plot_single_neuron(
            self.to_dict(), self.closed_form(np.append(0.0, times)).to_dict(), self.simulate(sparse).to_dict(), ax
        )


_PARAMETERS = ("a0", "w0", "target", "eta_a", "eta_w")


@dataclass(frozen=True, eq=False)
class _Reduced:
    """The problem with both rates 1: ``T = sqrt(eta_a eta_w) t``, ``A W = a w``; fields of shape (...) or (..., n).

    ``grow`` and ``-fall`` are twice the two rates of the linear system for ``N (A, W.unit)``, whose solutions start at
    ``(P, P_w)`` and ``(Q, Q_w)``.
    """

    speed: Floats
    A0: Floats
    unit: Floats
    W0_across: Floats
    grow: Floats
    fall: Floats
    P: Floats
    Q: Floats
    P_w: Floats
    Q_w: Floats

    @classmethod
    def of(cls, model: SingleNeuron) -> _Reduced:
        ratio = (model.eta_w / model.eta_a) ** 0.25
        A0, W0 = model.a0 * ratio, model.w0 / ratio[..., np.newaxis]
        size, norm = _norm(model.target), _norm(W0)
        unit = model.target / np.where(size == 0, 1.0, size)[..., np.newaxis]
        overlap = (unit * W0).sum(axis=-1)
        delta, twice = (np.abs(A0) - norm) * (np.abs(A0) + norm), 2 * size
        K = np.hypot(delta, twice)
        # The smaller of K + delta and K - delta cancels; their product is (2 S)^2.
        larger = K + np.abs(delta)
        smaller = twice * (twice / np.where(larger == 0, 1.0, larger))
        grow, fall = np.where(delta >= 0, larger, smaller), np.where(delta >= 0, smaller, larger)
        still, double = K == 0, np.where(K == 0, 1.0, 2 * K)
        P = np.where(still, A0 / 2, (A0 * grow + overlap * twice) / double)
        return cls(
            speed=model._speed,
            A0=A0,
            unit=unit,
            W0_across=W0 - overlap[..., np.newaxis] * unit,
            grow=grow,
            fall=fall,
            P=np.where(np.abs(P) < _SMALLEST, 0.0, P),
            Q=np.where(still, A0 / 2, (A0 * fall - overlap * twice) / double),
            P_w=(A0 * twice + overlap * fall) / double,
            Q_w=(overlap * grow - A0 * twice) / double,
        )

    def at(self, t: Floats) -> tuple[Floats, Floats, Floats]:
        """A, W along the target, and the factor of what W had across it, each of shape (..., T)."""
        fall, P, Q, P_w, Q_w = (x[..., np.newaxis] for x in (self.fall, self.P, self.Q, self.P_w, self.Q_w))
        # Everything is divided by the growth of N. Where P is exactly 0, N does not grow: the way into the saddle.
        grow = np.where(P == 0, 0.0, self.grow[..., np.newaxis])
        T = _product(self.speed[..., np.newaxis], t)
        squares = _weighted(P * P, grow, grow, T) + _weighted(Q * Q, -fall, grow, T)
        N = np.sqrt(_decay(grow, T) + 2 * (squares + _weighted(2 * P * Q, (grow - fall) / 2, grow, T)))
        faded = _decay((grow + fall) / 2, T)
        return (P + Q * faded) / N, (P_w + Q_w * faded) / N, _decay(grow / 2, T) / N


def _decay(rate: Floats, T: Floats) -> Floats:
    """``exp(-rate T)``; 1 at rate 0, for infinite T too."""
    return np.exp(-_product(rate, T))


def _weighted(weight: Floats, rate: Floats, scale: Floats, T: Floats) -> Floats:
    """``weight exp(-scale T) int_0^T exp(rate x) dx`` for ``rate <= scale``: nothing overflows."""
    size = np.abs(rate)
    x = _product(size, T)
    integral = np.where(x == 0, T, -np.expm1(-x) / np.where(size == 0, 1.0, size))
    factor = weight * _decay(scale - np.maximum(rate, 0.0), T)
    return _product(factor, integral)


def _product(a: Floats, b: Floats) -> Floats:
    """``a b`` with ``0 inf = 0``: what vanishes does so before the other factor grows."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(a == 0, 0.0, a * b)


def _norm(vector: Floats) -> Floats:
    return np.asarray(np.linalg.norm(vector, axis=-1))


def _kernel_norm(level: Floats, w: Floats) -> Floats:
    """Frobenius norm of ``level I + w w^T``."""
    length = (w * w).sum(axis=-2)
    return np.asarray(np.sqrt(w.shape[-2] * level**2 + 2 * level * length + length**2))
