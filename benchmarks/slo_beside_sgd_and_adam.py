"""Speed Limited Optimization beside SGD and Adam: the ansatz of the first layer, test error, quality of its features.

Five tasks: products of neighbouring inputs (an MLP), and 2,000 images of MNIST and of CIFAR-10 (JPEG) with an MLP and
a CNN. Every method trains for as many steps, its rate falling linearly to zero. The rate is chosen on validation data,
a part of the training data, with two seeds and six values three to a decade, more while the best one is at the edge;
then five other seeds run at that rate. A seed is the draw of the data, the initial weights and the order, the same for
all methods, so that differences between methods are paired.

The claim is the published one (abstract of arXiv 2402.05271): SLO raises the ansatz correlation of the layer that is
fast. It holds if, in every task, that of the first layer is above those of SGD and of Adam by two standard errors of
the paired difference. Tasks, sizes and constants are ours, those of the paper being unknown.

Quality of the first layer's features, beside the untrained network's: the share of the task's five inputs in W^T W
and in the AGOP (products); else the test error of a linear classifier on its activations, and for MLPs that of
ridge regression with a Laplace kernel whose metric is W^T W.

    python slo_beside_sgd_and_adam.py [runs.jsonl]

Finished runs are appended to the file, if there is one, and not run again. MNIST and CIFAR-10 (JPEG) are read from
``FEATLEARN_DATA``. About an hour of one core.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from measuring import report
from quality import kernel_machine, linear_probe
from tasks import TASKS, Data, Task, evaluate, loss_of
from torch import Tensor, nn

from featlearn import SLO, FeatureTracker, SpeedUpSlowest, measure_features, slo_groups

EPS = 1e-2  # gradient norm below which a tensor's speed is no longer limited
SELECTION_SEEDS, SEEDS = (0, 1), (10, 11, 12, 13, 14)
RATES = 6  # at first; 10^(k/3) for consecutive k
MEASURED = 512  # samples the final measurement averages over, never trained on


@dataclass(frozen=True)
class Method:
    """An optimiser; ``speeds`` are of SLO."""

    name: str
    speeds: str | None = None  # "equal", "first layer" or "automatic"
    constant: float = 1.0


COMPARED = (
    *("layers.0.nfa", "layers.0.excess", "layers.0.cosine", "layers.0.centered_nfa", "test_error", "probe_error"),
    *("kernel_error", "task_share_nfm", "task_share_agop"),
)
METHODS = {
    "SGD": Method("SGD"),
    "Adam": Method("Adam"),
    "SLO, equal speeds": Method("SLO, equal speeds", "equal"),
    "SLO, first layer fast": Method("SLO, first layer fast", "first layer", 20.0),
    "SLO, automatic": Method("SLO, automatic", "automatic", 20.0),
    "SLO, first layer fast, C = 5": Method("SLO, first layer fast, C = 5", "first layer", 5.0),
}
UNTRAINED = "untrained"
LOWEST = {  # k of the first grid, by method: products, images
    name: dict(zip(METHODS, ks, strict=True))
    for name, ks in {"products": (-4, -10, -7, -10, -10, -9), "images": (-7, -11, -9, -10, -10, -10)}.items()
}


# --- training ---------------------------------------------------------------------------------------------------------


def make(method: Method, task: Task, net: nn.Sequential, rate: float, X: Tensor) -> tuple[Any, SpeedUpSlowest | None]:
    """Optimiser, and what moves its speeds."""
    if method.speeds is None:
        if method.name == "Adam":
            return torch.optim.Adam(net.parameters(), lr=rate), None
        return torch.optim.SGD(net.parameters(), lr=rate, momentum=task.momentum), None
    fast = "*" if method.speeds == "equal" else "0"
    groups = slo_groups(net, fast, constant=method.constant)
    slo = SLO(torch.optim.SGD(groups, lr=rate, momentum=task.momentum), eps=EPS)
    if method.speeds != "automatic":
        return slo, None
    tracker = FeatureTracker(net, X[:256].split(64), every=task.every, probes=task.probes)
    return slo, SpeedUpSlowest(slo, net, tracker, constant=method.constant)


class Run(NamedTuple):
    """A trained network, where it started, and how it went."""

    net: nn.Sequential
    start: nn.Sequential
    automatic: SpeedUpSlowest | None
    step_seconds: float
    tracker_share: float | None
    finite: bool


def train(task: Task, method: Method | None, rate: float, seed: int, data: Data) -> Run:
    """Train from the seed's initial weights; without a method, return those."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = task.net()
    start = copy.deepcopy(net)
    if method is None:
        return Run(net, start, None, math.nan, None, True)
    optimizer, automatic = make(method, task, net, rate, data.X)
    schedule = torch.optim.lr_scheduler.LambdaLR(getattr(optimizer, "base", optimizer), lambda t: 1 - t / task.steps)
    seconds, finite = 0.0, True
    for rows in order(len(data.X), task, seed):
        X, y = (data.X, data.y) if len(rows) == len(data.X) else (data.X[rows], data.y[rows])
        begun = time.process_time()
        optimizer.zero_grad()
        loss = loss_of(task, net(X), y)
        loss.backward()
        optimizer.step()
        schedule.step()
        seconds += time.process_time() - begun
        if not (finite := math.isfinite(loss.item())):
            break
        if automatic is not None:
            automatic.step()
    share = None if automatic is None else automatic.tracker.share
    return Run(net, start, automatic, seconds / task.steps, share, finite)


def order(n: int, task: Task, seed: int) -> Iterator[Tensor]:
    """Rows of every step."""
    draw = torch.Generator().manual_seed(1000 + seed)
    left = task.steps
    while left:
        for rows in torch.randperm(n, generator=draw).split(task.batch_size)[:left]:
            left -= 1
            yield rows


# --- what was learned -------------------------------------------------------------------------------------------------


def alignment(task: Task, run: Run, data: Data) -> dict[str, Any]:
    """The ansatz in every layer but the last, on test samples; for products, the task's share of the first layer."""
    found = measure_features(run.net, data.X_test[:MEASURED].split(32), reference=run.start, kernel_samples=0)
    layers = {}
    for name, layer in found.layers.items():
        if not layer.trivial:
            cosine = layer.alignment(statistic="cosine")
            layers[name] = {
                "nfa": layer.nfa,
                "null": layer.nfa_null,
                "excess": layer.nfa_excess,
                "standard_error": layer.nfa_standard_error,
                "cosine": cosine.value,
                "cosine_null": cosine.null,
                "cosine_excess": cosine.excess,
                "centered_nfa": layer.centered_nfa,
            }
    row: dict[str, Any] = {"layers": layers}
    if not task.classes:
        for name, matrix in (("nfm", found["0"].nfm[0]), ("agop", found["0"].agop[0])):
            row[f"task_share_{name}"] = float(matrix[:5, :5].norm() / matrix.norm())
    return row


def quality(task: Task, run: Run, data: Data) -> dict[str, float]:
    row = {}
    first = run.net[0].weight.detach()
    if task.classes:
        row["probe_error"] = linear_probe(run.net, data)
    if task.kernel:
        row["kernel_error"] = kernel_machine(first, data, task.classes)
    return row


# --- the study --------------------------------------------------------------------------------------------------------


class Study:
    """All runs, each once: those in the file are read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.rows = {self._key(row): row for row in map(json.loads, lines)}
        self._data: tuple[tuple[str, int], Data] | None = None

    @staticmethod
    def _key(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["task"], row["method"], row["k"], row["seed"]

    def row(self, task: Task, method: str, k: int | None, seed: int) -> dict[str, Any]:
        """One run: its validation error when rates are chosen, everything for the final seeds."""
        key = task.name, method, k, seed
        if key not in self.rows:
            row = self._run(task, METHODS.get(method), k, seed)
            self.rows[key] = dict(zip(("task", "method", "k", "seed"), key, strict=True)) | row
            with self.path.open("a") as file:
                file.write(json.dumps(self.rows[key]) + "\n")
            print(*key, f"{row['validation_error']:.4f}", f"{row['seconds']:.1f} s", flush=True)
        return self.rows[key]

    def _run(self, task: Task, method: Method | None, k: int | None, seed: int) -> dict[str, Any]:
        data, begun = self.data(task, seed), time.perf_counter()
        run = train(task, method, rate_of(k), seed, data)
        error, loss = evaluate(task, run.net, data.X_val, data.y_val) if run.finite else (math.inf, math.inf)
        row: dict[str, Any] = {"validation_error": error, "validation_loss": loss, "step_seconds": run.step_seconds}
        if seed in SEEDS and math.isfinite(loss):
            row["train_error"], row["train_loss"] = evaluate(task, run.net, data.X, data.y)
            row["test_error"], row["test_loss"] = evaluate(task, run.net, data.X_test, data.y_test)
            row |= alignment(task, run, data) | quality(task, run, data)
            before, after = run.start[0].weight.detach(), run.net[0].weight.detach()
            row["weight_change"] = float((after - before).norm() / before.norm())
            if method is None and task.kernel:
                row["kernel_error_of_identity"] = kernel_machine(None, data, task.classes)
            if run.automatic is not None:
                row["tracker_share"] = run.tracker_share
                row["fast"] = dict(Counter(layer for _, layer, _ in run.automatic.history))
        return row | {"seconds": time.perf_counter() - begun}

    def data(self, task: Task, seed: int) -> Data:
        """The last draw is kept: methods and rates take turns inside a seed."""
        if self._data is None or self._data[0] != (task.name, seed):
            self._data = (task.name, seed), task.data(seed)
        return self._data[1]

    def choose(self, task: Task, method: str) -> int:
        """The k of the best mean validation error, of a grid that goes on while the best is at its edge."""
        low = LOWEST["images" if task.classes else "products"][method]
        high = low + RATES - 1
        while True:
            for seed in SELECTION_SEEDS:
                for k in range(low, high + 1):
                    self.row(task, method, k, seed)
            best = min(range(low, high + 1), key=lambda k: self.score(task, method, k))
            if low < best < high:
                return best
            low, high = (low - 1, high) if best == low else (low, high + 1)

    def score(self, task: Task, method: str, k: int) -> tuple[float, float]:
        rows = [self.row(task, method, k, seed) for seed in SELECTION_SEEDS]
        return sum(row["validation_error"] for row in rows), sum(row["validation_loss"] for row in rows)


def rate_of(k: int | None) -> float:
    return math.nan if k is None else 10 ** (k / 3)


def means(rows: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and standard error of what every row has."""
    told = {}
    for key in rows[0]:
        if all(key in row for row in rows):
            found = torch.tensor([row[key] for row in rows], dtype=torch.float64)
            told[key] = {"mean": float(found.mean()), "standard_error": float(found.std() / len(found) ** 0.5)}
    return told


def numbers(row: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Every finite number of a row, nested names joined."""
    found: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(value, dict) and key != "fast":
            found |= numbers(value, f"{prefix}{key}.")
        elif isinstance(value, float) and math.isfinite(value):
            found[prefix + key] = value
    return found


def summary(study: Study, task: Task, method: str, k: int | None) -> dict[str, Any]:
    """Means over the final seeds that did not diverge, and the grid that the rate is from."""
    rows = [numbers(study.row(task, method, k, seed)) for seed in SEEDS]
    finished = [row for row in rows if "test_error" in row]
    told: dict[str, Any] = {"diverged": len(rows) - len(finished), "means": means(finished)}
    if k is None:
        return told
    grid = sorted(tried for name, of, tried, seed in study.rows if (name, of, seed) == (task.name, method, 0))
    told["rate"] = rate_of(k)
    told["validation_error_by_rate"] = {
        f"{rate_of(tried):.3g}": error if math.isfinite(error) else "diverged"
        for tried in grid
        for error in [study.score(task, method, tried)[0] / len(SELECTION_SEEDS)]
    }
    if method == "SLO, automatic":
        fast = Counter()
        for seed in SEEDS:
            fast.update(study.row(task, method, k, seed).get("fast", {}))
        told["measurements_that_made_a_layer_fast"] = dict(fast)
    return told


def differences(study: Study, task: Task, chosen: dict[str, int], to: str) -> dict[str, Any]:
    """Method minus ``to``, paired over the seeds in which neither diverged."""
    told: dict[str, Any] = {}
    for method in [method for method in chosen if method not in ("SGD", "Adam")]:
        rows = []
        for seed in SEEDS:
            ours, theirs = (numbers(study.row(task, name, chosen[name], seed)) for name in (method, to))
            if "test_error" in ours and "test_error" in theirs:
                rows.append({key: ours[key] - theirs[key] for key in COMPARED if key in ours and key in theirs})
        told[method] = means(rows)
    return told


def write(study: Study, chosen: dict[str, dict[str, int]]) -> None:
    """The JSON of what has been run so far."""
    results: dict[str, Any] = {}
    for name, ks in chosen.items():
        task = TASKS[name]
        results[name] = {method: summary(study, task, method, k) for method, k in ks.items()}
        results[name][UNTRAINED] = summary(study, task, UNTRAINED, None)
        for to in {"SGD", "Adam"} & set(ks):
            results[name][f"paired differences to {to}"] = differences(study, task, ks, to)
    raised = [
        results[name][f"paired differences to {to}"]["SLO, first layer fast"]["layers.0.nfa"]
        for name in results
        for to in ("SGD", "Adam")
    ]
    holds = len(results) == len(TASKS) and all(gain["mean"] > 2 * gain["standard_error"] for gain in raised)
    settings = {
        "eps": EPS,
        "C": {name: method.constant for name, method in METHODS.items() if method.speeds},
        "exponent": 1,
        "base of SLO": "SGD, momentum as below; biases are exempt",
        "rate": "falls linearly to 0",
        "seeds": {"selection": SELECTION_SEEDS, "final": SEEDS},
        "tasks": {
            task.name: {key: getattr(task, key) for key in ("steps", "batch_size", "momentum", "every", "probes")}
            | {"network": str(task.net()).replace("\n", "")}
            for task in TASKS.values()
        },
        "samples": {"products": "512 + 512 validation + 4,000 test", "images": "2,000 + 2,000 + 4,000"},
        "measured on": f"{MEASURED} test samples; the automatic mode on 256 training samples",
    }
    report(__file__, holds, settings=settings, results=results)


def main() -> None:
    """Five methods on all tasks, then the second constant."""
    path = Path(sys.argv[1]) if sys.argv[1:] else Path(tempfile.mkdtemp()) / "runs.jsonl"
    torch.set_num_threads(1)
    study, chosen = Study(path), {name: {} for name in TASKS}
    second = "SLO, first layer fast, C = 5"
    for methods in ([name for name in METHODS if name != second], [second]):
        for name, task in TASKS.items():
            for method in methods:
                chosen[name][method] = study.choose(task, method)
            for seed in SEEDS:
                study.row(task, UNTRAINED, None, seed)
                for method in methods:
                    study.row(task, method, chosen[name][method], seed)
            write(study, {name: ks for name, ks in chosen.items() if ks})


if __name__ == "__main__":
    main()
