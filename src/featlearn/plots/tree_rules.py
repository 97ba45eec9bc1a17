"""What pictures and pages show of a tree on learned features: terms, thresholds and leaves, from its plain values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._parameters import check_count
from ..exceptions import DataError

__all__ = [
    "REACH",
    "Term",
    "check_image",
    "check_terms",
    "check_tree",
    "condition",
    "largest_weight",
    "leaf_classes",
    "leaf_value",
    "positions",
    "shortened",
    "terms_of",
    "three_digits",
    "weight_maps",
]

REACH = 3.0  # standard deviations from the mean to either end of the axis of prototypes
CLASSES = 3  # that a leaf names, if there are more
LEAST_SHARE = 0.005  # of a class that is named
ROUNDING = 1e-12  # of the largest value: what is smaller is shown as 0


@dataclass(frozen=True)
class Term:
    """One input of a rule, in standard deviations.

    Attributes
    ----------
    name : str
    weight : float
        Of a linear rule, with its sign; of a prototype the mask.
    center : float
        Of a prototype, nan otherwise.
    reach : float
        How far this input alone may be from the center of a prototype, nan otherwise.
    """

    name: str
    weight: float
    center: float = math.nan
    reach: float = math.nan


def check_tree(told: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same mapping; DataError unless ``export_dict()`` of a fitted tree told it."""
    if not isinstance(told, Mapping) or told.get("format") != "featlearn tree":
        what = sorted(map(str, told))[:5] if isinstance(told, Mapping) else type(told).__name__
        raise DataError(f"Got {what}, but expected what export_dict() of a fitted tree returns.")
    return told


def check_image(told: Mapping[str, Any], image_shape: Sequence[int] | None) -> tuple[int, int] | None:
    """Height and width; DataError unless there are as many pixels as inputs."""
    if image_shape is None:
        return None
    shape = tuple(image_shape) if isinstance(image_shape, Iterable) else ()
    if len(shape) != 2 or any(not isinstance(side, int | np.integer) or side < 1 for side in shape):
        raise DataError(f"Got image_shape={image_shape!r}, but expected (height, width) in pixels.")
    inputs = len(told["features"])
    if shape[0] * shape[1] != inputs:
        raise DataError(
            f"Got image_shape={shape}, which has {shape[0] * shape[1]} pixels, but expected {inputs}: as many as there "
            "are inputs. Pass the shape of the images, one input a pixel, row by row."
        )
    return int(shape[0]), int(shape[1])


def check_terms(max_terms: int) -> int:
    """The same number; DataError unless it is a whole one of at least 1."""
    return check_count("max_terms", max_terms, 1)


def terms_of(node: Mapping[str, Any], most: int | None = None) -> tuple[list[Term], int]:
    """Inputs of a rule, the largest weight first, and how many are left out beyond ``most``."""
    names, scaled = [name for name, _ in node["terms"]], node["standardized"]
    if node["rule"] == "prototype":
        radius = math.sqrt(max(-scaled["threshold"], 0.0))
        found = [
            Term(name, weight, center, radius / weight)
            for name, weight, center in zip(names, scaled["weights"], scaled["centers"], strict=True)
        ]
    else:
        found = [Term(name, weight) for name, weight in zip(names, scaled["weights"], strict=True)]
    kept = found if most is None else found[:most]
    return kept, len(found) - len(kept)


def largest_weight(told: Mapping[str, Any]) -> float:
    """Largest magnitude of all standardised weights, 1 where there are none: the scale that all rules share."""
    weights = [abs(w) for node in told["nodes"] if node["left"] is not None for w in node["standardized"]["weights"]]
    return max(weights, default=1.0)


def condition(node: Mapping[str, Any]) -> str:
    """When the answer is yes, in short.

    One weight: the input against its threshold in its own units. Otherwise the sum of the terms, or the distance,
    against a threshold in standard deviations of the feature.
    """
    threshold = node["standardized"]["threshold"]
    if node["rule"] == "prototype":
        return f"closer than {three_digits(math.sqrt(-threshold))}" if threshold < 0 else "never closer"
    if node["rule"] == "other":
        return f"feature {node['feature']} > {three_digits(threshold)}"
    if len(node["terms"]) == 1:
        weight = node["terms"][0][1]
        # The threshold of the rule is in standard deviations of its input.
        return f"{'>' if weight > 0 else '<'} {three_digits(node['threshold'] / weight, node['threshold'])}"
    return f"sum > {three_digits(threshold)}"


def leaf_classes(told: Mapping[str, Any], node: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Names and shares of the classes of a leaf, the largest first; few and rare ones of many are left out."""
    pairs = sorted(zip(told["outputs"], node["value"], strict=True), key=lambda pair: -pair[1])
    return [pair for pair in pairs[:CLASSES] if pair[1] >= LEAST_SHARE]


def leaf_value(told: Mapping[str, Any], node: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Of every output: name, value, and where it lies from the smallest (0) to the largest (1) of all leaves."""
    values = np.array([other["value"] for other in told["nodes"] if other["left"] is None])
    low, high = values.min(axis=0), values.max(axis=0)
    spread = np.where(high > low, high - low, 1.0)
    own = np.array(node["value"])
    places = (own - low) / spread
    own = np.where(np.abs(own) < ROUNDING * np.abs(values).max(axis=0), 0.0, own)
    return list(zip(told["outputs"], own.tolist(), places.tolist(), strict=True))


def weight_maps(node: Mapping[str, Any], shape: tuple[int, int]) -> dict[str, NDArray[np.float64]]:
    """Pixels by what they are: "weights", 0 where there are none; of a prototype also "prototype", nan there."""
    scaled, pixels = node["standardized"], shape[0] * shape[1]
    weights = np.zeros(pixels)
    weights[node["inputs"]] = scaled["weights"]
    if node["rule"] != "prototype":
        return {"weights": weights.reshape(shape)}
    centers = np.full(pixels, math.nan)
    centers[node["inputs"]] = scaled["centers"]
    return {"weights": weights.reshape(shape), "prototype": centers.reshape(shape)}


def positions(told: Mapping[str, Any]) -> dict[int, int]:
    """Depth of every node."""
    depths = {0: 0}
    for node in told["nodes"]:
        if node["left"] is not None:
            depths[node["left"]] = depths[node["right"]] = depths[node["id"]] + 1
    return depths


def three_digits(value: float, size: float = 0.0) -> str:
    """Three significant digits, one more for every power of ten in ``size``, or all before the point."""
    digits = 3 + (math.floor(math.log10(abs(size))) if 1 < abs(size) < math.inf else 0)
    text = f"{value:,.0f}" if 10**digits <= abs(value) < 1e6 else f"{value:,.{digits}g}"
    return text.replace("-", "\N{MINUS SIGN}")


def shortened(name: str, longest: int) -> str:
    """A long name keeps its two ends."""
    half = longest // 2
    return name if len(name) <= longest else f"{name[: longest - half - 1]}…{name[-half:]}"
