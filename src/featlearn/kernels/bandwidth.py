"""Bandwidth from the data: a multiple of the median distance between rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..exceptions import DataError
from .base import positive

__all__ = ["median_bandwidth"]


def median_bandwidth(x: Tensor, rows: Tensor | None = None, multiple: float = 1.0, p: float = 2.0) -> float:
    r"""Multiple of the median distance between different rows.

    .. math:: L = \text{multiple} \cdot \operatorname{median}_{i < j} \Big( \sum_l |x_{il} - x_{jl}|^p \Big)^{1/p}

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Rows, already multiplied by the factor of the metric.
    rows : Tensor of shape (s,), optional
        Indices of the rows to look at; default all. One fixed random subset of 1000 makes it cheap and repeatable.
    multiple : float, default 1.0
    p : float, default 2.0
        Exponent of the distance, that of :class:`~featlearn.kernels.LpqKernel`.

    Returns
    -------
    float
        In units of the distance. Where the median is 0 (many equal rows), from the mean of the positive distances.

    Raises
    ------
    DataError
        For fewer than two rows, rows that are all equal, or distances that are not finite.

    Notes
    -----
    ``s^2 d / 2`` coordinate differences and ``s^2 / 2`` numbers.

    Examples
    --------
    >>> import torch
    >>> median_bandwidth(torch.tensor([[0.0], [1.0], [5.0]]), multiple=2.0)
    8.0
    """
    positive("multiple", multiple)
    positive("p", p)
    chosen = x if rows is None else x[rows]
    if chosen.dim() != 2 or len(chosen) < 2:
        raise DataError(f"Got rows of shape {tuple(chosen.shape)}, but expected (n >= 2, d) to take distances between.")
    distances = torch.nn.functional.pdist(chosen.detach(), p=p).cpu().numpy()
    middle = float(np.median(distances))
    if not np.isfinite(middle):
        raise DataError("Got distances that are not finite, but expected a median distance. Check the rows for NaN.")
    if middle == 0:
        apart = distances[distances > 0]
        if not len(apart):
            raise DataError(
                f"Got {len(chosen)} equal rows, but expected a positive distance between some. Give a bandwidth."
            )
        middle = float(apart.mean(dtype=np.float64))
    return multiple * middle
