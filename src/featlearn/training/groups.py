r"""Learning rates that make every layer contribute equally to the loss decay, and no layer's features move too far.

With :math:`u_v` the direction in which an optimiser moves layer v for a unit rate, a rate :math:`\eta_v` contributes
:math:`\eta_v D_v` to the predicted decrease of the loss, :math:`D_v = \langle g_v, u_v \rangle`.
"""

from __future__ import annotations

import fnmatch
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..agop.batches import Outputs
from ..agop.feature_speed import FeatureSpeed, feature_speed
from ..agop.finding import unwrap
from ..agop.losses import Loss
from ..agop.parameter_order import dense, inner
from ..exceptions import DataError, FeatlearnWarning, UnmeasurableError
from .sharpness import rate_sharpness
from .structure import Structure, WeightLayer, matching, read_structure

__all__ = ["Rule", "change_at", "equal_decay", "feature_speed_groups", "unit_steps"]

Rule = Literal["sgd", "adam", "slo", "muon"] | Callable[[Tensor], Tensor]

_DEAD = (
    "Got a zero gradient in layer {0!r}: it is dead, detached or not used for this batch, so no rate makes it "
    "contribute. Freeze it, leave it out with layers=, or initialise it otherwise."
)


def feature_speed_groups(
    model: nn.Module,
    loss: Loss,
    batch: Any,
    *,
    rule: Rule = "sgd",
    budget: float | None = 0.2,
    max_decay: float | None = 0.4,
    max_sharpness: float | None = 1.5,
    contributions: Literal["equal"] | Mapping[str, float] = "equal",
    layers: str | Sequence[str] = "auto",
    max_ratio: float = 1e3,
    outputs: Outputs = "logits",
    mode: Literal["eval", "train"] = "eval",
) -> list[dict[str, Any]]:
    r"""Parameter groups with measured learning rates: equal contributions to the loss decay within a feature budget.

    .. math:: \eta_v = t \, \frac{c_v}{D_v}, \qquad D_v = \langle g_v, u_v \rangle, \qquad \sum_v c_v = 1,

    with t the largest factor for which no layer but the last changes by more than ``budget``,
    :math:`\mathrm{rms}(\delta f_l) \le \mathrm{budget} \cdot \mathrm{rms}(f_l)`, and the predicted decay t is at most
    ``max_decay`` times the loss. For gradient descent, t is lowered further until the rates are stable: the top
    eigenvalue of :math:`\eta^{1/2} H \eta^{1/2}`, H the Hessian of the loss, is at most ``max_sharpness``.

    Parameters
    ----------
    model : torch.nn.Module
        Given back exactly as it was.
    loss : callable
        ``(outputs, targets) -> Tensor``, the mean over the batch.
    batch : Tensor, (inputs, targets) or mapping
        One batch, as large as those of training or larger.
    rule : {"sgd", "adam", "slo", "muon"} or callable
        The optimiser's first step for a unit rate: the gradient g; its signs; g over its norm, tensor by tensor; the
        nearest orthogonal matrix (signs for what is no matrix). A callable ``g -> u`` gives any other.
        ``torch.optim.Muon`` multiplies its rate by a factor of its own (``adjust_lr_fn``): divide by it.
    budget : float or None
        Largest relative change of any layer's output but the last, in one step.
    max_decay : float or None
        Largest predicted decrease of the loss in one step, as a share of it. At least one of the two limits is needed;
        this one has no effect where the loss is not positive.
    max_sharpness : float or None
        Largest eigenvalue, below 2, above which gradient descent is unstable. For ``rule="sgd"`` alone. Without it
        a readout whose gradient happens to be small at initialisation gets a rate at which training diverges.
    contributions : "equal" or mapping
        ``c_v`` by layer name, positive; divided by their sum.
    layers : "auto", names or globs
        Which layers learn: modules that own a weight of two axes or more, each with the norm gains and free vectors
        first used after it. Parameters of other layers are in no group, and an optimiser built from the groups leaves
        them as they are.
    max_ratio : float
        No rate above this multiple of the median rate: a nearly dead layer would otherwise get a huge one.
    outputs : "logits" or callable
        As in :func:`featlearn.measure_features`.
    mode : {"eval", "train"}
        Mode of dropout and normalisation layers.

    Returns
    -------
    list of dict
        ``{"params": [...], "lr": float, "name": str}`` a layer in order of execution, for any ``torch.optim``
        optimiser; their ``lr`` takes the place of the optimiser's.

    Raises
    ------
    DataError
        An argument out of range, unknown rule, non-finite loss.
    UnmeasurableError
        Unknown layer; a layer that the loss gradient does not reach (dead or detached).

    Warns
    -----
    FeatlearnWarning
        A rate was cut by ``max_ratio``, or no budget holds for a layer that returns several tensors (a recurrent one);
        both name the layer.

    Notes
    -----
    Costs two forward and two backward passes and one forward-mode pass, and for the sharpness at most 40 forward and
    backward passes more. Rates are those of the weights and the batch as
    they are: call it at initialisation, after :func:`featlearn.rescale_init`, and keep the rates (with a schedule as
    usual). On shallow networks they are about as good as a middling hand-tuned rate; what they buy is that depth and
    width need no new tuning.

    References
    ----------
    Chizat and Netrapalli, "The Feature Speed Formula", arXiv 2311.18718: the identity behind. The limits and the
    measurement in any model are ours.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    >>> x = torch.randn(32, 3)
    >>> groups = feature_speed_groups(net, torch.nn.functional.mse_loss, (x, x[:, :1]))
    >>> optimizer = torch.optim.SGD(groups)
    >>> [group["name"] for group in groups]
    ['0', '2']
    """
    _check_limits(budget, max_decay, max_sharpness, max_ratio)
    check_rule(rule)
    structure = read_structure(model, loss, batch, outputs=outputs, mode=mode)
    chosen = _chosen(structure, layers)
    shares = _shares(contributions, chosen)
    steps = unit_steps(chosen, rule)
    rates = equal_decay(chosen, steps, shares)
    update = change_at(rates, steps)
    limits = []
    if budget is not None:
        measure = partial(feature_speed, model, loss, batch, update=update, outputs=outputs, mode=mode, finite=False)
        changes = _changes(unwrap(model), structure, measure)
        limits += [budget / change for change in changes if math.isfinite(change) and change > 0]
    if max_decay is not None and structure.loss > 0:
        limits.append(max_decay * structure.loss)
    if not limits:
        raise DataError(
            f"Got budget={budget} and max_decay={max_decay} with a loss of {structure.loss:.3g}, but no limit applies: "
            "no layer before the last moves, or the loss is not positive. Give the other one."
        )
    rates = _capped({name: min(limits) * rate for name, rate in rates.items()}, max_ratio)
    if max_sharpness is not None and rule == "sgd":
        each = {key: rates[name] for name, layer in chosen.items() for key in layer.parameters}
        sharpness = rate_sharpness(model, loss, batch, each, outputs=outputs, mode=mode)
        if sharpness > max_sharpness:  # nan, of a network that overflows nearby, lowers nothing
            rates = {name: rate * max_sharpness / sharpness for name, rate in rates.items()}
    return [
        {"params": list(layer.parameters.values()), "lr": rates[name], "name": name} for name, layer in chosen.items()
    ]


def unit_steps(layers: Mapping[str, WeightLayer], rule: Rule) -> dict[str, dict[str, Tensor]]:
    """``u`` of every parameter by layer: minus the change that an optimiser makes in its first step at rate 1."""
    direction = rule if callable(rule) else _DIRECTIONS[rule]
    steps: dict[str, dict[str, Tensor]] = {}
    for name, layer in layers.items():
        steps[name] = {}
        for key, found in layer.gradients.items():
            gradient = dense(found)
            step = direction(gradient.clone() if callable(rule) else gradient)
            if not isinstance(step, Tensor) or step.shape != gradient.shape:
                got = f"shape {tuple(step.shape)}" if isinstance(step, Tensor) else type(step).__name__
                raise DataError(
                    f"Got a rule that returns {got} for {key!r}, but expected shape {tuple(gradient.shape)}."
                )
            steps[name][key] = step
    return steps


def equal_decay(
    layers: Mapping[str, WeightLayer],
    steps: Mapping[str, Mapping[str, Tensor]],
    shares: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Rates ``c_v / <g_v, u_v>`` by layer, at which the predicted decay of all layers together is 1.

    Raises
    ------
    UnmeasurableError
        A layer whose step changes the loss in no direction.
    DataError
        A step that raises the loss.
    """
    rates = {}
    for name, layer in layers.items():
        decay = sum(inner(dense(layer.gradients[key]), u) for key, u in steps[name].items())
        if decay == 0:
            raise UnmeasurableError(_DEAD.format(name))
        if not (math.isfinite(decay) and decay > 0):
            raise DataError(f"Got <g, u> = {decay:.3g} in layer {name!r}, but expected a step that lowers the loss.")
        rates[name] = (1 / len(layers) if shares is None else shares[name]) / decay
    return rates


def change_at(rates: Mapping[str, float], steps: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Change of every parameter by name, for :func:`featlearn.feature_speed`: minus its layer's rate times its step."""
    return {key: -rates[name] * step for name in steps for key, step in steps[name].items()}


# --- the budget -----------------------------------------------------------------------------------------------------


def _changes(model: nn.Module, structure: Structure, measure: Callable[..., FeatureSpeed]) -> list[float]:
    """Relative change of every output that has a budget."""
    free = _outermost(model, structure)
    speeds = dict(measure().layers)
    # Attention is measured by its parts, an adapter with the layer that it sits in.
    missing = [
        layer
        for name, layer in structure.layers.items()
        if name not in free
        and not any(f"{seen}.".startswith(f"{name}.") or f"{name}.".startswith(f"{seen}.") for seen in speeds)
    ]
    for layer in missing:
        if not layer.returns_tensor:
            warnings.warn(
                f"No budget limits layer {layer.name!r}, whose output cannot be measured: a "
                f"{type(layer.module).__name__} returns several tensors, or is not called.",
                FeatlearnWarning,
                stacklevel=3,
            )
    if named := [layer.name for layer in missing if layer.returns_tensor]:
        speeds |= measure(layers=named).layers
    return [speed.relative_change for name, speed in speeds.items() if name not in free]


def _outermost(model: nn.Module, structure: Structure) -> set[str]:
    """What has no budget: the readout, or modules that read out with a weight that also embeds the inputs."""
    if structure.tied is None:
        return {structure.readout.name}
    weights = {id(parameter) for parameter in structure.layers[structure.tied].module.parameters(recurse=False)}
    return {
        name
        for name, module in model.named_modules()
        if name != structure.tied and any(id(own) in weights for own in module.parameters(recurse=False))
    }


# --- directions -----------------------------------------------------------------------------------------------------


def _normalised(gradient: Tensor) -> Tensor:
    return gradient / gradient.norm().clamp_min(torch.finfo(gradient.dtype).tiny)


def _orthogonal(gradient: Tensor) -> Tensor:
    if gradient.dim() < 2:
        return gradient.sign()
    matrix = gradient.flatten(1).to(torch.promote_types(gradient.dtype, torch.float32))
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    kept = s > s.amax() * max(matrix.shape) * torch.finfo(s.dtype).eps  # no direction where there is no gradient
    return ((u * kept) @ vh).view_as(gradient).to(gradient)


_DIRECTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sgd": lambda gradient: gradient,
    "adam": torch.sign,
    "slo": _normalised,
    "muon": _orthogonal,
}


# --- arguments ------------------------------------------------------------------------------------------------------


def check_rule(rule: Rule) -> None:
    """Refuse what is no rule, before any work."""
    if not callable(rule) and rule not in _DIRECTIONS:
        raise DataError(f"Got rule={rule!r}, but expected one of {', '.join(map(repr, _DIRECTIONS))}, or a callable.")


def _check_limits(budget: float | None, max_decay: float | None, max_sharpness: float | None, max_ratio: float) -> None:
    for name, value in (("budget", budget), ("max_decay", max_decay), ("max_sharpness", max_sharpness)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise DataError(f"Got {name}={value}, but expected a positive finite number or None.")
    if max_sharpness is not None and max_sharpness >= 2:
        raise DataError(f"Got max_sharpness={max_sharpness}, but expected a number below 2, the edge of stability.")
    if budget is None and max_decay is None:
        raise DataError("Got budget=None and max_decay=None, but expected at least one limit.")
    if not max_ratio >= 1:
        raise DataError(f"Got max_ratio={max_ratio}, but expected a number of at least 1.")


def _chosen(structure: Structure, layers: str | Sequence[str]) -> dict[str, WeightLayer]:
    wanted = ["*"] if layers == "auto" else [layers] if isinstance(layers, str) else list(layers)
    if not wanted:
        raise DataError(f"Got layers={layers!r}, but expected 'auto' or at least one name or glob.")
    for pattern in wanted:
        if dead := fnmatch.filter(structure.unreached, pattern):
            raise UnmeasurableError(_DEAD.format(dead[0]))
    chosen = {name for pattern in wanted for name in matching(structure.layers, pattern)}
    return {name: layer for name, layer in structure.layers.items() if name in chosen}


def _shares(contributions: Literal["equal"] | Mapping[str, float], chosen: Mapping[str, Any]) -> dict[str, float]:
    if isinstance(contributions, str):
        if contributions != "equal":
            raise DataError(f"Got contributions={contributions!r}, but expected 'equal' or a mapping by layer name.")
        return dict.fromkeys(chosen, 1 / len(chosen))
    if set(contributions) != set(chosen):
        raise DataError(
            f"Got contributions of {', '.join(sorted(contributions))}, but expected one of each layer: "
            f"{', '.join(chosen)}."
        )
    for name, share in contributions.items():
        if not (math.isfinite(share) and share > 0):
            raise DataError(f"Got contributions[{name!r}]={share}, but expected a positive finite number.")
    total = sum(contributions.values())
    return {name: contributions[name] / total for name in chosen}


def _capped(rates: dict[str, float], max_ratio: float) -> dict[str, float]:
    ceiling = max_ratio * median(rates.values())
    for name, rate in rates.items():
        if rate > ceiling:
            warnings.warn(
                f"The rate of layer {name!r}, {rate:.3g}, is above {max_ratio:g} times the median and was cut to "
                f"{ceiling:.3g}: its gradient is nearly zero.",
                FeatlearnWarning,
                stacklevel=3,
            )
    return {name: min(rate, ceiling) for name, rate in rates.items()}
