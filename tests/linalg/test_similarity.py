from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featlearn.exceptions import DataError, FeatlearnWarning
from featlearn.linalg.similarity import (
    DebiasedCKA,
    debiased_hsic,
    double_center,
    linear_gram,
    matrix_correlation,
    u_center,
)


def features(n, p, seed, dtype=torch.float64):
    return torch.randn(n, p, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def cka_of(a, b):
    accumulator = DebiasedCKA()
    accumulator.add(a, b)
    return accumulator.finalize()


def hsic_by_loops(K, L):
    """The formula, term by term, with plain loops over distinct pairs and triples of samples."""
    n = len(K)
    trace = sum(K[i, j] * L[i, j] for i in range(n) for j in range(n) if i != j)
    sum_k = sum(K[i, j] for i in range(n) for j in range(n) if i != j)
    sum_l = sum(L[i, j] for i in range(n) for j in range(n) if i != j)
    chain = sum(K[i, j] * L[j, k] for i in range(n) for j in range(n) for k in range(n) if i != j and j != k)
    return (trace + sum_k * sum_l / ((n - 1) * (n - 2)) - 2 * chain / (n - 2)) / (n * (n - 3))


def biased_cka(a, b):
    """Cosine of the centred Gram matrices: what most code computes."""
    n = len(a)
    center = torch.eye(n, dtype=torch.float64) - 1 / n
    K, L = center @ a @ a.mT @ center, center @ b @ b.mT @ center
    return float((K * L).sum() / (K.norm() * L.norm()))


# --- correlations -----------------------------------------------------------------------------------------------------


def test_correlation_over_all_entries_equals_numpy():
    a, b = features(5, 7, 0), features(5, 7, 1) + 0.3
    expected = np.corrcoef(a.flatten().numpy(), b.flatten().numpy())[0, 1]
    assert matrix_correlation(a, b) == pytest.approx(expected, abs=1e-14)
    cosine = float((a * b).sum() / (a.norm() * b.norm()))
    assert matrix_correlation(a, b, "cosine") == pytest.approx(cosine, abs=1e-14)


@given(st.floats(1e-3, 1e3), st.floats(-10, 10))
def test_pearson_ignores_scale_and_offset_and_cosine_ignores_scale(scale, offset):
    a, b = features(4, 4, 2), features(4, 4, 3)
    assert matrix_correlation(scale * a + offset, b) == pytest.approx(matrix_correlation(a, b), abs=1e-9)
    assert matrix_correlation(scale * a, b, "cosine") == pytest.approx(matrix_correlation(a, b, "cosine"), abs=1e-12)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_correlation_of_huge_and_tiny_matrices_neither_overflows_nor_vanishes(scale):
    a, b = features(4, 4, 2), features(4, 4, 3)
    assert matrix_correlation(scale * a, b) == pytest.approx(matrix_correlation(a, b), abs=1e-13)


def test_correlation_of_equal_matrices_is_one_and_of_half_precision_is_computed_in_double():
    a = features(6, 6, 4, torch.bfloat16)
    assert matrix_correlation(a, a) == pytest.approx(1.0, abs=1e-15)
    assert matrix_correlation(a, -a, "cosine") == pytest.approx(-1.0, abs=1e-15)


def test_constant_matrix_has_no_pearson_and_zero_matrix_no_cosine():
    one = torch.full((3, 3), 0.1)
    assert math.isnan(matrix_correlation(one, features(3, 3, 0)))
    assert matrix_correlation(one, one, "cosine") == pytest.approx(1.0)
    assert math.isnan(matrix_correlation(torch.zeros(3, 3), one, "cosine"))


def test_correlation_refuses_other_shapes_and_unknown_statistics():
    with pytest.raises(DataError, match=r"\(2, 3\) and \(3, 2\)"):
        matrix_correlation(torch.ones(2, 3), torch.ones(3, 2))
    with pytest.raises(DataError, match="statistic='spearman'"):
        matrix_correlation(torch.ones(2, 2), torch.ones(2, 2), "spearman")


def test_double_centring_is_the_gram_matrix_of_centred_features():
    a = features(7, 3, 5) + 2
    centred = a - a.mean(dim=0)
    torch.testing.assert_close(double_center(a @ a.mT), centred @ centred.mT, rtol=0, atol=1e-13)
    other = features(7, 7, 6)  # not symmetric: rows and columns have means of their own
    center = torch.eye(7, dtype=torch.float64) - 1 / 7
    torch.testing.assert_close(double_center(other), center @ other @ center, rtol=0, atol=1e-13)


# --- debiased HSIC ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [4, 5, 9])
def test_debiased_hsic_equals_the_loops(n):
    a, b = features(n, 6, 7), features(n, 2, 8) + 1
    K, L = a @ a.mT, b @ b.mT
    assert debiased_hsic(K, L) == pytest.approx(float(hsic_by_loops(K, L)), abs=1e-12)


def test_debiased_hsic_does_not_read_the_diagonals():
    a, b = features(6, 3, 9), features(6, 4, 10)
    K, L = a @ a.mT, b @ b.mT
    changed = K + torch.diag(torch.linspace(5, 50, 6, dtype=torch.float64))
    assert debiased_hsic(changed, L) == pytest.approx(debiased_hsic(K, L), abs=1e-12)


def test_debiased_hsic_is_zero_on_average_where_the_biased_estimate_is_not():
    draws = 400
    generator = torch.Generator().manual_seed(0)
    values, biased = [], []
    for _ in range(draws):
        a = torch.randn(8, 5, generator=generator, dtype=torch.float64)
        b = torch.randn(8, 5, generator=generator, dtype=torch.float64)
        values.append(debiased_hsic(a @ a.mT, b @ b.mT))
        biased.append(float((double_center(a @ a.mT) * double_center(b @ b.mT)).sum()) / 49)
    error = np.std(values) / math.sqrt(draws)
    assert abs(np.mean(values)) < 4 * error
    assert np.mean(biased) > 10 * error


def test_u_centred_rows_sum_to_zero():
    a = features(6, 3, 11)
    centred = u_center(a @ a.mT)
    assert float(centred.sum(dim=1).abs().max()) < 1e-13
    assert float(centred.diagonal().abs().max()) == 0


@pytest.mark.parametrize("n", [1, 2, 3])
def test_fewer_than_four_samples_are_refused(n):
    with pytest.raises(DataError, match=f"Got {n} samples, but expected at least 4"):
        debiased_hsic(torch.eye(n), torch.eye(n))
    with pytest.raises(DataError, match="at least 4"):
        DebiasedCKA().add(features(n, 2, 0), features(n, 2, 0))


# --- debiased CKA -----------------------------------------------------------------------------------------------------


def test_cka_of_features_with_themselves_is_one():
    assert cka_of(features(20, 5, 0), features(20, 5, 0)) == pytest.approx(1.0, abs=1e-12)


def test_independent_features_have_debiased_cka_zero_and_biased_two_thirds():
    values = [cka_of(features(100, 200, 2 * s), features(100, 200, 2 * s + 1)) for s in range(20)]
    assert abs(np.mean(values)) < 0.01
    assert max(map(abs, values)) < 0.05
    assert biased_cka(features(100, 200, 0), features(100, 200, 1)) == pytest.approx(0.67, abs=0.01)


@given(st.integers(0, 20), st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_cka_ignores_rotation_scale_and_offset(seed, scale, offset):
    a, b = features(9, 4, seed), features(9, 3, seed + 100)
    rotation = torch.linalg.qr(features(4, 4, seed + 200))[0]
    moved = scale * a @ rotation + offset * torch.arange(4, dtype=torch.float64)
    assert cka_of(moved, b) == pytest.approx(cka_of(a, b), abs=1e-7)


def test_cka_over_batches_averages_numerator_and_denominators_apart():
    batches = [(features(n, 6, n), features(n, 6, n) + features(n, 6, n + 50)) for n in (5, 8, 20)]
    accumulator = DebiasedCKA()
    sums = np.zeros(3)
    for a, b in batches:
        accumulator.add(a, b)
        K, L = a @ a.mT, b @ b.mT
        sums += len(a) * np.array([float(hsic_by_loops(*pair)) for pair in ((K, L), (K, K), (L, L))])
    assert accumulator.finalize() == pytest.approx(sums[0] / math.sqrt(sums[1] * sums[2]), abs=1e-11)
    assert accumulator.n_samples == 33


def test_merging_two_halves_equals_the_whole_in_either_order():
    batches = [(features(6, 4, s), features(6, 5, s + 9)) for s in range(4)]
    whole, first, second, again = (DebiasedCKA() for _ in range(4))
    for i, batch in enumerate(batches):
        whole.add(*batch)
        (first if i < 2 else second).add(*batch)
        again.merge(_single(batch))
    assert again.finalize() == pytest.approx(whole.finalize(), abs=1e-14)
    assert second.merge(first).finalize() == pytest.approx(whole.finalize(), abs=1e-14)


def _single(batch):
    accumulator = DebiasedCKA()
    accumulator.add(*batch)
    return accumulator


def test_grams_of_parts_add_up_to_the_gram_of_the_whole():
    a, b = features(8, 6, 1), features(8, 3, 2)
    accumulator = DebiasedCKA()
    accumulator.add_grams(linear_gram(a[:, :2]) + linear_gram(a[:, 2:]), linear_gram(b))
    assert accumulator.finalize() == pytest.approx(cka_of(a, b), abs=1e-14)


def test_features_are_flattened_after_the_sample_axis():
    a = features(6, 24, 3)
    torch.testing.assert_close(linear_gram(a.reshape(6, 2, 3, 4)), linear_gram(a), rtol=0, atol=0)


def test_column_slices_change_nothing(monkeypatch):
    a = features(6, 50, 3)
    whole = linear_gram(a)
    monkeypatch.setattr("featlearn.linalg.similarity.COLUMNS", 42)
    torch.testing.assert_close(linear_gram(a), whole, rtol=0, atol=1e-13)


def test_large_offset_in_single_precision_keeps_the_digits():
    exact = features(30, 5, 4)
    offset = (exact.float() + 1000).double()  # what single precision stores
    assert cka_of(offset.float(), exact) == pytest.approx(cka_of(offset - 1000, exact), abs=1e-10)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_constant_features_give_nan_and_a_warning(value):
    accumulator = DebiasedCKA("activations of 'fc1'")
    for _ in range(2):
        accumulator.add(torch.full((5, 3), value), features(5, 3, 0))
    with pytest.warns(FeatlearnWarning, match="activations of 'fc1' that do not differ"):
        assert math.isnan(accumulator.finalize())


def test_features_of_one_active_sample_give_nan_and_a_warning():
    a = torch.zeros(6, 3)
    a[2] = torch.tensor([0.3, 0.7, -0.2])
    accumulator = DebiasedCKA()
    accumulator.add(a, features(6, 3, 1))
    with pytest.warns(FeatlearnWarning, match="only in one"):
        assert math.isnan(accumulator.finalize())


def test_bad_features_are_refused_and_leave_nothing_behind():
    accumulator = DebiasedCKA()
    with pytest.raises(DataError, match="5 and 6 samples"):
        accumulator.add(features(5, 2, 0), features(6, 2, 0))
    bad = features(5, 2, 0)
    bad[0, 0] = math.nan
    with pytest.raises(DataError, match="not finite"):
        accumulator.add(bad, features(5, 2, 0))
    with pytest.raises(DataError, match="no batches"):
        accumulator.finalize()
