"""Networks as people train them, small and in float64, with a loss and a batch: for what must work in any model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from cases import integers, normal
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Architecture:
    """``layers`` are the modules that own a weight and train, in order of execution; the last one is the readout."""

    name: str
    build: Callable[[], nn.Module]
    batch: Callable[[], Any]
    loss: Callable[[Tensor, Any], Tensor]
    layers: tuple[str, ...]
    tied: str | None = None

    def model(self, seed: int = 0) -> nn.Module:
        """Freshly initialised as its author would, in training mode."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.build().double()

    def __str__(self) -> str:
        return self.name


def half_squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean() / 2


def over_tokens(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def mlp(depth: int = 4, width: int = 24, inputs: int = 5, outputs: int = 1, bias: bool = True) -> nn.Sequential:
    sizes = [inputs, *[width] * (depth - 1)]
    hidden = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b, bias=bias), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, outputs, bias=bias))


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.shortcut(x))


def residual_cnn() -> nn.Sequential:
    stem = [nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True)]
    blocks = [ResidualBlock(4, 4), ResidualBlock(4, 6)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(6, 3))


class ClassToken(nn.Module):
    """A class token and position embeddings held by the model itself, read out at the token."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.positions = nn.Parameter(torch.randn(1, 5, 8))
        self.patch = nn.Linear(7, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.token.expand(len(x), -1, -1), self.patch(x)], dim=1)
        return self.head(self.encoder(tokens + self.positions)[:, 0])


class DecoderBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        weights = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf).softmax(dim=-1)
        x = x + self.proj(weights @ v)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Decoder(nn.Module):
    """``readout`` is a layer of its own, one tied to the embedding, or the embedding itself used as a matrix."""

    def __init__(self, readout: str) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(11, 8), nn.Embedding(6, 8)
        self.blocks = nn.ModuleList(DecoderBlock(8) for _ in range(2))
        self.norm = nn.LayerNorm(8)
        self.head = None if readout == "functional" else nn.Linear(8, 11, bias=False)
        if self.head is not None and readout == "tied":
            self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return F.linear(x, self.tokens.weight) if self.head is None else self.head(x)


class FunctionalNorms(nn.Module):
    """Normalisations and activations written as functions, a free gain, an activation in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 1)
        self.gain = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(F.layer_norm(self.first(x), (6,)) * self.gain, inplace=True)
        return self.head(F.relu(self.second(h), inplace=True))


class CalledTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.loop, self.head = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        return self.head(torch.tanh(self.loop(torch.tanh(self.loop(h)))))


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(5, 6), nn.Linear(6, 1)
        self.inner = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.inner, torch.tanh(self.first(x)), use_reentrant=False))


class OutOfOrder(nn.Module):
    """Registered in another order than it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.second, self.first = nn.Linear(6, 1), nn.Linear(6, 6), nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.LSTM(5, 6, batch_first=True), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0][:, -1])


def weight_normed() -> nn.Sequential:
    wrapped = nn.utils.parametrizations.weight_norm
    return nn.Sequential(wrapped(nn.Linear(5, 6)), nn.Tanh(), wrapped(nn.Linear(6, 6)), nn.Tanh(), nn.Linear(6, 1))


def frozen_middle() -> nn.Sequential:
    net = mlp()
    net[2].requires_grad_(False)
    net[4].bias.requires_grad_(False)
    return net


def _regression(*shape: int) -> Callable[[], tuple[Tensor, Tensor]]:
    def batch() -> tuple[Tensor, Tensor]:
        x = normal(*shape)
        return x, x.flatten(1)[:, :2].sum(dim=1, keepdim=True).sin()

    return batch


def _classes(*shape: int) -> Callable[[], tuple[Tensor, Tensor]]:
    return lambda: (normal(*shape), integers(3, shape[0]))


def _tokens() -> tuple[Tensor, Tensor]:
    return integers(11, 8, 6), integers(11, 8, 6, seed=3)


_BLOCKS = tuple(f"blocks.{i}.{part}" for i in range(2) for part in ("qkv", "proj", "up", "down"))
_ENCODER = tuple(
    f"encoder.layers.{i}.{part}" for i in range(2) for part in ("self_attn", "self_attn.out_proj", "linear1", "linear2")
)

_LIST = [
    Architecture("mlp", mlp, _regression(32, 5), half_squares, ("0", "2", "4", "6")),
    Architecture(
        "residual_cnn",
        residual_cnn,
        _classes(8, 2, 6, 6),
        F.cross_entropy,
        ("0", "3.conv1", "3.conv2", "4.conv1", "4.conv2", "4.shortcut", "8"),
    ),
    Architecture("class_token", ClassToken, _classes(8, 4, 7), F.cross_entropy, ("patch", *_ENCODER, "head")),
    Architecture("decoder", lambda: Decoder("own"), _tokens, over_tokens, ("tokens", "positions", *_BLOCKS, "head")),
    Architecture(
        "tied_decoder", lambda: Decoder("tied"), _tokens, over_tokens, ("tokens", "positions", *_BLOCKS), tied="tokens"
    ),
    Architecture(
        "functional_decoder",
        lambda: Decoder("functional"),
        _tokens,
        over_tokens,
        ("tokens", "positions", *_BLOCKS),
        tied="tokens",
    ),
    Architecture("functional_norms", FunctionalNorms, _regression(16, 5), half_squares, ("first", "second", "head")),
    Architecture("called_twice", CalledTwice, _regression(16, 5), half_squares, ("first", "loop", "head")),
    Architecture(
        "checkpointed", Checkpointed, _regression(16, 5), half_squares, ("first", "inner.0", "inner.2", "head")
    ),
    Architecture("out_of_order", OutOfOrder, _regression(16, 5), half_squares, ("first", "second", "head")),
    Architecture("recurrent", Recurrent, _regression(16, 4, 5), half_squares, ("cells", "head")),
    Architecture("weight_norm", weight_normed, _regression(16, 5), half_squares, ("0", "2", "4")),
    Architecture("frozen_middle", frozen_middle, _regression(32, 5), half_squares, ("0", "4", "6")),
]

ARCHITECTURES: dict[str, Architecture] = {architecture.name: architecture for architecture in _LIST}
