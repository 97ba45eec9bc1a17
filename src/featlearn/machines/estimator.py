"""What the recursive feature machines share: parameters, selection, the refit, and what is told of the result."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from ..exceptions import DataError, FeatlearnWarning
from ..kernels import Metric
from ..linalg.psd import top_eigenvectors
from ..linalg.ridge import RidgeSolver
from .blending import Blend
from .columns import Columns
from .fitting import DOUBLE_ROWS, Encoded, Fitted, Plan, Problem, final_agop, refit, select
from .loop import Run
from .parameters import as_seed, checked_steps, is_whole, method_of, numbers, ridges, run_all
from .predictor import Predictor, parts_of_kernel
from .rules import KERNELS, Rule, as_bandwidth, as_rule, parts_of
from .scores import Scores, coded_scores
from .selection import Candidate, Selection, sum_of
from .shown import Shown
from .weights import as_weights

__all__ = ["RFMBase", "blend_of", "like"]

DIRECTIONS = 20  # leading eigenvectors of the AGOP that are kept
TOLERANCE = 1e-3  # of iterative solvers: errors do not change below it, and single precision reaches it
WIDE = 2000  # encoded columns above which full metrics of warped columns are not tried


class RFMBase(Shown, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """What regressor and classifier share."""

    def __init__(
        self,
        *,
        kernel: Any = None,
        metric: str | None = None,
        bandwidth: Any = None,
        alpha: Any = None,
        power: Any = None,
        max_iter: int | None = None,
        rule: Any = "featlearn",
        columns: Any = None,
        solver: Any = "auto",
        selection: str | None = "auto",
        metric_samples: int | None = None,
        blend: int | None = None,
        tol: float = 1e-3,
        warm_start: bool = False,
        callback: Callable[[dict[str, Any]], object] | None = None,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.kernel = kernel
        self.metric = metric
        self.bandwidth = bandwidth
        self.alpha = alpha
        self.power = power
        self.max_iter = max_iter
        self.rule = rule
        self.columns = columns
        self.solver = solver
        self.selection = selection
        self.metric_samples = metric_samples
        self.blend = blend
        self.tol = tol
        self.warm_start = warm_start
        self.callback = callback
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    coding_: Any

    # fitting ------------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any, sample_weight: Any = None, X_val: Any = None, y_val: Any = None) -> Self:
        """Choose a machine on rows held out of the training data, and fit it to all of them.

        Parameters
        ----------
        X : array, memmap, DataFrame or Tensor of shape (n, d)
        y : array of shape (n,); for regression (n, C) too
        sample_weight : array of shape (n,), optional
            2 means that the row was given twice, 0 that it was left out.
        X_val, y_val : like X and y, optional
            Rows for ``selection="validation"``, used for nothing else.

        Returns
        -------
        self

        Raises
        ------
        DataError
            For data or parameters that cannot be used, before any work.
        """
        plan, rule = self._plan()
        n = _length(X)
        validate_data(self, X, skip_check_array=True, reset=True)
        weights, aside = self._set_aside(as_weights(sample_weight, n), n, plan)
        problem = self._problem(X, y, n, weights, rule, plan)
        plan = replace(plan, candidates=_affordable(plan, problem))
        _check_alpha_zero(plan, problem)
        start = None
        if self.warm_start and hasattr(self, "predictor_"):
            plan, start = self._resumed(plan, problem)
        chosen = None
        validation = self._validation(X_val, y_val, problem)
        if plan.method != "none" and plan.needs_selection and start is None:
            chosen = select(plan, problem, validation, self._runner)
        fitted = refit(plan, problem, chosen, start=start, callback=self.callback)
        self._store(X, plan, problem, fitted, chosen)
        self._finish(X, y, plan, problem, chosen, aside, y_val)
        self.held_out_scores_ = None if chosen is None else self._held_out_scores(problem, chosen, validation)
        return self

    def _set_aside(self, weights: Tensor | None, n: int, plan: Plan) -> tuple[Tensor | None, Tensor | None]:
        """Weights of the rows to fit to, and rows that nothing may see but the calibration of intervals."""
        return weights, None

    def _plan(self) -> tuple[Plan, Rule]:
        """The parameters, checked and with the rule's answers for None."""
        rule = as_rule(self.rule)
        machines = parts_of(rule.kernels if self.kernel is None else self.kernel, self.metric)
        bandwidths = rule.bandwidths if self.bandwidth is None else tuple(map(as_bandwidth, _several(self.bandwidth)))
        if not bandwidths:
            raise DataError("Got bandwidth=[], but expected a bandwidth or several.")
        powers = rule.powers if self.power is None else numbers("power", self.power, positive=True)
        method = method_of(self.selection)
        alphas = ridges(self.alpha, rule.alphas, method)
        steps, tol = checked_steps(rule.max_iter if self.max_iter is None else self.max_iter, self.tol)
        self._check_own()
        if self.metric_samples is not None and not (is_whole(self.metric_samples) and self.metric_samples >= 2):
            raise DataError(f"Got metric_samples={self.metric_samples!r}, but expected None or at least 2 rows.")
        blend = rule.blend if self.blend is None else self.blend
        if not is_whole(blend) or blend < 1:
            raise DataError(f"Got blend={blend!r}, but expected a whole number of at least 1.")
        solver = self.solver if isinstance(self.solver, RidgeSolver) else RidgeSolver(self.solver, tol=TOLERANCE)
        transforms = tuple(self._columns(rule))
        candidates = tuple(
            Candidate(name, parts, transform, bandwidth, power)
            for power in (powers if steps else powers[:1])
            for bandwidth in bandwidths
            for transform in transforms
            for name, parts in machines.items()
        )
        if method == "none":
            candidates = candidates[:1]
        plan = Plan(
            candidates, alphas, rule.metric, steps, tol, solver, rule.selected and method != "none", method,
            self._centers(rule), self.metric_samples, int(blend), as_seed(self.random_state),
        )  # fmt: skip
        return plan, rule

    def _check_own(self) -> None:
        """Refuse parameters that only one of the estimators has."""

    def _centers(self, rule: Rule) -> bool:
        """Whether coded targets have weighted mean 0."""
        return rule.center

    def _columns(self, rule: Rule) -> dict[str, Columns]:
        """What to choose among, by the name that tables give it."""
        if self.columns is not None:
            several = [self.columns] if isinstance(self.columns, Columns) else self.columns
            if not isinstance(several, Sequence) or not several or not all(isinstance(c, Columns) for c in several):
                raise DataError(f"Got columns={self.columns!r}, but expected Columns(...), several of them, or None.")
            alone = len(several) == len({columns.transform for columns in several})
            return {columns.transform if alone else str(columns): columns for columns in several}
        return {name: Columns(standardize=rule.standardize, transform=name) for name in rule.transforms}

    def _problem(self, X: Any, y: Any, n: int, weights: Tensor | None, rule: Rule, plan: Plan) -> Problem:
        """Rows and targets in numbers; rows of weight 0 are dropped."""
        self.coding_, targets, weights, labels = self._targets(y, n, weights, rule)
        kept = None if weights is None else (weights > 0).nonzero()[:, 0]
        dtype = torch.float64 if rule.precision == "float64" else _dtype(X, n if kept is None else len(kept))
        device = X.device if isinstance(X, Tensor) else torch.device("cpu")
        encoded = {}
        asked = {candidate.transform for candidate in plan.candidates}
        for name, columns in self._columns(rule).items():
            if name not in asked:
                continue
            fitted = columns.fit(X, weights)
            x = fitted.transform(X, dtype)
            encoded[name] = Encoded(fitted, x if kept is None else x[kept.to(x.device)])
        if kept is not None and weights is not None:
            targets, weights = targets[kept], weights[kept]
            labels = None if labels is None else labels[kept]
        if not bool(targets.any()):
            warnings.warn(
                "Got equal targets in all rows: that is what is predicted, and no features are learned.",
                FeatlearnWarning,
                stacklevel=3,
            )
        scale = float(targets.square().mean().sqrt()) or 1.0
        coded = (targets / scale).to(device=device, dtype=dtype)
        weights = None if weights is None else weights.to(device=device, dtype=dtype)
        rows = torch.arange(n) if kept is None else kept
        return Problem(encoded, coded, weights, labels, rows, scale)

    def _targets(
        self, y: Any, n: int, weights: Tensor | None, rule: Rule
    ) -> tuple[Any, Tensor, Tensor | None, Tensor | None]:
        """Coding, coded targets, weights of the rows, class indices."""
        raise NotImplementedError

    def _validation(self, X_val: Any, y_val: Any, problem: Problem) -> tuple[dict[str, Tensor], Tensor] | None:
        if self.selection != "validation":
            if X_val is None and y_val is None:
                return None
            raise DataError(
                f'Got X_val or y_val, which selection={self.selection!r} does not use. Pass selection="validation".'
            )
        if X_val is None or y_val is None:
            raise DataError('Got selection="validation" without X_val and y_val. Pass both to fit.')
        like = problem.targets
        encoded = {
            name: part.columns.transform(X_val, like.dtype).to(like.device) for name, part in problem.encoded.items()
        }
        return encoded, (self.coding_.encode(y_val, _length(X_val)) / problem.scale).to(like)

    def _resumed(self, plan: Plan, problem: Problem) -> tuple[Plan, Sequence[Metric]]:
        """The plan that goes on with the machine of the last fit, and the metrics that it starts from."""
        last = self._candidate
        same = [each for each in plan.candidates if (each.parts, each.transform) == (last.parts, last.transform)]
        if not same:
            raise DataError(
                f"Got warm_start=True after a fit that chose kernel={last.kernel!r} and columns {last.transform!r}, "
                "which are not to choose from any more. Ask for them, or for warm_start=False."
            )
        encoded = problem.encoded[last.transform]
        if encoded.columns.names != self.columns_.names:
            raise DataError("Got warm_start=True with other columns than in the last fit. Pass the same columns.")
        candidate = last if last in same else same[0]
        alpha = self.alpha_ if self.alpha_ in plan.alphas else plan.alphas[0]
        metrics = [metric.to(encoded.x) for metric in self.predictor_.metrics]
        return replace(plan, candidates=(candidate,), alphas=(alpha,)), metrics

    def _runner(self, calls: Sequence[Callable[[], Run]]) -> list[Run]:
        return run_all(calls, self.n_jobs, self.verbose)

    def _store(self, X: Any, plan: Plan, problem: Problem, fitted: list[Fitted], chosen: Selection | None) -> None:
        leading = fitted[0]
        candidate, run = leading.candidate, leading.run
        self.blend_ = blend_of(problem, fitted)
        self.members_ = [_told(member) for member in fitted]
        self.predictor_ = self.blend_.leading
        self.columns_ = self.predictor_.columns
        self.selection_ = chosen
        self.solution_ = run.solution
        self.history_ = run.history
        self.n_iter_ = run.step
        self.alpha_ = run.alpha
        self.power_ = candidate.power
        self.kernel_ = run.kernel
        self.kernel_name_ = candidate.kernel
        self._candidate = candidate
        self.bandwidth_ = run.history[run.step]["bandwidth"]
        self._kernels = run.kernels
        self._of_tensor = isinstance(X, Tensor)
        agops = [final_agop(plan, problem, each.candidate, each.run).matrix * problem.scale**2 for each in fitted]
        agop, columns = agops[0], self.columns_
        importances = sum_of(
            self.blend_.weights,
            [
                member.columns.input_importances(matrix.diagonal().double())
                for member, matrix in zip(self.blend_.members, agops, strict=True)
            ],
        )
        values, vectors = top_eigenvectors(agop, min(len(agop), DIRECTIONS))
        directions = columns.input_directions(vectors)
        total = float(agop.double().trace())
        shares = values.clamp_min(0) / total if total > 0 else torch.zeros_like(values)
        self.dual_coef_ = self._public(run.dual * problem.scale)
        self.metric_factor_ = self._public(_factor(self.predictor_.metrics[0], problem.encoded[candidate.transform].x))
        self.agop_ = self._public(agop)
        self.feature_importances_ = self._public(importances)
        self.directions_ = self._public(directions)
        self.direction_shares_ = self._public(shares)
        self._n_features_out = self.predictor_.bases[0].shape[1]

    def _public(self, tensor: Tensor) -> Any:
        """A tensor where X was one, else an array."""
        return tensor if self._of_tensor else tensor.cpu().numpy()

    def _finish(
        self,
        X: Any,
        y: Any,
        plan: Plan,
        problem: Problem,
        chosen: Selection | None,
        aside: Tensor | None,
        y_val: Any,
    ) -> None:
        """Calibration or intervals."""
        raise NotImplementedError

    def _held_out_scores(
        self, problem: Problem, chosen: Selection, validation: tuple[dict[str, Tensor], Tensor] | None
    ) -> Scores:
        """Scores on the rows by which the machine was chosen."""
        rows = torch.cat([rows for rows, _ in chosen.held_out])
        values = torch.cat([values for _, values in chosen.held_out]) * problem.scale
        targets = problem.targets[rows] if validation is None else validation[1]
        weights = None if problem.weights is None or validation is not None else problem.weights[rows]
        sharpness = getattr(self, "sharpness_", 1.0)
        return coded_scores(self.coding_, targets * problem.scale, values, weights, sharpness)

    # use ----------------------------------------------------------------------------------------------------------

    def _expansion(self, X: Any) -> Tensor:
        self._check_rows(X)
        return self.blend_.expansion(X)

    def _check_rows(self, X: Any) -> None:
        check_is_fitted(self)
        _length(X)  # refuses what is no table
        validate_data(self, X, skip_check_array=True, reset=False)

    def transform(self, X: Any) -> Any:
        """Rows of X in the learned feature space, (n, k): warped columns times the metric's factor.

        Distances there are those that the (first) kernel of the machine sees.
        """
        self._check_rows(X)
        return like(X, self.predictor_.project(X))

    def export(self, path: str | PathLike[str]) -> None:
        """Write the fitted machine to one safetensors file, from which ``featlearn.machines.load`` predicts the same.

        No pickle, and no training data but the rows as the kernels see them: see
        :func:`featlearn.machines.export.save_machine`.
        """
        from .export import save_machine

        save_machine(self, path)

    def metric_at(self, t: int) -> Any:
        """M (p, p) of the first kernel at step t of the final fit, in encoded columns; the identity at t = 0."""
        check_is_fitted(self)
        if not is_whole(t) or not 0 <= t < len(self._kernels):
            raise DataError(f"Got t={t}, but expected a step from 0 to {len(self._kernels) - 1}.")
        factor = _factor(parts_of_kernel(self._kernels[t])[0], self.predictor_.dual.new_empty(0, len(self.agop_)))
        return self._public(factor.square().diag() if factor.dim() == 1 else factor @ factor.mT)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        several = self.columns if isinstance(self.columns, Sequence) else [self.columns]
        tags.input_tags.allow_nan = any(getattr(columns, "missing", "") == "indicator" for columns in several)
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        return tags


def blend_of(problem: Problem, fitted: Sequence[Fitted]) -> Blend:
    """What was fitted, as one function of rows of X."""
    members = []
    for member in fitted:
        encoded = problem.encoded[member.candidate.transform]
        run = member.run
        members.append(Predictor.of(encoded.columns, run.kernel, encoded.x, run.dual, problem.scale))
    return Blend(tuple(members), tuple(member.weight for member in fitted))


def _told(member: Fitted) -> dict[str, Any]:
    """A member in plain values."""
    return {
        "weight": member.weight,
        **member.candidate.label(),
        "iteration": member.run.step,
        "alpha": member.run.alpha,
    }


def _factor(metric: Metric, x: Tensor) -> Tensor:
    return torch.ones_like(x[:0].sum(dim=0)) if metric.factor is None else metric.factor


def _check_alpha_zero(plan: Plan, problem: Problem) -> None:
    if min(plan.alphas) > 0:
        return
    x = next(iter(problem.encoded.values())).x
    _, place, counts = torch.unique(x, dim=0, return_inverse=True, return_counts=True)
    if int(counts.max()) > 1:
        first, second = problem.places[(place == counts.argmax()).nonzero()[:2, 0].cpu()].tolist()
        raise DataError(
            f"Got alpha=0 with equal rows ({first} and {second}), but expected alpha > 0 or distinct rows: the "
            "kernel matrix is singular."
        )


def _affordable(plan: Plan, problem: Problem) -> tuple[Candidate, ...]:
    """The candidates without full metrics of warped columns where there are more columns than rows, or very many.

    A plain Laplace kernel, which can run in the span of the rows, stands in for them.
    """
    kept: list[Candidate] = []
    for candidate in plan.candidates:
        n, p = problem.encoded[candidate.transform].x.shape
        if p > min(n, WIDE) and any(part.shape in ("full", "block") and part.warp for part in candidate.parts):
            candidate = replace(candidate, kernel="laplace", parts=KERNELS["laplace"])
        if candidate not in kept:
            kept.append(candidate)
    return tuple(kept)


def _dtype(X: Any, n: int) -> torch.dtype:
    # A table may have a column called "dtype".
    own = X.dtype if isinstance(X, np.ndarray | Tensor) else None
    single = own in (torch.float32, torch.float16, torch.bfloat16, np.dtype(np.float32), np.dtype(np.float16))
    return torch.float32 if single or n > DOUBLE_ROWS else torch.float64


def _length(X: Any) -> int:
    from .tables import as_table

    return as_table(X).n_rows


def like(X: Any, values: Tensor) -> Any:
    """A tensor for a tensor, else an array; in the precision of X where that has one."""
    if isinstance(X, Tensor):
        return values.to(X.dtype) if X.is_floating_point() else values
    own = X.dtype if isinstance(X, np.ndarray) and X.dtype.kind == "f" else np.float64
    return values.cpu().numpy().astype(own, copy=False)


def _several(value: Any) -> Sequence[Any]:
    """A sequence of candidates; ("median", m) is one."""
    pair = isinstance(value, tuple) and len(value) == 2 and value[0] == "median"
    return value if isinstance(value, Sequence) and not isinstance(value, str) and not pair else (value,)
