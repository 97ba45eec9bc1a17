from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from featlearn._arrays import as_tensor
from featlearn.exceptions import DataError

FLOATS = [np.float16, np.float32, np.float64]


@pytest.mark.parametrize("dtype", FLOATS)
def test_array_round_trip_keeps_kind_dtype_and_values(dtype):
    X = np.arange(6, dtype=dtype).reshape(2, 3)
    tensor, restore = as_tensor(X)
    back = restore(tensor.double() * 2)
    assert type(back) is np.ndarray
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, 2 * X)


def test_array_memory_is_shared_where_it_can_be():
    X = np.zeros((2, 3))
    tensor, _ = as_tensor(X)
    X[1, 2] = 7.0
    assert tensor[1, 2] == 7.0


@pytest.mark.parametrize(
    "X",
    [
        np.arange(6.0).reshape(2, 3)[::-1],
        np.arange(6.0).reshape(2, 3).astype(">f8"),
        np.broadcast_to(np.arange(3.0), (2, 3)),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]],
        np.arange(6).reshape(2, 3),
        np.array([[True, False, True]]),
        np.arange(6, dtype=np.uint16).reshape(2, 3),
    ],
    ids=["reversed", "big-endian", "read-only", "fortran", "lists", "integers", "booleans", "uint16"],
)
def test_every_numeric_layout_gives_the_same_numbers(X):
    tensor, restore = as_tensor(X)
    assert tensor.is_floating_point()
    np.testing.assert_array_equal(tensor.numpy(), np.asarray(X).astype(float))
    assert isinstance(restore(tensor), np.ndarray)


def test_integers_take_the_default_dtype_and_results_are_not_truncated():
    tensor, restore = as_tensor(np.arange(4).reshape(2, 2))
    assert tensor.dtype == torch.get_default_dtype()
    assert restore(tensor + 0.5)[0, 0] == 0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_tensor_round_trip_keeps_dtype_and_the_tensor_itself(dtype):
    X = torch.ones(2, 3, dtype=dtype)
    tensor, restore = as_tensor(X)
    assert tensor is X
    assert restore(tensor.double()).dtype == dtype


def test_tensor_stays_in_its_graph():
    X = torch.ones(2, 3, requires_grad=True)
    tensor, restore = as_tensor(X, dtype=torch.float64)
    restore(tensor.sum(1)).sum().backward()
    torch.testing.assert_close(X.grad, torch.ones(2, 3))


def test_integer_results_keep_their_dtype():
    _, restore = as_tensor(torch.ones(2, 3))
    assert restore(torch.tensor([1, 0])).dtype == torch.int64
    _, restore = as_tensor(np.ones((2, 3), dtype=np.float32))
    assert restore(torch.tensor([1, 0])).dtype == np.int64


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_asked_dtype_is_given(dtype):
    tensor, restore = as_tensor(np.ones((2, 3), dtype=np.float32), dtype=dtype)
    assert tensor.dtype == dtype
    assert restore(tensor).dtype == np.float32


def test_frame_round_trip_keeps_index_and_columns():
    X = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]}, index=["x", "y"])
    tensor, restore = as_tensor(X)
    pd.testing.assert_frame_equal(restore(tensor * 2), X * 2)
    pd.testing.assert_series_equal(restore(tensor.sum(1)), pd.Series([4.0, 6.0], index=["x", "y"]))
    assert list(restore(tensor.repeat(1, 2)).columns) == [0, 1, 2, 3]
    assert isinstance(restore(tensor.mT @ tensor, per_sample=False), np.ndarray)
    assert isinstance(restore(tensor[:, None, :]), np.ndarray)


def test_series_round_trip():
    y = pd.Series([1.0, 2.0, 4.0], index=[3, 4, 5], name="target", dtype=np.float32)
    tensor, restore = as_tensor(y)
    back = restore(tensor.double())
    assert isinstance(back, pd.Series)
    assert back.dtype == np.float32
    assert list(back.index) == [3, 4, 5]


def test_mixed_and_nullable_columns_are_numbers():
    X = pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5], "c": pd.array([3, 4], dtype="Int64")})
    tensor, _ = as_tensor(X)
    torch.testing.assert_close(tensor, torch.tensor([[1, 0.5, 3], [2, 1.5, 4]], dtype=tensor.dtype))


@pytest.mark.parametrize(
    ("X", "options", "message"),
    [
        (np.array([[1.0, np.nan], [np.inf, 0.0]]), {}, r"2 of 4 entries NaN or infinite \(the first at \(0, 1\)\)"),
        (torch.tensor([float("inf")]), {}, "1 of 1 entries NaN or infinite"),
        (pd.DataFrame({"a": pd.array([1, None], dtype="Int64")}), {}, "1 of 2 entries NaN or infinite"),
        (np.zeros((0, 3)), {}, r"shape \(0, 3\), but expected at least one sample"),
        (np.zeros((3, 0)), {}, r"shape \(3, 0\), but expected at least one sample and one number"),
        (np.zeros(3), {"min_rank": 2}, r"shape \(3,\), but expected at least 2 axes"),
        (3.0, {}, r"shape \(\), but expected at least 1 axes"),
        (np.array([["a"]]), {}, "type ndarray and dtype <U1, but expected numbers"),
        (None, {}, "type NoneType and dtype object, but expected numbers"),
        ([[1.0], [1.0, 2.0]], {}, "type list, but expected an array of numbers"),
        (np.zeros(2, dtype=complex), {}, "dtype torch.complex128, but expected real numbers"),
        (np.zeros(2, dtype=np.longdouble), {}, "which torch does not know"),
        (torch.eye(2).to_sparse(), {}, "as a sparse tensor"),
        (pd.DataFrame({"a": [1.0], "kind": ["x"]}), {}, "with the columns kind that hold no numbers"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_data_is_refused_with_its_name(X, options, message):
    with pytest.raises(DataError, match=message) as caught:
        as_tensor(X, name="weights", **options)
    assert str(caught.value).startswith("Got weights")


def test_sparse_matrix_is_refused():
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(DataError, match=r"Pass X\.toarray\(\)"):
        as_tensor(sparse.eye_array(3))


def test_not_finite_passes_when_it_may():
    tensor, _ = as_tensor(np.array([np.nan, 1.0]), finite=False)
    assert torch.isnan(tensor[0])


def test_pandas_is_not_imported():
    code = "import sys; from featlearn._arrays import as_tensor; as_tensor([1.0, 2.0]); print('pandas' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"
