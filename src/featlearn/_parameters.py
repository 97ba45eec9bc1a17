"""Checks of numbers that a user passes, with messages that name them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .exceptions import DataError

__all__ = ["check_amount", "check_count", "is_real"]


def is_real(value: Any) -> bool:
    """Whether it is a number, of Python or numpy, and no boolean."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def check_amount(name: str, value: Any, *, positive: bool = False, other: str = "") -> float:
    """A finite number of at least 0, or above 0; ``other`` tells what else would have been taken.

    Raises
    ------
    DataError
        Anything else.

    Examples
    --------
    >>> check_amount("alpha", 1)
    1.0
    """
    if not is_real(value) or not math.isfinite(value) or value < 0 or (positive and value == 0):
        expected = "a positive finite number" if positive else "a finite number of at least 0"
        raise DataError(f"Got {name}={value!r}, but expected {other}{expected}.")
    return float(value)


def check_count(name: str, value: Any, least: int, *, other: str = "") -> int:
    """A whole number, of at least ``least``; ``other`` tells what else would have been taken.

    Raises
    ------
    DataError
        Anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise DataError(f"Got {name}={value!r}, but expected {other}a whole number of at least {least}.")
    return int(value)
