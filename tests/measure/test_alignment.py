"""One weight and one kernel: every correlation, norm and error against dense d x d matrices in float64 (oracle 2)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import cosine, feature_matrix, pearson, power
from torch import Tensor

from featlearn._random import generator
from featlearn.agop.accumulate import TangentKernel
from featlearn.exceptions import DataError
from featlearn.measure import coordinates as coordinates_module
from featlearn.measure.alignment import (
    Aligned,
    Alignment,
    align,
    align_at_power_one,
    alignment_from_coordinates,
    check_power,
    check_statistic,
)
from featlearn.measure.coordinates import Coordinates, factorise

STATISTICS = {"pearson": pearson, "cosine": cosine}
POWERS = (1.0, 1 / 2, 1 / 3, 1.7)
BLOCKS = 4


@dataclass(frozen=True)
class Shape:
    """A weight (groups, k, d) of some rank, dead rows, and gradients (samples of each block, k) of some rank."""

    groups: int
    k: int
    d: int
    rank: int | None = None
    dead: int = 0
    gradients: int = 20

    def weight(self, seed: int = 0) -> Tensor:
        draw = torch.Generator().manual_seed(seed)
        W = torch.randn(self.groups, self.k, self.d, generator=draw, dtype=torch.float64) + 0.3
        if self.rank is not None:
            left = torch.randn(self.groups, self.k, self.rank, generator=draw, dtype=torch.float64)
            W = left @ W[:, : self.rank]
        W[:, : self.dead] = 0
        return W

    def rows(self, halves: int = 1, blocks: int = BLOCKS, seed: int = 1) -> Tensor:
        """Gradients (halves, blocks, samples, groups * k), the entries of a sample correlated."""
        draw = torch.Generator().manual_seed(seed)
        mix = torch.randn(self.groups * self.k, self.groups * self.k, generator=draw, dtype=torch.float64)
        return torch.randn(halves, blocks, self.gradients, len(mix), generator=draw, dtype=torch.float64) @ mix + 0.5

    def kernel(self, halves: int = 1, blocks: int = BLOCKS, seed: int = 1) -> TangentKernel:
        return accumulated(self.rows(halves, blocks, seed), self.groups)

    def __str__(self) -> str:
        extra = "" if self.rank is None else f"-rank{self.rank}"
        extra += f"-dead{self.dead}" if self.dead else ""
        return f"{self.groups}x{self.k}x{self.d}{extra}" + ("" if self.gradients == 20 else f"-K{self.gradients}")


def accumulated(rows: Tensor, groups: int) -> TangentKernel:
    halves, blocks, n, size = rows.shape
    kernel = TangentKernel(groups, size // groups, blocks=blocks, halves=halves, dtype=rows.dtype)
    for half, block in itertools.product(range(halves), range(blocks)):
        kernel.add(rows[half, block].unsqueeze(-1), block=block, half=half)
    for block in range(blocks):
        kernel.count(n, block=block)
    kernel.probes = [1] * halves
    return kernel


SHAPES = [
    Shape(1, 7, 12),
    Shape(1, 12, 7),
    Shape(1, 9, 9),
    Shape(1, 1, 5),
    Shape(1, 6, 2),
    Shape(3, 4, 7),
    Shape(2, 9, 5),
    Shape(1, 10, 9, rank=4),
    Shape(1, 14, 6, rank=3),
    Shape(2, 6, 8, rank=3),
    Shape(1, 8, 11, dead=3),
    Shape(1, 12, 5, dead=2),
    Shape(1, 8, 6, dead=5),
    Shape(3, 5, 6, dead=1),
    Shape(1, 9, 13, gradients=1),  # K of lower rank than W
]
FULL_RANK = [shape for shape in SHAPES if shape.rank is None]


def aligned(shape: Shape, powers: Any = POWERS, **options: Any) -> Aligned:
    return align(factorise(shape.weight()), shape.kernel(), powers=powers, **options)


def dense(W: Tensor, rows: Tensor, exponent: float, statistic: str) -> float:
    """Correlation of F with G^a from gradients (samples, groups * k), one outer product at a time."""
    groups, k, _ = W.shape
    g = rows.reshape(-1, groups, k)
    K = torch.einsum("ngi,ngj->gij", g, g) / len(g)
    return STATISTICS[statistic](feature_matrix(W), power(W.mT @ K @ W, exponent))


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("statistic", STATISTICS)
def test_small_matrices_give_the_dense_correlation(shape: Shape, statistic: str) -> None:
    result = aligned(shape)
    for exponent in POWERS:
        expected = dense(shape.weight(), shape.rows(), exponent, statistic)
        assert result.at(exponent, statistic).value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_coordinates_give_any_power_afterwards(shape: Shape) -> None:
    stored = Coordinates.from_dict(aligned(shape, (1.0,)).coordinates.to_dict())
    for exponent, statistic in itertools.product((0.25, 0.8, 1.0, 3.0), STATISTICS):
        entry = alignment_from_coordinates(stored, exponent, statistic)
        assert entry.value == pytest.approx(dense(shape.weight(), shape.rows(), exponent, statistic), abs=1e-11)
        assert math.isnan(entry.null)
        assert entry.reason


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_best_power_is_that_of_a_dense_search(shape: Shape) -> None:
    best = aligned(shape).coordinates.best_power()
    W, rows = shape.weight(), shape.rows()
    grid = np.arange(10, 201) / 100
    values = np.array([dense(W, rows, exponent, "cosine") for exponent in grid])
    assert 0.1 <= best <= 2.0
    assert dense(W, rows, best, "cosine") == pytest.approx(values.max(), abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_norms_and_spectra_are_those_of_the_dense_matrices(shape: Shape) -> None:
    W, kernel = shape.weight(), shape.kernel()
    F, G = feature_matrix(W), W.mT @ kernel.finalize() @ W
    result = align(factorise(W), kernel, powers=(1.0,))
    assert result.norms == pytest.approx((float(F.norm()), float(G.norm())), rel=1e-12)
    for found, matrix in ((result.coordinates.s**2, F), (result.coordinates.lam, G)):
        values = torch.linalg.eigvalsh(matrix).flatten().sort(descending=True).values.numpy()
        mine = np.sort(found.flatten())[::-1]
        np.testing.assert_allclose(mine[: len(values)], values[: len(mine)], atol=1e-11 * values[0])
        np.testing.assert_allclose(values[len(mine) :], 0, atol=1e-11 * values[0])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("name", "precision"), [("BY_SVD", 1e-9), ("IN_DOUBLE", 1e-4)])
def test_factors_of_large_weights_agree_with_the_svd(
    shape: Shape, name: str, precision: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large weights go through Gram matrices, very large ones in float32; here small ones are sent there."""
    expected = aligned(shape)
    monkeypatch.setattr(coordinates_module, "BY_SVD", 0)
    if name == "IN_DOUBLE":
        monkeypatch.setattr(coordinates_module, "IN_DOUBLE", 0)
    found = aligned(shape)
    for exponent, statistic in itertools.product((1.0, 0.5), STATISTICS):
        value = expected.at(exponent, statistic).value
        assert found.at(exponent, statistic).value == pytest.approx(value, abs=precision)
    assert found.coordinates.s.shape == expected.coordinates.s.shape


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_right_vectors_diagonalise_both_matrices(shape: Shape) -> None:
    W, kernel = shape.weight(), shape.kernel()
    factors = factorise(W)
    result = align(factors, kernel, powers=(1.0,))
    G = W.mT @ kernel.finalize() @ W
    for group in range(shape.groups):
        rank = int(factors.ranks[group])
        V = factors.right(torch.eye(factors.s.shape[1], dtype=torch.float64), group)[:, :rank]
        torch.testing.assert_close(V.mT @ V, torch.eye(rank, dtype=torch.float64), rtol=0, atol=1e-9)
        torch.testing.assert_close(V * factors.s[group, :rank] ** 2 @ V.mT, feature_matrix(W)[group])
        VQ = factors.right(result.vectors[group], group)
        lam = torch.from_numpy(result.coordinates.lam[group].copy())
        torch.testing.assert_close(VQ * lam @ VQ.mT, G[group], rtol=1e-9, atol=1e-9 * float(G.abs().max()))


# --- the fast path of trackers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("probed", "halves"), [(False, 1), (True, 1), (True, 2)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_power_one_alone_equals_the_full_measurement(shape: Shape, probed: bool, halves: int) -> None:
    W, kernel = shape.weight(), shape.kernel(halves)
    full = align(factorise(W), kernel, powers=(1.0,), probed=probed)
    fast = align_at_power_one(W, kernel, probed=probed)
    for statistic in STATISTICS:
        a, b = full.at(1.0, statistic), fast.at(1.0, statistic)
        for name in ("value", "standard_error"):
            assert getattr(b, name) == pytest.approx(getattr(a, name), rel=1e-9, abs=1e-12, nan_ok=True), name
        assert b.interval == pytest.approx(a.interval, rel=1e-9, nan_ok=True)
        assert b.biased == a.biased
        if shape.rank is None:
            assert b.null == pytest.approx(a.null, rel=1e-9, nan_ok=True)
            assert b.excess == pytest.approx(a.excess, rel=1e-7, abs=1e-9, nan_ok=True)
        else:  # a rank that only a decomposition tells: no null rather than a wrong one
            assert math.isnan(b.null) or b.null == pytest.approx(a.null, rel=1e-9)
            assert b.reason or math.isfinite(b.null)
    assert fast.norms == pytest.approx(full.norms, rel=1e-9)
    assert (fast.probe_error is None) == (full.probe_error is None) == (not probed)
    if probed:
        assert fast.probe_error == pytest.approx(full.probe_error, rel=1e-9, nan_ok=True)
    assert fast.coordinates.best_power() != fast.coordinates.best_power()


@pytest.mark.parametrize("of_weight", [1e-11, 1e-8, 1.0, 1e8])
@pytest.mark.parametrize("of_gradient", [1e-11, 1e-8, 1.0, 1e8])
def test_power_one_alone_knows_no_scale_in_single_precision(of_weight: float, of_gradient: float) -> None:
    """The weight change of a first small step is 1e-9, and its fourth power below what float32 holds."""
    shape = SHAPES[0]
    kernel = accumulated((of_gradient * shape.rows()).float(), 1)
    found = align_at_power_one((of_weight * shape.weight()).float(), kernel)
    exact = aligned(shape, (1.0,))
    for statistic in STATISTICS:
        for name in ("value", "null", "standard_error"):
            expected = getattr(exact.at(1.0, statistic), name)
            assert getattr(found.at(1.0, statistic), name) == pytest.approx(expected, abs=1e-5)
    scales = of_weight**2, of_weight**2 * of_gradient**2
    assert found.norms == pytest.approx([n * scale for n, scale in zip(exact.norms, scales, strict=True)], rel=1e-5)


def test_the_rank_of_a_change_in_single_precision_is_told() -> None:
    """Weight changes have singular values over four orders of magnitude, and their squares over eight."""
    draw = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(30, 30, generator=draw, dtype=torch.float64)).Q for _ in range(2))
    D = (left * torch.logspace(0, -4, 30, dtype=torch.float64) @ right).unsqueeze(0).float()
    kernel = accumulated(Shape(1, 30, 30).rows().float(), 1)
    found, exact = align_at_power_one(D, kernel), align(factorise(D), kernel, powers=(1.0,))
    for statistic in STATISTICS:
        assert found.at(1.0, statistic).null == pytest.approx(exact.at(1.0, statistic).null, rel=1e-4)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[1], SHAPES[5], SHAPES[7]], ids=str)
@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("exponent", [1.0, 0.5, 1.7])
def test_standard_error_is_the_jackknife_over_dense_values(shape: Shape, statistic: str, exponent: float) -> None:
    W, rows = shape.weight(), shape.rows()
    entry = aligned(shape).at(exponent, statistic)
    left_out = np.array(
        [dense(W, rows[0, [b for b in range(BLOCKS) if b != out]], exponent, statistic) for out in range(BLOCKS)]
    )
    error = math.sqrt((BLOCKS - 1) / BLOCKS * ((left_out - left_out.mean()) ** 2).sum())
    assert entry.standard_error == pytest.approx(error, rel=1e-8)
    low, high = scipy.stats.t.interval(0.95, BLOCKS - 1, loc=entry.value, scale=error)
    assert entry.interval == pytest.approx((low, high), rel=1e-8)
    assert entry.excess_standard_error == pytest.approx(error / (1 - entry.null), rel=1e-8, nan_ok=True)


def test_blocks_of_unequal_size_are_weighted_by_their_samples() -> None:
    W, draw = SHAPES[0].weight(), torch.Generator().manual_seed(3)
    rows = [torch.randn(n, 7, generator=draw, dtype=torch.float64) + n / 10 for n in (3, 20, 9)]
    kernel = TangentKernel(1, 7, blocks=4, dtype=torch.float64)  # the last block stays empty
    for block, part in enumerate(rows):
        kernel.add(part.unsqueeze(-1), block=block)
        kernel.count(len(part), block=block)
    kernel.probes = [1]
    for exponent in (1.0, 0.5):
        entry = align(factorise(W), kernel, powers=(exponent,)).at(exponent, "pearson")
        assert entry.value == pytest.approx(dense(W, torch.cat(rows), exponent, "pearson"), abs=1e-12)
        left_out = np.array(
            [dense(W, torch.cat(rows[:b] + rows[b + 1 :]), exponent, "pearson") for b in range(3)],
        )
        error = math.sqrt(2 / 3 * ((left_out - left_out.mean()) ** 2).sum())
        assert entry.standard_error == pytest.approx(error, rel=1e-8)


def test_one_block_has_no_error_and_says_so() -> None:
    result = align(factorise(SHAPES[0].weight()), SHAPES[0].kernel(blocks=1), powers=(1.0, 0.5), generator=generator(0))
    for entry in result.alignments:
        assert math.isfinite(entry.value)
        assert math.isfinite(entry.null)
        assert math.isnan(entry.standard_error)
        assert all(map(math.isnan, entry.interval))
        assert "needs more batches" in entry.reason


def test_without_thorough_other_powers_have_no_error() -> None:
    result = aligned(SHAPES[0], (1.0, 0.5), thorough=False)
    assert math.isfinite(result.at(1.0, "pearson").standard_error)
    assert math.isnan(result.at(0.5, "pearson").standard_error)
    assert math.isfinite(aligned(SHAPES[0], (0.5,)).at(0.5, "pearson").standard_error)


# --- invariances ------------------------------------------------------------------------------------------------------

shapes = st.builds(Shape, st.sampled_from([1, 1, 2]), st.integers(2, 8), st.integers(2, 8))


@given(shape=shapes, of_weight=st.floats(1e-3, 1e3), of_kernel=st.floats(1e-6, 1e6))
def test_scale_changes_nothing(shape: Shape, of_weight: float, of_kernel: float) -> None:
    """Outputs times c multiply K by c^2: values, nulls, excesses and errors stay (oracle 9)."""
    W, rows = shape.weight(), shape.rows()
    before = align(factorise(W), accumulated(rows, shape.groups), powers=(1.0, 0.5))
    scaled = accumulated(rows * of_kernel**0.5, shape.groups)
    after = align(factorise(of_weight * W), scaled, powers=(1.0, 0.5))
    assert after.norms[1] == pytest.approx(before.norms[1] * of_weight**2 * of_kernel, rel=1e-9)
    for a, b in zip(before.alignments, after.alignments, strict=True):
        for name in ("value", "null", "excess", "standard_error"):
            assert getattr(b, name) == pytest.approx(getattr(a, name), abs=1e-9, nan_ok=True), name


@given(shape=shapes, seed=st.integers(0, 5))
def test_rotation_of_the_input_keeps_the_cosine(shape: Shape, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    R = torch.linalg.qr(torch.randn(shape.d, shape.d, generator=draw, dtype=torch.float64)).Q
    before = aligned(shape)
    after = align(factorise(shape.weight() @ R), shape.kernel(), powers=POWERS)
    for exponent in POWERS:
        a, b = before.at(exponent, "cosine"), after.at(exponent, "cosine")
        assert b.value == pytest.approx(a.value, abs=1e-10)
        assert b.null == pytest.approx(a.null, abs=1e-10, nan_ok=True)


def test_rotation_of_the_input_moves_pearson() -> None:
    draw = torch.Generator().manual_seed(0)
    R = torch.linalg.qr(torch.randn(12, 12, generator=draw, dtype=torch.float64)).Q
    turned = align(factorise(SHAPES[0].weight() @ R), SHAPES[0].kernel(), powers=(1.0,)).at(1.0, "pearson")
    assert abs(turned.value - aligned(SHAPES[0]).at(1.0, "pearson").value) > 1e-3


@given(shape=shapes, seed=st.integers(0, 5))
def test_order_of_the_outputs_does_not_matter(shape: Shape, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(shape.k, generator=draw)
    rows = shape.rows().unflatten(-1, (shape.groups, shape.k))[..., order].flatten(-2)
    after = align(factorise(shape.weight()[:, order]), accumulated(rows, shape.groups), powers=POWERS)
    for a, b in zip(aligned(shape).alignments, after.alignments, strict=True):
        for name in ("value", "null", "standard_error"):
            assert getattr(b, name) == pytest.approx(getattr(a, name), abs=1e-10, nan_ok=True), name


# --- what is undefined ------------------------------------------------------------------------------------------------


def test_a_weight_of_zeros_has_no_correlation() -> None:
    W = torch.zeros(1, 7, 4, dtype=torch.float64)
    for result in (
        align(factorise(W), SHAPES[0].kernel(), powers=(1.0, 0.5), generator=generator(0)),
        align_at_power_one(W, SHAPES[0].kernel()),
    ):
        for entry in result.alignments:
            assert math.isnan(entry.value)
            assert math.isnan(entry.excess)
            assert entry.reason == "its weights are zero"


def test_a_kernel_of_zeros_has_no_correlation() -> None:
    W, kernel = SHAPES[0].weight(), accumulated(torch.zeros(1, 2, 3, 7, dtype=torch.float64), 1)
    for result in (align(factorise(W), kernel, powers=(1.0, 0.5)), align_at_power_one(W, kernel)):
        for entry in result.alignments:
            assert math.isnan(entry.value)
            assert "AGOP is zero" in entry.reason
    assert math.isnan(align(factorise(W), kernel, powers=(1.0,)).coordinates.best_power())


@pytest.mark.parametrize("exponent", [1.0, 0.5])
def test_an_isotropic_kernel_leaves_no_room_for_an_excess(exponent: float) -> None:
    result = align(factorise(SHAPES[0].weight()), 3.0, powers=(exponent,), generator=generator(0))
    entry = result.at(exponent, "cosine")
    W = SHAPES[0].weight()
    assert entry.value == pytest.approx(cosine(feature_matrix(W), power(feature_matrix(W), exponent)), abs=1e-12)
    assert entry.null == pytest.approx(entry.value, abs=1e-9)
    if exponent == 1.0:
        assert math.isnan(entry.excess)
        assert "isotropic" in entry.reason


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("exponent", [1.0, 0.5])
@pytest.mark.parametrize("halves", [1, 2])
def test_one_effective_direction_has_no_excess(groups: int, exponent: float, halves: int) -> None:
    """Depthwise convolutions: one row a group, turning K inside its column space does nothing."""
    shape = Shape(groups, 1, 6)
    kernel = shape.kernel(halves)
    result = align(
        factorise(shape.weight()), kernel, powers=(exponent,), generator=generator(0), probed=halves == 2
    ).alignments
    for entry in result:
        assert math.isfinite(entry.value)
        assert math.isnan(entry.excess)
        assert math.isnan(entry.excess_standard_error)
        assert "r = 1" in entry.reason
    if exponent == 1.0:
        for entry in align_at_power_one(shape.weight(), kernel, probed=halves == 2).alignments:
            assert math.isnan(entry.excess)
            assert "r = 1" in entry.reason


def test_one_input_has_a_cosine_but_no_pearson_correlation() -> None:
    result = aligned(Shape(1, 4, 1), (1.0,))
    assert result.at(1.0, "cosine").value == pytest.approx(1.0)
    assert math.isnan(result.at(1.0, "pearson").value)
    assert "no variance" in result.at(1.0, "pearson").reason


# --- records ----------------------------------------------------------------------------------------------------------


def test_excess_is_the_share_of_the_room_above_chance() -> None:
    entry = Alignment(1.0, "pearson", 0.9, null=0.8, standard_error=0.02)
    assert entry.excess == pytest.approx(0.5)
    assert entry.excess_standard_error == pytest.approx(0.1)
    assert Alignment(1.0, "pearson", 0.7, null=0.8).excess == pytest.approx(-0.5)
    assert math.isnan(Alignment(1.0, "pearson", 1.0, null=1.0).excess)
    assert math.isnan(Alignment(1.0, "pearson", 1.0).excess)


def test_alignment_survives_a_plain_dictionary_with_null_for_nan() -> None:
    entry = Alignment(0.5, "cosine", 0.9, null_sd=0.1, interval=(0.8, 1.0), biased=True, reason="no null")
    plain = {key: None if value != value else value for key, value in entry.to_dict().items()}
    back = Alignment.from_dict(plain)
    assert repr(back) == repr(entry)
    assert set(plain) == {
        *("power", "statistic", "value", "null", "null_sd", "excess", "excess_standard_error"),
        *("verdict", "standard_error", "interval", "biased", "reason"),
    }


@pytest.mark.parametrize(
    ("value", "error", "null_sd", "verdict"),
    [
        (0.9, 0.01, 0.02, "above"),
        (0.84, 0.01, 0.02, "at"),  # far beyond its error, but inside the spread of chance
        (0.84, 0.01, float("nan"), "above"),  # spread not drawn
        (0.84, 0.05, 0.0, "at"),
        (0.7, 0.01, 0.02, "below"),
        (0.9, float("nan"), 0.02, "unknown"),
        (float("nan"), 0.01, 0.02, "unknown"),
    ],
)
def test_verdict_asks_for_two_standard_deviations(value: float, error: float, null_sd: float, verdict: str) -> None:
    entry = Alignment(1.0, "pearson", value, null=0.8, null_sd=null_sd, standard_error=error)
    assert entry.verdict == verdict
    assert Alignment(1.0, "pearson", value, null=1.0, standard_error=error).verdict == "unknown"


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), float("inf"), True, "1", None])
def test_powers_are_positive_numbers(bad: Any) -> None:
    with pytest.raises(DataError, match="positive finite number"):
        check_power(bad)
    with pytest.raises(DataError, match="positive finite number"):
        alignment_from_coordinates(aligned(SHAPES[0], (1.0,)).coordinates, bad, "cosine")


@pytest.mark.parametrize("bad", ["spearman", None, 1])
def test_statistics_are_two(bad: Any) -> None:
    with pytest.raises(DataError, match="'pearson' or 'cosine'"):
        check_statistic(bad)
