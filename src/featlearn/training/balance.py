r"""Which end of a network learns first: consecutive layers rescaled without changing the function.

In a positively homogeneous network (ReLU, leaky ReLU, linear; maximum and average pooling) weights may be multiplied by
any positive :math:`s_l` with :math:`\prod_l s_l = 1`, and the bias of layer l by :math:`s_1 \cdots s_l`. The gradient
of :math:`W_l` is then divided by :math:`s_l`, so the relative speed :math:`\|\partial J/\partial W_l\| / \|W_l\|` is
multiplied by :math:`s_l^{-2}`: small layers are fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..agop.batches import Batch, Outputs, check_outputs, parse_batch, raw_outputs
from ..agop.execution import Place, distance, in_order, passes, places, tolerance
from ..agop.finding import resolve_layers, unwrap
from ..agop.first_order import Call
from ..agop.layers import Layer, Rows
from ..agop.taps import guest
from ..exceptions import DataError, ModelError, UnmeasurableError
from .balance_results import BalanceReport, LayerBalance, LayerScale, PairBalance
from .chains import checked_chain, frobenius, inputs_of, no_matrix, where_it_stops
from .undo import KeptParameters

__all__ = ["BalanceReport", "LayerBalance", "balance_of", "layer_balance"]

Rates = Mapping[str, float] | Sequence[float]


def layer_balance(
    model: nn.Module,
    tilt: float = 0.0,
    *,
    layers: str | Sequence[str] = "auto",
    batch: Any = None,
    rates: Rates | None = None,
    loss: Callable[[Tensor, Any], Tensor] | None = None,
    outputs: Outputs = "logits",
) -> LayerBalance:
    r"""Rescale consecutive layers in place, so that early or late ones learn faster, and leave the function unchanged.

    .. math:: s_l = \frac{\bar n}{n_l} \exp\!\Big(\mathrm{tilt} \cdot \Big(\frac{2 (l - 1)}{L - 1} - 1\Big)\Big), \qquad
              W_l \leftarrow s_l W_l, \qquad b_l \leftarrow (s_1 s_2 \cdots s_l)\, b_l

    with :math:`n_l = \|W_l\|_F / \sqrt{\eta_l}` and :math:`\bar n` their geometric mean. The relative speed
    :math:`\|\partial J/\partial W_l\| / \|W_l\|` is multiplied by :math:`s_l^{-2}`.

    Parameters
    ----------
    model : torch.nn.Module
        Positively homogeneous from the first of the layers to the last: ReLU, leaky ReLU, pooling, dropout, nothing.
    tilt : float
        Above 0 upstream (early layers fast), 0 balanced, below 0 downstream. From balanced, tilt 1 makes the first
        layer :math:`e^2` faster and the last :math:`e^2` slower.
    layers : "auto", names or globs
        At least two. Layers between the first and the last that are not named keep their weights; their biases follow.
    batch : Tensor, (inputs, targets) or mapping, optional
        Inputs to compare the outputs on, before and after. Gives the order of execution, too; without it layers are
        taken in order of registration, and only modules of known kinds can be judged: that ``forward`` calls
        ``torch.tanh`` or adds a residual shows on a batch only.
    rates : mapping or sequence of float, optional
        Learning rate of each layer, by name or in order, by default all equal. Gradient flow conserves
        :math:`\|W_l\|^2/\eta_l - \|W_{l+1}\|^2/\eta_{l+1}`; balanced means that all are zero.
    loss : callable, optional
        ``(outputs, targets) -> Tensor``, with a batch: relative speeds are measured before and after.
    outputs : "logits" or callable
        ``(model, batch) -> Tensor`` replaces the model's own outputs.

    Returns
    -------
    LayerBalance
        Frozen; ``.factors``, ``.undo()``, ``.frame()``, ``.plot()``, ``.to_dict()``.

    Raises
    ------
    DataError, ModelError, UnmeasurableError
        All are ValueErrors, and the model is as it was: normalisation layers, smooth activations, attention, residual
        sums between the layers, fewer than two layers, shared or computed weights, norms that are zero or not finite.

    Notes
    -----
    Costs two forward passes and with a loss two backward passes; memory of one copy of the layers, kept for ``undo``.
    Momentum and other state that an optimiser holds is not rescaled: balance first, then make the optimiser. That
    the outputs agree is checked on this batch, to 1e-4 in float32 and 1e-10 in float64, relative.

    References
    ----------
    Kunin et al., "Get rich quick", arXiv 2406.06158, on balanced, upstream and downstream initialisation: its delta of
    two layers with :math:`|a||w| = \tau^2` is :math:`a^2 - |w|^2 = 2 \tau^2 \sinh(2\,\mathrm{tilt})`. The rule for more
    layers is this package's.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).double()
    >>> x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
    >>> balance = layer_balance(net, tilt=1.0, batch=x)
    >>> round(balance.layers["2"].norm_after / balance.layers["0"].norm_after / 2.718281828**2, 6)
    1.0
    >>> balance.undo()
    """
    _check_tilt(tilt)
    check_outputs(outputs)
    if loss is not None and batch is None:
        raise DataError("Got loss= without batch=, but expected both. Pass the batch that the loss is taken on.")
    model = unwrap(model)
    chosen = resolve_layers(model, layers)[0]
    parsed = None if batch is None else parse_batch(batch, model)
    path = places(model, parsed, outputs)
    chosen = _ordered(chosen, path, explicit=layers != "auto")
    between = checked_chain(model, chosen, path, ran=parsed is not None)
    rate = _rates(rates, chosen)
    norms = {layer.name: frobenius(layer.parameter()) for layer in between}
    factors = _factors([norms[layer.name] / math.sqrt(rate[layer.name]) for layer in chosen], tilt)
    scales = _scales(dict(zip((layer.name for layer in chosen), factors, strict=True)), between)
    _check_range(between, norms, scales)

    speeds = [_speeds(model, chosen, parsed, loss, outputs, rate)]
    kept = KeptParameters(p for layer in between for p in _own(layer))
    before = None if parsed is None else _run(model, parsed, outputs)
    try:
        _scale(between, scales)
        change = None
        if parsed is not None and before is not None:
            change = distance(_run(model, parsed, outputs), before)
            if not change <= tolerance(before.dtype):
                kept.restore()
                raise ModelError(where_it_stops(model, between, parsed, outputs, change))
        after = {layer.name: frobenius(layer.parameter()) for layer in chosen}
        speeds.append(_speeds(model, chosen, parsed, loss, outputs, rate))
    except BaseException:
        kept.restore()
        raise
    records = {
        name: LayerScale(
            name=name,
            factor=scales[name][0],
            bias_factor=scales[name][1],
            norm_before=norms[name],
            norm_after=after[name],
            speed_gain=scales[name][0] ** -2,
            speed_before=speeds[0].get(name),
            speed_after=speeds[1].get(name),
            rate=rate[name],
        )
        for name in after
    }
    order = "registration" if parsed is None else "execution"
    return LayerBalance(tilt=float(tilt), layers=records, output_change=change, order=order, kept=kept)


def balance_of(
    model: nn.Module,
    rates: Rates | None = None,
    layers: str | Sequence[str | Rows] = "auto",
    *,
    batch: Any = None,
    outputs: Outputs = "logits",
) -> BalanceReport:
    r"""Balance of every two adjacent layers, in any model.

    .. math:: \frac{\|W_{l+1}\|^2/\eta_{l+1} - \|W_l\|^2/\eta_l}{\|W_{l+1}\|^2/\eta_{l+1} + \|W_l\|^2/\eta_l}
              \in [-1, 1], \qquad
              \frac{\|W_{l+1}^\top W_{l+1}/\eta_{l+1} - W_l W_l^\top/\eta_l\|_F}
              {\|W_{l+1}^\top W_{l+1}\|_F/\eta_{l+1} + \|W_l W_l^\top\|_F/\eta_l} \in [0, 1]

    Above zero the later layer is the larger one: the earlier layer learns faster relative to its size (upstream).

    Parameters
    ----------
    model : torch.nn.Module
        Any model; nothing is changed.
    rates : mapping or sequence of float, optional
        Learning rate of each layer, by name or in order; by default all equal.
    layers : "auto", names, globs or Rows
        Which layers are compared, each with the next.
    batch : Tensor, (inputs, targets) or mapping, optional
        Gives the order of execution, and tells which pairs are chains: doubling the output of one and halving the
        input of the next leaves the model's outputs unchanged. Without it the order is that of registration, and only
        layers of one ``nn.Sequential`` are taken as chains.
    outputs : "logits" or callable
        ``(model, batch) -> Tensor`` replaces the model's own outputs.

    Returns
    -------
    BalanceReport
        Frozen; ``.pairs``, ``.frame()``, ``.plot()``, ``.to_dict()``.

    Raises
    ------
    DataError, ModelError, UnmeasurableError
        Fewer than two layers, an unknown layer, rates that are not positive or do not match the layers.

    Notes
    -----
    The second number is given for chains of linear layers, or of convolutions, without groups. For convolutions
    :math:`W^\top W` is summed over kernel positions, so that both matrices are those of the channels between the
    layers. In linear networks gradient flow conserves the whole difference, in ReLU networks its diagonal. Costs the
    product of both weights, and with a batch two forward passes a pair.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4))
    >>> _ = layer_balance(net)
    >>> abs(round(balance_of(net).pairs[0].balance, 6))
    0.0
    """
    check_outputs(outputs)
    model = unwrap(model)
    chosen = resolve_layers(model, layers)[0]
    parsed = None if batch is None else parse_batch(batch, model)
    path = places(model, parsed, outputs)
    chosen = _ordered(chosen, path, explicit=layers != "auto")
    rate = _rates(rates, chosen)
    norms = {layer.name: frobenius(layer.weight()) for layer in chosen}
    pairs = []
    for first, second in pairwise(chosen):
        conserved = None if parsed is None else passes(model, first, second, parsed, outputs)
        reason = no_matrix(model, first, second, path, conserved)
        a, b = norms[first.name] ** 2 / rate[first.name], norms[second.name] ** 2 / rate[second.name]
        pairs.append(
            PairBalance(
                first=first.name,
                second=second.name,
                balance=(b - a) / (b + a) if a + b else math.nan,
                matrix=None if reason else _matrix_balance(first, second, rate),
                conserved=conserved,
                reason=reason,
            )
        )
    order = "registration" if parsed is None else "execution"
    return BalanceReport(pairs=tuple(pairs), norms=norms, rates=rate, order=order)


# --- what is asked ----------------------------------------------------------------------------------------------------


def _check_tilt(tilt: float) -> None:
    if isinstance(tilt, bool) or not isinstance(tilt, (int, float, np.number)) or not math.isfinite(tilt):
        raise DataError(f"Got tilt={tilt!r}, but expected a finite number: above 0 upstream, below 0 downstream.")


def _ordered(chosen: Sequence[Layer], path: Sequence[Place], *, explicit: bool) -> list[Layer]:
    found = in_order(chosen, path)
    absent = [layer.name for layer in chosen if layer not in found]
    if absent and explicit:
        raise UnmeasurableError(f"Got layer {absent[0]!r}, which did not run on the batch. Leave it out.")
    if len(found) < 2:
        raise UnmeasurableError(f"Got {len(found)} of the layers, but expected at least two that follow one another.")
    return found


def _rates(rates: Rates | None, chosen: Sequence[Layer]) -> dict[str, float]:
    names = [layer.name for layer in chosen]
    if rates is None:
        return dict.fromkeys(names, 1.0)
    if isinstance(rates, Mapping):
        if set(rates) != set(names):
            odd = sorted(set(rates) ^ set(names))
            raise DataError(f"Got rates for {sorted(rates)}, but expected one for each layer; {odd[0]!r} is odd.")
        found = {name: rates[name] for name in names}
    else:
        if len(rates) != len(names):
            raise DataError(f"Got {len(rates)} rates, but expected one for each of the {len(names)} layers.")
        found = dict(zip(names, rates, strict=True))
    for name, rate in found.items():
        if not (math.isfinite(rate) and rate > 0):
            raise DataError(f"Got the rate {rate!r} for layer {name!r}, but expected a positive finite number.")
    return {name: float(rate) for name, rate in found.items()}


# --- numbers ----------------------------------------------------------------------------------------------------------


def _factors(norms: Sequence[float], tilt: float) -> list[float]:
    logs = -np.log(norms)
    logs += tilt * np.linspace(-1.0, 1.0, len(norms)) - logs.mean()
    with np.errstate(over="ignore"):  # refused by _check_range
        return [float(factor) for factor in np.exp(logs)]


def _scales(factors: Mapping[str, float], between: Sequence[Layer]) -> dict[str, tuple[float, float]]:
    """Factor of weight and bias of every layer of the chain; the bias of the last keeps its size exactly."""
    scales, product = {}, 1.0
    for layer in between:
        factor = factors.get(layer.name, 1.0)
        product *= factor
        scales[layer.name] = (factor, 1.0 if layer is between[-1] else product)
    return scales


def _check_range(
    between: Sequence[Layer], norms: Mapping[str, float], scales: Mapping[str, tuple[float, float]]
) -> None:
    for layer in between:
        factor, product = scales[layer.name]
        limits = torch.finfo(layer.parameter().dtype)
        bias = layer.bias()
        sizes = [factor * norms[layer.name], 1.0 if bias is None or not bias.any() else product * frobenius(bias)]
        if not all(limits.tiny / limits.eps < size < limits.max for size in sizes):
            raise DataError(
                f"Got a tilt and norms that would scale layer {layer.name!r} by {factor:.1e} (bias {product:.1e}), out "
                f"of the range of {layer.parameter().dtype}. Use a smaller tilt or float64."
            )


def _own(layer: Layer) -> list[nn.Parameter]:
    held = (layer.parameter(), layer.rule.bias(layer.module))
    return [parameter for parameter in held if isinstance(parameter, nn.Parameter)]


@torch.no_grad()
def _scale(between: Sequence[Layer], scales: Mapping[str, tuple[float, float]]) -> None:
    for layer in between:
        for parameter, factor in zip(_own(layer), scales[layer.name], strict=False):
            parameter.mul_(factor)


def _run(model: nn.Module, batch: Batch, outputs: Outputs) -> Tensor:
    with guest(model), torch.no_grad():
        return Call(model, batch, outputs)().clone()


def _speeds(
    model: nn.Module,
    chosen: Sequence[Layer],
    batch: Batch | None,
    loss: Callable[[Tensor, Any], Tensor] | None,
    outputs: Outputs,
    rates: Mapping[str, float],
) -> dict[str, float]:
    """``rate ||dJ/dW|| / ||W||`` by layer; empty without a loss."""
    if loss is None or batch is None:
        return {}
    weights = [layer.parameter() for layer in chosen]
    with guest(model):
        for weight in weights:
            weight.requires_grad_(True)
        value = loss(raw_outputs(model, batch, outputs), batch.targets)
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad or not value.isfinite():
            raise DataError(f"Got a loss of {value!r}, but expected one finite number that depends on the outputs.")
        gradients = torch.autograd.grad(value, weights, allow_unused=True)
    return {
        layer.name: 0.0 if gradient is None else rates[layer.name] * frobenius(gradient) / frobenius(weight)
        for layer, weight, gradient in zip(chosen, weights, gradients, strict=True)
    }


def _matrix_balance(first: Layer, second: Layer, rates: Mapping[str, float]) -> float:
    rows = first.weight()[0]
    outer = rows @ rows.mT / rates[first.name]
    columns = second.weight()[0].reshape(-1, inputs_of(second), second.weight().shape[-1] // inputs_of(second))
    inner = torch.einsum("kcp,kdp->cd", columns, columns) / rates[second.name]
    total = frobenius(outer) + frobenius(inner)
    return frobenius(inner - outer) / total if total else math.nan
