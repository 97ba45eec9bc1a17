"""Peak memory of one probe on a ResNet-18 with 10, 1,000 and 20,000 outputs: a fresh process each, 32 images.

Counted beyond the loaded process (so weights are out) and beyond the logits. Bound by the activations of one batch.
"""

import json

import torch
from measuring import MEGABYTE, child_arguments, in_fresh_process, peak_bytes, report
from networks import noise, resnet18

OUTPUTS = (10, 1000, 20000)
MOST_SPREAD = 1.2
IMAGES = 32


def child(outputs: int) -> None:
    from featlearn import agop_of_module

    model, x = resnet18(outputs), noise(IMAGES, 3, 32, 32)
    with torch.no_grad():
        model(x[:1])  # libraries load their kernels
    before = peak_bytes()
    agop_of_module(model, [x], probes=1)
    logits = 4 * IMAGES * outputs
    print(json.dumps((peak_bytes() - before - logits) / MEGABYTE))


def main() -> None:
    peaks = {outputs: in_fresh_process(__file__, outputs=outputs) for outputs in OUTPUTS}
    spread = max(peaks.values()) / min(peaks.values())
    report(__file__, spread <= MOST_SPREAD, most_spread=MOST_SPREAD, spread=spread, peak_megabytes=peaks)


if __name__ == "__main__":
    arguments = child_arguments()
    main() if arguments is None else child(**arguments)
