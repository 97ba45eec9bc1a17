"""One of two gloo processes: trains under SLO with half of every batch, or with pieces of every weight."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from cases import fill, integers, normal
from torch import Tensor, nn

from featlearn import SLO, FeatureTracker, SpeedUpSlowest, slo_groups
from featlearn.exceptions import DataError

STEPS = 5

# name: base optimiser, options of SLO
RULES: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    "gradient": (torch.optim.SGD, {"eps": 0.1}),
    "update": (torch.optim.AdamW, {"exponent": 0.7}),
    "relative": (torch.optim.SGD, {"relative": True, "exponent": 1.5}),
}


def network() -> nn.Module:
    return fill(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4)))


def train(model: nn.Module, rule: str, rank: int = 0, world: int = 1) -> SLO:
    """The mean over processes of the mean over their samples is the mean over all."""
    base, options = RULES[rule]
    optimizer = SLO(base(slo_groups(model, "2", constant=3.0), lr=0.02, weight_decay=0.1), **options)
    for step in range(STEPS):
        x, y = normal(12, 5, seed=step + 1)[rank::world], integers(4, 12, seed=step)[rank::world]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return optimizer


def replicated(rule: str, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
    """Weights after training: with DistributedDataParallel if there are two processes."""
    model = network()
    train(nn.parallel.DistributedDataParallel(model) if world > 1 else model, rule, rank, world)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def sharded(rule: str) -> dict[str, Tensor]:
    """Weights after training on whole batches, every weight in two pieces (``fully_shard``)."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import init_device_mesh

    model = network()
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    train(model, rule)
    return {name: parameter.detach().full_tensor() for name, parameter in model.named_parameters()}  # type: ignore[attr-defined]


def flattened() -> str:
    """What SLO says to parameters that FullyShardedDataParallel has flattened."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = FullyShardedDataParallel(network(), device_id=torch.device("cpu"), use_orig_params=True)
    try:
        SLO(torch.optim.SGD(model.parameters(), lr=0.1))
    except DataError as error:
        return str(error)
    return "not refused"


def automatic(rank: int = 0, world: int = 1, group: Any = None) -> dict[str, Any]:
    """Speeds that follow a tracker: the same on both processes, for its report is."""
    model = network()
    batches = list(normal(40, 5).split(5))[rank::world]
    optimizer = SLO(torch.optim.SGD(slo_groups(model, "0"), lr=0.01))
    auto = SpeedUpSlowest(optimizer, model, FeatureTracker(model, batches, every=1, group=group))
    for step in range(2):
        optimizer.zero_grad()
        model(normal(6, 5, seed=step)).square().mean().backward()
        optimizer.step()
        auto.step()
    return {"history": auto.history, "speeds": [entry.get("speed") for entry in optimizer.param_groups]}


def main(rank: int, folder: Path) -> None:
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    results: dict[str, Any] = {
        "replicated": {rule: replicated(rule, rank, 2) for rule in RULES},
        "sharded": {rule: sharded(rule) for rule in RULES},
        "automatic": automatic(rank, 2, dist.group.WORLD),
    }
    results["flattened"] = flattened()
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
