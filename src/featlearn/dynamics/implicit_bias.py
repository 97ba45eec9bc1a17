"""Which of the many solutions training picks when data are fewer than features: one linear neuron, any spectrum."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import solve_ivp

from ..exceptions import ConvergenceWarning, DataError, RegimeWarning
from .integration import integrate
from .short_repr import short_repr
from .solvable import Agreement, Trajectory, agreement, as_floats, broadcast

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["ImplicitBias", "implicit_bias"]

Floats = NDArray[np.float64]
Words = NDArray[np.str_]

_ROUNDING = 1e-9
_LONGEST = 1e4  # wait for a sign, over the slowest time scale of the end
_DECAY = 40.0  # units of the slowest time scale after which the flow has converged


@short_repr
@dataclass(frozen=True, eq=False)
class ImplicitBias:
    r"""Where gradient flow of ``f(x) = a w.x`` ends.

    Attributes
    ----------
    beta, w : array of shape (..., d)
        ``a w`` and the first layer in the end; w is nan where a decays to 0, which leaves its direction open.
    a : array of shape (...)
        Second layer in the end; 0 where the flow ends in the saddle.
    min_norm : array of shape (..., d)
        The solution of least norm, for comparison.
    sign_rule : array of str, shape (...)
        What settled the sign of a: "conserved" (a cannot cross zero), "low loss" (the loss is already below that of
        ``a = 0``), "equal singular values" (closed form), "integrated" (by the flow), "given".
    potential : array of shape (...)
        :meth:`objective` at beta.
    """

    beta: Floats
    a: Floats
    w: Floats
    min_norm: Floats
    sign_rule: Words
    potential: Floats
    _problem: _Problem = field(repr=False)

    @property
    def excess_norm(self) -> Floats:
        """``|beta - min_norm| / |min_norm|``: how far the start decides; nan for a target of 0."""
        size = _norm(self.min_norm)
        return np.where(size > 0, _norm(self.beta - self.min_norm) / np.where(size > 0, size, 1.0), np.nan)

    def objective(self, beta: ArrayLike) -> Floats:
        r""":math:`\Psi(\beta) - \psi \cdot \beta`, which :attr:`beta` minimises among the solutions of ``X beta = y``.

        .. math::
            \Psi(\beta) = \tfrac13 (R - 2 \delta) \sqrt{R + \delta}, \quad R = \sqrt{\delta^2 + 4 |\beta|^2}, \quad
            \psi = \sqrt{R_0 - \delta} \, \beta_0 / |\beta_0|

        Parameters
        ----------
        beta : array_like of shape (..., d)

        Notes
        -----
        In units in which both rates are 1. :math:`\psi` is written for an a that keeps its sign; in any case it is
        :math:`\sqrt2 \, w_0` with the sign that a has in the end. Provenance: the potential is published for positive
        a and equal rates; the rest is derived here, checked.
        """
        return self._problem.objective(as_floats(beta, "beta"), np.sign(self.a))

    def verify(self, *, tolerance: float = 1e-6) -> Agreement:
        """How far a and beta are from the end of the flow of the raw weights, integrated until it has converged."""
        problem = self._problem
        times = np.array([problem.settling(np.abs(self.a))])
        start = np.concatenate([problem.a0[..., np.newaxis], problem.w0], axis=-1)
        end = integrate(problem.flow, start, times, method="LSODA")
        a, w = end[..., 0, :], end[..., 1:, :]
        predicted = {"a": self.a[..., np.newaxis], "beta": self.beta[..., np.newaxis]}
        reached = {"a": a, "beta": a[..., np.newaxis, :] * w}
        return agreement(Trajectory(times, predicted), Trajectory(times, reached), tolerance)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, nested lists for a batch."""
        names = ("beta", "a", "w", "min_norm", "sign_rule", "potential", "excess_norm")
        return {"kind": "ImplicitBias", "schema": 1} | {name: getattr(self, name).tolist() for name in names}

    def frame(self) -> pd.DataFrame:
        """One row an element of the batch."""
        import pandas as pd

        columns = {name: getattr(self, name) for name in ("a", "sign_rule", "potential", "excess_norm")}
        columns |= {"beta_norm": _norm(self.beta), "min_norm": _norm(self.min_norm)}
        return pd.DataFrame({name: np.ravel(column) for name, column in columns.items()})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Coefficients of beta as dots, by balance of the start, over those of the solution of least norm as bars."""
        from ..plots.single_neuron import plot_implicit_bias

        return plot_implicit_bias(self.to_dict() | {"delta": self._problem.delta.tolist()}, ax)

    def _repr_html_(self) -> str:
        return str(self.frame().to_html(float_format=lambda value: format(value, ".4g")))


def implicit_bias(
    a0: ArrayLike,
    w0: ArrayLike,
    X: ArrayLike,
    y: ArrayLike,
    *,
    eta_a: ArrayLike = 1.0,
    eta_w: ArrayLike = 1.0,
    sign: Literal["auto", 1, -1] = "auto",
    rcond: float = 1e-10,
) -> ImplicitBias:
    r"""Limit of gradient flow of ``(1/2) |a X w - y|^2``, in closed form, for X of any spectrum.

    .. math::
        \beta = X^+ y + a \, P_\perp w_0, \qquad
        a^2 = \tfrac12 \Big( q + \sqrt{q^2 + 4 |X^+ y|^2} \Big), \quad q = a_0^2 - |P_X w_0|^2

    written for equal rates; :math:`P_X` projects on the rows of X, :math:`P_\perp` on what they do not see. The flow
    conserves q and :math:`P_\perp w`, and nothing else is needed: the larger the part of :math:`w_0` that the data do
    not see, the farther the end is from the solution of least norm.

    Parameters
    ----------
    a0 : array_like of shape (...)
        Second layer at the start.
    w0 : array_like of shape (..., d)
        First layer at the start.
    X : array_like of shape (n, d)
        Inputs; of any rank, also with ``n >= d``.
    y : array_like of shape (..., n)
        Targets.
    eta_a, eta_w : array_like of shape (...), default 1.0
        Rates of the layers, positive.
    sign : {"auto", 1, -1}, default "auto"
        Sign of a in the end. "auto": that of ``a0`` where a cannot cross zero any more (q > 0, or the loss is already
        below that of ``a = 0``); in closed form where all singular values of X are equal; otherwise the flow is
        integrated until the loss is that low.
    rcond : float, default 1e-10
        Singular values below this share of the largest one count as 0.

    Returns
    -------
    ImplicitBias

    Raises
    ------
    DataError
        Numbers that are not finite, or shapes that do not fit.

    Warns
    -----
    RegimeWarning
        No beta solves ``X beta = y`` (then it is a least-squares solution), or the flow ends in the saddle ``a = 0``.
    ConvergenceWarning
        An integration ended before the sign was settled.

    Notes
    -----
    Costs one SVD of X, and one integration for each sign that needs it. Provenance: the conserved balance and the
    potential are published; the limit and the rules for the sign are derived here, checked against integration.

    References
    ----------
    Kunin et al., "Get rich quick: exact solutions reveal how unbalanced initializations promote rapid feature
    learning", arXiv 2406.06158.

    Examples
    --------
    >>> small = implicit_bias(1e-4, [1e-4, 1e-4], X=[[1.0, 0.0]], y=[1.0])
    >>> downstream = implicit_bias(1e-4, [1.0, 1.0], X=[[1.0, 0.0]], y=[1.0])
    >>> small.beta.round(3).tolist(), downstream.beta.round(3).tolist()
    ([1.0, 0.0], [1.0, 0.786])
    """
    if not (isinstance(sign, str) and sign == "auto") and sign not in (1, -1):
        raise DataError(f"Got sign={sign!r}, but expected 'auto', 1 or -1.")
    problem = _Problem.of(a0, w0, X, y, eta_a, eta_w, rcond)
    signs, rules = problem.signs() if sign == "auto" else (np.full(problem.q.shape, float(sign)), "given")
    a = signs * np.sqrt(problem.square)
    moving = (a != 0)[..., np.newaxis]
    if (~moving & (problem.solution != 0)).any():
        warnings.warn("The flow ends in the saddle a = 0, short of the target; move the start.", RegimeWarning, 2)
    beta = np.where(moving, problem.solution + a[..., np.newaxis] * problem.unseen, 0.0)
    w = np.where(moving, beta / np.where(moving, a[..., np.newaxis], 1.0), problem.resting())
    return ImplicitBias(
        beta=beta,
        a=a / problem.ratio,
        w=w * problem.ratio[..., np.newaxis],
        min_norm=problem.solution,
        sign_rule=np.broadcast_to(np.asarray(rules), a.shape),
        potential=problem.objective(beta, signs),
        _problem=problem,
    )


@dataclass(frozen=True, eq=False)
class _Problem:
    """The raw problem, and the same with both rates 1 (``A W = a w``) in the singular basis of X."""

    a0: Floats
    w0: Floats
    X: Floats
    y: Floats
    eta_a: Floats
    eta_w: Floats
    singular: Floats  # (r,)
    rows: Floats  # (r, d), orthonormal
    solution: Floats  # (..., d)

    @classmethod
    def of(
        cls, a0: ArrayLike, w0: ArrayLike, X: ArrayLike, y: ArrayLike, eta_a: ArrayLike, eta_w: ArrayLike, rcond: float
    ) -> _Problem:
        inputs, targets, first = as_floats(X, "X"), as_floats(y, "y"), as_floats(w0, "w0")
        if inputs.ndim != 2:
            raise DataError(f"Got X of shape {inputs.shape}, but expected a matrix of shape (n, d).")
        for name, vector, size in (("y", targets, inputs.shape[0]), ("w0", first, inputs.shape[1])):
            if vector.ndim == 0 or vector.shape[-1] != size:
                raise DataError(
                    f"Got {name} of shape {vector.shape} and X of shape {inputs.shape}, but expected {name} of shape "
                    f"(..., {size})."
                )
        if not 0 <= rcond < 1:
            raise DataError(f"Got rcond={rcond}, but expected a number in [0, 1).")
        shared = broadcast(
            a0=as_floats(a0, "a0"),
            eta_a=as_floats(eta_a, "eta_a", positive=True),
            eta_w=as_floats(eta_w, "eta_w", positive=True),
            w0=first[..., 0],
            y=targets[..., 0],
        )
        batch = shared["a0"].shape
        left, singular, rows = np.linalg.svd(inputs, full_matrices=False)
        seen = singular > rcond * singular[0]
        left, singular, rows = left[:, seen], singular[seen], rows[seen]
        targets = np.broadcast_to(targets, (*batch, inputs.shape[0]))
        fitted = targets @ left
        missed = _norm(targets - fitted @ left.T)
        if (missed > 1e-8 * _norm(targets)).any():
            warnings.warn(
                f"No beta solves X beta = y (a residual of {missed.max():.3g} is left); beta is a least-squares "
                "solution.",
                RegimeWarning,
                stacklevel=3,
            )
        return cls(
            a0=shared["a0"],
            w0=np.broadcast_to(first, (*batch, inputs.shape[1])),
            X=inputs,
            y=targets,
            eta_a=shared["eta_a"],
            eta_w=shared["eta_w"],
            singular=singular,
            rows=rows,
            solution=(fitted / singular) @ rows,
        )

    # --- reduced units ------------------------------------------------------------------------------------------------

    @cached_property
    def ratio(self) -> Floats:
        return np.asarray((self.eta_w / self.eta_a) ** 0.25)

    @cached_property
    def A0(self) -> Floats:
        return self.a0 * self.ratio

    @cached_property
    def W0(self) -> Floats:
        return self.w0 / self.ratio[..., np.newaxis]

    @cached_property
    def u0(self) -> Floats:
        """First layer at the start, along the right singular vectors of X."""
        return self.W0 @ self.rows.T

    @cached_property
    def c(self) -> Floats:
        """The solution, along the same."""
        return self.solution @ self.rows.T

    @cached_property
    def unseen(self) -> Floats:
        """Part of the first layer that the data do not see."""
        return self.W0 - self.u0 @ self.rows

    @cached_property
    def q(self) -> Floats:
        large, small = np.abs(self.A0), _norm(self.u0)
        return np.asarray((large - small) * (large + small))

    @cached_property
    def grown(self) -> Floats:
        """``q + sqrt(q^2 + 4 |c|^2)``, of which the smaller form cancels for q < 0."""
        twice = 2 * _norm(self.c)
        root = np.hypot(self.q, twice)
        other = root - self.q
        return np.where(self.q >= 0, self.q + root, twice * (twice / np.where(other > 0, other, 1.0)))

    @property
    def square(self) -> Floats:
        """Of A in the end."""
        return self.grown / 2

    def resting(self) -> Floats:
        """First layer in the end where a ends at 0; nan where that leaves its direction open."""
        pull = ((self.w0 @ self.X.T) * self.y).sum(axis=-1)
        known = np.where((self.q == 0)[..., np.newaxis], self.unseen, np.nan)
        return np.where(((self.A0 == 0) & (pull == 0))[..., np.newaxis], self.W0, known)

    # --- the sign -----------------------------------------------------------------------------------------------------

    def signs(self) -> tuple[Floats, Words]:
        """Sign of A in the end, and what settled it."""
        excess = self._loss(self.A0[..., np.newaxis], self.u0) - self._loss_of_nothing
        # Without a target and downstream a ends at 0 whatever its sign.
        kept, low = (self.q > 0) | (self.grown == 0), excess < 0
        signs = np.array(np.sign(self.A0))
        rules = np.where(kept, "conserved", "low loss").astype("<U21")
        open_ = ~(kept | low)
        if self.singular.size == 0 or self.singular[0] - self.singular[-1] <= _ROUNDING * self.singular[0]:
            closed = np.sign(self.A0 * self.grown + 2 * (self.u0 * self.c).sum(axis=-1))
            return np.where(open_, closed, signs), np.where(open_, "equal singular values", rules)
        rules[open_] = "integrated"
        for place in map(tuple, np.argwhere(open_)):
            signs[place] = self._integrated_sign(place)
        return signs, rules

    def _loss(self, A: Floats, u: Floats) -> Floats:
        return np.asarray((self.singular**2 * (self.c - A * u) ** 2).sum(axis=-1) / 2)

    @cached_property
    def _loss_of_nothing(self) -> Floats:
        return np.asarray((self.singular**2 * self.c**2).sum(axis=-1) / 2)

    def _integrated_sign(self, place: tuple[Any, ...]) -> float:
        """Follow the flow until its loss is below that of a = 0, which it can never cross again."""
        # The size of X only sets the unit of time.
        squares, c = (self.singular / self.singular[0]) ** 2, self.c[place]
        bar = float((squares * c**2).sum() / 2)

        def flow(_: float, state: Floats) -> Floats:
            pull = squares * (c - state[0] * state[1:])
            return np.append(state[1:] @ pull, state[0] * pull)

        def excess(_: float, state: Floats) -> float:
            return float((squares * (c - state[0] * state[1:]) ** 2).sum() / 2 - bar * (1 - 1e-6))

        event: Any = excess
        event.terminal = True
        start = np.append(self.A0[place], self.u0[place])
        scale = float(squares.min()) * max(float(self.square[place]), float(np.abs(c).max()))
        run = solve_ivp(flow, (0.0, _LONGEST / scale), start, method="LSODA", events=event, rtol=1e-10, atol=1e-13)
        if run.status != 1:
            warnings.warn(
                "The sign of a was not settled when the integration ended; it is that of the last step.",
                ConvergenceWarning,
                stacklevel=4,
            )
        return float(np.sign(run.y[0, -1]))

    # --- the raw flow, and what its end minimises ---------------------------------------------------------------------

    def flow(self, weights: Floats) -> Floats:
        """``da/dt, dw/dt`` of the raw weights, shape (..., 1 + d)."""
        a, w = weights[..., :1], weights[..., 1:]
        outputs = w @ self.X.T
        residual = self.y - a * outputs
        da = self.eta_a[..., np.newaxis] * (outputs * residual).sum(axis=-1, keepdims=True)
        return np.concatenate([da, self.eta_w[..., np.newaxis] * a * (residual @ self.X)], axis=-1)

    def settling(self, a: Floats) -> float:
        """Time by which the flow has converged, if it does not wait in a saddle for longer than that."""
        speed = self.eta_w * a**2 + np.sqrt(self.eta_a * self.eta_w) * 1e-2 * _norm(self.c)
        slowest = float(self.singular[-1]) ** 2 if self.singular.size else 1.0
        speed = speed[speed > 0]
        return _DECAY / (slowest * float(speed.min())) if speed.size else _DECAY

    @property
    def delta(self) -> Floats:
        """Balance of all weights, of those that the data do not see too."""
        large, small = np.abs(self.A0), _norm(self.W0)
        return np.asarray((large - small) * (large + small))

    def objective(self, beta: Floats, signs: Floats) -> Floats:
        delta = self.delta
        size = np.linalg.norm(beta, axis=-1)
        R = np.hypot(delta, 2 * size)
        other = R - delta
        root = np.sqrt(np.where(delta >= 0, R + delta, 4 * size**2 / np.where(other > 0, other, 1.0)))
        psi = np.sqrt(2.0) * signs[..., np.newaxis] * self.W0
        return np.asarray((R - 2 * delta) * root / 3 - (beta * psi).sum(axis=-1))


def _norm(vector: Floats) -> Floats:
    return np.asarray(np.linalg.norm(vector, axis=-1))
