"""What is learned from: rows and settings, the crisp and the fuzzy tree on given features, and candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .adam import Adam
from .crisp import crisp_tree, loss_of, objective_of
from .features import FeatureMap
from .gradient import loss_and_gradient
from .grow import grow
from .tree import Tree

__all__ = ["Candidate", "Problem", "Settings", "Start"]

Floats = NDArray[np.float64]
Route = Literal["direct", "learned"]

STEPS = 20  # of Adam between two trees


@dataclass(frozen=True)
class Settings:
    """What does not change while features are learned.

    Attributes
    ----------
    h : float
        Bandwidth at the end, in standard deviations of a feature. 0: crisp trees have no gradient, so that features
        stay as they are.
    max_depth : int
    min_weight : float
        Least weight of a leaf.
    alpha, l0 : float
        Price of a split and of a non-zero weight of its rule, in units of the loss.
    max_iter : int
        Rounds of the learned route after the first; 0: features stay as they are.
    max_support : int, optional
        Candidates with more weights in a rule are not offered.
    """

    h: float = 0.1
    max_depth: int = 4
    min_weight: float = 5.0
    alpha: float = 0.002
    l0: float = 0.0
    max_iter: int = 15
    max_support: int | None = None

    @property
    def moves_features(self) -> bool:
        """Whether features are learned at all."""
        return self.h > 0 and self.max_iter > 0


@dataclass(frozen=True, eq=False)
class Start:
    """Features to start from, and what is done with them.

    Attributes
    ----------
    name : str
        For tables; also what makes the random numbers of this start its own.
    map : FeatureMap
    route : {"direct", "learned"}
        "direct" for features that mean something already, "learned" for random ones.
    """

    name: str
    map: FeatureMap
    route: Route


@dataclass(frozen=True, eq=False)
class Candidate:
    """A crisp tree and the features that it tests.

    Attributes
    ----------
    map : FeatureMap
        The features that some node tests, in ascending order of their old places; of no feature for a single leaf.
    tree : Tree
    loss : float
        Mean over rows of the squared error, summed over outputs.
    objective : float
        Loss plus, for every split, alpha plus l0 times the weights of its rule.
    start : str
    route : str
        "direct", "learned", or "none" for a single leaf that needed no start.
    stage : str
        Where it was found: "start", "sparsify" or "polish".
    support : int
        Weights that a rule could have there.
    """

    map: FeatureMap
    tree: Tree
    loss: float
    objective: float
    start: str
    route: str
    stage: str
    support: int

    @property
    def n_weights(self) -> int:
        """Non-zero weights that a reader of the tree meets: the sum over its splits."""
        return int(self.map.n_weights[self.tree.feature[~self.tree.is_leaf]].sum())

    @property
    def largest_rule(self) -> int:
        """Most weights in one rule."""
        return int(self.map.n_weights.max(initial=0))

    def predict(self, X: Floats) -> Floats:
        """Values (n, K) of the leaves of standardised rows."""
        return self.tree.predict(self.map.forward(X))


@dataclass(frozen=True, eq=False)
class Problem:
    """Rows, settings, and what is done with features in both routes.

    Attributes
    ----------
    X : array of shape (n, d)
        Standardised.
    Y : array of shape (n, K)
    w : array of shape (n,)
    settings : Settings
    """

    X: Floats
    Y: Floats
    w: Floats
    settings: Settings

    @property
    def d(self) -> int:
        """Inputs."""
        return self.X.shape[1]

    def prices(self, features: FeatureMap) -> Floats:
        """Price (q,) of a split on each feature."""
        return np.asarray(self.settings.alpha + self.settings.l0 * features.n_weights, dtype=np.float64)

    def crisp(self, features: FeatureMap, *, sparse: bool = True) -> Tree:
        """The crisp tree of lowest objective that is found; with ``sparse=False`` weights have no price."""
        prices = self.prices(features) if sparse else np.repeat(self.settings.alpha, features.n_features)
        return crisp_tree(
            features.forward(self.X), self.Y, self.w,
            costs=prices, max_depth=self.settings.max_depth, min_weight=self.settings.min_weight,
        )  # fmt: skip

    def fuzzy(self, features: FeatureMap, h: float, min_gain: float) -> tuple[Tree, float]:
        """The fuzzy tree grown at a bandwidth, and its loss."""
        Z = features.forward(self.X)
        depth, weight = self.settings.max_depth, self.settings.min_weight
        tree = grow(Z, self.Y, self.w, h, max_depth=depth, min_weight=weight, min_gain=min_gain)
        errors = np.square(tree.predict_fuzzy(Z, h) - self.Y).sum(axis=1)
        return tree, float((self.w * errors).sum() / self.w.sum())

    def crisp_loss(self, features: FeatureMap, tree: Tree) -> float:
        """Loss of a crisp tree."""
        return loss_of(tree, features.forward(self.X), self.Y, self.w)

    def moved(self, features: FeatureMap, tree: Tree, h: float, adam: Adam) -> FeatureMap:
        """Features after 20 steps down the gradient through a fixed tree, rescaled after every one.

        Thresholds follow the mean of their feature: a shift of a feature is no change of a rule. Linear features of
        standardised rows have mean 0; prototypes would otherwise move in order to shift theirs.
        """
        share = self.w / self.w.sum()
        Z = features.forward(self.X)
        centre = share @ Z
        for _ in range(STEPS):
            _, slopes, _ = loss_and_gradient(tree, Z + (centre - share @ Z), self.Y, self.w, h)
            gradients = features.backward(self.X, slopes - np.outer(share, slopes.sum(axis=0)))
            parameters = adam.step(features.parameters, gradients)
            features = features.with_parameters(parameters).rescaled(self.X, self.w)
            Z = features.forward(self.X)
        return features

    def cut(self, features: FeatureMap, s: int) -> FeatureMap:
        """Each feature's s largest weights alone; all weights are kept, zeros too, for ``s = d``."""
        return features if s == self.d else features.keep_largest(s).rescaled(self.X, self.w)

    def candidate(
        self, features: FeatureMap, tree: Tree, *, start: str, route: str, stage: str, support: int
    ) -> Candidate:
        """A tree with the features it uses."""
        loss = self.crisp_loss(features, tree)
        objective = objective_of(tree, loss, self.prices(features))
        used, renumbered = used_part(features, tree)
        return Candidate(used, renumbered, loss, objective, start, route, stage, support)


def used_part(features: FeatureMap, tree: Tree) -> tuple[FeatureMap, Tree]:
    """The features that a tree tests, and the tree for them."""
    used = tree.used_features
    return features.select(used), tree.renumbered_features(used)
