"""What the estimators accept, checked before any work."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from .._parameters import check_amount, check_count
from ..exceptions import DataError
from .choice import SELECTIONS

__all__ = ["FEATURES", "check_parameters"]

FEATURES = ("linear", "prototype")
MODES = ("crisp", "fuzzy")
NARROWEST = 1e-3  # bandwidth below which sums of the sweep lose their digits
MAP_METHODS = ("start", "forward", "backward", "with_parameters", "rescaled", "keep_largest", "select")


def check_parameters(given: Any) -> None:
    """Refuse parameters of a feature tree that cannot be meant.

    Raises
    ------
    DataError
        For an unknown word, a number out of range, directions for prototypes, or nothing to start from.
    """
    _one_of("selection", given.selection, SELECTIONS)
    _one_of("predict_mode", given.predict_mode, MODES)
    if not (isinstance(given.features, str) and given.features in FEATURES):
        missing = [name for name in MAP_METHODS if not callable(getattr(given.features, name, None))]
        if isinstance(given.features, str) or missing:
            lacking = "" if isinstance(given.features, str) else f" without {', '.join(missing)}"
            raise DataError(
                f"Got features={given.features!r}{lacking}, but expected 'linear', 'prototype' or a FeatureMap."
            )
    _check_start(given)
    check_count("max_depth", given.max_depth, 1)
    for name, least in (("n_init", 0), ("n_features", 1)):
        if not (isinstance(value := getattr(given, name), str) and value == "auto"):
            check_count(name, value, least, other="'auto' or ")
    check_count("max_iter", given.max_iter, 0)
    for name in ("penalty_scale", "min_weight_leaf"):
        check_amount(name, getattr(given, name))
    for name in ("alpha", "l0"):
        if not (isinstance(value := getattr(given, name), str) and value == "auto"):
            check_amount(name, value, other="'auto' or ")
    check_amount("bandwidth", given.bandwidth)
    if 0 < given.bandwidth < NARROWEST:
        raise DataError(
            f"Got bandwidth={given.bandwidth!r}, but expected 0 or at least {NARROWEST:g} standard deviations of a "
            "feature. Use 0 for crisp growth."
        )


def _check_start(given: Any) -> None:
    directions = given.init_directions
    if isinstance(directions, str) and directions != "kernel":
        raise DataError(
            f"Got init_directions={directions!r}, but expected 'kernel', None, an array (k, d) or a callable."
        )
    linear = isinstance(given.features, str) and given.features == "linear"
    if not linear and directions is not None and not isinstance(directions, str):
        raise DataError(
            "Got init_directions for features that are not linear, but directions are where linear rules start. Leave "
            "them out, or use features='linear'."
        )
    none = directions is None or not linear
    if none and isinstance(given.n_init, Integral) and given.n_init == 0:
        raise DataError(
            "Got n_init=0 and no directions, but expected something to start from. Use init_directions='kernel' or "
            "n_init=1."
        )


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise DataError(f"Got {name}={value!r}, but expected one of {', '.join(map(repr, allowed))}.")
