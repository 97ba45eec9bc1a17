"""What was measured: fingerprints of weights and data, versions, cost."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["describe_loss", "fingerprint_of_data", "fingerprint_of_weights", "now", "versions"]


def fingerprint_of_weights(model: nn.Module) -> str:
    """SHA-256 over all parameters and buffers with their names, in registration order."""
    digest = hashlib.sha256()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(name.encode())
        _update(digest, tensor)
    return digest.hexdigest()


def fingerprint_of_data(batch: Any) -> str:
    """SHA-256 over all tensors and arrays of a batch, as the user passed it."""
    digest = hashlib.sha256()
    _walk(digest, batch)
    return digest.hexdigest()


def _walk(digest: Any, tree: Any) -> None:
    if isinstance(tree, Tensor):
        _update(digest, tree)
    elif isinstance(tree, np.ndarray):
        digest.update(str((tree.dtype, tree.shape)).encode())
        digest.update(np.ascontiguousarray(tree).tobytes())
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            digest.update(str(key).encode())
            _walk(digest, value)
    elif isinstance(tree, (tuple, list)):
        for value in tree:
            _walk(digest, value)
    else:
        digest.update(str(tree).encode())


def _update(digest: Any, tensor: Tensor) -> None:
    digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
    raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)  # bytes: numpy has no bfloat16
    digest.update(raw.numpy().data)


def describe_loss(loss: Any) -> str | None:
    """Name of a loss function."""
    if loss is None:
        return None
    name = getattr(loss, "__qualname__", None) or type(loss).__name__
    return str(name)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    from .. import __version__

    return {
        "featlearn": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def now() -> str:
    """Date and time, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
