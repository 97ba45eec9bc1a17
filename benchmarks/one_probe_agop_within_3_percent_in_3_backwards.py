"""One random probe against exact mode in every layer of a trained ResNet-20: 1,000 images of CIFAR-10 (JPEG).

Bound by: one forward and one backward pass a batch. Reads FEATLEARN_DATA.
"""

import math
import time

import torch
from measuring import report

from featlearn import agop_of_module, measure_features
from featlearn.datasets import load_cifar10_jpeg, load_cifar_resnet

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEAST_COSINE, MOST_DIFFERENCE, MOST_PASSES = 0.97, 0.03, 3


def main() -> None:
    net = load_cifar_resnet("resnet20")
    batches = [x for x, _ in load_cifar10_jpeg("test", n=1000).batches(50, mean=MEAN, std=STD)]
    passes = 0

    def count(gradient: torch.Tensor) -> None:
        nonlocal passes
        passes += 1

    def counted(module: object, args: object, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.register_hook(count)

    times, agops, reports = {}, {}, {}
    for name, probes in (("exact", "exact"), ("one probe", 1)):
        reports[name] = measure_features(net, batches, probes=probes)
        handle = net.register_forward_hook(counted)
        passes, start = 0, time.perf_counter()
        agops[name] = agop_of_module(net, batches, probes=probes)
        times[name] = time.perf_counter() - start
        handle.remove()
    layers = {}
    for name, layer in reports["exact"].layers.items():
        if layer.trivial:
            continue
        exact, probed = agops["exact"][name].agop().double(), agops["one probe"][name].agop().double()
        cosine = float((exact * probed).sum() / (exact.norm() * probed.norm()))
        layers[name] = {"cosine": cosine, "nfa_difference": reports["one probe"][name].nfa - layer.nfa}
    least = min(entry["cosine"] for entry in layers.values())
    most = max(abs(entry["nfa_difference"]) for entry in layers.values())
    per_batch = passes / len(batches)
    holds = least >= LEAST_COSINE and most <= MOST_DIFFERENCE and per_batch <= MOST_PASSES and math.isfinite(most)
    report(
        __file__,
        holds,
        least_cosine=least,
        largest_nfa_difference=most,
        backward_passes_a_batch=per_batch,
        seconds=times,
        speedup=times["exact"] / times["one probe"],
        layers=layers,
    )


if __name__ == "__main__":
    main()
