"""Does the learning rate that is best for a small network stay the best one for a wide, and for a deep one?

ReLU networks without biases, full batch, the loss after 200 steps (mean of the last ten) as a function of one number:
the common rate of all layers, or the common factor of the rates that a rule gives. Widths 64 to 1,024 at 4 layers, 2 to
32 layers at width 128; three draws of data and weights. The rate is a power of two, searched from the best one of the
size before until both neighbours are worse.

The claim holds where, for the rules that correct for width and depth (the closed form "fsc", and "measured":
``rescale_init`` and ``feature_speed_groups``), the best factor of the largest size is within a factor of two of that of
the smallest, over width and over depth, on each set of data that was run.

    python learning_rates_transfer_over_width_and_depth.py [runs.jsonl [rule ...]]

Every finished run is appended to ``runs.jsonl`` (by default in the folder of temporary files), so that it can be
stopped and resumed, and processes can share the work rule by rule. It takes about an hour on one core; MNIST is read
from ``FEATLEARN_DATA``.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from measuring import report
from torch import Tensor, nn

from featlearn import feature_speed_groups, rescale_init
from featlearn.datasets import load_mnist
from featlearn.training.theory import scaling_rule

ROWS, STEPS, LAST = 256, 200, 10
SEEDS = (0, 1, 2)
WIDTHS, AT_DEPTH = (64, 128, 256, 512, 1024), 4
DEPTHS, AT_WIDTH = (2, 4, 8, 16, 32), 128
COARSE = range(-14, 11, 2)  # exponents of two, tried first at the smallest size
DIVERGED = 1e3  # times the loss at the start
UNTRAINED = 0.95  # of the loss of the best constant: a network that stays above has learned nothing

# "first-order": measured without the limit on the sharpness.
SGD_RULES = ("default", "he", "ntk", "mup", "fsc", "measured", "first-order")
ADAM_RULES = ("default, adam", "measured, adam")
IMAGE_RULES = ("default", "he", "fsc", "measured")
TUNED = ("first-order", "measured", "measured, adam")  # rules that claim to need no factor at all


# --- data ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """Data of one draw, and the loss."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]
    outputs: int
    constant: float  # loss of the best constant


def half_mean_square(outputs: Tensor, targets: Tensor) -> Tensor:
    """Half the mean square."""
    return (outputs - targets).square().mean() / 2


def products(seed: int) -> Task:
    """Sum of five products of neighbouring coordinates out of 32, of unit variance."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(ROWS + 4000, 32, generator=generator)
    y = sum((x[:, j] * x[:, (j + 1) % 5] for j in range(5)), torch.zeros(len(x)))[:, None]
    y = y / y[:ROWS].std()
    return Task(x[:ROWS], y[:ROWS], x[ROWS:], y[ROWS:], half_mean_square, 1, float(y[:ROWS].var()) / 2)


def digits(seed: int) -> Task:
    """Images of MNIST, other ones for every seed."""
    train, test = load_mnist("train", n=6000), load_mnist("test", n=2000)
    rows = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(seed))[:ROWS]
    x, x_test = (data.normalized(0.1307, 0.3081).flatten(1) for data in (train, test))
    return Task(x[rows], train.labels[rows], x_test, test.labels, nn.functional.cross_entropy, 10, math.log(10))


DATA = {"products": lru_cache(products), "digits": lru_cache(digits)}

# --- rules --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """A network as initialised, and the rate of each layer for a common factor of one."""

    net: nn.Sequential
    rates: Sequence[float]


def mlp(inputs: int, width: int, depth: int, outputs: int) -> nn.Sequential:
    """ReLU network of ``depth`` weight layers without biases, at torch's default initialisation."""
    sizes = [inputs, *[width] * (depth - 1), outputs]
    parts: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        parts += [nn.Linear(fan_in, fan_out, bias=False), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


@lru_cache(maxsize=2 * len(SEEDS))
def start(data: str, rule: str, width: int, depth: int, seed: int) -> Start:
    """Initialise by the rule."""
    task = DATA[data](seed)
    name, _, optimizer = rule.partition(", ")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 + seed)
        net = mlp(task.x.shape[1], width, depth, task.outputs)
        weights = list(net.parameters())
        if name == "default":
            return Start(net, [1.0] * depth)
        if rule in TUNED:
            step = optimizer or "sgd"
            rescale_init(net, task.loss, (task.x, task.y), rule="fsc", steps=step)
            limit = {"max_sharpness": None} if name == "first-order" else {}
            groups = feature_speed_groups(net, task.loss, (task.x, task.y), rule=step, **limit)
            return Start(net, [group["lr"] for group in groups])
        if name == "he":
            for weight in weights:
                nn.init.kaiming_normal_(weight, nonlinearity="relu")
            return Start(net, [1.0] * depth)
        layers = scaling_rule(name, depth, width, task.x.shape[1]).layers()
        for weight, layer in zip(weights, layers, strict=True):
            nn.init.normal_(weight, std=layer.std)
        return Start(net, [layer.rate for layer in layers])


# --- one run ------------------------------------------------------------------------------------------------------


def train(data: str, rule: str, width: int, depth: int, seed: int, exponent: int) -> dict[str, float | None]:
    """Training loss after all steps (mean of the last ten) and test loss; None where training diverged."""
    task, begin = DATA[data](seed), start(data, rule, width, depth, seed)
    net = copy.deepcopy(begin.net)
    groups = [
        {"params": [weight], "lr": 2.0**exponent * rate}
        for weight, rate in zip(net.parameters(), begin.rates, strict=True)
    ]
    optimizer = torch.optim.Adam(groups) if rule.endswith("adam") else torch.optim.SGD(groups)
    seen: list[float] = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = task.loss(net(task.x), task.y)
        seen.append(loss.item())
        if not seen[-1] <= DIVERGED * max(seen[0], task.constant):
            return {"loss": None, "test": None}
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        seen.append(float(task.loss(net(task.x), task.y)))
        test = float(task.loss(net(task.x_test), task.y_test))
    found = float(np.mean(seen[-LAST:]))
    return {"loss": found, "test": test} if math.isfinite(found) else {"loss": None, "test": None}


class Runs:
    """All runs so far, in memory and in the file; what is missing is run when it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.found = {tuple(key): value for key, value in map(json.loads, lines)}

    def loss(self, *key: Any) -> float:
        """Training loss, infinite where training diverged."""
        if key not in self.found:
            self.found[key] = train(*key)
            with self.path.open("a") as file:
                file.write(json.dumps([key, self.found[key]]) + "\n")
        value = self.found[key]["loss"]
        return math.inf if value is None else value

    def curve(self, *size: Any, what: str = "loss", seeds: Sequence[int] = SEEDS) -> dict[int, float]:
        """Median over seeds by exponent, of the exponents at which all of them were run."""
        exponents = sorted({key[5] for key in self.found if key[:4] == size})
        complete = [e for e in exponents if all((*size, seed, e) in self.found for seed in seeds)]
        values = {e: [self.found[(*size, seed, e)][what] for seed in seeds] for e in complete}
        return {e: median(math.inf if v is None else v for v in found) for e, found in values.items()}


# --- search -------------------------------------------------------------------------------------------------------


def search(runs: Runs, size: tuple[Any, ...], begin: int, seeds: Sequence[int], margin: int) -> int:
    """Exponent of the best rate: ``margin`` neighbours on each side are worse, or the next larger one diverges."""
    wanted: int | None = begin
    while wanted is not None:
        for seed in seeds:
            runs.loss(*size, seed, wanted)
        curve = runs.curve(*size, seeds=seeds)
        best = min(curve, key=lambda e: (curve[e], e))
        wanted = next((e for e in around(best, curve, margin) if e not in curve), None)
    return best


def around(best: int, curve: dict[int, float], margin: int) -> Iterator[int]:
    """Exponents that must be known before the best one counts as such."""
    for k in range(1, margin + 1):
        yield max(best - k, COARSE.start)
        larger = best + k
        if larger <= COARSE.stop and curve.get(larger - 1, 0.0) < math.inf:
            yield larger


def best_rate(runs: Runs, size: tuple[Any, ...], begin: int | None) -> int:
    """Search with one seed, then with all of them."""
    if begin is None:
        for exponent in COARSE:
            runs.loss(*size, SEEDS[0], exponent)
        coarse = runs.curve(*size, seeds=SEEDS[:1])
        begin = min(coarse, key=lambda e: (coarse[e], e))
    return search(runs, size, search(runs, size, begin, SEEDS[:1], 2), SEEDS, 1)


def sizes(over: str) -> list[tuple[int, int]]:
    """Width and depth, from the smallest."""
    return [(width, AT_DEPTH) for width in WIDTHS] if over == "width" else [(AT_WIDTH, depth) for depth in DEPTHS]


def study(runs: Runs, data: str, rule: str, over: str, count: int) -> None:
    """The first ``count`` sizes: best rate of each, and the loss at the rate that is best at the smallest."""
    exponent: int | None = None
    smallest = 0
    for place, size in enumerate(sizes(over)[:count]):
        exponent = best_rate(runs, (data, rule, *size), exponent)
        smallest = smallest if place else exponent
        for taken in {smallest, 0} if rule in TUNED else {smallest}:
            for seed in SEEDS:
                runs.loss(data, rule, *size, seed, taken)


# --- what was found -----------------------------------------------------------------------------------------------


def summary(runs: Runs, data: str, rule: str, over: str) -> dict[str, Any] | None:
    """Best rate by size, its drift, and what a rate taken from the smallest size costs; None where nothing was run."""
    rows = []
    for size in sizes(over):
        curve, test = (runs.curve(data, rule, *size, what=what) for what in ("loss", "test"))
        taken = rows[0]["best"] if rows else min(curve, default=0)
        if taken not in curve or (rule in TUNED and 0 not in curve):
            break
        best = min(curve, key=lambda e: (curve[e], e))
        taken = rows[0]["best"] if rows else best
        rows.append(
            {
                over: size[over == "depth"],
                "best": best,
                "loss": curve[best],
                "test": test[best],
                "loss at the rate of the smallest": finite(curve[taken]),
                **({"loss without tuning": finite(curve[0])} if rule in TUNED else {}),
                "learns": curve[best] < UNTRAINED * DATA[data](0).constant,
                "losses of each draw": {
                    str(e): [runs.found[(data, rule, *size, seed, e)]["loss"] for seed in SEEDS] for e in curve
                },
            }
        )
    learned = [row for row in rows if row["learns"]]
    if len(learned) < 2:
        return {"rows": rows, "drift": None, "slope": None} if rows else None
    logs = np.log2([row[over] for row in learned])
    return {
        "rows": rows,
        "drift": learned[-1]["best"] - learned[0]["best"],
        "slope": float(np.polyfit(logs, [row["best"] for row in learned], 1)[0]),
    }


def finite(value: float) -> float | None:
    """For JSON: None where training diverged."""
    return value if math.isfinite(value) else None


def write(runs: Runs) -> None:
    """Summarise all runs there are."""
    found = {
        data: {
            over: {rule: told for rule in SGD_RULES + ADAM_RULES if (told := summary(runs, data, rule, over))}
            for over in ("width", "depth")
        }
        for data in DATA
    }
    corrected = [
        told[rule]["drift"]
        for by_data in found.values()
        for told in by_data.values()
        for rule in ("fsc", "measured")
        if rule in told
    ]
    holds = bool(corrected) and all(drift is not None and abs(drift) <= 1 for drift in corrected)
    settings = {"rows": ROWS, "steps": STEPS, "seeds": len(SEEDS), "depth": AT_DEPTH, "width": AT_WIDTH}
    report(__file__, holds, settings=settings, unit="exponent of two: of the rate, or of the common factor", **found)


def main() -> None:
    """All that is missing, cheap sizes first."""
    torch.set_num_threads(1)
    default = Path(tempfile.gettempdir()) / f"{Path(__file__).stem}.jsonl"
    path = Path(sys.argv[1]) if sys.argv[1:] else default
    runs = Runs(path)
    plan = [
        *(("products", rule, count) for count in (4, 5) for rule in SGD_RULES),
        *(("digits", rule, 4) for rule in IMAGE_RULES),
        *(("products", rule, count) for count in (4, 5) for rule in ADAM_RULES),
        *(("digits", rule, 5) for rule in IMAGE_RULES),
    ]
    for data, rule, count in plan:
        if sys.argv[2:] and rule not in sys.argv[2:]:
            continue
        for over in ("width", "depth"):
            study(runs, data, rule, over, count)
        write(Runs(path))  # with what other processes have added


if __name__ == "__main__":
    main()
