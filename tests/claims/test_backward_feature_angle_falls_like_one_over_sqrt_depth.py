"""The angle between features and their gradients at random initialisation closes with depth, unless branches shrink.

Published (arXiv 2311.18718): the cosine is of order 1/sqrt(l) in random ReLU networks and of order 1 in residual ones
with branches of order 1/sqrt(L). The values of ``bfa_theory`` are this package's, for infinite width.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featlearn.agop.feature_speed import bfa_theory, feature_speed

WIDTH = 400


class Block(nn.Module):
    def __init__(self, linear: nn.Linear, beta: float) -> None:
        super().__init__()
        self.linear, self.beta = linear, beta

    def forward(self, x: Tensor) -> Tensor:
        return x + self.beta * self.linear(torch.relu(x))


def linear(outputs: int, variance: float, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(WIDTH, outputs, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(outputs, WIDTH, generator=generator) * (variance / WIDTH) ** 0.5)
    return layer


def measured(layers: list[nn.Module], names: list[str], generator: torch.Generator) -> list[float]:
    """Cosines under gradient descent at one rate; the loss is the output of a random readout at one input."""
    x = torch.randn(1, WIDTH, generator=generator)
    x *= WIDTH**0.5 / x.norm()
    net = nn.Sequential(*layers, linear(1, 1.0, generator))
    speed = feature_speed(net, lambda outputs, _: outputs.mean(), x, layers=names, finite=False)
    assert all(layer.is_cut for layer in speed.layers.values())
    return [layer.cos_theta for layer in speed.layers.values()]


def random_mlp(depth: int, relu: bool, seed: int) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = [linear(WIDTH, 1.0, generator)]
    for _ in range(depth - 1):
        layers += [nn.ReLU(), linear(WIDTH, 2.0, generator)] if relu else [linear(WIDTH, 1.0, generator)]
    return measured(layers, [str(i) for i, layer in enumerate(layers) if isinstance(layer, nn.Linear)], generator)


def random_resnet(depth: int, beta: float, seed: int) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = [Block(linear(WIDTH, 2.0, generator), beta) for _ in range(depth)]
    return measured(layers, [str(i) for i in range(depth)], generator)


@pytest.mark.parametrize("kind", ["relu", "linear"])
def test_angle_of_random_networks_is_that_of_the_formula(kind):
    cosines = np.mean([random_mlp(12, kind == "relu", seed) for seed in range(16)], axis=0)
    np.testing.assert_allclose(cosines, bfa_theory(kind, 12), atol=0.02)  # one seed scatters by 0.04


def test_cosine_falls_like_one_over_sqrt_depth_in_relu_networks():
    cosines = np.mean([random_mlp(24, True, seed) for seed in range(8)], axis=0)
    depth = np.arange(1, 25)
    scaled = (cosines * depth**0.5)[3:]
    assert scaled.min() > 1.0
    assert scaled.max() < 1.4
    assert np.polyfit(np.log(depth[3:]), np.log(cosines[3:]), 1)[0] == pytest.approx(-0.5, abs=0.1)


@pytest.mark.parametrize(("kind", "limit"), [("linear", 3.0), ("relu", 1.5)])
def test_formula_approaches_its_limit_over_sqrt_depth(kind, limit):
    cosines = bfa_theory(kind, 4096, weights=[1.0] * 4096)
    assert cosines[-1] * 4096**0.5 == pytest.approx(limit**0.5, rel=1e-3)


@pytest.mark.parametrize("strength", [0.25, 0.5, 1.0])
def test_angle_of_random_residual_networks_is_that_of_the_formula(strength):
    beta = strength / 32**0.5
    cosines = np.mean([random_resnet(32, beta, seed) for seed in range(6)], axis=0)
    np.testing.assert_allclose(cosines, bfa_theory("resnet", 32, beta=beta), atol=0.03)


def test_cosine_stays_with_depth_when_branches_shrink_like_one_over_sqrt_depth():
    last = {depth: np.mean([random_resnet(depth, depth**-0.5, s)[-1] for s in range(6)]) for depth in (8, 16, 32, 64)}
    assert max(last.values()) - min(last.values()) < 0.06
    # Branches of constant size close the angle instead.
    assert np.mean([random_resnet(32, 1.0, seed)[-1] for seed in range(3)]) < 0.6 * last[32]
