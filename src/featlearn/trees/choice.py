"""Which candidate becomes the tree: the lowest penalised loss, or the smallest tree that held-out rows allow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from .._random import generator
from .learn import learn, on_all_rows
from .problem import Candidate, Settings, Start
from .tree import leaf_tree

__all__ = ["SELECTIONS", "Choice", "Penalty", "choose"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

SELECTIONS = ("penalty", "validation")
SCALES = (0.03, 0.1, 0.3, 1.0)  # of the penalty, tried on held-out rows
HELD_OUT = 4  # every fourth row

CHANCE_WEIGHT = 3.0  # what a weight fitted to noise takes off the loss, in units of variance / n
CHANCE_SPLIT = 8.0  # the same for a split, times the logarithm of the number of inputs
LEAST_SPLIT = 0.002  # price of a split however many rows there are


@dataclass(frozen=True)
class Penalty:
    r"""Prices of a split and of a weight, in units of the loss.

    .. math:: \ell_0 = \kappa \frac{3 v}{n}, \qquad \alpha = 0.002 + \kappa \frac{8 v \ln \max(d, 2)}{n}

    Attributes
    ----------
    scale : float, default 0.1
        kappa. 1 is about what noise gains, so that permuted labels give a single leaf.
    alpha, l0 : float or "auto"
        Numbers take the place of the formula.

    Notes
    -----
    v is the variance of the targets, summed over outputs, n the sum of the weights and d the number of inputs. A rule
    with s weights that is fitted to noise takes about 3 v s / n off the loss (measured for this library). Prices that
    do not fall with n are too high or too low at all but one n.
    """

    scale: float = 0.1
    alpha: float | Literal["auto"] = "auto"
    l0: float | Literal["auto"] = "auto"

    def prices(self, Y: Floats, w: Floats, d: int, scale: float | None = None) -> tuple[float, float]:
        """``(alpha, l0)`` for targets Y (n, K) of weights w (n,) and d inputs, at another scale if given."""
        scale = self.scale if scale is None else scale
        unit = scale * float(leaf_tree(Y, w).impurity[0]) / float(w.sum())
        alpha = LEAST_SPLIT + CHANCE_SPLIT * unit * math.log(max(d, 2)) if self.alpha == "auto" else self.alpha
        return float(alpha), float(CHANCE_WEIGHT * unit if self.l0 == "auto" else self.l0)


@dataclass(frozen=True, eq=False)
class Choice:
    """The tree that was chosen, and among what.

    Attributes
    ----------
    candidate : Candidate
        On all rows.
    candidates : list of Candidate
        Those of the table, on the rows they were learned from.
    table : list of dict
        One entry a candidate: kappa, s (weights a rule could have), start, route, stage, loss, objective, leaves,
        weights (of all rules), held_out and standard_error (None without held-out rows), chosen.
    history : list of dict
        Of all trees that features were moved through, see :class:`~featlearn.trees.learn.LearnResult`; with kappa.
    selection : str
        "penalty" or "validation".
    scale, alpha, l0 : float
        The penalty that the tree was grown with.
    guarded : bool
        Whether a single leaf was returned because no candidate was clearly better on held-out rows.
    interrupted : bool
    """

    candidate: Candidate
    candidates: list[Candidate]
    table: list[dict[str, Any]]
    history: list[dict[str, Any]]
    selection: str
    scale: float
    alpha: float
    l0: float
    guarded: bool = False
    interrupted: bool = False


def choose(
    X: Floats,
    Y: Floats,
    w: Floats,
    make_starts: Callable[[Rows], Sequence[Start]],
    settings: Settings,
    penalty: Penalty,
    *,
    selection: str = "penalty",
    labels: NDArray[np.integer] | None = None,
    random_state: int = 0,
    verbose: int = 0,
) -> Choice:
    r"""Learn from all starts and choose a tree.

    Parameters
    ----------
    X : array of shape (n, d)
        Standardised.
    Y : array of shape (n, K)
    w : array of shape (n,)
        Repetition weights, one at least positive.
    make_starts : callable
        ``rows -> starts``: what to start from, seeing these rows alone.
    settings : Settings
        Its prices are replaced by those of ``penalty``.
    penalty : Penalty
    selection : {"penalty", "validation"}
        "penalty": lowest objective, no rows held out. "validation": a quarter is held out, penalties of the scales
        .03, .1, .3 and 1 are tried, and of all candidates within one standard error of the lowest held-out loss the
        one with the fewest weights is taken; then everything is learned again on all rows, at that scale and with no
        more weights in a rule.
    labels : int array of shape (n,), optional
        Classes, held out in equal shares.
    random_state : int
    verbose : int

    Returns
    -------
    Choice

    Notes
    -----
    The guard of "validation": unless the lowest held-out loss is below that of a single leaf by
    :math:`\sqrt{2 \ln m}` standard errors of the difference, m the number of candidates, the answer is a single leaf.
    The lowest of many held-out losses is low by chance, too.
    """
    if selection == "validation":
        return _Validation(X, Y, w, make_starts, settings, penalty, labels, random_state, verbose).choice()
    return _by_penalty(X, Y, w, make_starts, settings, penalty, penalty.scale, random_state, verbose)


def _by_penalty(
    X: Floats, Y: Floats, w: Floats, make_starts: Callable[[Rows], Sequence[Start]], settings: Settings,
    penalty: Penalty, scale: float, random_state: int, verbose: int,
) -> Choice:  # fmt: skip
    alpha, l0 = penalty.prices(Y, w, X.shape[1], scale)
    settings = replace(settings, alpha=alpha, l0=l0)
    starts = make_starts(np.flatnonzero(w > 0))
    result = learn(X, Y, w, starts, settings, random_state, verbose=verbose)
    best = result.best
    table = [_entry(candidate, scale, chosen=candidate is best) for candidate in result.candidates]
    history = [{"kappa": scale, **entry} for entry in result.history]
    answer = on_all_rows(best, X, Y, w, settings) if result.subsampled else best
    return Choice(
        answer, result.candidates, table, history, "penalty", scale, alpha, l0, interrupted=result.interrupted
    )


@dataclass(eq=False)
class _Validation:
    """Choice on held-out rows."""

    X: Floats
    Y: Floats
    w: Floats
    make_starts: Callable[[Rows], Sequence[Start]]
    settings: Settings
    penalty: Penalty
    labels: NDArray[np.integer] | None
    random_state: int
    verbose: int

    def choice(self) -> Choice:
        """Learn on three quarters, choose, learn on all."""
        X, Y, w = self.X, self.Y, self.w
        rows, held = held_out_rows(w, self.labels, self.random_state)
        # Given prices do not depend on the scale.
        scales = SCALES if "auto" in (self.penalty.alpha, self.penalty.l0) else (self.penalty.scale,)
        starts = self.make_starts(rows)
        found: list[tuple[float, Candidate]] = []
        history: list[dict[str, Any]] = []
        for scale in scales:
            alpha, l0 = self.penalty.prices(Y[rows], w[rows], X.shape[1], scale)
            settings = replace(self.settings, alpha=alpha, l0=l0)
            result = learn(X[rows], Y[rows], w[rows], starts, settings, self.random_state, verbose=self.verbose)
            found += [(scale, candidate) for candidate in result.candidates]
            history += [{"kappa": scale, **entry} for entry in result.history]
            if result.interrupted:
                break
        errors = [np.square(candidate.predict(X[held]) - Y[held]).sum(axis=1) for _, candidate in found]
        place, guarded = smallest_defensible(errors, [candidate.n_weights for _, candidate in found], w[held])
        table = [
            _entry(candidate, scale, chosen=i == place, held_out=mean_and_error(errors[i], w[held]))
            for i, (scale, candidate) in enumerate(found)
        ]
        scale, chosen = found[place]
        alpha, l0 = self.penalty.prices(Y, w, X.shape[1], scale)
        interrupted, again = result.interrupted, None
        if chosen.tree.n_leaves > 1 and not interrupted:
            capped = replace(self.settings, max_support=chosen.largest_rule)
            try:
                again = _by_penalty(
                    X, Y, w, self.make_starts, capped, self.penalty, scale, self.random_state, self.verbose
                )  # fmt: skip
            except KeyboardInterrupt:  # before there was a candidate: the chosen one is still there
                interrupted = True
            else:
                interrupted, history = again.interrupted, history + again.history
        answers = [] if again is None else [again.candidate]
        if again is None or interrupted:
            settings = replace(self.settings, alpha=alpha, l0=l0)
            answers.append(on_all_rows(chosen, X, Y, w, settings))
        answer = min(answers, key=lambda candidate: candidate.objective)
        candidates = [candidate for _, candidate in found]
        return Choice(
            answer, candidates, table, history, "validation", scale, alpha, l0, guarded=guarded, interrupted=interrupted
        )


def held_out_rows(w: Floats, labels: NDArray[np.integer] | None, random_state: int) -> tuple[Rows, Rows]:
    """Rows of positive weight to learn from, and every fourth, at random and within each class by turns, held out."""
    rows = np.flatnonzero(w > 0)
    order = torch.randperm(len(rows), generator=generator(random_state, "trees", "held out")).numpy()
    if labels is not None:
        order = order[np.argsort(labels[rows][order], kind="stable")]
    held = np.zeros(len(rows), dtype=bool)
    held[order[HELD_OUT - 1 :: HELD_OUT]] = True
    return rows[~held], rows[held]


def mean_and_error(values: Floats, w: Floats) -> tuple[float, float]:
    """Weighted mean and its standard error, weights counted as repetitions."""
    n = float(w.sum())
    mean = float(w @ values) / n
    return mean, math.sqrt(float(w @ (values - mean) ** 2) / n / max(n - 1, 1.0))


def smallest_defensible(errors: Sequence[Floats], sizes: Sequence[int], w: Floats) -> tuple[int, bool]:
    """Place of the candidate that held-out errors allow to take, and whether the guard took the single leaf.

    Parameters
    ----------
    errors : sequence of arrays of shape (m,)
        Squared errors of the held-out rows for each candidate, the first of which is the single leaf.
    sizes : sequence of int
        Weights of each candidate: the fewest win, then the lower loss, then the earlier one.
    w : array of shape (m,)
    """
    losses = [mean_and_error(each, w) for each in errors]
    best = min(range(len(losses)), key=lambda i: losses[i][0])
    gain, error = mean_and_error(errors[0] - errors[best], w)
    if gain <= error * math.sqrt(2 * math.log(len(losses))):
        return 0, True
    within = [i for i, (loss, _) in enumerate(losses) if loss <= sum(losses[best])]
    return min(within, key=lambda i: (sizes[i], losses[i][0])), False


def _entry(
    candidate: Candidate, scale: float, *, chosen: bool, held_out: tuple[float, float] | None = None
) -> dict[str, Any]:
    return {
        "kappa": scale,
        "s": candidate.support,
        "start": candidate.start,
        "route": candidate.route,
        "stage": candidate.stage,
        "loss": candidate.loss,
        "objective": candidate.objective,
        "leaves": candidate.tree.n_leaves,
        "weights": candidate.n_weights,
        "held_out": None if held_out is None else held_out[0],
        "standard_error": None if held_out is None else held_out[1],
        "chosen": chosen,
    }
