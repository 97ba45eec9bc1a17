r"""How close learning rates are to the edge of stability: the top eigenvalue of the Hessian that gradient descent sees.

With a rate :math:`\eta_v` for each layer, one step multiplies small deviations by
:math:`I - \eta^{1/2} H \eta^{1/2}` in rescaled coordinates: above an eigenvalue of 2 they grow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._random import generator
from ..agop.batches import Batch, Outputs, parse_batch
from ..agop.finding import unwrap
from ..agop.first_order import Call, difference_step, moved
from ..agop.losses import Loss, checked_loss
from ..agop.parameter_order import dense, norm
from ..agop.taps import guest, training_mode

__all__ = ["rate_sharpness"]

_TOLERANCE = 0.02  # relative, between two iterations
_MOST_ITERATIONS = 20


def rate_sharpness(
    model: nn.Module,
    loss: Loss,
    batch: Any,
    rates: Mapping[str, float],
    *,
    outputs: Outputs = "logits",
    mode: Literal["eval", "train"] = "eval",
) -> float:
    r"""Largest absolute eigenvalue of :math:`\eta^{1/2} H \eta^{1/2}`, H the Hessian of the loss.

    Parameters
    ----------
    model : torch.nn.Module
        Given back exactly as it was.
    loss : callable
        ``(outputs, targets) -> Tensor``, the mean over the batch.
    batch : Tensor, (inputs, targets) or mapping
        One batch.
    rates : mapping of str to float
        :math:`\eta` by parameter name; parameters that are not named do not move.
    outputs, mode
        As in :func:`featlearn.feature_speed_groups`.

    Returns
    -------
    float
        Gradient descent at these rates is unstable above 2. nan when the gradient is not finite nearby.

    Notes
    -----
    Power iteration on central differences of the gradient, from a fixed random start, until two values agree to 2%:
    at most 40 forward and backward passes, and three copies of the parameters. An estimate from below: the start may be
    nearly orthogonal to the top eigenvector, and 20 iterations may not separate close eigenvalues.
    """
    model = unwrap(model)
    parameters = {name: p for name, p in model.named_parameters() if name in rates}
    roots = {name: math.sqrt(rates[name]) for name in parameters}
    draw = generator(0, "rate_sharpness")
    start = {name: torch.randn(p.shape, generator=draw, dtype=torch.float32).to(p) for name, p in parameters.items()}
    with guest(model), training_mode(model) if mode == "train" else nullcontext():
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        parsed = parse_batch(batch, model)
        vector, found = _unit(start), 0.0
        for _ in range(_MOST_ITERATIONS):
            along = {name: roots[name] * v for name, v in vector.items()}
            step = difference_step(parameters, along)
            with moved(parameters, along, step):
                ahead = _gradient(model, loss, parsed, outputs, parameters)
            with moved(parameters, along, -step):
                behind = _gradient(model, loss, parsed, outputs, parameters)
            image = {name: roots[name] * (ahead[name] - behind[name]) / (2 * step) for name in parameters}
            before, found = found, norm(image.values())
            if not (math.isfinite(found) and found > 0) or abs(found - before) <= _TOLERANCE * found:
                break
            vector = _unit(image)
    return found


def _gradient(
    model: nn.Module, loss: Loss, batch: Batch, outputs: Outputs, parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    value = checked_loss(loss(Call(model, batch, outputs)(), batch.targets))
    found = torch.autograd.grad(value, list(parameters.values()), materialize_grads=True, allow_unused=True)
    return dict(zip(parameters, map(dense, found), strict=True))


def _unit(vector: Mapping[str, Tensor]) -> dict[str, Tensor]:
    length = norm(vector.values())
    return {name: v / length for name, v in vector.items()}
