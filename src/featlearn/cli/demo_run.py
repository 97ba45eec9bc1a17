"""The body of ``featlearn demo``: train, track, measure before and after, write the report, say what was found."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import typer
from torch import Tensor, nn

from .._random import generator, preserved_rng
from ..datasets import load_fashion_mnist
from .demo_text import finding_text
from .loss_loading import cross_entropy
from .output_files import ReportFiles, check_writable, command_line
from .progress import Advance, progress_bar

if TYPE_CHECKING:
    from ..measure.results import FeatureReport

__all__ = ["Finding", "Plan", "run", "small_cnn", "train"]

MEAN, STD = 0.286, 0.353  # of the pixels of Fashion-MNIST's training images, between 0 and 1
MEASURED_BATCH = 50


@dataclass(frozen=True)
class Plan:
    """What the demo does. Weight decay and a small start are what lets the features, not the scale, do the learning."""

    seed: int = 0
    epochs: int = 8
    n_train: int = 4000
    n_test: int = 1000
    n_tracked: int = 250
    batch_size: int = 32
    learning_rate: float = 0.02
    weight_decay: float = 2e-3

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.epochs * math.ceil(self.n_train / self.batch_size)


@dataclass(frozen=True, eq=False)
class Finding:
    """What the demo found: reports before and after as dictionaries, the history between, and accuracies."""

    plan: Plan
    before: dict[str, Any]
    after: dict[str, Any]
    history: list[tuple[int, FeatureReport]]
    accuracy_before: float
    accuracy: float
    tracking_share: float
    seconds: float


def small_cnn(seed: int) -> nn.Sequential:
    """Two 5 x 5 convolutions and two linear layers with ReLU, weights drawn from ``seed`` as PyTorch draws them."""
    with preserved_rng():
        modules = {
            "conv1": nn.Conv2d(1, 16, 5, padding=2),
            "relu1": nn.ReLU(),
            "pool1": nn.MaxPool2d(2),
            "conv2": nn.Conv2d(16, 32, 5, padding=2),
            "relu2": nn.ReLU(),
            "pool2": nn.MaxPool2d(2),
            "flatten": nn.Flatten(),
            "linear1": nn.Linear(32 * 7 * 7, 128),
            "relu3": nn.ReLU(),
            "linear2": nn.Linear(128, 10),
        }
    net = nn.Sequential(OrderedDict(modules))
    for name, parameter in net.named_parameters():
        if parameter.ndim > 1:
            stream = generator(seed, "demo", name)
            nn.init.kaiming_uniform_(parameter, a=math.sqrt(5), generator=stream)  # the default of PyTorch
        else:
            nn.init.zeros_(parameter)
    return net


def train(net: nn.Module, images: Tensor, labels: Tensor, plan: Plan) -> Iterator[int]:
    """SGD with momentum 0.9 and a cosine learning rate; yields the number of steps done after each of them."""
    shuffles = generator(plan.seed, "demo", "order")
    optimizer = torch.optim.SGD(net.parameters(), lr=plan.learning_rate, momentum=0.9, weight_decay=plan.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, plan.steps)
    done = 0
    for _ in range(plan.epochs):
        for rows in torch.randperm(len(images), generator=shuffles).split(plan.batch_size):
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()
            done += 1
            yield done


def run(plan: Plan, out: Path, quiet: bool, arguments: Sequence[str]) -> int:
    """Run the plan, write ``out/report.html`` and ``out/report.json``, print the finding."""
    if out.is_file():
        raise typer.BadParameter(f"Got --out {out}, which is a file, but expected a folder.")
    check_writable(out / "report.html" if out.is_dir() else out, "--out")
    with _one_thread(), progress_bar("Training and measuring", "steps", quiet) as advance:
        found = _work(plan, advance)
    found.after["provenance"] |= {
        "data": f"Fashion-MNIST (subset), {plan.n_test:,} test images",
        "reference": "the network's own weights before training",
        "command": command_line(arguments),
    }
    out.mkdir(exist_ok=True)
    title = "What a small CNN learned on Fashion-MNIST"
    files = ReportFiles.plan(out / "report.html", None)
    written = files.write(found.after, history=found.history, comparison=found.before, title=title)
    typer.echo(finding_text(found))
    typer.echo(f"\nThe report: {written[0]}\nIts numbers: {written[1]}")
    return 0


@contextmanager
def _one_thread() -> Iterator[None]:
    """More threads gain nothing on a network this small, lose much on busy cores, and make sums depend on them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _work(plan: Plan, advance: Advance) -> Finding:
    """Train under a tracker, and measure before and after on the unseen images."""
    from ..measure.features import measure_features
    from ..measure.tracker import FeatureTracker

    start = time.perf_counter()
    seen, unseen = load_fashion_mnist("train", n=plan.n_train), load_fashion_mnist("test", n=plan.n_test)
    images, batches = seen.normalized(MEAN, STD), unseen.batches(MEASURED_BATCH, mean=MEAN, std=STD)
    net = small_cnn(plan.seed)
    initial = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    before, accuracy_before = measure_features(net, batches, random_state=plan.seed), _accuracy(net, batches)
    tracked = batches[: plan.n_tracked // MEASURED_BATCH]
    options: dict[str, Any] = {"schedule": "log", "every": plan.steps, "probes": 1, "random_state": plan.seed}
    with FeatureTracker(net, tracked, **options) as tracker:
        for done in train(net, images, seen.labels, plan):
            tracker.step()
            advance(done, plan.steps)
        share = tracker.share
    after = measure_features(net, batches, reference=initial, loss=cross_entropy, random_state=plan.seed)
    return Finding(
        plan=plan,
        before=before.to_dict(),
        after=after.to_dict(),
        history=tracker.history,
        accuracy_before=accuracy_before,
        accuracy=_accuracy(net, batches),
        tracking_share=share,
        seconds=time.perf_counter() - start,
    )


@torch.no_grad()
def _accuracy(net: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
    """Share of the images whose largest output is that of their class."""
    right = sum(int((net(images).argmax(1) == labels).sum()) for images, labels in batches)
    return right / sum(len(labels) for _, labels in batches)
