"""Peak memory of exact and of probe mode on a ResNet-18, 2 and 20 batches of 32 images: a fresh process each."""

import json

import torch
from measuring import MEGABYTE, child_arguments, in_fresh_process, peak_bytes, report
from networks import noise, resnet18

BATCHES = (2, 20)
MOST_SPREAD = 1.1


def child(batches: int, probes: str | int) -> None:
    from featlearn import agop_of_module

    model = resnet18()
    with torch.no_grad():
        model(noise(1, 3, 32, 32))  # libraries load their kernels
    before = peak_bytes()
    agop_of_module(model, (noise(32, 3, 32, 32, seed=i) for i in range(batches)), probes=probes)
    print(json.dumps((peak_bytes() - before) / MEGABYTE))


def main() -> None:
    peaks = {
        str(probes): {n: in_fresh_process(__file__, batches=n, probes=probes) for n in BATCHES}
        for probes in ("exact", 1)
    }
    spread = max(max(p.values()) / min(p.values()) for p in peaks.values())
    report(__file__, spread <= MOST_SPREAD, most_spread=MOST_SPREAD, spread=spread, peak_megabytes=peaks)


if __name__ == "__main__":
    arguments = child_arguments()
    main() if arguments is None else child(**arguments)
