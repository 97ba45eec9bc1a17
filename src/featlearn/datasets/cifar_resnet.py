"""The ResNets for CIFAR-10 of He et al., in the layout of the public checkpoints."""

from __future__ import annotations

from os import PathLike

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._random import generator, preserved_rng
from ..exceptions import ModelError
from .files import data_file, data_folder

__all__ = ["CIFAR_MEAN", "CIFAR_STD", "CifarResNet", "load_cifar_resnet"]

# What the public checkpoints were trained with.
CIFAR_MEAN = (0.485, 0.456, 0.406)
CIFAR_STD = (0.229, 0.224, 0.225)


class CifarResNet(nn.Module):
    """Residual network for 32x32 colour images: three stages of 16, 32 and 64 channels, shortcuts without weights.

    Parameters
    ----------
    depth : int
        Layers with weights, ``6 m + 2``: 20, 32, 44, 56, 110.
    n_classes : int
        Outputs.
    random_state : int
        Seed of the initial weights (Kaiming normal; the last bias uniform); the global generator is left alone.

    Raises
    ------
    ModelError
        ``depth`` is not ``6 m + 2`` with ``m >= 1``.

    Notes
    -----
    Every convolution is followed by BatchNorm and has no bias. Where a stage halves the image and doubles the channels,
    the shortcut takes every second pixel and fills the new channels with zeros (option A).

    References
    ----------
    He, Zhang, Ren and Sun, Deep residual learning for image recognition, arXiv:1512.03385, section 4.2.

    Examples
    --------
    >>> CifarResNet(20)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, depth: int = 20, *, n_classes: int = 10, random_state: int = 0) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ModelError(f"Got depth={depth}, but expected 6 m + 2 with m >= 1: 20, 32, 44, 56 or 110 are usual.")
        blocks = (depth - 2) // 6
        with preserved_rng():
            self.conv1 = _convolution(3, 16, 1)
            self.bn1 = nn.BatchNorm2d(16)
            self.layer1 = _stage(16, 16, blocks, 1)
            self.layer2 = _stage(16, 32, blocks, 2)
            self.layer3 = _stage(32, 64, blocks, 2)
            self.linear = nn.Linear(64, n_classes)
        self._initialize(random_state)

    def _initialize(self, random_state: int) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, generator=generator(random_state, name))
        bound = self.linear.in_features**-0.5
        nn.init.uniform_(self.linear.bias, -bound, bound, generator=generator(random_state, "linear.bias"))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (n, n_classes) of images of shape (n, 3, height, width)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


class _Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = channels - in_channels
        self.conv1 = _convolution(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _convolution(channels, channels, 1)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        half = self.new_channels // 2
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.new_channels - half))
        return F.relu(branch + shortcut)


def _convolution(in_channels: int, channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    later = (_Block(channels, channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(_Block(in_channels, channels, stride), *later)


def load_cifar_resnet(name: str = "resnet20", *, folder: str | PathLike[str] | None = None) -> CifarResNet:
    """ResNet-20, -32 or -44 with weights trained on CIFAR-10 by others, in evaluation mode.

    Parameters
    ----------
    name : {"resnet20", "resnet32", "resnet44"}
        Which network.
    folder : path, optional
        Folder with the checkpoints ``NAME-*.th``. Default: ``cifar_resnet`` in the folder that the environment variable
        ``FEATLEARN_DATA`` names.

    Returns
    -------
    CifarResNet
        Takes images normalised with ``CIFAR_MEAN`` and ``CIFAR_STD``.

    Raises
    ------
    ModelError
        Unknown name, or weights of another network.
    DataError
        The file is not there.

    Notes
    -----
    The weights are read without running code from the file (``weights_only=True``). On CIFAR-10 (JPEG) the networks are
    less accurate than published for CIFAR-10: see :func:`load_cifar10_jpeg`.
    """
    known = ("resnet20", "resnet32", "resnet44")
    if name not in known:
        raise ModelError(f"Got name={name!r}, but expected one of {', '.join(known)}.")
    path = data_file(data_folder(folder, "cifar_resnet"), f"{name}-*.th")
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    weights = {key.removeprefix("module."): value for key, value in checkpoint["state_dict"].items()}
    model = CifarResNet(int(name.removeprefix("resnet")))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(f"Got {path.name}, but expected the weights of {name}: {error}") from error
    return model.eval()
