"""Speed Limited Optimization: any optimiser, with a limit on how far each weight tensor moves in a step."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..exceptions import DataError
from .speed_limit import limit_, local, norms
from .weight_groups import slo_groups

__all__ = ["SLO", "slo_groups"]

# What makes one SLO another rule; saved and compared.
_RULE = ("exponent", "eps", "relative", "on")

# Optimisers of torch that multiply the weights by 1 - lr * weight_decay and do not say so in their groups.
_DECOUPLED = tuple(getattr(torch.optim, name) for name in ("AdamW", "Adafactor", "Muon") if hasattr(torch.optim, name))


class _Limited(NamedTuple):
    """One tensor that has a gradient and a speed."""

    parameter: Tensor
    gradient: Tensor
    group: dict[str, Any]


class SLO(torch.optim.Optimizer):
    r"""Wrap an optimiser so that every weight tensor moves at a speed that the user sets.

    .. math:: \Delta W_l = -\eta \, \mathrm{speed}_l \, s_l \, \frac{u_l}{(\epsilon + \|u_l\|_F)^p}

    with :math:`u_l` the base optimiser's step at rate 1 (the gradient for plain SGD), and :math:`s_l = 1`, or
    :math:`\|W_l\|_F` with ``relative``. With ``g`` the gradient and ``speed`` one, plain SGD becomes

    ======== ============================= ===========================================================================
    exponent step                          meaning
    ======== ============================= ===========================================================================
    0        ``-lr g``                     the base optimiser, its rate times ``speed``
    1        ``-lr g / (eps + ||g||)``     Speed Limited Optimization: no tensor moves further than ``lr * speed``;
                                           with ``relative`` it is LARS without its term of weight decay
    2        ``-lr g / (eps + ||g||)**2``  equal loss decay: every tensor contributes ``lr * speed`` to the decay of
                                           the loss that a linear model predicts
    ======== ============================= ===========================================================================

    Parameters
    ----------
    base : torch.optim.Optimizer
        Its groups may have ``"speed"`` (positive, default 1) and ``"exempt": True`` (left to ``base``);
        :func:`slo_groups` makes them. Groups and state are those of ``base`` itself, always the same objects.
    exponent : float in [0, 2], default 1.0
        ``p``.
    eps : float, default 1e-2
        Gradient norm (step norm per unit rate) below which the speed is no longer limited and SLO turns into ``base``:
        part of the method, to be stated with every result. Positive when ``exponent`` is above 1.
    relative : bool, default False
        Speeds in units of the weight's own norm. A weight that is exactly zero then never moves.
    on : "auto", "gradient" or "update"
        ``"gradient"`` scales ``.grad`` in place, as ``clip_grad_norm_`` does, and then lets ``base`` step: momentum and
        weight decay act on limited gradients, so the speed stays below ``lr * speed / (1 - momentum)`` plus decay.
        ``"update"`` lets ``base`` step and then rescales what it did. "auto" takes "gradient" for ``torch.optim.SGD``
        and "update" for all others: Adam, RMSprop and sign methods ignore the scale of a gradient.

    Raises
    ------
    DataError
        A value out of range; a base that evaluates the loss several times (LBFGS), differentiates through its steps, or
        is SLO itself; parameters flattened and sharded by FullyShardedDataParallel, of which no process knows the norm;
        in :meth:`step` a sparse gradient; in :meth:`load_state_dict` the state of another rule.

    Notes
    -----
    Costs one read for the norms and one read and write of the tensors, without waiting for the device; "update" keeps a
    copy of the limited weights during the step. Norms are per tensor, in float32 for half types, global for DTensors
    (``fully_shard``, tensor parallelism).

    A limited step does not shrink with the gradient, so it does not converge at a constant rate: let the rate decay, or
    take ``eps`` well above the final gradient norm. Accumulate gradients fully before :meth:`step`. ``GradScaler``
    unscales before it steps, which is what SLO needs. Under ``"update"``, decoupled weight decay (AdamW and torch's
    other optimisers that have it) is applied unscaled; a group of an optimiser from elsewhere says that its decay is
    ``W * (1 - lr * weight_decay)`` by ``"decoupled_weight_decay": True``, else decay counts as part of the step.

    Which layer is fast matters: on a task where speeding up the first layer helped most, speeding up the second was
    worse than speeding up none.

    References
    ----------
    Beaglehole, Mitliagkas and Agarwala, arXiv 2402.05271, propose SLO; exponent 1 with one layer at C and all others at
    1/C is what released code does. The other exponents, ``relative`` and the "update" route are this library's.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    >>> optimizer = SLO(torch.optim.SGD(slo_groups(net, fast="0"), lr=0.002), eps=0.0)
    >>> before = net[0].weight.detach().clone()
    >>> net(torch.ones(2, 4)).square().mean().backward()
    >>> optimizer.step()
    >>> round((net[0].weight - before).norm().item(), 5)  # 0.002 times speed 20
    0.04
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        *,
        exponent: float = 1.0,
        eps: float = 1e-2,
        relative: bool = False,
        on: Literal["auto", "gradient", "update"] = "auto",
    ) -> None:
        _check_base(base)
        if isinstance(exponent, bool) or not 0 <= exponent <= 2:
            raise DataError(f"Got exponent={exponent!r}, but expected a number in [0, 2].")
        if isinstance(eps, bool) or not (eps >= 0 and math.isfinite(eps)) or (eps == 0 and exponent > 1):
            positive = "a positive" if exponent > 1 else "a non-negative"
            raise DataError(f"Got eps={eps!r} with exponent={exponent!r}, but expected {positive} finite number.")
        if on not in ("auto", "gradient", "update"):
            raise DataError(f"Got on={on!r}, but expected 'auto', 'gradient' or 'update'.")
        if on == "auto":
            on = "gradient" if type(base) is torch.optim.SGD else "update"
        for group in base.param_groups:
            _check_group(group)
            if on == "update" and "lr" not in group:
                raise DataError(f"Got {type(base).__name__}, whose groups have no 'lr', but expected a learning rate.")
        self.base, self.exponent, self.eps, self.relative, self.on = base, exponent, eps, relative, on
        # The base class's __init__ would make groups and a state of its own; what else it sets up, unpickling does too.
        self.__setstate__({})

    # --- one set of groups, shared with the base ----------------------------------------------------------------------

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The base optimiser's own groups, which schedulers change."""
        return self.base.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The base optimiser's own state."""
        return self.base.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The base optimiser's defaults."""
        return self.base.defaults

    def __getstate__(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("base", *_RULE)}

    def __repr__(self) -> str:
        rule = ", ".join(f"{key}={getattr(self, key)!r}" for key in _RULE)
        return f"SLO({rule}, base={self.base!r})"

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base optimiser; it may have ``"speed"`` and ``"exempt"``."""
        _check_group(param_group)
        self.base.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As the base optimiser does it."""
        self.base.zero_grad(set_to_none)

    # --- the step -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step; ``closure``, if given, is evaluated once, before it, and its loss returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        limited = list(self._limited())
        weight_norms = norms([of.parameter for of in limited]) if self.relative else None
        if self.on == "gradient":
            self._limit(limited, [of.gradient for of in limited], weight_norms)
            self.base.step()
        elif not limited:
            self.base.step()
        else:
            self._step_and_limit(limited, weight_norms)
        return loss

    def _step_and_limit(self, limited: list[_Limited], weight_norms: list[Tensor] | None) -> None:
        """Let the base step, then leave of every weight's change what the limit allows; decoupled decay stays whole."""
        rates = [of.group["lr"] for of in limited]
        weights = [local(of.parameter) for of in limited]
        start = [weight.clone() for weight in weights]
        for weight, of in zip(start, limited, strict=True):
            if decay := self._decoupled_decay(of.group):
                weight.mul_(1 - decay)
        self.base.step()
        # The weights themselves hold their change for a moment: no second copy.
        torch._foreach_sub_(weights, start)
        self._limit(limited, [of.parameter for of in limited], weight_norms, rates)
        torch._foreach_add_(weights, start)

    def _decoupled_decay(self, group: dict[str, Any]) -> float:
        if not group.get("decoupled_weight_decay", isinstance(self.base, _DECOUPLED)):
            return 0.0
        return group["lr"] * group.get("weight_decay", 0.0)

    def _limit(
        self,
        limited: list[_Limited],
        changes: list[Tensor],
        weight_norms: list[Tensor] | None,
        rates: list[float | Tensor] | None = None,
    ) -> None:
        limit_(
            changes,
            [of.group.get("speed", 1.0) for of in limited],
            exponent=self.exponent,
            eps=self.eps,
            rates=rates,
            weight_norms=weight_norms,
        )

    def _limited(self) -> Iterator[_Limited]:
        """What has a gradient and is not left to the base optimiser alone."""
        for j, group in enumerate(self.param_groups):
            _check_speed(group)
            untouched = self.exponent == 0 and not self.relative and group.get("speed", 1.0) == 1
            if group.get("exempt", False) or untouched:
                continue
            names = group.get("param_names") or [f"parameter {i} of group {j}" for i in range(len(group["params"]))]
            if len(group["params"]) == 1:
                names = [group.get("name", names[0])]
            for parameter, name in zip(group["params"], names, strict=True):
                if parameter.grad is None:
                    continue
                if parameter.grad.layout != torch.strided:
                    raise DataError(
                        f"Got a sparse gradient of {name!r}, but expected a dense one. Put the parameter into a group "
                        'with "exempt": True, or build its layer without sparse=True.'
                    )
                yield _Limited(parameter, parameter.grad, group)

    # --- saving -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """``{"base": the base optimiser's state, "exponent", "eps", "relative", "on"}``."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        state: dict[str, Any] = {"base": self.base.state_dict(), **{key: getattr(self, key) for key in _RULE}}
        for after in self._optimizer_state_dict_post_hooks.values():
            changed = after(self, state)
            state = state if changed is None else changed
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`, speeds included.

        Raises
        ------
        DataError
            The state of another optimiser, or of another exponent, eps, relative or on.
        """
        state = dict(state_dict)
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            changed = before(self, state)
            state = state if changed is None else changed
        if missing := {"base", *_RULE} - set(state):
            raise DataError(f"Got a state without {', '.join(sorted(missing))}, but expected SLO.state_dict().")
        for key in _RULE:
            if state[key] != getattr(self, key):
                raise DataError(
                    f"Got a state of SLO with {key}={state[key]!r}, but expected {key}={getattr(self, key)!r}. Build "
                    f"SLO with {key}={state[key]!r} to continue it."
                )
        self.base.load_state_dict(state["base"])
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)


def _check_base(base: Any) -> None:
    if not isinstance(base, torch.optim.Optimizer):
        raise DataError(f"Got base of type {type(base).__name__}, but expected a torch.optim.Optimizer.")
    if isinstance(base, SLO):
        raise DataError("Got SLO around SLO, but expected one speed limit. Wrap the optimiser that it wraps: .base.")
    closure = inspect.signature(base.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise DataError(
            f"Got {type(base).__name__}, whose step evaluates the loss several times, but expected an optimiser that "
            "steps from one gradient, such as SGD or Adam."
        )


def _check_group(group: dict[str, Any]) -> None:
    """Refuse a group whose speed could not be limited, before anything is changed."""
    _check_speed(group)
    if group.get("differentiable", False):
        raise DataError("Got differentiable=True, but expected an optimiser that steps in place: SLO has no gradient.")
    params = group["params"]
    for parameter in [params] if isinstance(params, Tensor) else params:
        if getattr(parameter, "_fsdp_flattened", False) and not group.get("exempt", False):
            raise DataError(
                "Got a parameter that FullyShardedDataParallel has flattened and sharded, so that no process knows its "
                "norm. Shard the model with torch.distributed.fsdp.fully_shard instead."
            )


def _check_speed(group: dict[str, Any]) -> None:
    speed = group.get("speed", 1.0)
    if isinstance(speed, bool) or not isinstance(speed, (int, float)) or not (speed > 0 and math.isfinite(speed)):
        raise DataError(f"Got speed={speed!r}, but expected a positive finite number.")
