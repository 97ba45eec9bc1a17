"""Errors and warnings of featlearn: every message says what was got, what was expected, and what to do."""

from __future__ import annotations

__all__ = [
    "ConvergenceWarning",
    "DataError",
    "FeatlearnError",
    "FeatlearnWarning",
    "MixingError",
    "ModelError",
    "RegimeWarning",
    "UnmeasurableError",
]


class FeatlearnError(ValueError):
    """Base of every error that featlearn raises on purpose."""


class DataError(FeatlearnError):
    """The data cannot be used: empty, not finite, of the wrong shape or kind."""


class ModelError(FeatlearnError):
    """The model or its weights cannot be used: missing keys, other shapes, an unsupported wrapper."""


class UnmeasurableError(FeatlearnError):
    """A layer named by the user cannot be measured, or none can."""


class MixingError(FeatlearnError):
    """The outputs of one sample depend on the other samples of its batch, so per-sample gradients do not exist."""


class FeatlearnWarning(UserWarning):
    """A result was produced, but something about it deserves a look."""


class ConvergenceWarning(FeatlearnWarning):
    """A computation stopped before it converged; what was reached is returned."""


class RegimeWarning(FeatlearnWarning):
    """A theory was asked outside of the regime in which it holds."""
