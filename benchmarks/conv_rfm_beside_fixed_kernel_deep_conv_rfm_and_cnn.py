"""Fixed convolutional kernel, ConvRFM, Deep ConvRFM and CNN on natural images, 500 to 5,000 of them: who is best?

Test accuracy on 2,000 test images of Fashion-MNIST, MNIST and CIFAR-10 (JPEG), 3 x 3 patches, three layers; ridge and
iterate (learning rate and epochs) chosen on training images alone. The claim of the name's question, that a learned
patch metric helps, holds where ConvRFM beats the fixed kernel on the same test images by two standard errors of the
paired difference.

    python conv_rfm_beside_fixed_kernel_deep_conv_rfm_and_cnn.py [n ...]

The four files of Fashion-MNIST are read from the folder that ``FASHION_MNIST`` names. Rows that are in the result file
already are kept, so that it can be run size by size.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cnns import fit_cnn
from measuring import RESULTS, report
from torch import Tensor

from featlearn import ConvRFMClassifier, DeepConvRFMClassifier
from featlearn.datasets import ImageData, load_cifar10_jpeg, load_fashion_mnist, load_mnist

SETS: dict[str, Callable[..., ImageData]] = {
    "Fashion-MNIST": partial(load_fashion_mnist, folder=os.environ.get("FASHION_MNIST")),
    "MNIST": load_mnist,
    "CIFAR-10 (JPEG)": load_cifar10_jpeg,
}
SIZES = (500, 1000, 2000, 5000)
TEST = 2000
DEEP = {"layers": 3, "width": 32, "max_iter": 1}
DEEP_UP_TO = 1000  # images; above, the later layers (288 numbers a patch) would take hours for all three sets


def images(load: Any, split: str, n: int) -> tuple[Tensor, Tensor]:
    """Pixels between 0 and 1, and labels."""
    data = load(split, n=n)
    return data.images.float() / 255, data.labels


def one(name: str, n: int) -> dict[str, Any]:
    """All contestants on one set and size."""
    X, y = images(SETS[name], "train", n)
    X_test, y_test = images(SETS[name], "test", TEST)
    contestants: dict[str, Any] = {
        "fixed kernel": ConvRFMClassifier(max_iter=0, random_state=0),
        "ConvRFM": ConvRFMClassifier(random_state=0),
    }
    if n <= DEEP_UP_TO:
        contestants["Deep ConvRFM"] = DeepConvRFMClassifier(**DEEP, random_state=0)
    right: dict[str, Tensor] = {}
    rows: dict[str, Any] = {"data": name, "n": n}
    for label, machine in contestants.items():
        begun = time.perf_counter()
        machine.fit(X, y)
        seconds = time.perf_counter() - begun
        right[label] = torch.as_tensor(machine.predict(X_test)) == y_test
        last = machine.layers_[-1] if label == "Deep ConvRFM" else machine
        rows[label] = told(right[label]) | {
            "seconds": seconds,
            "ridge": last.alpha_,
            "steps": [one.n_iter_ for one in machine.layers_] if label == "Deep ConvRFM" else machine.n_iter_,
            "by": last.selection_.method,
        }
        print(name, n, label, rows[label], flush=True)
    begun = time.perf_counter()
    cnn = fit_cnn(X, y, epochs=15 if n >= 2000 else 25)
    right["CNN"] = cnn.predict(X_test) == y_test
    rows["CNN"] = told(right["CNN"]) | {"seconds": time.perf_counter() - begun, "rate": cnn.rate, "epochs": cnn.epochs}
    print(name, n, "CNN", rows["CNN"], flush=True)
    for label in [name for name in right if name != "fixed kernel"]:
        gain = right[label].double() - right["fixed kernel"].double()
        rows[label]["gain over the fixed kernel"] = {
            "mean": float(gain.mean()),
            "standard_error": float(gain.std() / len(gain) ** 0.5),
        }
    return rows


def told(right: Tensor) -> dict[str, float]:
    """Accuracy with its binomial standard error."""
    p = float(right.double().mean())
    return {"accuracy": p, "standard_error": (p * (1 - p) / len(right)) ** 0.5}


def main() -> None:
    """Run what is missing, write all."""
    path = RESULTS / f"{Path(__file__).stem}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for n in [int(argument) for argument in sys.argv[1:]] or SIZES:
        for name in SETS:
            if any((row["data"], row["n"]) == (name, n) for row in rows):
                continue
            rows.append(one(name, n))
            gains = [row["ConvRFM"]["gain over the fixed kernel"] for row in rows]
            holds = all(gain["mean"] > 2 * gain["standard_error"] for gain in gains)
            report(
                __file__, holds, rows=sorted(rows, key=lambda row: (row["data"], row["n"])), test_images=TEST, deep=DEEP
            )


if __name__ == "__main__":
    main()
