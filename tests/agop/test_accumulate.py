"""The accumulator: every memory layout, blocks, halves, and merging in any order."""

from __future__ import annotations

import itertools

import pytest
import torch
from cases import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from featlearn.agop.accumulate import STRIP, TangentKernel, accumulation_dtype, block_count
from featlearn.exceptions import DataError


def dense(gradient: Tensor, groups: int) -> Tensor:
    """Sum of outer products in loops over samples and positions, (groups, k, k)."""
    k = gradient.shape[1] // groups
    total = torch.zeros(groups, k, k, dtype=torch.float64)
    for sample in gradient:
        for position in sample.mT:
            for group, part in enumerate(position.double().split(k)):
                total[group] += torch.outer(part, part)
    return total


def layouts(n: int, k: int, p: int) -> dict[str, Tensor]:
    """One and the same gradient (n, k, P) in several layouts of memory."""
    g = normal(n, k, p)
    return {
        "contiguous": g,
        "channels last": g.mT.contiguous().mT,
        "samples last": g.permute(1, 2, 0).contiguous().permute(2, 0, 1),
        "every second": torch.stack([g, -g], dim=-1).flatten(2)[..., ::2],
        "expanded": normal(n, k, 1).expand(n, k, p),
        "float32": g.float(),
    }


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("shape", [(3, 6, 4), (3, 6, 1), (1, 6, 5), (0, 6, 2), (2, 6, 0)])
@pytest.mark.parametrize("layout", list(layouts(1, 1, 1)))
def test_add_in_every_layout(groups: int, shape: tuple[int, int, int], layout: str) -> None:
    gradient = layouts(*shape)[layout]
    kernel = TangentKernel(groups, shape[1] // groups, dtype=torch.float64)
    kernel.add(gradient)
    kernel.add(gradient)
    kernel.count(5)
    torch.testing.assert_close(kernel.finalize(), 2 * dense(gradient, groups) / 5, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("layout", list(layouts(1, 1, 1)))
def test_add_in_a_basis(layout: str) -> None:
    gradient = layouts(3, 6, 4)[layout]
    basis = torch.linalg.qr(normal(6, 2, seed=9))[0]
    kernel = TangentKernel(1, 6, basis=basis, dtype=torch.float64)
    kernel.add(gradient)
    kernel.count(3)
    expected = basis.mT @ dense(gradient, 1)[0] @ basis / 3
    torch.testing.assert_close(kernel.finalize()[0], expected, rtol=1e-6, atol=1e-12)


def test_half_precision_is_summed_in_single() -> None:
    assert accumulation_dtype(torch.bfloat16) == accumulation_dtype(torch.float16) == torch.float32
    assert accumulation_dtype(torch.float32) == torch.float32
    assert accumulation_dtype(torch.float64) == torch.float64
    kernel = TangentKernel(1, 1)
    kernel.add(torch.ones(6000, 1, 1, dtype=torch.float16))
    kernel.count(6000)
    assert float(kernel.finalize()) == 1.0


@pytest.mark.parametrize(
    ("k", "batches", "halves", "expected"),
    [
        (1024, None, 1, 10),
        (1025, None, 1, 4),
        (4096, None, 1, 4),
        (4097, None, 1, 2),
        (16, None, 2, 5),
        (2000, None, 2, 2),
        (5000, None, 2, 2),
        (16, 3, 1, 3),
        (16, 100, 1, 10),
        (16, 1, 1, 1),
        (16, 1, 2, 1),
        (16, 0, 1, 1),
    ],
)
def test_number_of_blocks(k: int, batches: int | None, halves: int, expected: int) -> None:
    assert block_count(k, batches, halves=halves) == expected


def filled(seed: int) -> TangentKernel:
    kernel = TangentKernel(2, 3, blocks=2, halves=2, dtype=torch.float64)
    kernel.probes = [2, 1]
    for i, (block, half) in enumerate(itertools.product(range(2), range(2))):
        kernel.add(normal(4, 6, 2, seed=seed + i), block=block, half=half)
    kernel.count(3, block=0)
    kernel.count(1 + seed, block=1)
    return kernel


@settings(max_examples=25)
@given(order=st.permutations(range(4)), cut=st.integers(1, 3))
def test_merging_is_free_of_order_and_associative(order: list[int], cut: int) -> None:
    def merged(seeds: list[int]) -> TangentKernel:
        first = filled(seeds[0])
        for seed in seeds[1:]:
            first.merge(filled(seed))
        return first

    straight = merged([0, 1, 2, 3])
    nested = merged(order[:cut]).merge(merged(order[cut:]))
    torch.testing.assert_close(nested.sums, straight.sums, rtol=1e-13, atol=1e-13)
    assert torch.equal(nested.samples, straight.samples)
    torch.testing.assert_close(nested.finalize(), straight.finalize(), rtol=1e-13, atol=1e-13)


def test_halves_and_probes_are_averaged() -> None:
    kernel = filled(0)
    assert (kernel.halves, kernel.blocks, kernel.n_samples) == (2, 2, 4)
    expected = sum(dense(normal(4, 6, 2, seed=i), 2) for i in range(4)) / (4 * 3)
    torch.testing.assert_close(kernel.finalize(), expected)


def test_a_dropped_block_is_forgotten() -> None:
    kernel = filled(0)
    kernel.drop(1)
    expected = (dense(normal(4, 6, 2, seed=0), 2) + dense(normal(4, 6, 2, seed=1), 2)) / (3 * 3)
    torch.testing.assert_close(kernel.finalize(), expected)
    assert kernel.n_samples == 3


def test_accumulators_of_other_options_do_not_merge() -> None:
    one = TangentKernel(1, 3)
    for other in (TangentKernel(1, 4), TangentKernel(1, 3, blocks=2), TangentKernel(1, 3, halves=2)):
        with pytest.raises(DataError, match="Got accumulators of shapes"):
            one.merge(other)
    probed = TangentKernel(1, 3)
    probed.probes = [4]
    with pytest.raises(DataError, match="with probes"):
        one.merge(probed)


@pytest.mark.parametrize("k", [2 * STRIP, 2 * STRIP + 3])
def test_wide_kernels_made_in_strips(k: int) -> None:
    gradient = normal(4, k, 3).mT.contiguous().mT
    kernel = TangentKernel(1, k, dtype=torch.float64)
    kernel.add(gradient)
    kernel.count(4)
    torch.testing.assert_close(kernel.finalize(), dense(gradient, 1) / 4, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2])
def test_the_autocast_of_the_caller_does_not_reach_the_sums(groups: int) -> None:
    gradient = normal(4, 2 * STRIP, 1).float()
    kernel, expected = (TangentKernel(groups, 2 * STRIP // groups) for _ in range(2))
    expected.add(gradient)
    with torch.autocast("cpu", torch.bfloat16):
        kernel.add(gradient)
    assert torch.equal(kernel.sums, expected.sums)
