"""Exact mode on a ResNet-18 with 1,000 outputs: rank(V) = 512 passes instead of 1,000, and about half the time.

2 images of 32 x 32. Plain exact mode is had by handing over a copy of the logits.
"""

import torch
from measuring import interleaved, report
from networks import noise, resnet18

from featlearn.agop.batches import parse_batch
from featlearn.agop.finding import resolve_layers
from featlearn.agop.of_module import ModuleAGOP, agop_of_module
from featlearn.agop.taps import guest

EXPECTED, TOLERANCE = 0.5, 0.07


def main() -> None:
    model, x = resnet18(1000), noise(2, 3, 32, 32)
    chosen, _, _ = resolve_layers(model)
    accumulator = ModuleAGOP(model, chosen)
    with guest(model):
        accumulator.add(parse_batch(x, model), 0)
    compressed = agop_of_module(model, [x])
    plain = agop_of_module(model, [x], outputs=lambda m, b: m(b) * 1)
    error = max(
        float((compressed[name].agop() - layer.agop()).norm() / layer.agop().norm())
        for name, layer in plain.items()
        if layer.tangent_kernel is not None and compressed[name].tangent_kernel is not None
    )
    assert error < 1e-4, error
    times = interleaved(
        {
            "compressed": lambda: agop_of_module(model, [x]),
            "plain": lambda: agop_of_module(model, [x], outputs=lambda m, b: m(b) * 1),
        },
        repeats=2,
    )
    ratio = times["compressed"]["wall"] / times["plain"]["wall"]
    holds = accumulator.passes == 512 and abs(ratio - EXPECTED) <= TOLERANCE
    report(__file__, holds, passes=accumulator.passes, largest_error=error, seconds=times, ratio=ratio)


if __name__ == "__main__":
    torch.set_grad_enabled(True)
    main()
