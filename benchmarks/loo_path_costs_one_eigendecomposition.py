"""Twenty ridges with leave-one-out scores from one eigendecomposition, against twenty Cholesky factors.

Bound by: one symmetric eigendecomposition, 9 n^3 flops; every further ridge costs n^2 C.
"""

import torch
from measuring import interleaved, report

from featlearn.kernels import LaplaceKernel
from featlearn.linalg.loo import ridge_with_leave_one_out
from featlearn.linalg.ridge import RidgePath

N, MOST = 1500, 1.3
ALPHAS = [10.0**power for power in torch.linspace(-4, 2, 20).tolist()]


def main() -> None:
    source = torch.Generator().manual_seed(0)
    x = torch.randn(N, 20, generator=source, dtype=torch.float64)
    y = torch.randn(N, 3, generator=source, dtype=torch.float64)
    gram = LaplaceKernel(6.0).matrix(x, x)

    def path():
        found = RidgePath(gram, y)
        return [found.leave_one_out(alpha) for alpha in ALPHAS]

    def factors():
        return [ridge_with_leave_one_out(gram, y, alpha).residuals for alpha in ALPHAS]

    times = interleaved(
        {"eigendecomposition": lambda: torch.linalg.eigh(gram), "path of 20": path, "20 Cholesky factors": factors}, 3
    )
    ratio = times["path of 20"]["cpu"] / times["eigendecomposition"]["cpu"]
    difference = max(float((a - b).abs().max()) for a, b in zip(path(), factors(), strict=True))
    against = times["20 Cholesky factors"]["cpu"] / times["path of 20"]["cpu"]
    report(
        __file__, ratio <= MOST and difference < 1e-8, seconds=times, ratio=ratio, times_faster_than_factors=against,
        largest_difference=difference,
    )  # fmt: skip


if __name__ == "__main__":
    main()
