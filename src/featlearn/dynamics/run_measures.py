"""What a run is diagnosed from: kernel, activation signs, weights, balance of units, and the output along its target.

Everything is measured against one start, so that a snapshot needs no earlier weights but those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .._random import generator
from ..agop.batches import Batch, Outputs, flat_outputs, raw_outputs
from ..agop.empirical_ntk import empirical_ntk
from ..agop.execution import Place, in_order
from ..agop.finding import find_layers
from ..agop.taps import guest
from ..exceptions import DataError
from ..linalg.similarity import matrix_correlation
from .layer_mechanisms import State, pair_state
from .layer_pairs import Pair, WeightPair

__all__ = [
    "SMOOTH",
    "Meter",
    "Snapshot",
    "UnitBalance",
    "kernel_rows",
    "project_on_target",
    "target_direction",
    "unit_balance",
    "weight_distances",
]

MOST_OUTPUTS = 10  # beyond, as many random combinations of their signs stand for them in the kernel

RELUS: tuple[type[nn.Module], ...] = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU)
SMOOTH: tuple[type[nn.Module], ...] = (
    *(nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.Mish, nn.ELU, nn.CELU, nn.SELU, nn.Softplus, nn.LogSigmoid),
    *(nn.Softsign, nn.Tanhshrink, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh),
)


@dataclass(frozen=True, eq=False)
class UnitBalance:
    r"""Per hidden unit, :math:`\delta` = squared outgoing minus squared incoming weights and bias, and their sum."""

    delta: Tensor
    size: Tensor

    @property
    def mean(self) -> float:
        """Mean over units of delta / size, in [-1, 1]; nan when all weights are zero."""
        alive = self.size > 0
        return float((self.delta[alive] / self.size[alive]).mean()) if bool(alive.any()) else math.nan

    def drift_from(self, start: UnitBalance) -> float:
        """Largest change of delta over the largest size: gradient flow has none."""
        size = max(float(self.size.max()), float(start.size.max()))
        return float((self.delta - start.delta).abs().max()) / size if size > 0 else math.nan


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The measures at one step; those that were not asked for, or not defined, are empty or nan."""

    step: int
    moved: Mapping[str, float]
    balances: Sequence[UnitBalance | None]
    states: Sequence[State]
    kernel_distance: float = math.nan
    kernel_growth: float = math.nan
    hamming: Mapping[str, float] | None = None
    along_target: tuple[float, float] | None = None

    @property
    def mean_hamming(self) -> float:
        """Mean over layers; nan without any."""
        return sum(self.hamming.values()) / len(self.hamming) if self.hamming else math.nan

    def row(self) -> dict[str, float]:
        """The numbers that make one line of a log."""
        row: dict[str, float] = {
            "step": self.step,
            "kernel_distance": self.kernel_distance,
            "kernel_growth": self.kernel_growth,
            "hamming": self.mean_hamming,
            "weights_moved": max(self.moved.values(), default=math.nan),
        }
        if self.along_target is not None:
            row |= {"F": self.along_target[0], "Theta": self.along_target[1]}
        return row


class Meter:
    """Measures a model against its start.

    Parameters
    ----------
    start : torch.nn.Module
        Unwrapped, at the weights that everything is compared with.
    batch : Batch
        Of n inputs.
    path : sequence of (str, Module)
        Modules of ``start`` in order of execution.
    pairs : sequence of (Pair, bool)
        Of ``start``; whether the balance of their units is defined.
    rates : callable
        ``parameter name -> learning rate``, for the balance.
    direction : Tensor of shape (n, C), optional
        Unit vector of the targets.
    """

    def __init__(
        self,
        start: nn.Module,
        batch: Batch,
        path: Sequence[Place],
        pairs: Sequence[tuple[Pair, bool]],
        *,
        outputs: Outputs,
        rates: Callable[[str], float],
        ntk_samples: int,
        random_state: int,
        direction: Tensor | None = None,
    ) -> None:
        self._batch, self._outputs, self._rates, self._direction = batch, outputs, rates, direction
        self._pairs = [(pair.names, defined) for pair, defined in pairs]
        self._rows = kernel_rows(batch.args[0], ntk_samples, random_state)
        self._random_state = random_state
        with guest(start), torch.no_grad():
            width = flat_outputs(raw_outputs(start, batch, outputs)).shape[1]
        self._probes: int | str = "exact" if width <= MOST_OUTPUTS else MOST_OUTPUTS
        self.watched = watched_modules(start, path)
        self._weights = {name: weight.detach().clone() for name, weight in start.named_parameters()}
        self._kernel = self._ntk(start)
        self._signs = self._activations(start)
        self._start = self._measure_weights(start, 0)

    def start(self) -> Snapshot:
        """What measuring the start itself gives."""
        return replace(
            self._start,
            kernel_distance=0.0,
            kernel_growth=1.0,
            hamming=dict.fromkeys(self._signs, 0.0),
        )

    def measure(self, model: nn.Module, step: int) -> Snapshot:
        """The same architecture at other weights."""
        kernel, signs = self._ntk(model), self._activations(model)
        return replace(
            self._measure_weights(model, step),
            kernel_distance=1 - matrix_correlation(kernel, self._kernel, "cosine"),
            kernel_growth=_ratio(float(kernel.norm()), float(self._kernel.norm())),
            hamming={
                name: float((signs[name] != before).double().mean())
                for name, before in self._signs.items()
                if name in signs and signs[name].shape == before.shape  # routing may send other rows through a module
            },
        )

    def _measure_weights(self, model: nn.Module, step: int) -> Snapshot:
        along = None
        if self._direction is not None:
            along = project_on_target(model, self._batch, self._direction, self._outputs)
        return Snapshot(
            step=step,
            moved=weight_distances(self._weights, dict(model.named_parameters())),
            balances=self._units(model),
            states=[pair_state(self._weight_pair(model, names), True) for names, _ in self._pairs],
            along_target=along,
        )

    def _ntk(self, model: nn.Module) -> Tensor:
        return empirical_ntk(
            model, [self._rows], outputs=self._outputs, probes=self._probes, random_state=self._random_state
        )

    def _activations(self, model: nn.Module) -> dict[str, Tensor]:
        """Signs of what every activation reads, or of the hidden layers' outputs where activations are functions."""
        names, before = self.watched
        seen: dict[str, list[Tensor]] = {name: [] for name in names}
        with guest(model), torch.no_grad(), ExitStack() as stack:
            for name in names:
                module = model.get_submodule(name)

                def read(module: nn.Module, args: tuple[Any, ...], name: str = name) -> None:
                    seen[name].append((args[0] > 0).flatten())

                def write(module: nn.Module, args: Any, output: Tensor, name: str = name) -> None:
                    seen[name].append((output > 0).flatten())

                handle = (
                    module.register_forward_pre_hook(read)
                    if before
                    else module.register_forward_hook(write, prepend=True)
                )
                stack.callback(handle.remove)
            raw_outputs(model, self._batch, self._outputs)
        return {name: torch.cat(signs) for name, signs in seen.items() if signs}

    def _weight_pair(self, model: nn.Module, names: tuple[str, str]) -> WeightPair:
        layers = find_layers(model)[0]
        return Pair(layers[names[0]], layers[names[1]]).weights()

    def _units(self, model: nn.Module) -> list[UnitBalance | None]:
        layers = find_layers(model)[0]
        found: list[UnitBalance | None] = []
        for names, defined in self._pairs:
            first, second = (layers[name] for name in names)
            held = (f"{first.module_name}.weight", f"{second.module_name}.weight", f"{first.module_name}.bias")
            rates = [self._rates(name.removeprefix(".")) for name in held]
            weights = Pair(first, second).weights()
            found.append(unit_balance(weights, first.bias(), rates) if defined else None)
        return found


def watched_modules(model: nn.Module, path: Sequence[Place]) -> tuple[list[str], bool]:
    """Names of the activations that run, whose inputs are watched; without any, of all layers but the last."""
    activations = [name for name, module in path if isinstance(module, (*RELUS, *SMOOTH))]
    if activations:
        return list(dict.fromkeys(activations)), True
    layers = in_order((layer for layer in find_layers(model)[0].values() if not layer.part), path)
    return [layer.module_name for layer in layers[:-1]], False


def kernel_rows(inputs: Tensor, most: int, random_state: int) -> Tensor:
    """At most so many rows, drawn without replacement: data are often sorted by class."""
    if len(inputs) <= most:
        return inputs
    order = torch.randperm(len(inputs), generator=generator(random_state, "kernel rows"))[:most]
    return inputs[order.sort().values.to(inputs.device)]


def weight_distances(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, float]:
    r""":math:`\|W_t - W_0\|_F / \|W_0\|_F` of every parameter of two axes or more; infinite where W_0 is zero."""
    found = {}
    for name, start in before.items():
        if start.dim() >= 2 and start.is_floating_point():
            wide = start.detach().double()
            found[name] = _ratio(float((after[name].detach().to(wide) - wide).norm()), float(wide.norm()))
    return found


def unit_balance(weights: WeightPair, bias: Tensor | None, rates: Sequence[float]) -> UnitBalance:
    r""":math:`|\mathrm{out}_i|^2/\eta_2 - |\mathrm{in}_i|^2/\eta_1 - b_i^2/\eta_b` for rates (first, second, bias)."""
    incoming, outgoing = weights.incoming().diagonal() / rates[0], weights.outgoing().diagonal() / rates[1]
    if bias is not None:
        incoming = incoming + bias.detach().to(incoming).square() / rates[2]
    return UnitBalance(outgoing - incoming, outgoing + incoming)


def target_direction(y: Any, outputs: Tensor) -> Tensor:
    """Unit vector of the targets (n, C): numbers as they are, classes as centred one-hot rows.

    Raises
    ------
    DataError
        Another number of rows or columns than the outputs (n, C), or targets without any variation.
    """
    targets = torch.as_tensor(y, device=outputs.device)
    n, width = outputs.shape
    if targets.dim() == 0 or len(targets) != n:
        raise DataError(f"Got targets of shape {tuple(targets.shape)} for {n} inputs, but expected one row each.")
    if not targets.is_floating_point() and targets.numel() == n and width > 1:
        classes = targets.reshape(n).long()
        if int(classes.min()) < 0 or int(classes.max()) >= width:
            raise DataError(f"Got classes up to {int(classes.max())}, but the model has {width} outputs.")
        targets = nn.functional.one_hot(classes, width).double()
        targets = targets - targets.mean(dim=0)
    rows = targets.double().reshape(n, -1)
    if rows.shape[1] != width:
        raise DataError(f"Got targets of {rows.shape[1]} columns, but the model has {width} outputs.")
    size = float(rows.norm())
    if not math.isfinite(size) or size == 0:
        raise DataError("Got targets that are not finite, all zero or all of one class, which have no direction.")
    return (rows / size).to(outputs)


def project_on_target(model: nn.Module, batch: Batch, direction: Tensor, outputs: Outputs) -> tuple[float, float]:
    r""":math:`F = v \cdot f` and :math:`\Theta = |\nabla_\theta (v \cdot f)|^2`, over all trained parameters."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with guest(model):
        for parameter in trained:
            parameter.requires_grad_(True)
        along = (flat_outputs(raw_outputs(model, batch, outputs)) * direction).sum()
        gradients = torch.autograd.grad(along, trained, allow_unused=True)
    theta = sum(float(gradient.double().square().sum()) for gradient in gradients if gradient is not None)
    return float(along.detach()), theta


def _ratio(part: float, whole: float) -> float:
    if whole > 0:
        return part / whole
    return math.inf if part > 0 else 0.0
