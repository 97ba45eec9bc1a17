"""The last moves of good candidates: features and tree in turn, supports and all else fixed."""

from __future__ import annotations

from collections.abc import Iterator

from .adam import Adam
from .crisp import objective_of
from .features import FeatureMap
from .problem import Problem
from .refine import refine
from .tree import Tree

__all__ = ["polish"]

ROUNDS = 4
LEARNING_RATE = 0.02


def polish(problem: Problem, features: FeatureMap, tree: Tree) -> Iterator[tuple[FeatureMap, Tree]]:
    """Features and trees of four rounds: steps through the crisp tree, then the better of a refined and a new tree.

    Parameters
    ----------
    problem : Problem
    features : FeatureMap
        Those the tree uses; their zeros are frozen.
    tree : Tree
        Crisp.

    Yields
    ------
    features : FeatureMap
    tree : Tree
        One with a single leaf is not yielded: it ends the rounds.

    Notes
    -----
    Not every round is an improvement; all are candidates.
    """
    features = features.keep_largest(problem.d)
    for _ in range(ROUNDS):
        features = problem.moved(features, tree, problem.settings.h, Adam(LEARNING_RATE))
        Z, prices = features.forward(problem.X), problem.prices(features)
        refined = refine(tree, Z, problem.Y, problem.w, min_weight=problem.settings.min_weight, costs=prices)
        anew = problem.crisp(features)
        objectives = [objective_of(each, problem.crisp_loss(features, each), prices) for each in (refined, anew)]
        tree = refined if objectives[0] <= objectives[1] else anew
        if tree.n_leaves == 1:
            return
        yield features, tree
