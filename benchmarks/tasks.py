"""Five tasks to train small networks on: products of inputs, and images of two sets with an MLP and a CNN."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from featlearn.datasets import load_cifar10_jpeg, load_mnist


class Data(NamedTuple):
    """Inputs and targets: to train, to choose, to test."""

    X: Tensor
    y: Tensor
    X_val: Tensor
    y_val: Tensor
    X_test: Tensor
    y_test: Tensor


@dataclass(frozen=True)
class Task:
    """What is learned, by which network, for how long."""

    name: str
    data: Callable[[int], Data]
    net: Callable[[], nn.Sequential]
    steps: int
    batch_size: int
    momentum: float
    every: int  # steps between measurements of the automatic mode
    probes: Any
    classes: int = 10
    kernel: bool = True


def products(seed: int) -> Data:
    """Sum of the products of neighbours among the first five of 32 normal inputs, of variance one."""
    draw = torch.Generator().manual_seed(seed)
    X = torch.randn(512 + 512 + 4000, 32, generator=draw)
    y = (X[:, :5] * X[:, :5].roll(-1, dims=1)).sum(dim=1, keepdim=True) / math.sqrt(5)
    (X, X_val, X_test), (y, y_val, y_test) = X.split((512, 512, 4000)), y.split((512, 512, 4000))
    return Data(X, y, X_val, y_val, X_test, y_test)


@cache
def loaded(load: Callable[..., Any], split: str, n: int) -> Any:
    return load(split, n=n)


def images(load: Callable[..., Any], flat: bool) -> Callable[[int], Data]:
    """2,000 and 2,000 of the first 20,000 training images, 4,000 test images, standardised per channel."""

    def drawn(seed: int) -> Data:
        rows = torch.randperm(20000, generator=torch.Generator().manual_seed(seed))
        train, test = loaded(load, "train", 20000), loaded(load, "test", 4000)
        X, X_test = train.images[rows[:4000]].float() / 255, test.images.float() / 255
        std, mean = torch.std_mean(X[:2000], dim=(0, 2, 3), keepdim=True)
        X, X_test = (X - mean) / std, (X_test - mean) / std
        if flat:
            X, X_test = X.flatten(1), X_test.flatten(1)
        y = train.labels[rows]
        return Data(X[:2000], y[:2000], X[2000:], y[2000:4000], X_test, test.labels)

    return drawn


def mlp(inputs: int, width: int, depth: int, outputs: int, bias: bool) -> nn.Sequential:
    """ReLU network of ``depth`` hidden layers."""
    hidden = pairwise((inputs, *[width] * depth))
    layers = [module for i, o in hidden for module in (nn.Linear(i, o, bias=bias), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(width, outputs, bias=bias))


def cnn(channels: int, size: int) -> nn.Sequential:
    """Three convolutions of stride 2 with 16, 16 and 32 filters, the first 5 x 5; then a linear layer."""
    return nn.Sequential(
        *(nn.Conv2d(channels, 16, 5, stride=2, padding=2), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * math.ceil(size / 8) ** 2, 10)),
    )


IMAGE = {"steps": 320, "batch_size": 64, "momentum": 0.9, "every": 32, "probes": 1}  # ten epochs, measured after each
TASKS = {
    task.name: task
    for task in (
        Task(
            "products of inputs, MLP", products, lambda: mlp(32, 128, 2, 1, bias=False),
            steps=2000, batch_size=512, momentum=0.0, every=100, probes="exact", classes=0,
        ),
        Task("MNIST, MLP", images(load_mnist, True), lambda: mlp(784, 256, 3, 10, True), **IMAGE),
        Task("CIFAR-10 (JPEG), CNN", images(load_cifar10_jpeg, False), lambda: cnn(3, 32), **IMAGE,
             kernel=False),
        Task("MNIST, CNN", images(load_mnist, False), lambda: cnn(1, 28), **IMAGE, kernel=False),
        Task("CIFAR-10 (JPEG), MLP", images(load_cifar10_jpeg, True), lambda: mlp(3072, 256, 3, 10, True), **IMAGE),
    )
}  # fmt: skip


def loss_of(task: Task, outputs: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, y) if task.classes else (outputs - y).square().mean()


@torch.no_grad()
def evaluate(task: Task, net: nn.Module, X: Tensor, y: Tensor) -> tuple[float, float]:
    """Error (share of wrong labels, or mean square) and loss; infinite for a network that has diverged."""
    outputs = torch.cat([net(part) for part in X.split(500)])
    loss = float(loss_of(task, outputs, y))
    error = float((outputs.argmax(1) != y).double().mean()) if task.classes else loss
    return (error, loss) if math.isfinite(loss) else (math.inf, math.inf)
