"""A machine on 300 rows of 3,000 columns: in the span of the rows, against a metric over all columns.

With power 1: smaller ones raise what rounding leaves in the directions that no row has, of which the whole metric has
2,700 and the span none.

Bound by: the QR factors of the rows, 2 d n^2 flops; a metric has n^2 numbers instead of d^2.
"""

import json
import time

import torch
from measuring import MEGABYTE, child_arguments, in_fresh_process, peak_bytes, report

from featlearn.machines import loop
from featlearn.machines.loop import Recipe, run
from featlearn.machines.rules import KERNELS, Bandwidth, MetricRule

N, D = 300, 3000


def child(in_span: bool) -> dict[str, object]:
    if not in_span:
        loop.lives_in_the_span = lambda *arguments: False
    source = torch.Generator().manual_seed(0)
    x = torch.randn(N, D, generator=source)
    y = (x[:, :1] * x[:, 1:2]).contiguous()
    recipe = Recipe(KERNELS["laplace"], Bandwidth(1.0), ((1e-3,),), MetricRule(1.0), max_iter=2, selected=False)
    before, wall, cpu = peak_bytes(), time.perf_counter(), time.process_time()
    found = run(recipe, x, y)
    spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    z = torch.randn(5, D, generator=source)
    values = found.kernel.expansion(x, z, found.dual)[:, 0].tolist()
    return {**spent, "megabytes": (peak_bytes() - before) / MEGABYTE, "predictions": values}


def main() -> None:
    span, whole = (in_fresh_process(__file__, in_span=in_span) for in_span in (True, False))
    pairs = zip(span["predictions"], whole["predictions"], strict=True)
    difference = max(abs(a - b) for a, b in pairs)
    memory, times = span["megabytes"] / whole["megabytes"], whole["cpu"] / span["cpu"]
    report(
        __file__, memory < 0.25 and difference < 1e-3, span=span, whole=whole, memory_ratio=memory,
        times_faster=times, largest_difference=difference,
    )  # fmt: skip


if __name__ == "__main__":
    arguments = child_arguments()
    if arguments is None:
        main()
    else:
        print(json.dumps(child(**arguments)))
