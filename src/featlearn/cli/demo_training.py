"""How the networks of ``featlearn demo`` start and are trained."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._random import generator

__all__ = ["Recipe", "seeded", "train"]


@dataclass(frozen=True)
class Recipe:
    """SGD. Weight decay and a small start are what lets the features, not the scale, do the learning."""

    seed: int = 0
    epochs: int = 8
    batch_size: int = 32
    learning_rate: float = 0.02
    weight_decay: float = 2e-3

    def steps_for(self, images: int) -> int:
        """Optimiser steps of the whole training."""
        return self.epochs * math.ceil(images / self.batch_size)


def seeded(net: nn.Module, seed: int) -> nn.Module:
    """Draw the weights as PyTorch does, but from ``seed``; biases start at zero."""
    for name, parameter in net.named_parameters():
        if parameter.ndim > 1:
            stream = generator(seed, "demo", name)
            nn.init.kaiming_uniform_(parameter, a=math.sqrt(5), generator=stream)  # the default of PyTorch
        else:
            nn.init.zeros_(parameter)
    return net


def train(net: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe) -> Iterator[int]:
    """SGD with momentum 0.9 and a cosine learning rate; yields the number of steps done after each of them."""
    shuffles = generator(recipe.seed, "demo", "order")
    optimizer = torch.optim.SGD(
        net.parameters(), lr=recipe.learning_rate, momentum=0.9, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps_for(len(images)))
    done = 0
    for _ in range(recipe.epochs):
        for rows in torch.randperm(len(images), generator=shuffles).split(recipe.batch_size):
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()
            done += 1
            yield done
