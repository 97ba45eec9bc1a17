from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from featlearn.linalg.spectrum import Spectrum

RANKS = ("effective_rank", "stable_rank", "participation_ratio", "top_share")

positive = arrays(np.float64, st.integers(1, 12), elements=st.floats(1e-3, 1e3))


def test_ranks_of_a_matrix_equal_their_definitions():
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(6, 9))
    psd = matrix @ matrix.T
    spectrum = Spectrum(np.linalg.eigvalsh(psd))
    shares = np.linalg.svd(psd, compute_uv=False) / np.trace(psd)
    assert spectrum.effective_rank == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)), rel=1e-12)
    assert spectrum.stable_rank == pytest.approx(np.linalg.norm(psd) ** 2 / np.linalg.norm(psd, 2) ** 2, rel=1e-12)
    assert spectrum.participation_ratio == pytest.approx(np.trace(psd) ** 2 / np.linalg.norm(psd) ** 2, rel=1e-12)
    assert spectrum.top_share == pytest.approx(np.linalg.norm(psd, 2) / np.trace(psd), rel=1e-12)


@pytest.mark.parametrize("rank", [1, 3, 10])
def test_projector_has_its_rank_by_every_measure(rank):
    spectrum = Spectrum(np.array([2.5] * rank + [0.0] * 5))
    for name in RANKS[:3]:
        assert getattr(spectrum, name) == pytest.approx(rank)
    assert spectrum.top_share == pytest.approx(1 / rank)


@given(positive, st.floats(1e-100, 1e100))
def test_ranks_ignore_scale_and_order(values, scale):
    spectrum, scaled = Spectrum(values), Spectrum(scale * values[::-1])
    for name in RANKS:
        assert getattr(scaled, name) == pytest.approx(getattr(spectrum, name), rel=1e-9)


@given(positive)
def test_ranks_are_ordered_between_one_and_the_dimension(values):
    spectrum = Spectrum(values)
    slack = 1 + 1e-12
    assert spectrum.stable_rank * slack >= 1
    assert spectrum.stable_rank <= spectrum.participation_ratio * slack
    assert spectrum.participation_ratio <= spectrum.effective_rank * slack
    assert spectrum.effective_rank <= len(values) * slack


def test_values_are_sorted_largest_first_and_roundoff_below_zero_is_zero():
    given_values = np.array([0.5, -1e-17, 2.0])
    spectrum = Spectrum(given_values)
    assert spectrum.values.tolist() == [2.0, 0.5, 0.0]
    assert given_values.tolist() == [0.5, -1e-17, 2.0]
    assert len(spectrum) == 3


def test_values_are_read_only_and_arrays_made_from_them_are_copies():
    spectrum = Spectrum(np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="read-only"):
        spectrum.values[0] = 3
    copied = np.asarray(spectrum, dtype=np.float32)
    copied[0] = 9
    assert copied.dtype == np.float32
    assert spectrum.values[0] == 2.0


@pytest.mark.parametrize("values", [np.zeros(4), np.zeros(0), -np.ones(2)])
def test_ranks_of_the_zero_matrix_are_nan(values):
    assert all(math.isnan(getattr(Spectrum(values), name)) for name in RANKS)


def test_dictionary_holds_the_values_and_the_four_ranks():
    spectrum = Spectrum(np.array([1.0, 3.0]))
    plain = spectrum.to_dict()
    assert plain["values"] == [3.0, 1.0]
    assert {name: plain[name] for name in RANKS} == {name: getattr(spectrum, name) for name in RANKS}
    assert Spectrum(np.asarray(plain["values"])).to_dict() == plain
