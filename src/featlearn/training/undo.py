"""Parameters as they were before something changed them in place, and the way back."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["KeptParameters"]


class KeptParameters:
    """Copies of parameters; :meth:`restore` puts them back bitwise.

    Parameters
    ----------
    parameters : iterable of Parameter
        Copied at construction; memory of one copy.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._kept: list[tuple[nn.Parameter, Tensor]] = [(p, p.detach().clone()) for p in parameters]

    @torch.no_grad()
    def restore(self) -> None:
        """Put every parameter back as it was."""
        for parameter, copy in self._kept:
            parameter.copy_(copy)
