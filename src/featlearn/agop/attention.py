r"""``nn.MultiheadAttention`` written out, so that its four projections can be seen.

The fused module never calls its children. Recomputing it from its definition,

.. math:: \mathrm{softmax}\!\left(Q K^\top / \sqrt{d_h} + \text{masks}\right) V \, W_o^\top + b_o,

gives the pre-activations of the q, k, v and output projections; the result is checked against the original.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..exceptions import UnmeasurableError

__all__ = ["recompute_attention"]

Tap = Callable[[str, Tensor, Tensor], Tensor]


def recompute_attention(
    module: nn.MultiheadAttention,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    original: tuple[Tensor, Tensor | None],
    tap: Tap,
    name: str,
) -> tuple[Tensor, Tensor | None]:
    """Output of the attention module, with ``tap(part, input, output)`` applied to each projection.

    Raises
    ------
    UnmeasurableError
        When the result differs from the original by more than 1e-4 (1e-2 in half precision), relatively.
    """
    call = _bind(*args, **kwargs)
    inputs = dict(zip("qkv", (call["query"], call["key"], call["value"]), strict=True))
    batched = call["query"].dim() == 3
    from .layers import ATTENTION_PARTS

    projected = {}
    for part, tensor in inputs.items():
        rule = ATTENTION_PARTS[part]
        weight = rule.matrix(module, rule.parameter(module))[0]
        projected[part] = tap(part, tensor, F.linear(tensor, weight, rule.bias(module)))
    heads = {part: _split(tensor, module, batched) for part, tensor in projected.items()}
    mask = _additive_mask(call, module, heads["q"], heads["k"])
    if call["need_weights"]:
        scores = heads["q"] @ heads["k"].mT / math.sqrt(module.head_dim)
        weights = (scores if mask is None else scores + mask).softmax(dim=-1)
        context = weights @ heads["v"]
    else:
        weights = None
        context = F.scaled_dot_product_attention(heads["q"], heads["k"], heads["v"], attn_mask=mask)
    context = context.transpose(1, 2).flatten(2)  # (n, T, E)
    if not batched:
        context = context[0]
    elif not module.batch_first:
        context = context.transpose(0, 1)
    output = tap("out_proj", context, F.linear(context, module.out_proj.weight, module.out_proj.bias))
    if weights is not None:
        weights = weights.mean(dim=1) if call["average_attn_weights"] else weights
        weights = weights if batched else weights[0]
    _check(output.detach(), original[0].detach(), name)
    return output, weights


def _bind(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,  # a hint only: the module requires attn_mask beside it
) -> dict[str, Any]:
    return dict(locals())


def _split(tensor: Tensor, module: nn.MultiheadAttention, batched: bool) -> Tensor:
    """Projected sequence as (n, heads, T, head_dim)."""
    if not batched:
        tensor = tensor.unsqueeze(0)
    elif not module.batch_first:
        tensor = tensor.transpose(0, 1)
    return tensor.unflatten(-1, (module.num_heads, module.head_dim)).transpose(1, 2)


def _additive_mask(call: dict[str, Any], module: nn.MultiheadAttention, queries: Tensor, keys: Tensor) -> Tensor | None:
    def additive(mask: Tensor) -> Tensor:
        if mask.dtype != torch.bool:
            return mask.to(queries.dtype)
        return torch.zeros_like(mask, dtype=queries.dtype).masked_fill_(mask, -math.inf)

    masks = []
    if (mask := call["attn_mask"]) is not None:
        if mask.dim() == 3:  # (n * heads, T, S)
            mask = mask.reshape(len(queries), module.num_heads, *mask.shape[1:])
        masks.append(additive(mask))
    if (padding := call["key_padding_mask"]) is not None:
        masks.append(additive(padding).reshape(-1, 1, 1, keys.shape[2]))
    return sum(masks[1:], masks[0]) if masks else None


def _check(output: Tensor, original: Tensor, name: str) -> None:
    if original.is_nested:
        raise UnmeasurableError(f"Attention {name!r} returned a nested tensor. Pass padded sequences with a mask.")
    finite = original.isfinite()
    difference = (output - original)[finite].float().norm()
    tolerance = 1e-4 if output.dtype in (torch.float32, torch.float64) else 1e-2
    if difference > tolerance * original[finite].float().norm() + torch.finfo(output.dtype).tiny:
        raise UnmeasurableError(
            f"Recomputing the attention {name!r} from its projections gave another output (relative difference "
            f"{float(difference / original[finite].float().norm()):.1e}). Leave it out of layers=."
        )
