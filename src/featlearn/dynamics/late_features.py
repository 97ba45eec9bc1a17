"""Why weight decay still makes features late in a run: a two-layer network, its optimum, and a certificate of it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..exceptions import ConvergenceWarning, DataError
from .absolute_kernel import NO_DIRECTION, AbsoluteKernel, polar
from .short_repr import short_repr
from .solvable import Agreement, Trajectory, agreement, as_floats, as_times

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["LateFeatures", "LateOptimum"]

Floats = NDArray[np.float64]

_ORTHOGONAL = 1e-9
_OWN_KERNEL = 1 - 2 / np.pi  # variance of |z|
_SCHEDULE = ((3e-2, 3000), (1e-2, 3000), (3e-3, 3000), (1e-3, 3000), (3e-4, 3000), (1e-4, 3000))
_RECORDS = 200
_PROBES = 4000
_SETTLED = 1e-3


@short_repr
@dataclass(frozen=True, eq=False)
class LateOptimum:
    """The optimum under weight decay: all mass on the teacher's lines.

    Attributes
    ----------
    decay : array of shape (...)
    mass : array of shape (..., n_teachers)
        ``sum a |w|`` over the neurons on the line of a teacher, with the sign of the teacher's scale.
    loss, objective : array of shape (...)
        Half the mean squared error, and that plus the weight decay.
    """

    decay: Floats
    mass: Floats
    loss: Floats
    objective: Floats

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, nested lists."""
        names = ("decay", "mass", "loss", "objective")
        return {"kind": "LateOptimum", "schema": 1} | {name: getattr(self, name).tolist() for name in names}

    def frame(self) -> pd.DataFrame:
        """One row a weight decay."""
        import pandas as pd

        columns = {f"mass_{k}": np.ravel(self.mass[..., k]) for k in range(self.mass.shape[-1])}
        rest = {name: np.ravel(getattr(self, name)) for name in ("decay", "loss", "objective")}
        return pd.DataFrame(rest | columns)


@short_repr
@dataclass(frozen=True, eq=False)
class LateFeatures:
    r"""``f(x) = sum_i a_i (|w_i.x| - its mean)`` learns a teacher of the same form under weight decay.

    .. math::
        \tfrac12 E (f - f^*)^2 + \tfrac\lambda2 \left(|a|^2 + |W|_F^2\right), \quad x \sim N(0, I)

    in terms of :func:`absolute_kernel`: no sample is drawn. For an orthogonal teacher the optimum is known,

    .. math::
        \text{mass}_k = a^*_k |w^*_k| - \frac{\lambda}{1 - 2/\pi}, \quad
        \tfrac12 E (f - f^*)^2 = \frac{m^*}{2} \frac{\lambda^2}{1 - 2/\pi}

    for positive scales above :math:`\lambda / (1 - 2/\pi)`; a smaller one is given up, and counts with its own loss.

    Parameters
    ----------
    teacher_weights : array_like of shape (n_teachers, d)
        No row of zeros.
    teacher_scales : array_like of shape (n_teachers,)
    n_neurons : int, default 30
    init_scale : float, default 0.05
        Norm of the input weights, in random directions, and size of the output weights, of random sign.
    lr : float, default 0.1
        Step of gradient descent.
    schedule : sequence of (decay, steps)
        Weight decay, at least 0, and for how many steps of gradient descent; stages follow one another.
    random_state : int, optional
        Seed of the start; by default a fresh one, drawn once a model.

    Raises
    ------
    DataError
        Numbers that are not finite or out of range, or shapes that do not fit.

    Notes
    -----
    18 000 steps of 30 neurons take one to two seconds. A small start aligns neurons without weight decay too, slowly;
    the model is about the end of training: fitting does not need features, weight decay makes them.
    Provenance: that gradient descent on a regularised objective captures the teacher's directions once the loss is
    below a threshold is published (abstract); kernel, optimum and certificate are derived here, checked. For the
    optimum: a power series with positive coefficients gives :math:`K(w, w^*_k) \le (1 - 2/\pi) \rho_k^2 |w| |w^*_k|`,
    so that no direction pays more than the teacher's own.

    References
    ----------
    Zhou and Ge, "How does gradient descent learn features: a local analysis for regularized two-layer neural
    networks", arXiv 2406.01766.

    Examples
    --------
    >>> model = LateFeatures([[1.0, 0.0], [0.0, 1.0]], [1.0, 0.8], n_neurons=8, schedule=[(0.03, 2000)], random_state=0)
    >>> model.theory().mass.round(3).tolist()
    [0.917, 0.717]
    >>> model.verify().ok
    True
    """

    teacher_weights: Floats
    teacher_scales: Floats
    n_neurons: int = 30
    init_scale: float = 0.05
    lr: float = 0.1
    schedule: Sequence[tuple[float, int]] = _SCHEDULE
    random_state: int | None = None
    _start: tuple[Floats, Floats] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        weights = as_floats(self.teacher_weights, "teacher_weights")
        scales = as_floats(self.teacher_scales, "teacher_scales")
        if weights.ndim != 2 or scales.shape != weights.shape[:1]:
            raise DataError(
                f"Got teacher_weights of shape {weights.shape} and teacher_scales of shape {scales.shape}, "
                "but expected (n_teachers, d) and (n_teachers,)."
            )
        if not (np.linalg.norm(weights, axis=1) > NO_DIRECTION).all():
            raise DataError("Got teacher_weights with a row of zeros, but expected directions.")
        if isinstance(self.n_neurons, bool) or not isinstance(self.n_neurons, int | np.integer) or self.n_neurons < 1:
            raise DataError(f"Got n_neurons={self.n_neurons!r}, but expected a positive integer.")
        for name in ("init_scale", "lr"):
            if as_floats(getattr(self, name), name, positive=True).ndim:
                raise DataError(f"Got an array as {name}, but expected one number.")
            object.__setattr__(self, name, float(getattr(self, name)))
        object.__setattr__(self, "teacher_weights", weights)
        object.__setattr__(self, "teacher_scales", scales)
        object.__setattr__(self, "schedule", _checked_schedule(self.schedule))
        object.__setattr__(self, "_start", self._draw())

    def _draw(self) -> tuple[Floats, Floats]:
        rng = np.random.default_rng(self.random_state)
        W = rng.standard_normal((self.n_neurons, self.teacher_weights.shape[1]))
        W *= self.init_scale / np.linalg.norm(W, axis=1, keepdims=True)
        return self.init_scale * rng.choice([-1.0, 1.0], self.n_neurons), W

    # --- theory -------------------------------------------------------------------------------------------------------

    @property
    def stages(self) -> tuple[Floats, Floats]:
        """Weight decay of each stage, and the step at which it ends."""
        decays, steps = zip(*self.schedule, strict=True)
        return np.array(decays, dtype=np.float64), np.cumsum(steps, dtype=np.float64)

    def theory(self, decay: ArrayLike | None = None) -> LateOptimum:
        """The optimum.

        Parameters
        ----------
        decay : array_like of shape (...), optional
            Weight decay, at least 0; by default that of the last stage.

        Raises
        ------
        DataError
            A teacher that is not orthogonal: its optimum is not known in closed form.
        """
        lam = as_floats(self.schedule[-1][0] if decay is None else decay, "decay")
        if (lam < 0).any():
            raise DataError(f"Got decay={lam.min():g}, but expected numbers of at least 0.")
        norms = np.linalg.norm(self.teacher_weights, axis=1)
        units = self.teacher_weights / norms[:, np.newaxis]
        overlap = np.abs(units @ units.T - np.eye(len(units))).max()
        if overlap > _ORTHOGONAL:
            raise DataError(
                f"Got teachers with a cosine of {overlap:.3g}, but expected orthogonal ones: only their optimum is "
                "known in closed form. simulate() and certificate() take any teacher."
            )
        goal = self.teacher_scales * norms
        lost = np.minimum(np.abs(goal), lam[..., np.newaxis] / _OWN_KERNEL)
        mass = np.sign(goal) * (np.abs(goal) - lost)
        loss = _OWN_KERNEL / 2 * np.sum(lost**2, axis=-1)
        return LateOptimum(lam, mass, loss, loss + lam * np.sum(np.abs(mass), axis=-1))

    def certificate(self, w: ArrayLike, a: ArrayLike | None = None, W: ArrayLike | None = None) -> Floats:
        r"""Correlation of a new neuron of direction w with what the network has not fitted yet.

        .. math:: r(w) = \sum_k a^*_k K(w, w^*_k) - \sum_i a_i K(w, w_i), \quad |w| = 1

        The network is optimal if and only if ``|r| <= decay`` everywhere, with equality, and the sign of ``a_i``, at
        its live neurons.

        Parameters
        ----------
        w : array_like of shape (n, d)
            Directions, of any length.
        a, W : array_like of shapes (m,) and (m, d), optional
            The network; by default the optimum of :meth:`theory`.

        Returns
        -------
        array of shape (n,)
        """
        if (a is None) != (W is None):
            raise DataError("Got only one of a and W, but expected both or neither.")
        if a is None or W is None:
            a, W = self.theory().mass, self.teacher_weights
            W = W / np.linalg.norm(W, axis=1, keepdims=True)
        points, outputs, inputs = as_floats(w, "w"), as_floats(a, "a"), as_floats(W, "W")
        d = self.teacher_weights.shape[1]
        if points.ndim != 2 or points.shape[1] != d or inputs.shape != (*outputs.shape, d):
            raise DataError(
                f"Got w of shape {points.shape}, a of shape {outputs.shape} and W of shape {inputs.shape}, "
                f"but expected (n, {d}), (m,) and (m, {d})."
            )
        return self._certificate(points, outputs, inputs)

    def _certificate(self, points: Floats, outputs: Floats, inputs: Floats) -> Floats:
        lines = np.concatenate([self.teacher_weights, inputs])
        scales = np.concatenate([self.teacher_scales, -outputs])
        return np.asarray(AbsoluteKernel.of(polar(points)[0], lines).matrix() @ scales)

    # --- simulation ---------------------------------------------------------------------------------------------------

    def simulate(self, t: ArrayLike | None = None, *, method: str = "descent") -> Trajectory:
        """Gradient descent along the schedule.

        Parameters
        ----------
        t : array_like of shape (T,), optional
            Numbers of steps, rounded, at most those of the schedule; by default 200 evenly spaced ones and the ends of
            the stages.
        method : "descent"

        Returns
        -------
        Trajectory
            In steps: ``loss``, ``objective`` and ``decay``; ``angle``, the mean angle of the neurons to the nearest
            teacher, weighted by ``|a| |w|``; ``mass`` (n_teachers, T), the sum of ``a |w|`` over the neurons nearest to
            a teacher; ``total_mass``, of ``|a| |w|``; and the weights ``a`` (m, T) and ``W`` (m, d, T).

        Warns
        -----
        ConvergenceWarning
            A rate so large that the weights overflow.
        """
        if method != "descent":
            raise DataError(f"Got method={method!r}, but expected 'descent', the only simulation of this model.")
        ends = self.stages[1]
        times = np.union1d(np.linspace(0.0, ends[-1], _RECORDS), ends) if t is None else as_times(t)
        if times.max() > ends[-1]:
            raise DataError(f"Got t={times.max():g}, but the schedule has {ends[-1]:.0f} steps.")
        steps, place = np.unique(np.rint(times).astype(np.int64), return_inverse=True)
        with np.errstate(over="ignore", invalid="ignore"):
            records = self._descend(steps)
            a, W = (np.stack([record[i] for record in records], axis=-1) for i in (0, 1))
            values = self._measured(steps, a, W)
        if not (np.isfinite(a).all() and np.isfinite(W).all()):
            text = f"Descent with lr={self.lr:g} diverged; take a smaller rate, or a smaller init_scale."
            warnings.warn(text, ConvergenceWarning, stacklevel=2)
        return Trajectory(np.rint(times), {name: array[..., place] for name, array in values.items()}, "steps")

    def _descend(self, steps: NDArray[np.int64]) -> list[tuple[Floats, Floats]]:
        """Weights after so many steps, in increasing order."""
        a, W = (weights.copy() for weights in self._start)
        decays, ends = self.stages
        records: list[tuple[Floats, Floats]] = []
        for step in range(int(steps[-1]) + 1):
            if step == steps[len(records)]:
                records.append((a.copy(), W.copy()))
            decay = decays[min(int(np.searchsorted(ends, step, side="right")), len(decays) - 1)]
            of_a, of_W = self.gradient(a, W, decay)
            a -= self.lr * of_a
            W -= self.lr * of_W
        return records

    def gradient(self, a: Floats, W: Floats, decay: float) -> tuple[Floats, Floats]:
        """Gradient of the objective in a (m,) and W (m, d)."""
        lines = np.concatenate([W, self.teacher_weights])
        scales = np.concatenate([a, -self.teacher_scales])
        kernel = AbsoluteKernel.of(W, lines)
        return kernel.matrix() @ scales + decay * a, a[:, np.newaxis] * kernel.gradient(scales) + decay * W

    def objective(self, a: ArrayLike, W: ArrayLike, decay: ArrayLike = 0.0) -> Floats:
        """Half the mean squared error plus weight decay; a (..., m), W (..., m, d), decay (...)."""
        return self._objective(as_floats(a, "a"), as_floats(W, "W"), as_floats(decay, "decay"))

    def _objective(self, outputs: Floats, inputs: Floats, decay: Floats | float) -> Floats:
        teachers = np.broadcast_to(self.teacher_weights, (*inputs.shape[:-2], *self.teacher_weights.shape))
        lines = np.concatenate([inputs, teachers], axis=-2)
        against = np.broadcast_to(-self.teacher_scales, (*outputs.shape[:-1], len(self.teacher_scales)))
        scales = np.concatenate([outputs, against], axis=-1)[..., np.newaxis]
        loss = np.sum(scales * (AbsoluteKernel.of(lines, lines).matrix() @ scales), axis=(-2, -1)) / 2
        norms = np.sum(outputs**2, axis=-1) + np.sum(inputs**2, axis=(-2, -1))
        return np.asarray(np.maximum(loss, 0.0) + decay / 2 * norms)

    def _measured(self, steps: NDArray[np.int64], a: Floats, W: Floats) -> dict[str, Floats]:
        decays, ends = self.stages
        decay = decays[np.minimum(np.searchsorted(ends, steps), len(decays) - 1)]
        outputs, inputs = a.T, np.moveaxis(W, -1, 0)
        units, norms = polar(inputs)
        teachers = polar(self.teacher_weights)[0]
        along = units @ teachers.T
        nearest = np.argmax(np.abs(along), axis=-1)
        on_line = np.take_along_axis(along, nearest[..., np.newaxis], axis=-1)
        # The arc cosine loses half of the digits of a small angle.
        angles = np.arctan2(np.linalg.norm(units - on_line * teachers[nearest], axis=-1), np.abs(on_line[..., 0]))
        signed = outputs * norms[..., 0]
        total = np.sum(np.abs(signed), axis=-1)
        groups = nearest[..., np.newaxis] == np.arange(len(teachers))
        return {
            "loss": self._objective(outputs, inputs, 0.0),
            "objective": self._objective(outputs, inputs, decay),
            "decay": decay,
            "angle": np.sum(angles * np.abs(signed), axis=-1) / np.where(total > 0, total, 1.0),
            "mass": np.sum(groups * signed[..., np.newaxis], axis=1).T,
            "total_mass": total,
            "a": a,
            "W": W,
        }

    @cached_property
    def trajectory(self) -> Trajectory:
        """:meth:`simulate` at its default steps, made once."""
        return self.simulate()

    def verify(self, *, tolerance: float = 1e-3) -> Agreement:
        """The optimum against the end of each stage with weight decay.

        Compared are the loss over the square of the decay, the masses, the angle (0), and the largest absolute
        certificate over the decay (1) at the teachers, the neurons and 4000 random directions.

        Raises
        ------
        DataError
            A teacher that is not orthogonal, or no stage with weight decay.

        Warns
        -----
        ConvergenceWarning
            They disagree, and a stage ended before its descent had settled: it is too short.
        """
        decays, ends = (column[self.stages[0] > 0] for column in self.stages)
        if not len(decays):
            raise DataError("Got a schedule without weight decay, but the optimum to compare with is that under decay.")
        best = self.theory(decays)
        theory = {"loss / decay^2": best.loss / decays**2, "mass": best.mass.T}
        theory |= {"angle": np.zeros_like(decays), "certificate": np.ones_like(decays)}
        found = self.simulate(ends)
        probes = np.random.default_rng(0).standard_normal((_PROBES, self.teacher_weights.shape[1]))
        largest = [
            np.abs(self._certificate(np.concatenate([probes, self.teacher_weights, W]), a, W)).max() / decay
            for a, W, decay in zip(found.a.T, np.moveaxis(found.W, -1, 0), decays, strict=True)
        ]
        reached = {"loss / decay^2": found.loss / decays**2, "mass": found.mass}
        reached |= {"angle": found.angle, "certificate": np.array(largest)}
        result = agreement(Trajectory(ends, theory, "steps"), Trajectory(ends, reached, "steps"), tolerance)
        left = np.array([self._unsettled(found.a[:, k], found.W[..., k], decay) for k, decay in enumerate(decays)])
        if not result.ok and left.max() > _SETTLED:
            worst = int(np.argmax(left))
            warnings.warn(
                f"The stage of weight decay {decays[worst]:g} had not converged at step {ends[worst]:.0f}: its "
                f"gradient was {left[worst]:.2g} of the decay's pull. Give the schedule more steps.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return result

    def _unsettled(self, a: Floats, W: Floats, decay: float) -> float:
        """Size of the gradient, over that of the weight decay alone; 0 at an optimum."""
        of_a, of_W = self.gradient(a, W, decay)
        pull = decay * np.hypot(np.linalg.norm(a), np.linalg.norm(W))
        return float(np.hypot(np.linalg.norm(of_a), np.linalg.norm(of_W)) / pull)

    # --- showing ------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Parameters as plain numbers."""
        names = ("n_neurons", "init_scale", "lr", "random_state")
        arrays = {name: getattr(self, name).tolist() for name in ("teacher_weights", "teacher_scales")}
        schedule = [list(stage) for stage in self.schedule]
        plain = {name: getattr(self, name) for name in names}
        return {"kind": "LateFeatures", "schema": 1} | arrays | plain | {"schedule": schedule}

    def frame(self) -> pd.DataFrame:
        """One row a recorded step of :attr:`trajectory`."""
        import pandas as pd

        run = self.trajectory
        names = ("decay", "loss", "objective", "angle", "total_mass")
        return pd.DataFrame({"step": run.t.astype(int)} | {name: run[name] for name in names})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Loss and angle over the steps."""
        from ..plots.late_features import plot_late_features

        return plot_late_features(self.frame().to_dict("list"), ax)

    def plot_certificate(self, ax: Axes | None = None) -> Axes:
        """The certificate at the end of the schedule over the circle, for inputs of two dimensions."""
        from ..plots.late_features import plot_certificate

        if self.teacher_weights.shape[1] != 2:
            raise DataError(f"Got inputs of {self.teacher_weights.shape[1]} dimensions, but a circle has 2.")
        run = self.trajectory
        a, W = run.a[:, -1], run.W[..., -1]
        angles = np.linspace(0.0, np.pi, 721)
        curve = self.certificate(np.stack([np.cos(angles), np.sin(angles)], axis=1), a, W)
        teachers, neurons = (np.arctan2(rows[:, 1], rows[:, 0]) % np.pi for rows in (self.teacher_weights, W))
        mass = a * np.linalg.norm(W, axis=1)
        result = {"angles": angles, "certificate": curve, "decay": float(self.schedule[-1][0]), "teachers": teachers}
        return plot_certificate(
            result | {"neurons": neurons, "mass": mass, "at_neurons": self.certificate(W, a, W)}, ax
        )


def _checked_schedule(schedule: Sequence[tuple[float, int]]) -> tuple[tuple[float, int], ...]:
    try:
        stages = [(decay, steps) for decay, steps in schedule]
    except (TypeError, ValueError) as error:
        raise DataError(f"Got schedule={schedule!r}, but expected pairs (weight decay, steps).") from error
    if not stages:
        raise DataError("Got an empty schedule, but expected pairs (weight decay, steps).")
    for decay, steps in stages:
        if as_floats(decay, "a weight decay of the schedule").ndim or decay < 0:
            raise DataError(f"Got a weight decay of {decay} in the schedule, but expected numbers of at least 0.")
        if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
            raise DataError(f"Got {steps!r} steps in the schedule, but expected positive integers.")
    return tuple((float(decay), int(steps)) for decay, steps in stages)
