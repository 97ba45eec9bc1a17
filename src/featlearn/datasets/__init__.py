"""Images and pretrained networks to measure: a bundled Fashion-MNIST subset, and readers of well-known files."""

from __future__ import annotations

from .cifar_resnet import CIFAR_MEAN, CIFAR_STD, CifarResNet, load_cifar_resnet
from .image_data import ImageData
from .images import load_cifar10_jpeg, load_fashion_mnist, load_mnist

__all__ = [
    "load_fashion_mnist",
    "load_mnist",
    "load_cifar10_jpeg",
    "load_cifar_resnet",
    "CifarResNet",
    "CIFAR_MEAN",
    "CIFAR_STD",
    "ImageData",
]
