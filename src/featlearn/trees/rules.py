"""What a node of a fitted tree tests, in the units of the input, for text, pictures and files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .features import FeatureMap, LinearMap, PrototypeMap
from .inputs import Inputs

__all__ = ["Rule", "rules_of"]


@dataclass(frozen=True)
class Rule:
    r"""The number that a node compares with its threshold: right if it is larger.

    "linear": :math:`\sum_i w_i x_i`. "prototype": :math:`-\sum_i w_i^2 (x_i - p_i)^2`. "other": a map of the user's.

    Attributes
    ----------
    kind : str
    inputs : tuple of int
        Columns i, that with the largest weight per standard deviation first.
    weights, centers : tuple of float
        w and p in units of the input; no centers where there are no prototypes.
    means : tuple of float
        Of the inputs in the training rows.
    standardized_weights, standardized_centers : tuple of float
        The same for inputs minus their means and divided by their standard deviations.
    offset : float
        What the number in units of the input exceeds that of standardised ones by.
    """

    kind: str
    inputs: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    centers: tuple[float, ...] = ()
    means: tuple[float, ...] = ()
    standardized_weights: tuple[float, ...] = ()
    standardized_centers: tuple[float, ...] = ()
    offset: float = 0.0

    def parts(self, x: NDArray[np.float64]) -> list[float]:
        """What every column adds to the feature, for a standardised row x (d,), in the order of ``inputs``."""
        weights = np.array(self.standardized_weights)
        at = x[list(self.inputs)]
        if self.kind == "prototype":
            return list((-np.square(weights * (at - self.standardized_centers))).tolist())
        return list((weights * at).tolist())


def rules_of(features: FeatureMap, inputs: Inputs) -> list[Rule]:
    """The rule of every feature."""
    columns, scale, mean = np.flatnonzero(inputs.kept), inputs.scale[inputs.kept], inputs.mean[inputs.kept]
    if isinstance(features, LinearMap):
        offsets = inputs.offsets(features.weights).tolist()
        rules = []
        for row, offset in zip(features.weights, offsets, strict=True):
            used = _by_size(row)
            weights, means, own = (tuple(part[used].tolist()) for part in (row / scale, mean, row))
            rules.append(Rule("linear", tuple(columns[used]), weights, (), means, own, (), offset))
        return rules
    if isinstance(features, PrototypeMap):
        rules = []
        for row, place in zip(np.abs(features.masks), features.prototypes, strict=True):
            used = _by_size(row)
            numbers = (row / scale, place * scale + mean, mean, row, place)
            weights, centers, means, masks, places = (tuple(part[used].tolist()) for part in numbers)
            rules.append(Rule("prototype", tuple(columns[used]), weights, centers, means, masks, places))
        return rules
    return [Rule("other")] * features.n_features


def _by_size(row: NDArray[np.float64]) -> NDArray[np.intp]:
    """Places of the weights that are not 0, the largest first."""
    order = np.argsort(-np.abs(row), kind="stable")
    return order[row[order] != 0]
