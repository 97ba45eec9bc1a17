"""A linear head that was fitted to features, back in the network that the features came from."""

from __future__ import annotations

import copy
from collections import Counter
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from .._arrays import plain
from ..agop.batches import parse_batch
from ..agop.finding import without_wrappers
from ..agop.reference_model import closest_names
from ..agop.taps import guest
from ..exceptions import DataError, ModelError
from .labelled_batches import split_batch

__all__ = ["as_linear", "install_head"]


def as_linear(
    coef: Any, intercept: ArrayLike | None = None, *, outputs: int | None = None, dtype: torch.dtype = torch.float32
) -> nn.Linear:
    r"""Linear layer of a fitted head, or of a classifier's coefficients: ``z -> coef z + intercept``.

    A binary classifier has one row, of logits of the second class. Networks mostly have two outputs, and the softmax
    of :math:`(0, w \cdot z + b)` is the same probability.

    Parameters
    ----------
    coef : fitted classifier with ``as_linear``, or array (tensor) of shape (K, d), or (1, d) for two classes
        An array is in units of the features as they leave the network. ``coef_`` of ``DFRClassifier`` is not: it is for
        standardised features, and makes a wrong layer without an error. Pass the classifier itself.
    intercept : array of shape (K,), or (1,)
        Of coefficients; a classifier has its own.
    outputs : int, optional
        Rows of the layer: for two classes 2 (the default; the first row is zero) or 1; otherwise K.
    dtype : torch.dtype, default torch.float32
        Of the layer. Everything is rounded once, from double precision.

    Returns
    -------
    torch.nn.Linear
        On the CPU. No random number is drawn to make it.

    Raises
    ------
    DataError
        For another number of outputs, shapes that do not fit, coefficients without an intercept or a classifier with
        one, or coefficients that are not finite or that ``dtype`` cannot hold.

    Examples
    --------
    >>> as_linear([[2.0, -1.0]], [0.5])(torch.tensor([[1.0, 1.0]])).tolist()
    [[0.0, 1.5]]
    """
    own = hasattr(coef, "as_linear")
    if own != (intercept is None):
        raise DataError(
            f"Got {'a fitted head with' if own else 'coefficients without'} an intercept, but expected a fitted head "
            "alone, as_linear(head), or both of its arrays: as_linear(head.raw_coef_, head.raw_intercept_) of a "
            "DFRClassifier, whose coef_ is for standardised features."
        )
    if own:
        layer: nn.Linear = coef.as_linear(outputs=outputs, dtype=dtype)
        return layer
    weight, bias = (torch.as_tensor(np.asarray(plain(part), dtype=np.float64)) for part in (coef, intercept))
    if weight.dim() != 2 or bias.shape != weight.shape[:1]:
        raise DataError(
            f"Got coef of shape {tuple(weight.shape)} and intercept of shape {tuple(bias.shape)}, but expected (K, d) "
            "and (K,)."
        )
    if not bool(weight.isfinite().all() and bias.isfinite().all()):
        raise DataError("Got coefficients with NaN or infinity, but expected finite numbers. Fit the head anew.")
    rows = len(weight)
    allowed = (2, 1) if rows == 1 else (rows,)
    outputs = allowed[0] if outputs is None else outputs
    if outputs not in allowed:
        raise DataError(f"Got outputs={outputs!r}, but expected {' or '.join(map(str, allowed))} for {rows} rows.")
    if outputs > rows:
        weight, bias = (torch.cat([torch.zeros_like(tensor), tensor]) for tensor in (weight, bias))
    linear: nn.Linear = nn.utils.skip_init(nn.Linear, weight.shape[1], outputs, dtype=dtype)
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
    if not all(bool(parameter.isfinite().all()) for parameter in linear.parameters()):
        raise DataError(
            f"Got coefficients up to {max(float(weight.abs().max()), float(bias.abs().max())):.3g}, which {dtype} "
            "cannot hold. Use torch.float32, or torch.float64."
        )
    return linear


def install_head(model: nn.Module, head: Any, *, layer: str | None = None, batch: Any = None) -> nn.Module:
    """Copy of a network with its last linear layer replaced by a head that was fitted to that layer's input.

    Parameters
    ----------
    model : torch.nn.Module
        Never changed. Wrappers (DataParallel, ``torch.compile``) are not copied, only what is inside.
    head : fitted classifier with ``as_linear``, or torch.nn.Linear
        ``DFRClassifier``, ``OODHead``, or a layer made by :func:`as_linear`. It may have another number of outputs
        than the layer that it replaces. Of two classes, it gets one output where that layer has one, else two.
    layer : str, optional
        Name of the ``torch.nn.Linear`` to replace, as in ``model.named_modules()``. By default the only one that takes
        as many features as the head, or the last one that runs on ``batch``.
    batch : tensor, tuple or mapping, optional
        What the model is run on, once, to see which linear layer is the last: one batch of the loader, as
        ``extract_features`` reads it.

    Returns
    -------
    torch.nn.Module
        In the precision, on the device, in the mode (train or eval) and with the ``requires_grad`` of the layer that
        is replaced.

    Raises
    ------
    ModelError
        For a model without a linear layer that fits, with several and neither ``layer`` nor ``batch`` given, whose
        last one runs several times, or that cannot be copied; for an unknown ``layer`` or a head of other width.
    DataError
        For coefficients that the precision of the layer cannot hold.

    Notes
    -----
    On the input of the layer that is replaced the new logits are the head's decision function, to rounding. In half
    precision that rounding is coarse (three digits in bfloat16, three to four in float16), and predictions close to a
    boundary may differ: install the head into ``model.float()`` to have them all. Features that were pooled after they
    left the network (``extract_features(..., pool="mean")``) are not that input.

    Whatever the model does after its last linear layer is still done, and attributes such as ``num_classes`` stay as
    they are.

    Examples
    --------
    >>> network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 10))
    >>> install_head(network, as_linear([[1.0, 0.0, -1.0]], [0.2]))[2]
    Linear(in_features=3, out_features=2, bias=True)
    """
    model = without_wrappers(model)
    width = head.in_features if isinstance(head, nn.Linear) else _exact(head, None).in_features
    name = _last_linear(model, width, batch) if layer is None else layer
    replaced = _named_linear(model, name)
    if replaced.in_features != width:
        raise ModelError(
            f"Got a head of {width} features, but the layer {name!r} takes {replaced.in_features}. Fit the head on "
            f"the input of that layer: extract_features(model, batches, layer={name + '.input'!r})."
        )
    return _with_head(model, replaced, _fitting(head, replaced))


def _exact(head: Any, outputs: int | None) -> nn.Linear:
    """The head in double precision."""
    if not hasattr(head, "as_linear"):
        raise ModelError(
            f"Got a head of type {type(head).__name__}, but expected a torch.nn.Linear or a fitted classifier with "
            "as_linear. Pass as_linear(coef, intercept) for coefficients of your own."
        )
    return head.as_linear(outputs=outputs, dtype=torch.float64)


def _fitting(head: Any, replaced: nn.Linear) -> nn.Linear:
    """A new layer with the head's numbers, in all else like the one it replaces."""
    if not isinstance(head, nn.Linear):
        # A network of one logit goes on to a sigmoid, one of two to a softmax.
        exact = _exact(head, None)
        head = _exact(head, 1) if exact.out_features == 2 and replaced.out_features == 1 else exact
    bias = torch.zeros(head.out_features) if head.bias is None else head.bias
    made = as_linear(head.weight, bias, outputs=head.out_features, dtype=replaced.weight.dtype)
    made = made.to(replaced.weight.device)
    made.requires_grad_(replaced.weight.requires_grad)
    return made.train(replaced.training)


def _named_linear(model: nn.Module, name: str) -> nn.Linear:
    modules = dict(model.named_modules(remove_duplicate=False))
    if name not in modules:
        raise ModelError(f"Got the unknown layer {name!r}. The closest names: {closest_names(name, modules)}.")
    module = modules[name]
    if not isinstance(module, nn.Linear):
        raise ModelError(
            f"Got the layer {name!r} of type {type(module).__name__}, but expected a torch.nn.Linear. Only that can be "
            "replaced by a linear head."
        )
    return module


def _last_linear(model: nn.Module, width: int, batch: Any) -> str:
    """Name of the linear layer to replace."""
    if batch is not None:
        return _last_to_run(model, batch)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    fitting = [name for name in names if _named_linear(model, name).in_features == width]
    if not fitting:
        raise ModelError(
            f"Got a head of {width} features, but {type(model).__name__} has "
            + (f"no linear layer that takes as many (it has {', '.join(map(repr, names))})." if names else "no layer.")
            + " Fit the head on features of this model."
        )
    if len(fitting) > 1:
        # The order of registration is not that of execution, and the wrong layer would replace without an error.
        raise ModelError(
            f"Got a model with {len(fitting)} linear layers that take {width} features: "
            f"{', '.join(map(repr, fitting))}. Name the one that runs last (layer=), or pass batch=, one batch to see "
            "which it is."
        )
    return fitting[0]


def _last_to_run(model: nn.Module, batch: Any) -> str:
    ran: list[str] = []
    with guest(model), torch.no_grad(), ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                handle = module.register_forward_hook(lambda *_, name=name: ran.append(name))
                stack.callback(handle.remove)
        parse_batch(split_batch(batch)[0], model).call(model)
    if not ran:
        raise ModelError(f"Got {type(model).__name__}, in which no torch.nn.Linear runs on this batch. Pass layer=.")
    times = Counter(ran)[ran[-1]]
    if times > 1:
        raise ModelError(
            f"Got the last linear layer {ran[-1]!r}, which runs {times} times a batch, but expected a layer that runs "
            "once: a head in its place would change what the earlier calls do."
        )
    return ran[-1]


def _with_head(model: nn.Module, replaced: nn.Linear, head: nn.Linear) -> nn.Module:
    try:
        # Copies of all that refers to the layer, by a name, by several, or from a list, refer to the head.
        return copy.deepcopy(model, {id(replaced): head})
    except (RuntimeError, TypeError) as error:
        raise ModelError(
            f"Got a {type(model).__name__} that cannot be copied ({error}). Clear the tensors that its last forward "
            "left in attributes."
        ) from error
