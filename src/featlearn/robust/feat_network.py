"""The network of feature augmented training: a featurizer of rows, and linear heads on it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..exceptions import ModelError

__all__ = ["default_featurizer", "features_in_chunks", "features_of", "logits_of", "mean_head", "predicted", "xavier"]

WIDTH = 256  # of the default featurizer, as in the released code
CHUNK = 1024  # rows of one forward pass outside training


def default_featurizer(x: Tensor, draws: torch.Generator) -> nn.Module:
    """Two ReLU layers on flattened rows, in the precision of x, or single: Adam takes no steps in half of it."""
    sizes, dtype = (x[0].numel(), WIDTH, WIDTH), torch.promote_types(x.dtype, torch.float32)
    parts: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(sizes):
        parts += [xavier(nn.Linear(inputs, outputs, dtype=dtype), draws), nn.ReLU()]
    return nn.Sequential(*parts)


def xavier(layer: nn.Linear, draws: torch.Generator) -> nn.Linear:
    """The layer, with uniform weights of variance 2 / (inputs + outputs) and zero biases."""
    nn.init.xavier_uniform_(layer.weight, generator=draws)
    nn.init.zeros_(layer.bias)
    return layer


def features_of(featurizer: nn.Module, x: Tensor) -> Tensor:
    """Output of the featurizer, (n, d).

    Raises
    ------
    ModelError
        For anything but a tensor with one row a sample and at least one number in it.
    """
    output = featurizer(x)
    if not isinstance(output, Tensor) or output.ndim == 0 or len(output) != len(x) or output.numel() == 0:
        got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"type {type(output).__name__}"
        raise ModelError(
            f"Got a featurizer whose output for {len(x)} rows has {got}, but expected a tensor with one row a sample."
        )
    return output.flatten(start_dim=1) if output.ndim > 1 else output[:, None]


def features_in_chunks(featurizer: nn.Module, x: Tensor) -> Tensor:
    """Features (n, d) in evaluation mode, in which the featurizer stays, and without gradients."""
    featurizer.eval()
    with torch.no_grad():
        return torch.cat([features_of(featurizer, part) for part in x.split(CHUNK)])


def logits_of(head: nn.Linear, features: Tensor) -> Tensor:
    """Logits (n,) of the second of two classes, or (n, K)."""
    logits = head(features)
    return logits[:, 0] if head.out_features == 1 else logits


def predicted(logits: Tensor) -> Tensor:
    """Codes (n,) of the classes with the largest logit."""
    return (logits > 0).long() if logits.ndim == 1 else logits.argmax(dim=1)


def mean_head(heads: Sequence[nn.Linear]) -> nn.Linear:
    """A head with the mean weights and biases."""
    mean = copy.deepcopy(heads[0])
    with torch.no_grad():
        mean.weight.copy_(torch.stack([head.weight for head in heads]).mean(dim=0))
        mean.bias.copy_(torch.stack([head.bias for head in heads]).mean(dim=0))
    return mean
