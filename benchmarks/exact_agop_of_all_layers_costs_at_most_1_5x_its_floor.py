"""Exact mode against its floor: one forward pass and one backward pass an output, parameters frozen, nothing kept.

ResNet-18 with the CIFAR stem on 16 images of 32 x 32, 10 outputs; and a 12-layer transformer encoder of width 256 on
16 sequences of 64 tokens. Bound by: the backward passes themselves, then the products K += g g^T.
"""

import torch
from measuring import interleaved, report
from networks import noise, resnet18, transformer
from torch import nn

from featlearn import agop_of_module
from featlearn.agop.finding import find_layers

MOST = 1.5


def floor(model: nn.Module, x: torch.Tensor) -> None:
    """Forward, then every output's gradient down to the outputs of the lowest measured layers."""
    anchors = []

    def root(module: nn.Module, args: object, output: object) -> object:
        if not isinstance(output, torch.Tensor) or output.requires_grad:
            return None
        anchor = torch.zeros((), requires_grad=True)
        anchors.append(anchor)
        return output.detach() + anchor

    first = next(iter(find_layers(model)[0].values())).module
    handle = first.register_forward_hook(
        root if not isinstance(first, nn.MultiheadAttention) else lambda m, a, o: (root(m, a, o[0]), o[1])
    )
    try:
        outputs = model(x)
        for c in range(outputs.shape[1]):
            torch.autograd.grad(outputs[:, c].sum(), anchors, retain_graph=True)
    finally:
        handle.remove()


def main() -> None:
    torch.backends.mha.set_fastpath_enabled(False)
    cases = {
        "resnet18": (resnet18(), noise(16, 3, 32, 32)),
        "transformer": (transformer(), noise(16, 64, 256)),
    }
    results = {}
    for name, (model, x) in cases.items():
        model.requires_grad_(False)
        times = interleaved(
            {"floor": lambda m=model, x=x: floor(m, x), "agop_of_module": lambda m=model, x=x: agop_of_module(m, [x])}
        )
        times["ratio"] = {key: times["agop_of_module"][key] / times["floor"][key] for key in ("wall", "cpu")}
        results[name] = times
    report(__file__, results["resnet18"]["ratio"]["wall"] <= MOST, most=MOST, seconds=results)


if __name__ == "__main__":
    main()
