"""Averages of the best machines of a race, weighted by greedy selection on rows that none of them has seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .loop import squared_error
from .predictor import Predictor
from .selection import Selection, sum_of

__all__ = ["Blend", "blended", "greedy_weights"]

ROUNDS = 10  # of the greedy selection: no member has a smaller share than one in so many
GAIN = 0.005  # by which a blend must lower the score of its best member, or that one is taken alone


@dataclass(frozen=True, eq=False)
class Blend:
    r"""``f(z) = \sum_j w_j f_j(z)``: several fitted machines, each with its own columns, as one function.

    Attributes
    ----------
    members : tuple of Predictor
        The one with the largest weight first.
    weights : tuple of float
        Positive, adding to 1.
    """

    members: tuple[Predictor, ...]
    weights: tuple[float, ...]

    @property
    def leading(self) -> Predictor:
        """The member with the largest weight."""
        return self.members[0]

    def expansion(self, X: Any) -> Tensor:
        """Values (m, C) at the rows of X."""
        return sum_of(self.weights, [member.expansion(X) for member in self.members])

    def of_encoded(self, rows: Sequence[Tensor]) -> Tensor:
        """Values (m, C) at rows that are encoded for each member."""
        return sum_of(self.weights, [member.of_encoded(z) for member, z in zip(self.members, rows, strict=True)])


def blended(selection: Selection, targets: Tensor, weights: Tensor | None, most: int) -> Selection:
    """The selection with up to ``most`` members, where together they predict held-out rows better than the best alone.

    Parameters
    ----------
    selection : Selection
        With one member, and its runners-up.
    targets : Tensor of shape (m, C)
        Of the held-out rows, split after split.
    weights : Tensor of shape (m,) or None
    most : int
        Members, at most.
    """
    everyone = (*selection.members, *selection.runners_up)
    values = [torch.cat([found for _, found in member.held_out]) for member in everyone]
    shares = greedy_weights(values, targets, weights, most)
    order = sorted((place for place, share in enumerate(shares) if share), key=lambda place: -shares[place])
    members = tuple(replace(everyone[place], weight=shares[place]) for place in order)
    return replace(selection, members=members, runners_up=())


def greedy_weights(values: list[Tensor], targets: Tensor, weights: Tensor | None, most: int) -> list[float]:
    """Weights of predictions (m, C), the best of which comes first: with replacement, the one that helps most is added.

    After every round the average so far is scored; the best average counts. Most weights are 0, all add to 1. Without
    a gain of half a percent in the squared error the first is taken alone.

    References
    ----------
    Caruana, Niculescu-Mizil, Crew, Ksikes (2004). Ensemble selection from libraries of models. ICML.
    """
    total, counts = torch.zeros_like(values[0]), Counter[int]()
    alone = squared_error(targets - values[0], weights)
    best, found = alone * (1 - GAIN), Counter({0: 1})
    for rounds in range(1, ROUNDS + 1):
        allowed = list(counts) if len(counts) == most else list(range(len(values)))
        scores = {place: squared_error(targets - (total + values[place]) / rounds, weights) for place in allowed}
        place = min(scores, key=lambda each: (scores[each], each))
        total += values[place]
        counts[place] += 1
        if scores[place] < best:
            best, found = scores[place], counts.copy()
    return [found[place] / found.total() for place in range(len(values))]
