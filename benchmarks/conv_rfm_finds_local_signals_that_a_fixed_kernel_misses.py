"""A star in noise, noisy digits in a frame, one informative row: does one patch metric for the whole image find them?

Test accuracy of the fixed convolutional kernel, of ConvRFM and of a CNN of the same architecture, five seeds each,
ridge and iterate (learning rate and epochs) chosen on training images alone. Beside them the published recipes, whose
ridge and number of steps are fixed beforehand. The claim holds where ConvRFM beats the fixed kernel by more than two
standard errors of the mean difference over seeds, in all three.

    python conv_rfm_finds_local_signals_that_a_fixed_kernel_misses.py [seeds]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from cnns import fit_cnn
from measuring import report
from torch import Tensor

from featlearn import ConvRFMClassifier
from featlearn.datasets import LocalSignals, digits_in_noise, informative_rows, stars_in_noise

Data = tuple[LocalSignals, LocalSignals]

TASKS: dict[str, dict[str, Any]] = {
    "star in noise, 50 images": {
        "data": lambda seed: (stars_in_noise(50, random_state=seed), stars_in_noise(2050, random_state=1000 + seed)),
        "kernel": {"patch_size": 11, "depth": 1},
        "recipe": {"alpha": 1e-3, "max_iter": 1, "agop_images": 20},
        "honest": {"max_iter": 2, "agop_images": 20},
        "cnn": {"width": 64, "epochs": 40},
    },
    "noisy digits in a frame, 1,000 images": {
        "data": lambda seed: (
            digits_in_noise(1000, random_state=seed),
            digits_in_noise(2000, split="test", random_state=1000 + seed),
        ),
        "kernel": {"patch_size": 3, "depth": 3},
        "recipe": {"alpha": 1e-5, "max_iter": 3, "agop_images": 20},
        "honest": {},
        "cnn": {"width": 16, "epochs": 15},
    },
    "one informative row, 500 images": {
        "data": lambda seed: (
            informative_rows(500, random_state=seed),
            informative_rows(500, random_state=1000 + seed),
        ),
        "kernel": {"patch_size": 3, "depth": 3},
        "recipe": {"alpha": 1e-3, "max_iter": 3, "agop_images": 20},
        "honest": {},
        "cnn": {"width": 32, "epochs": 20},
    },
}


def accuracy(predict: Callable[[Any], Any], test: LocalSignals) -> float:
    """Share of the test images whose class is predicted."""
    return float((torch.as_tensor(predict(test.X)) == test.y).double().mean())


def along_the_recipe(
    kernel: dict[str, int], recipe: dict[str, Any], train: LocalSignals, test: LocalSignals
) -> list[float]:
    """Test accuracy after 0, 1, ... steps of the published recipe."""
    found = []
    for steps in range(recipe["max_iter"] + 1):
        own = {**kernel, **recipe, "max_iter": steps}
        machine = ConvRFMClassifier(**own, selection=None, random_state=0).fit(train.X, train.y)
        found.append(accuracy(machine.predict, test))
    return found


def one_seed(task: dict[str, Any], seed: int) -> dict[str, Any]:
    """Accuracies of all contestants on one draw of the data."""
    train, test = task["data"](seed)
    found: dict[str, Any] = {"recipe": along_the_recipe(task["kernel"], task["recipe"], train, test)}
    for name, own in (("fixed kernel", {"max_iter": 0}), ("ConvRFM", {})):
        begun = time.perf_counter()
        machine = ConvRFMClassifier(**task["kernel"], **task["honest"] | own, random_state=seed).fit(train.X, train.y)
        found[name] = accuracy(machine.predict, test)
        found[f"{name}, chosen"] = {
            "ridge": machine.alpha_,
            "steps": machine.n_iter_,
            "by": machine.selection_.method,
            "seconds": time.perf_counter() - begun,
        }
        if name == "ConvRFM":
            leading = torch.as_tensor(machine.directions_[0])
            found["energy of the leading direction by channel"] = leading.square().sum(dim=(1, 2)).tolist()
            found["saliency inside the signal over outside"] = looks(machine, test)
    begun = time.perf_counter()
    cnn = fit_cnn(train.X, train.y, **task["kernel"], **task["cnn"], seed=seed)
    found["CNN"] = accuracy(cnn.predict, test)
    found["CNN, chosen"] = {"rate": cnn.rate, "epochs": cnn.epochs, "seconds": time.perf_counter() - begun}
    return found


def looks(machine: ConvRFMClassifier, test: LocalSignals) -> float:
    """Mean saliency on the signal over that elsewhere, on 20 test images that have one."""
    some: Tensor = test.informative.flatten(1).any(dim=1).nonzero()[:20, 0]
    saliency, inside = machine.saliency(test.X[some]), test.informative[some]
    return float(saliency[inside].mean() / saliency[~inside].mean())


def summary(runs: list[dict[str, Any]], name: str) -> dict[str, float]:
    """Mean and standard deviation over seeds."""
    values = np.array([run[name] for run in runs])
    return {"mean": float(values.mean()), "deviation": float(values.std(ddof=1)) if len(values) > 1 else float("nan")}


def main() -> None:
    """Run all tasks and write the results."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    results, holds = {}, True
    for name, task in TASKS.items():
        runs = []
        for seed in range(seeds):
            runs.append(one_seed(task, seed))
            print(name, seed, {key: runs[-1][key] for key in ("recipe", "fixed kernel", "ConvRFM", "CNN")}, flush=True)
        gains = np.array([run["ConvRFM"] - run["fixed kernel"] for run in runs])
        error = float(gains.std(ddof=1) / len(gains) ** 0.5) if len(gains) > 1 else float("nan")
        holds = holds and bool(gains.mean() > 2 * error)
        results[name] = {
            "accuracy": {key: summary(runs, key) for key in ("fixed kernel", "ConvRFM", "CNN")},
            "accuracy along the recipe": np.mean([run["recipe"] for run in runs], axis=0).tolist(),
            "deviation along the recipe": np.std([run["recipe"] for run in runs], axis=0, ddof=1).tolist(),
            "gain of ConvRFM over the fixed kernel": {"mean": float(gains.mean()), "standard_error": error},
            "settings": {key: value for key, value in task.items() if key != "data"},
            "seeds": runs,
        }
    report(
        __file__,
        holds,
        tasks=results,
        selection="five folds, or leave-one-out where q (q + 1) / 2 <= n; never test images",
    )


if __name__ == "__main__":
    main()
