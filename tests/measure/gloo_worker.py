"""One of two gloo processes: measures its share of the batches in every scenario and saves the reports."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from cases import Conv1D, convnet, fill, integers, mlp, normal
from torch import Tensor, nn

from featlearn import FeatureTracker, measure_features
from featlearn.distributed.reduce import rank_and_world

cross_entropy = nn.functional.cross_entropy


class Switch(nn.Module):
    """Batches of positive first feature take the left branch, others the right one."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.head(torch.tanh((self.left if x[0, 0] > 0 else self.right)(x))))


def vectors(sizes: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Batches of these sizes, with labels; the first feature changes sign from batch to batch."""
    X, y = normal(sum(sizes), 5), integers(3, sum(sizes))
    batches = list(zip(X.split(sizes), y.split(sizes), strict=True))
    for i, (x, _) in enumerate(batches):
        x[:, 0] = (-1.0) ** i * x[:, 0].abs()
    return batches


def images() -> list[Tensor]:
    return list(normal(22, 2, 7, 6).split(4))


def transposed() -> nn.Module:
    """Weights stored as (inputs, outputs), whose gradients are views that do not lie in one piece."""
    return nn.Sequential(Conv1D(6, 5), nn.Tanh(), Conv1D(3, 6), nn.Tanh())


# name: model, all batches in their global order, options
SCENARIOS: dict[str, tuple[Callable[[], nn.Module], Callable[[], list[Any]], dict[str, Any]]] = {
    "exact": (mlp, lambda: vectors([4] * 6), {}),
    "uneven": (mlp, lambda: vectors([4, 4, 4, 4, 4]), {}),
    "uneven sizes": (mlp, lambda: vectors([4, 2, 5, 3, 4, 1, 6]), {"power": 0.5}),
    "many batches": (mlp, lambda: vectors([3] * 13), {"statistic": "cosine"}),
    "convolutions": (convnet, images, {}),
    "probes": (mlp, lambda: vectors([4] * 5), {"probes": 3}),
    "one probe": (mlp, lambda: vectors([4] * 5), {"probes": 1}),
    "loss": (mlp, lambda: vectors([4, 2, 5, 3, 4]), {"loss": cross_entropy}),
    "loss of transposed weights": (transposed, lambda: vectors([4] * 4), {"loss": cross_entropy}),
    "loss of branches": (Switch, lambda: vectors([4] * 4), {"loss": cross_entropy}),
    "branches": (Switch, lambda: vectors([4] * 5), {}),
    "reference": (mlp, lambda: vectors([4] * 5), {"reference": {"0.weight": 0.5, "2.weight": 0.1, "4.weight": -0.2}}),
}  # fmt: skip


def run(name: str, group: Any = None, stream: bool = False) -> dict[str, Any]:
    build, batches, options = SCENARIOS[name]
    rank, world = rank_and_world(group)
    model, own = fill(build()), batches()[rank::world]
    if "reference" in options:
        state = model.state_dict()
        options = options | {"reference": {key: state[key] + shift for key, shift in options["reference"].items()}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few samples: not what is tested here
        report = measure_features(model, iter(own) if stream else own, group=group, **options)
    return report.to_dict(matrices=True)


def track(group: Any = None) -> list[dict[str, Any]]:
    rank, world = rank_and_world(group)
    model = fill(mlp())
    tracker = FeatureTracker(model, vectors([4] * 5)[rank::world], every=1, probes=2, group=group)
    with torch.no_grad():
        model[0].weight.mul_(1.1)
    tracker.step()
    return [report.to_dict() for _, report in tracker.history]


def main(rank: int, folder: Path) -> None:
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    group = dist.group.WORLD
    results: dict[str, Any] = {name: run(name, group) for name in SCENARIOS}
    results["stream"] = run("uneven", group, stream=True)
    results["track"] = track(group)
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
