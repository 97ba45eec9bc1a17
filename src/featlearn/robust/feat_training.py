"""Feature augmented training from the first round to the last: which rounds are accepted, and why there is no other."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._random import generator, seeded_rng
from ..exceptions import DataError, FeatlearnWarning
from .feat_network import xavier
from .feat_rounds import LearnSet, RetainSet, RoundRule, results_of, right_rows, train_round

__all__ = ["TrainedRounds", "train_rounds"]

ALL_ROUNDS = "all rounds"
NO_ERRORS = "no errors left"
BELOW_MARGIN = "set accuracy below the margin"
DIVERGED = "diverged"


@dataclass(frozen=True, eq=False)
class TrainedRounds:
    """What all rounds came to.

    Attributes
    ----------
    featurizer : Module
        After the last accepted round, in evaluation mode.
    heads : list of Linear
        One an accepted round, frozen.
    masks : Tensor of shape (rounds, n), bool
        Which rows every accepted round got right at its end.
    results, history : list of dict
        Rows of ``FeATPretrainer.rounds_``, and ``FeATPretrainer.history_``.
    stop_reason : str
    """

    featurizer: nn.Module
    heads: list[nn.Linear]
    masks: Tensor
    results: list[dict[str, Any]]
    history: list[dict[str, Any]]
    stop_reason: str


def train_rounds(
    featurizer: nn.Module,
    data: tuple[Tensor, Tensor],
    sizes: tuple[int, int],
    rule: RoundRule,
    seed: int,
    *,
    verbose: int = 0,
) -> TrainedRounds:
    """Train in rounds, the featurizer in place.

    Parameters
    ----------
    featurizer : Module
    data : pair of Tensors
        Rows (n, ...) and codes (n,) of their classes.
    sizes : pair of int
        Features d and outputs of a head.
    rule : RoundRule
    seed : int
        Draws heads, rows, and whatever the featurizer draws.
    verbose : int, default=0
        1 shows a progress bar.

    Raises
    ------
    DataError
        The first round diverges.

    Warns
    -----
    FeatlearnWarning
        The first round stays below the margin.
    """
    x, codes = data
    learn = [LearnSet.of("all", torch.arange(len(x), device=x.device), codes)]
    retain: list[RetainSet] = []
    heads: list[nn.Linear] = []
    masks: list[Tensor] = []
    results: list[dict[str, Any]] = []
    history: list[dict[str, Any]] = []
    reason: str | None = None
    for k in range(1, rule.rounds + 1):
        before = copy.deepcopy(featurizer)
        with seeded_rng(seed, "round", k):
            head = xavier(nn.Linear(*sizes, dtype=x.dtype), generator(seed, "head", k)).to(x.device)
            steps = train_round(featurizer, head, data, learn, retain, rule, generator(seed, "rows", k))
            entries = _collected(_shown(steps, k, rule.steps, verbose), k)
        history += entries
        head.requires_grad_(False)
        right = right_rows(featurizer, head, x, codes)
        found = results_of(featurizer, data, right, learn, retain)
        finite = all(math.isfinite(entry["loss"]) for entry in entries) and _is_finite(head) and _is_finite(featurizer)
        reason = _objection(found, finite, rule.margin)
        if k == 1 and reason is not None:
            _tell_of_first(found[0], reason, rule)
        accepted = reason is None or k == 1
        results += [{"round": k, **result, "accepted": accepted} for result in found]
        if not accepted:
            featurizer = before
            break
        heads.append(head)
        masks.append(right)
        wrong = (~right).nonzero()[:, 0]
        if reason is None and len(wrong) == 0:
            reason = NO_ERRORS
        if reason is not None:
            break
        if rule.latest_only:
            learn, retain = learn[:1], []
        learn.append(LearnSet.of(f"wrong after round {k}", wrong, codes))
        retain.append(RetainSet(f"right after round {k}", head, right.nonzero()[:, 0]))
    return TrainedRounds(featurizer.eval(), heads, torch.stack(masks), results, history, reason or ALL_ROUNDS)


def _objection(found: Sequence[dict[str, Any]], finite: bool, margin: float) -> str | None:
    """Why a round should be rejected, if it should."""
    if not finite:
        return DIVERGED
    return BELOW_MARGIN if min(row["gain"] for row in found if row["role"] == "learn") < margin else None


def _collected(steps: Iterable[dict[str, Any]], k: int) -> list[dict[str, Any]]:
    """Entries of the history for all steps of round k, which are taken here."""
    # Numbers are fetched at the end, so that a device need not wait for them in every step.
    return [
        {"round": k, "step": i} | {name: _numbers(value) for name, value in entry.items()}
        for i, entry in enumerate(list(steps), start=1)
    ]


def _shown(steps: Iterator[dict[str, Any]], k: int, count: int, verbose: int) -> Iterable[dict[str, Any]]:
    if not verbose:
        return steps
    from rich.console import Console
    from rich.progress import track

    return track(steps, description=f"Round {k}", total=count, console=Console(stderr=True))


def _tell_of_first(found: dict[str, Any], reason: str, rule: RoundRule) -> None:
    if reason == DIVERGED:
        raise DataError(
            f"Got a loss that is not finite in the first {rule.steps} steps, but expected training to settle. Use a "
            "smaller learning_rate, or bring the columns of X to a common scale."
        )
    warnings.warn(
        f"Got an accuracy of {found['accuracy']:.3f} from the first round where the commonest class gives "
        f"{found['majority']:.3f}, less than stop_margin={rule.margin:g} above it. The round is kept, but hardly "
        "anything was learned: train longer, or with another learning_rate.",
        FeatlearnWarning,
        stacklevel=4,
    )


def _is_finite(module: nn.Module) -> bool:
    return all(bool(weight.isfinite().all()) for weight in module.parameters())


def _numbers(value: Any) -> Any:
    return [float(each) for each in value] if isinstance(value, list) else float(value)
