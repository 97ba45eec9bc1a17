"""One ridge system of a Laplace kernel by preconditioned conjugate gradients and by Cholesky, 2,000 to 8,000 rows.

Bound by: reading the kernel matrix once an iteration, against n^3/3 flops.
"""

import torch
from measuring import interleaved, report

from featlearn.kernels import LaplaceKernel
from featlearn.linalg.ridge import RidgeSolver, solve_ridge

SIZES, CHANGE = (2000, 4000, 8000), 4000


def main() -> None:
    rows = []
    for n in SIZES:
        source = torch.Generator().manual_seed(0)
        x = torch.randn(n, 50, generator=source)
        y = (x[:, :1] * x[:, 1:2]).contiguous()
        gram = LaplaceKernel(10.0).fill_(x, torch.empty(n, n))
        solvers = {
            "cholesky": RidgeSolver("cholesky"),
            "pcg, tolerance 1e-2": RidgeSolver("pcg", tol=1e-2),
            "pcg, tolerance 1e-4": RidgeSolver("pcg", tol=1e-4),
        }
        times = interleaved(
            {
                name: lambda solver=solver, gram=gram, y=y: solve_ridge(gram, y, 1e-3, solver=solver, overwrite=True)
                for name, solver in solvers.items()
            },
            2,
        )
        iterations = {name: solve_ridge(gram, y, 1e-3, solver=s, overwrite=True).n_iter for name, s in solvers.items()}
        rows.append({"n": n, "seconds": times, "iterations": iterations})
    holds = all(
        row["seconds"]["pcg, tolerance 1e-4"]["cpu"] < row["seconds"]["cholesky"]["cpu"]
        for row in rows
        if row["n"] > CHANGE
    )
    report(__file__, holds, runs=rows)


if __name__ == "__main__":
    main()
