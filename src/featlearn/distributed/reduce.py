"""Reductions over a torch.distributed group that the caller made; without one, nothing is communicated."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["all_gather", "all_reduce_max", "all_reduce_sum", "broadcast_from_first", "rank_and_world"]

T = TypeVar("T")


def rank_and_world(group: Any) -> tuple[int, int]:
    """Rank in the group and its size; (0, 1) without a group."""
    if group is None:
        return 0, 1
    return torch.distributed.get_rank(group), torch.distributed.get_world_size(group)


def all_reduce_sum(tensor: Tensor, group: Any) -> None:
    """Sum ``tensor`` over the group, in place."""
    if group is not None:
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.SUM, group=group)


def all_reduce_max(value: float, group: Any) -> float:
    """Largest value over the group."""
    if group is None:
        return value
    tensor = torch.tensor(value, dtype=torch.float64)
    torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX, group=group)
    return float(tensor)


def all_gather(value: T, group: Any) -> list[T]:
    """The values of all ranks, in rank order."""
    if group is None:
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(values, value, group=group)
    return values


def broadcast_from_first(value: T, group: Any) -> T:
    """The first rank's value, on every rank."""
    if group is None:
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=torch.distributed.get_global_rank(group, 0), group=group)
    return box[0]
