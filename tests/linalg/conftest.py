"""Small kernel ridge systems: a Laplace kernel on normal rows, smooth targets with noise."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor


@dataclass(frozen=True)
class System:
    x: Tensor
    gram: Tensor
    targets: Tensor
    weights: Tensor

    @staticmethod
    def kernel(x: Tensor, z: Tensor, bandwidth: float = 3.0) -> Tensor:
        return torch.exp(-torch.cdist(x, z, compute_mode="donot_use_mm_for_euclid_dist") / bandwidth)

    def dense_solution(self, alpha: float, weights: Tensor | None = None) -> Tensor:
        weights = torch.ones_like(self.weights) if weights is None else weights
        matrix = self.gram.double() + alpha * torch.diag(1 / weights.double())
        return torch.linalg.solve(matrix, self.targets.double())


class MakeSystem:
    def __call__(
        self, n: int = 40, outputs: int = 3, *, d: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64
    ) -> System:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(n, d, generator=generator, dtype=torch.float64)
        noise = torch.randn(n, outputs, generator=generator, dtype=torch.float64)
        targets = torch.sin(x @ torch.randn(d, outputs, generator=generator, dtype=torch.float64)) + 0.3 * noise
        gram = System.kernel(x, x)
        gram = ((gram + gram.mT) / 2).to(dtype)
        weights = 0.5 + 2 * torch.rand(n, generator=generator, dtype=torch.float64)
        return System(x.to(dtype), gram, targets.to(dtype), weights.to(dtype))


@pytest.fixture
def make_system() -> MakeSystem:
    return MakeSystem()
