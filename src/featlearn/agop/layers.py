r"""Layer rules: how a module's weight, output and input become the ``W``, ``h`` and ``x`` of ``h = W x + b``.

A rule says, for one class of module, which tensor is the weight and how to view it as ``(groups, k, d)``, an output (or
its gradient) as ``(n, groups * k, P)``, and an input as patches ``(n, groups, d, P)``: n samples, P positions.
:func:`register_layer_rule` adds rules of your own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..exceptions import ModelError

__all__ = ["Layer", "LayerRule", "Rows", "refusal", "register_layer_rule", "rules_of"]


@dataclass(frozen=True, kw_only=True)
class LayerRule:
    """How one class of module is read as ``h = W x + b``.

    Attributes
    ----------
    kind : str
        Name shown in reports.
    parameter : callable
        ``module -> Tensor``: the weight as the module holds it, the tensor that a loss has a gradient for.
    matrix : callable
        ``(module, weight) -> Tensor of shape (groups, k, d)``; also applied to the weight's gradient.
    output : callable
        ``(module, output, n) -> Tensor of shape (n, groups * k, P)``, a view where possible. A first axis other than n
        means that samples are spread over it (frames merged into the batch).
    patches : callable
        ``(module, input, n) -> Tensor of shape (n, groups, d, P)``.
    bias : callable
        ``module -> Tensor of shape (groups * k,) or None``.
    patch_shape : callable
        ``module -> (channels / groups, *kernel)`` or ``None``.
    """

    kind: str
    parameter: Callable[[Any], Tensor]
    matrix: Callable[[Any, Tensor], Tensor]
    output: Callable[[Any, Tensor, int], Tensor]
    patches: Callable[[Any, Tensor, int], Tensor]
    bias: Callable[[Any], Tensor | None] = lambda module: module.bias
    patch_shape: Callable[[Any], tuple[int, ...] | None] = lambda module: None


@dataclass(frozen=True)
class Rows:
    """Some output rows of a layer measured as a layer of their own: a fused qkv projection, one head.

    Parameters
    ----------
    layer : str
        Name of the layer.
    start, stop : int
        Rows ``start <= i < stop`` of W, and the same rows and columns of K.
    label : str, optional
        Suffix of the name in the report; default ``"[start:stop]"``.
    """

    layer: str
    start: int
    stop: int
    label: str | None = None

    @property
    def name(self) -> str:
        """Name in the report."""
        return f"{self.layer}[{self.start}:{self.stop}]" if self.label is None else f"{self.layer}.{self.label}"


@dataclass(frozen=True, eq=False)
class Layer:
    """One measured layer: a module seen through its rule, possibly a part of it (attention) or some of its rows."""

    name: str
    module_name: str
    module: nn.Module
    rule: LayerRule
    part: str = ""
    rows: slice | None = None
    shared_with: tuple[str, ...] = ()

    def parameter(self) -> Tensor:
        """The weight as the module holds it; reading it changes nothing, not even a spectral norm in training mode."""
        training = [module for module in self.module.modules() if module.training]
        for module in training:
            module.training = False
        try:
            return self.rule.parameter(self.module)
        finally:
            for module in training:
                module.training = True

    def matrix(self, weight: Tensor) -> Tensor:
        """View a weight (or its gradient, or a reference weight) as (groups, k, d)."""
        matrix = self.rule.matrix(self.module, weight)
        return matrix if self.rows is None else matrix[:, self.rows]

    def weight(self) -> Tensor:
        """``W`` of shape (groups, k, d), detached."""
        return self.matrix(self.parameter().detach())

    def bias(self) -> Tensor | None:
        """Bias of shape (groups * k,), or None."""
        bias = self.rule.bias(self.module)
        return bias if bias is None or self.rows is None else bias[self.rows]

    def output(self, tensor: Tensor, n: int) -> Tensor:
        """View an output, or the gradient with respect to it, as (n, groups * k, P)."""
        output = self.rule.output(self.module, tensor, n)
        return output if self.rows is None else output[:, self.rows]

    def patches(self, tensor: Tensor, n: int) -> Tensor:
        """Input as patches (n, groups, d, P): a copy for convolutions, ``kernel size`` times the input."""
        return self.rule.patches(self.module, tensor, n)


# --- rules ------------------------------------------------------------------------------------------------------------


def _vectors(tensor: Tensor, n: int) -> Tensor:
    """Vectors on the last axis, any leading axes, as (n, features, P)."""
    features = tensor.shape[-1]
    leading = tensor.shape[:-1]
    if leading and leading[0] != n and n in leading:  # (T, n, d): the sample axis is not the first
        tensor = tensor.movedim(leading.index(n), 0)
    if leading and n in leading:
        return tensor.reshape(n, -1, features).mT
    rows = tensor.reshape(-1, features)
    return rows.reshape(n, -1, features).mT if n and len(rows) % n == 0 else rows.unsqueeze(-1)


def _linear_output(module: Any, tensor: Tensor, n: int) -> Tensor:
    return _vectors(tensor, n)


def _linear_patches(module: Any, tensor: Tensor, n: int) -> Tensor:
    return _vectors(tensor, n).unsqueeze(1)


def _weight(module: Any) -> Tensor:
    return module.weight


LINEAR = LayerRule(
    kind="linear",
    parameter=_weight,
    matrix=lambda module, weight: weight.unsqueeze(0),
    output=_linear_output,
    patches=_linear_patches,
)

# Hugging Face's Conv1D is a linear layer that stores its weight as (inputs, outputs).
TRANSPOSED_LINEAR = LayerRule(
    kind="linear",
    parameter=_weight,
    matrix=lambda module, weight: weight.mT.unsqueeze(0),
    output=_linear_output,
    patches=_linear_patches,
)


def _conv_output(module: Any, tensor: Tensor, n: int) -> Tensor:
    spatial = module.weight.dim() - 2
    if tensor.dim() == spatial + 1:  # one image without a batch axis
        tensor = tensor.unsqueeze(0)
    return tensor.flatten(2)


def _conv_patches(module: Any, tensor: Tensor, n: int) -> Tensor:
    assert isinstance(module, nn.modules.conv._ConvNd)
    spatial = module.weight.dim() - 2
    if tensor.dim() == spatial + 1:
        tensor = tensor.unsqueeze(0)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    # The one attribute that holds the padding of every mode, of "same", and of numbers alike.
    padded = nn.functional.pad(tensor, module._reversed_padding_repeated_twice, mode=mode)
    for axis in range(spatial):
        size = (module.kernel_size[axis] - 1) * module.dilation[axis] + 1
        padded = padded.unfold(2 + axis, size, module.stride[axis])[..., :: module.dilation[axis]]
    batch, channels = padded.shape[:2]
    positions = padded.shape[2 : 2 + spatial]
    kernel = padded.shape[2 + spatial :]
    grouped = padded.reshape(batch, module.groups, channels // module.groups, *positions, *kernel)
    order = (0, 1, 2, *range(3 + spatial, 3 + 2 * spatial), *range(3, 3 + spatial))
    return grouped.permute(order).reshape(batch, module.groups, -1, positions.numel())


def _conv_matrix(module: Any, weight: Tensor) -> Tensor:
    return weight.reshape(module.groups, weight.shape[0] // module.groups, -1)


def _convolution(kind: str) -> LayerRule:
    return LayerRule(
        kind=kind,
        parameter=_weight,
        matrix=_conv_matrix,
        output=_conv_output,
        patches=_conv_patches,
        patch_shape=lambda module: tuple(module.weight.shape[1:]),
    )


def _lora_update(module: Any) -> Tensor:
    """``scaling * B A``, summed over the active adapters; zero once merged into the base."""
    base: Tensor = module.base_layer.weight
    if getattr(module, "merged", False) or getattr(module, "disable_adapters", False):
        return torch.zeros_like(base)
    a, b, scaling = module.lora_A, module.lora_B, getattr(module, "scaling", 1.0)
    if not isinstance(a, nn.ModuleDict):
        return float(scaling) * (_factor(b) @ _factor(a))
    active = getattr(module, "active_adapters", None) or list(a)
    update = torch.zeros_like(base)
    for key in (key for key in active if key in a):
        factor = scaling[key] if isinstance(scaling, Mapping) else scaling
        update = update + float(factor) * (_factor(b[key]) @ _factor(a[key]))
    return update


def _factor(factor: Any) -> Tensor:
    return factor if isinstance(factor, Tensor) else factor.weight


LORA = LayerRule(
    kind="lora",
    parameter=lambda module: module.base_layer.weight + _lora_update(module),
    matrix=lambda module, weight: weight.unsqueeze(0),
    output=_linear_output,
    patches=_linear_patches,
    bias=lambda module: module.base_layer.bias,
)


def lora_reference(layer: Layer) -> Tensor:
    """Weight before the adapter, the natural reference of a LoRA layer."""
    return layer.parameter().detach() - _lora_update(layer.module).detach()


def _attention_part(index: int) -> LayerRule:
    names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")

    def parameter(module: Any) -> Tensor:
        return getattr(module, names[index] if module.in_proj_weight is None else "in_proj_weight")

    def own(module: Any) -> slice:
        size: int = module.embed_dim
        return slice(index * size, (index + 1) * size)

    def matrix(module: Any, weight: Tensor) -> Tensor:
        return (weight if module.in_proj_weight is None else weight[own(module)]).unsqueeze(0)

    def bias(module: Any) -> Tensor | None:
        return None if module.in_proj_bias is None else module.in_proj_bias[own(module)]

    return LayerRule(
        kind="attention", parameter=parameter, matrix=matrix, output=_linear_output, patches=_linear_patches, bias=bias
    )


ATTENTION_PARTS = {
    "q": _attention_part(0),
    "k": _attention_part(1),
    "v": _attention_part(2),
    "out_proj": LayerRule(
        kind="attention",
        parameter=lambda module: module.out_proj.weight,
        matrix=lambda module, weight: weight.unsqueeze(0),
        output=_linear_output,
        patches=_linear_patches,
        bias=lambda module: module.out_proj.bias,
    ),
}

_RULES: dict[type[nn.Module], Mapping[str, LayerRule]] = {
    nn.Linear: {"": LINEAR},
    nn.Conv1d: {"": _convolution("conv1d")},
    nn.Conv2d: {"": _convolution("conv2d")},
    nn.Conv3d: {"": _convolution("conv3d")},
    nn.MultiheadAttention: ATTENTION_PARTS,
}

REFUSED: dict[type[nn.Module], str] = {
    nn.Embedding: "an embedding reads indices, not vectors, so no input gradient exists",
    nn.EmbeddingBag: "an embedding reads indices, not vectors, so no input gradient exists",
    nn.Bilinear: "a bilinear layer is not of the form W x + b",
    nn.RNNBase: "a fused recurrent layer hides its pre-activations",
    nn.RNNCellBase: "a recurrent cell sums two weight matrices inside one operation",
    nn.modules.conv._ConvTransposeNd: "a transposed convolution scatters: its patches are not inputs of W",
}


def register_layer_rule(cls: type[nn.Module], rule: LayerRule) -> None:
    """Measure modules of class ``cls`` (and subclasses without a rule of their own) by ``rule``.

    Parameters
    ----------
    cls : type
        Subclass of ``torch.nn.Module`` whose forward computes ``W x + b`` and returns one tensor.
    rule : LayerRule
        Its weight, output and input.
    """
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ModelError(f"Got {cls!r}, but expected a subclass of torch.nn.Module.")
    if not isinstance(rule, LayerRule):
        raise ModelError(f"Got {type(rule).__name__}, but expected a LayerRule.")
    _RULES[cls] = {"": rule}


def rules_of(module: Any) -> Mapping[str, LayerRule] | None:
    """Rules of a module by part ("" for the whole); ``None`` when it has none."""
    if all(hasattr(module, name) for name in ("base_layer", "lora_A", "lora_B")):
        return {"": LORA} if isinstance(module.base_layer, nn.Linear) else None
    for cls in type(module).__mro__:
        if cls in _RULES:
            return _RULES[cls]
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
        return {"": TRANSPOSED_LINEAR}
    return None


def refusal(module: Any) -> str | None:
    """Why a module that owns weights cannot be measured; None when it can, or when it owns none."""
    for cls, reason in REFUSED.items():
        if isinstance(module, cls):
            return reason
    if isinstance(module, nn.MultiheadAttention) and (module.bias_k is not None or module.add_zero_attn):
        return "attention with bias_k or add_zero_attn attends to keys that no input made"
    wide = [name for name, parameter in module.named_parameters(recurse=False) if parameter.dim() >= 2]
    if rules_of(module) is None and wide:
        return (
            f"no layer rule for {type(module).__name__}, which owns {', '.join(wide)}; if that is the weight of a "
            "layer, add one with register_layer_rule"
        )
    return None
