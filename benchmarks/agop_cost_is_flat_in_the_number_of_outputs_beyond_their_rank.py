"""AGOP of a kernel expansion with 5 to 500 outputs of rank 5: the outputs are replaced by as many as their rank.

Bound by: one product of the n x n slopes with n x (rank d) numbers.
"""

import torch
from measuring import interleaved, report

from featlearn.agop.of_kernel import agop_of_expansion
from featlearn.kernels import LaplaceKernel

N, D, RANK, MOST = 4000, 50, 5, 1.3


def main() -> None:
    source = torch.Generator().manual_seed(0)
    x = torch.randn(N, D, generator=source)
    base = torch.randn(N, RANK, generator=source)
    duals = {outputs: base @ torch.randn(RANK, outputs, generator=source) for outputs in (5, 50, 500)}
    kernel, rows = LaplaceKernel(10.0), torch.arange(N)
    contestants = {
        f"{outputs} outputs": lambda dual=dual: agop_of_expansion(kernel, None, x, dual, x, rows=rows)
        for outputs, dual in duals.items()
    }
    times = interleaved(contestants, 3)
    ratio = times["500 outputs"]["cpu"] / times["5 outputs"]["cpu"]
    floor = 2 * N * N * D * RANK
    report(__file__, ratio <= MOST, seconds=times, ratio=ratio, floor_flops=floor)


if __name__ == "__main__":
    main()
