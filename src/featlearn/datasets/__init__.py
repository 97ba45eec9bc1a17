"""Data to try things on: images, pretrained networks, arithmetic, signals in noise, spurious correlation."""

from __future__ import annotations

from .cifar_resnet import CIFAR_MEAN, CIFAR_STD, CifarResNet, load_cifar_resnet
from .colored import make_colored
from .dominoes import make_dominoes
from .image_data import ImageData
from .images import load_cifar10_jpeg, load_fashion_mnist, load_mnist
from .local_signals import LocalSignals, digits_in_noise, informative_rows, stars_in_noise
from .modular import ModularData, modular_arithmetic
from .spurious_dataset import Split, SpuriousDataset
from .spurious_gaussian import LinearRule, SpuriousGaussian
from .tabular import make_spurious_tabular
from .waterbirds import make_waterbirds_like

__all__ = [
    "load_fashion_mnist",
    "load_mnist",
    "load_cifar10_jpeg",
    "load_cifar_resnet",
    "CifarResNet",
    "CIFAR_MEAN",
    "CIFAR_STD",
    "ImageData",
    "modular_arithmetic",
    "ModularData",
    "stars_in_noise",
    "digits_in_noise",
    "informative_rows",
    "LocalSignals",
    "make_colored",
    "make_dominoes",
    "make_waterbirds_like",
    "make_spurious_tabular",
    "SpuriousDataset",
    "Split",
    "SpuriousGaussian",
    "LinearRule",
]
