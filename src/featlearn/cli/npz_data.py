"""A ``.npz`` file with ``X`` and perhaps ``y``, as batches."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor

from ..exceptions import DataError
from .data_loading import Data, InputNeeds, Preparation, SizedBatches

__all__ = ["load_npz"]


def load_npz(path: Path, spec: str, how: Preparation, needs: InputNeeds) -> Data:
    """Rows of ``X`` with rows of ``y``.

    Bytes become [0, 1]; floats take the model's dtype; other whole numbers (tokens, classes) stay whole.

    Raises
    ------
    DataError
        No such file, damaged, Python objects, no ``X``, lengths that differ, NaN, or another number of channels.
    typer.BadParameter
        Image options that do not apply.
    """
    if how.image_size is not None:
        raise typer.BadParameter("Got --image-size with a .npz file, but expected it with a folder of images only.")
    inputs, targets = _read(path)
    total = len(inputs)
    chosen = how.choose(total)
    inputs, targets = inputs[chosen], None if targets is None else targets[chosen]
    _check_finite("X", inputs, chosen, path)
    if targets is not None:
        _check_finite("y", targets, chosen, path)
    inputs = _fit_axes(inputs, needs, path)
    scale = how.scaling(inputs.shape[1])

    def make() -> Iterator[Any]:
        for part in how.parts(len(inputs)):
            batch = scale(_to_inputs(inputs[part], needs.dtype))
            yield batch if targets is None else (batch, _to_tensor(targets[part], needs.dtype))

    labels = "" if targets is not None else ", no labels"
    shape = tuple(inputs.shape[1:]) if inputs.ndim == 4 and inputs.shape[1] in (1, 3) else None
    return Data(SizedBatches(make, how.count(len(inputs))), f"{spec} ({len(inputs)} of {total} samples{labels})", shape)


def _read(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    if not path.is_file():
        raise DataError(f"Got --data {path}, but there is no such file.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive.files)
            arrays = {name: archive[name] for name in ("X", "y") if name in names}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as problem:
        pickled = "allow_pickle" in str(problem)
        why = "it holds Python objects, which are never unpickled" if pickled else str(problem)
        raise DataError(f"Got {path}, which cannot be read: {why}. Save X and y with numpy.savez.") from problem
    if "X" not in arrays:
        raise DataError(f"Got {path} with arrays {', '.join(names) or 'none'}, but expected X and optionally y.")
    for name, values in arrays.items():
        if values.dtype.kind not in "fiub":
            raise DataError(f"Got {name} of dtype {values.dtype} in {path}, but expected real numbers.")
    inputs, targets = arrays["X"], arrays.get("y")
    if inputs.ndim < 2 or len(inputs) == 0:
        raise DataError(f"Got X of shape {inputs.shape} in {path}, but expected (n, ...) with n at least 1.")
    if targets is not None and (targets.ndim == 0 or len(targets) != len(inputs)):
        raise DataError(f"Got y of shape {targets.shape} for {len(inputs)} rows of X in {path}: expected one a row.")
    if targets is not None and targets.dtype.kind != "f" and targets.shape[1:] == (1,):
        targets = targets[:, 0]  # class numbers as a column
    return inputs, targets


def _check_finite(name: str, values: NDArray[Any], rows: NDArray[np.int64], path: Path) -> None:
    finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if not finite.all():
        row = rows[~finite].min()
        raise DataError(f"Got {name} with NaN or infinity in {path} (row {row}), but expected finite numbers.")


def _fit_axes(inputs: NDArray[Any], needs: InputNeeds, path: Path) -> NDArray[Any]:
    """Bring images to (n, channels, ...): add a missing channel axis, move one that comes last, refuse other counts."""
    if needs.channels == 1 and inputs.ndim + 1 == needs.axes:
        return inputs[:, None]
    if inputs.ndim != needs.axes or inputs.shape[1] == needs.channels:
        return inputs
    if inputs.shape[-1] == needs.channels:
        return np.moveaxis(inputs, -1, 1)
    raise DataError(
        f"Got X of shape {inputs.shape} in {path}, but the model's first convolution wants {needs.channels} channels: "
        f"expected (n, {needs.channels}, ...)."
    )


def _to_inputs(values: NDArray[Any], dtype: torch.dtype) -> Tensor:
    if values.dtype == np.uint8:
        return torch.from_numpy(values.astype(np.float64) / 255).to(dtype)
    if values.dtype.kind == "b":
        return torch.from_numpy(values).to(dtype)
    return _to_tensor(values, dtype)


def _to_tensor(values: NDArray[Any], dtype: torch.dtype) -> Tensor:
    if values.dtype.kind == "f":
        return torch.from_numpy(values.astype(np.float64)).to(dtype)
    return torch.from_numpy(values.astype(np.int64))
