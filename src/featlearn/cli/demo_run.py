"""The body of ``featlearn demo``: train, track, measure before and after, write the report, say what was found."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import typer
from torch import Tensor, nn

from .._random import preserved_rng
from ..datasets import load_fashion_mnist
from ..measure.provenance import now, versions
from .demo_images import ImagesPlan, compare_machines
from .demo_images_text import comparison_text
from .demo_text import finding_text
from .demo_training import Recipe, seeded, train
from .loss_loading import cross_entropy
from .output_files import ReportFiles, check_writable, command_line
from .progress import Advance, progress_bar

if TYPE_CHECKING:
    from ..measure.results import FeatureReport

__all__ = ["Finding", "Plan", "run", "small_cnn"]

MEAN, STD = 0.286, 0.353  # of the pixels of Fashion-MNIST's training images, between 0 and 1
MEASURED_BATCH = 50


@dataclass(frozen=True)
class Plan(Recipe):
    """What the demo does."""

    n_train: int = 4000
    n_test: int = 1000
    n_tracked: int = 250
    images: ImagesPlan = field(default_factory=ImagesPlan)

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.steps_for(self.n_train)


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
    seeded(net, seed)
    return net


def run(plan: Plan, out: Path, quiet: bool, arguments: Sequence[str]) -> int:
    """Run the plan, write report and comparison, each as page and numbers, into ``out``; print what was found."""
    if out.is_file():
        raise typer.BadParameter(f"Got --out {out}, which is a file, but expected a folder.")
    check_writable(out / "report.html" if out.is_dir() else out, "--out")
    with _one_thread():
        with progress_bar("Training and measuring", "steps", quiet) as advance:
            found = _work(plan, advance)
        with progress_bar("Comparing with kernel machines", "machines", quiet) as advance:
            compared = compare_machines(replace(plan.images, seed=plan.seed), advance)
    found.after["provenance"] |= {
        "data": f"Fashion-MNIST (subset), {plan.n_test:,} test images",
        "reference": "the network's own weights before training",
        "command": command_line(arguments),
    }
    compared["provenance"] = {
        "data": "Fashion-MNIST (subset)",
        "random_state": plan.seed,
        "versions": versions(),
        "date": now(),
        "command": command_line(arguments),
    }
    out.mkdir(exist_ok=True)
    title = "What a small CNN learned on Fashion-MNIST"
    files = ReportFiles.plan(out / "report.html", None)
    written = files.write(found.after, history=found.history, comparison=found.before, title=title)
    written += _write_comparison(compared, out)
    typer.echo(f"{finding_text(found)}\n\n{comparison_text(compared)}")
    typer.echo(
        f"\nThe report: {written[0]}\nIts numbers: {written[1]}\n"
        f"The comparison: {written[2]}\nIts numbers: {written[3]}"
    )
    return 0


def _write_comparison(compared: Mapping[str, Any], out: Path) -> list[Path]:
    from ..report.filters import write_filters_report
    from ..report.json import write_json

    page, numbers = out / "filters.html", out / "filters.json"
    write_json(compared, numbers)
    write_filters_report(compared, page)
    return [page, numbers]


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
