"""The common core of the linear models: output and kernel move on one hyperbola, from lazy to rich."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..exceptions import DataError
from .integration import integrate
from .short_repr import short_repr
from .solvable import Agreement, Trajectory, agreement, as_floats, as_times, broadcast

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Hyperbola"]

Floats = NDArray[np.float64]

_LARGEST_SUM = 1e150  # of products of weights, whose squares are numbers
_ROUNDING = 1e-12


@short_repr
@dataclass(frozen=True, eq=False, init=False)
class Hyperbola:
    r"""A two-layer linear block that fits one direction: output F and kernel Theta in closed form.

    .. math::
        \dot F = E[x^2] \, \Theta \, (F_\infty - F), \qquad
        \Theta^2 - \omega^2 F^2 = \kappa^2 \ \text{conserved}

    Theta is the neural tangent kernel with the rates of the layers in it. The flat part of the hyperbola is lazy: the
    kernel stays. Its asymptotes :math:`\Theta = \omega |F|` are rich: the kernel grows with the output.

    Parameters
    ----------
    F0 : array_like of shape (...)
        Output at the start.
    Theta0 : array_like
        Kernel at the start, at least ``omega |F0|``.
    omega : array_like
        Positive; twice the geometric mean of the rates, for a product of two weights.
    F_inf : array_like
        Target.
    Exx : array_like, default 1.0
        Second moment of the input, positive.

    Attributes
    ----------
    A, B, f : array of shape (...)
        ``Theta0 + omega F0``, ``Theta0 - omega F0`` and ``omega F_inf``.

    Raises
    ------
    DataError
        Numbers that are not finite, or out of range; shapes that do not broadcast.

    Notes
    -----
    All parameters broadcast to one batch shape (...); answers have shape (..., T). F runs monotonically to its limit,
    so the largest kernel is at one of the ends. With ``F0 = -Theta0 / omega`` and a positive target (or both signs
    flipped) F rises to 0 and stays in the saddle there: ``reaches_target`` is False and ``F_limit`` 0.
    When ``Theta0`` and ``omega |F0|`` nearly cancel, :meth:`from_sums` loses nothing.
    Costs a few dozen flops a time. Provenance: derived here, checked against 60 digits and against integration.

    Examples
    --------
    >>> rich = Hyperbola(F0=0.01, Theta0=0.02, omega=2.0, F_inf=1.0)
    >>> rich.F([0.0, 1.0, float("inf")]).round(4).tolist()
    [0.01, 0.0695, 1.0]
    >>> float(rich.rho)
    99.0
    """

    F0: Floats
    Theta0: Floats
    omega: Floats
    F_inf: Floats
    Exx: Floats
    A: Floats = field(repr=False)
    B: Floats = field(repr=False)
    f: Floats = field(repr=False)
    _gap: Floats = field(repr=False)

    def __init__(
        self, F0: ArrayLike, Theta0: ArrayLike, omega: ArrayLike, F_inf: ArrayLike, Exx: ArrayLike = 1.0
    ) -> None:
        given = broadcast(
            F0=as_floats(F0, "F0"),
            Theta0=as_floats(Theta0, "Theta0"),
            omega=as_floats(omega, "omega", positive=True),
            F_inf=as_floats(F_inf, "F_inf"),
            Exx=as_floats(Exx, "Exx", positive=True),
        )
        kernel, output = given["Theta0"], given["omega"] * given["F0"]
        wrong = kernel - np.abs(output) < -_ROUNDING * np.abs(output)
        if wrong.any():
            raise DataError(
                f"Got Theta0={kernel[wrong].flat[0]:g} with omega*F0={output[wrong].flat[0]:g}, but expected "
                "Theta0 >= omega*|F0|: no weights have a smaller kernel."
            )
        A, B = np.maximum(kernel + output, 0.0), np.maximum(kernel - output, 0.0)
        self._store(given, A, B, given["omega"] * given["F_inf"], given["omega"] * (given["F_inf"] - given["F0"]))

    @classmethod
    def from_sums(
        cls, A: ArrayLike, B: ArrayLike, f: ArrayLike, Exx: ArrayLike = 1.0, *, omega: ArrayLike = 1.0
    ) -> Hyperbola:
        """From ``A = Theta0 + omega F0``, ``B = Theta0 - omega F0`` and ``f = omega F_inf``.

        Parameters
        ----------
        A, B : array_like
            At least 0; sums of squares of the weights, whose differences would cancel.
        f : array_like
            Target, times omega.
        Exx : array_like, default 1.0
            Second moment of the input, positive.
        omega : array_like, default 1.0
            Positive; only the unit of F depends on it.

        Examples
        --------
        >>> float(Hyperbola.from_sums(A=3.0, B=1.0, f=2.0, omega=2.0).F0)
        0.5
        """
        given = broadcast(
            A=as_floats(A, "A", largest=_LARGEST_SUM),
            B=as_floats(B, "B", largest=_LARGEST_SUM),
            f=as_floats(f, "f", largest=_LARGEST_SUM),
            Exx=as_floats(Exx, "Exx", positive=True),
            omega=as_floats(omega, "omega", positive=True, largest=_LARGEST_SUM),
        )
        for name in ("A", "B"):
            if (given[name] < 0).any():
                raise DataError(f"Got {name}={given[name].min():g}, but expected a sum of squares, at least 0.")
        A, B, f, omega = given["A"], given["B"], given["f"], given["omega"]
        half = (A - B) / 2
        model = cls.__new__(cls)
        parameters = {"F0": half / omega, "Theta0": A / 2 + B / 2, "omega": omega, "F_inf": f / omega}
        model._store(parameters | {"Exx": given["Exx"]}, A, B, f, f - half)
        return model

    def _store(self, parameters: dict[str, Floats], A: Floats, B: Floats, f: Floats, gap: Floats) -> None:
        for name, array in {**parameters, "A": A, "B": B, "f": f, "_gap": gap}.items():
            object.__setattr__(self, name, array)

    # --- numbers without time -----------------------------------------------------------------------------------------

    @property
    def kappa(self) -> Floats:
        """The conserved quantity: the smallest kernel on this hyperbola."""
        return np.sqrt(self.A) * np.sqrt(self.B)

    @property
    def reaches_target(self) -> NDArray[np.bool_]:
        """False where F stops in the saddle at 0, short of its target."""
        return ~_Core.of(self).saddle

    @property
    def F_limit(self) -> Floats:
        """Output at infinite time: ``F_inf``, or 0 in the saddle."""
        return np.where(self.reaches_target, self.F_inf, 0.0)

    @property
    def Theta_inf(self) -> Floats:
        """Kernel at infinite time."""
        return np.where(self.reaches_target, np.hypot(self.f, self.kappa), 0.0)

    @property
    def rho(self) -> Floats:
        """Relative growth of the kernel, ``Theta_inf / Theta0 - 1``; 0 where nothing moves."""
        # The difference of squares keeps what a lazy network's kernel moves, far below the rounding of 1.
        end = self.Theta_inf
        moved = (self.omega * self.F_limit - self.omega * self.F0) * (self.omega * self.F_limit + self.omega * self.F0)
        with np.errstate(over="ignore"):  # from a kernel of almost nothing
            return np.divide(moved / (end + self.Theta0 + (self.Theta0 == 0)), self.Theta0 + (self.Theta0 == 0))

    @property
    def rate(self) -> Floats:
        """The distance from the limit decays as ``exp(-rate t)`` in the end; 0: algebraically, as 1/t."""
        return self.Exx * np.hypot(self.f, self.kappa)

    @property
    def max_stable_lr(self) -> Floats:
        """``2 / (Exx max(Theta0, Theta_inf))``: above it gradient descent may converge, but not on this hyperbola."""
        with np.errstate(divide="ignore"):
            return np.asarray(2.0 / (self.Exx * np.maximum(self.Theta0, self.Theta_inf)))

    # --- time ---------------------------------------------------------------------------------------------------------

    def F(self, t: ArrayLike) -> Floats:
        """Output at times t (scalar or 1-D, at least 0, infinity allowed), shape (..., T)."""
        return self.closed_form(t)["F"]

    def Theta(self, t: ArrayLike) -> Floats:
        """Kernel at times t, shape (..., T)."""
        return self.closed_form(t)["Theta"]

    def residual(self, t: ArrayLike) -> Floats:
        """``F_inf - F`` at times t with full relative accuracy at late times, shape (..., T)."""
        return self.closed_form(t)["residual"]

    def Z(self, t: ArrayLike) -> Floats:
        """Growth of ``Theta + omega F``, and decay of ``Theta - omega F``, since the start, shape (..., T).

        Inside the saddle's basin, where ``Theta + omega F`` is 0, it grows beyond every bound; infinity is returned
        for what overflows.
        """
        return _Core.of(self, (np.newaxis,)).at(as_times(t)).Z

    def closed_form(self, t: ArrayLike) -> Trajectory:
        """F, Theta and residual at times t."""
        times = as_times(t)
        core = _Core.of(self, (np.newaxis,))
        state = core.at(times)
        # Late: the target less a small residual. Early on a rich path: F is small beside its target, and its own
        # two parts are more accurate.
        late = core.f - state.residual
        output = np.where(2 * state.Theta < core.f + np.abs(state.residual), (state.AZ - state.BY) / 2, late)
        scale = core.sign / self.omega[..., np.newaxis]
        return Trajectory(times, {"F": scale * output, "Theta": state.Theta, "residual": scale * state.residual})

    def time_to(self, F: ArrayLike) -> Floats:
        """When the output passes F; infinity where it never does, or only in the limit.

        Parameters
        ----------
        F : array_like
            Broadcasts with the batch.

        Returns
        -------
        array of the common shape

        Examples
        --------
        >>> lazy = Hyperbola(F0=0.0, Theta0=1.0, omega=1e-6, F_inf=1.0)
        >>> round(float(lazy.time_to(0.5)), 6)  # log 2
        0.693147
        """
        both = broadcast(F=as_floats(F, "F"), F0=self.F0)
        core = _Core.of(self)
        x, start = core.sign * self.omega * both["F"], core.sign * self.omega * both["F0"]
        moved = core.sign * self.omega * (both["F"] - both["F0"])
        limit = core.sign * self.omega * self.F_limit
        between = (np.minimum(start, limit) < x) & (x < np.maximum(start, limit))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            time = np.where(core.algebraic, core.algebraic_time(x), core.time(x, moved, core.f - x))
        return np.where(moved == 0, 0.0, np.where(between, time, np.inf))

    def simulate(self, t: ArrayLike, *, method: str = "ode") -> Trajectory:
        """Integrate two scalar weights u, w with ``omega F = 2 u w`` and ``Theta = u^2 + w^2`` (DOP853).

        Parameters
        ----------
        t : array_like
            Finite times.
        method : "ode"
        """
        if method != "ode":
            raise DataError(f"Got method={method!r}, but expected 'ode', the only simulation of a hyperbola.")
        u0, w0 = (np.sqrt(self.A) + np.sqrt(self.B)) / 2, (np.sqrt(self.A) - np.sqrt(self.B)) / 2

        def flow(weights: Floats) -> Floats:
            u, w = weights
            return self.Exx * (self.f / 2 - u * w) * np.stack([w, u])

        times = as_times(t)
        u, w = integrate(flow, np.stack([u0, w0]), times)
        output = 2 * u * w / self.omega[..., np.newaxis]
        return Trajectory(times, {"F": output, "Theta": u**2 + w**2, "residual": self.F_inf[..., np.newaxis] - output})

    def verify(self, t: ArrayLike | None = None, *, tolerance: float = 1e-9) -> Agreement:
        """How far the closed form is from :meth:`simulate`; by default over eight units of the slowest rate."""
        times = self.horizon() * np.linspace(0.0, 1.0, 60) if t is None else as_times(t)
        return agreement(self.closed_form(times), self.simulate(times), tolerance)

    def horizon(self, factor: float = 8.0) -> float:
        """``factor`` units of the slowest time scale in the batch: the end of default pictures and checks."""
        scale = np.where(self.rate > 0, self.rate, self.Exx * self.Theta0)
        return factor / float(scale[scale > 0].min()) if (scale > 0).any() else factor

    # --- showing ------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Parameters and what follows from them, as plain numbers (nested lists for a batch)."""
        return {"kind": "Hyperbola", "schema": 1} | {name: getattr(self, name).tolist() for name in _NUMBERS}

    def frame(self) -> pd.DataFrame:
        """One row an element of the batch."""
        import pandas as pd

        return pd.DataFrame({name: np.ravel(getattr(self, name)) for name in _NUMBERS})

    def plot(self, ax: Axes | None = None, *, labels: Sequence[str] | None = None) -> Axes:
        """The (F, Theta) plane: hyperbola, asymptotes and the way from the start (dot) to the limit (star)."""
        from ..plots.dynamics import plot_hyperbola

        return plot_hyperbola([self.to_dict()], ax, labels=labels)


_NUMBERS = (
    *("F0", "Theta0", "omega", "F_inf", "Exx", "kappa", "F_limit", "Theta_inf"),
    *("rho", "rate", "max_stable_lr", "reaches_target"),
)


@dataclass(frozen=True, eq=False)
class _State:
    """Where a core is at some times: ``A Z``, ``B / Z``, ``Z`` as the caller counts it, ``f - omega F``."""

    AZ: Floats
    BY: Floats
    Z: Floats
    residual: Floats

    @property
    def Theta(self) -> Floats:
        return self.AZ / 2 + self.BY / 2


@dataclass(frozen=True, eq=False)
class _Core:
    """The solution for a target that is not negative; a negative one is the mirror image, with A and B exchanged."""

    A: Floats
    B: Floats
    f: Floats
    gap: Floats
    Exx: Floats
    sign: Floats

    @classmethod
    def of(cls, model: Hyperbola, index: tuple[None, ...] = ()) -> _Core:
        """``index`` appends the axis of time."""
        A, B, f, gap, Exx = (x[(..., *index)] for x in (model.A, model.B, model.f, model._gap, model.Exx))
        mirrored = f < 0
        sign = np.where(mirrored, -1.0, 1.0)
        return cls(np.where(mirrored, B, A), np.where(mirrored, A, B), np.abs(f), sign * gap, Exx, sign)

    @cached_property
    def end(self) -> Floats:
        return np.hypot(self.f, np.sqrt(self.A) * np.sqrt(self.B))

    @cached_property
    def algebraic(self) -> NDArray[np.bool_]:
        """Whether F goes to 0 as 1/t, or not at all."""
        return self.end == 0

    @cached_property
    def scaled(self) -> tuple[Floats, Floats, Floats]:
        """``c = A Z_inf`` (1 where it is 0), ``A / c``, ``B / c``."""
        c = self.f + self.end
        c = np.where(c == 0, 1.0, c)
        return c, self.A / c, self.B / c

    @cached_property
    def saddle(self) -> NDArray[np.bool_]:
        return (self.scaled[1] == 0) & (self.f > 0)

    def at(self, t: Floats) -> _State:
        c, al, be = self.scaled
        with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
            x = np.where(self.algebraic, 0.0, self.Exx * self.end * t)
            e, o = np.exp(-x), -np.expm1(-x)
            top, bottom = 1 + be * o + al * be * e, e + al * (o + be)
            # In the saddle both parts of these fractions vanish together with e.
            share, ratio = np.where(self.saddle, 0.0, al / bottom), np.where(self.saddle, 1.0, e / bottom)
            Z, Y = top / bottom, bottom / top
            residual = self.gap * (1 + al * be) / (1 + be) * ratio * (1 + be * Y)
            slow = self._algebraically(t)
        fast = (c * share * top, self.B * Y, np.where(self.sign < 0, Y, Z), residual)
        return _State(*(np.where(self.algebraic, a, b) for a, b in zip(slow, fast, strict=True)))

    def _algebraically(self, t: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        larger = self.A + self.B  # the other one is 0
        grown = 1 + np.where(larger > 0, self.Exx * larger / 2 * t, 0.0)
        AZ, BY = self.A / grown, self.B / grown
        return AZ, BY, np.where(self.A > 0, 1 / grown, grown), (BY - AZ) / 2

    def time(self, x: Floats, moved: Floats, left: Floats) -> Floats:
        """Time until ``omega F = x``, by how far it has moved and how far it has to go: neither end cancels."""
        c, al, be = self.scaled
        y = np.hypot(x, np.sqrt(self.A) * np.sqrt(self.B))
        Y = np.where(x >= 0, self.A / (x + y), (y - x) / self.B)
        AZ = np.where(x >= 0, x + y, self.A / Y)
        start = self.A / 2 + self.B / 2
        o = (1 + al * be) * (1 + be) / 2 * c * (moved / self.gap) * (1 + Y) / ((y + start) * (1 + be * Y))
        e = (1 + be) ** 2 / 2 * (left / self.gap) * (c + AZ) * Y / ((self.end + y) * (1 + be * Y))
        return np.where(o < 0.5, -np.log1p(-o), -np.log(e)) / (self.Exx * self.end)

    def algebraic_time(self, x: Floats) -> Floats:
        larger = self.A + self.B
        return (larger / (2 * np.abs(x)) - 1) * 2 / (self.Exx * larger)
