"""How a tree is grown: every split along the direction in which a kernel machine on the node's rows changes most."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._random import generator
from ..agop.of_kernel import agop_of_expansion
from ..exceptions import FeatlearnWarning
from ..kernels import LaplaceKernel, median_bandwidth
from ..linalg.psd import top_eigenvectors
from ..linalg.ridge import solve_ridge
from .columns import FittedColumns
from .routing import TreeNode, take
from .tables import row_chunks
from .weights import weighted_mean

__all__ = ["Cut", "Growth", "Leaf", "Targets", "cut_at_median", "grow", "split_directions"]

ALPHA = 1e-3  # ridge of the machine whose AGOP splits a node
MEDIAN_ROWS = 1000
TRIED = 5  # eigenvectors of the AGOP, where values tie on the first
LOPSIDED = 0.05  # share of a node below which a child is too small for the next eigenvector not to be tried
LEAST_IQR = 1e-6
ROUNDING = 1e-12  # relative difference below which two projections are one value

Runner = Callable[[Iterable[tuple[Callable[..., Any], tuple[Any, ...]]]], list[Any]]


@dataclass(frozen=True)
class Growth:
    """What stops the growth, and how splits are found."""

    max_leaf_size: int
    split_samples: int
    random_state: int


@dataclass(frozen=True, eq=False)
class Targets:
    """Values (n, C) in float64, or class indices (n,) in int64 of ``n_classes``; one-hot rows are made where needed."""

    values: Tensor
    n_classes: int = 0

    def constant(self, rows: Tensor) -> bool:
        """Whether these rows have one and the same target."""
        first = self.values[rows[0]]
        return all(bool((self.values[part] == first).all()) for part in rows.split(65_536))

    def mean(self, rows: Tensor, weights: Tensor | None) -> Tensor:
        """Weighted mean (C,) of these rows; the share of every class."""
        own = None if weights is None else weights[rows]
        if not self.n_classes:
            return weighted_mean(self.values[rows], own)
        mass = torch.bincount(self.values[rows], own, minlength=self.n_classes).double()
        return mass / mass.sum()

    def coded(self, rows: Tensor) -> Tensor:
        """Targets (m, C), float64."""
        values = self.values[rows]
        return torch.nn.functional.one_hot(values, self.n_classes).double() if self.n_classes else values


@dataclass(frozen=True, eq=False)
class Leaf:
    """Rows that no split divides any more.

    Attributes
    ----------
    heap, depth : int
        As of a :class:`~featlearn.machines.routing.TreeNode`.
    rows : Tensor of shape (n,), int64
        Rows of X, ascending.
    """

    heap: int
    depth: int
    rows: Tensor


@dataclass(frozen=True)
class Cut:
    """A threshold among projections, their interquartile range, and the share of the smaller side."""

    threshold: float
    iqr: float
    smaller: float


def grow(
    X: Any, columns: FittedColumns, targets: Targets, weights: Tensor | None, rows: Tensor, rule: Growth, runner: Runner
) -> tuple[list[TreeNode], list[Leaf]]:
    """Nodes, the root first and level by level, and leaves of the tree over ``rows`` (n,) of X, ascending.

    A node is split while it has more than ``max_leaf_size`` rows whose targets differ. The result depends neither on
    the order in which ``runner`` works nor on how much it does at once: every node draws its sample from a generator
    of its own, by its place in the tree.

    Warns
    -----
    FeatlearnWarning
        No direction divides a node that is too large: it becomes a leaf all the same.

    Notes
    -----
    Every level reads the rows of its nodes once, in chunks, ``2 n p`` flops; every node costs the solution of
    ``split_samples`` equations and the AGOP, ``s^3/3 + 4 s^2 p``. Held are the indices of the rows and one chunk.
    """
    splits: dict[int, tuple[Leaf, Tensor, Cut]] = {}
    leaves: dict[int, Leaf] = {}
    level = [Leaf(1, 0, rows)]
    while level:
        unfinished = []
        for part in level:
            if len(part.rows) <= rule.max_leaf_size or targets.constant(part.rows):
                leaves[part.heap] = part
            else:
                unfinished.append(part)
        level = []
        tasks = ((split_directions, _sample(X, columns, targets, weights, part, rule)) for part in unfinished)
        for part, directions in zip(unfinished, runner(tasks), strict=True):
            found = _best_cut(X, columns, part, directions)
            if found is None:
                leaves[part.heap] = part
                _warn_oversize(part, rule)
                continue
            direction, cut, left = found
            splits[part.heap] = (part, direction, cut)
            level.append(Leaf(2 * part.heap, part.depth + 1, part.rows[left]))
            level.append(Leaf(2 * part.heap + 1, part.depth + 1, part.rows[~left]))
    return _linked(splits, leaves), list(leaves.values())


def split_directions(x: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    r"""Leading eigenvectors (p, k), k <= 5, of the AGOP of a Laplace machine on a sample of a node's rows.

    .. math:: (K + \alpha I) \beta = Y - \bar Y, \qquad G = \frac1s \sum_{i,o} \nabla f_o(x_i) \nabla f_o(x_i)^\top

    with the median distance for a bandwidth and a ridge of 1e-3. Signs are such that the largest entry is positive.

    Parameters
    ----------
    x : Tensor of shape (s, p)
    targets : Tensor of shape (s, C)
    weights : Tensor of shape (s,) or None
        Positive.
    """
    centred = targets - weighted_mean(targets, weights)
    scale = float(centred.square().mean().sqrt())
    if scale == 0 or not bool((x != x[0]).any()):
        # Nothing to learn from this sample, though other rows of the node differ: the directions of largest variance.
        matrix = torch.cov(x.mT.double(), correction=0).reshape(x.shape[1], x.shape[1])
    else:
        seen = x[:MEDIAN_ROWS]
        kernel = LaplaceKernel(median_bandwidth(seen if bool((seen != seen[0]).any()) else x))
        gram = kernel.fill_(x, x.new_empty(len(x), len(x)))
        dual = solve_ridge(gram, (centred / scale).to(x), ALPHA, weights=weights).dual_coef
        every = torch.arange(len(x))
        matrix = agop_of_expansion(kernel, None, x, dual, x, rows=every, weights=weights, gram=gram).matrix
    return top_eigenvectors(matrix, min(TRIED, x.shape[1]))[1]


def cut_at_median(projections: Tensor) -> Cut | None:
    """Midpoint between the two distinct neighbours that divide the projections (n,) most evenly; None if all tie.

    Values closer than 1e-12 of the largest count as one: a rounding error must not decide on the side.
    """
    ordered = projections.sort().values
    apart = ordered.diff() > ROUNDING * ordered.abs().max()
    places = apart.nonzero()[:, 0] + 1  # rows on the left
    if len(places) == 0:
        return None
    n = len(ordered)
    left = int(places[(2 * places - n).abs().argmin()])
    threshold = float((ordered[left - 1] + ordered[left]) / 2)
    quarter, rest = n // 4, n - 1 - n // 4
    iqr = max(float(ordered[rest] - ordered[quarter]), LEAST_IQR)
    return Cut(threshold, iqr, min(left, n - left) / n)


def _sample(
    X: Any, columns: FittedColumns, targets: Targets, weights: Tensor | None, part: Leaf, rule: Growth
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Encoded rows, targets and weights of a random sample of a node."""
    order = torch.randperm(len(part.rows), generator=generator(rule.random_state, "split", part.heap))
    rows = part.rows[order[: rule.split_samples]]
    own = None if weights is None else weights[rows].float()
    return columns.transform(take(X, rows), torch.float32).cpu(), targets.coded(rows), own


def _best_cut(X: Any, columns: FittedColumns, part: Leaf, directions: Tensor) -> tuple[Tensor, Cut, Tensor] | None:
    """The first direction that leaves no child too small, else the one with the most even cut; and who goes left."""
    best: tuple[Tensor, Cut, Tensor] | None = None
    for direction in directions.mT:
        projections = _projected(X, columns, part.rows, direction)
        cut = cut_at_median(projections)
        if cut is not None and (best is None or cut.smaller > best[1].smaller):
            best = (direction, cut, projections <= cut.threshold)
        if best is not None and best[1].smaller >= LOPSIDED:
            break
    return best


def _projected(X: Any, columns: FittedColumns, rows: Tensor, direction: Tensor) -> Tensor:
    """``x . v`` (n,) of rows of X, read in chunks."""
    projections = torch.empty(len(rows), dtype=torch.float64)
    for chunk in row_chunks(len(rows), len(direction)):
        projections[chunk] = columns.transform(take(X, rows[chunk])).cpu() @ direction
    return projections


def _linked(splits: dict[int, tuple[Leaf, Tensor, Cut]], leaves: dict[int, Leaf]) -> list[TreeNode]:
    """Nodes with the places of their children."""
    places = {heap: place for place, heap in enumerate(splits)}
    places |= {heap: -1 - place for place, heap in enumerate(leaves)}
    return [
        TreeNode(
            heap, part.depth, len(part.rows), direction, cut.threshold, cut.iqr, places[2 * heap], places[2 * heap + 1]
        )
        for heap, (part, direction, cut) in splits.items()
    ]


def _warn_oversize(part: Leaf, rule: Growth) -> None:
    warnings.warn(
        f"Got {len(part.rows)} rows that no direction divides, but expected leaves of at most {rule.max_leaf_size}: "
        "they tie on the leading eigenvectors of the AGOP. They stay one leaf; remove repeated rows or raise "
        "max_leaf_size.",
        FeatlearnWarning,
        stacklevel=2,
    )
