"""One round of feature augmented training: what it minimises, over which rows, and what it has reached."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .feat_network import features_in_chunks, features_of, logits_of, predicted
from .penalties import point_losses

__all__ = ["LearnSet", "Loss", "RetainSet", "RoundRule", "point_mean", "results_of", "right_rows", "train_round"]

Loss = Callable[[Tensor, Tensor], Tensor]  # (logits, codes) -> mean loss


@dataclass(frozen=True, eq=False)
class LearnSet:
    """Rows that the new head of a round must classify, all by itself.

    Attributes
    ----------
    name : str
        "all", or "wrong after round k".
    rows : Tensor of shape (m,), int64
    majority : float
        Share of the commonest class among them, the accuracy of a constant.
    """

    name: str
    rows: Tensor
    majority: float

    @classmethod
    def of(cls, name: str, rows: Tensor, codes: Tensor) -> LearnSet:
        """With the majority of the codes at these rows."""
        return cls(name, rows, float(codes[rows].bincount().max()) / len(rows))


@dataclass(frozen=True, eq=False)
class RetainSet:
    """Rows that the frozen head of an earlier round classified, and shall go on classifying."""

    name: str
    head: nn.Linear
    rows: Tensor


@dataclass(frozen=True)
class RoundRule:
    """Constants of rounds: the parameters of :class:`~featlearn.robust.feat.FeATPretrainer`, checked."""

    rounds: int
    steps: int
    margin: float
    latest_only: bool
    retain_weight: float
    alpha: float
    learning_rate: float
    batch_size: int | None
    loss: Loss


def train_round(
    featurizer: nn.Module,
    head: nn.Linear,
    data: tuple[Tensor, Tensor],
    learn: Sequence[LearnSet],
    retain: Sequence[RetainSet],
    rule: RoundRule,
    draws: torch.Generator,
) -> Iterator[dict[str, Any]]:
    r"""Train featurizer and new head in place, one step of Adam for every entry that is taken.

    .. math:: \max_{D \in A} L_D(w \circ \phi) + \frac{\lambda}{|R|} \sum_{(w_i, D) \in R} L_D(w_i \circ \phi)
              + \alpha \, (\|\phi\|^2 + \|w\|^2)

    Parameters
    ----------
    featurizer, head
        Trained; parameters that require no gradient stay.
    data : pair of Tensors
        Rows (n, ...) and codes (n,) of their classes.
    learn, retain
        A and R; ``learn`` holds at least one set.
    rule : RoundRule
    draws : Generator
        Rows of mini-batches: ``batch_size`` from each set, with replacement.

    Yields
    ------
    dict
        "loss", "set_losses", "set_accuracies", "retention_losses", "retention_accuracies" before the step, as tensors.

    Notes
    -----
    A step is one forward and one backward pass of the rows of all sets together. With full batches every row passes
    once, however many sets it is in.
    """
    x, codes = data
    trained = [weight for weight in (*featurizer.parameters(), *head.parameters()) if weight.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=rule.learning_rate)
    sets = [*(one.rows for one in learn), *(old.rows for old in retain)]
    featurizer.train()
    for _ in range(rule.steps):
        if rule.batch_size is None:
            features, places = features_of(featurizer, x), sets
            labels = codes
        else:
            drawn = [rows[_draw(len(rows), rule.batch_size, draws).to(rows.device)] for rows in sets]
            features, labels = features_of(featurizer, x[torch.cat(drawn)]), codes[torch.cat(drawn)]
            places = list(torch.arange(len(labels), device=x.device).split(rule.batch_size))
        losses, accuracies = [], []
        # Rows are picked among the logits: picked among the features, a step would take a third longer.
        outputs = [logits_of(head, features)] * len(learn) + [logits_of(old.head, features) for old in retain]
        for rows, output in zip(places, outputs, strict=True):
            logits = output[rows]
            losses.append(rule.loss(logits, labels[rows]))
            accuracies.append((predicted(logits.detach()) == labels[rows]).double().mean())
        count = len(learn)
        objective = torch.stack(losses[:count]).max() + rule.alpha * sum(weight.square().sum() for weight in trained)
        if retain:
            objective = objective + rule.retain_weight * torch.stack(losses[count:]).mean()
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
        found = [loss.detach() for loss in losses]
        yield {
            "loss": objective.detach(),
            "set_losses": found[:count],
            "set_accuracies": accuracies[:count],
            "retention_losses": found[count:],
            "retention_accuracies": accuracies[count:],
        }


def _draw(n: int, size: int, draws: torch.Generator) -> Tensor:
    return torch.randint(n, (size,), generator=draws)


def point_mean(logits: Tensor, codes: Tensor) -> Tensor:
    """Mean logistic loss, in nats."""
    return point_losses(logits, codes).mean()


def right_rows(featurizer: nn.Module, head: nn.Linear, x: Tensor, codes: Tensor) -> Tensor:
    """Which rows (n,) a head gets right, in evaluation mode."""
    return predicted(logits_of(head, features_in_chunks(featurizer, x))) == codes


def results_of(
    featurizer: nn.Module,
    data: tuple[Tensor, Tensor],
    right: Tensor,
    learn: Sequence[LearnSet],
    retain: Sequence[RetainSet],
) -> list[dict[str, Any]]:
    """What a round has reached on every set, in plain values.

    Parameters
    ----------
    featurizer : Module
    data : pair of Tensors
        Rows (n, ...) and codes (n,).
    right : Tensor of shape (n,), bool
        :func:`right_rows` of the round's head.
    learn, retain
        The sets of the round.

    Returns
    -------
    list of dict
        role, set, n, accuracy, majority, gain; sets to learn first. Sets to retain have no majority and no gain (nan).
    """
    x, codes = data
    found = []
    for one in learn:
        accuracy = float(right[one.rows].double().mean())
        found.append(_result("learn", one.name, len(one.rows), accuracy, one.majority))
    for old in retain:
        still = right_rows(featurizer, old.head, x[old.rows], codes[old.rows])
        found.append(_result("retain", old.name, len(old.rows), float(still.double().mean()), math.nan))
    return found


def _result(role: str, name: str, n: int, accuracy: float, majority: float) -> dict[str, Any]:
    gain = accuracy - majority
    return {"role": role, "set": name, "n": n, "accuracy": accuracy, "majority": majority, "gain": gain}
