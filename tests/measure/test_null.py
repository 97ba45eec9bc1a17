"""The chance level against Haar rotations of K made here, with dense matrices (oracle 3)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import cosine, feature_matrix, pearson, power
from torch import Tensor

from featlearn._random import generator
from featlearn.agop.accumulate import TangentKernel
from featlearn.measure import alignment as alignment_module
from featlearn.measure import null as null_module
from featlearn.measure.alignment import Aligned, align
from featlearn.measure.coordinates import factorise
from featlearn.measure.null import closed_form_null

STATISTICS = {"cosine": cosine, "pearson": pearson}

# k, d, rank of K, tolerance: the closed form is a ratio of means, low where r is small (r = min(k, d)).
SETTINGS = [
    (200, 20, 10, 0.03),
    (128, 64, 3, 0.01),
    (128, 64, 100, 0.01),
    (64, 128, 10, 0.01),
    (80, 100, 40, 0.01),
    (72, 72, 72, 0.01),
    (16, 27, 5, 0.03),
    (16, 144, 16, 0.03),
]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(k: int, d: int, rank: int, groups: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A weight (groups, k, d) with an offset, so that Pearson differs, and a kernel (groups, k, k) of a rank."""
    half = normal(groups, k, rank, seed=seed + 1) * torch.linspace(1, 2, rank, dtype=torch.float64)
    return normal(groups, k, d, seed=seed) + 0.1, half @ half.mT / rank


def turned(W: Tensor, K: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """``W^T K' W`` (count, d, d) of one group, K turned inside the column space of W."""
    alive = W.abs().sum(1) > 0  # rows of zeros are outside of it
    W, K = W[alive], K[alive][:, alive]
    basis = torch.linalg.qr(W).Q if W.shape[0] > W.shape[1] else torch.eye(len(W), dtype=W.dtype)
    r = basis.shape[1]
    q, upper = torch.linalg.qr(torch.randn(count, r, r, generator=draw, dtype=torch.float64))
    turn = q * upper.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    pulled = W.mT @ basis
    return pulled @ turn @ (basis.mT @ K @ basis) @ turn.mT @ pulled.mT


def rotations(W: Tensor, K: Tensor, count: int, seed: int = 7) -> Tensor:
    """AGOPs (count, groups, d, d), each group turned on its own."""
    draw = torch.Generator().manual_seed(seed)
    return torch.stack([turned(w, k, count, draw) for w, k in zip(W, K, strict=True)], dim=1)


def draws(W: Tensor, K: Tensor, count: int, exponent: float = 1.0) -> dict[str, np.ndarray]:
    """Correlations of F with the power of turned AGOPs."""
    F, agops = feature_matrix(W), rotations(W, K, count)
    agops = agops if exponent == 1 else power(agops, exponent)
    return {name: np.array([statistic(F, G) for G in agops]) for name, statistic in STATISTICS.items()}


def ratio_of_means(W: Tensor, K: Tensor, count: int) -> dict[str, float]:
    """Correlation of the mean moments over rotations, which the closed form gives."""
    F, G = feature_matrix(W), rotations(W, K, count)
    axes, size = (1, 2, 3), F.numel()
    inner, square, total = (F * G).sum(axes).mean(), (G * G).sum(axes).mean(), G.sum(axes)
    centred = inner - F.sum() * total.mean() / size
    variances = ((F * F).sum() - F.sum() ** 2 / size) * (square - (total**2).mean() / size)
    return {"cosine": float(inner / ((F * F).sum() * square).sqrt()), "pearson": float(centred / variances.sqrt())}


def measured(W: Tensor, K: Tensor, powers: tuple[float, ...] = (1.0,), seed: int | None = 0) -> Aligned:
    haar = None if seed is None else generator(seed, "layer")
    return align(factorise(W), TangentKernel.of_matrix(K), powers=powers, generator=haar)


# --- closed form ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "d", "rank", "tolerance"), SETTINGS)
def test_closed_form_is_the_mean_over_rotations(k: int, d: int, rank: int, tolerance: float) -> None:
    W, K = problem(k, d, rank)
    expected = draws(W, K, 400 if max(k, d) < 130 else 100)
    for statistic in STATISTICS:
        entry = measured(W, K, seed=None).at(1.0, statistic)
        assert entry.null == pytest.approx(expected[statistic].mean(), abs=tolerance)
        assert math.isnan(entry.null_sd)  # takes draws


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize(("k", "d", "rank"), [(3, 5, 2), (6, 4, 3), (2, 3, 1)])
def test_closed_form_is_a_ratio_of_exact_moments(groups: int, k: int, d: int, rank: int) -> None:
    """At small r the mean of ratios is another number."""
    W, K = problem(k, d, rank, groups)
    expected = ratio_of_means(W, K, 40_000)
    for statistic in STATISTICS:
        assert measured(W, K, seed=None).at(1.0, statistic).null == pytest.approx(expected[statistic], abs=3e-3)


def test_flat_weights_sit_at_the_square_root_of_the_effective_rank_of_k() -> None:
    """Published limit of large r: ``sqrt(r_eff(K) / r)``, ``r_eff = (tr K)^2 / tr K^2``."""
    r = 300
    W = torch.linalg.qr(normal(r, r, seed=0)).Q.unsqueeze(0)
    for rank in (5, 60, 300):
        half = normal(1, r, rank, seed=1)
        K = half @ half.mT
        effective = float(K[0].trace() ** 2 / (K[0] ** 2).sum())
        assert measured(W, K, seed=None).at(1.0, "cosine").null == pytest.approx(math.sqrt(effective / r), abs=3e-3)


@given(
    k=st.integers(1, 9), d=st.integers(1, 9), rank=st.integers(1, 9), groups=st.integers(1, 3), seed=st.integers(0, 99)
)
def test_the_null_of_the_cosine_is_between_zero_and_one(k: int, d: int, rank: int, groups: int, seed: int) -> None:
    W, K = problem(k, d, rank, groups, seed)
    factors = factorise(W)
    t1 = (factors.left.mT @ K @ factors.left).diagonal(dim1=-2, dim2=-1).sum(-1)
    t2 = ((factors.left.mT @ K @ factors.left) ** 2).sum((-2, -1))
    assert 0 < closed_form_null(factors.at_power_one, t1, t2, "cosine") <= 1 + 1e-12
    # An estimate of tr K^2 from few probes may fall below what any K has; the null stays a correlation.
    assert 0 < closed_form_null(factors.at_power_one, t1, -t2, "cosine") <= 1 + 1e-12


@pytest.mark.parametrize("statistic", STATISTICS)
def test_an_isotropic_kernel_has_a_null_of_one(statistic: str) -> None:
    W, _ = problem(6, 9, 2)
    entry = measured(W, 2.5 * torch.eye(6, dtype=torch.float64).unsqueeze(0)).at(1.0, statistic)
    assert entry.null == pytest.approx(1, abs=1e-12)
    assert entry.value == pytest.approx(1, abs=1e-12)
    assert math.isnan(entry.excess)
    assert "isotropic" in entry.reason


@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_group_of_rank_one_takes_part_with_its_own_value(statistic: str) -> None:
    """Nothing turns there, while the other groups still have a chance level."""
    W, K = problem(4, 6, 3, groups=3)
    W[0, 1:] = 0
    W[1, 2:] = 0
    entry = measured(W, K, seed=None).at(1.0, statistic)
    assert entry.null == pytest.approx(ratio_of_means(W, K, 40_000)[statistic], abs=3e-3)
    assert math.isfinite(entry.excess)


# --- draws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "d", "rank"), [(16, 27, 5), (20, 12, 4), (64, 80, 30)])
@pytest.mark.parametrize("exponent", [1.0, 0.5, 1 / 3])
def test_sampled_nulls_have_the_mean_and_spread_of_rotations(k: int, d: int, rank: int, exponent: float) -> None:
    W, K = problem(k, d, rank)
    expected = draws(W, K, 150, exponent)
    result = measured(W, K, (exponent,))
    for statistic in STATISTICS:
        entry = result.at(exponent, statistic)
        sd = expected[statistic].std(ddof=1)
        if exponent != 1:  # a mean of 32 draws beside one of 150
            assert entry.null == pytest.approx(expected[statistic].mean(), abs=4.5 * sd * math.sqrt(1 / 32 + 1 / 150))
        assert 0.55 * sd < entry.null_sd < 1.6 * sd


def test_grouped_draws_turn_each_group_on_its_own() -> None:
    W, K = problem(5, 7, 3, groups=3)
    expected = draws(W, K, 300, 0.5)
    entry = measured(W, K, (0.5,)).at(0.5, "cosine")
    sd = expected["cosine"].std(ddof=1)
    assert entry.null == pytest.approx(expected["cosine"].mean(), abs=4.5 * sd * math.sqrt(1 / 32 + 1 / 300))
    assert 0.55 * sd < entry.null_sd < 1.6 * sd


def test_groups_of_different_ranks_are_drawn_together() -> None:
    W, K = problem(5, 7, 4, groups=3)
    W[1, 2:] = 0
    expected = draws(W, K, 300, 0.5)
    for statistic in STATISTICS:
        entry, sd = measured(W, K, (0.5,)).at(0.5, statistic), expected[statistic].std(ddof=1)
        assert entry.null == pytest.approx(expected[statistic].mean(), abs=4.5 * sd * math.sqrt(1 / 32 + 1 / 300))


def test_draws_come_from_the_generator_alone() -> None:
    W, K = problem(6, 9, 3)
    state = torch.get_rng_state()
    first, again, other = (measured(W, K, (0.5,), seed=seed).at(0.5, "cosine") for seed in (0, 0, 1))
    assert (first.null, first.null_sd) == (again.null, again.null_sd)
    assert first.null != other.null
    assert torch.equal(torch.get_rng_state(), state)


def test_draws_made_a_few_at_a_time_are_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    W, K = problem(6, 9, 3, groups=2)
    expected = measured(W, K, (1.0, 0.5))
    monkeypatch.setattr(null_module, "NUMBERS_AT_ONCE", 5 * 2 * 36)
    for a, b in zip(expected.alignments, measured(W, K, (1.0, 0.5)).alignments, strict=True):
        assert b.null == pytest.approx(a.null, abs=4.5 * a.null_sd * math.sqrt(2 / 32))
        assert 0.55 * a.null_sd < b.null_sd < 1.8 * a.null_sd


def test_a_kernel_in_single_precision_has_the_null_of_the_same_kernel_in_double() -> None:
    W, K = problem(80, 90, 40)
    exact, single = measured(W, K, (1.0, 0.5)), measured(W, K.float(), (1.0, 0.5))
    for a, b in zip(exact.alignments, single.alignments, strict=True):
        assert b.null == pytest.approx(a.null, abs=0.01)  # other draws: float32 ones
        assert b.null_sd == pytest.approx(a.null_sd, rel=0.6)


def test_above_the_largest_rank_for_draws_the_closed_form_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    W, K = problem(8, 9, 3)
    monkeypatch.setattr(alignment_module, "MOST_EIGH", 7)
    one, half = (measured(W, K, (1.0, 0.5)).at(exponent, "pearson") for exponent in (1.0, 0.5))
    assert math.isfinite(one.null)
    assert math.isfinite(one.excess)
    assert math.isnan(one.null_sd)
    assert math.isfinite(half.value)
    assert math.isnan(half.null)
    assert math.isnan(half.excess)
    assert "Haar draws" in half.reason
