"""Four machines on the same images, for ``featlearn demo``: who is right how often, and what their patches look for."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from .._random import generator, preserved_rng
from ..datasets import load_fashion_mnist
from .demo_training import Recipe, seeded, train
from .progress import Advance

__all__ = ["ImagesPlan", "compare_machines", "plain_cnn"]

FIXED, LEARNED, DEEP, NETWORK = "fixed kernel", "ConvRFM", "Deep ConvRFM", "CNN"
COVARIANCE, AGOP, METRIC, METRIC_AGOP = (
    "CNN filter covariance",
    "CNN patch AGOP",
    "ConvRFM metric",
    "ConvRFM patch AGOP",
)
HOW = {
    "loo": "leave-one-out over the training images",
    "cv": "five folds of the training images",
    "holdout": "a fifth of the training images, held out",
}
MEASURED_BATCH = 50


@dataclass(frozen=True)
class ImagesPlan:
    """What is compared. Two convolutional layers everywhere, without padding or biases, as the kernel has them."""

    n_train: int = 800
    n_test: int = 1000
    patch_size: int = 5
    steps: int = 3
    width: int = 24
    deep_width: int = 8
    deep_agop_images: int = 30  # fewer than the default: here the gradients are what costs
    learning_rates: tuple[float, ...] = (0.01, 0.03, 0.1)
    recipe: Recipe = field(default_factory=Recipe)
    directions: int = 6
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Images:
    """Training and test images (n, 1, 28, 28), pixels between 0 and 1, and their labels."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor

    @classmethod
    def load(cls, plan: ImagesPlan) -> Images:
        """The first of the bundled ones."""
        seen, unseen = load_fashion_mnist("train", n=plan.n_train), load_fashion_mnist("test", n=plan.n_test)
        return cls(seen.images.float() / 255, seen.labels, unseen.images.float() / 255, unseen.labels)


@dataclass(frozen=True, eq=False)
class Fitted:
    """One machine: itself, its answers on the test images, and how it was made."""

    machine: Any
    right: Tensor
    seconds: float
    about: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Accuracy with its binomial standard error, and what was chosen how."""
        accuracy, n = float(self.right.double().mean()), len(self.right)
        error = math.sqrt(accuracy * (1 - accuracy) / n)
        return {"accuracy": accuracy, "standard_error": error, **self.about, "seconds": self.seconds}


def compare_machines(plan: ImagesPlan, advance: Advance) -> dict[str, Any]:
    """Fit the four, compare their answers image by image, and the matrices between their patches: plain values."""
    images = Images.load(plan)
    fits: dict[str, Callable[[], Fitted]] = {
        FIXED: lambda: _fit_kernel(_convolutional(plan, 0), images),
        LEARNED: lambda: _fit_kernel(_convolutional(plan, plan.steps), images),
        DEEP: lambda: _fit_kernel(_deep(plan), images),
        NETWORK: lambda: _fit_network(plan, images),
    }
    fitted: dict[str, Fitted] = {}
    for done, (name, fit) in enumerate(fits.items()):
        advance(done, len(fits))
        fitted[name] = fit()
    advance(len(fits), len(fits))
    matrices = patch_matrices(plan, fitted[LEARNED].machine, fitted[NETWORK].machine, images)
    return {
        "data": {"n_train": plan.n_train, "n_test": plan.n_test, "patch_size": plan.patch_size},
        "machines": {name: one.to_dict() for name, one in fitted.items()},
        "differences": differences({name: one.right for name, one in fitted.items()}),
        "filters": describe_matrices(plan, matrices, fitted[LEARNED].machine, images),
        "training": {
            "width": plan.width,
            "deep_width": plan.deep_width,
            "start_cosine": _likeness_to_start(plan, matrices[COVARIANCE]),
        },
    }


def differences(right: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    r"""Accuracy of one machine less that of another, for every pair, on the same images.

    The standard error is that of the mean of the differences image by image, which is smaller than that of two
    independent samples where the machines err on the same images. The verdict needs two of them.
    """
    found = []
    for first, second in combinations(right, 2):
        each = right[second].double() - right[first].double()
        gain, error = float(each.mean()), float(each.std(correction=0)) / math.sqrt(len(each))
        verdict = "not told apart" if abs(gain) <= 2 * error else "better" if gain > 0 else "worse"
        found.append(
            {"first": first, "second": second, "gain": gain, "standard_error": error, "verdict": verdict}
        )  # fmt: skip
    return found


# kernel machines ------------------------------------------------------------------------------------------------------


def _convolutional(plan: ImagesPlan, steps: int) -> Any:
    from ..machines.conv_rfm import ConvRFMClassifier

    return ConvRFMClassifier(plan.patch_size, 2, max_iter=steps, random_state=plan.seed)


def _deep(plan: ImagesPlan) -> Any:
    from ..machines.deep_conv_rfm import DeepConvRFMClassifier

    return DeepConvRFMClassifier(
        2, plan.deep_width, patch_size=plan.patch_size, max_iter=1, agop_images=plan.deep_agop_images,
        random_state=plan.seed,
    )  # fmt: skip


def _fit_kernel(machine: Any, images: Images) -> Fitted:
    start = time.perf_counter()
    machine.fit(images.x, images.y)
    right = torch.as_tensor(machine.predict(images.x_test)) == images.y_test
    layers = getattr(machine, "layers_", [machine])
    about = {
        "chosen": [{"ridge": float(layer.alpha_), "iterate": int(layer.n_iter_)} for layer in layers],
        "how": [HOW[layer.selection_.method] for layer in layers],
    }
    return Fitted(machine, right, time.perf_counter() - start, about)


# the network ----------------------------------------------------------------------------------------------------------


def plain_cnn(plan: ImagesPlan, channels: int = 1, side: int = 28, classes: int = 10) -> nn.Sequential:
    """The network whose infinitely wide limit the kernel is, at a finite width."""
    left = side - 2 * (plan.patch_size - 1)
    with preserved_rng():
        modules = {
            "conv1": nn.Conv2d(channels, plan.width, plan.patch_size, bias=False),
            "relu1": nn.ReLU(),
            "conv2": nn.Conv2d(plan.width, plan.width, plan.patch_size, bias=False),
            "relu2": nn.ReLU(),
            "flatten": nn.Flatten(),
            "linear": nn.Linear(plan.width * left**2, classes, bias=False),
        }
    net = nn.Sequential(OrderedDict(modules))
    seeded(net, plan.seed)
    return net


def _fit_network(plan: ImagesPlan, images: Images) -> Fitted:
    """Learning rate by a fifth of the training images, then once more on all of them."""
    start = time.perf_counter()
    order = torch.randperm(len(images.x), generator=generator(plan.seed, "demo", "held out"))
    held, kept = order.tensor_split([len(order) // 5])
    scores = {
        rate: float(_right(_trained(plan, images.x[kept], images.y[kept], rate), images.x[held], images.y[held]).mean())
        for rate in plan.learning_rates
    }
    rate = max(scores, key=lambda one: scores[one])
    net = _trained(plan, images.x, images.y, rate)
    right = _right(net, images.x_test, images.y_test).bool()
    about = {
        "chosen": [{"learning_rate": rate, "epochs": plan.recipe.epochs}],
        "how": [HOW["holdout"]],
        "candidates": [{"learning_rate": one, "accuracy": score} for one, score in scores.items()],
    }
    return Fitted(net, right, time.perf_counter() - start, about)


def _trained(plan: ImagesPlan, images: Tensor, labels: Tensor, rate: float) -> nn.Sequential:
    net = plain_cnn(plan, *images.shape[1:3])
    for _ in train(net, images, labels, replace(plan.recipe, learning_rate=rate, seed=plan.seed)):
        pass
    return net


@torch.no_grad()
def _right(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """One for every image whose largest output is that of its class, else zero."""
    return torch.cat([net(part).argmax(1) for part in images.split(250)]).eq(labels).double()


# what the patches look for --------------------------------------------------------------------------------------------


def patch_matrices(plan: ImagesPlan, machine: Any, net: nn.Sequential, images: Images) -> dict[str, Tensor]:
    """Matrices (q, q) between the same patches: covariance of the network's filters, its patch AGOP, the metric."""
    from ..agop.of_module import agop_of_module, patch_agop

    batches = list(zip(images.x_test.split(MEASURED_BATCH), images.y_test.split(MEASURED_BATCH), strict=True))
    agop = agop_of_module(net, batches, layers=["conv1"], random_state=plan.seed)["conv1"]
    learned = machine.n_iter_ > 0
    return {
        COVARIANCE: _covariance(net),
        AGOP: patch_agop(agop).matrix,
        METRIC if learned else METRIC_AGOP: machine.metric_at(machine.n_iter_) if learned else machine.patch_agop_,
    }


def describe_matrices(plan: ImagesPlan, matrices: Mapping[str, Tensor], machine: Any, images: Images) -> dict[str, Any]:
    """The matrices and patch PCA: entries, spectra, directions, share of the trace in derivatives, similarity."""
    from ..machines.edges import derivative_filters, edge_report, patch_moment

    moment = patch_moment(machine.kernel_.kernel, images.x)
    told = edge_report(matrices, 1, patch_moment=moment, top=plan.directions).to_dict()
    every = dict(zip(told["matrices"], [*matrices.values(), moment], strict=True))
    edges = derivative_filters(plan.patch_size)
    for entry in told["similarity"]:
        entry["excess"] = (entry["cosine"] - entry["chance"]) / (1 - entry["chance"])
    return told | {
        "entries": {name: matrix.double().tolist() for name, matrix in every.items()},
        "edge_share": {
            name: float((edges @ matrix.double() @ edges.mT).trace() / matrix.double().trace())
            for name, matrix in every.items()
        },
    }


def _covariance(net: nn.Sequential) -> Tensor:
    """``W^T W`` of the first layer's filters."""
    weight = net.get_submodule("conv1").get_parameter("weight").detach().flatten(1)
    return weight.mT @ weight


def _likeness_to_start(plan: ImagesPlan, covariance: Tensor) -> float:
    from ..linalg.similarity import matrix_correlation

    return matrix_correlation(covariance, _covariance(plain_cnn(plan)), "cosine")
