"""Peak memory of one probe against a training step (SGD) on the same model and batch: a fresh process each.

ResNet-18 on 32 images of 32 x 32; a 12-layer transformer encoder of width 256 on 32 sequences of 64 tokens.
"""

import json

import torch
from measuring import MEGABYTE, child_arguments, in_fresh_process, peak_bytes, report
from networks import noise, resnet18, transformer
from torch import nn

MOST = 2.0


def child(network: str, contestant: str) -> None:
    from featlearn import agop_of_module

    model, shape = (resnet18(), (3, 32, 32)) if network == "resnet18" else (transformer(), (64, 256))
    x = noise(32, *shape)
    with torch.no_grad():
        model(x[:1])  # libraries load their kernels
    before = peak_bytes()
    if contestant == "training step":
        optimizer = torch.optim.SGD(model.train().parameters(), lr=0.1)
        nn.functional.cross_entropy(model(x), torch.arange(32) % 10).backward()
        optimizer.step()
    else:
        agop_of_module(model, [x], probes=1)
    print(json.dumps((peak_bytes() - before) / MEGABYTE))


def main() -> None:
    results = {}
    for network in ("resnet18", "transformer"):
        peaks = {c: in_fresh_process(__file__, network=network, contestant=c) for c in ("training step", "one probe")}
        results[network] = {"peak_megabytes": peaks, "ratio": peaks["one probe"] / peaks["training step"]}
    holds = all(entry["ratio"] <= MOST for entry in results.values())
    report(__file__, holds, most=MOST, **results)


if __name__ == "__main__":
    arguments = child_arguments()
    main() if arguments is None else child(**arguments)
