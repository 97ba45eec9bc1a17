"""Gradient steps of a linear head on an objective over environments: what each saw, and whether they led anywhere."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..exceptions import FeatlearnError, FeatlearnWarning
from .environments import EnvironmentRows
from .logistic import LinearFit
from .penalties import group_shares, objective

__all__ = ["Recipe", "descend", "is_degenerate"]

# Shares of the best constant's loss above which a head is degenerate: if its logits hardly vary, and in any case.
DEGENERATE, HOPELESS = 0.9, 0.99
FLAT = 0.1  # standard deviation of logits that hardly vary: probabilities within 0.025


@dataclass(frozen=True)
class Recipe:
    """The objective of a head and how it is minimised; the parameters of ``OODHead``, checked."""

    irm: float
    vrex: float
    dro: bool
    alpha: float
    anneal_steps: int
    max_iter: int
    learning_rate: float
    group_step: float
    tol: float

    def weights_at(self, step: int) -> tuple[float, float]:
        """Weights of the IRM and the V-REx penalty: at most 1 before the annealing ends."""
        if step >= self.anneal_steps:
            return self.irm, self.vrex
        return min(self.irm, 1.0), min(self.vrex, 1.0)


def descend(
    rows: EnvironmentRows,
    held_out: EnvironmentRows | None,
    start: LinearFit,
    recipe: Recipe,
    *,
    verbose: int = 0,
) -> tuple[Tensor, Tensor, list[dict[str, Any]]]:
    """Adam on all rows at once, from ``start``.

    Parameters
    ----------
    rows, held_out : EnvironmentRows
        Training rows, and rows on which the same is measured but nothing is learned.
    start : LinearFit
    recipe : Recipe
    verbose : int, default=0
        1 shows a progress bar.

    Returns
    -------
    coef, intercept : Tensor
        After the last step.
    history : list of dict
        Entry t is measured after t steps: step, objective, and lists over environments.

    Raises
    ------
    FeatlearnError
        The objective is no longer finite.
    """
    coef, intercept = (
        torch.from_numpy(part).to(rows.features).clone().requires_grad_(True) for part in (start.coef, start.intercept)
    )
    shares = rows.weights.new_full((len(rows.weights),), 1.0 / len(rows.weights))
    optimizer = torch.optim.Adam([coef, intercept], lr=recipe.learning_rate)
    history: list[dict[str, Any]] = []
    for step in _steps(recipe.max_iter + 1, verbose):
        if step == recipe.anneal_steps > 0:
            optimizer = torch.optim.Adam([coef, intercept], lr=recipe.learning_rate)
        irm, vrex = recipe.weights_at(step)
        losses, penalties = rows.measure(coef, intercept)
        ridge = recipe.alpha * coef.square().sum()
        value = objective(losses, penalties, irm=irm, vrex=vrex, ridge=ridge, shares=shares if recipe.dro else None)
        history.append(_entry(step, value, losses, penalties, shares, held_out, coef, intercept))
        if not bool(torch.isfinite(value)):
            raise FeatlearnError(
                f"Got an objective of {value.item()} after {step} steps with learning_rate="
                f"{recipe.learning_rate:g}, but expected a finite one. Standardise the features, or lower it."
            )
        if step == recipe.max_iter:
            break
        optimizer.zero_grad()
        value.backward()
        losses = losses.detach()
        if recipe.tol and step >= recipe.anneal_steps:
            # Where group DRO starts, at the minimum for equal shares, the gradient is zero, but shares are to move.
            slack = float(losses.max() - shares @ losses) if recipe.dro else 0.0
            if max(slack, _largest_gradient(coef, intercept)) < recipe.tol:
                break
        optimizer.step()
        if recipe.dro:
            shares = group_shares(shares, losses, recipe.group_step)
    return coef.detach(), intercept.detach(), history


def is_degenerate(rows: EnvironmentRows, coef: Tensor, intercept: Tensor, init: str) -> bool:
    """Whether a head is as good as constant; warns if it is.

    Parameters
    ----------
    rows : EnvironmentRows
        Training rows.
    coef, intercept : Tensor of shape (1 or K, d) and (1 or K,)
    init : str
        Where the head started, which decides the advice.

    Warns
    -----
    FeatlearnWarning
        It is.
    """
    reached, spread = float(rows.measure(coef, intercept)[0].mean()), rows.spread(coef, intercept)
    constant = rows.constant_loss()
    if reached <= (DEGENERATE if spread < FLAT else HOPELESS) * constant:
        return False
    advice = {
        "random": "The penalty is met by logits near 0, where accuracy is noise: start from ERM or from heads of FeAT.",
        "given": "Start from a head that works, or from ERM.",
        "erm": 'The features hold little about the labels, or the penalty leaves little: compare with objective="erm".',
    }
    warnings.warn(
        f"The head is degenerate: its mean training loss is {reached:.4f}, that of the best constant {constant:.4f}, "
        f"and its logits vary by {spread:.2g}. {advice[init]}",
        FeatlearnWarning,
        stacklevel=3,
    )
    return True


def _steps(count: int, verbose: int) -> Iterable[int]:
    if not verbose:
        return range(count)
    from rich.console import Console
    from rich.progress import track

    return track(range(count), description="Training the head", console=Console(stderr=True), transient=True)


def _entry(
    step: int,
    value: Tensor,
    losses: Tensor,
    penalties: Tensor,
    shares: Tensor,
    held_out: EnvironmentRows | None,
    coef: Tensor,
    intercept: Tensor,
) -> dict[str, Any]:
    entry = {
        "step": step,
        "objective": value.item(),
        "loss": losses.tolist(),
        "penalty": penalties.tolist(),
        "share": shares.tolist(),
    }
    if held_out is not None:
        with torch.no_grad():
            losses, penalties = held_out.measure(coef, intercept)
        entry |= {"held_out_loss": losses.tolist(), "held_out_penalty": penalties.tolist()}
    return entry


def _largest_gradient(*parameters: Tensor) -> float:
    return max(float(parameter.grad.abs().max()) for parameter in parameters if parameter.grad is not None)
