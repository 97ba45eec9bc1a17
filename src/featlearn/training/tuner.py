"""Rates that follow the features along training, with a way back from divergence. Experimental: a safety net."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ..agop.batches import Outputs
from ..agop.finding import unwrap
from ..agop.losses import Loss
from ..exceptions import DataError, FeatlearnError, FeatlearnWarning
from .groups import Rule, check_rule, feature_speed_groups

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FeatureSpeedTuner", "TunerEvent"]

_MEMORY = 0.9  # of the running mean of the loss
_HELD_BACK = 5  # measurements during which rates may not grow after a roll-back


@dataclass(frozen=True)
class TunerEvent:
    """One decision: at which step, the rates after it by layer, and why."""

    step: int
    rates: Mapping[str, float]
    reason: str


class FeatureSpeedTuner:
    r"""Adjust the rates of :func:`featlearn.feature_speed_groups` along training, and undo a divergence.

    Experimental, and of our own design. Every ``every`` steps the groups are measured again on the current batch, and
    each rate moves towards the measured one by at most a factor ``max_change``, never above ``cap`` times its first
    value. When the loss is not finite, or its running mean exceeds ``rollback`` times its best, weights and optimiser
    go back to the last snapshot, all rates are halved (divided by 4 when not finite), and no rate grows for a while.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Built from ``feature_speed_groups(model, loss, batch)``: one group a layer, with its ``name``.
    model : torch.nn.Module
        The model that is trained.
    loss : callable
        ``(outputs, targets) -> Tensor``, the mean over the batch.
    every : int
        Steps between measurements and snapshots.
    budget : float
        Largest relative change of any layer's output but the last, in one step.
    max_change, cap, rollback : float
        As above, each at least 1.
    max_rollbacks : int
        After so many the tuner stops, keeps the rates, and warns once.
    rule, outputs, mode
        As in :func:`featlearn.feature_speed_groups`; ``rule`` names what the optimiser does.

    Attributes
    ----------
    history : list of TunerEvent
        Every decision.
    stopped : bool
        Whether it has used up its roll-backs.

    Raises
    ------
    DataError
        An argument out of range; an optimiser whose groups are not named by layers.

    Notes
    -----
    A measurement costs what ``feature_speed_groups`` costs without its limit on sharpness (about four training steps;
    the way back stands in for that limit), a snapshot one copy of the weights, buffers and optimiser state. The default
    advice is fixed groups: in the trials that it was designed on (a small CNN, before there was a limit on sharpness)
    it ended with a higher loss than they did from sensible budgets, and recovered where they diverged. The cap is there
    because the measured rate, of order loss over squared gradient, grows without bound near a minimum whose loss is not
    zero.
    Schedulers that multiply the rates (``ExponentialLR``, ``StepLR``, ``MultiplicativeLR``) combine with the tuner,
    which moves rates on from where they are. Those that compute them from the first rates (``LambdaLR``,
    ``OneCycleLR``) overwrite it at their next step, a roll-back's smaller rates too: do not combine them.

    Algorithms published for this purpose were not at hand: nothing here is taken from them.

    Examples
    --------
    >>> import torch
    >>> from featlearn import feature_speed_groups
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    >>> x = torch.randn(64, 3)
    >>> batch, loss = (x, x[:, :1]), torch.nn.functional.mse_loss
    >>> optimizer = torch.optim.SGD(feature_speed_groups(net, loss, batch))
    >>> tuner = FeatureSpeedTuner(optimizer, net, loss, every=10)
    >>> for _ in range(30):
    ...     optimizer.zero_grad()
    ...     value = loss(net(batch[0]), batch[1])
    ...     value.backward()
    ...     if tuner.step(batch, value) == "step":
    ...         optimizer.step()
    >>> [event.step for event in tuner.history]
    [0, 10, 20]
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,
        loss: Loss,
        *,
        every: int = 50,
        budget: float = 0.2,
        max_change: float = 1.1,
        cap: float = 10.0,
        rollback: float = 1.5,
        max_rollbacks: int = 6,
        rule: Rule = "sgd",
        outputs: Outputs = "logits",
        mode: Literal["eval", "train"] = "eval",
    ) -> None:
        for name, whole, least in (("every", every, 1), ("max_rollbacks", max_rollbacks, 1)):
            if isinstance(whole, bool) or not isinstance(whole, int) or whole < least:
                raise DataError(f"Got {name}={whole!r}, but expected an integer of at least {least}.")
        for name, value in (("max_change", max_change), ("cap", cap), ("rollback", rollback)):
            if not value >= 1:
                raise DataError(f"Got {name}={value}, but expected a number of at least 1.")
        if not (math.isfinite(budget) and budget > 0):
            raise DataError(f"Got budget={budget}, but expected a positive finite number.")
        check_rule(rule)
        names = [group.get("name") for group in optimizer.param_groups]
        if None in names or len(set(names)) != len(names):
            raise DataError(
                f"Got an optimiser with groups named {names}, but expected one named group a layer. Build it from "
                "feature_speed_groups(model, loss, batch)."
            )
        modules = dict(unwrap(model).named_modules())
        if unknown := [name for name in names if name not in modules]:
            raise DataError(
                f"Got a group named {unknown[0]!r}, but expected the name of a layer of the model. Build the "
                "optimiser from feature_speed_groups(model, loss, batch)."
            )
        self.optimizer, self.model, self.loss = optimizer, model, loss
        self.every, self.budget = every, budget
        self.max_change, self.cap, self.rollback, self.max_rollbacks = max_change, cap, rollback, max_rollbacks
        self._measured_by: dict[str, Any] = {"rule": rule, "outputs": outputs, "mode": mode, "max_sharpness": None}
        self.history: list[TunerEvent] = [TunerEvent(0, self.rates, "given")]
        self.steps = self.rollbacks = self._held_until = 0
        self._first = self.rates
        self._smoothed = self._best = math.nan
        self._snapshot = self._take()

    @property
    def rates(self) -> dict[str, float]:
        """Rates as they are, by layer."""
        return {group["name"]: float(group["lr"]) for group in self.optimizer.param_groups}

    @property
    def stopped(self) -> bool:
        """Whether it has used up its roll-backs."""
        return self.rollbacks >= self.max_rollbacks

    def step(self, batch: Any, value: float | Tensor) -> Literal["step", "skip"]:
        """Call after ``backward()`` and before ``optimizer.step()``; make that step unless the answer is "skip".

        Parameters
        ----------
        batch : Tensor, (inputs, targets) or mapping
            The batch of this step.
        value : float or Tensor
            Its loss.

        Returns
        -------
        "step" or "skip"
            "skip" after a roll-back: the gradients are those of weights that are gone.
        """
        loss = float(value.detach() if isinstance(value, Tensor) else value)
        if self.stopped:
            return "step"
        smoothed = loss if math.isnan(self._smoothed) else _MEMORY * self._smoothed + (1 - _MEMORY) * loss
        if not math.isfinite(loss) or smoothed > self.rollback * abs(self._best):
            self._roll_back(finite=math.isfinite(loss))
            return "skip"
        self._smoothed = smoothed
        self._best = smoothed if math.isnan(self._best) else min(self._best, smoothed)
        if self.steps and self.steps % self.every == 0:
            # The running mean lags: weights that diverge already must not become what is gone back to.
            if loss <= self.rollback * abs(self._best):
                self._snapshot = self._take()
            self._tune(batch)
        self.steps += 1
        return "step"

    # --- decisions ----------------------------------------------------------------------------------------------------

    def _tune(self, batch: Any) -> None:
        try:
            groups = feature_speed_groups(
                self.model, self.loss, batch, budget=self.budget, layers=list(self._first), **self._measured_by
            )
        except FeatlearnError as error:
            self._record(f"not measured: {error}")
            return
        targets = {group["name"]: group["lr"] for group in groups}
        ceiling = 1.0 if self.steps < self._held_until else self.max_change
        for group in self.optimizer.param_groups:
            name, rate = group["name"], float(group["lr"])
            wanted = min(max(targets.get(name, rate) / rate, 1 / self.max_change), ceiling) if rate else 1.0
            _set_rate(group, min(rate * wanted, self.cap * self._first[name]))
        self._record("measured" if ceiling > 1 else "measured, growth held back")

    def _roll_back(self, finite: bool) -> None:
        self._put_back()
        for group in self.optimizer.param_groups:
            _set_rate(group, float(group["lr"]) / (2 if finite else 4))
        self.rollbacks += 1
        self._held_until = self.steps + _HELD_BACK * self.every
        self._record("rolled back: " + ("the loss rose" if finite else "the loss was not finite"))
        if self.stopped:
            warnings.warn(
                f"The tuner rolled back {self.rollbacks} times and stops here; the rates stay as they are. Start again "
                "with a smaller budget.",
                FeatlearnWarning,
                stacklevel=3,
            )

    def _record(self, reason: str) -> None:
        self.history.append(TunerEvent(self.steps, self.rates, reason))

    # --- snapshots ----------------------------------------------------------------------------------------------------

    def _take(self) -> dict[str, Any]:
        return {
            "model": {key: tensor.detach().clone() for key, tensor in self._tensors().items()},
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "smoothed": self._smoothed,
            "best": self._best,
        }

    @torch.no_grad()
    def _put_back(self) -> None:
        for key, tensor in self._tensors().items():
            tensor.copy_(self._snapshot["model"][key])
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(copy.deepcopy(self._snapshot["optimizer"]))
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        # The best as it was then: measured by one found since, the weights put back would count as diverged at once.
        self._smoothed, self._best = self._snapshot["smoothed"], self._snapshot["best"]

    def _tensors(self) -> dict[str, Tensor]:
        return dict(self.model.named_parameters()) | dict(self.model.named_buffers())

    # --- results ------------------------------------------------------------------------------------------------------

    def frame(self) -> pd.DataFrame:
        """One row a decision: step, reason, and a column of rates for each layer."""
        import pandas as pd

        return pd.DataFrame([{"step": event.step, "reason": event.reason, **event.rates} for event in self.history])

    def state_dict(self) -> dict[str, Any]:
        """Counters, snapshot and history, as tensors and plain numbers: goes through ``torch.save``."""
        return {
            "steps": self.steps,
            "rollbacks": self.rollbacks,
            "held_until": self._held_until,
            "first": dict(self._first),
            "smoothed": self._smoothed,
            "best": self._best,
            "snapshot": self._snapshot,
            "history": [asdict(event) for event in self.history],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where another tuner of the same model and optimiser stopped."""
        expected = set(self.state_dict())
        if missing := expected - set(state):
            raise DataError(f"Got a state without {', '.join(sorted(missing))}, but expected state_dict() of a tuner.")
        if set(state["first"]) != set(self._first):
            raise DataError(
                f"Got a state of layers {', '.join(state['first'])}, but expected {', '.join(self._first)}."
            )
        self.steps, self.rollbacks, self._held_until = state["steps"], state["rollbacks"], state["held_until"]
        self._first, self._smoothed, self._best = dict(state["first"]), state["smoothed"], state["best"]
        self._snapshot = copy.deepcopy(state["snapshot"])
        self.history = [TunerEvent(**event) for event in state["history"]]


def _set_rate(group: dict[str, Any], rate: float) -> None:
    """In place where the rate is a tensor, which a captured graph may hold."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate
