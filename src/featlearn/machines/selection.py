"""What chooses kernel, columns, bandwidth, power, ridge and iterate: a race on rows that candidates have not seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .._random import generator
from .loop import Run
from .rules import Bandwidth, Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "Candidate",
    "Member",
    "Rung",
    "Selection",
    "Split",
    "cross_validation",
    "fold_of",
    "hold_out",
    "race",
    "sum_of",
]

FOLDS = 5
CROSS_VALIDATED = 2000  # rows up to which "auto" cross-validates
HELD_OUT = 5000  # most rows held out
LADDER = (1000, 3000, 8000)  # training rows of the rungs of a hold-out race


@dataclass(frozen=True)
class Candidate:
    """One path of the loop: everything but ridge and iterate, which are scored along it."""

    kernel: str
    parts: tuple[Part, ...]
    transform: str
    bandwidth: Bandwidth
    power: float

    def label(self) -> dict[str, Any]:
        """For tables."""
        return {
            "kernel": self.kernel,
            "columns": self.transform,
            "bandwidth": str(self.bandwidth),
            "power": self.power,
        }


@dataclass(frozen=True)
class Split:
    """Rows to fit to, and rows to score on."""

    train: Tensor
    test: Tensor


@dataclass(frozen=True)
class Rung:
    """Splits that all candidates still in the race run on, and how many go on after it."""

    splits: tuple[Split, ...]
    survivors: int


@dataclass(frozen=True, eq=False)
class Member:
    """A candidate at one of its iterates, as a part of what is fitted.

    Attributes
    ----------
    candidate : Candidate
    alphas : tuple of float
        Ridge of each step up to the iterate.
    entry : int
        Place of the iterate in the table.
    held_out : tuple of (rows, expansions)
        Honest predictions, one entry a split.
    weight : float
        Share in the predictions.
    """

    candidate: Candidate
    alphas: tuple[float, ...]
    entry: int
    held_out: tuple[tuple[Tensor, Tensor], ...] = field(default=(), repr=False)
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Selection:
    """How the fitted machine was chosen.

    Attributes
    ----------
    method : str
        "cv", "holdout", "loo", "validation" or "none".
    score_name : str
        What was minimised: the mean over left-out rows of the squared error, summed over outputs; in units of the
        targets' variance. Of coded classes that is the Brier score.
    table : list of dict
        One entry for every candidate and iterate of its last rung: kernel, columns, bandwidth, power, iteration,
        alpha, score, standard_error, splits, rows.
    members : tuple of Member
        What is fitted, the one with the largest weight first; weights add to 1.
    runners_up : tuple of Member
        The best iterates of the other candidates of the last rung.
    """

    method: str
    score_name: str
    table: list[dict[str, Any]]
    members: tuple[Member, ...]
    runners_up: tuple[Member, ...] = field(default=(), repr=False)

    @property
    def chosen(self) -> int:
        """Place in the table of the leading member."""
        return self.members[0].entry

    @property
    def alphas(self) -> tuple[float, ...]:
        """Ridge of each step of the leading member."""
        return self.members[0].alphas

    @property
    def candidate(self) -> Candidate:
        """The leading member's."""
        return self.members[0].candidate

    @property
    def held_out(self) -> list[tuple[Tensor, Tensor]]:
        """Rows, and honest predictions of what is fitted, one entry a split."""
        splits = zip(*(member.held_out for member in self.members), strict=True)
        return [
            (parts[0][0], sum_of([member.weight for member in self.members], [values for _, values in parts]))
            for parts in splits
        ]

    @property
    def best(self) -> dict[str, Any]:
        """The chosen entry of the table."""
        return self.table[self.chosen]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "method": self.method,
            "score_name": self.score_name,
            "chosen": self.chosen,
            "members": [
                {"entry": member.entry, "weight": member.weight, "alphas": list(member.alphas)}
                for member in self.members
            ],
            "table": [dict(entry) for entry in self.table],
        }

    def frame(self) -> Any:
        """The table as a DataFrame, best first."""
        import pandas as pd

        return pd.DataFrame(self.table).sort_values("score", kind="stable", ignore_index=True)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Scores of the best candidates along their iterates, with standard errors."""
        from ..plots.machines import plot_selection

        return plot_selection(self.to_dict(), ax)


def cross_validation(
    n: int, labels: Tensor | None, candidates: int, random_state: int, folds: int = FOLDS
) -> list[Rung]:
    """Rungs of K-fold cross-validation: two folds for all candidates, the others for the best four.

    Folds are stratified by ``labels`` (n,), int64, where given.
    """
    place = fold_of(n, labels, folds, generator(random_state, "folds"))
    splits = tuple(Split(*((place != fold).nonzero()[:, 0], (place == fold).nonzero()[:, 0])) for fold in range(folds))
    if candidates <= 4 or folds <= 2:
        return [Rung(splits, 1)]
    return [Rung(splits[:2], 4), Rung(splits[2:], 1)]


def hold_out(n: int, labels: Tensor | None, candidates: int, random_state: int) -> list[Rung]:
    """Rungs on one split: ever more training rows for ever fewer candidates, all scored on the same held-out rows.

    A fifth of the rows, at most 5,000, is held out. Candidates are compared on 1,000, 3,000 and 8,000 training rows.
    """
    held = min(max(n // 5, 1), HELD_OUT)
    place = fold_of(n, labels, max(2, round(n / held)), generator(random_state, "holdout"))
    test = (place == 0).nonzero()[:, 0][:held]
    rest = torch.ones(n, dtype=torch.bool)
    rest[test] = False
    train = rest.nonzero()[:, 0]
    train = train[torch.randperm(len(train), generator=generator(random_state, "ladder"))]
    most = min(len(train), LADDER[-1])
    sizes = [size for size in LADDER if size < 0.7 * most] + [most] if candidates > 2 else [most]
    survivors = [max(3, math.ceil(candidates / 3 ** (i + 1))) for i in range(len(sizes))]
    return [Rung((Split(train[:size].sort().values, test),), kept) for size, kept in zip(sizes, survivors, strict=True)]


def race(
    candidates: Sequence[Candidate],
    rungs: Sequence[Rung],
    fit: Callable[[Candidate, Split], Run],
    *,
    method: str,
    selected: bool = True,
    runner: Callable[[Sequence[Callable[[], Run]]], list[Run]] | None = None,
) -> Selection:
    """Run the rungs one after the other and choose; ties go to the earlier iterate, then to the larger ridge.

    The splits of cross-validation add up over rungs; of a hold-out race only the last rung counts, since scores at
    different numbers of training rows do not compare.
    """
    runner = runner or (lambda calls: [call() for call in calls])
    alive = list(range(len(candidates)))
    runs: dict[int, list[tuple[Split, Run]]] = {place: [] for place in alive}
    for rung in rungs:
        pairs = [(place, split) for place in alive for split in rung.splits]
        calls = [partial(fit, candidates[place], split) for place, split in pairs]
        done = runner(calls)
        if method == "holdout":
            runs.update({place: [] for place in alive})
        for (place, split), result in zip(pairs, done, strict=True):
            runs[place].append((split, result))
        scores = {
            place: min(entry["score"] for entry in _eligible(_entries(candidates[place], runs[place]), selected))
            for place in alive
        }
        alive = sorted(alive, key=lambda place: (scores[place], place))[: rung.survivors]
    return _choose(candidates, runs, alive, method, selected)


def _choose(
    candidates: Sequence[Candidate],
    runs: dict[int, list[tuple[Split, Run]]],
    alive: list[int],
    method: str,
    selected: bool,
) -> Selection:
    table: list[dict[str, Any]] = []
    owners: list[int] = []
    open_to_choice: list[int] = []
    finalists = _finalists(runs, alive)
    for place, results in runs.items():
        entries = _entries(candidates[place], results)
        if place in finalists:
            allowed = _eligible(entries, selected)
            open_to_choice += [len(table) + i for i, entry in enumerate(entries) if entry in allowed]
        table += entries
        owners += [place] * len(entries)
    ranked: dict[int, int] = {}
    for entry in sorted(open_to_choice, key=lambda i: (table[i]["score"], table[i]["iteration"], -table[i]["alpha"])):
        ranked.setdefault(owners[entry], entry)
    first, *others = (
        _member(candidates[place], runs[place], entry, table[entry]["iteration"]) for place, entry in ranked.items()
    )
    score_name = runs[alive[0]][0][1].history[0]["score_name"]
    return Selection(method, score_name, table, (first,), tuple(others))


def _member(candidate: Candidate, results: list[tuple[Split, Run]], entry: int, step: int) -> Member:
    """A candidate at one step, with what it predicted of rows that it had not seen."""
    alphas = tuple(
        _middle([run.history[t]["alpha"] for _, run in results if t < len(run.history)]) for t in range(step + 1)
    )
    honest = [(split.test, run.honest[min(step, len(run.honest) - 1)]) for split, run in results]
    held_out = tuple((rows, values) for rows, values in honest if values is not None)
    return Member(candidate, alphas, entry, held_out)


def sum_of(weights: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    """``sum_j w_j v_j``; a single one of weight 1 is returned as it is."""
    if len(values) == 1 and weights[0] == 1:
        return values[0]
    total = torch.zeros_like(values[0])
    for weight, value in zip(weights, values, strict=True):
        total.add_(value, alpha=weight)
    return total


def _eligible(entries: list[dict[str, Any]], selected: bool) -> list[dict[str, Any]]:
    """All iterates, or the last alone for rules that do not choose it."""
    return entries if selected else entries[-1:]


def _finalists(runs: dict[int, list[tuple[Split, Run]]], alive: list[int]) -> set[int]:
    """Candidates that were scored on the rows of the last rung."""
    rows = [len(split.train) for split, _ in runs[alive[0]]]
    return {place for place, results in runs.items() if [len(split.train) for split, _ in results] == rows}


def _entries(candidate: Candidate, results: Sequence[tuple[Split, Run]]) -> list[dict[str, Any]]:
    """One entry an iterate: the mean over splits of the best score, which is that of the alpha that drove the run."""
    steps = min(len(run.history) for _, run in results)
    entries = []
    for t in range(steps):
        scores = np.array([run.history[t]["score"] for _, run in results])
        errors = np.array([run.history[t]["score_se"] for _, run in results])
        error = scores.std(ddof=1) / math.sqrt(len(scores)) if len(scores) > 1 else errors[0]
        entries.append(
            {
                **candidate.label(),
                "iteration": t,
                "alpha": _middle([run.history[t]["alpha"] for _, run in results]),
                "score": float(scores.mean()),
                "standard_error": float(error),
                "splits": len(results),
                "rows": int(np.mean([len(split.train) for split, _ in results])),
            }
        )
    return entries


def _middle(alphas: list[float]) -> float:
    """Upper median: one of the candidates, the larger ridge of two."""
    return sorted(alphas)[len(alphas) // 2]


def fold_of(n: int, labels: Tensor | None, folds: int, source: torch.Generator) -> Tensor:
    """Fold (n,) of each row, at random; within each label by turns, so that folds have equal shares of it."""
    order = torch.randperm(n, generator=source)
    if labels is not None:
        order = order[labels[order].argsort(stable=True)]
    place = torch.empty(n, dtype=torch.int64)
    place[order] = torch.arange(n) % folds
    return place
