"""Models and results as one short line: arrays of more than a few numbers by their shapes."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["short_repr"]

Kind = TypeVar("Kind", bound=type)

_MOST_NUMBERS = 8


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxdict, self.maxstring, self.maxother = 12, 200, 1000

    def repr_ndarray(self, array: NDArray[Any], level: int) -> str:
        """Named by the type that it is for."""
        if array.size > _MOST_NUMBERS:
            return f"<array of shape {array.shape}>"
        return f"array({np.array2string(array, separator=', ', max_line_width=10_000)})".replace("\n", "")


_SHORT = _Short()


def short_repr(cls: Kind) -> Kind:
    """Decorate a dataclass, whose fields with ``repr=False`` stay out.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @short_repr
    ... @dataclass
    ... class Weights:
    ...     u: np.ndarray
    ...     w: np.ndarray
    >>> Weights(np.zeros(2), np.zeros((3, 4)))
    Weights(u=array([0., 0.]), w=<array of shape (3, 4)>)
    """

    def __repr__(self: Any) -> str:
        shown = {item.name: getattr(self, item.name) for item in fields(self) if item.repr}
        plain = {name: dict(value) if isinstance(value, Mapping) else value for name, value in shown.items()}
        return f"{type(self).__name__}({', '.join(f'{name}={_SHORT.repr(value)}' for name, value in plain.items())})"

    cls.__repr__ = __repr__  # type: ignore[method-assign, assignment]
    return cls
