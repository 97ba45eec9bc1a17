"""Feature unlearning: a fast alignment that a slow second layer can undo."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..exceptions import DataError
from .critical_manifold import CriticalManifold, Fate
from .fast_slow_network import train_neurons
from .fast_slow_results import UnlearningLaw, Verdict
from .integration import integrate
from .short_repr import short_repr
from .solvable import Agreement, Trajectory, agreement, as_floats, as_times, broadcast

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["FastSlow"]

Floats = NDArray[np.float64]

_FINEST = 1e-15  # relative width of an interval that halving does not leave as it is


@short_repr
@dataclass(frozen=True, eq=False, init=False)
class FastSlow:
    r"""Infinitely wide network on a single-index task: alignment R moves fast, the second layer a slowly.

    .. math::
        L = \tfrac{1}{2} \sum_k (\tau_k - a \sigma_k R^k)^2, \quad
        \dot a = \epsilon \sum_k \sigma_k R^k (\tau_k - a \sigma_k R^k), \quad
        \dot R = (1 - R^2) \, a \sum_k k \sigma_k R^{k-1} (\tau_k - a \sigma_k R^k)

    R rests on a curve, ``a = A(R)``, and drifts along it; falling off a fold of it, it jumps. Where the second
    coefficients of student and teacher disagree in sign, the drift takes learned alignment away again.

    Parameters
    ----------
    sigma, tau : array_like of shape (..., K)
        Coefficients of the student's activation and of the teacher in normalised Hermite polynomials, degree 1 on.
    a0 : array_like, default 1.0
        Initial second layer.
    R0 : array_like, default 0.05
        Initial alignment, inside (-1, 1).
    eps : array_like, default 0.01
        Positive rate of the second layer, of the first layer's.

    Raises
    ------
    DataError
        Numbers out of range, other numbers of coefficients, shapes that do not broadcast, a student without any.

    Notes
    -----
    Inputs are standard normal, weight vectors have unit length. A larger second layer is both remedy and poison: with
    ``sigma=(1, .5), tau=(1, -.5)`` unlearning takes the longer the larger a0 is, while ``sigma=(1, .5, .5),
    tau=(1, -.1, .8), R0=.02`` learns up to a0 = 10.8 and unlearns from 10.9 on.
    Provenance: that the first layer is fast, the second slow, that the flow on the critical manifold decides on
    unlearning, and that a larger second layer mitigates it, is published (abstract); the equations here are derived as
    the natural system with these properties, and checked numerically. They were not read in the paper.

    References
    ----------
    Imai, Nishiyama and Imaizumi, arXiv 2602.07378.

    Examples
    --------
    >>> model = FastSlow([1.0, 0.5], [1.0, -0.5])
    >>> str(model.verdict().outcome), round(float(model.law().exponent), 4)
    ('unlearn', 0.3333)
    >>> model.simulate([0.0, 10.0, 1e4]).R.round(3).tolist()
    [0.05, 0.592, 0.219]
    """

    sigma: Floats
    tau: Floats
    a0: Floats
    R0: Floats
    eps: Floats

    def __init__(
        self,
        sigma: ArrayLike,
        tau: ArrayLike,
        *,
        a0: ArrayLike = 1.0,
        R0: ArrayLike = 0.05,
        eps: ArrayLike = 0.01,
    ) -> None:
        student, teacher = as_floats(sigma, "sigma"), as_floats(tau, "tau")
        if student.ndim == 0 or teacher.ndim == 0 or student.shape[-1] != teacher.shape[-1]:
            raise DataError(
                f"Got sigma of shape {student.shape} and tau of shape {teacher.shape}, but expected (..., K)."
            )
        if not (student != 0).any(axis=-1).all():
            raise DataError("Got sigma=0 in all degrees, but expected a student with at least one coefficient.")
        scalars = {"a0": as_floats(a0, "a0"), "R0": as_floats(R0, "R0"), "eps": as_floats(eps, "eps", positive=True)}
        if (np.abs(scalars["R0"]) >= 1).any():
            raise DataError(f"Got R0={scalars['R0'].max():g}, but expected alignments inside (-1, 1).")
        # The axis of degrees takes no part in the broadcasting of the batch.
        batch = broadcast(sigma=student[..., 0], tau=teacher[..., 0], **scalars)
        shape = (*batch["a0"].shape, student.shape[-1])
        vectors = {"sigma": np.broadcast_to(student, shape), "tau": np.broadcast_to(teacher, shape)}
        for name, array in {**vectors, **{name: batch[name] for name in scalars}}.items():
            object.__setattr__(self, name, array)

    def __getitem__(self, index: Any) -> FastSlow:
        """One model of a batch, or a part of it."""
        whole = index if isinstance(index, tuple) else (index,)
        of_vectors = whole if Ellipsis not in whole else (*whole, slice(None))
        scalars = {name: getattr(self, name)[whole] for name in ("a0", "R0", "eps")}
        return FastSlow(self.sigma[of_vectors], self.tau[of_vectors], **scalars)

    # --- theory -------------------------------------------------------------------------------------------------------

    @cached_property
    def manifold(self) -> CriticalManifold:
        """On which the alignment rests; of one model, not of a batch."""
        self._refuse_batch("the manifold")
        return CriticalManifold(self.sigma, self.tau)

    def fate(self) -> Fate:
        """The way of one model in the limit ``eps -> 0``, corner by corner."""
        return self.manifold.fate(float(self.R0), float(self.a0))

    def verdict(self) -> Verdict:
        """Learn, partial, unlearn, or on the border; in the limit ``eps -> 0``.

        Notes
        -----
        A walk over the branches of the manifold, element by element: about half a millisecond each.
        """
        return self._judge(self.R0, self.a0)

    def _judge(self, R: Floats, a: Floats) -> Verdict:
        manifolds: dict[bytes, CriticalManifold] = {}  # many starts often share one
        fates = []
        for index in np.ndindex(self.a0.shape):
            key = self.sigma[index].tobytes() + self.tau[index].tobytes()
            if key not in manifolds:
                manifolds[key] = CriticalManifold(self.sigma[index], self.tau[index])
            fates.append(manifolds[key].fate(float(R[index]), float(a[index])))
        columns = {
            name: np.array([getattr(fate, name) for fate in fates]).reshape(self.a0.shape)
            for name in ("outcome", "R", "a", "jumps")
        }
        return Verdict(**columns)

    def separatrix(
        self, low: ArrayLike, high: ArrayLike, *, method: Literal["reduced", "ode"] = "reduced", xtol: float = 1e-7
    ) -> Floats:
        """Initial second layer between ``low`` and ``high`` at which the outcome changes; the model's a0 is not used.

        Parameters
        ----------
        low, high : array_like
            With different outcomes.
        method : {"reduced", "ode"}, default "reduced"
            In the limit ``eps -> 0``; or with the model's eps, by integration over 30 slow units of time.
        xtol : float, default 1e-7
            Width of the last interval, relative; positive, and at least that of rounding.

        Raises
        ------
        DataError
            Both ends have one outcome, or an unknown method.
        """
        if method not in ("reduced", "ode"):
            raise DataError(f"Got method={method!r}, but expected 'reduced' or 'ode'.")
        width = max(float(as_floats(xtol, "xtol", positive=True)), _FINEST)

        def outcome(a0: Floats) -> NDArray[np.str_]:
            model = FastSlow(self.sigma, self.tau, a0=a0, R0=self.R0, eps=self.eps)
            if method == "reduced":
                return model.verdict().outcome
            end = model.simulate(30 / float(self.eps.min()))
            return model._judge(end["R"][..., 0], end["a"][..., 0]).outcome

        ends = broadcast(low=as_floats(low, "low"), high=as_floats(high, "high"), a0=self.a0)
        below, above = ends["low"], ends["high"]
        first, last = outcome(below), outcome(above)
        if (first == last).any():
            raise DataError(f"Got low and high that both {first[first == last][0]}, but expected different outcomes.")
        while (np.abs(above - below) > width * np.maximum(np.abs(above), np.abs(below))).any():
            middle = (below + above) / 2
            same = outcome(middle) == first
            below, above = np.where(same, middle, below), np.where(same, above, middle)
        return np.asarray((below + above) / 2)

    def law(self) -> UnlearningLaw:
        r"""Exponents and rates of fading on the branch that leads to R = 0 at growing \|a\|.

        With a first coefficient in student and teacher, and p the first degree from 2 on in which both have one
        (provided that ``p = 2`` or ``sigma_2 = 0``), the alignment fades iff ``sigma_p tau_p < 0``, with ``q = p``.
        In general the lowest powers of A and G at R = 0 decide.
        """
        degrees = np.arange(1, self.sigma.shape[-1] + 1)
        both, student = degrees * self.sigma * self.tau, degrees * self.sigma**2
        top, top_degree = _lowest(both)
        bottom, first = _lowest(student)
        drift, drift_degree = _lowest(self._drift())
        bottom_degree = 2 * first + 1  # A = top R^top_degree / (bottom R^bottom_degree) and G = drift R^.. / the same
        order = np.where(top == 0, 0, bottom_degree - top_degree)
        sign_a = np.where(self.a0 < 0, -1.0, 1.0)
        sign_R = np.where(order % 2 == 1, np.sign(top) * sign_a, np.where(self.R0 < 0, -1.0, 1.0))
        exists = (order > 0) & (np.sign(top) * sign_R ** np.maximum(order, 1) == sign_a)
        order, limit = np.where(exists, order, 1.0), np.where(exists, np.abs(top) / bottom, 1.0)
        power = (drift_degree - bottom_degree) / order
        side = sign_R ** np.where(exists, drift_degree - bottom_degree, 0)
        rate = self.eps * sign_a * side * drift / bottom * limit**power
        return UnlearningLaw(power, order, np.where(exists, rate, 0.0), limit, sign_a, sign_R)

    def _drift(self) -> Floats:
        """Coefficients of G's numerator (see :class:`CriticalManifold`) for the whole batch."""
        K = self.sigma.shape[-1]
        degrees = np.arange(1, K + 1)
        drift = np.zeros((*self.a0.shape, 3 * K))
        for k in degrees:
            student = self.sigma[..., k - 1, np.newaxis] ** 2
            drift[..., degrees + 2 * k - 1] += (k - degrees) * self.sigma * self.tau * student
        return drift

    # --- the independent path -----------------------------------------------------------------------------------------

    def simulate(
        self,
        t: ArrayLike,
        *,
        method: Literal["ode", "network"] = "ode",
        n_neurons: int = 64,
        dim: int = 256,
        random_state: int | None = 0,
    ) -> Trajectory:
        """Second layer, alignment and loss over time, from the equations or from a network of finite width.

        Parameters
        ----------
        t : array_like
            Finite times; "ode" goes to 1e10 and beyond.
        method : {"ode", "network"}, default "ode"
            LSODA on a and ``atanh R``; or gradient flow of all weights of ``n_neurons`` neurons in ``dim`` dimensions
            on the exact population loss, which costs O(N^2 dim) a step.
        n_neurons, dim, random_state
            For "network" only.

        Returns
        -------
        Trajectory
            "a", "R", "loss" of shape (..., T). The network gives means over neurons, and "a_i", "R_i" (..., N, T).

        Raises
        ------
        DataError
            Infinite times, an unknown method, sizes too small.
        """
        times = as_times(t)
        if method == "ode":
            # In R itself an implicit step can pass 1, where the equations blow up; its atanh has nowhere to pass to.
            a, z = integrate(self._flow, np.stack([self.a0, np.arctanh(self.R0)]), times, method="LSODA")
            return Trajectory(times, self._with_loss(a, np.tanh(z)))
        if method != "network":
            raise DataError(f"Got method={method!r}, but expected 'ode' or 'network'.")
        for name, count, least in (("n_neurons", n_neurons, 1), ("dim", dim, 2)):
            if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < least:
                raise DataError(f"Got {name}={count!r}, but expected an integer of at least {least}.")
        parameters = (self.sigma, self.tau, self.a0, self.R0, self.eps)
        rng = np.random.default_rng(random_state)
        a, R = train_neurons(*parameters, times, n_neurons=n_neurons, dim=dim, rng=rng)
        return Trajectory(times, {**self._with_loss(a.mean(axis=-2), R.mean(axis=-2)), "a_i": a, "R_i": R})

    def _flow(self, state: Floats) -> Floats:
        a, z = state
        degrees = np.arange(1, self.sigma.shape[-1] + 1)
        R = np.tanh(z)[..., np.newaxis]
        features = self.sigma * R**degrees
        error = self.tau - a[..., np.newaxis] * features
        steep = degrees * self.sigma * R ** (degrees - 1)
        return np.stack([self.eps * np.sum(features * error, axis=-1), a * np.sum(steep * error, axis=-1)])

    def _with_loss(self, a: Floats, R: Floats) -> dict[str, Floats]:
        degrees = np.arange(1, self.sigma.shape[-1] + 1)[:, np.newaxis]
        fitted = self.sigma[..., np.newaxis] * a[..., np.newaxis, :] * R[..., np.newaxis, :] ** degrees
        return {"a": a, "R": R, "loss": np.sum((self.tau[..., np.newaxis] - fitted) ** 2, axis=-2) / 2}

    def verify(self, t: ArrayLike | None = None, *, tolerance: float = 0.02) -> Agreement:
        """How far the verdict, and the law where the alignment fades, are from :meth:`simulate` at late times.

        Parameters
        ----------
        t : array_like, optional
            Late times; by default 1e8 slow units.
        tolerance : float, default 0.02
            On alignment and loss. The theory is a limit in eps and t: a drift that starts at a very small alignment can
            take longer than the default times, and then shows as a disagreement.
        """
        times = as_times(1e8 / float(self.eps.min()) if t is None else t)
        verdict, end = self.verdict(), self.simulate(times)
        fades = np.isinf(verdict.a)[..., np.newaxis]
        limit = self._with_loss(np.where(fades, 0.0, verdict.a[..., np.newaxis]), verdict.R[..., np.newaxis])
        law = self.law().at(times)
        R = np.where(fades, law["R"], limit["R"])
        loss = np.where(fades, self._with_loss(law["a"], law["R"])["loss"], limit["loss"])
        return agreement(Trajectory(times, {"R": R, "loss": loss}), end, tolerance)

    def _refuse_batch(self, what: str) -> None:
        if self.a0.ndim:
            raise DataError(
                f"Got a batch of models of shape {self.a0.shape}, but expected one for {what}. Index the batch, as in "
                f"model[{', '.join('0' * self.a0.ndim)}]."
            )

    # --- showing ------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Parameters as plain numbers, and the verdict."""
        numbers = {name: getattr(self, name).tolist() for name in ("sigma", "tau", "a0", "R0", "eps")}
        return {"kind": "FastSlow", "schema": 1, **numbers, "verdict": self.verdict().to_dict()}

    def frame(self) -> pd.DataFrame:
        """One row an element of the batch: a0, R0, eps and the verdict."""
        import pandas as pd

        numbers = {name: np.ravel(getattr(self, name)) for name in ("a0", "R0", "eps")}
        return pd.DataFrame(numbers).join(self.verdict().frame())

    def plot(self, t: ArrayLike | None = None, ax: Any = None) -> list[Axes]:
        """Portrait of the flow with the critical manifold, and R and a over time, of one model.

        Parameters
        ----------
        t : array_like, optional
            Times; by default 0 and 300 from 0.01 to 1e6 slow units, in equal ratios.
        ax : Axes or two Axes, optional
            Drawn into; one Axes gets the portrait alone. By default a new figure.
        """
        from ..plots.fast_slow import plot_fast_slow

        self._refuse_batch("the figure")
        times = np.append(0.0, np.geomspace(0.01, 1e6 / float(self.eps), 300)) if t is None else np.sort(as_times(t))
        path = self.simulate(times)
        for _ in range(4):  # drawn with few points, a fast passage would cut across the manifold
            leaps = np.flatnonzero(np.abs(np.diff(path["R"])) > 0.05)
            if not leaps.size:
                break
            times = np.unique([*times, *np.linspace(times[leaps], times[leaps + 1], 50).ravel()])
            path = self.simulate(times)
        R = np.concatenate([-np.geomspace(1.0, 1e-4, 600), np.geomspace(1e-4, 1.0, 600)])
        manifold = self.manifold
        curve = {"R": R, "A": manifold.A(R), "G": manifold.G(R), "attracting": manifold.attracting(R)}
        late = self.law().at(times).to_dict() if np.isinf(self.fate().a) else None
        return plot_fast_slow({name: x.tolist() for name, x in curve.items()}, path.to_dict(), late, ax)


def _lowest(coefficients: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """First coefficient of a polynomial that is not 0 (0 if there is none), and its degree."""
    degree = np.argmax(coefficients != 0, axis=-1)
    return np.take_along_axis(coefficients, degree[..., np.newaxis], axis=-1)[..., 0], degree
