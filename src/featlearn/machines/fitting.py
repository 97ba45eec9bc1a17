"""From encoded problems to fitted machines: candidates, selection, the refit on all rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .._random import generator
from ..agop.of_kernel import KernelAGOP, agop_of_expansion
from ..exceptions import DataError, FeatlearnWarning
from ..kernels import Metric
from ..linalg.ridge import RidgeSolver, solve_ridge
from .blending import blended
from .columns import FittedColumns
from .loop import HeldOut, LeaveOneOut, Recipe, Run, draw_points, run
from .rules import MetricRule
from .selection import (
    CROSS_VALIDATED,
    FOLDS,
    Candidate,
    Member,
    Rung,
    Selection,
    Split,
    cross_validation,
    hold_out,
    race,
)

__all__ = [
    "Encoded",
    "Fitted",
    "Plan",
    "Problem",
    "final_agop",
    "honest_at_identity",
    "possible_folds",
    "refit",
    "select",
]

DOUBLE_ROWS = 500  # rows up to which everything is in float64: it costs nothing there
CALIBRATED = 1500  # most rows for calibration where nothing was selected
SHOWN = 5000  # points of the AGOP that is shown
SMALLEST = 1e-8  # ridge for that
PATIENCE = 2  # steps of a hold-out race without a better score
OUTSIDE = 5000  # most rows outside the metric's own that score the iterates


@dataclass(frozen=True, eq=False)
class Encoded:
    """Rows of one column transform."""

    columns: FittedColumns
    x: Tensor


@dataclass(frozen=True, eq=False)
class Problem:
    """What is to be learned, in numbers.

    Attributes
    ----------
    encoded : dict of str to Encoded
        By the name of the transform; rows of positive weight only.
    targets : Tensor of shape (n, C)
        Coded, in units of their scale.
    weights : Tensor of shape (n,) or None
    labels : Tensor of shape (n,) or None
        Class indices, by which folds are stratified.
    places : Tensor of shape (n,)
        Which rows of X they are.
    scale : float
        Unit of the targets.
    """

    encoded: dict[str, Encoded]
    targets: Tensor
    weights: Tensor | None
    labels: Tensor | None
    places: Tensor
    scale: float

    def at(self, index: Tensor) -> Problem:
        """The same problem on some of its rows."""
        encoded = {name: Encoded(part.columns, part.x[index]) for name, part in self.encoded.items()}
        weights = None if self.weights is None else self.weights[index]
        labels = None if self.labels is None else self.labels[index]
        return Problem(encoded, self.targets[index], weights, labels, self.places[index], self.scale)

    def rows(self, transform: str, index: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Encoded rows, targets and weights at an index."""
        weights = None if self.weights is None else self.weights[index]
        return self.encoded[transform].x[index], self.targets[index], weights


@dataclass(frozen=True)
class Plan:
    """What the user asked for, resolved.

    Attributes
    ----------
    candidates : tuple of Candidate
    alphas : tuple of float
    metric : MetricRule
    max_iter : int
    tol : float
    solver : RidgeSolver
    selected : bool
        Choose the iterate; else take the last.
    method : str
        "auto", "cv", "holdout", "loo", "validation" or "none".
    centered : bool
        Whether the targets had their mean subtracted.
    metric_samples : int or None
    blend : int
        Most machines that are averaged.
    random_state : int
    """

    candidates: tuple[Candidate, ...]
    alphas: tuple[float, ...]
    metric: MetricRule
    max_iter: int
    tol: float
    solver: RidgeSolver
    selected: bool
    method: str
    centered: bool
    metric_samples: int | None
    blend: int
    random_state: int

    def recipe(self, candidate: Candidate, alphas: Sequence[Sequence[float]], steps: int, *, selected: bool) -> Recipe:
        """For one run of the loop."""
        return Recipe(
            candidate.parts,
            candidate.bandwidth,
            tuple(tuple(step) for step in alphas),
            replace(self.metric, power=candidate.power),
            steps,
            self.tol,
            self.solver,
            selected,
        )

    @property
    def needs_selection(self) -> bool:
        """Whether anything is left to choose."""
        return self.selected or len(self.candidates) > 1 or len(self.alphas) > 1


@dataclass(frozen=True, eq=False)
class Fitted:
    """One machine of a blend on all rows."""

    candidate: Candidate
    weight: float
    run: Run


def select(
    plan: Plan,
    problem: Problem,
    validation: tuple[dict[str, Tensor], Tensor] | None = None,
    runner: Callable[[Sequence[Callable[[], Run]]], list[Run]] | None = None,
) -> Selection:
    """Choose candidate, ridge and iterate on rows that they have not seen."""
    n = len(problem.targets)
    method = plan.method
    if method == "auto":
        method = "cv" if n <= CROSS_VALIDATED else "holdout"
    if method == "validation":
        if validation is None:
            raise DataError('Got selection="validation" without X_val and y_val. Pass them to fit.')
        everything = torch.arange(n)
        rungs = [Rung((Split(everything, torch.empty(0, dtype=torch.int64)),), 1)]
    elif method == "loo":
        everything = torch.arange(n)
        rungs = [Rung((Split(everything, everything),), 1)]
        if plan.max_iter:
            warnings.warn(
                'Got selection="loo" for a metric learned from the same labels. Leave-one-out scores are optimistic '
                'there, and grow more so with every step: use "auto", or max_iter=0.',
                FeatlearnWarning,
                stacklevel=4,
            )
    elif method == "holdout":
        rungs = hold_out(n, problem.labels, len(plan.candidates), plan.random_state)
    else:
        folds = possible_folds(n, problem.labels)
        rungs = cross_validation(n, problem.labels, len(plan.candidates), plan.random_state, folds)
    fewest = min(len(split.train) for rung in rungs for split in rung.splits)
    if fewest < 2:
        raise DataError(
            f"Got {n} rows, of which {fewest} to fit to where the others are held out, but expected 2 at least. Pass "
            "more rows, or one value of every parameter and selection=None."
        )

    def fit(candidate: Candidate, split: Split) -> Run:
        x, targets, weights = problem.rows(candidate.transform, split.train)
        judge: HeldOut | LeaveOneOut
        if method == "loo":
            judge = LeaveOneOut(plan.centered)
        elif method == "validation":
            assert validation is not None
            judge = HeldOut(validation[0][candidate.transform], validation[1])
        else:
            judge = HeldOut(*problem.rows(candidate.transform, split.test))
        recipe = plan.recipe(candidate, [plan.alphas], plan.max_iter, selected=plan.selected)
        if method == "holdout" and plan.selected:  # folds need the same steps
            recipe = replace(recipe, patience=PATIENCE)
        blocks = problem.encoded[candidate.transform].columns.blocks
        return run(
            recipe, x, targets, weights=weights, blocks=blocks, judge=judge, random_state=plan.random_state,
            interruptible=False,
        )  # fmt: skip

    selection = race(plan.candidates, rungs, fit, method=method, selected=plan.selected, runner=runner)
    if plan.blend == 1 or not selection.runners_up:
        return selection
    rows = torch.cat([rows for rows, _ in selection.held_out])
    if validation is not None:
        return blended(selection, validation[1], None, plan.blend)
    weights = None if problem.weights is None else problem.weights[rows]
    return blended(selection, problem.targets[rows], weights, plan.blend)


def refit(
    plan: Plan,
    problem: Problem,
    selection: Selection | None,
    *,
    start: Sequence[Metric] | None = None,
    callback: Callable[[dict[str, Any]], object] | None = None,
) -> list[Fitted]:
    """The chosen machines on all rows, the one with the largest weight first."""
    if selection is None:
        chosen = [Member(plan.candidates[0], (plan.alphas[0],) * (plan.max_iter + 1), 0)]
    else:
        chosen = list(selection.members)
    return [
        Fitted(member.candidate, member.weight, _refit(plan, problem, member, start=start, callback=callback))
        for member in chosen
    ]


def _refit(
    plan: Plan,
    problem: Problem,
    member: Member,
    *,
    start: Sequence[Metric] | None,
    callback: Callable[[dict[str, Any]], object] | None,
) -> Run:
    """One path on all rows, with the recorded ridges, up to the chosen iterate."""
    candidate, alphas = member.candidate, [[alpha] for alpha in member.alphas]
    steps = len(alphas) - 1
    encoded = problem.encoded[candidate.transform]
    recipe = plan.recipe(candidate, alphas, steps, selected=False)
    common: dict[str, Any] = {
        "blocks": encoded.columns.blocks, "random_state": plan.random_state, "callback": callback, "start": start
    }  # fmt: skip
    n = len(encoded.x)
    if plan.metric_samples is None or plan.metric_samples >= n:
        return run(recipe, encoded.x, problem.targets, weights=problem.weights, **common)
    order = torch.randperm(n, generator=generator(plan.random_state, "metric"))
    own, outside = order[: plan.metric_samples], order[plan.metric_samples :][:OUTSIDE]
    x, targets, weights = problem.rows(candidate.transform, own)
    judge = HeldOut(*problem.rows(candidate.transform, outside)) if plan.selected else None
    learned = run(replace(recipe, selected=plan.selected), x, targets, weights=weights, judge=judge, **common)
    gram = learned.kernel.matrix(encoded.x, encoded.x)
    solution = solve_ridge(
        gram, problem.targets, learned.alpha, weights=problem.weights, solver=plan.solver, overwrite=True
    )
    return replace(learned, dual=solution.dual_coef, solution=solution)


def honest_at_identity(plan: Plan, problem: Problem, candidate: Candidate) -> tuple[Tensor, Tensor]:
    """Rows, and leave-one-out expansions at them of the machine before any metric was learned.

    For calibration where nothing was selected: at M = I leave-one-out is honest.
    """
    n = len(problem.targets)
    rows = torch.randperm(n, generator=generator(plan.random_state, "calibration"))[:CALIBRATED]
    x, targets, weights = problem.rows(candidate.transform, rows)
    recipe = plan.recipe(candidate, [[max(plan.alphas[0], SMALLEST)]], 0, selected=False)
    # The mean of all rows is hardly moved by one of them, and is not the mean of some of them.
    judge = LeaveOneOut(plan.centered and len(rows) == n)
    fitted = run(recipe, x, targets, weights=weights, judge=judge)
    assert fitted.honest[0] is not None
    return rows, fitted.honest[0]


def final_agop(plan: Plan, problem: Problem, candidate: Candidate, fitted: Run) -> KernelAGOP:
    """AGOP of the fitted predictor over training rows; the diagonal alone where the matrix would be large."""
    x = problem.encoded[candidate.transform].x
    rows = draw_points(len(x), fitted.dual.shape[1], MetricRule(points=SHOWN), generator(plan.random_state, "final"))
    weights = None if problem.weights is None else problem.weights[rows]
    return agop_of_expansion(fitted.kernel, None, x, fitted.dual, x[rows], rows=rows, weights=weights)


def possible_folds(n: int, labels: Tensor | None) -> int:
    """Five, or as many as there are members of the smallest class, but two at least."""
    smallest = n if labels is None else int(labels.bincount().min())
    folds = min(FOLDS, max(2, smallest), n)
    if folds < FOLDS:
        what = f"{n} rows" if labels is None else f"{smallest} rows in the smallest class"
        warnings.warn(f"Got {what}: selection uses {folds} folds instead of {FOLDS}.", FeatlearnWarning, stacklevel=5)
    return folds
