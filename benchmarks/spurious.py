"""Networks trained on data with a spurious attribute, by ERM and by what uses group labels while training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featlearn.datasets import Split
from featlearn.robust.groups import balance_groups
from featlearn.robust.penalties import group_shares

__all__ = ["EPOCHS", "GROUP_STEP", "TRAININGS", "batches", "cnn", "mean_and_error", "predicted", "state_of", "train"]

TRAININGS = ("ERM", "reweighting", "subsampling", "group DRO")
EPOCHS, BATCH, RATE = 10, 64, 1e-3
GROUP_STEP = 0.01  # eta of group DRO on mini-batches


def cnn(shape: Sequence[int], seed: int, width: int = 64, outputs: int = 2) -> nn.Sequential:
    """Two convolutions (5 x 5, stride 2) with 8 and 16 filters, a layer of ``width`` ReLUs, logits."""
    channels, height, across = shape
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            *(nn.Conv2d(channels, 8, 5, stride=2, padding=2), nn.ReLU()),
            *(nn.Conv2d(8, 16, 5, stride=2, padding=2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(16 * (height // 4) * (across // 4), width), nn.ReLU()),
            nn.Linear(width, outputs),
        )


def train(net: nn.Module, split: Split, how: str, seed: int, *, epochs: int = EPOCHS) -> Iterator[int]:
    """Adam on mini-batches, in place; yields the number of every epoch that is done.

    An epoch has as many steps for every method: those of one pass over ``split``. "reweighting" draws rows in inverse
    proportion to the size of their group, "subsampling" sees as many rows of each group as the smallest has, "group
    DRO" draws as reweighting does and weighs the groups' losses by shares that follow them.
    """
    X, y, groups = (torch.from_numpy(part) for part in (split.X, split.y, split.groups))
    draw = torch.Generator().manual_seed(seed)
    kept = torch.arange(len(X))
    if how == "subsampling":
        kept = torch.from_numpy(balance_groups(split.groups, "subsample", random_state=seed))
    even = how in ("reweighting", "group DRO")
    weights = torch.from_numpy(balance_groups(split.groups, "reweight")) if even else None
    count = int(groups.max()) + 1
    shares = torch.full((count,), 1 / count)
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    for epoch in range(1, epochs + 1):
        for rows in _epoch(kept, len(X), weights, draw):
            losses = nn.functional.cross_entropy(net(X[rows]), y[rows], reduction="none")
            loss = losses.mean()
            if how == "group DRO":
                member = nn.functional.one_hot(groups[rows], count).to(losses)
                of_group = (losses @ member) / member.sum(dim=0).clamp(min=1)
                shares = group_shares(shares, of_group.detach(), GROUP_STEP)
                loss = shares @ of_group
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        yield epoch


def _epoch(kept: Tensor, n: int, weights: Tensor | None, draw: torch.Generator) -> Sequence[Tensor]:
    """Mini-batches of row numbers, ``n`` rows in all: passes over ``kept``, or draws by weight."""
    if weights is not None:
        return torch.multinomial(weights, n, replacement=True, generator=draw).split(BATCH)
    passes = [kept[torch.randperm(len(kept), generator=draw)] for _ in range(-(-n // len(kept)))]
    return torch.cat(passes)[:n].split(BATCH)


def batches(split: Split) -> list[tuple[Tensor, NDArray[Any], NDArray[Any]]]:
    """(x, y, s) in batches of 500, in order."""
    X = torch.from_numpy(split.X)
    return [
        (X[rows], split.y[rows], split.s[rows]) for rows in (slice(at, at + 500) for at in range(0, len(split), 500))
    ]


@torch.no_grad()
def predicted(net: nn.Module, X: NDArray[np.float32]) -> NDArray[np.int64]:
    """Labels (n,)."""
    return torch.cat([net(part).argmax(dim=1) for part in torch.from_numpy(X).split(500)]).numpy()


def state_of(net: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights."""
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}


def mean_and_error(values: Sequence[float]) -> dict[str, float]:
    """Mean over seeds and its standard error."""
    found = np.asarray(values, dtype=float)
    return {"mean": float(found.mean()), "standard_error": float(found.std(ddof=1) / len(found) ** 0.5)}
