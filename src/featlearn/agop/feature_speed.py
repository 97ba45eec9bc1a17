r"""Feature speed: how fast one step moves the output of every layer, and how much of the loss decay passes through it.

With :math:`b_l = \partial J / \partial f_l` and the first-order change :math:`\delta f_l` of a layer's output,

.. math:: S_l = -\langle b_l, \delta f_l \rangle, \qquad
          \cos\theta_l = \frac{S_l}{\|b_l\| \, \|\delta f_l\|}, \qquad
          \text{sensitivity}_l = \frac{\mathrm{rms}(\delta f_l)}{S_l} = \frac{1}{\sqrt{m_l}\,\|b_l\| \cos\theta_l} .

Vectors are whole: all samples, positions and calls of the layer flattened into :math:`m_l` numbers, and
:math:`\mathrm{rms}(v) = \|v\| / \sqrt{m_l}`. J is the mean loss of the batch, so :math:`b_l` carries its 1/n.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..exceptions import DataError, FeatlearnWarning, UnmeasurableError
from .batches import Batch, Outputs, parse_batch
from .finding import find_layers, resolve_layers, unwrap
from .layers import Layer, LayerRule, Rows
from .losses import Loss
from .speed_pass import Method, SpeedPass, speed_pass
from .speed_results import FeatureSpeed, LayerSpeed, layer_speed
from .taps import guest, training_mode
from .updates import Update, canonical_names, check_update, update_name

__all__ = ["FeatureSpeed", "LayerSpeed", "bfa_theory", "chosen_layers", "feature_speed", "speed_of_layers"]

NAN = float("nan")

# Relative error of the outputs' loss decay above which a warning is given: forward mode, central differences.
_TOLERANCE = {torch.float64: (1e-6, 1e-4), torch.float32: (1e-4, 1e-2)}
_HALF_PRECISION_TOLERANCE = (0.1, 0.3)


def feature_speed(
    model: nn.Module,
    loss: Loss,
    batch: Any,
    *,
    update: Update = "gradient",
    layers: str | Rows | Sequence[str | Rows] = "auto",
    outputs: Outputs = "logits",
    method: Method = "auto",
    mode: Literal["eval", "train"] = "eval",
    finite: bool = True,
) -> FeatureSpeed:
    r"""How fast one update moves the features of every layer, and how much loss decay passes through each.

    .. math:: S_l = -\langle b_l, \delta f_l \rangle = \|b_l\|\,\|\delta f_l\| \cos\theta_l

    For gradient descent :math:`\delta f_l = -K_l b_l` with a positive semi-definite :math:`K_l`, so
    :math:`0 < \cos\theta_l \le 1`.

    Parameters
    ----------
    model : torch.nn.Module
        Given back exactly as it was: parameters, buffers, ``.grad``, ``requires_grad``, modes, random generators.
    loss : callable
        ``(outputs, targets) -> Tensor``, the mean over the batch.
    batch : Tensor, (inputs, targets) or mapping
        One batch.
    update : "gradient", Optimizer, mapping or callable
        ``"gradient"`` moves every parameter with ``requires_grad`` by minus its gradient (a step of gradient descent
        at rate 1; cosines and sensitivities do not depend on the rate). An optimiser makes its real step, hooks
        included, which is then taken back bitwise. A mapping gives changes by parameter name; a callable
        ``(parameters, gradients)`` returns one.
    layers : "auto", names, globs or Rows
        "auto" is every layer of :func:`measure_features`, and embeddings, bilinear and transposed convolutions. The
        name of any other module that returns one tensor, say a residual block, measures its output.
    outputs : "logits" or callable
        ``(model, batch) -> Tensor`` replaces the model's own outputs.
    method : "auto", "forward" or "central"
        Forward-mode differentiation, or central differences; "auto" falls back to these where an operation has no
        forward rule, and ``.method`` says so.
    mode : "eval" or "train"
        Mode of dropout and normalisation layers. In "train" every pass draws the same random numbers.
    finite : bool
        Also measure the true change after the full update.

    Returns
    -------
    FeatureSpeed
        Frozen; ``.layers``, ``.frame()``, ``.plot()``, ``.to_dict()``.

    Raises
    ------
    DataError, ModelError, UnmeasurableError
        Each says what was got, what was expected and what to do.

    Warns
    -----
    FeatlearnWarning
        The decay found at the outputs differs from that of the parameters: some of their effect was not seen.

    Notes
    -----
    Costs one forward and one backward pass, one forward-mode pass (about two forward passes), and with ``finite`` two
    forward passes; memory about twice the activations. Both differentiations stop at ``detach``; central differences
    do not.

    References
    ----------
    Chizat and Netrapalli, "The Feature Speed Formula", arXiv 2311.18718: the identity and the angle.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
    >>> x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
    >>> speed = feature_speed(net, torch.nn.functional.mse_loss, (x, x[:, :1]))
    >>> [round(layer.loss_decay_share, 6) for layer in speed.layers.values()][-1]
    1.0
    """
    _check_words(method, mode)
    check_update(update)
    model = unwrap(model)
    chosen, skipped, explicit = chosen_layers(model, layers)
    aliases = canonical_names(model)
    wanted = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if isinstance(update, Mapping):
        wanted |= {aliases[name] for name in update if name in aliases}
    with guest(model), training_mode(model) if mode == "train" else nullcontext():
        found = speed_pass(
            model,
            chosen,
            parse_batch(batch, model),
            loss,
            outputs,
            owners=_owners(model),
            wanted=wanted,
            update=update,
            method=method,
            finite=finite,
        )
    skipped |= _not_measured(chosen, found, explicit)
    _warn_if_incomplete(found)
    return FeatureSpeed(
        layers={name: layer_speed(sums, found.total_decay) for name, sums in found.layers.items()},
        skipped=skipped,
        loss=found.loss,
        total_decay=found.total_decay,
        output_decay=found.output_decay,
        update=update_name(update),
        method=found.method,
        mode=mode,
    )


def speed_of_layers(
    model: nn.Module,
    layers: Sequence[Layer],
    batch: Batch,
    loss: Loss,
    outputs: Outputs,
    *,
    trainable: set[str] | None = None,
) -> dict[str, dict[str, float | bool]]:
    """Speed of some layers under an infinitesimal gradient step, for callers that hold the model as a guest already.

    Parameters
    ----------
    model : torch.nn.Module
        Inside an open ``guest(model)``.
    layers : sequence of Layer
        What to measure.
    batch : Batch
        From ``parse_batch``.
    loss, outputs
        As in :func:`feature_speed`.
    trainable : set of str, optional
        Names of the parameters that move; by default all, since a guest's parameters are all frozen.

    Returns
    -------
    dict of str to dict
        ``backward_norm, loss_decay_share, cos_theta, feature_change_rms, sensitivity, is_cut`` by layer name; layers
        that did not run are absent. The change is that of a step at rate 1.
    """
    wanted = {name for name, _ in model.named_parameters()} if trainable is None else set(trainable)
    found = speed_pass(model, layers, batch, loss, outputs, owners=layers, wanted=wanted)
    _warn_if_incomplete(found)
    keys = ("backward_norm", "loss_decay_share", "cos_theta", "feature_change_rms", "sensitivity", "is_cut")
    records = {name: layer_speed(sums, found.total_decay) for name, sums in found.layers.items()}
    return {name: {key: getattr(record, key) for key in keys} for name, record in records.items()}


def bfa_theory(
    kind: Literal["relu", "linear", "resnet"],
    depth: int,
    weights: Sequence[float] | None = None,
    beta: float | None = None,
) -> NDArray[np.float64]:
    r"""Cosine of the backward-feature angle of wide random networks, one input, gradient descent.

    With the loss gradient isotropic and independent of the layers below,

    .. math:: \cos^2\theta_l = \frac{\left(\sum_{v \le l} c_v\right)^2}
              {\sum_{v, v' \le l} c_v c_{v'} \left(1 + q \min(l - v, l - v')\right)}, \qquad
              c_v = \eta_v \|a_{v-1}\|^2,

    where :math:`a_{v-1}` is the input of layer v and :math:`\eta_v` its rate; for "resnet" divided by
    :math:`(1+\beta^2)^v`, by which the features of a residual network grow, so that one rate for all gives equal
    :math:`c_v`.

    Parameters
    ----------
    kind : "relu", "linear" or "resnet"
        ReLU network at He initialisation (q = 2), linear network (q = 1), or blocks ``f + beta W relu(f)`` with
        entries of W of variance 2/width (q = 2 beta^2 / (1 + beta^2), f the output of a block).
    depth : int
        Number of layers (blocks) L.
    weights : sequence of L floats, optional
        ``c_v``. By default equal, except for "relu": (1, 1/2, 1/2, ...), one rate and an input of as many numbers as
        the layers are wide and of unit size.
    beta : float, optional
        Branch scale of "resnet".

    Returns
    -------
    array of shape (depth,)
        Cosines of layers 1 to L.

    Raises
    ------
    DataError
        Unknown kind, depth below 1, weights that are not L non-negative numbers with a positive first one, beta
        missing or given in vain.

    Notes
    -----
    Limits at equal weights: sqrt(3/l) (linear), sqrt(3/(2 l)) (ReLU), 1/sqrt(1 + 2 s^2/3) with s = beta sqrt(L) at the
    last block. The orders 1/sqrt(l) for ReLU networks and a constant for residual ones with beta of order 1/sqrt(L)
    are those of arXiv 2311.18718; the formula is derived here for infinite width and agrees with simulation. For
    batches of correlated inputs and other branches there is no closed form: measure.

    Examples
    --------
    >>> bfa_theory("linear", 3).round(3).tolist()
    [1.0, 0.894, 0.802]
    """
    q = {"relu": 2.0, "linear": 1.0, "resnet": NAN}.get(kind)
    if q is None:
        raise DataError(f"Got kind={kind!r}, but expected 'relu', 'linear' or 'resnet'.")
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
        raise DataError(f"Got depth={depth!r}, but expected an integer of at least 1.")
    if (kind == "resnet") != (beta is not None):
        raise DataError(f"Got beta={beta!r} with kind={kind!r}, but expected a number with 'resnet' and only there.")
    if beta is not None:
        if not math.isfinite(beta):
            raise DataError(f"Got beta={beta!r}, but expected a finite number.")
        q = 2 * beta**2 / (1 + beta**2)
    default = np.r_[1.0, np.full(depth - 1, 0.5 if kind == "relu" else 1.0)]
    c = default if weights is None else np.asarray(weights, dtype=np.float64)
    if c.shape != (depth,) or not np.isfinite(c).all() or (c < 0).any() or c[0] == 0:
        raise DataError(f"Got weights {weights!r}, but expected {depth} non-negative numbers, the first positive.")
    total = np.cumsum(c)
    below = np.r_[0.0, total[:-1]]
    # From l - 1 to l every min(l - v, l - v') of lower layers grows by one; the pairs with v = l join with zero.
    return total / np.sqrt(np.cumsum(total**2 + (q - 1) * below**2))


# --- what is measured -------------------------------------------------------------------------------------------------


def _check_words(method: str, mode: str) -> None:
    if method not in ("auto", "forward", "central"):
        raise DataError(f"Got method={method!r}, but expected 'auto', 'forward' or 'central'.")
    if mode not in ("eval", "train"):
        raise DataError(f"Got mode={mode!r}, but expected 'eval' or 'train'.")


def _absent(*_: Any) -> Any:
    raise UnmeasurableError("Got a module that is known by its output only. Name a linear or convolution layer.")


def _output_of(name: str, module: nn.Module) -> Layer:
    """Any module that returns one tensor: the speed of an output needs no weight."""
    rule = LayerRule(
        kind=type(module).__name__.lower(),
        parameter=_absent,
        matrix=_absent,
        output=lambda module, tensor, n: tensor,
        patches=_absent,
    )
    return Layer(name, name, module, rule)


# Own weights and return one tensor, though W x + b they are not.
WITHOUT_RULE = (nn.Embedding, nn.EmbeddingBag, nn.Bilinear, nn.modules.conv._ConvTransposeNd)


def _owners(model: nn.Module) -> list[Layer]:
    """Layers, and modules without a rule and without children that own weights: a recurrent layer, say."""
    available, refused = find_layers(model)
    modules = {name or type(module).__name__: (name, module) for name, module in model.named_modules()}
    leaves = [modules[key] for key in refused if not next(modules[key][1].children(), None)]
    return [*available.values(), *(_output_of(name, module) for name, module in leaves)]


def chosen_layers(
    model: nn.Module, layers: str | Rows | Sequence[str | Rows]
) -> tuple[list[Layer], dict[str, str], bool]:
    """What ``layers=`` of :func:`feature_speed` means in this model.

    Returns
    -------
    tuple of list, dict and bool
        The layers; names of those left out, each with the reason; whether the user named them.
    """
    available, refused = find_layers(model)
    if isinstance(layers, str) and layers == "auto":
        every = {layer.name: layer for layer in _owners(model)}
        every = {n: layer for n, layer in every.items() if n in available or isinstance(layer.module, WITHOUT_RULE)}
        if every:
            return list(every.values()), {n: why for n, why in refused.items() if n not in every}, False
    entries: Sequence[str | Rows] = [layers] if isinstance(layers, (str, Rows)) else list(layers)
    if not entries:
        resolve_layers(model, layers)  # refuses an empty choice
    modules = dict(model.named_modules(remove_duplicate=False))
    parts = {layer.module_name for layer in available.values()}
    chosen: dict[str, Layer] = {}
    for entry in entries:
        if isinstance(entry, str) and entry in modules and entry not in available and entry not in parts:
            found = [_output_of(entry, modules[entry])]
        else:
            found = resolve_layers(model, entry)[0]
        chosen |= {layer.name: layer for layer in found}
    return list(chosen.values()), {}, True


def _not_measured(chosen: Sequence[Layer], found: SpeedPass, explicit: bool) -> dict[str, str]:
    missing = {
        layer.name: found.unseen.get(layer.name, "it did not run") for layer in chosen if layer.name not in found.layers
    }
    if missing and explicit:
        name, why = next(iter(missing.items()))
        raise UnmeasurableError(f"Got layer {name!r}, which cannot be measured: {why}.")
    return missing


def _warn_if_incomplete(found: SpeedPass) -> None:
    error = abs(found.output_decay - found.total_decay)
    limits = _TOLERANCE.get(found.dtype, _HALF_PRECISION_TOLERANCE)
    if not error <= limits[0 if found.forward_mode else 1] * abs(found.total_decay):
        warnings.warn(
            f"The loss decay found at the outputs, {found.output_decay:.4g}, is not that of the parameters, "
            f"{found.total_decay:.4g}. Randomness that is not torch's, mixed precision, or steps outside autograd hide "
            "part of the update: read the angles with care.",
            FeatlearnWarning,
            stacklevel=3,
        )
