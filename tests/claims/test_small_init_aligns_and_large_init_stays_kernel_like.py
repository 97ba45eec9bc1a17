"""A small start turns and grows the layers of a ReLU network; a large one, or a large output scale, leaves them alone.

Published (abstract of arXiv 2401.07085): the mechanisms of a solvable model are seen in deep nonlinear networks. Task
and thresholds are this package's: 20-64-64-2 ReLU networks, three teachers, 1000 full-batch steps, all fitted.
"""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from featlearn.dynamics.layer_mechanisms import LayerMechanisms, layer_mechanisms

pytestmark = pytest.mark.slow

# Factor of the initial weights (of He's), factor of the outputs, rate. The last two are trained as alpha (f - f_0).
STARTS = {"small": (0.15, 1.0, 0.2), "large": (2.0, 1.0, 8e-4), "lazy": (2**-0.5, 10.0, 5e-4)}
SEEDS = (0, 1)


def network(factor: float, seed: int) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    with torch.no_grad():
        for layer in net[::2]:
            std = factor * math.sqrt(2 / layer.in_features)
            layer.weight.copy_(std * torch.randn(layer.weight.shape, generator=generator))
            layer.bias.zero_()
    return net


def trained(start: str, seed: int) -> tuple[LayerMechanisms, float]:
    factor, alpha, rate = STARTS[start]
    generator = torch.Generator().manual_seed(100 + seed)
    x, teachers = torch.randn(200, 20, generator=generator), torch.randn(3, 20, generator=generator) / 20**0.5
    h = (x @ teachers.T).relu()
    y = torch.stack([h[:, 0] - h[:, 1], h[:, 2] - h[:, 1]], dim=1)
    net = network(factor, seed)
    before, parameters = copy.deepcopy(net), list(net.parameters())
    with torch.no_grad():
        offset = 0 if start == "small" else before(x)
    for _ in range(1000):
        loss = (alpha * (net(x) - offset) - y).square().sum(dim=1).mean()
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(rate * gradient)
    return layer_mechanisms(net, before=before), float(loss.detach() / y.square().sum(dim=1).mean())


@pytest.fixture(scope="module")
def runs():
    return {(start, seed): trained(start, seed) for start in STARTS for seed in SEEDS}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("start", STARTS)
def test_all_networks_fit(runs, start, seed):
    assert runs[start, seed][1] < 0.02


@pytest.mark.parametrize("seed", SEEDS)
def test_a_small_start_is_aligned_and_rescaled_in_both_pairs(runs, seed):
    for pair in runs["small", seed][0].pairs:
        assert pair.labels == ("alignment", "rescaling")
        assert pair.rotation > 0.2
        assert pair.cosine[-1] > 0.75 * pair.largest[-1]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("start", ["large", "lazy"])
def test_a_large_start_and_a_large_output_scale_stay_kernel_like(runs, start, seed):
    for pair in runs[start, seed][0].pairs:
        assert pair.labels == ("kernel-like",)
        assert abs(pair.score) < 0.15
        assert abs(pair.rescaling) < 0.12


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("start", STARTS)
def test_three_terms_add_up(runs, start, seed):
    for pair in runs[start, seed][0].pairs:
        assert abs(pair.rotation + pair.concentration + pair.rescaling - pair.total) < 1e-12
