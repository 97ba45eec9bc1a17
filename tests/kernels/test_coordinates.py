"""Compiled distances and gradients against plain torch and numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cases import normal
from hypothesis import given, settings
from hypothesis import strategies as st

from featlearn.kernels import LpqKernel
from featlearn.kernels._lpq_numba import CompiledDistances, _power_single, compiled
from featlearn.kernels.coordinates import CoordinateDistances

ORDERS = [0.5, 1.0, 1.25, 1.9]
TOLERANCE = {torch.float32: 5e-6, torch.float64: 1e-12}


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("d", [1, 3, 4, 9])
def test_compiled_loops_equal_plain_torch_and_the_formula(p: float, d: int, dtype: torch.dtype) -> None:
    x, z = normal(40, d, seed=1).to(dtype), normal(33, d, seed=2).to(dtype)
    z[:6] = x[3:9]
    z[6:12, 0] = x[6:12, 0]
    w, dual = normal(17, 21, seed=3).to(dtype), normal(21, 2, seed=4).to(dtype)
    rows, columns = slice(3, 20), slice(0, 21)
    difference = z[columns].double() - x[rows, None].double()
    size = difference.abs()
    exact = (size**p).sum(-1)
    terms = torch.where(size > 0, difference.sign() * size.clamp_min(1e-300) ** (p - 1), 0.0)
    exact_gradient = torch.einsum("ij,jc,ijl->icl", w.double(), dual.double(), terms)
    tolerance = TOLERANCE[dtype]
    for make in (CoordinateDistances, CompiledDistances):
        distances = make(x, z, p)
        powers = distances.block_(rows, columns, torch.full((17, 21), torch.nan, dtype=dtype))
        torch.testing.assert_close(powers.double(), exact, rtol=tolerance, atol=tolerance)
        assert torch.equal(powers == 0, exact == 0)
        start = torch.ones(17, 2, d, dtype=dtype)
        distances.add_gradients_(rows, columns, w, dual, start)
        scale = float(exact_gradient.abs().max())
        torch.testing.assert_close(start.double() - 1, exact_gradient, rtol=0, atol=tolerance * scale)


@settings(deadline=None, max_examples=50)
@given(st.floats(2.0**-100, 2.0**60, width=32), st.floats(-1.0, 2.0, width=32))
def test_power_in_vector_registers_is_right_to_its_last_digits(size: float, p: float) -> None:
    exact = float(size) ** float(np.float32(p))
    if not 1e-35 < exact < 1e35:
        return
    # The logarithm, up to 100 here, is rounded before it is raised.
    tolerance = 4e-7 + 1.5e-7 * abs(np.log(exact))
    assert float(POWER(np.float32(size), np.float32(p))) == pytest.approx(exact, rel=tolerance)


@compiled
def POWER(size: Any, p: Any) -> Any:
    return _power_single(size, p)


def test_power_of_zero_is_zero_and_of_one_is_one() -> None:
    for p in (0.3, 1.0, 1.7, -0.5):
        assert POWER(np.float32(0), np.float32(p)) == 0
        assert float(POWER(np.float32(1), np.float32(p))) == pytest.approx(1, abs=2e-7)


@pytest.mark.parametrize("p", [1.0, 1.5])
def test_numbers_do_not_depend_on_the_threads(p: float, one_torch_thread: Any) -> None:
    x, dual = normal(70, 4).float(), normal(70, 2).float()
    results = []
    for threads in (1, 2, 3):
        one_torch_thread(threads)
        kernel = LpqKernel(4.0, p=p, q=1.0)
        results.append((kernel.matrix(x, x), kernel.expansion_gradient(x, x, dual, rows=torch.arange(70))))
    for values, gradient in results[1:]:
        assert torch.equal(values, results[0][0])
        assert torch.equal(gradient, results[0][1])


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("p", ORDERS)
def test_nan_is_passed_on(p: float, dtype: torch.dtype) -> None:
    x = normal(6, 7).to(dtype)
    x[2, 3] = torch.nan
    kernel = LpqKernel(4.0, p=p, q=p / 2)
    nan = kernel.matrix(x, x[3:]).isnan()
    assert nan[2].all()
    assert int(nan.sum()) == 3
    assert kernel.expansion_gradient(x, x[3:], torch.ones(6, 1, dtype=dtype)).isnan().any()


@pytest.mark.parametrize("p", ORDERS)
def test_other_devices_use_plain_torch_for_the_same_numbers(p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = LpqKernel(4.0, p=p, q=p / 2)
    x, z, dual = normal(30, 5), normal(12, 5, seed=2), normal(30, 2)
    compiled_results = kernel.matrix(x, z), kernel.expansion_gradient(x, z, dual)
    monkeypatch.setattr(LpqKernel, "distances", lambda self, x, z: CoordinateDistances(x, z, self.p))
    for plain, expected in zip(
        (kernel.matrix(x, z), kernel.expansion_gradient(x, z, dual)), compiled_results, strict=True
    ):
        torch.testing.assert_close(plain, expected, rtol=1e-10, atol=1e-12)
