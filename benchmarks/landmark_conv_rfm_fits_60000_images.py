"""All 60,000 training images of MNIST and of Fashion-MNIST in one ConvRFM, through 2,000 landmarks.

The fixed kernel and one AGOP step, ridge chosen by leave-one-out on the training images, 10,000 test images. Floor: one
evaluation of ``n p`` pairs of images a step, 1,736 positions of pairs each at depth 3 (2.1e11 in all), ``4 n p^2``
flops for the ridge system (1e12, half of them in double precision), and ``4 n p`` bytes (480 MB). The claim holds where
every fit takes less than 15 minutes and less than 4 GB above what images and libraries take, and gives a test accuracy
above that of the machine fitted to the landmarks alone.

The four files of Fashion-MNIST are read from the folder that ``FASHION_MNIST`` names.

    python landmark_conv_rfm_fits_60000_images.py [images] [landmarks] [steps]
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measuring import MEGABYTE, child_arguments, in_fresh_process, peak_bytes, report
from torch import Tensor

from featlearn import ConvRFMClassifier
from featlearn.datasets import ImageData, load_fashion_mnist, load_mnist

SETS: dict[str, Callable[..., ImageData]] = {
    "MNIST": load_mnist,
    "Fashion-MNIST": partial(load_fashion_mnist, folder=os.environ.get("FASHION_MNIST")),
}


def images(name: str, split: str, n: int | None) -> tuple[Tensor, Tensor]:
    """Pixels between 0 and 1, and labels."""
    data = SETS[name](split) if n is None else SETS[name](split, n=n)
    return data.images.float() / 255, data.labels


def measure(name: str, n: int | None, landmarks: int, steps: int) -> dict[str, Any]:
    """One fit in a process of its own, for its memory."""
    X, y = images(name, "train", n)
    X_test, y_test = images(name, "test", None)
    ConvRFMClassifier(max_iter=1, alpha=1e-2, selection=None).fit(X[:100], y[:100])  # compiles
    before = peak_bytes()
    begun, cpu = time.perf_counter(), time.process_time()
    machine = ConvRFMClassifier(landmarks=landmarks, max_iter=steps, random_state=0).fit(X, y)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    peak = peak_bytes() - before
    begun = time.perf_counter()
    right = torch.as_tensor(machine.predict(X_test)) == y_test
    predicting = time.perf_counter() - begun
    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(0))[:landmarks]
    few = ConvRFMClassifier(max_iter=steps, random_state=0).fit(X[order], y[order])
    alone = torch.as_tensor(few.predict(X_test)) == y_test
    table = machine.selection_.frame().sort_values("iteration")
    return {
        "images": len(X),
        "landmarks": landmarks,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "memory_megabytes": peak / MEGABYTE,
        "seconds of each step": [step["seconds"] for step in machine.history_],
        "leave-one-out error of each step": table["score"].tolist(),
        "ridge of each step": table["alpha"].tolist(),
        "chosen step": machine.n_iter_,
        "test accuracy": float(right.double().mean()),
        "standard error": float(right.double().std() / len(right) ** 0.5),
        "seconds to predict 10,000": predicting,
        "test accuracy of the landmarks alone": float(alone.double().mean()),
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Both sets, each in a fresh process."""
    arguments = child_arguments()
    if arguments is not None:
        print(json.dumps(measure(**arguments)))
        return
    numbers = [int(argument) for argument in sys.argv[1:]]
    n, landmarks, steps = (numbers + [60_000, 2_000, 1][len(numbers) :])[:3]
    found = {
        name: in_fresh_process(__file__, name=name, n=None if n == 60_000 else n, landmarks=landmarks, steps=steps)
        for name in SETS
    }
    holds = all(
        entry["seconds"] < 900
        and entry["memory_megabytes"] < 4000
        and entry["test accuracy"] > entry["test accuracy of the landmarks alone"]
        for entry in found.values()
    )
    report(__file__, holds, fits=found)


if __name__ == "__main__":
    main()
