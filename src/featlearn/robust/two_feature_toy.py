"""The smallest problem with one invariant and one spurious feature, trained on exact weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from .._parameters import check_amount, check_count, is_real
from .._random import generator
from ..exceptions import DataError
from .penalties import irm_penalties, objective, penalty_weights, point_losses

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["ToyRun", "TwoFeatureToy"]

Floats = NDArray[np.float64]
Measured = tuple[Tensor, Tensor]  # losses (E,) and penalties (E,)

OBJECTIVES = ("erm", "irm", "vrex", "irmx", "feat")
DESCENT_RATE, ADAM_RATE = 0.5, 0.005
_CURVES = ("invariant", "spurious", "loss", "penalty")
MARGIN = 0.1  # accuracy above the commonest class that a round of FeAT must reach on every set


@dataclass(frozen=True, eq=False)
class ToyRun:
    """Trajectories of one run of :class:`TwoFeatureToy`, before the first step and after each.

    Attributes
    ----------
    objective : str
        As trained.
    pretrain_steps : int
        The first steps, which were empirical risk minimisation (ERM).
    invariant, spurious : array of shape (steps + 1,)
        Mean filter of the positive sign minus that of the negative sign, halved, on either coordinate.
    loss, penalty : array of shape (steps + 1,)
        Means over environments of L_e and of D_e^2.
    round_ends : tuple of int
        Steps at which accepted rounds of FeAT ended; empty for the others.
    stop_reason : str
        "all steps"; of FeAT also "no errors left", or "set accuracy below the margin", after which the rejected round
        is not in the trajectories.
    weights : array of shape (2 n_filters, 2)
        Filters at the end: positive sign first; invariant coordinate first.
    """

    objective: str
    pretrain_steps: int
    invariant: Floats
    spurious: Floats
    loss: Floats
    penalty: Floats
    round_ends: tuple[int, ...]
    stop_reason: str
    weights: Floats

    def frame(self) -> pd.DataFrame:
        """One row a step: invariant, spurious, loss, penalty."""
        import pandas as pd

        return pd.DataFrame({name: getattr(self, name) for name in _CURVES}).rename_axis("step")

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, strings and lists."""
        plain = {name: getattr(self, name).tolist() for name in (*_CURVES, "weights")}
        return {
            "kind": "ToyRun",
            "schema": 1,
            "objective": self.objective,
            "pretrain_steps": self.pretrain_steps,
            "round_ends": list(self.round_ends),
            "stop_reason": self.stop_reason,
            **plain,
        }


@dataclass(frozen=True)
class TwoFeatureToy:
    r"""Labels that one input agrees with everywhere alike, the other one more closely, but differently by environment.

    .. math::

        x = y \, (r_1, r_2), \quad P(r_1 = -1) = a, \quad P_e(r_2 = -1) = b_e, \qquad
        f(x) = \frac1m \sum_{r \le m} \mathrm{silu}(w^+_r \cdot x) - \frac1m \sum_{r \le m} \mathrm{silu}(w^-_r \cdot x)

    Eight points (y, r1, r2) carry all the probability, so that losses are exact: nothing is sampled. What a run has
    learned is :math:`\gamma = \frac12 (\overline{w^+} - \overline{w^-})` on the invariant and the spurious coordinate.

    Parameters
    ----------
    label_noise : float, default=0.25
        a, inside (0, 1).
    spurious_noise : tuple of float, default=(0.1, 0.2)
        b of every environment, inside (0, 1).
    n_filters : int, default=10
        m, of either sign.
    init_scale : float, default=0.01
        Standard deviation of the initial filters.
    random_state : int, default=0
        Draws them.

    Notes
    -----
    A step takes less than a millisecond. What happens, with the defaults: ERM learns both features, the spurious one
    faster (with ``label_noise=0.1, spurious_noise=(0.2, 0.25)`` the invariant one is faster). IRMv1 from scratch learns
    nothing, since logits of zero satisfy it; after 50 steps of ERM it finds the invariant feature alone. A second round
    of FeAT finds it too, without being told the environments: the rows that ERM gets wrong are those whose spurious
    feature lies, and of the predictors that must do equally well on all rows and on these, the best ignores it. What it
    adds is the feature that ERM left, not the invariant one as such: where the invariant one is faster, the second
    round turns to the spurious one.

    Provenance: a toy in the spirit of the theory in the paper, whose text was not at hand; all numbers are this
    library's, computed. Sets, their maximum and the rejection of rounds are as in
    :class:`~featlearn.robust.feat.FeATPretrainer`; the head is fixed here (1/m, -1/m): the filters are the features.

    References
    ----------
    Chen, Huang, Zhou, Bian, Han, Cheng (2023). Understanding and improving feature learning for out-of-distribution
    generalization. NeurIPS. arXiv:2304.11327.

    Examples
    --------
    >>> toy = TwoFeatureToy()
    >>> run = toy.train("erm", 100)
    >>> round(float(run.invariant[100]), 2), round(float(run.spurious[100]), 2)
    (0.61, 0.96)
    >>> round(toy.accuracy(run.weights, 0.9), 6)
    0.1
    """

    label_noise: float = 0.25
    spurious_noise: tuple[float, ...] = (0.1, 0.2)
    n_filters: int = 10
    init_scale: float = 0.01
    random_state: int = 0

    def __post_init__(self) -> None:
        noise = (self.spurious_noise,) if np.ndim(self.spurious_noise) == 0 else self.spurious_noise
        object.__setattr__(self, "spurious_noise", tuple(noise))
        rates = {"label_noise": (self.label_noise,), "spurious_noise": self.spurious_noise}
        for name, values in rates.items():
            if not values or not all(is_real(value) and 0 < value < 1 for value in values):
                raise DataError(f"Got {name}={getattr(self, name)!r}, but expected probabilities inside (0, 1).")
        check_count("n_filters", self.n_filters, 1)
        check_count("random_state", self.random_state, 0)
        check_amount("init_scale", self.init_scale)

    # the problem ----------------------------------------------------------------------------------------------------

    @cached_property
    def points(self) -> Tensor:
        """Rows (y, r1, r2) of the eight points, each -1 or 1; (8, 3)."""
        return torch.tensor(list(product((1.0, -1.0), repeat=3)), dtype=torch.float64)

    def weights_of(self, spurious_noise: float) -> Tensor:
        """Probability (8,) of every point in an environment."""
        lies = (self.points[:, 1:] < 0).double()
        noise = torch.tensor([self.label_noise, spurious_noise], dtype=torch.float64)
        return 0.5 * (lies * noise + (1 - lies) * (1 - noise)).prod(dim=1)

    def logits(self, weights: Any) -> Tensor:
        """The network's output f at the eight points, (8,)."""
        filters = torch.as_tensor(weights, dtype=torch.float64)
        x = self.points[:, :1] * self.points[:, 1:]
        active = functional.silu(filters @ x.T)
        return active[: self.n_filters].mean(dim=0) - active[self.n_filters :].mean(dim=0)

    def accuracy(self, weights: Any, spurious_noise: float) -> float:
        """Probability of a right answer in an environment, seen in training or not.

        Parameters
        ----------
        weights : array of shape (2 n_filters, 2)
            As in :class:`ToyRun`.
        spurious_noise : float
            b of the environment, from 0 to 1.

        Raises
        ------
        DataError
            Another shape, or no probability.
        """
        if not is_real(spurious_noise) or not 0 <= spurious_noise <= 1:
            raise DataError(f"Got spurious_noise={spurious_noise!r}, but expected a probability.")
        if np.shape(weights) != (2 * self.n_filters, 2):
            raise DataError(
                f"Got weights of shape {np.shape(weights)}, but expected {(2 * self.n_filters, 2)}, as ToyRun.weights."
            )
        right = self.points[:, 0] * self.logits(weights) > 0
        return float(self.weights_of(spurious_noise)[right].sum())

    # training -------------------------------------------------------------------------------------------------------

    def train(
        self,
        objective: str = "erm",
        steps: int = 500,
        *,
        pretrain_steps: int = 0,
        penalty_weight: float | tuple[float, float] = 1e4,
        learning_rate: float | None = None,
        n_rounds: int = 2,
        retain_weight: float = 0.01,
    ) -> ToyRun:
        r"""Train the filters from the toy's initial ones.

        .. math:: J = \sum_e \big( L_e + p \, \ldots \big) / \max(1, p), \qquad L_e = E_e \log(1 + e^{-y f})

        Parameters
        ----------
        objective : {"erm", "irm", "vrex", "irmx", "feat"}
            Of the environments, as for :class:`~featlearn.robust.ood.OODHead`; or rounds of feature augmented training
            on their mixture.
        steps : int
            Of the objective; of every round for "feat".
        pretrain_steps : int, default=0
            Steps of ERM before them.
        penalty_weight : float or pair of float, default=1e4
            p; a pair for "irmx".
        learning_rate : float, optional
            Gradient descent with 0.5 for "erm", "feat" and the steps before; Adam with 0.005 for penalties.
        n_rounds : int, default=2
            Of "feat".
        retain_weight : float, default=0.01
            Of "feat": weight of the mean loss on rows that earlier rounds got right.

        Returns
        -------
        ToyRun

        Raises
        ------
        DataError
            An unknown objective, or numbers out of range.
        """
        if objective not in OBJECTIVES:
            raise DataError(f"Got objective={objective!r}, but expected one of {', '.join(map(repr, OBJECTIVES))}.")
        check_count("steps", steps, 1)
        check_count("pretrain_steps", pretrain_steps, 0)
        check_count("n_rounds", n_rounds, 1)
        irm, vrex = penalty_weights(objective, penalty_weight)
        check_amount("retain_weight", retain_weight)
        if learning_rate is not None:
            check_amount("learning_rate", learning_rate, positive=True)
        draws = generator(self.random_state, "filters")
        descent = DESCENT_RATE if learning_rate is None or objective not in ("erm", "feat") else learning_rate
        ends: list[int] = []
        reason = "all steps"
        # Gradients are taken whatever mode the caller is in.
        with torch.inference_mode(False), torch.enable_grad():
            filters = self.init_scale * torch.randn(2 * self.n_filters, 2, generator=draws, dtype=torch.float64)
            track = _Track(self, filters.requires_grad_())
            if pretrain_steps:
                track.descend(torch.optim.SGD([filters], lr=descent), pretrain_steps, self._risk())
            if objective == "feat":
                reason = self._rounds(track, descent, steps, n_rounds, retain_weight, ends)
            elif objective == "erm":
                track.descend(torch.optim.SGD([filters], lr=descent), steps, self._risk())
            else:
                rate = ADAM_RATE if learning_rate is None else learning_rate
                track.descend(torch.optim.Adam([filters], lr=rate), steps, self._risk(irm, vrex))
        return ToyRun(
            objective=objective,
            pretrain_steps=pretrain_steps,
            round_ends=tuple(ends),
            stop_reason=reason,
            weights=filters.detach().numpy().copy(),
            **track.curves(),
        )

    @cached_property
    def _environments(self) -> Tensor:
        return torch.stack([self.weights_of(noise) for noise in self.spurious_noise])

    def _measure(self, logits: Tensor) -> Measured:
        labels = (self.points[:, 0] > 0).long()
        weights = self._environments
        return weights @ point_losses(logits, labels), irm_penalties(logits, labels, weights)

    def _risk(self, irm: float = 0.0, vrex: float = 0.0) -> Callable[[Tensor, Measured], Tensor]:
        # The sum over environments, not their mean: rates of gradient descent refer to it.
        count = len(self.spurious_noise)
        return lambda logits, measured: count * objective(*measured, irm=irm, vrex=vrex)

    def _rounds(
        self, track: _Track, rate: float, steps: int, n_rounds: int, retain_weight: float, ends: list[int]
    ) -> str:
        """Rounds of feature augmented training on the mixture of environments; why they stopped."""
        mixture = self._environments.mean(dim=0)
        labels = (self.points[:, 0] > 0).long()
        learn, retain = [mixture], list[Tensor]()
        count = len(self.spurious_noise)

        def risk(logits: Tensor, measured: Measured) -> Tensor:
            losses = point_losses(logits, labels)
            worst = torch.stack([weights @ losses for weights in learn]).max()
            kept = sum((weights @ losses for weights in retain), start=losses.new_zeros(()))
            return count * (worst + retain_weight * kept / max(1, len(retain)))

        for _ in range(n_rounds):
            before, start = track.filters.detach().clone(), len(track.rows)
            track.descend(torch.optim.SGD([track.filters], lr=rate), steps, risk)
            right = self.points[:, 0] * self.logits(track.filters.detach()) > 0
            # Either class has half of the weight in every set, by symmetry.
            if min(float(weights[right].sum()) for weights in learn) < 0.5 + MARGIN:
                with torch.no_grad():
                    track.filters.copy_(before)
                del track.rows[start:]
                return "set accuracy below the margin"
            ends.append(len(track.rows) - 1)
            if bool(right.all()):
                return "no errors left"
            learn.append(_share(mixture, ~right))
            retain.append(_share(mixture, right))
        return "all steps"

    # showing --------------------------------------------------------------------------------------------------------

    def plot(self, runs: Mapping[str, ToyRun] | None = None, ax: Any = None) -> list[Axes]:
        """Both features over the steps, and against each other.

        Parameters
        ----------
        runs : mapping of str to ToyRun, optional
            By name. Default: ERM, IRM from scratch, IRM after 100 steps of ERM, and two rounds of FeAT; that takes
            some seconds.
        ax : Axes or two Axes, optional
            Drawn into; one Axes gets the plane of both features alone. By default a new figure.

        Returns
        -------
        list of Axes
        """
        from ..plots.feat import plot_toy

        if runs is None:
            runs = {
                "ERM": self.train("erm", 1000),
                "IRM from scratch": self.train("irm", 3000),
                "IRM after 100 steps of ERM": self.train("irm", 3000, pretrain_steps=100),
                "FeAT, two rounds": self.train("feat", 500),
            }
        return plot_toy({name: run.to_dict() for name, run in runs.items()}, ax)


class _Track:
    """Filters under training, and what was measured before every step and after the last."""

    def __init__(self, toy: TwoFeatureToy, filters: Tensor) -> None:
        self.toy, self.filters = toy, filters
        self.rows: list[Tensor] = []
        logits = toy.logits(filters)
        self._note(toy._measure(logits))

    def descend(self, optimizer: torch.optim.Optimizer, steps: int, risk: Callable[[Tensor, Measured], Tensor]) -> None:
        logits = self.toy.logits(self.filters)
        measured = self.toy._measure(logits)
        for _ in range(steps):
            optimizer.zero_grad()
            risk(logits, measured).backward()
            optimizer.step()
            logits = self.toy.logits(self.filters)
            measured = self.toy._measure(logits)
            self._note(measured)

    def curves(self) -> dict[str, Floats]:
        return dict(zip(_CURVES, torch.stack(self.rows, dim=1).numpy(), strict=True))

    def _note(self, measured: Measured) -> None:
        half = self.toy.n_filters
        filters = self.filters.detach()
        gamma = (filters[:half].mean(dim=0) - filters[half:].mean(dim=0)) / 2
        losses, penalties = (values.detach().mean() for values in measured)
        self.rows.append(torch.stack([*gamma, losses, penalties]))


def _share(weights: Tensor, chosen: Tensor) -> Tensor:
    """Weights of the chosen points alone, with sum 1."""
    kept = weights * chosen
    return kept / kept.sum()
