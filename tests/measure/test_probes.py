"""Random probes: bias removed, errors that cover; gradients simulated here, at the level of kernels (oracle 4)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from reference import cosine, feature_matrix, pearson, probe_error
from torch import Tensor

from featlearn.agop.accumulate import TangentKernel
from featlearn.measure.alignment import align
from featlearn.measure.coordinates import Weight, factorise
from featlearn.measure.probes import PowerOne, jackknife, student_interval

STATISTICS = {"cosine": cosine, "pearson": pearson}
REPEATS = 300


def population(n: int, C: int = 10, k: int = 16, d: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A weight (k, d) and Jacobians (n, C, k) of unequal size, larger along a few directions."""
    draw = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(99)  # the weight and the law are the same for every seed
    W = torch.randn(k, d, generator=fixed, dtype=torch.float64) + 0.2
    mix = torch.randn(k, k, generator=fixed, dtype=torch.float64) * torch.linspace(2, 0.6, k, dtype=torch.float64)
    size = torch.rand(n, 1, 1, generator=draw, dtype=torch.float64) + 0.5
    return W, size * (torch.randn(n, C, k, generator=draw, dtype=torch.float64) @ mix)


def kernel_of(gradients: Tensor, halves: int, blocks: int) -> TangentKernel:
    """From gradients (n, probes, k): probe j goes to half j mod 2, samples to blocks in ten batches."""
    probes, k = gradients.shape[1:]
    kernel = TangentKernel(1, k, blocks=blocks, halves=halves, dtype=torch.float64)
    for i, batch in enumerate(gradients.chunk(10)):
        for j in range(probes):
            kernel.add(batch[:, j].unsqueeze(-1), block=i % blocks, half=j % halves)
        kernel.count(len(batch), block=i % blocks)
    kernel.probes = [len(range(half, probes, halves)) for half in range(halves)]
    return kernel


def exact_kernel(jacobians: Tensor, blocks: int = 10) -> TangentKernel:
    """One backward pass an output counts as one probe."""
    kernel = kernel_of(jacobians, 1, blocks)
    kernel.probes = [1]
    return kernel


def probed(jacobians: Tensor, probes: int, draw: torch.Generator) -> Tensor:
    """``g_i = J_i^T v_i``, signs independent for every sample and probe: (n, probes, k)."""
    n, C, _ = jacobians.shape
    signs = torch.randint(0, 2, (n, probes, C), generator=draw).double() * 2 - 1
    return signs @ jacobians


def power_one(W: Tensor, kernel: TangentKernel, probed: bool = True) -> PowerOne:
    weight = Weight.dense(W.unsqueeze(0))
    return PowerOne.of(kernel.sums, weight, kernel.samples.tolist(), kernel.probes, probed)


def dense(W: Tensor, gradients: Tensor, statistic: str) -> float:
    K = torch.einsum("npi,npj->ij", gradients, gradients) / len(gradients)
    return STATISTICS[statistic](feature_matrix(W), W.mT @ K @ W)


def assert_above(first: list[float], second: list[float]) -> None:
    """Clearly so on average, in pairs."""
    apart = np.subtract(first, second)
    assert apart.mean() > 5 * apart.std() / math.sqrt(len(apart))


# --- bias -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("probes", [2, 3])
def test_halves_give_the_exact_value_on_average_and_the_plug_in_does_not(statistic: str, probes: int) -> None:
    W, jacobians = population(300)
    exact, draw = dense(W, jacobians, statistic), torch.Generator().manual_seed(1)
    halves, plug_in = [], []
    for _ in range(REPEATS):
        gradients = probed(jacobians, probes, draw)
        halves.append(float(power_one(W, kernel_of(gradients, 2, 5)).values(W.shape[1] ** 2, statistic)[0]))
        plug_in.append(dense(W, gradients / math.sqrt(probes), statistic))
    assert np.mean(halves) == pytest.approx(exact, abs=0.003)
    assert_above(halves, plug_in)  # noise pulls the plug-in value down


@pytest.mark.parametrize("statistic", STATISTICS)
def test_one_probe_gives_the_value_of_the_distribution_on_average(statistic: str) -> None:
    """Its target is the ratio over the data distribution: here that of many more samples."""
    W, many = population(40_000, seed=5)
    target = dense(W, many, statistic)
    values, plug_in, draw = [], [], torch.Generator().manual_seed(2)
    for repeat in range(REPEATS):
        gradients = probed(population(300, seed=repeat)[1], 1, draw)
        values.append(float(power_one(W, kernel_of(gradients, 1, 10)).values(W.shape[1] ** 2, statistic)[0]))
        plug_in.append(dense(W, gradients, statistic))
    assert np.mean(values) == pytest.approx(target, abs=0.005)
    assert_above(values, plug_in)


def test_what_halves_and_blocks_estimate_without_bias() -> None:
    """The square of the norm and of the sum, and tr K^2, against those of the exact kernel."""
    W, jacobians = population(60)
    K = torch.einsum("nci,ncj->ij", jacobians, jacobians) / len(jacobians)
    G = W.mT @ K @ W
    truth = np.array([float((G * G).sum()), float(G.sum()) ** 2, float((K * K).sum())])
    draw, found = torch.Generator().manual_seed(3), []
    for _ in range(2 * REPEATS):
        result = power_one(W, kernel_of(probed(jacobians, 2, draw), 2, 5))
        found.append([float(result.norm[0]), float(result.entries_square[0]), float(result.kernel_traces[1][0])])
    means, errors = np.mean(found, axis=0), np.std(found, axis=0) / math.sqrt(len(found))
    assert (abs(means - truth) < 4 * errors).all()
    assert (errors < 0.05 * truth).all()


# --- formulas ---------------------------------------------------------------------------------------------------------


def test_one_probe_leaves_the_diagonal_blocks_out() -> None:
    """``(||sum B_b||^2 - sum ||B_b||^2) / (n^2 - sum n_b^2)``, whole and without each block, from dense matrices."""
    W, jacobians = population(37)
    gradients = probed(jacobians, 1, torch.Generator().manual_seed(0))
    kernel = kernel_of(gradients, 1, 4)
    B = [W.mT @ kernel.sums[0, b, 0] @ W for b in range(4)]
    n = kernel.samples.tolist()
    result = power_one(W, kernel)
    for row, left in enumerate([range(4), *([b for b in range(4) if b != out] for out in range(4))]):
        total, square = sum(B[b] for b in left), sum(n[b] for b in left) ** 2 - sum(n[b] ** 2 for b in left)
        norm = (float((total * total).sum()) - sum(float((B[b] * B[b]).sum()) for b in left)) / square
        entries = (float(total.sum()) ** 2 - sum(float(B[b].sum()) ** 2 for b in left)) / square
        assert float(result.norm[row]) == pytest.approx(norm, rel=1e-10)
        assert float(result.entries_square[row]) == pytest.approx(entries, rel=1e-10)
        inner = float((feature_matrix(W) * total).sum()) / sum(n[b] for b in left)
        assert float(result.inner[row]) == pytest.approx(inner, rel=1e-10)
    assert not result.biased


def test_halves_multiply_two_independent_estimates() -> None:
    W, jacobians = population(37)
    kernel = kernel_of(probed(jacobians, 3, torch.Generator().manual_seed(0)), 2, 3)
    assert kernel.probes == [2, 1]
    result, n = power_one(W, kernel), kernel.samples.tolist()
    for row, left in enumerate([[0, 1, 2], [1, 2], [0, 2], [0, 1]]):
        count = sum(n[b] for b in left)
        first, second = (
            W.mT @ kernel.sums[half, left].sum(0)[0] @ W / (count * kernel.probes[half]) for half in range(2)
        )
        assert float(result.norm[row]) == pytest.approx(float((first * second).sum()), rel=1e-10)
        assert float(result.entries_square[row]) == pytest.approx(float(first.sum() * second.sum()), rel=1e-10)
        mean = (2 * first + second) / 3
        assert float(result.entries[row]) == pytest.approx(float(mean.sum()), rel=1e-10)
        if row == 0:
            apart = math.sqrt(2) / 3 * float((first - second).norm()) / math.sqrt(float((first * second).sum()))
            assert result.probe_error == pytest.approx(apart, rel=1e-10)


@pytest.mark.parametrize("probes", [2, 5])
def test_probe_error_is_the_relative_error_of_the_agop(probes: int) -> None:
    """Measured from two halves, without the exact AGOP; predicted by the formula of the Rademacher law."""
    W, jacobians = population(100)
    K = torch.einsum("nci,ncj->ij", jacobians, jacobians) / len(jacobians)
    G, draw, told, true = W.mT @ K @ W, torch.Generator().manual_seed(4), [], []
    for _ in range(REPEATS):
        gradients = probed(jacobians, probes, draw)
        told.append(power_one(W, kernel_of(gradients, 2, 5)).probe_error ** 2)
        found = torch.einsum("npi,npj->ij", gradients, gradients) / gradients[..., 0].numel()
        true.append(float((W.mT @ found @ W - G).norm() / G.norm()) ** 2)
    assert np.mean(told) == pytest.approx(np.mean(true), rel=0.15)
    formula = probe_error("rademacher", jacobians, W) / probes / float((G * G).sum())
    assert np.mean(true) == pytest.approx(formula, rel=0.1)


def test_one_probe_in_one_block_is_a_plug_in_value_and_says_so() -> None:
    W, jacobians = population(30)
    gradients = probed(jacobians, 1, torch.Generator().manual_seed(0))
    entry = align(factorise(W.unsqueeze(0)), kernel_of(gradients, 1, 1), powers=(1.0,), probed=True).at(1.0, "cosine")
    assert entry.biased
    assert entry.value == pytest.approx(dense(W, gradients, "cosine"), abs=1e-12)
    for probes, blocks in ((1, 2), (2, 1)):
        kernel = kernel_of(probed(jacobians, probes, torch.Generator().manual_seed(0)), probes, blocks)
        result = align(factorise(W.unsqueeze(0)), kernel, powers=(1.0, 0.5), probed=True)
        assert not result.at(1.0, "cosine").biased
        assert result.at(0.5, "cosine").biased  # other powers stay plug-in
        assert (result.probe_error == result.probe_error) == (probes == 2)


def test_too_few_probes_make_the_value_nan_with_a_reason() -> None:
    """Two orthogonal gradients: their halves have no product, so nothing is known of the norm."""
    W = torch.eye(2, dtype=torch.float64)
    apart = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    kernel = kernel_of(apart, 2, 1)
    for entry in align(factorise(W.unsqueeze(0)), kernel, powers=(1.0,), probed=True).alignments:
        assert math.isnan(entry.value)
        assert math.isnan(entry.excess)
        assert "too few samples or probes" in entry.reason


def test_values_that_no_correlation_has_are_nan_with_a_reason() -> None:
    """Two halves that hardly agree: their product is small, and the correlation that follows is 3."""
    W = torch.eye(2, dtype=torch.float64)
    apart = torch.tensor([[[1.0, 0.1], [0.1, 1.0]]], dtype=torch.float64)
    result = align(factorise(W.unsqueeze(0)), kernel_of(apart, 2, 1), powers=(1.0,), probed=True)
    assert float(power_one(W, kernel_of(apart, 2, 1)).values(4, "cosine")[0]) > 3
    assert math.isnan(result.at(1.0, "cosine").value)
    assert "too few samples or probes" in result.at(1.0, "cosine").reason


def test_a_constant_matrix_is_no_matter_of_probes() -> None:
    """With one input no Pearson correlation exists, however many probes there are."""
    W, jacobians = population(30, d=1)
    kernel = kernel_of(probed(jacobians, 4, torch.Generator().manual_seed(0)), 2, 5)
    result = align(factorise(W.unsqueeze(0)), kernel, powers=(1.0,), probed=True)
    assert "no variance" in result.at(1.0, "pearson").reason
    assert result.at(1.0, "cosine").value == pytest.approx(1, abs=0.05)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probes", ["exact", 1, 2])
@pytest.mark.parametrize("statistic", STATISTICS)
def test_standard_errors_are_true_and_intervals_cover(statistic: str, probes: Any) -> None:
    """Fresh samples (and probes) in every repeat; the truth is that of the distribution."""
    W, many = population(40_000, seed=5)
    truth = dense(W, many, statistic)
    draw, values, errors, covered = torch.Generator().manual_seed(6), [], [], []
    for repeat in range(REPEATS):
        jacobians = population(200, seed=1000 + repeat)[1]
        if probes == "exact":
            kernel = exact_kernel(jacobians)
        else:
            kernel = kernel_of(probed(jacobians, probes, draw), probes, 10 // probes)
        found = power_one(W, kernel, probed=probes != "exact").values(W.shape[1] ** 2, statistic)
        value, error = float(found[0]), jackknife(found[1:])
        low, high = student_interval(value, error, len(found) - 1)
        values.append(value)
        errors.append(error)
        covered.append(low <= truth <= high)
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.15)
    assert 0.92 <= np.mean(covered) <= 0.98


def test_jackknife_needs_two_blocks() -> None:
    assert math.isnan(jackknife(torch.tensor([1.0])))
    assert jackknife(torch.tensor([1.0, 3.0])) == pytest.approx(1.0)  # sqrt(1/2 * (1 + 1))
    assert all(map(math.isnan, student_interval(1.0, float("nan"), 5)))
    assert all(map(math.isnan, student_interval(1.0, 0.1, 1)))
    assert student_interval(1.0, 0.1, 2) == pytest.approx((1 - 1.2706204736, 1 + 1.2706204736))
