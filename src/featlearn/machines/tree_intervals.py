"""Prediction intervals of a tree: every leaf has a width of its own, measured on rows that nothing else sees."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._random import generator
from .intervals import split_interval

__all__ = ["ASIDE", "Residuals", "set_aside"]

ASIDE = 0.2  # share of the rows that intervals keep
FEWEST = 20  # residuals of a leaf below which it has the width of the whole tree


@dataclass(frozen=True, eq=False)
class Residuals:
    r"""What intervals of a tree are made of.

    .. math:: f(z) \pm s_{l(z)} \, q, \qquad q = \lceil (1 - a)(n + 1) \rceil\text{-th smallest of }
        |r_i| / s_{l(i)}

    where ``l`` is the leaf of a row by hard routing and ``s_l`` the median absolute residual of its rows.

    Attributes
    ----------
    values : Tensor of shape (n, C), float64
        Residuals r of rows that neither the tree nor the widths have seen.
    leaves : Tensor of shape (n,), int64
        Leaf of each.
    widths : Tensor of shape (L, C), float64
        s, of other rows set aside: if it depended on ``values`` the coverage would not be guaranteed. All ones for a
        tree of one leaf.
    """

    values: Tensor
    leaves: Tensor
    widths: Tensor

    @classmethod
    def of(cls, residuals: Tensor, leaves: Tensor, n_leaves: int) -> Residuals:
        """From residuals (h, C) of rows set aside, in random order, and the leaf (h,) of each.

        Every second row goes to the widths, but for a tree of one leaf, whose width is the quantile itself.
        """
        if n_leaves == 1 or len(residuals) < 2:
            return cls(residuals, leaves, residuals.new_ones(n_leaves, residuals.shape[1]))
        sizes, there = residuals[1::2].abs(), leaves[1::2]
        whole = sizes.median(dim=0).values
        # Exact predictions in half of the rows leave no unit to measure residuals in.
        whole = torch.where(whole > 0, whole, 1.0)
        widths = whole.repeat(n_leaves, 1)
        for leaf in range(n_leaves):
            own = sizes[there == leaf]
            if len(own) >= FEWEST:
                median = own.median(dim=0).values
                widths[leaf] = torch.where(median > 0, median, whole)
        return cls(residuals[::2], leaves[::2], widths)

    def interval(self, predictions: Tensor, leaves: Tensor, level: float) -> Tensor:
        """Bounds (m, C, 2) about predictions (m, C) of rows in ``leaves`` (m,); DataError for a bad level."""
        here, there = self.widths[leaves], self.widths[self.leaves]
        outputs = [
            split_interval(
                predictions[:, [c]], self.values[:, [c]], level, scale=here[:, c], residual_scale=there[:, c]
            )
            for c in range(predictions.shape[1])
        ]
        return torch.cat(outputs, dim=1)


def set_aside(rows: Tensor, random_state: int) -> Tensor:
    """A fifth of ``rows`` (n,), at least one, in random order."""
    order = torch.randperm(len(rows), generator=generator(random_state, "intervals"))
    return rows[order[: max(1, round(ASIDE * len(rows)))]]
