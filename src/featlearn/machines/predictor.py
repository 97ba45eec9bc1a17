"""A fitted machine as a function: encoded columns in, kernel expansion out; all that serving needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..kernels import Kernel, MeanKernel, Metric
from .columns import FittedColumns
from .tables import as_table

__all__ = ["Predictor", "parts_of_kernel"]

ROWS = 65_536  # rows of X that are encoded at once


@dataclass(frozen=True, eq=False)
class Predictor:
    r"""``f(z) = scale * sum_i dual_i k(x_i, z)`` with the training rows kept as the kernels see them.

    Attributes
    ----------
    columns : FittedColumns
    metrics : tuple of Metric
        One a part; the kernel is their mean.
    bases : tuple of Tensor of shape (n, k)
        Training rows, warped and multiplied by the factor of each part.
    dual : Tensor of shape (n, C)
    scale : float
        Unit of the targets.

    Notes
    -----
    Prediction costs ``2 m n (k + C)`` flops a part.
    """

    columns: FittedColumns
    metrics: tuple[Metric, ...]
    bases: tuple[Tensor, ...]
    dual: Tensor
    scale: float = 1.0

    @classmethod
    def of(cls, columns: FittedColumns, kernel: Kernel, x: Tensor, dual: Tensor, scale: float = 1.0) -> Predictor:
        """From the kernel of the loop and the encoded training rows."""
        metrics = parts_of_kernel(kernel)
        return cls(columns, metrics, tuple(metric.project(x) for metric in metrics), dual, scale)

    @property
    def dtype(self) -> torch.dtype:
        """Of all computations."""
        return self.dual.dtype

    @torch.no_grad()
    def expansion(self, X: Any) -> Tensor:
        """Values (m, C) at the rows of X, read in chunks of rows."""
        n = as_table(X).n_rows
        chunks = [X] if n <= ROWS else [_rows(X, start) for start in range(0, n, ROWS)]
        return torch.cat([self.of_encoded(self._encoded(chunk)) for chunk in chunks])

    def _encoded(self, X: Any) -> Tensor:
        return self.columns.transform(X, self.dtype).to(self.dual.device)

    def of_encoded(self, z: Tensor) -> Tensor:
        """Values (m, C) at encoded rows (m, p)."""
        values = [
            metric.kernel.expansion(basis, metric.project(z), self.dual)
            for metric, basis in zip(self.metrics, self.bases, strict=True)
        ]
        return torch.stack(values).mean(dim=0) * self.scale if len(values) > 1 else values[0] * self.scale

    def project(self, X: Any) -> Tensor:
        """Rows of X as the kernel of the first part sees them, (m, k): the learned feature space."""
        return self.metrics[0].project(self._encoded(X))


def parts_of_kernel(kernel: Kernel) -> tuple[Metric, ...]:
    """The parts of a machine's kernel, each as a metric around a kernel."""
    kernels = kernel.kernels if isinstance(kernel, MeanKernel) else (kernel,)
    return tuple(part if isinstance(part, Metric) else Metric(part) for part in kernels)


def _rows(X: Any, start: int) -> Any:
    rows = slice(start, start + ROWS)
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]
