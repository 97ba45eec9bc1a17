"""What the makers of data sets accept as a number: everything else is refused before any work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..exceptions import DataError

__all__ = ["entries", "finite", "random_generator", "share", "whole_number"]


def whole_number(name: str, value: Any, least: int, *, multiple: int = 1) -> int:
    """``value`` if it is a whole number of at least ``least`` and a multiple of ``multiple``, else ``DataError``."""
    right = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not right or value < least or value % multiple:
        kind = f"multiple of {multiple}" if multiple > 1 else "whole number"
        raise DataError(f"Got {name}={value!r}, but expected a {kind} of at least {least}.")
    return int(value)


def share(name: str, value: Any) -> float:
    """``value`` if it is a number from 0 to 1, else ``DataError``."""
    if not _is_number(value) or not 0 <= value <= 1:
        raise DataError(f"Got {name}={value!r}, but expected a number from 0 to 1.")
    return float(value)


def finite(name: str, value: Any, *, above: float = -math.inf) -> float:
    """``value`` if it is a finite number above ``above``, else ``DataError``."""
    if not _is_number(value) or not above < value < math.inf:
        bound = "" if above == -math.inf else f" above {above:g}"
        raise DataError(f"Got {name}={value!r}, but expected a finite number{bound}.")
    return float(value)


def entries(name: str, value: Any, length: int | None = None) -> list[Any]:
    """What a sequence of ``length`` entries holds (of at least one by default), else ``DataError``."""
    right = isinstance(value, Sequence) and not isinstance(value, str)
    right |= isinstance(value, np.ndarray) and value.ndim > 0
    if not right or (len(value) != length if length is not None else len(value) == 0):
        wanted = f"{length} numbers" if length is not None else "at least one number"
        raise DataError(f"Got {name}={value!r}, but expected a sequence of {wanted}.")
    return list(value)


def random_generator(random_state: Any) -> np.random.Generator:
    """Generator of a data set; ``DataError`` unless ``random_state`` is a whole number of at least 0."""
    return np.random.default_rng(whole_number("random_state", random_state, 0))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
