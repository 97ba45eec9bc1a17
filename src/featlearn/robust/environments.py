"""Rows in environments: which row is in which, what it counts there, and which rows are held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..exceptions import DataError
from .groups import label_column
from .penalties import environment_weights, halves, irm_penalties, point_losses

__all__ = ["EnvironmentRows", "check_environments", "code_environments", "hold_out"]


@dataclass(frozen=True, eq=False)
class EnvironmentRows:
    """Rows that a head sees, and what they count in every environment.

    Attributes
    ----------
    features : Tensor of shape (n, d)
    labels : Tensor of shape (n,), int64
    weights : Tensor of shape (E, n)
        Rows that sum to 1, see :func:`~featlearn.robust.penalties.environment_weights`.
    split : pair of Tensors of shape (E, n), or None
        Their halves, for the split estimator of the penalty.
    """

    features: Tensor
    labels: Tensor
    weights: Tensor
    split: tuple[Tensor, Tensor] | None

    @classmethod
    def of(
        cls,
        features: NDArray[Any],
        labels: NDArray[np.int64],
        codes: NDArray[np.int64],
        count: int,
        row_weights: NDArray[Any],
        *,
        split: bool,
    ) -> EnvironmentRows:
        """From arrays of n rows, with ``count`` environments; ``row_weights`` are positive."""
        weights = environment_weights(torch.from_numpy(codes), count, torch.from_numpy(row_weights))
        return cls(torch.from_numpy(features), torch.from_numpy(labels), weights, halves(weights) if split else None)

    def measure(self, coef: Tensor, intercept: Tensor) -> tuple[Tensor, Tensor]:
        """Losses and IRM penalties (E,) of a head of coefficients (1 or K, d) and intercepts (1 or K,)."""
        logits = torch.addmm(intercept, self.features, coef.mT)
        if len(coef) == 1:
            logits = logits[:, 0]
        losses = self.weights @ point_losses(logits, self.labels)
        return losses, irm_penalties(logits, self.labels, self.weights, self.split)

    def spread(self, coef: Tensor, intercept: Tensor) -> float:
        """Standard deviation of the logit, or of that which varies most among several; environments count alike."""
        logits = torch.addmm(intercept, self.features, coef.mT)
        if len(coef) > 1:
            logits = logits - logits.mean(dim=1, keepdim=True)
        shares = self.weights.mean(dim=0)
        return float((shares @ (logits - shares @ logits).square()).max().sqrt())

    def constant_loss(self) -> float:
        """Mean loss over environments of the best constant logits: the entropy of the classes, in nats."""
        shares = self.weights.mean(dim=0) @ torch.nn.functional.one_hot(self.labels).to(self.weights)
        return float(-torch.special.xlogy(shares, shares).sum())


def code_environments(environments: Any, n: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Place (n,) of every row's environment among the labels (E,), ascending; the one label "all" for None.

    Raises
    ------
    DataError
        Another number of rows, a missing label, or labels that are no whole numbers, words or booleans of one kind.
    """
    if environments is None:
        return np.zeros(n, dtype=np.int64), np.array(["all"])
    column = label_column(environments, "environments")
    if len(column) != n:
        raise DataError(f"Got environments of {len(column)} rows and Z of {n}, but expected as many of one as of both.")
    try:
        names, codes = np.unique(column, return_inverse=True)
    except TypeError as error:
        raise DataError(f"Got environments of different kinds, but expected labels that sort ({error}).") from None
    return codes.astype(np.int64), names


def check_environments(
    codes: NDArray[np.int64],
    labels: NDArray[np.int64],
    names: NDArray[Any],
    classes: NDArray[Any],
    *,
    one_class: bool = False,
) -> None:
    """Refuse one class in all, and unless ``one_class``, an environment in which nothing can be told apart.

    Raises
    ------
    DataError
        It names the environment.
    """
    if len(classes) < 2:
        shown = classes.tolist()
        raise DataError(f"Got y with one class only ({shown}) in rows of positive weight, but expected two or more.")
    for e, name in enumerate(names.tolist()):
        own = labels[codes == e]
        if len(own) < 2:
            raise DataError(
                f"Got {len(own)} row{'' if len(own) == 1 else 's'} of positive weight in environment {name!r}, but "
                "expected two or more. Merge it with another, or leave it out."
            )
        if not one_class and len(np.unique(own)) < 2:
            raise DataError(
                f"Got one class only ({classes.tolist()[own[0]]!r}) in environment {name!r}, but expected two or more: "
                "a constant would be perfect there. Merge it with another, or leave it out."
            )


def hold_out(
    codes: NDArray[np.int64],
    labels: NDArray[np.int64],
    names: NDArray[Any],
    fraction: float,
    rng: np.random.RandomState,
) -> NDArray[np.bool_]:
    """Mask (n,) of rows to hold out: the fraction of every class of every environment, but never all of them.

    Raises
    ------
    DataError
        An environment has too few rows for the fraction.
    """
    aside = np.zeros(len(codes), dtype=bool)
    if fraction == 0:
        return aside
    for e, name in enumerate(names.tolist()):
        for k in np.unique(labels[codes == e]):
            cell = np.flatnonzero((codes == e) & (labels == k))
            aside[rng.permutation(cell)[: min(round(fraction * len(cell)), len(cell) - 1)]] = True
        if not aside[codes == e].any():
            raise DataError(
                f"Got validation_fraction={fraction:g}, which holds out none of the {np.sum(codes == e)} rows of "
                f"environment {name!r}. Raise it, or set it to 0."
            )
    return aside
