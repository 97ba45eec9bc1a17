"""From images and coded targets to a fitted predictor: what is chosen, on what, and the refit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .._random import generator
from ..exceptions import DataError, FeatlearnWarning
from ..kernels import ConvNTK, PatchMetric
from .fitting import possible_folds
from .loop import HeldOut, LeaveOneOut, Recipe, Run, run, scored_rows
from .rules import Bandwidth, MetricRule, Part
from .selection import CROSS_VALIDATED, Candidate, Rung, Selection, Split, cross_validation, hold_out, race

__all__ = ["CONV_RULES", "ConvRule", "ImagePlan", "ImageProblem", "conv_rule", "fit_images", "landmarks_of"]


@dataclass(frozen=True)
class ConvRule:
    """What a user's ``None`` stands for.

    Attributes
    ----------
    alphas : tuple of float
        Ridges, in units of the largest ``k(x, x)``.
    metric : MetricRule
        With ``points``, the images at which gradients are taken.
    max_iter : int
    """

    alphas: tuple[float, ...]
    metric: MetricRule
    max_iter: int


LEFT_OUT = 5000  # images up to which the eigendecomposition of leave-one-out is worth its 9 n^3 flops

CONV_RULES = {
    "convrfm": ConvRule((1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1), MetricRule(1.0, "trace", points=100), 3),
    "public": ConvRule((1e-8, 1e-5, 1e-3), MetricRule(1.0, "trace", points=20), 5),
}


def conv_rule(rule: Any) -> ConvRule:
    """The rule of a name; a MetricRule replaces that of "convrfm"."""
    if isinstance(rule, MetricRule):
        if rule.center or rule.replacement:
            raise DataError(f"Got rule={rule!r}, but patch metrics know neither center=True nor replacement=True.")
        return replace(CONV_RULES["convrfm"], metric=rule)
    if isinstance(rule, str) and rule in CONV_RULES:
        return CONV_RULES[rule]
    raise DataError(f"Got rule={rule!r}, but expected a MetricRule or one of {', '.join(CONV_RULES)}.")


@dataclass(frozen=True)
class ImagePlan:
    """What the user asked for, resolved.

    Attributes
    ----------
    kernel : ConvNTK
    alphas : tuple of float
    metric : MetricRule
    max_iter : int
    tol : float
    method : str
        "auto", "loo", "cv", "holdout", "validation" or "none".
    centered : bool
        Whether targets had their mean subtracted.
    landmarks : int or None
    random_state : int
    """

    kernel: ConvNTK
    alphas: tuple[float, ...]
    metric: MetricRule
    max_iter: int
    tol: float
    method: str
    centered: bool
    landmarks: int | None
    random_state: int

    @property
    def candidate(self) -> Candidate:
        """The one path there is: ridges and iterates are scored along it."""
        return Candidate("convntk", (Part(self.kernel),), "none", Bandwidth(None), self.metric.power)

    def recipe(self, alphas: Sequence[Sequence[float]], steps: int, *, selected: bool) -> Recipe:
        """For one run of the loop."""
        path = self.candidate
        return Recipe(
            path.parts, path.bandwidth, tuple(map(tuple, alphas)), self.metric, steps, self.tol, selected=selected
        )

    def few_numbers(self, channels: int, n: int) -> bool:
        """Whether the metric has no more numbers than there are images, so that leave-one-out stays honest."""
        q = channels * self.kernel.patch_size**2
        return self.max_iter == 0 or q * (q + 1) // 2 <= n


@dataclass(frozen=True, eq=False)
class ImageProblem:
    """What is to be learned, in numbers: images (n, c, H, W), coded targets (n, C) in units of ``scale``."""

    x: Tensor
    targets: Tensor
    weights: Tensor | None
    labels: Tensor | None
    scale: float

    def at(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Images, targets, weights and labels of some rows."""
        weights = None if self.weights is None else self.weights[rows]
        return self.x[rows], self.targets[rows], weights, None if self.labels is None else self.labels[rows]


def landmarks_of(plan: ImagePlan, n: int, labels: Tensor | None) -> Tensor | None:
    """Random rows, as many of each class as there are, or None where all rows are used."""
    if plan.landmarks is None or plan.landmarks >= n:
        return None
    order = torch.randperm(n, generator=generator(plan.random_state, "landmarks"))
    if labels is not None:
        # The first of every class, then the second of every class, and so on.
        own = labels[order]
        rank = torch.empty(n, dtype=torch.int64)
        for label in own.unique():
            rank[own == label] = torch.arange(int((own == label).sum()))
        order = order[rank.argsort(stable=True)]
    return order[: plan.landmarks].sort().values


def fit_images(
    plan: ImagePlan,
    problem: ImageProblem,
    validation: tuple[Tensor, Tensor] | None,
    *,
    start: PatchMetric | None = None,
    callback: Callable[[dict[str, Any]], object] | None = None,
    runner: Callable[[Sequence[Callable[[], Run]]], list[Run]] | None = None,
) -> tuple[Run, Selection | None]:
    """The fitted predictor, and how ridge and iterate were chosen.

    Leave-one-out and given validation images score the iterates of the one run on all images. For folds and hold-outs
    the whole path, metric included, is learned without the images that it is scored on, and then again on all.
    """
    n = len(problem.x)

    def one(alphas: Sequence[Sequence[float]], steps: int, rows: Tensor | None, judge: Any, **more: Any) -> Run:
        x, targets, weights, labels = problem.at(torch.arange(n) if rows is None else rows)
        return run(
            plan.recipe(alphas, steps, selected=judge is not None), x, targets, weights=weights, judge=judge,
            landmarks=landmarks_of(plan, len(x), labels), random_state=plan.random_state, **more,
        )  # fmt: skip

    if plan.method == "none" or start is not None:
        begin = None if start is None else [start]
        return one([plan.alphas[:1]], plan.max_iter, None, None, start=begin, callback=callback), None
    method = plan.method
    if method == "auto":
        cheap = plan.few_numbers(problem.x.shape[1], n) and (plan.landmarks is not None or n <= LEFT_OUT)
        method = "loo" if cheap else "cv" if n <= CROSS_VALIDATED and plan.landmarks is None else "holdout"
    everything = torch.arange(n)
    if method in ("loo", "validation"):
        judge: HeldOut | LeaveOneOut
        if method == "loo":
            _warn_if_optimistic(plan, problem.x.shape[1], n)
            scored = scored_rows(n, landmarks_of(plan, n, problem.labels))
            judge, split = LeaveOneOut(plan.centered), Split(everything, scored)
        else:
            if validation is None:
                raise DataError('Got selection="validation" without X_val and y_val. Pass both to fit.')
            judge, split = HeldOut(*validation), Split(everything, everything[:0])
        whole = one([plan.alphas], plan.max_iter, None, judge, callback=callback)
        return whole, race([plan.candidate], [Rung((split,), 1)], lambda candidate, split: whole, method=method)
    if method == "holdout":
        rungs = hold_out(n, problem.labels, 1, plan.random_state)
    else:
        rungs = cross_validation(n, problem.labels, 1, plan.random_state, possible_folds(n, problem.labels))
    if min(len(split.train) for rung in rungs for split in rung.splits) < 2:
        raise DataError(f"Got {n} images, too few to hold any out. Pass more, or one alpha and selection=None.")

    def fit(candidate: Candidate, split: Split) -> Run:
        held = HeldOut(*problem.at(split.test)[:3])
        return one([plan.alphas], plan.max_iter, split.train, held, interruptible=False)

    selection = race([plan.candidate], rungs, fit, method=method, runner=runner)
    # Rounding may ask for a larger ridge on all images than on some of them.
    alphas = [[other for other in sorted(plan.alphas) if other >= alpha] for alpha in selection.alphas]
    return one(alphas, len(alphas) - 1, None, None, callback=callback), selection


def _warn_if_optimistic(plan: ImagePlan, channels: int, n: int) -> None:
    if not plan.few_numbers(channels, n):
        q = channels * plan.kernel.patch_size**2
        warnings.warn(
            f'Got selection="loo" for a patch metric of {q * (q + 1) // 2} numbers learned from {n} images. '
            'Leave-one-out scores are optimistic there: use "auto".',
            FeatlearnWarning,
            stacklevel=5,
        )
