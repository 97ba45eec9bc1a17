r"""Which cotangents to pull back: every output, the rank of the last layer, or random projections."""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from .._random import generator
from ..exceptions import DataError
from .accumulate import accumulation_dtype

__all__ = ["MAX_EXACT_PASSES", "Probes", "check_probes", "check_random_state", "compressed_cotangents", "rademacher"]

Probes = int | Literal["exact", "auto"]

MAX_EXACT_PASSES = 4096


def check_probes(probes: Any) -> Probes:
    """Refuse anything but "exact", "auto" or a positive integer, of Python or numpy."""
    if isinstance(probes, (int, np.integer)) and not isinstance(probes, bool) and probes >= 1:
        return int(probes)
    if isinstance(probes, str) and probes in ("exact", "auto"):
        return cast(Probes, probes)
    raise DataError(f"Got probes={probes!r}, but expected 'exact', 'auto' or an integer >= 1.")


def check_random_state(random_state: Any) -> int:
    """Refuse anything but a non-negative integer: the seed of every probe, the same in every process."""
    if isinstance(random_state, (int, np.integer)) and not isinstance(random_state, bool) and random_state >= 0:
        return int(random_state)
    raise DataError(f"Got random_state={random_state!r}, but expected a non-negative integer.")


def rademacher(random_state: int, batch: int, probe: int, n: int, outputs: int) -> Tensor:
    """Signs of shape (n, outputs), independent for every sample, probe and batch; on the CPU: the same everywhere."""
    signs = torch.randint(0, 2, (n, outputs), generator=generator(random_state, batch, probe), dtype=torch.int8)
    return signs.mul_(2).sub_(1)


def compressed_cotangents(weight: Tensor) -> Tensor | None:
    r"""Left singular vectors of the last linear layer, when they are fewer than its outputs.

    With ``f = V phi + b`` and ``J = V J_phi``, the r = rank(V) left singular vectors u_j give

    .. math:: \sum_j (J^\top u_j)(J^\top u_j)^\top = J^\top J

    exactly, for every layer below.

    Parameters
    ----------
    weight : Tensor of shape (C, m)
        ``V``.

    Returns
    -------
    Tensor of shape (r, C) or None
        None when ``rank(V) = C``: nothing to gain.
    """
    wide = weight.double()
    left, values, _ = torch.linalg.svd(wide, full_matrices=False)
    # Half-precision weights are taken as they are: their rounding is no reason to drop a direction.
    floor = values[0] * max(weight.shape) * torch.finfo(accumulation_dtype(weight.dtype)).eps
    rank = max(1, int((values > floor).sum()))  # one pass says that a head of zeros passes nothing on
    return left[:, :rank].mT.contiguous() if rank < len(weight) else None
