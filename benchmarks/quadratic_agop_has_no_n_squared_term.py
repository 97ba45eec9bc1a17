"""AGOP of a quadratic kernel machine, 8,000 to 128,000 rows: the time grows with n, not with n^2.

Bound by: C (n d^2 + d^3) flops, from the Hessians of the outputs.
"""

import math

import torch
from measuring import interleaved, report

from featlearn.agop.of_kernel import agop_of_expansion
from featlearn.kernels import QuadraticKernel

SIZES, D, OUTPUTS, MOST = (8000, 32_000, 128_000), 60, 5, 1.3


def main() -> None:
    source = torch.Generator().manual_seed(0)
    contestants = {}
    for n in SIZES:
        x, dual = torch.randn(n, D, generator=source), torch.randn(n, OUTPUTS, generator=source)
        contestants[str(n)] = lambda x=x, dual=dual: agop_of_expansion(QuadraticKernel(), None, x, dual, x)
    times = interleaved(contestants, 3)
    first, last = (times[str(n)]["cpu"] for n in (SIZES[0], SIZES[-1]))
    exponent = math.log(last / first) / math.log(SIZES[-1] / SIZES[0])
    report(__file__, exponent <= MOST, seconds=times, exponent_in_n=exponent)


if __name__ == "__main__":
    main()
