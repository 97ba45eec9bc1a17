"""Peak memory on a ResNet-18, batches of 16 images: exact mode on 2 and 12 of them, one probe on 4 and 40.

The smallest of three fresh processes each: the allocator's own fluctuations are as large as a fifth.
"""

import json

import torch
from measuring import MEGABYTE, child_arguments, in_fresh_process, peak_bytes, report
from networks import noise, resnet18

BATCHES = {"exact": (2, 12), 1: (4, 40)}
MOST_SPREAD = 1.2


def child(batches: int, probes: str | int) -> None:
    from featlearn import agop_of_module

    model = resnet18()
    with torch.no_grad():
        model(noise(1, 3, 32, 32))  # libraries load their kernels
    before = peak_bytes()
    agop_of_module(model, (noise(16, 3, 32, 32, seed=i) for i in range(batches)), probes=probes)
    print(json.dumps((peak_bytes() - before) / MEGABYTE))


def main() -> None:
    peaks = {
        str(probes): {n: min(in_fresh_process(__file__, batches=n, probes=probes) for _ in range(3)) for n in counts}
        for probes, counts in BATCHES.items()
    }
    spread = max(max(p.values()) / min(p.values()) for p in peaks.values())
    report(__file__, spread <= MOST_SPREAD, most_spread=MOST_SPREAD, spread=spread, peak_megabytes=peaks)


if __name__ == "__main__":
    arguments = child_arguments()
    main() if arguments is None else child(**arguments)
