"""From checked rows to a fitted tree: where the features start, what is chosen, and how it is put."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .._random import generator
from ..exceptions import DataError
from .choice import HELD_OUT, Choice, Penalty, choose
from .features import FeatureMap, LinearMap, PrototypeMap
from .fuzzy import fuzzy_tree
from .inputs import Inputs
from .learn import Settings, Start
from .rows import DistinctRows
from .starts import directions_from_agop, kernel_agop
from .targets import Targets
from .tree import Tree

__all__ = ["Fit", "fit_tree"]

Floats = NDArray[np.float64]

MOST_FEATURES, FEWEST_FEATURES = 8, 4  # of a start, unless there are fewer inputs
FEWEST_PROTOTYPES, PROTOTYPE_STARTS = 2, 3  # one start with four prototypes finds a circle in every other draw


@dataclass(frozen=True, eq=False)
class Fit:
    """A chosen tree: features, and nodes with values in the units of the targets."""

    map: FeatureMap
    tree: Tree
    choice: Choice


def fit_tree(given: Any, distinct: DistinctRows, inputs: Inputs, targets: Targets, seed: int) -> Fit:
    """Learn as the parameters of an estimator say.

    Parameters
    ----------
    given : FeatureTreeClassifier or FeatureTreeRegressor
        Its parameters, checked.
    distinct : DistinctRows
    inputs : Inputs
    targets : Targets
        Of the distinct rows.
    seed : int

    Raises
    ------
    DataError
        For directions of another width, with NaN, or of zero length, and where no input varies.
    """
    if given.selection == "validation" and len(distinct.X) < HELD_OUT:
        raise DataError(
            f"Got {len(distinct.X)} different rows, but selection='validation' holds every fourth one out. Use "
            "selection='penalty'."
        )
    if not inputs.kept.any():
        raise DataError("Got only columns that do not vary, but expected one that does. There is nothing to split on.")
    rows, w = inputs.rows(distinct.X), distinct.w
    starts = Starts(given, distinct, rows, inputs, targets, seed)
    settings = Settings(
        h=float(given.bandwidth), max_depth=int(given.max_depth), min_weight=float(given.min_weight_leaf),
        max_iter=int(given.max_iter),
    )  # fmt: skip
    penalty = Penalty(float(given.penalty_scale), given.alpha, given.l0)
    labels = None if targets.classes is None else targets.Y.argmax(axis=1)
    choice = choose(
        rows, targets.Y, w, starts, settings, penalty,
        selection=given.selection, labels=labels, random_state=seed, verbose=given.verbose,
    )  # fmt: skip
    chosen = choice.candidate
    features, tree = _turned(chosen.map, chosen.tree)
    if given.predict_mode == "fuzzy":
        tree = fuzzy_tree(tree, features.forward(rows), targets.Y, w, float(given.bandwidth))
    return Fit(features, replace(tree, value=targets.decode(tree.value)), choice)


def _turned(features: FeatureMap, tree: Tree) -> tuple[FeatureMap, Tree]:
    """Linear rules with their largest weight positive, their sides exchanged where that turned them."""
    if not isinstance(features, LinearMap):
        return features, tree
    weights = features.weights
    largest = weights[np.arange(len(weights)), np.abs(weights).argmax(axis=1)]
    signs = np.where(largest < 0, -1.0, 1.0)
    return LinearMap(weights * signs[:, None], features.support), tree.mirrored(signs < 0)


@dataclass(frozen=True, eq=False)
class Starts:
    """Where features start, from the rows it is called with alone."""

    given: Any
    distinct: DistinctRows
    rows: Floats
    inputs: Inputs
    targets: Targets
    seed: int

    def __call__(self, which: NDArray[np.intp]) -> list[Start]:
        """Directions as they are, the kernel's also turned to be sparse, then random starts."""
        linear = isinstance(self.given.features, str) and self.given.features == "linear"
        starts = self._directions(which) if linear and self.given.init_directions is not None else []
        if starts and self.given.max_iter == 0:
            return starts
        rows, Y, w = self.rows[which], self.targets.Y[which], self.distinct.w[which]
        start = self._start_of_map()
        count = self.given.n_init
        if isinstance(count, str):
            count = PROTOTYPE_STARTS if self._prototypes else 1
        for place in range(count):
            name = f"random {place + 1}" if count > 1 else "random"
            rng = generator(self.seed, "trees", "start", place)
            starts.append(Start(name, start(rows, Y, w, self._count(), rng), "learned"))
        return starts

    def _start_of_map(self) -> Callable[[Floats, Floats, Floats, int, torch.Generator], FeatureMap]:
        features = self.given.features
        if isinstance(features, str):
            return LinearMap.start if features == "linear" else PrototypeMap.start
        found: Callable[[Floats, Floats, Floats, int, torch.Generator], FeatureMap] = features.start
        return found

    def _count(self) -> int:
        """Features of a start."""
        width = self.rows.shape[1]
        if self.given.n_features != "auto":
            return int(self.given.n_features)
        fewest = FEWEST_PROTOTYPES if self._prototypes else FEWEST_FEATURES
        classes = 0 if self.targets.classes is None else len(self.targets.classes)
        return min(max(fewest, classes), MOST_FEATURES, width)

    @property
    def _prototypes(self) -> bool:
        return isinstance(self.given.features, str) and self.given.features == "prototype"

    def _directions(self, which: NDArray[np.intp]) -> list[Start]:
        asked = self.given.init_directions
        if isinstance(asked, str):
            rows, Y = self.rows[which], self.targets.Y[which]
            if not (np.ptp(rows, axis=0).any() and np.ptp(Y, axis=0).any()):
                return []  # few rows of many may be all alike: no direction to find
            agop = kernel_agop(rows, Y, self.distinct.w[which], random_state=self.seed)
            plain = directions_from_agop(agop, self._count(), rotate=None)
            starts = [Start("kernel", LinearMap(plain), "direct")]
            if len(plain) > 1:
                starts.append(Start("kernel, varimax", LinearMap(directions_from_agop(agop, self._count())), "direct"))
            return starts
        directions = asked(*self.distinct.given(which)) if callable(asked) else asked
        standardized = self.inputs.standardized(self._checked(directions))
        # A direction along columns that do not vary says the same of every row.
        moving = np.abs(standardized).max(axis=1) > 0
        if not moving.any():
            raise DataError("Got init_directions along columns that do not vary only. Pass directions of others.")
        return [Start("directions", LinearMap(standardized[moving]), "direct")]

    def _checked(self, directions: Any) -> Floats:
        if isinstance(directions, torch.Tensor):
            directions = directions.detach().cpu().double().numpy()
        width = self.distinct.X.shape[1]
        try:
            array = np.asarray(directions, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"Got init_directions that are no array of numbers (k, {width}): {error}") from error
        if array.ndim != 2 or array.shape[1] != width or not len(array):
            raise DataError(
                f"Got init_directions of shape {array.shape}, but expected (k, {width}): a direction a row, a number "
                "for every input."
            )
        if not np.isfinite(array).all():
            raise DataError("Got init_directions with NaN or infinity, but expected finite numbers.")
        if not array.any(axis=1).all():
            empty = int(np.flatnonzero(~array.any(axis=1))[0])
            raise DataError(f"Got init_directions with zeros only in row {empty}, but expected directions.")
        return array
