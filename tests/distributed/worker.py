"""One of two gloo processes: runs every scenario on its share of the batches and saves what it got."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from cases import convnet, fill, mlp, normal
from torch import Tensor, nn

from featlearn import agop_of_module, measure_features
from featlearn.distributed.reduce import (
    all_gather,
    all_reduce_max,
    all_reduce_sum,
    broadcast_from_first,
    rank_and_world,
)


class Switch(nn.Module):
    """Batches of positive first feature take the left branch, others the right one."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.head(torch.tanh((self.left if x[0, 0] > 0 else self.right)(x))))


def signed(sign: float, n: int, seed: int) -> Tensor:
    X = normal(n, 5, seed=seed)
    X[:, 0] = sign * X[:, 0].abs()
    return X


def images() -> list[Tensor]:
    return list(normal(23, 2, 7, 6).split(4))


# name: model, all batches in their global order, options
SCENARIOS: dict[str, tuple[Callable[[], nn.Module], Callable[[], list[Tensor]], dict[str, Any]]] = {
    "exact": (convnet, images, {}),
    "probes": (convnet, images, {"probes": 3, "random_state": 5}),
    "one probe": (convnet, images, {"probes": 1}),
    "auto": (convnet, images, {"probes": "auto"}),
    "lengths": (mlp, lambda: [normal(3, 2 + i, 5, seed=i) for i in range(4)], {}),
    "branches": (Switch, lambda: [signed((-1.0) ** i, 2 + i, i) for i in range(4)], {}),
    "wide": (
        lambda: nn.Sequential(nn.Linear(5, 1100), nn.Tanh(), nn.Linear(1100, 3), nn.Tanh()),
        lambda: list(normal(8, 5).split(2)),
        {},
    ),
}


def run(name: str, group: Any = None) -> dict[str, Any]:
    build, batches, options = SCENARIOS[name]
    rank, world = rank_and_world(group)
    found = agop_of_module(fill(build()), batches()[rank::world], group=group, **options)
    return {layer: (a.agop(), a.n_samples, a.isotropic) for layer, a in found.items()}


def report(group: Any = None) -> dict[str, Any]:
    """A report without what differs between machines and moments."""
    rank, world = rank_and_world(group)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few samples: not what is tested here
        found = measure_features(fill(convnet()), images()[rank::world], probes=4, group=group)
    return found.to_dict()["layers"]


def primitives(group: Any) -> dict[str, Any]:
    rank, world = rank_and_world(group)
    total = torch.arange(3.0) * (rank + 1)
    all_reduce_sum(total, group)
    return {
        "rank": (rank, world),
        "sum": total,
        "max": all_reduce_max(10.0 - rank, group),
        "gathered": all_gather({"rank": rank}, group),
        "first": broadcast_from_first(f"from {rank}", group),
    }


def main(rank: int, folder: Path) -> None:
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    group = dist.group.WORLD
    results = {name: run(name, group) for name in SCENARIOS}
    results["report"] = report(group)
    results["primitives"] = primitives(group)
    wrapped = nn.parallel.DistributedDataParallel(fill(convnet()))
    found = agop_of_module(wrapped, images()[rank::2], group=group)
    results["wrapped"] = {layer: (a.agop(), a.n_samples, a.isotropic) for layer, a in found.items()}
    alone = [dist.new_group([member]) for member in range(2)][rank]
    results["alone"] = run("exact", alone)
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
