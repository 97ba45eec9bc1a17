"""The lazy and rich regimes of a real ReLU network over the scale and the balance of its start."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ..exceptions import ConvergenceWarning, DataError
from .relu_students import MEASURES, Students, TeacherStudent
from .short_repr import short_repr
from .solvable import Agreement, as_floats, worst_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["RegimeGrid", "TeacherStudent", "regime_grid"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_TAU = (0.1, 0.3, 1.0, 2.0)
_DELTA = (-1.0, -0.3, 0.0, 0.3, 1.0)
_RECORDS = 25
# Fixed, so that the sums of a run never depend on the memory that happens to be free.
_MOST_NUMBERS = 2**24


@short_repr
@dataclass(frozen=True, eq=False)
class RegimeGrid:
    """What moved while ReLU students learned, over the scale and the balance of their start.

    The six measures are arrays of shape (n_tau, n_delta, n_repeats, n_checkpoints), nan for runs that diverged.

    Attributes
    ----------
    tau : array of shape (n_tau,)
        Scale: ``|a_i| |w_i| = tau^2`` at the start.
    delta : array of shape (n_delta,)
        Balance: ``a_i^2 - |w_i|^2`` at the start; positive is upstream, negative downstream.
    steps : array of int, shape (n_checkpoints,)
    train, test : array
        Mean of ``(f - y)^2``.
    kernel_distance : array
        1 minus the cosine of the tangent kernels of both layers, now and at the start, on the training inputs.
    hamming : array
        Share of the (neuron, sample) pairs that were switched on or off since the start.
    parameter_distance : array
        Euclidean distance of all weights from the start.
    balance_drift : array
        Largest change of a neuron's balance, which gradient flow conserves: how far the steps are from it.
    problem : TeacherStudent
    lr : float
    """

    tau: Floats
    delta: Floats
    steps: Integers
    train: Floats = field(repr=False)
    test: Floats = field(repr=False)
    kernel_distance: Floats = field(repr=False)
    hamming: Floats = field(repr=False)
    parameter_distance: Floats = field(repr=False)
    balance_drift: Floats = field(repr=False)
    problem: TeacherStudent
    lr: float

    def at(self, step: int | None = None) -> dict[str, Floats]:
        """Mean over the repeats of each measure, shape (n_tau, n_delta), at a recorded step; by default the last."""
        place = len(self.steps) - 1 if step is None else int(np.searchsorted(self.steps, step))
        if place == len(self.steps) or (step is not None and self.steps[place] != step):
            raise DataError(f"Got step={step}, but expected one of the recorded steps {self.steps.tolist()}.")
        return {name: getattr(self, name)[..., place].mean(axis=2) for name in MEASURES}

    def frame(self) -> pd.DataFrame:
        """One row a tau, delta, repeat and step."""
        import pandas as pd

        repeats = np.arange(self.train.shape[2])
        index = pd.MultiIndex.from_product(
            [self.tau, self.delta, repeats, self.steps], names=["tau", "delta", "repeat", "step"]
        )
        return pd.DataFrame({name: getattr(self, name).ravel() for name in MEASURES}, index).reset_index()

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        arrays = {name: getattr(self, name).tolist() for name in ("tau", "delta", "steps", *MEASURES)}
        return {"kind": "RegimeGrid", "schema": 1, "problem": asdict(self.problem), "lr": self.lr} | arrays

    def verify(self, *, tolerance: float = 0.05) -> Agreement:
        """How far the steps are from the gradient flow that the regimes belong to, which keeps the balance of neurons.

        The largest change of a neuron's ``a_i^2 - |w_i|^2`` over the grid and the run; nan if a run diverged.
        """
        worst = self.balance_drift.max(axis=(1, 2, 3))
        rows = [
            {"quantity": f"balance at tau={tau:g}", "worst": float(drift), "at": float(self.steps[-1])}
            for tau, drift in zip(self.tau, worst, strict=True)
        ]
        return worst_of(rows, tolerance)

    def plot(
        self,
        ax: Axes | Sequence[Axes] | None = None,
        *,
        measures: Sequence[str] = ("test", "kernel_distance", "hamming", "parameter_distance"),
        step: int | None = None,
    ) -> list[Axes]:
        """One map over delta and tau a measure, at a recorded step; by default the last."""
        from ..plots.regime_grid import plot_regime_grid

        unknown = set(measures) - set(MEASURES)
        if unknown or not measures:
            raise DataError(f"Got measures={tuple(measures)}, but expected some of {MEASURES}.")
        found = self.at(step)
        maps = {name: found[name].tolist() for name in measures}
        return plot_regime_grid({"tau": self.tau.tolist(), "delta": self.delta.tolist(), "maps": maps}, ax)

    def _repr_html_(self) -> str:
        last = self.frame().groupby(["tau", "delta", "step"])[list(MEASURES)].mean().xs(self.steps[-1], level="step")
        return f"<p>After {self.steps[-1]} steps</p>{last.to_html(float_format=lambda value: format(value, '.2g'))}"


def regime_grid(
    tau: ArrayLike = _TAU,
    delta: ArrayLike = _DELTA,
    problem: TeacherStudent | None = None,
    *,
    n_steps: int = 6000,
    lr: float = 0.02,
    n_repeats: int = 2,
    checkpoints: Sequence[int] | None = None,
    random_state: int | None = None,
    device: str | torch.device = "cpu",
    verbose: int = 0,
) -> RegimeGrid:
    r"""Train ReLU students from every scale and balance, and measure what moved.

    .. math::
        f(x) = \sum_{i=1}^m a_i \, \mathrm{relu}(w_i \cdot x), \quad
        |a_i| |w_i| = \tau^2, \quad a_i^2 - |w_i|^2 = \delta, \quad f = 0 \text{ at the start}

    by full-batch gradient descent on the mean of :math:`(f - y)^2` with steps of :math:`\mathrm{lr} / \tau^2`.

    Parameters
    ----------
    tau : array_like of shape (n_tau,)
        Scales, positive.
    delta : array_like of shape (n_delta,)
        Balances.
    problem : TeacherStudent, optional
        20 inputs, 200 samples, 20 neurons, a teacher of 3, 4000 test samples by default.
    n_steps : int, default 6000
    lr : float, default 0.02
    n_repeats : int, default 2
        Draws of data, teacher and student; all points of the grid see the same.
    checkpoints : sequence of int, optional
        Steps at which to measure, from 0 to ``n_steps``; by default 0 and some 25, evenly spaced on a log axis. The
        last step is always measured.
    random_state : int, optional
        Seed; by default a fresh one.
    device : str or torch.device, default "cpu"
    verbose : int, default 0
        A progress bar if positive.

    Returns
    -------
    RegimeGrid

    Raises
    ------
    DataError
        Numbers out of range.

    Warns
    -----
    ConvergenceWarning
        Runs that diverged, at small scales far from balance: lower ``lr``.

    Notes
    -----
    All points of a repeat are one batched tensor, in float64; 40 to 60 microseconds a run and step at the default size
    on one core, 10 to 15 seconds for the default grid. Provenance: setup read in the authors' code; there, 100
    inputs, 1000 samples, 50 neurons and a million steps.

    References
    ----------
    Kunin et al., "Get rich quick", arXiv 2406.06158.

    Examples
    --------
    >>> small = TeacherStudent(n_features=5, n_samples=30, n_neurons=10, n_test=100)
    >>> grid = regime_grid([0.2, 2.0], [-1, 0, 1], small, n_steps=500, n_repeats=1, random_state=0)
    >>> grid.test.shape[:3], bool((grid.at()["hamming"][0] > grid.at()["hamming"][1]).all())
    ((2, 3, 1), True)
    """
    taus, deltas = _axis(tau, "tau", positive=True), _axis(delta, "delta", positive=False)
    if problem is None:
        problem = TeacherStudent()
    elif not isinstance(problem, TeacherStudent):
        raise DataError(f"Got problem of type {type(problem).__name__}, but expected a TeacherStudent.")
    for name, count in (("n_steps", n_steps), ("n_repeats", n_repeats)):
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
            raise DataError(f"Got {name}={count!r}, but expected a positive integer.")
    as_floats(lr, "lr", positive=True)
    steps = _checked_steps(checkpoints, n_steps)
    points = [axis.ravel() for axis in np.meshgrid(taus, deltas, indexing="ij")]
    chunks = [slice(start, start + size) for size in [_chunk(problem)] for start in range(0, len(points[0]), size)]
    seeds = np.random.SeedSequence(random_state).spawn(n_repeats)
    found = np.empty((len(MEASURES), len(points[0]), n_repeats, len(steps)))
    with ExitStack() as stack:
        advance = _progress(stack, n_repeats * len(chunks) * int(n_steps), verbose)
        for repeat, seed in enumerate(seeds):
            task = problem.draw(np.random.default_rng(seed), device)
            for chunk in chunks:
                scale, balance = (torch.from_numpy(axis[chunk]).to(device) for axis in points)
                found[:, chunk, repeat] = _trained(Students(task, scale, balance, lr), steps, advance)
    _warn_of_divergence(found, *points)
    shape = (len(taus), len(deltas), n_repeats, len(steps))
    measures = dict(zip(MEASURES, (array.reshape(shape) for array in found), strict=True))
    return RegimeGrid(tau=taus, delta=deltas, steps=steps, problem=problem, lr=float(lr), **measures)


def _axis(values: ArrayLike, name: str, positive: bool) -> Floats:
    axis = np.atleast_1d(as_floats(values, name, positive=positive))
    if axis.ndim != 1:
        raise DataError(f"Got {name} of shape {axis.shape}, but expected one axis of the grid.")
    return axis


def _checked_steps(checkpoints: Sequence[int] | None, n_steps: int) -> Integers:
    if checkpoints is None:
        return np.unique(np.append(0, np.rint(np.geomspace(1, n_steps, _RECORDS)).astype(np.int64)))
    asked = np.asarray(checkpoints)
    if asked.ndim != 1 or not (np.issubdtype(asked.dtype, np.integer) or not asked.size):
        raise DataError(f"Got checkpoints={checkpoints!r}, but expected a sequence of integers.")
    if ((asked < 0) | (asked > n_steps)).any():
        raise DataError(f"Got checkpoints from {asked.min()} to {asked.max()}, but expected 0 to n_steps={n_steps}.")
    return np.unique(np.append(asked, n_steps)).astype(np.int64)


def _chunk(problem: TeacherStudent) -> int:
    return max(1, _MOST_NUMBERS // problem.numbers_a_run)


def _progress(stack: ExitStack, total: int, verbose: int) -> Callable[[int], None]:
    if not verbose:
        return lambda _: None
    from rich.console import Console
    from rich.progress import Progress

    progress = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
    bar = progress.add_task("Training", total=total)
    return lambda steps: progress.advance(bar, steps)


def _trained(students: Students, steps: Integers, advance: Callable[[int], None]) -> Floats:
    """Every measure at each of the steps, shape (n_measures, G, n_checkpoints)."""
    records = []
    for count in np.diff(steps, prepend=0).tolist():
        students.train(count)
        records.append(torch.stack(list(students.measure().values())))
        advance(count)
    return torch.stack(records, dim=-1).cpu().numpy()


def _warn_of_divergence(found: Floats, tau: Floats, delta: Floats) -> None:
    """A run that is not finite at a step gets nan there in every measure, the share of switched signs included."""
    diverged = ~np.isfinite(found).all(axis=0)
    found[:, diverged] = np.nan
    runs = np.asarray(diverged.any(axis=-1))
    if runs.any():
        place = int(np.argwhere(runs)[0, 0])
        text = f"{runs.sum()} of {runs.size} runs diverged, the first at tau={tau[place]:g}, delta={delta[place]:g}"
        warnings.warn(f"{text}; lower lr.", ConvergenceWarning, stacklevel=3)
