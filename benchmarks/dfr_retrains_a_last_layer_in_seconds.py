"""What last-layer retraining costs: features at the price of a forward pass, and a head for 2,048 of them in seconds.

Head: 1,199 held-out rows with the groups of Waterbirds (467, 466, 133, 133), so that every balanced sample has 532 rows
with 2,048 features: seven fits to tune, of half the rows, and twenty that are averaged. Two sets of features: those of
a CNN with a layer of 2,048 ReLUs that was trained for two epochs on items on stripes, and Gaussian noise behind ReLUs,
with a core and a spurious direction that are spread over all of them.

Features: ``extract_features`` beside the bare loop ``for x in batches: model(x)`` in evaluation mode without gradients,
which keeps nothing, and against a loop that keeps what the last layer reads. All in one process, taking turns; memory
in fresh processes, of four times as many samples, above what libraries, network and data take.

The claim holds if a whole fit takes less than 60 s and a fit of 532 rows less than 1 s, and if extraction takes at most
1.1 times the time of the bare loop. CPU seconds of one thread, the smallest of five (of the heads, of two); about two
minutes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from measuring import MEGABYTE, child_arguments, in_fresh_process, interleaved, peak_bytes, report
from networks import noise, resnet18, transformer
from numpy.typing import NDArray
from spurious import cnn, train
from torch import Tensor, nn

from featlearn import DFRClassifier, extract_features
from featlearn.datasets import make_waterbirds_like

WIDTH, COUNTS = 2048, (467, 466, 133, 133)
MOST_SECONDS, MOST_SECONDS_A_FIT, MOST_TIMES = 60.0, 1.0, 1.1
NETS: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...], int, int]] = {  # network, sample, samples, batch
    "small CNN, 1 x 28 x 28, batches of 32": (lambda: cnn((1, 28, 28), 0), (1, 28, 28), 8192, 32),
    "small CNN, 1 x 28 x 28, batches of 256": (lambda: cnn((1, 28, 28), 0), (1, 28, 28), 8192, 256),
    "small CNN, 1 x 56 x 28, batches of 256": (lambda: cnn((1, 56, 28), 0), (1, 56, 28), 8192, 256),
    "ResNet-18, 3 x 32 x 32, batches of 32": (resnet18, (3, 32, 32), 64, 32),
    "transformer of 4 layers, 64 tokens of 256, batches of 32": (lambda: transformer(layers=4), (64, 256), 64, 32),
}


def of_a_network() -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Penultimate features of held-out rows, with labels and attributes."""
    data = make_waterbirds_like("auto", random_state=0)
    if tuple(data.validation.counts) != COUNTS:
        sys.exit("This benchmark reads the full Fashion-MNIST; see load_fashion_mnist for where it is looked for.")
    net = cnn(data.train.X.shape[1:], 0, width=WIDTH)
    for _ in train(net, data.train, "ERM", 0, epochs=2):
        pass
    held = data.validation
    return extract_features(net, torch.from_numpy(held.X).split(100)).numpy(), held.y, held.s


def of_noise() -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Noise behind ReLUs with a core and a spurious direction."""
    draw = np.random.default_rng(0)
    group = np.repeat(np.arange(4), COUNTS)
    y, s = group // 2, group % 2
    directions = draw.standard_normal((2, WIDTH)) / np.sqrt(WIDTH)
    shift = 3 * (2 * y - 1)[:, None] * directions[0] + 6 * (2 * s - 1)[:, None] * directions[1]
    return np.maximum(draw.standard_normal((len(y), WIDTH)) + shift, 0).astype(np.float32), y, s


def head_costs(Z: NDArray[Any], y: NDArray[Any], s: NDArray[Any]) -> dict[str, Any]:
    """CPU seconds of the whole fit and of one fit at either end of the grid."""

    def fit(**options: Any) -> DFRClassifier:
        return DFRClassifier(random_state=0, **options).fit(Z, y, (y, s))

    head = fit()
    times = interleaved(
        {
            "tuning and twenty fits": fit,
            "one fit, C = 1": lambda: fit(C=1.0, n_refits=1),
            "one fit, C as chosen": lambda: fit(C=head.C_, n_refits=1),
            "one fit, C = 0.01": lambda: fit(C=0.01, n_refits=1),
        },
        repeats=2,
    )
    return {
        "cpu_seconds": {name: time["cpu"] for name, time in times.items()},
        "chosen_C": head.best_C_,
        "rows_of_a_fit": head.n_effective_,
        "features": Z.shape[1],
        "coefficients_that_are_not_zero": int((head.coef_ != 0).sum()),
    }


def bare(net: nn.Module, batches: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for x in batches:
            net(x)


def by_hand(net: nn.Sequential, batches: Sequence[Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.cat([net[:-1](x) for x in batches])


LOOPS: dict[str, Callable[[nn.Sequential, Sequence[Tensor]], Any]] = {
    "bare loop": bare,
    "loop that keeps features": by_hand,
    "extract_features": extract_features,
}


def extraction_costs(name: str) -> dict[str, Any]:
    """CPU seconds of the three, and ratios."""
    make, shape, n, size = NETS[name]
    net, batches = make().eval(), noise(n, *shape).split(size)
    if not torch.allclose(extract_features(net, batches), by_hand(net, batches), atol=1e-6):
        raise SystemExit(f"extract_features and the loop disagree on {name}")
    times = interleaved({how: partial(loop, net, batches) for how, loop in LOOPS.items()}, repeats=5)
    cpu = {of: time["cpu"] for of, time in times.items()}
    return {
        "samples": n,
        "cpu_seconds": cpu,
        "milliseconds added to a batch": 1e3 * (cpu["extract_features"] - cpu["bare loop"]) / len(batches),
        "extraction over the bare loop": cpu["extract_features"] / cpu["bare loop"],
        "extraction over the loop that keeps features": cpu["extract_features"] / cpu["loop that keeps features"],
    }


def memory(name: str, how: str) -> dict[str, float]:
    """Peak above what is there before the first batch, in a process of its own."""
    make, shape, n, size = NETS[name]
    net, batches = make().eval(), noise(4 * n, *shape).split(size)
    before = peak_bytes()
    LOOPS[how](net, batches)
    return {"megabytes": (peak_bytes() - before) / MEGABYTE}


def main() -> None:
    torch.set_num_threads(1)
    arguments = child_arguments()
    if arguments:
        print(json.dumps(memory(**arguments)))
        return
    # First, while this process is small: the peak of a child begins at what its parent holds.
    peaks = {name: {how: in_fresh_process(__file__, name=name, how=how)["megabytes"] for how in LOOPS} for name in NETS}
    features = {name: extraction_costs(name) | {"peak_megabytes": peaks[name]} for name in NETS}
    heads = {"features of a CNN": head_costs(*of_a_network()), "noise behind ReLUs": head_costs(*of_noise())}
    holds = all(
        seconds <= (MOST_SECONDS if name == "tuning and twenty fits" else MOST_SECONDS_A_FIT)
        for found in heads.values()
        for name, seconds in found["cpu_seconds"].items()
    ) and all(found["extraction over the bare loop"] <= MOST_TIMES for found in features.values())
    report(__file__, holds, heads=heads, extraction=features)


if __name__ == "__main__":
    main()
