"""The input of the last linear layer, caught while the model runs: what neural collapse is about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..agop.layers import Layer

__all__ = ["LastFeatures", "class_labels"]


def class_labels(targets: Any) -> Tensor | None:
    """The targets, when they are class indices, one a sample."""
    whole = isinstance(targets, Tensor) and not (targets.is_floating_point() or targets.dtype == torch.bool)
    return targets if whole and targets.dim() == 1 else None


class LastFeatures:
    """Keeps the last (n, p) input of any linear layer among ``layers``, one tensor at a time."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.modules = {id(layer.module): layer.module for layer in layers if layer.rule.kind in ("linear", "lora")}
        self._latest: tuple[nn.Module, Tensor] | None = None

    @contextmanager
    def watching(self, targets: Any) -> Iterator[None]:
        """Look at every linear layer when the targets are class labels, one a sample."""
        self._latest = None
        labels = class_labels(targets)
        if labels is None:
            yield
            return
        n = len(labels)

        def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor) and args[0].dim() == 2 and len(args[0]) == n:
                self._latest = (module, args[0].detach())

        handles = [module.register_forward_pre_hook(keep) for module in self.modules.values()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def of(self, head: Layer | None) -> Tensor | None:
        """The features that the model's last linear layer read; ``None`` when there is no such layer, or no labels."""
        if head is None or self._latest is None or self._latest[0] is not head.module:
            return None
        return self._latest[1]
