"""Arithmetic modulo p as a classification task: all pairs, some of them to train on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from .._random import generator
from ..exceptions import DataError

__all__ = ["OPERATIONS", "ModularData", "modular_arithmetic"]

OPERATIONS: dict[str, Callable[[int, int, int], int]] = {
    "add": lambda a, b, p: (a + b) % p,
    "sub": lambda a, b, p: (a - b) % p,
    "mul": lambda a, b, p: a * b % p,
    "div": lambda a, b, p: a * pow(b, -1, p) % p,
    "x2+y2": lambda a, b, p: (a * a + b * b) % p,
    "x2+xy+y2": lambda a, b, p: (a * a + a * b + b * b) % p,
}


@dataclass(frozen=True, eq=False)
class ModularData:
    """All pairs (a, b) of residues with the residue that an operation gives, and which of them are to train on.

    Attributes
    ----------
    p : int
        The modulus.
    operation : str
    pairs : Tensor of shape (n, 2), int64
        In the order (0, 0), (0, 1), ..., (p - 1, p - 1); without b = 0 for "div".
    labels : Tensor of shape (n,), int64
        The result, 0 to p - 1.
    train : Tensor of shape (n,), bool
    """

    p: int
    operation: str
    pairs: Tensor
    labels: Tensor
    train: Tensor

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        return f"ModularData({self.operation!r} modulo {self.p}, {int(self.train.sum())} of {len(self)} pairs to train)"

    @property
    def X(self) -> Tensor:
        """Rows (n, 2 p), float64: ``e_a`` and ``e_b`` side by side."""
        return one_hot(self.pairs, self.p).flatten(start_dim=1).double()

    @property
    def X_train(self) -> Tensor:
        """Rows to train on."""
        return self.X[self.train]

    @property
    def y_train(self) -> Tensor:
        """Their labels."""
        return self.labels[self.train]

    @property
    def X_test(self) -> Tensor:
        """All other rows."""
        return self.X[~self.train]

    @property
    def y_test(self) -> Tensor:
        """Their labels."""
        return self.labels[~self.train]


def modular_arithmetic(
    p: int = 61, operation: str = "add", train_fraction: float = 0.5, random_state: int = 0
) -> ModularData:
    r"""Pairs of residues as one-hot rows, ``x = (e_a, e_b)`` in R^(2p), and the class ``g(a, b) mod p``.

    Parameters
    ----------
    p : int, default 61
        The modulus, at least 2; "div" needs a prime.
    operation : {"add", "sub", "mul", "div", "x2+y2", "x2+xy+y2"}, default "add"
        g: ``a + b``, ``a - b``, ``a b``, ``a / b`` (pairs with b = 0 are left out), ``a^2 + b^2``,
        ``a^2 + a b + b^2``.
    train_fraction : float, default 0.5
        Share of the pairs to train on, drawn at random; rounded down.
    random_state : int, default 0
        For that draw.

    Returns
    -------
    ModularData

    Raises
    ------
    DataError
        An unknown operation, a modulus that does not fit, or a fraction that leaves nothing to train or to test on.

    Notes
    -----
    ``p^2`` rows of ``2 p`` numbers: 3.6 MB at p = 61.

    References
    ----------
    Mallinar, Beaglehole, Zhu, Radhakrishnan, Pandit, Belkin (2024): Emergence in non-neural models: grokking modular
    arithmetic via average gradient outer product, arXiv:2407.20199.

    Examples
    --------
    >>> data = modular_arithmetic(5, "add", train_fraction=0.6)
    >>> data
    ModularData('add' modulo 5, 15 of 25 pairs to train)
    >>> data.pairs[7].tolist(), data.labels[7].item(), data.X[7].tolist()
    ([1, 2], 3, [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0])
    """
    _check(p, operation, train_fraction)
    first = 1 if operation == "div" else 0
    pairs = torch.cartesian_prod(torch.arange(p), torch.arange(first, p))
    result = OPERATIONS[operation]
    labels = torch.tensor([result(a, b, int(p)) for a, b in pairs.tolist()])
    wanted = int(train_fraction * len(pairs))
    if not 0 < wanted < len(pairs):
        raise DataError(
            f"Got train_fraction={train_fraction!r} of {len(pairs)} pairs, but expected at least one pair to train on "
            "and one to test on."
        )
    train = torch.zeros(len(pairs), dtype=torch.bool)
    train[torch.randperm(len(pairs), generator=generator(random_state, "modular"))[:wanted]] = True
    return ModularData(int(p), operation, pairs, labels, train)


def _check(p: Any, operation: Any, train_fraction: Any) -> None:
    if operation not in OPERATIONS:
        raise DataError(f"Got operation={operation!r}, but expected one of {', '.join(OPERATIONS)}.")
    if not isinstance(p, int | np.integer) or isinstance(p, bool) or p < 2:
        raise DataError(f"Got p={p!r}, but expected a whole number of at least 2.")
    if operation == "div" and any(p % factor == 0 for factor in range(2, math.isqrt(int(p)) + 1)):
        raise DataError(f"Got p={p} for 'div', but expected a prime: division needs an inverse of every b >= 1.")
    if not isinstance(train_fraction, int | float | np.floating) or not 0 < train_fraction < 1:
        raise DataError(f"Got train_fraction={train_fraction!r}, but expected a number between 0 and 1.")
