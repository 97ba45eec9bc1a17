"""A small ReLU student whose first layer is the fast one changes more of its activation pattern over a shorter way.

Published (abstract of arXiv 2406.06158): in nonlinear networks upstream initialisation can accelerate feature learning.
The task is this package's: 20 ReLU units in pairs of opposite sign (the output starts at zero), a teacher of 3, 200
points on the sphere in 20 dimensions, trained to zero loss. Above delta = .3 the pattern change saturates, so only up
to there is it asked to rise in every seed. The test loss is not monotone in delta and no part of the claim.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featlearn.training.balance import layer_balance

DELTAS = (-1.0, -0.3, 0.0, 0.3, 1.0)
SEEDS = 3
TAU, DIMENSIONS, UNITS, POINTS, STEPS = 0.1, 20, 20, 200, 6000


def directions(rows: int, generator: torch.Generator) -> Tensor:
    return nn.functional.normalize(torch.randn(rows, DIMENSIONS, generator=generator), dim=1)


def task(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points, targets, and the directions of one half of the student's units."""
    generator = torch.Generator().manual_seed(seed)
    x, teacher = directions(POINTS, generator), directions(3, generator)
    signs = torch.randn(3, 1, generator=generator).sign()
    return x, (x @ teacher.T).relu() @ signs, directions(UNITS // 2, generator)


def student(half: Tensor, delta: float) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(DIMENSIONS, UNITS, bias=False), nn.ReLU(), nn.Linear(UNITS, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(TAU * torch.cat([half, half]))
        net[2].weight.copy_(TAU * torch.tensor([1.0, -1.0]).repeat_interleave(UNITS // 2))
    layer_balance(net, math.asinh(delta / (2 * TAU**2)) / 2)
    found = net[2].weight[0].square() - net[0].weight.square().sum(dim=1)
    torch.testing.assert_close(found, torch.full((UNITS,), delta), rtol=1e-4, atol=1e-6)
    return net


@pytest.fixture(scope="module")
def measures() -> dict[str, np.ndarray]:
    """All students at once, gradients written out: (seeds, deltas) of each measure."""
    runs = [(*task(seed)[:2], student(task(seed)[2], delta)) for seed in range(SEEDS) for delta in DELTAS]
    x, y = torch.stack([run[0] for run in runs]), torch.stack([run[1] for run in runs])
    w = torch.stack([run[2][0].weight.detach() for run in runs])
    a = torch.stack([run[2][2].weight.detach().T for run in runs])
    start = w, a
    rate = 0.02 / TAU**2
    for _ in range(STEPS):
        h = x @ w.mT
        error = (h.relu() @ a - y) / POINTS  # of half the mean square
        w, a = w - rate * ((error @ a.mT) * (h > 0)).mT @ x, a - rate * h.relu().mT @ error
    pattern = ((x @ w.mT > 0) != (x @ start[0].mT > 0)).float().mean(dim=(1, 2))
    way = ((w - start[0]).square().sum(dim=(1, 2)) + (a - start[1]).square().sum(dim=(1, 2))).sqrt()
    loss = ((x @ w.mT).relu() @ a - y).square().mean(dim=(1, 2))
    found = {"pattern": pattern, "way": way, "loss": loss, "scale": y.square().mean(dim=(1, 2))}
    return {key: value.reshape(SEEDS, len(DELTAS)).numpy() for key, value in found.items()}


def test_all_students_fit(measures):
    assert (measures["loss"] < 1e-3 * measures["scale"]).all()


def test_pattern_change_rises_with_delta_until_it_saturates(measures):
    pattern = measures["pattern"]
    assert (np.diff(pattern[:, :4], axis=1) > 0).all()
    assert pattern[:, 4].mean() > pattern[:, 3].mean() - 0.03
    assert (pattern[:, 4] > 1.5 * pattern[:, 1]).all()


def test_parameter_distance_falls_with_delta(measures):
    assert (np.diff(measures["way"], axis=1) < 0).all()
