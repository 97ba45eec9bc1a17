"""The two routes from a start to candidates: features and tree learned in turn, rules cut down weight by weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .._random import generator
from .adam import Adam
from .features import FeatureMap, LinearMap
from .polish import polish
from .problem import Candidate, Problem, Settings, Start, used_part
from .sparsify import supports
from .tree import Tree, leaf_tree

__all__ = ["MAX_LEARN_ROWS", "Candidate", "LearnResult", "Settings", "Start", "learn", "on_all_rows", "single_leaf"]

Floats = NDArray[np.float64]

MAX_LEARN_ROWS = 20000  # features are learned on so many rows; the last tree is grown on all
POLISHED = 2  # candidates of each start that are polished

DIRECT_RATE = 0.025
DIRECT_BANDWIDTHS = (3.0, 1.5, 1.0)  # in units of the last one

FIRST_RATE, LATER_RATE = 0.05, 0.025
WIDEST, WIDE = 1.0, 0.3  # bandwidth of the first round, in standard deviations, for all weights and for fewer
ANNEALED = 0.8  # share of the rounds in which the bandwidth falls: 12 of 15
LATER_ROUNDS, LATER_ANNEALED = 5, 3


@dataclass(frozen=True, eq=False)
class LearnResult:
    """What was found on the way.

    Attributes
    ----------
    candidates : list of Candidate
        The single leaf first, then in the order in which they were found.
    history : list of dict
        One entry for every round of both routes, those of :func:`~featlearn.trees.polish.polish` apart: start, route,
        stage, s, round, h, and loss and leaves of a tree. On the learned route that is the fuzzy tree that features are
        moved through; on the direct route it is the crisp tree grown after they were.
    interrupted : bool
        Whether the user stopped it; the candidates are those found until then.
    subsampled : bool
        Whether candidates saw some of the rows only: see :func:`on_all_rows`.
    """

    candidates: list[Candidate]
    history: list[dict[str, Any]]
    interrupted: bool = False
    subsampled: bool = False

    @property
    def best(self) -> Candidate:
        """The one of lowest objective, the first of equal ones."""
        return min(self.candidates, key=lambda candidate: candidate.objective)


def learn(
    X: Floats,
    Y: Floats,
    w: Floats,
    starts: Sequence[Start],
    settings: Settings,
    random_state: int,
    *,
    verbose: int = 0,
) -> LearnResult:
    r"""Candidates of all starts.

    .. math:: J = \frac{1}{n} \sum_i \omega_i |f(x_i) - Y_i|^2 + \sum_{v \text{ split}} (\alpha + \ell_0 |w_{j(v)}|_0)

    is the objective of a candidate; n is the sum of the weights.

    Parameters
    ----------
    X : array of shape (n, d)
        Standardised.
    Y : array of shape (n, K)
    w : array of shape (n,)
        Repetition weights.
    starts : sequence of Start
        Names tell them apart, and make their random numbers.
    settings : Settings
    random_state : int
        Draws 20000 rows where there are more, and new features where a tree has no split to learn from.
    verbose : int, default 0
        1 shows a bar of starts and supports.

    Returns
    -------
    LearnResult

    Notes
    -----
    Follows the published idea of learning features and a differentiable tree in turn, not its authors' algorithm: the
    two routes, the way rules are made sparse, the penalties and every constant are this library's own.

    - **direct**: a crisp tree on the features as they are; then, for fewer and fewer weights, three times 20 steps of
      Adam through the tree (smooth shares, bandwidths 3, 1.5 and 1 times ``h``) and a new tree.
    - **learned**: 16 rounds of a fuzzy tree at a bandwidth falling from 1 to ``h``, and 20 steps through it; then five
      such rounds for fewer and fewer weights.

    The two best candidates of each start are polished. A start costs about ``1000 n d q`` operations for its steps and
    fifty crisp trees.

    References
    ----------
    Good, Kovach, Miller, Dubrawski (2023), Feature learning for interpretable, performant decision trees, NeurIPS.

    Examples
    --------
    >>> import numpy as np
    >>> from featlearn.trees.features import LinearMap
    >>> X = np.random.default_rng(0).standard_normal((300, 4))
    >>> Y = np.eye(2)[(X[:, 0] + X[:, 1] > 0).astype(int)]
    >>> rough = Start("rough", LinearMap(np.array([[1.0, 0.5, 0.2, 0.0]])), "direct")
    >>> best = learn(X, Y, np.ones(300), [rough], Settings(l0=0.001), 0).best
    >>> best.tree.n_leaves, best.n_weights
    (2, 2)
    """
    problem = Problem(*_learning_rows(X, Y, w, random_state), settings)
    log = _Log(problem)
    interrupted = False
    try:
        with _Bar(verbose, len(starts) * (1 + len(supports(problem.d)))) as bar:
            for start in starts:
                log.begin(start, bar)
                _learn_one(problem, start, log, random_state)
    except KeyboardInterrupt:
        interrupted = True
    return LearnResult(log.candidates, log.history, interrupted, subsampled=bool(len(problem.X) < np.count_nonzero(w)))


def on_all_rows(candidate: Candidate, X: Floats, Y: Floats, w: Floats, settings: Settings) -> Candidate:
    """The candidate with a tree grown on all rows, where it was learned on some of them or on others.

    A single leaf stays one. ``O(n log n)`` time.
    """
    if candidate.tree.n_leaves == 1:
        return single_leaf(X, Y, w)
    problem = Problem(X, Y, w, settings)
    features = candidate.map.rescaled(X, w)
    return problem.candidate(
        features, problem.crisp(features),
        start=candidate.start, route=candidate.route, stage=candidate.stage, support=candidate.support,
    )  # fmt: skip


def single_leaf(X: Floats, Y: Floats, w: Floats) -> Candidate:
    """The candidate that needs no features."""
    tree = leaf_tree(Y, w)
    loss = float(tree.impurity[0])
    return Candidate(LinearMap(np.zeros((0, X.shape[1]))), tree, loss, loss, "none", "none", "start", 0)


def _learning_rows(X: Floats, Y: Floats, w: Floats, random_state: int) -> tuple[Floats, Floats, Floats]:
    rows = np.flatnonzero(w > 0)
    if len(rows) > MAX_LEARN_ROWS:
        order = torch.randperm(len(rows), generator=generator(random_state, "trees", "learning rows"))
        rows = np.sort(rows[order[:MAX_LEARN_ROWS].numpy()])
    return (X, Y, w) if len(rows) == len(X) else (X[rows], Y[rows], w[rows])


def _learn_one(problem: Problem, start: Start, log: _Log, random_state: int) -> None:
    features = start.map.rescaled(problem.X, problem.w)
    if not problem.settings.moves_features:
        log.add(features, problem.crisp(features), "start", problem.d)
        return
    if start.route == "direct":
        _direct(problem, features, log)
    else:
        _learned(problem, features, log, generator(random_state, "trees", start.name))
    for candidate in log.leading(POLISHED):
        for moved, tree in polish(problem, candidate.map, candidate.tree):
            log.add(moved, tree, "polish", candidate.support)


def _direct(problem: Problem, features: FeatureMap, log: _Log) -> None:
    """Given features: through crisp trees."""
    log.add(features, problem.crisp(features), "start", problem.d)
    tree = problem.crisp(features, sparse=False)
    if tree.n_leaves == 1:
        return
    features, tree = used_part(features, tree)
    for s in supports(problem.d):
        features = problem.cut(features, s)
        for step, share in enumerate(DIRECT_BANDWIDTHS):
            if tree.n_leaves == 1:
                break
            h = share * problem.settings.h
            features = problem.moved(features, tree, h, Adam(DIRECT_RATE))
            tree = problem.crisp(features, sparse=False)
            log.round("sparsify", s, step, h, problem.crisp_loss(features, tree), tree)
        log.add(features, problem.crisp(features), "sparsify", s)


def _learned(problem: Problem, features: FeatureMap, log: _Log, rng: torch.Generator) -> None:
    """Random features: through fuzzy trees, first of a wide bandwidth."""
    rounds = problem.settings.max_iter
    first = _Annealing("start", problem.d, rounds + 1, max(1, round(ANNEALED * rounds)), WIDEST, FIRST_RATE)
    features, tree = _annealed(problem, features, first, log, rng)
    log.add(features, problem.crisp(features), "start", problem.d)
    if tree.n_leaves > 1:
        features, _ = used_part(features, tree)
    for s in supports(problem.d):
        later = _Annealing("sparsify", s, LATER_ROUNDS, LATER_ANNEALED, WIDE, LATER_RATE)
        features, _ = _annealed(problem, problem.cut(features, s), later, log, rng)
        log.add(features, problem.crisp(features), "sparsify", s)


@dataclass(frozen=True)
class _Annealing:
    """Rounds with a bandwidth that falls from ``widest`` to the last one, which round ``annealed`` reaches."""

    stage: str
    support: int
    rounds: int
    annealed: int
    widest: float
    learning_rate: float

    def progress(self, step: int) -> float:
        return min(1.0, step / self.annealed)


def _annealed(
    problem: Problem, features: FeatureMap, plan: _Annealing, log: _Log, rng: torch.Generator
) -> tuple[FeatureMap, Tree]:
    """The features of the best fuzzy tree at the last bandwidth, and that tree."""
    alpha, last = problem.settings.alpha, problem.settings.h
    adam = Adam(plan.learning_rate)
    best: tuple[float, FeatureMap, Tree] | None = None
    for step in range(plan.rounds):
        progress = plan.progress(step)
        h = plan.widest ** (1 - progress) * last**progress
        tree, loss = problem.fuzzy(features, h, alpha * progress**2)
        log.round(plan.stage, plan.support, step, h, loss, tree)
        score = loss + alpha * tree.n_leaves
        if progress == 1 and (best is None or score < best[0]):
            best = score, features, tree
        if tree.n_leaves == 1:
            fresh = features.start(problem.X, problem.Y, problem.w, features.n_features, rng)
            features = features.with_parameters(fresh.parameters).rescaled(problem.X, problem.w)
            adam = Adam(plan.learning_rate)
        elif step < plan.rounds - 1:  # no tree would see where the last round moves them
            features = problem.moved(features, tree, h, adam)
    assert best is not None  # the last round is always at the last bandwidth
    return best[1], best[2]


@dataclass(eq=False)
class _Log:
    """Candidates and history of all starts."""

    problem: Problem
    candidates: list[Candidate] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.candidates.append(single_leaf(self.problem.X, self.problem.Y, self.problem.w))

    def begin(self, start: Start, bar: _Bar) -> None:
        """The start that what follows belongs to."""
        self.start, self.bar, self.first = start, bar, len(self.candidates)

    def round(self, stage: str, support: int, step: int, h: float, loss: float, tree: Tree) -> None:
        """A tree that features are about to be moved through, or that was grown after they were."""
        self.history.append(
            {
                "start": self.start.name,
                "route": self.start.route,
                "stage": stage,
                "s": support,
                "round": step,
                "h": h,
                "loss": loss,
                "leaves": tree.n_leaves,
            }
        )

    def add(self, features: FeatureMap, tree: Tree, stage: str, support: int) -> None:
        """A crisp tree, unless it is a single leaf or one of its rules has too many weights."""
        if stage != "polish":
            self.bar.advance(f"{self.start.name}, {support} weights")
        candidate = self.problem.candidate(
            features, tree, start=self.start.name, route=self.start.route, stage=stage, support=support
        )
        most = self.problem.settings.max_support
        if tree.n_leaves > 1 and (most is None or candidate.largest_rule <= most):
            self.candidates.append(candidate)

    def leading(self, count: int) -> list[Candidate]:
        """The best candidates of the current start."""
        return sorted(self.candidates[self.first :], key=lambda candidate: candidate.objective)[:count]


class _Bar:
    """A bar on the terminal, when asked for."""

    def __init__(self, verbose: int, steps: int) -> None:
        self.progress: Any = None
        if verbose:
            from rich.console import Console
            from rich.progress import Progress

            self.progress = Progress(console=Console(stderr=True), transient=True)
            self.task = self.progress.add_task("Learning features", total=steps)

    def __enter__(self) -> _Bar:
        if self.progress is not None:
            self.progress.start()
        return self

    def advance(self, what: str) -> None:
        """One step further; ``what`` it was."""
        if self.progress is not None:
            self.progress.update(self.task, advance=1, description=what)

    def __exit__(self, *_: object) -> None:
        if self.progress is not None:
            self.progress.stop()
