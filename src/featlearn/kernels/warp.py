r"""Column warps: one monotone map a column, steep where the predictor changes and flat where it does not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ColumnWarp"]


@dataclass(frozen=True, eq=False)
class ColumnWarp:
    r"""Monotone piecewise-linear map of every column, the position-dependent part of a metric.

    .. math:: \varphi_l(x) = \int_{k_{l0}}^{x} s_l(t) \, dt, \qquad
        s_l(t)^2 \propto \Big( \mathbb{E}\big[ \textstyle\sum_o (\partial_l f_o)^2 \,\big|\, x_l = t \big] \Big)^{w},

    where the expectation is over the data. An AGOP averages the squared gradient over the whole data and so knows only
    how much a column matters; its conditional version also knows *where on the column's axis*. A threshold, which an
    axis-aligned tree finds with one split and a stationary kernel smears out, becomes a steep piece of the warp.

    Parameters
    ----------
    columns : Tensor of shape (w,), int64
        Columns that are warped; the others, of one or two values, have no shape to learn.
    knots : Tensor of shape (w, B + 1)
        Ascending in each row; a column with fewer than B intervals repeats its last knot.
    slopes : Tensor of shape (w, B)
        Positive, mean square 1 over the data, so that a warp carries shape and no scale.

    Notes
    -----
    Derived for this library (no paper); `tests/kernels/test_warp.py` compares it with numerical integration. Outside
    the knots the first and last pieces go on. Evaluating costs ``n w log B``.
    """

    columns: Tensor
    knots: Tensor
    slopes: Tensor

    @classmethod
    def identity(cls, x: Tensor, pieces: int = 24) -> ColumnWarp:
        """Slope 1 everywhere; knots at the distinct values of a column, or at its quantiles if it has many."""
        chosen, rows = [], []
        levels = torch.linspace(0, 1, pieces + 1, dtype=x.dtype, device=x.device)
        for place, column in enumerate(x.mT):
            distinct = torch.unique(column)
            if len(distinct) < 3:
                continue
            if len(distinct) > pieces + 1:
                # Quantiles of all values, not of the distinct ones: knots where the data are.
                ordered = column.sort().values
                distinct = torch.unique(ordered[(levels * (len(ordered) - 1)).round().long()])
            chosen.append(place)
            rows.append(torch.nn.functional.pad(distinct, (0, pieces + 1 - len(distinct)), value=float(distinct[-1])))
        knots = torch.stack(rows) if rows else x.new_zeros(0, pieces + 1)
        return cls(torch.tensor(chosen, dtype=torch.int64, device=x.device), knots, torch.ones_like(knots[:, 1:]))

    def to(self, rows: Tensor) -> ColumnWarp:
        """For rows of this dtype and on this device."""
        return ColumnWarp(self.columns.to(rows.device), self.knots.to(rows), self.slopes.to(rows))

    def __call__(self, x: Tensor) -> Tensor:
        """Warped columns (n, d)."""
        inside = self._inside(x)
        piece = self._piece(inside, right=True)
        heights = torch.nn.functional.pad((self.slopes * self.knots.diff(dim=1)).cumsum(1), (1, 0))
        start, height, slope = (table.gather(1, piece) for table in (self.knots, heights, self.slopes))
        return x.index_copy(1, self.columns, torch.addcmul(height, slope, inside - start).mT)

    def derivative(self, x: Tensor) -> Tensor:
        """``d phi_l / d x_l`` (n, d): on a knot the mean of both sides, so that a column of few values sees both."""
        inside = self._inside(x)
        left, right = (self.slopes.gather(1, self._piece(inside, right=side)) for side in (False, True))
        return torch.ones_like(x).index_copy_(1, self.columns, ((left + right) / 2).mT)

    def learned(self, x: Tensor, squared_gradients: Tensor, power: float, prior: float = 20.0) -> ColumnWarp:
        """The warp whose squared slopes are the conditional means of the squared gradients to a power.

        Parameters
        ----------
        x, squared_gradients : Tensor of shape (m, d)
            Points, and ``sum_o (d f_o / d x_l)^2`` there.
        power : float
            The power w: 0 gives slopes of 1.
        prior : float
            Points' worth of the column's own mean that is added to every piece: pieces with few points keep near it.
        """
        counts = torch.zeros_like(self.slopes)
        sums = torch.zeros_like(self.slopes)
        inside, squares = self._inside(x), self._inside(squared_gradients)
        for side in (False, True):
            piece = self._piece(inside, right=side)
            counts.scatter_add_(1, piece, torch.ones_like(squares))
            sums.scatter_add_(1, piece, squares)
        if not len(self.columns):
            return self
        mean = squares.mean(1, keepdim=True)
        ignored = mean <= 1e-12 * mean.max()  # a column that the predictor does not use keeps slopes of 1
        ratio = ((sums + prior * mean) / (counts + prior) / mean).masked_fill(ignored, 1.0)
        slopes = ratio ** (power / 2) + 1e-6
        mean_square = (slopes**2 * counts).sum(1, keepdim=True) / counts.sum(1, keepdim=True)
        return ColumnWarp(self.columns, self.knots, slopes / mean_square.sqrt())

    def _inside(self, x: Tensor) -> Tensor:
        """The columns that are warped, as rows (w, n)."""
        return x[:, self.columns].mT.contiguous()

    def _piece(self, inside: Tensor, *, right: bool) -> Tensor:
        """Index (w, n) of the piece of each entry; an entry on a knot belongs to the piece on the side asked for."""
        index = torch.searchsorted(self.knots, inside, right=right) - 1
        # Repeated last knots mark unused pieces of width 0.
        used = (self.knots.diff(dim=1) > 0).sum(1, keepdim=True)
        return torch.minimum(index.clamp_min(0), (used - 1).clamp_min(0))
