r"""The tangent kernel accumulator: sums of gradient outer products in blocks, from which everything else follows."""

from __future__ import annotations

import torch
from torch import Tensor

from ..exceptions import DataError

__all__ = ["TangentKernel", "accumulation_dtype", "block_count"]

STRIP = 256  # columns of K made at once, where half of a symmetric product can be saved


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64 gradients, float32 for all others: half precision would lose the sums."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def block_count(k: int, n_batches: int | None, *, halves: int = 1) -> int:
    """Jackknife blocks for a layer of k outputs: 10, 4 or 2 by the size of K, at most one a batch.

    A fixed rule, since results may not depend on free memory. In the two-half mode each block keeps two kernels, so
    half as many fit.
    """
    blocks = 10 if k <= 1024 else 4 if k <= 4096 else 2
    if halves == 2:
        blocks = max(2, blocks // 2)
    return blocks if n_batches is None else max(1, min(blocks, n_batches))


class TangentKernel:
    r"""Streaming ``K = (1/(n p)) sum g g^T`` over samples, positions and outputs (or p random probes).

    .. math:: K = \frac{1}{n} \sum_i \sum_p \sum_c g_{ipc} \, g_{ipc}^\top

    Parameters
    ----------
    groups, k : int
        Groups of a convolution, outputs per group.
    blocks : int
        Jackknife blocks; batch number i belongs to block ``i mod blocks``.
    halves : int
        2 to keep even and odd probes apart (two independent estimates), else 1.
    basis : Tensor of shape (k, r), optional
        Orthonormal columns: accumulate ``U^T g`` instead of ``g``, so K is (r, r). One group only.
    dtype, device
        Of the sums.

    Notes
    -----
    ``add`` costs ``2 n P k^2 / groups`` flops; memory is ``halves * blocks * groups * k^2`` numbers.
    """

    def __init__(
        self,
        groups: int,
        k: int,
        *,
        blocks: int = 1,
        halves: int = 1,
        basis: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        size = k if basis is None else basis.shape[1]
        self.groups, self.k, self.basis = groups, k, basis
        self.sums = torch.zeros(halves, blocks, groups, size, size, dtype=dtype, device=device)
        self.samples = torch.zeros(blocks, dtype=torch.int64)  # samples whose gradients are complete
        self.probes = [1] * halves  # probes a sample in each half; all exact passes count as one

    @classmethod
    def of_matrix(cls, matrix: Tensor) -> TangentKernel:
        """An accumulator holding a finished kernel of shape (groups, k, k): one block, no error bar."""
        kernel = cls(len(matrix), matrix.shape[-1], dtype=accumulation_dtype(matrix.dtype), device=matrix.device)
        kernel.sums[0, 0] = matrix
        kernel.samples[0], kernel.probes = 1, [1]
        return kernel

    @property
    def halves(self) -> int:
        """1, or 2 when even and odd probes are kept apart."""
        return self.sums.shape[0]

    @property
    def blocks(self) -> int:
        """Number of jackknife blocks."""
        return self.sums.shape[1]

    @property
    def n_samples(self) -> int:
        """Samples in all blocks."""
        return int(self.samples.sum())

    def add(self, gradient: Tensor, *, block: int = 0, half: int = 0) -> None:
        """Add the outer products of ``gradient``, of shape (n, groups * k, P), a view in any layout."""
        with torch.autocast(gradient.device.type, enabled=False):  # the caller's would multiply in half precision
            self._add(gradient.to(self.sums.dtype), self.sums[half, block])

    def _add(self, gradient: Tensor, total: Tensor) -> None:
        if self.groups > 1:
            rows = gradient.unflatten(1, (self.groups, -1)).permute(1, 2, 0, 3).flatten(2)  # (groups, k, n P)
            total.baddbmm_(rows, rows.mT)
        elif self.basis is not None or gradient.stride(1) == 1 or gradient.shape[2] == 1:
            rows = gradient.mT.reshape(-1, gradient.shape[1])  # (n P, k): no copy when channels are last
            _add_gram(total[0], rows if self.basis is None else rows @ self.basis)
        else:
            total[0].addbmm_(gradient, gradient.mT)  # BLAS reads the transpose in place

    def count(self, samples: int, *, block: int = 0) -> None:
        """Declare that the gradients of ``samples`` more samples are complete in ``block``."""
        self.samples[block] += samples

    def drop(self, block: int) -> None:
        """Forget a block, for instance one that an interrupted batch left incomplete."""
        self.sums[:, block] = 0
        self.samples[block] = 0

    def merge(self, other: TangentKernel) -> TangentKernel:
        """Add another accumulator of the same layer, blocks to blocks; returns self."""
        if self.sums.shape != other.sums.shape or self.probes != other.probes:
            raise DataError(
                f"Got accumulators of shapes {tuple(self.sums.shape)} and {tuple(other.sums.shape)} with probes "
                f"{self.probes} and {other.probes}, but expected equal ones. Measure both with the same options."
            )
        self.sums += other.sums.to(self.sums)
        self.samples += other.samples
        return self

    def finalize(self) -> Tensor:
        """``K`` of shape (groups, k, k), or (1, r, r) in a basis: mean over samples and probes."""
        return self.sums.sum(dim=(0, 1)) / (self.n_samples * sum(self.probes))


def _add_gram(total: Tensor, rows: Tensor) -> None:
    """``total += rows^T rows``, one strip of columns at a time: a symmetric product needs its upper half only."""
    k = rows.shape[1]
    if k < 2 * STRIP:
        total.addmm_(rows.mT, rows)
        return
    for start in range(0, k, STRIP):
        stop = min(start + STRIP, k)
        own = rows[:, start:stop]
        total[start:stop, start:stop].addmm_(own.mT, own)
        right = own.mT @ rows[:, stop:]
        total[start:stop, stop:] += right
        total[stop:, start:stop] += right.mT
