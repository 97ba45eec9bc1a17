"""What the identity assumes of a model: samples do not interact, and a layer computes the ``W x + b`` of its rule."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..exceptions import MixingError
from .batches import Batch, Outputs, raw_outputs
from .layers import Layer

__all__ = ["ONE_SAMPLE", "departure", "forward_is_known", "refuse_mixing"]

ONE_SAMPLE = "one sample"


def refuse_mixing(model: nn.Module, batch: Batch, raw: Tensor, outputs: Outputs) -> str:
    """Refuse a model whose outputs for a sample depend on its batch: per-sample gradients would not exist.

    Parameters
    ----------
    model, outputs
        As the batch was run with.
    batch : Batch
    raw : Tensor of shape (n, ...)
        Outputs of the whole batch.

    Returns
    -------
    str
        Empty, or why half of the batch could not be run.

    Raises
    ------
    MixingError
        When the outputs change by more than 1e-3 (5e-2 in half precision), relatively; names the first BatchNorm
        without running statistics.

    Notes
    -----
    One forward pass of n // 2 samples.
    """
    n = len(raw)
    if n == 1:
        return ONE_SAMPLE
    half = batch.part(model, 0, n // 2, n)
    if half is None:
        return "no sample axis"
    culprit = _batch_statistics(model)
    try:
        with torch.no_grad():
            part = raw_outputs(model, half, outputs)
    except Exception as error:  # tensors of the batch whose axes only happen to have n entries, or a model of fixed n
        if culprit is None:
            return f"half a batch failed with {type(error).__name__}: {str(error)[:120]}"
        raise MixingError(
            f"Got a model that cannot run half of the batch, {n // 2} of {n} samples, since {culprit!r} normalises "
            "with batch statistics. Use running statistics."
        ) from error
    if part.shape[1:] != raw.shape[1:] or len(part) != n // 2:
        return "half a batch gave outputs of another shape"
    full = raw.detach()[: n // 2].double()
    change = float((part.double() - full).norm() / full.norm().clamp_min(torch.finfo(torch.float64).tiny))
    if change > (1e-3 if raw.dtype in (torch.float32, torch.float64) else 5e-2):
        named = "" if culprit is None else f" {culprit!r} normalises with batch statistics."
        raise MixingError(
            f"Got outputs that change by {change:.1e} (relative) when half of the batch is left out, but expected "
            f"each sample's outputs to be its own.{named} Use running statistics, or a model whose samples do "
            "not interact and whose outputs are not random."
        )
    return ""


def _batch_statistics(model: nn.Module) -> str | None:
    """Name of the first BatchNorm that has no running statistics."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            return name
    return None


_KNOWN_FORWARDS = {cls.forward for cls in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention)}


def forward_is_known(module: nn.Module) -> bool:
    """Whether the module computes what its torch class does: nobody has overridden ``forward``."""
    return "forward" not in vars(module) and type(module).forward in _KNOWN_FORWARDS


def departure(layer: Layer, tensor: Tensor, output: Tensor) -> str | None:
    """Why a call's output is not the ``W x + b`` of the layer's rule, or None.

    Subclasses may override ``forward`` (standardised weights, a fused activation), and rules of a user's own may be
    mistaken: then ``W^T K W`` would be the AGOP of another network. Compares the first sample to 1e-3 (5e-2 in half
    precision), relatively. A class with torch's own ``forward`` is trusted, and so is one whose positions differ from
    those of the patches (a convolution that pads its input itself), for which there is nothing to compare.
    """
    if layer.part or forward_is_known(layer.module):
        return None
    if tensor.dim() >= layer.parameter().dim():
        tensor, output = tensor[:1], output[:1]
    patches, found = layer.patches(tensor, len(tensor)), layer.output(output, len(tensor))
    expected = (layer.weight().to(patches) @ patches).flatten(1, 2)
    bias = layer.bias()
    expected = expected if bias is None else expected + bias.detach().to(expected)[:, None]
    if expected.shape != found.shape:
        return None
    size = max(float(found.double().norm()), float(expected.double().norm()))
    apart = float((found.double() - expected.double()).norm()) / (size or 1.0)
    if apart <= (1e-3 if output.dtype in (torch.float32, torch.float64) else 5e-2):
        return None
    return (
        f"the output of {type(layer.module).__name__} is not the W x + b of the {layer.rule.kind} rule (relative "
        f"difference {apart:.1e}); say what it computes with register_layer_rule"
    )
