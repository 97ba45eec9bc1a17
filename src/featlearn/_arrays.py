"""The one door for data: numpy, pandas, torch or lists in, a tensor or an array out, and the way back."""

from __future__ import annotations

import sys
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from .exceptions import DataError

__all__ = ["Restore", "as_tensor", "floats_like", "like", "plain"]


class Restore(Protocol):
    """Gives a result the kind, dtype and device of the data it was computed from."""

    def __call__(self, result: torch.Tensor, *, per_sample: bool = True) -> Any:
        """``result`` as the kind of the data; ``per_sample=False`` when its rows are not the samples."""


def as_tensor(
    X: Any, *, name: str = "X", dtype: torch.dtype | None = None, min_rank: int = 1, finite: bool = True
) -> tuple[torch.Tensor, Restore]:
    """Tensor of the numbers in ``X``, and the function that gives a result the kind of ``X``.

    Parameters
    ----------
    X : Tensor, array, DataFrame, Series or nested sequence of numbers, of shape (n, ...)
        A tensor stays on its device and in its graph. Memory is shared where dtype and layout allow.
    name : str
        What error messages call it.
    dtype : torch.dtype, optional
        Floating dtype of the tensor. By default that of ``X``; for integers and booleans torch's default dtype.
    min_rank : int
        Fewest axes that are accepted, the sample axis included.
    finite : bool
        Refuse NaN and infinity.

    Returns
    -------
    tensor : Tensor of shape (n, ...)
        Dense and floating.
    restore : callable(result, *, per_sample=True)
        Gives kind, dtype (when ``X`` is floating) and device of ``X`` to a tensor: a tensor for a tensor, an array for
        an array or a sequence. For pandas, a result with one row a sample becomes a Series or a DataFrame with the
        index of ``X`` (and its columns, if there are as many); with ``per_sample=False`` an array.

    Raises
    ------
    DataError
        ``X`` is not numeric or not real, has too few axes or no entry, or is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> tensor, restore = as_tensor(np.ones((2, 3), dtype=np.float32))
    >>> restore(tensor.double().sum(0))
    array([3., 3., 3.], dtype=float32)
    """
    # An object of pandas can only exist once pandas has been imported, so looking for it need not import it.
    pandas = sys.modules.get("pandas")
    restore: Restore
    if isinstance(X, torch.Tensor):
        tensor, restore = X, _tensor_restorer(X)
    elif pandas is not None and isinstance(X, pandas.DataFrame | pandas.Series):
        array = _pandas_array(X, name)
        tensor, restore = _array_tensor(array, name), _pandas_restorer(X, array.dtype)
    else:
        array = _plain_array(X, name)
        tensor, restore = _array_tensor(array, name), _array_restorer(array.dtype)
    return _checked(tensor, name, dtype, min_rank, finite), restore


def plain(values: Any) -> Any:
    """For what computes in numpy: a tensor, of any device and precision, as an array; anything else as it is."""
    if not isinstance(values, torch.Tensor):
        return values
    # First off the device: not every device has double precision.
    values = values.detach().cpu()
    return (values.double() if values.is_floating_point() else values).numpy()


def like(X: Any, values: NDArray[Any]) -> Any:
    """Results for rows X: a tensor on the device of a tensor, except for words; an array for anything else."""
    if not isinstance(X, torch.Tensor) or values.dtype.kind not in "biuf":
        return values
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(native).to(X.device)


def floats_like(X: Any, values: NDArray[np.float64]) -> Any:
    """Real numbers for rows X: of the kind, on the device and in the precision of a tensor or a floating array."""
    if isinstance(X, torch.Tensor):
        return torch.from_numpy(values).to(X.device, X.dtype if X.is_floating_point() else torch.float64)
    return values.astype(X.dtype, copy=False) if isinstance(X, np.ndarray) and X.dtype.kind == "f" else values


def _checked(tensor: torch.Tensor, name: str, dtype: torch.dtype | None, min_rank: int, finite: bool) -> torch.Tensor:
    if tensor.layout != torch.strided:
        raise DataError(f"Got {name} as a sparse tensor, but expected a dense one. Pass {name}.to_dense().")
    if tensor.is_complex():
        raise DataError(f"Got {name} of dtype {tensor.dtype}, but expected real numbers. Pass its real part.")
    if tensor.ndim < min_rank:
        shape = tuple(tensor.shape)
        raise DataError(f"Got {name} of shape {shape}, but expected at least {min_rank} axes. Samples come first.")
    if tensor.numel() == 0:
        raise DataError(f"Got {name} of shape {tuple(tensor.shape)}, but expected at least one sample and one number.")
    if not tensor.is_floating_point() and dtype is None:
        dtype = torch.get_default_dtype()
    tensor = tensor if dtype is None else tensor.to(dtype)
    if finite and not bool(torch.isfinite(tensor).all()):
        bad = torch.nonzero(~torch.isfinite(tensor))
        raise DataError(
            f"Got {name} with {len(bad)} of {tensor.numel()} entries NaN or infinite (the first at "
            f"{tuple(bad[0].tolist())}), but expected finite numbers. Impute them or drop these samples."
        )
    return tensor


def _plain_array(X: Any, name: str) -> NDArray[Any]:
    if hasattr(X, "tocsr"):
        raise DataError(f"Got {name} as a sparse matrix, but expected a dense array. Pass {name}.toarray().")
    try:
        array = np.asarray(X)
    except (TypeError, ValueError) as error:  # ragged sequences, tensors of a device inside a list
        raise DataError(f"Got {name} of type {type(X).__name__}, but expected an array of numbers: {error}") from error
    if array.dtype.kind not in "biufc":
        raise DataError(
            f"Got {name} of type {type(X).__name__} and dtype {array.dtype}, but expected numbers. Encode it first."
        )
    return array


def _pandas_array(X: Any, name: str) -> NDArray[Any]:
    columns = X.items() if X.ndim == 2 else [(X.name, X)]
    bad = [str(label) for label, column in columns if getattr(column.dtype, "kind", "O") not in "biufc"]
    if bad:
        raise DataError(f"Got {name} with the columns {', '.join(bad)} that hold no numbers. Encode or drop them.")
    array = X.to_numpy()
    # Nullable columns arrive as objects; their missing values become NaN, which `finite` then reports.
    return array if array.dtype != object else np.asarray(X.to_numpy(dtype=np.float64, na_value=np.nan))


def _array_tensor(array: NDArray[Any], name: str) -> torch.Tensor:
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    # torch shares memory only with writable arrays of positive strides.
    if not native.flags.writeable or any(stride < 0 for stride in native.strides):
        native = native.copy()
    try:
        return torch.from_numpy(native)
    except TypeError as error:  # long double
        raise DataError(
            f"Got {name} of dtype {array.dtype}, which torch does not know. Convert it to float64."
        ) from error


def _array_restorer(dtype: np.dtype[Any]) -> Restore:
    def restore(result: torch.Tensor, *, per_sample: bool = True) -> NDArray[Any]:
        if result.dtype == torch.bfloat16:  # numpy has no such type
            result = result.float()
        array: NDArray[Any] = result.detach().cpu().numpy()
        return array.astype(dtype, copy=False) if dtype.kind == "f" and array.dtype.kind == "f" else array

    return restore


def _tensor_restorer(X: torch.Tensor) -> Restore:
    def restore(result: torch.Tensor, *, per_sample: bool = True) -> torch.Tensor:
        keeps = X.is_floating_point() and result.is_floating_point()
        return result.to(device=X.device, dtype=X.dtype if keeps else result.dtype)

    return restore


def _pandas_restorer(X: Any, dtype: np.dtype[Any]) -> Restore:
    to_array = _array_restorer(dtype)
    frame = X if X.ndim == 2 else X.to_frame()

    def restore(result: torch.Tensor, *, per_sample: bool = True) -> Any:
        array = to_array(result)
        if not per_sample or array.ndim not in (1, 2):
            return array
        if array.ndim == 1:
            # The constructors of X itself, so that this module never imports pandas.
            return frame.iloc[:, 0]._constructor(array, index=X.index)
        columns = frame.columns if array.shape[1] == frame.shape[1] else None
        return frame._constructor(array, index=X.index, columns=columns)

    return restore
