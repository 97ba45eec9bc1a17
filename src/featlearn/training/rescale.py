r"""Initial scales: hidden outputs of a given size, and a readout for which features move as fast as the loss decays."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ..agop.batches import Outputs, parse_batch, raw_outputs
from ..agop.feature_speed import WITHOUT_RULE, feature_speed
from ..agop.finding import find_layers, unwrap
from ..agop.losses import Loss
from ..agop.taps import guest, training_mode
from ..exceptions import DataError, FeatlearnWarning, UnmeasurableError
from .groups import Rule, change_at, check_rule, equal_decay, unit_steps
from .structure import Structure, matching, read_structure
from .undo import KeptParameters

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RescaledInit", "rescale_init"]


@dataclass(frozen=True, eq=False, kw_only=True)
class RescaledInit:
    """What :func:`rescale_init` did to a model.

    Attributes
    ----------
    factors : mapping of str to float
        By which each layer's weight and bias were multiplied.
    left_alone : mapping of str to str
        Layers that were not rescaled, each with the reason.
    features : str or None
        Module whose sensitivity was measured: the last hidden layer, or the last residual block.
    sensitivities : tuple of float
        Its sensitivity before each round, and at the end.
    converged : bool
        Whether the last of them is within the tolerance. True where none was asked for.
    """

    factors: Mapping[str, float]
    left_alone: Mapping[str, str]
    features: str | None
    sensitivities: tuple[float, ...]
    converged: bool
    _kept: KeptParameters = field(repr=False)

    def undo(self) -> None:
        """Put all weights back bitwise as they were before the call."""
        self._kept.restore()

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and dictionaries."""
        return {
            "kind": "RescaledInit",
            "schema": 1,
            "factors": dict(self.factors),
            "left_alone": dict(self.left_alone),
            "features": self.features,
            "sensitivities": list(self.sensitivities),
            "converged": self.converged,
        }

    def frame(self) -> pd.DataFrame:
        """One row a layer: its factor, or why it has none."""
        import pandas as pd

        rows = [{"layer": name, "factor": factor, "left_alone": None} for name, factor in self.factors.items()]
        rows += [{"layer": name, "factor": 1.0, "left_alone": why} for name, why in self.left_alone.items()]
        return pd.DataFrame(rows, columns=["layer", "factor", "left_alone"]).set_index("layer")

    def _repr_html_(self) -> str:
        trace = " -> ".join(f"{value:.3g}" for value in self.sensitivities)
        told = f"<p>Sensitivity of {escape(str(self.features))}: {trace}.</p>" if trace else ""
        return told + self.frame().to_html(float_format=lambda value: format(value, ".3g"))


def rescale_init(
    model: nn.Module,
    loss: Loss,
    batch: Any,
    *,
    rule: Literal["fsc", "mup", "ntk"] = "fsc",
    rms: float = 1.0,
    sensitivity: float = 1.0,
    tol: float = 0.05,
    max_rounds: int = 10,
    layers: str | Sequence[str] | Mapping[str, float] = "auto",
    steps: Rule = "sgd",
    outputs: Outputs = "logits",
    mode: Literal["eval", "train"] = "eval",
) -> RescaledInit:
    r"""Rescale the weights in place, so that hidden outputs have size 1 and features move as fast as the loss decays.

    1. In one forward pass every layer but the last divides its weight and bias by :math:`\mathrm{rms}(f_l)` over the
       target, and passes the rescaled output on, so that later layers see it.
    2. The readout gets the scale of a parametrisation. With rates of equal contribution to the loss decay, as
       :func:`featlearn.feature_speed_groups` gives, the three differ in nothing else:

       ===== ============================================== ===============================================
       rule  readout                                        sensitivity of the last features, ReLU networks
       ===== ============================================== ===============================================
       ntk   entries of rms :math:`1/\sqrt{m}`              falls like :math:`\sqrt{L/m}`: lazy when wide
       mup   entries of rms :math:`1/m`                     grows like :math:`\sqrt L`
       fsc   whatever gives the wanted sensitivity          the wanted one at every width and depth
       ===== ============================================== ===============================================

       with m the inputs of the readout and L the number of layers; the sensitivity is
       :math:`\mathrm{rms}(\delta f) / S`, the change of features a unit of loss decay. For "fsc" the readout is
       multiplied by the square root of the measured over the wanted sensitivity until their logarithms agree to ``tol``
       (the full factor oscillates, since the outputs move the loss gradient).

    Parameters
    ----------
    model : torch.nn.Module
        Its weights are changed in place; nothing else is.
    loss : callable
        ``(outputs, targets) -> Tensor``, the mean over the batch.
    batch : Tensor, (inputs, targets) or mapping
        One batch.
    rule : {"fsc", "mup", "ntk"}
        Feature-speed corrected, maximal update (mean field), or neural tangent parametrisation.
    rms : float
        Size of hidden outputs.
    sensitivity, tol, max_rounds : float, float, int
        Wanted sensitivity, tolerance of its logarithm, and most rounds; for "fsc" alone.
    layers : "auto", names, globs, or mapping of these to a size
        Hidden layers to rescale. "auto" is every linear, convolution and embedding layer that every path to the loss
        passes through, unless a normalisation module alone reads it (its scale then has no effect on the function).
        Layers inside residual branches are rescaled only when named; ``{"blocks.*.out": L ** -0.5}`` gives every branch
        a size of its own.
    steps : "sgd", "adam", "slo", "muon" or callable
        The optimiser whose equal-decay steps the sensitivity is measured for: see
        :func:`featlearn.feature_speed_groups`.
    outputs : "logits" or callable
        As in :func:`featlearn.measure_features`.
    mode : {"eval", "train"}
        Mode of dropout and normalisation layers; "train" for networks with batch normalisation, whose running
        statistics say nothing yet.

    Returns
    -------
    RescaledInit
        Factors, layers left alone with reasons, the trace of sensitivities, and ``undo()``.

    Raises
    ------
    DataError, ModelError, UnmeasurableError
        An argument out of range; a layer without output or gradient; a readout that cannot be scaled. The weights are
        then as before.

    Warns
    -----
    FeatlearnWarning
        The sensitivity did not converge, with its trace.

    Notes
    -----
    Costs one forward pass, and two forward, two backward and one forward-mode pass a round. Every other scale of the
    model (norm gains, attention, branches) is left as the model's author chose it.

    References
    ----------
    Chizat and Netrapalli, "The Feature Speed Formula", arXiv 2311.18718, tabulates initial scales and rates for NTK,
    MF+muP and FSC; the measured procedure for any model, and its constants, are ours.

    Examples
    --------
    >>> import torch
    >>> from torch.nn import Linear, ReLU, Sequential
    >>> net = Sequential(Linear(4, 128), ReLU(), Linear(128, 128), ReLU(), Linear(128, 1))
    >>> x = torch.randn(64, 4)
    >>> rescaled = rescale_init(net, torch.nn.functional.mse_loss, (x, x[:, :1]))
    >>> round(net[:3](x).square().mean().sqrt().item(), 3)
    1.0
    >>> rescaled.undo()
    """
    _check_arguments(rule, rms, sensitivity, tol, max_rounds)
    check_rule(steps)
    model = unwrap(model)
    structure = read_structure(model, loss, batch, outputs=outputs, mode=mode)
    targets, left_alone = _targets(model, structure, layers, rms)
    readout = structure.readout
    _check_readout(model, structure, rule)
    kept = KeptParameters(parameter for layer in structure.layers.values() for parameter in _own(layer.module))
    trace: list[float] = []
    try:
        factors = _to_size(model, batch, targets, outputs, mode)
        before = _norm(readout.module)
        features, converged = None, True
        if rule == "fsc":
            features = _features(structure)
            pass_ = _Sensitivity(model, loss, batch, outputs, mode, steps, features)
            converged = _to_sensitivity(readout.module, pass_, sensitivity, tol, max_rounds, trace)
        else:
            size = _fan_in(model, readout.name) ** (-1.0 if rule == "mup" else -0.5)
            _scale(readout.module, size / _weight_rms(readout.module))
        factors[readout.name] = _norm(readout.module) / before
    except BaseException:
        kept.restore()
        raise
    if not converged:
        warnings.warn(
            f"The sensitivity of {features!r} is {trace[-1]:.3g} after {max_rounds} rounds, but {sensitivity:g} was "
            f"wanted; its trace is {', '.join(f'{value:.3g}' for value in trace)}. Use more rounds or a larger batch.",
            FeatlearnWarning,
            stacklevel=2,
        )
    order = {name: factors[name] for name in structure.layers if name in factors}
    return RescaledInit(
        factors=order,
        left_alone=left_alone,
        features=features,
        sensitivities=tuple(trace),
        converged=converged,
        _kept=kept,
    )


# --- hidden layers --------------------------------------------------------------------------------------------------


def _scalable(model: nn.Module) -> dict[str, nn.Module]:
    """Modules whose output is proportional to weight and bias together."""
    found = {layer.name: layer.module for layer in find_layers(model)[0].values() if not layer.part}
    found |= {name: module for name, module in model.named_modules() if isinstance(module, WITHOUT_RULE)}
    own = {name: {key for key, _ in module.named_parameters()} for name, module in found.items()}
    return {name: module for name, module in found.items() if {"weight"} <= own[name] <= {"weight", "bias"}}


def _targets(
    model: nn.Module, structure: Structure, layers: str | Sequence[str] | Mapping[str, float], rms: float
) -> tuple[dict[str, float], dict[str, str]]:
    """Wanted size of each hidden layer's output, and why the others are left alone."""
    scalable = _scalable(model)
    *hidden, _ = structure.layers.values()
    if not (isinstance(layers, str) and layers == "auto"):
        return _named_targets(layers, [layer.name for layer in hidden if layer.name in scalable], rms)
    targets: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for layer in hidden:
        if layer.name not in scalable:
            reasons[layer.name] = f"a {type(layer.module).__name__} is not proportional to its weights"
        elif layer.normalised:
            reasons[layer.name] = "a normalisation reads its output, so its scale has no effect on the function"
        elif not layer.is_cut:
            reasons[layer.name] = "other paths run beside it (a residual branch): name it in layers= to rescale it"
        else:
            targets[layer.name] = rms
    return targets, reasons


def _named_targets(
    layers: str | Sequence[str] | Mapping[str, float], hidden: list[str], rms: float
) -> tuple[dict[str, float], dict[str, str]]:
    wanted = (
        dict(layers)
        if isinstance(layers, Mapping)
        else dict.fromkeys([layers] if isinstance(layers, str) else layers, rms)
    )
    targets: dict[str, float] = {}
    for pattern, size in wanted.items():
        names = matching(hidden, pattern)
        if not (math.isfinite(size) and size > 0):
            raise DataError(f"Got a size of {size} for {pattern!r}, but expected a positive finite number.")
        targets |= dict.fromkeys(names, float(size))
    return targets, dict.fromkeys((name for name in hidden if name not in targets), "not named in layers=")


def _to_size(
    model: nn.Module,
    batch: Any,
    targets: Mapping[str, float],
    outputs: Outputs,
    mode: Literal["eval", "train"],
) -> dict[str, float]:
    """One forward pass in which every layer rescales itself and its output; the factors."""
    factors: dict[str, float] = {}

    @contextmanager
    def rescaling() -> Iterator[None]:
        handles = [
            model.get_submodule(name).register_forward_hook(rescale(name, size), prepend=True)
            for name, size in targets.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def rescale(name: str, size: float) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
            if name in factors:  # a later call of the same module: its weights are rescaled already
                return None
            found = float(output.to(torch.promote_types(output.dtype, torch.float32)).square().mean().sqrt())
            if not (math.isfinite(found) and found > 0):
                raise UnmeasurableError(
                    f"Got an output of rms {found:.3g} in layer {name!r}, which cannot be rescaled."
                )
            factors[name] = size / found
            _scale(module, factors[name])
            return output * factors[name]

        return hook

    with guest(model), training_mode(model) if mode == "train" else nullcontext(), torch.no_grad(), rescaling():
        raw_outputs(model, parse_batch(batch, model), outputs)
    if missing := [name for name in targets if name not in factors]:
        raise UnmeasurableError(
            f"Got layer {missing[0]!r}, whose weight is used without calling it, so its output cannot be rescaled. "
            "Leave it out of layers=."
        )
    return factors


# --- the readout ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Sensitivity:
    """Sensitivity of one module's output under steps of equal contribution to the loss decay."""

    model: nn.Module
    loss: Loss
    batch: Any
    outputs: Outputs
    mode: Literal["eval", "train"]
    rule: Rule
    features: str

    def __call__(self) -> float:
        layers = read_structure(self.model, self.loss, self.batch, outputs=self.outputs, mode=self.mode).layers
        steps = unit_steps(layers, self.rule)
        speed = feature_speed(
            self.model,
            self.loss,
            self.batch,
            update=change_at(equal_decay(layers, steps), steps),
            layers=[self.features],
            outputs=self.outputs,
            mode=self.mode,
            finite=False,
        )
        value = speed[self.features].sensitivity
        if not (math.isfinite(value) and value > 0):
            raise UnmeasurableError(
                f"Got a sensitivity of {value:.3g} at {self.features!r}, but expected a positive number: the loss "
                "gradient does not reach it, or its step raises the loss."
            )
        return value


def _check_readout(model: nn.Module, structure: Structure, rule: str) -> None:
    name, module = structure.readout.name, structure.readout.module
    if structure.tied is not None:
        raise UnmeasurableError(
            f"Got a readout that shares its weight with the earlier layer {structure.tied!r}, so neither can be scaled "
            "alone. Untie them."
        )
    if name not in _scalable(model) or (rule != "fsc" and name not in find_layers(model)[0]):
        raise UnmeasurableError(
            f"Got the readout {name!r} of type {type(module).__name__}, but expected a linear or convolution layer, "
            "whose output is proportional to its weight and bias."
        )


def _features(structure: Structure) -> str:
    if structure.last_features is None:
        raise UnmeasurableError(
            "Got a model without hidden features: no layer or block before the readout has an output that every path "
            "to the loss passes through. Use rule='mup' or 'ntk'."
        )
    return structure.last_features


def _to_sensitivity(
    readout: nn.Module, measure: _Sensitivity, wanted: float, tol: float, max_rounds: int, trace: list[float]
) -> bool:
    for _ in range(max_rounds):
        trace.append(measure())
        if abs(math.log(trace[-1] / wanted)) <= tol:
            return True
        _scale(readout, math.sqrt(trace[-1] / wanted))
    trace.append(measure())
    return abs(math.log(trace[-1] / wanted)) <= tol


def _fan_in(model: nn.Module, name: str) -> int:
    """Numbers that one output of the readout sums over."""
    return int(find_layers(model)[0][name].weight().shape[2])


def _own(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for _, parameter in module.named_parameters(recurse=False)]


@torch.no_grad()
def _scale(module: nn.Module, factor: float) -> None:
    for parameter in _own(module):
        parameter.mul_(factor)


def _norm(module: nn.Module) -> float:
    return float(module.get_parameter("weight").detach().double().norm())


def _weight_rms(module: nn.Module) -> float:
    weight = module.get_parameter("weight").detach().double()
    found = float(weight.square().mean().sqrt())
    if not (math.isfinite(found) and found > 0):
        raise UnmeasurableError(f"Got a readout whose weights have rms {found:.3g}, which cannot be rescaled.")
    return found


def _check_arguments(rule: str, rms: float, sensitivity: float, tol: float, max_rounds: int) -> None:
    if rule not in ("fsc", "mup", "ntk"):
        raise DataError(f"Got rule={rule!r}, but expected 'fsc', 'mup' or 'ntk'.")
    for name, value in (("rms", rms), ("sensitivity", sensitivity), ("tol", tol)):
        if not (math.isfinite(value) and value > 0):
            raise DataError(f"Got {name}={value}, but expected a positive finite number.")
    if isinstance(max_rounds, bool) or not isinstance(max_rounds, int) or max_rounds < 1:
        raise DataError(f"Got max_rounds={max_rounds!r}, but expected an integer of at least 1.")
