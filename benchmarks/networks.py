"""The networks that are measured: random weights from a seed, no data needed."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm around a skip connection."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.downsample(x))


def resnet18(classes: int = 10, seed: int = 0) -> nn.Sequential:
    """ResNet-18 with the CIFAR stem (3 x 3, stride 1, no pooling): 20 convolutions."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        stages = [
            BasicBlock(i, o, s)
            for i, o, s in [
                *((64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1)),
                *((128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1)),
            ]
        ]
        stem = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes)]
        return nn.Sequential(*stem, *stages, *head).eval()


def transformer(layers: int = 12, width: int = 256, classes: int = 10, seed: int = 0) -> nn.Sequential:
    """Encoder of ``layers`` blocks (4 heads, feed-forward 4 x width), mean over tokens, linear head."""

    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(dim=1)

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        block = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, activation="gelu", batch_first=True)
        encoder = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        return nn.Sequential(encoder, Mean(), nn.Linear(width, classes)).eval()


def perceptron(depth: int = 5, width: int = 256, inputs: int = 784, classes: int = 10, seed: int = 0) -> nn.Sequential:
    """ReLU network of ``depth`` hidden layers."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = [inputs, *[width] * depth]
        hidden = [m for i, o in pairwise(sizes) for m in (nn.Linear(i, o), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(width, classes))


def noise(*shape: int, seed: int = 1) -> Tensor:
    """Gaussian inputs."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
