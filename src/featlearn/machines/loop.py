r"""The one loop of every machine: solve, take the AGOP, make it the metric, repeat."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from .._random import generator
from ..agop.of_kernel import agop_of_expansion, combine_gradients, principal_outputs
from ..agop.of_patches import patch_agop_of_expansion
from ..exceptions import DataError, FeatlearnWarning
from ..kernels import ColumnWarp, ConvNTK, Kernel, LpqKernel, MeanKernel, Metric, PatchMetric, median_bandwidth
from ..linalg.gram import GramOperator, TiledGram
from ..linalg.landmarks import LandmarkPath
from ..linalg.loo import ridge_with_leave_one_out
from ..linalg.psd import fix_signs
from ..linalg.ridge import (
    RidgePath,
    RidgeSolution,
    RidgeSolver,
    nystrom_preconditioner,
    solve_ridge,
    uses_pcg,
)
from .rules import Bandwidth, MetricRule, Part
from .span import Span, lives_in_the_span

__all__ = ["HeldOut", "Judge", "LeaveOneOut", "Recipe", "Run", "draw_points", "metric_root", "run", "scored_rows"]

MEDIAN_ROWS = 500  # rows between which the median distance is taken
LOOSE = 1e-2  # tolerance of the solver while the metric is still moving
DROP = 1e-12  # eigenvalues below this share of the largest are left out of a factor
STORED = 50_000  # rows up to which the kernel matrix is stored; a rule of n, never of free memory


@dataclass(frozen=True)
class Recipe:
    """What one run of the loop follows.

    Attributes
    ----------
    parts : tuple of Part
    bandwidth : Bandwidth
    alphas : tuple of tuple of float
        Candidates at step 0, 1, ...; the last entry serves all later steps. The one with the best score also drives
        the next metric.
    metric : MetricRule
    max_iter : int
        AGOP steps T: T + 1 predictors.
    tol : float
        Stop when no metric changed by more than this, relatively.
    solver : RidgeSolver
    selected : bool
        Keep the iterate with the best score; else the last.
    patience : int, optional
        Stop after so many steps without a better score.
    """

    parts: tuple[Part, ...]
    bandwidth: Bandwidth
    alphas: tuple[tuple[float, ...], ...]
    metric: MetricRule
    max_iter: int
    tol: float = 1e-3
    solver: RidgeSolver = field(default_factory=RidgeSolver)
    selected: bool = True
    patience: int | None = None

    def alphas_at(self, t: int) -> tuple[float, ...]:
        """Candidates at step t."""
        return self.alphas[min(t, len(self.alphas) - 1)]


class Judge(Protocol):
    """Scores candidates of one step; smaller is better."""

    @property
    def name(self) -> str:
        """What the score is."""

    def __call__(self, kernel: Kernel, x: Tensor, duals: Sequence[Tensor]) -> list[tuple[float, Tensor]]:
        """A score and the expansions (m, C) it is the score of, for each of the coefficients."""


@dataclass(frozen=True)
class HeldOut:
    """Mean squared error on rows that the machine does not see; of coded classes it is the Brier score.

    ``targets`` (m, C) are coded, and as large as the expansions are to become.
    """

    x: Tensor
    targets: Tensor
    weights: Tensor | None = None
    name: str = "held-out squared error"

    def __call__(self, kernel: Kernel, x: Tensor, duals: Sequence[Tensor]) -> list[tuple[float, Tensor]]:
        """One pass over the kernel for all candidates."""
        values = kernel.expansion(x, self.x, torch.cat(list(duals), dim=1)).chunk(len(duals), dim=1)
        return [(squared_error(self.targets - value, self.weights), value) for value in values]


@dataclass(frozen=True)
class LeaveOneOut:
    """Leave-one-out squared error in closed form: honest while the metric has seen no label of these rows.

    With landmarks, it is that of the :func:`scored_rows`.
    """

    recentred: bool = False
    name: str = "leave-one-out squared error"


@dataclass(frozen=True, eq=False)
class Run:
    """What the loop leaves.

    Attributes
    ----------
    kernel : Kernel
        Of the kept iterate, with its metric and bandwidth.
    dual : Tensor of shape (n, C)
    step : int
        t of the kept iterate.
    alpha : float
    solution : RidgeSolution
    kernels : list of Kernel
        Of every iterate.
    history : list of dict
        One entry a step.
    scores : list of (t, alpha, score)
        Every candidate.
    honest : list of Tensor of shape (m, C), or None
        What the judge scored, of every iterate; None without a judge.
    """

    kernel: Kernel
    dual: Tensor
    step: int
    alpha: float
    solution: RidgeSolution
    kernels: list[Kernel]
    history: list[dict[str, Any]]
    scores: list[tuple[int, float, float]]
    honest: list[Tensor | None]


def squared_error(residuals: Tensor, weights: Tensor | None = None) -> float:
    """Mean over rows, sum over outputs, of the squared residuals (m, C)."""
    rows = residuals.double().square().sum(dim=1)
    return float(rows.mean() if weights is None else weights.to(rows) @ rows / weights.sum().to(rows))


def scored_rows(n: int, landmarks: Tensor | None) -> Tensor:
    """Rows (m,) on which leave-one-out scores a machine with landmarks: those that are none, given a fifth of all.

    The kernel function of a landmark serves its own row above all. Left out, the row leaves behind a function that
    nothing holds where the row is, and an error that no other row has: on 3,000 digits with 1,000 landmarks the others
    have 0.166, as new ones have, and the landmarks 0.62.
    """
    others = torch.ones(n, dtype=torch.bool)
    if landmarks is not None:
        others[landmarks.cpu()] = False
    return others.nonzero()[:, 0] if 5 * int(others.sum()) >= n else torch.arange(n)


@torch.no_grad()
def run(
    recipe: Recipe,
    x: Tensor,
    targets: Tensor,
    *,
    weights: Tensor | None = None,
    blocks: Sequence[Tensor] | None = None,
    judge: Judge | LeaveOneOut | None = None,
    start: Sequence[Metric | PatchMetric] | None = None,
    landmarks: Tensor | None = None,
    random_state: int = 0,
    callback: Callable[[dict[str, Any]], object] | None = None,
    interruptible: bool = True,
) -> Run:
    r"""Alternate kernel ridge regression and the AGOP of its predictor.

    .. math::

        \beta_t = (K_{M_t} + \alpha \operatorname{diag}(1/w))^{-1} Y, \qquad M_{t+1} = \mathrm{normalize}(G(f_t)^s)

    Parameters
    ----------
    recipe : Recipe
    x : Tensor of shape (n, d) or (n, c, H, W)
        Encoded rows, or images.
    targets : Tensor of shape (n, C)
        Coded targets.
    weights : Tensor of shape (n,), optional
        Positive.
    blocks : sequence of int64 Tensors, optional
        For parts of shape "block".
    judge : Judge or LeaveOneOut, optional
        Scores every candidate. Without one, the first alpha of a step that can be solved is taken.
    start : sequence of Metric or PatchMetric, optional
        Metrics of the parts to start from, default the identity.
    landmarks : Tensor of shape (p,), int64, optional
        Rows of x whose kernel functions alone the predictor may use; ``dual`` is then (p, C).
    random_state : int
        For the rows of the median distance, of the AGOP and of the preconditioner.
    callback : callable, optional
        Gets the entry of the history after each step; returning True stops the loop.
    interruptible : bool, default True
        Interrupting keeps the best iterate so far, with a warning; else it is raised, as a race among runs needs.

    Returns
    -------
    Run

    Notes
    -----
    A step costs ``n^2 k`` flops for K, its solution (``n^3/3``, or ``2 n^2 C`` an iteration above 4,000 rows) and
    ``2 m n k r`` for the AGOP; memory is K, ``n^2`` numbers. Where there are more columns than rows and the metric is
    full, everything runs in the span of the rows, with n + 1 columns.
    """
    # The largest entry of a metric depends on the coordinates; where the bandwidth follows, its scale does not matter.
    scaled = recipe.metric.normalize == "max" and recipe.bandwidth.constant is not None
    if (
        start is None
        and landmarks is None
        and x.dim() == 2
        and x.shape[1] > len(x) + 1
        and not scaled
        and lives_in_the_span(recipe.parts)
    ):
        span = Span(x)
        seen = replace(judge, x=span(judge.x)) if isinstance(judge, HeldOut) else judge
        inside = run(
            recipe, span(x), targets, weights=weights, judge=seen, random_state=random_state, callback=callback,
            interruptible=interruptible,
        )  # fmt: skip
        return replace(inside, kernel=span.lift(inside.kernel), kernels=[span.lift(k) for k in inside.kernels])
    loop = _Loop(recipe, x, targets, weights, blocks, judge, start, landmarks, random_state)
    for t in range(recipe.max_iter + 1):
        try:
            going = loop.step(t)
            stop = callback is not None and callback(loop.history[-1]) is True
        except KeyboardInterrupt:
            if loop.kept is None or not interruptible:
                raise
            warnings.warn(
                f"Interrupted at step {t} of {recipe.max_iter}: the best iterate so far is kept.",
                FeatlearnWarning,
                stacklevel=2,
            )
            break
        if stop or not going:
            break
    assert loop.kept is not None
    return loop.kept


class _Loop:
    """State of one run."""

    def __init__(
        self,
        recipe: Recipe,
        x: Tensor,
        targets: Tensor,
        weights: Tensor | None,
        blocks: Sequence[Tensor] | None,
        judge: Judge | LeaveOneOut | None,
        start: Sequence[Metric | PatchMetric] | None,
        landmarks: Tensor | None,
        random_state: int,
    ) -> None:
        self.recipe, self.x, self.targets, self.weights = recipe, x, targets, weights
        self.blocks, self.judge, self.random_state = blocks, judge, random_state
        self.basis = None if landmarks is None else x[landmarks]
        self.scored = scored_rows(len(x), landmarks).to(targets.device)
        self.metrics = list(start) if start is not None else [_first(part, x) for part in recipe.parts]
        self.metrics = [_with_kernel(metric, part) for metric, part in zip(self.metrics, recipe.parts, strict=True)]
        rows = torch.randperm(len(x), generator=generator(random_state, "median"))[:MEDIAN_ROWS]
        self.median_rows = rows.to(x.device)
        self.gram = x.new_empty(len(x), len(x)) if len(x) <= STORED and landmarks is None else None
        self.kernels: list[Kernel] = []
        self.history: list[dict[str, Any]] = []
        self.scores: list[tuple[int, float, float]] = []
        self.honest: list[Tensor | None] = []
        self.left_out: list[Tensor] = []
        self.train_scores: dict[float, float] = {}
        self.best_score = float("inf")
        self.kept: Run | None = None
        self.previous: tuple[Tensor, float] | None = None

    def step(self, t: int) -> bool:
        """One iterate and, unless it is the last, the next metric; False when nothing more is to come."""
        begun = time.perf_counter()
        last = t == self.recipe.max_iter
        kernel, bandwidths = self._kernel()
        self.kernels.append(kernel)
        candidates = self._solve(kernel, t, last)
        scored = self._scores(kernel, candidates)
        place = min(range(len(scored)), key=lambda i: (scored[i][0], -candidates[i][0]))
        (alpha, solution), (score, honest) = candidates[place], scored[place]
        self.honest.append(honest)
        self.previous = (solution.dual_coef, alpha)
        self.scores += [(t, candidate[0], entry[0]) for candidate, entry in zip(candidates, scored, strict=True)]
        record = self._record(t, alpha, bandwidths, score, honest, solution)
        self.history.append(record)
        if self.kept is None or not self.recipe.selected or self.judge is None or score < self.best_score:
            self.best_score = score
            self.kept = Run(
                kernel, solution.dual_coef, t, alpha, solution, self.kernels, self.history, self.scores, self.honest
            )
        going = not last and not self._out_of_patience(t, record)
        going = going and self._next_metrics(kernel, solution.dual_coef, t, record)
        record["seconds"] = time.perf_counter() - begun
        return going

    def _out_of_patience(self, t: int, record: dict[str, Any]) -> bool:
        assert self.kept is not None
        if self.recipe.patience is None or t - self.kept.step < self.recipe.patience:
            return False
        record["stop_reason"] = f"no better score in {self.recipe.patience} steps"
        return True

    def _kernel(self) -> tuple[Kernel, list[float]]:
        """The machine's kernel with the bandwidths of its current rows."""
        rule = self.recipe.bandwidth
        metrics: list[Metric | PatchMetric] = []
        bandwidths: list[float] = []
        for metric in self.metrics:
            if isinstance(metric, PatchMetric):  # homogeneous: in place of a bandwidth, the largest entry is made 1
                scaled = metric.scaled_by(self.x)
                metrics.append(scaled)
                bandwidths.append(scaled.scale)
                continue
            if not metric.has_bandwidth:
                bandwidths.append(float("nan"))
                metrics.append(metric)
                continue
            if rule.constant is not None:
                bandwidth = rule.constant
            else:
                order = metric.kernel.p if isinstance(metric.kernel, LpqKernel) else 2.0
                seen = metric.project(self.x[self.median_rows])
                bandwidth = median_bandwidth(seen, multiple=rule.multiple or 1.0, p=order)
            bandwidths.append(bandwidth)
            metrics.append(metric.with_bandwidth(bandwidth))
        if len(metrics) == 1:
            return metrics[0], bandwidths
        return MeanKernel(tuple(metric for metric in metrics if isinstance(metric, Metric))), bandwidths

    def _solve(self, kernel: Kernel, t: int, last: bool) -> list[tuple[float, RidgeSolution]]:
        if self.basis is not None:
            alphas = self._alphas(t)
            return self._solve_on_landmarks(kernel, self.basis, alphas if self.judge is not None else alphas[:1])
        gram: Tensor | GramOperator
        if self.gram is not None:
            gram = kernel.fill_(self.x, self.gram)
        else:
            gram = TiledGram(lambda rows: kernel.matrix(self.x[rows], self.x), len(self.x))
        alphas = self._alphas(t)
        if isinstance(self.judge, LeaveOneOut):
            assert isinstance(gram, Tensor)
            return self._solve_leaving_one_out(gram, alphas, self.judge)
        solver = self.recipe.solver if last else replace(self.recipe.solver, tol=max(LOOSE, self.recipe.solver.tol))
        shared = None
        if len(alphas) > 1 and self.weights is None and uses_pcg(solver, len(self.x)):
            shared = nystrom_preconditioner(gram, solver.rank, generator(self.random_state, "nystrom"))
        found: list[tuple[float, RidgeSolution]] = []
        failure: DataError | None = None
        for alpha in alphas:
            start = found[-1][1].dual_coef if found else (None if self.previous is None else self.previous[0])
            try:
                solution = solve_ridge(
                    gram,
                    self.targets,
                    alpha,
                    weights=self.weights,
                    solver=solver,
                    generator=generator(self.random_state, "nystrom"),
                    initial=start,
                    overwrite=True,
                    preconditioner=shared,
                )
            except DataError as error:  # a ridge below the rounding of the kernel matrix: a larger one may do
                failure = error
                continue
            found.append((alpha, solution))
            if self.judge is None:
                break
        if not found and failure is not None:
            raise failure
        return found

    def _solve_on_landmarks(
        self, kernel: Kernel, basis: Tensor, alphas: Sequence[float]
    ) -> list[tuple[float, RidgeSolution]]:
        gram = kernel.fill_(basis, basis.new_empty(len(basis), len(basis)))
        path = LandmarkPath(gram, kernel.matrix(self.x, basis), self.targets, self.weights)
        self.train_scores = {alpha: squared_error(path.residuals(alpha), self.weights) for alpha in alphas}
        if isinstance(self.judge, LeaveOneOut):
            self.left_out = [(self.targets - path.leave_one_out(alpha))[self.scored] for alpha in alphas]
        return [(alpha, RidgeSolution(path.solve(alpha), "eigh", "exact", 0, 0.0, 0.0, 0.0)) for alpha in alphas]

    def _solve_leaving_one_out(
        self, gram: Tensor, alphas: Sequence[float], judge: LeaveOneOut
    ) -> list[tuple[float, RidgeSolution]]:
        """Solutions and, for the scores to come, what the refits without each row would have predicted."""
        if len(alphas) == 1 and alphas[0] > 0:
            found = ridge_with_leave_one_out(
                gram, self.targets, alphas[0], weights=self.weights, overwrite=True,
                variant="recentred" if judge.recentred else "plain", solver=self.recipe.solver,
            )  # fmt: skip
            self.left_out = [self.targets - found.residuals]
            return [(alphas[0], found.solution)]
        path = RidgePath(gram, self.targets, self.weights)
        # In single precision a kernel matrix may have small negative eigenvalues: ridges below them solve nothing.
        alphas = [alpha for alpha in alphas if alpha > path.smallest_alpha or alpha == 0] or [max(alphas)]
        residuals = [path.leave_one_out(alpha, recentred=judge.recentred).to(self.targets) for alpha in alphas]
        self.left_out = [self.targets - residual for residual in residuals]
        return [(alpha, RidgeSolution(path.solve(alpha), "eigh", "exact", 0, 0.0, 0.0, 0.0)) for alpha in alphas]

    def _alphas(self, t: int) -> tuple[float, ...]:
        """The candidates; once one was the best, that one and its neighbours."""
        alphas = self.recipe.alphas_at(t)
        if self.previous is None or len(alphas) <= 3 or self.recipe.alphas_at(t - 1) is not alphas:
            return alphas
        first = min(max(alphas.index(self.previous[1]) - 1, 0), len(alphas) - 3)
        return alphas[first : first + 3]

    def _scores(
        self, kernel: Kernel, candidates: Sequence[tuple[float, RidgeSolution]]
    ) -> list[tuple[float, Tensor | None]]:
        if self.judge is None:
            return [(float("nan"), None)] * len(candidates)
        if isinstance(self.judge, LeaveOneOut):
            targets = self.targets[self.scored]
            weights = None if self.weights is None else self.weights[self.scored]
            return [(squared_error(targets - values, weights), values) for values in self.left_out]
        basis = self.x if self.basis is None else self.basis
        return list(self.judge(kernel, basis, [solution.dual_coef for _, solution in candidates]))

    def _record(
        self,
        t: int,
        alpha: float,
        bandwidths: list[float],
        score: float,
        honest: Tensor | None,
        solution: RidgeSolution,
    ) -> dict[str, Any]:
        if self.basis is None:
            # f(x_i) = y_i - alpha beta_i / w_i for the solution of the system.
            ridge = alpha if self.weights is None else alpha / self.weights[:, None]
            train_score = squared_error(ridge * solution.dual_coef, self.weights)
        else:
            train_score = self.train_scores[alpha]
        return {
            "iteration": t,
            "alpha": alpha,
            "bandwidth": bandwidths[0] if len(bandwidths) == 1 else tuple(bandwidths),
            "score": score,
            "score_se": self._standard_error(honest),
            "score_name": None if self.judge is None else self.judge.name,
            "train_score": train_score,
            "metric_change": float("nan"),
            "agop_se": float("nan"),
            "solver_reason": solution.reason,
            "solver_iterations": solution.n_iter,
            "stop_reason": None,
        }

    def _standard_error(self, honest: Tensor | None) -> float:
        """Of the score, from the spread of the rows' squared errors."""
        if honest is None or len(honest) < 2:
            return float("nan")
        targets = self.judge.targets if isinstance(self.judge, HeldOut) else self.targets[self.scored]
        rows = (targets - honest).double().square().sum(dim=1)
        return float(rows.std() / len(rows) ** 0.5)

    def _next_metrics(self, kernel: Kernel, dual: Tensor, t: int, record: dict[str, Any]) -> bool:
        """Learn the metrics from the AGOP; False, with the reason on record, when they stay as they are."""
        if all(part.shape == "fixed" and not part.warp for part in self.recipe.parts):
            record["stop_reason"] = "fixed metric"
            return False
        try:
            updated, record["agop_se"] = self._learned(kernel, dual, t)
        except FloatingPointError as error:
            record["stop_reason"] = str(error)
            return False
        change = max(_change(old, new) for old, new in zip(self.metrics, updated, strict=True))
        record["metric_change"] = change
        self.metrics = updated
        if change < self.recipe.tol:
            record["stop_reason"] = "converged"
            return False
        return True

    def _learned(self, kernel: Kernel, dual: Tensor, t: int) -> tuple[list[Metric | PatchMetric], float]:
        rule, parts = self.recipe.metric, self.recipe.parts
        outputs = principal_outputs(dual)
        rows = draw_points(len(self.x), outputs.shape[1], rule, generator(self.random_state, "agop", t)).to(dual.device)
        whole = len(rows) == len(self.x) and not rule.replacement
        points = self.x if whole else self.x[rows]
        weights = None if self.weights is None else self.weights[rows]
        metric = self.metrics[0]
        if isinstance(kernel, PatchMetric):
            basis = self.x if self.basis is None else self.basis
            found = patch_agop_of_expansion(kernel, basis, outputs, points, weights=weights, population=len(self.x))
            return [replace(kernel, factor=metric_root(found.matrix, rule))], found.standard_error
        assert isinstance(metric, Metric)
        if len(parts) == 1 and not parts[0].warp:
            inner = kernel.kernel if isinstance(kernel, Metric) else kernel
            shape = parts[0].shape
            agop = agop_of_expansion(
                inner, metric.factor, self.x, outputs, points, rows=rows, center=rule.center,
                diagonal=shape == "diagonal", blocks=self.blocks if shape == "block" else None, weights=weights,
                gram=self.gram if whole else None,
            )  # fmt: skip
            thin = parts[0].kernel.rotation_invariant
            return [replace(metric, factor=metric_root(agop.matrix, rule, thin=thin))], agop.standard_error
        share = torch.full_like(points[:, 0], 1 / len(points)) if weights is None else weights / weights.sum()
        gradients = kernel.expansion_gradient(self.x, points, outputs, rows=rows)
        if rule.center:
            gradients -= (gradients * share[:, None, None]).sum(dim=0)
        squares = gradients.square().sum(dim=1)
        if not bool(squares.sum() > 0) or not bool(torch.isfinite(squares).all()):
            raise FloatingPointError("The AGOP is zero or not finite")
        learned: list[Metric | PatchMetric] = [
            self._part(metric, part, gradients, squares, points, share)
            for metric, part in zip(self.metrics, parts, strict=True)
            if isinstance(metric, Metric)  # patch metrics were dealt with above
        ]
        return learned, float("nan")

    def _part(
        self, metric: Metric, part: Part, gradients: Tensor, squares: Tensor, points: Tensor, share: Tensor
    ) -> Metric:
        """The next warp from the squared gradients, then the next factor from the AGOP in warped columns."""
        rule, warp = self.recipe.metric, metric.warp
        if part.warp and warp is not None:
            warp = warp.learned(points, squares, rule.power)
            # A gradient with respect to a warped column is that of the column divided by the slope.
            gradients = gradients / warp.derivative(points).clamp_min(1e-3)[:, None]
        if part.shape == "fixed":
            return replace(metric, warp=warp)
        diagonal = part.shape == "diagonal"
        agop = combine_gradients(gradients, share, diagonal=diagonal)
        if part.shape == "block" and self.blocks is not None:
            kept = torch.zeros_like(agop)
            for block in self.blocks:
                kept[block[:, None], block] = agop[block[:, None], block]
            agop = kept
        return replace(metric, factor=metric_root(agop, rule, thin=part.kernel.rotation_invariant), warp=warp)


def metric_root(agop: Tensor, rule: MetricRule, *, thin: bool = True) -> Tensor:
    r"""A with ``A A^T = normalize(G^s)``, for G (d, d) or its diagonal (d,).

    .. math:: G = V \Lambda V^\top, \qquad A = V_k \Lambda_k^{s/2} \text{ (thin) or } V \Lambda^{s/2} V^\top

    Eigenvalues below 1e-12 of the largest are dropped; the decomposition is in float64.

    Raises
    ------
    FloatingPointError
        For a G that is zero or not finite.
    """
    if not bool(torch.isfinite(agop).all()) or not bool(agop.any()):
        raise FloatingPointError("The AGOP is zero or not finite")
    if agop.dim() == 1:
        raised = agop.double().clamp_min(0) ** rule.power
        norms = {"max": raised.max(), "trace": raised.sum(), "frobenius": raised.norm()}
        return (raised / norms.get(rule.normalize, 1.0)).sqrt().to(agop)
    values, vectors = torch.linalg.eigh(agop.double())
    kept = values > DROP * values[-1]
    # Signs are fixed, so that rows in the learned feature space depend on the metric alone.
    values, vectors = values[kept], fix_signs(vectors[:, kept])
    root = vectors * values ** (rule.power / 2)
    scale: Tensor | float = 1.0
    if rule.normalize == "max":
        scale = root.square().sum(dim=1).max()  # the largest entry of a positive matrix is on its diagonal
    elif rule.normalize == "trace":
        scale = root.square().sum()
    elif rule.normalize == "frobenius":
        scale = (values**rule.power).norm()
    root = root / scale**0.5
    return (root if thin else root @ vectors.mT).to(agop)


def draw_points(n: int, outputs: int, rule: MetricRule, source: torch.Generator) -> Tensor:
    """Rows (m,) at which gradients are taken, ascending unless all."""
    if rule.points == "all":
        wanted = n
    elif rule.points == "auto":
        wanted = n if outputs == 1 else min(20_000, max(1000, -(-n // outputs)))
    else:
        wanted = int(rule.points)
    if rule.replacement and wanted < n:
        return torch.randint(n, (wanted,), generator=source).sort().values
    if wanted >= n:
        return torch.arange(n)
    return torch.randperm(n, generator=source)[:wanted].sort().values


def _first(part: Part, x: Tensor) -> Metric | PatchMetric:
    if isinstance(part.kernel, ConvNTK):
        return PatchMetric(part.kernel)
    return Metric(part.kernel.to(x), None, ColumnWarp.identity(x) if part.warp else None)


def _with_kernel(metric: Metric | PatchMetric, part: Part) -> Metric | PatchMetric:
    if isinstance(metric, PatchMetric):
        assert isinstance(part.kernel, ConvNTK)
        return replace(metric, kernel=part.kernel)
    return replace(metric, kernel=part.kernel)


def _change(old: Metric | PatchMetric, new: Metric | PatchMetric) -> float:
    """Relative change of M, and of the slopes of the warp."""
    changes = []
    if new.factor is not None:
        after = _matrix(new.factor)
        before = torch.ones_like(after) if after.dim() == 1 else torch.eye(len(after), dtype=after.dtype)
        before = before.to(after) if old.factor is None else _matrix(old.factor)
        if isinstance(new, PatchMetric):  # up to scale, which homogeneous kernels do not see
            before, after = before / before.trace(), after / after.trace()
        changes.append(float((after - before).norm() / before.norm()))
    if isinstance(new, Metric) and isinstance(old, Metric) and new.warp is not None and old.warp is not None:
        changes.append(float((new.warp.slopes - old.warp.slopes).norm() / old.warp.slopes.norm()))
    return max(changes, default=0.0)


def _matrix(factor: Tensor) -> Tensor:
    return factor.square() if factor.dim() == 1 else factor @ factor.mT
