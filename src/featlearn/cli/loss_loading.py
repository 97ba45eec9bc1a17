"""The loss and the output function named on the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import typer
from torch import Tensor
from torch.nn import functional

from ..exceptions import DataError
from .object_loading import load_object

__all__ = ["BUILT_IN", "cross_entropy", "load_loss", "load_outputs", "mse"]

Loss = Callable[[Tensor, Any], Tensor]


def cross_entropy(outputs: Tensor, targets: Any) -> Tensor:
    """Mean cross-entropy of logits (n, C, ...) or (n, ..., C) with class numbers, or with class probabilities.

    Raises
    ------
    DataError
        Targets missing, not whole, or not in 0..C-1.
    """
    targets = _require(targets, "cross_entropy")
    if outputs.ndim < 2:
        raise DataError(f"Got outputs of shape {tuple(outputs.shape)}, but --loss cross_entropy expects (n, classes).")
    if targets.is_floating_point():
        if targets.shape != outputs.shape:
            raise DataError(
                f"Got targets of dtype {targets.dtype} and shape {tuple(targets.shape)}, but --loss cross_entropy "
                "expects whole class numbers. Save y as integers, or pass --loss mse."
            )
        return functional.cross_entropy(outputs, targets)
    if outputs.ndim > 2 and targets.shape == outputs.shape[:-1]:
        outputs, targets = outputs.flatten(end_dim=-2), targets.flatten()
    classes = outputs.shape[1]
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise DataError(f"Got class number {wrong} for a model of {classes} outputs, but expected 0 to {classes - 1}.")
    return functional.cross_entropy(outputs, targets)


def mse(outputs: Tensor, targets: Any) -> Tensor:
    """Mean squared error over all entries; class numbers against (n, C) outputs become one-hot rows.

    Raises
    ------
    DataError
        Targets missing or of another shape.
    """
    targets = _require(targets, "mse")
    if not targets.is_floating_point() and outputs.ndim == 2 and targets.shape == outputs.shape[:1]:
        classes = outputs.shape[1]
        if classes > 1 and int(targets.min()) >= 0 and int(targets.max()) < classes:
            targets = functional.one_hot(targets, classes)
    if targets.ndim == 1 and outputs.shape == (len(targets), 1):
        targets = targets[:, None]
    if targets.shape != outputs.shape:
        raise DataError(
            f"Got targets of shape {tuple(targets.shape)} for outputs of shape {tuple(outputs.shape)}, but --loss mse "
            "expects the same shape, or class numbers."
        )
    return functional.mse_loss(outputs, targets.to(outputs.dtype))


BUILT_IN: dict[str, Loss] = {"cross_entropy": cross_entropy, "mse": mse}


def load_loss(spec: str | None) -> Loss | None:
    """A built-in loss by name, or the user's ``MODULE:CALLABLE`` of (outputs, targets); ``None`` for none."""
    if spec is None or spec in BUILT_IN:
        return None if spec is None else BUILT_IN[spec]
    if ":" not in spec:
        raise typer.BadParameter(f"Got --loss {spec!r}, but expected cross_entropy, mse or MODULE:CALLABLE.")
    loss: Loss = _callable(spec, "--loss")
    return loss


def load_outputs(spec: str | None) -> Any:
    """The user's ``MODULE:CALLABLE`` of (model, batch), or ``"logits"``."""
    return "logits" if spec in (None, "logits") else _callable(str(spec), "--outputs")


def _callable(spec: str, option: str) -> Any:
    found = load_object(spec, option, typer.BadParameter)
    if not callable(found):
        raise typer.BadParameter(f"Got {option} {spec!r}, a {type(found).__name__}, but expected something callable.")
    # A loss class (torch.nn:CrossEntropyLoss) is meant as the loss it makes.
    return found() if isinstance(found, type) and issubclass(found, torch.nn.Module) else found


def _require(targets: Any, name: str) -> Tensor:
    if not isinstance(targets, Tensor):
        raise DataError(f"Got targets of type {type(targets).__name__}, but --loss {name} expects a tensor of them.")
    return targets
