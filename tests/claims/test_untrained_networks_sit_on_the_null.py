"""Networks at random initialisation sit on the chance level: |cosine - null| <= 0.03, five seeds, k >= 16.

A random weight and a random kernel already correlate, by as much as the null says: a high raw value proves nothing.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from featlearn import measure_features
from featlearn._random import preserved_rng
from featlearn.datasets import CIFAR_MEAN, CIFAR_STD, CifarResNet, load_cifar10_jpeg, load_fashion_mnist

SEEDS = range(5)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_seed(build, seed: int) -> nn.Module:
    """Torch's own initialisation, without touching the global generator of the other tests."""
    with preserved_rng():
        torch.manual_seed(seed)
        return build()


def mlp(inputs: int, *widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 10))


def convnet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def transformer() -> nn.Sequential:
    layer = nn.TransformerEncoderLayer(32, 4, dim_feedforward=64, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(8 * 32, 10))


def images() -> list[torch.Tensor]:
    return [x for x, _ in load_fashion_mnist("test", n=200).batches(20, mean=0.286, std=0.353)]


KINDS = {
    "narrow mlp": (lambda: mlp(20, 64, 64), lambda: list(normal(200, 20).split(20))),
    "mlp on images": (lambda: nn.Sequential(nn.Flatten(), *mlp(784, 256, 128, 64)), images),
    "funnel": (lambda: mlp(256, 16, 200), lambda: list(normal(200, 256).split(20))),
    "convnet": (convnet, images),
    "transformer": (transformer, lambda: list(normal(200, 8, 32).split(20))),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_cosine_of_random_networks_is_the_null(kind: str) -> None:
    build, batches = KINDS[kind]
    found = []
    for seed in SEEDS:
        report = measure_features(with_seed(build, seed), batches(), statistic="cosine")
        found += [layer for layer in report.layers.values() if not layer.trivial and layer.k >= 16]
    apart = np.array([layer.nfa - layer.nfa_null for layer in found])
    assert len(found) >= 2 * len(SEEDS)
    assert abs(apart).max() <= 0.03
    assert max(layer.nfa for layer in found) > 0.3  # raw values are far from zero all the same


@pytest.mark.slow
def test_cosine_of_random_resnets_is_the_null(data_folder) -> None:
    data = load_cifar10_jpeg("test", n=100, folder=data_folder / "cifar10_jpeg").batches(
        10, mean=CIFAR_MEAN, std=CIFAR_STD
    )
    report = measure_features(CifarResNet(20, random_state=0), data, statistic="cosine")
    convolutions = [layer for layer in report.layers.values() if layer.patch_shape]
    assert len(convolutions) == 19
    assert max(abs(layer.nfa - layer.nfa_null) for layer in convolutions) <= 0.03
