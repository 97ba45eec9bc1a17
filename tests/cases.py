"""Models x data: small networks of every documented kind, in float64, with batches of different sizes.

``CASES`` maps a name to a :class:`Case`; tests parametrise over it. Each call of ``case.model()`` and
``case.batches()`` makes new objects with the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Case:
    """One model with data; ``layers`` are the names that ``layers="auto"`` measures, in the order they run."""

    name: str
    build: Callable[[], nn.Module]
    make_batches: Callable[[], list[Any]]
    layers: tuple[str, ...]
    outputs: Any = "logits"  # as in agop_of_module
    trivial: tuple[str, ...] = ()  # layers that are the raw outputs themselves

    def model(self) -> nn.Module:
        return fill(self.build())

    def batches(self) -> list[Any]:
        return self.make_batches()

    def call(self, model: nn.Module, batch: Any) -> Tensor:
        """Outputs (n, ...) for a reference, which knows nothing of the kinds of outputs."""
        if callable(self.outputs):
            return self.outputs(model, batch)
        if isinstance(batch, dict):
            returned = model(**{key: value for key, value in batch.items() if key not in ("label", "labels")})
        else:
            returned = model(batch[0] if isinstance(batch, (tuple, list)) else batch)
        if isinstance(returned, Tensor):
            return returned
        if isinstance(returned, dict):
            return returned["logits"]
        return returned[0] if isinstance(returned, tuple) else returned.logits

    def __str__(self) -> str:
        return self.name


def fill(model: nn.Module, seed: int = 0) -> nn.Module:
    """Parameters and running statistics from a generator of our own, weights of unit gain, in float64."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                fan = tensor[0].numel() if tensor.dim() > 1 else 4
                tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64) / fan**0.5)
                if name.endswith("running_var"):
                    tensor.copy_(0.5 + tensor.abs())
    return model


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def integers(high: int, *shape: int, seed: int = 2) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def split(*shape: int) -> Callable[[], list[Tensor]]:
    """Batches of four samples, the last one smaller."""
    return lambda: list(normal(*shape).split(4))


# --- modules ----------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """Skip connection, two branches and an in-place activation after the sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.left, self.right = (nn.Linear(width, width) for _ in range(3))
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.first(x) + x)
        return self.head(torch.tanh(h + self.left(h) * torch.sigmoid(self.right(h))))


class Repeated(nn.Module):
    """One module called three times."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.loop, self.head = nn.Linear(width, width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.tanh(self.loop(x))
        return self.head(x) ** 2


class Tied(nn.Module):
    """Two modules holding one Parameter."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b, self.head = (nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 2))
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.b(torch.tanh(self.a(x)))))


class TimeFirst(nn.Module):
    """Sequences as (T, n, d); the outputs have samples first."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.inner(x.transpose(0, 1)))
        return torch.tanh(self.head(h)).mean(dim=0)


class FramesInBatch(nn.Module):
    """Frames of a clip merged into the batch axis of a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(2, 3, 3, padding=1), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        n, frames = x.shape[:2]
        h = torch.tanh(self.conv(x.flatten(0, 1))).mean(dim=-1)
        return self.head(h).unflatten(0, (n, frames)).tanh().mean(dim=1)


class SampleBySample(nn.Module):
    """Each sample passes alone, without a batch axis."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.tanh(self.head(torch.tanh(self.conv(image)).mean(dim=(1, 2)))) for image in x])


class Attention(nn.Module):
    """Self- or cross-attention with masks, read out by a nonlinear head."""

    def __init__(self, *, masks: str = "", weights: bool = False, context: int | None = None, **options: Any) -> None:
        super().__init__()
        self.masks, self.weights, self.context = masks, weights, context
        self.attention = nn.MultiheadAttention(4, 2, **options)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        n, length = x.shape[:2]
        key = x if self.context is None else torch.cat([x, x.cos()], dim=-1)[..., : self.context]
        value = x if self.context is None else key.flip(1)[..., : self.attention.vdim]
        layout = (lambda t: t) if self.attention.batch_first else (lambda t: t.transpose(0, 1))
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        padding = (x[..., 0] > 0.4) & (torch.arange(length) > 0)
        blocked = {
            "": {},
            "bool": {"attn_mask": later},
            "float": {"attn_mask": torch.zeros(length, length, dtype=x.dtype).masked_fill_(later, -1.5)},
            "causal": {"attn_mask": later, "is_causal": True},
            "padding": {"key_padding_mask": padding},
            "both": {"attn_mask": later, "key_padding_mask": padding},
            "heads": {"attn_mask": later.flip(0, 1).fill_diagonal_(False).expand(2 * n, -1, -1)},
        }[self.masks]
        h, seen = self.attention(layout(x), layout(key), layout(value), need_weights=self.weights, **blocked)
        h = layout(h)
        h = h if seen is None else h + (seen**2).sum(dim=-1, keepdim=True)
        return torch.tanh(self.head(torch.tanh(h))).sum(dim=1)


class FusedQKV(nn.Module):
    """A fused q, k, v projection, as in vision transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj, self.head = nn.Linear(4, 12), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.head((x + self.proj(F.scaled_dot_product_attention(q, k, v))).tanh().mean(dim=1)).exp()


class Conv1D(nn.Module):
    """Hugging Face's linear layer with a transposed weight."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight, self.bias = nn.Parameter(torch.empty(nx, nf)), nn.Parameter(torch.empty(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], self.nf)


class LoRA(nn.Module):
    """Low-rank adapter around a linear layer, with the attribute names of PEFT."""

    def __init__(self, base: nn.Linear, rank: int, scaling: float) -> None:
        super().__init__()
        self.base_layer, self.scaling = base, {"default": scaling}
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base.out_features, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        update = self.lora_B["default"](self.lora_A["default"](x))
        return self.base_layer(x) + self.scaling["default"] * update


class Square(torch.autograd.Function):
    """An operation whose backward cannot be batched: it leaves torch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * torch.from_numpy(gradient.numpy())


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(3, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.head(Square.apply(self.inner(x))))


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool = False) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.first, self.inner, self.head = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        h = checkpoint(lambda t: torch.tanh(self.inner(t)), h, use_reentrant=self.reentrant)
        return torch.tanh(self.head(h))


class Experts(nn.Module):
    """Each token goes to the expert of its sign: some experts see no token of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high, self.head = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        up = x[..., 0] > 0
        h = x.new_zeros(*x.shape[:-1], 4)
        h = h.masked_scatter(up.unsqueeze(-1), self.high(x[up])).masked_scatter(~up.unsqueeze(-1), self.low(x[~up]))
        return self.head(h.tanh().mean(dim=1)).tanh()


class ReturnsDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(3, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, shift: Tensor) -> dict[str, Tensor]:
        h = torch.tanh(self.inner(x) + shift)
        return {"hidden": h, "logits": self.head(h)}


class ReturnsTuple(ReturnsDict):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        h = torch.tanh(self.inner(x))
        return self.head(h), h


@dataclass
class Output:
    hidden: Tensor
    logits: Tensor
    note: str = "not a tensor"


class ReturnsDataclass(ReturnsDict):
    def forward(self, x: Tensor) -> Output:  # type: ignore[override]
        h = torch.tanh(self.inner(x))
        return Output(h, self.head(h))


class Flat(nn.Module):
    """Mean over everything behind the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(dim=-1)


def convolution(conv: nn.Module, channels: int) -> nn.Sequential:
    """A convolution, an in-place activation, a second view of its positions, and a head."""
    return nn.Sequential(conv, nn.ReLU(inplace=True), Flat(), nn.Linear(channels, 2), nn.Tanh())


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6, bias=False), nn.Tanh(), nn.Linear(6, 3))


def convnet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, (3, 2), groups=2),
        nn.GELU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


def weight_normed() -> nn.Sequential:
    norm = nn.utils.parametrizations.weight_norm
    return nn.Sequential(norm(nn.Linear(4, 6)), nn.Tanh(), norm(nn.Linear(6, 2)), nn.Tanh())


def encoder(**options: Any) -> nn.Sequential:
    layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=6, dropout=0.3, batch_first=True, **options)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 2), nn.Tanh())


def embedding() -> nn.Sequential:
    return nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3))


# --- the registry -----------------------------------------------------------------------------------------------------

_CONVOLUTIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(3, 4, 3), (6, 3, 9)),
    "conv1d_strided_reflect": (lambda: nn.Conv1d(3, 4, 3, stride=2, padding=2, padding_mode="reflect"), (6, 3, 9)),
    "conv1d_grouped": (lambda: nn.Conv1d(4, 6, 2, groups=2, padding=1), (6, 4, 5)),
    "conv1d_depthwise": (lambda: nn.Conv1d(4, 4, 3, groups=4, padding="same"), (6, 4, 5)),
    "conv2d": (lambda: nn.Conv2d(2, 4, 3), (6, 2, 6, 5)),
    "conv2d_one_by_one": (lambda: nn.Conv2d(3, 4, 1), (6, 3, 3, 3)),
    "conv2d_strided": (lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1), (6, 2, 6, 5)),
    "conv2d_dilated_same": (lambda: nn.Conv2d(2, 4, 3, dilation=2, padding="same"), (6, 2, 6, 5)),
    "conv2d_even_same": (lambda: nn.Conv2d(2, 4, (4, 3), padding="same", padding_mode="circular"), (6, 2, 6, 5)),
    "conv2d_circular": (lambda: nn.Conv2d(2, 4, 3, padding=(2, 1), padding_mode="circular"), (6, 2, 6, 5)),
    "conv2d_replicate_valid": (lambda: nn.Conv2d(2, 4, 3, padding="valid", padding_mode="replicate"), (6, 2, 6, 5)),
    "conv2d_reflect_same": (lambda: nn.Conv2d(2, 4, 3, padding="same", padding_mode="reflect"), (6, 2, 6, 5)),
    "conv2d_grouped": (lambda: nn.Conv2d(4, 6, (3, 2), groups=2, stride=(1, 2), bias=False), (6, 4, 5, 6)),
    "conv2d_four_groups": (lambda: nn.Conv2d(4, 8, 3, groups=4, padding=1), (6, 4, 3, 4)),
    "conv2d_depthwise": (lambda: nn.Conv2d(3, 6, 3, groups=3, dilation=(1, 2)), (6, 3, 5, 6)),
    "conv3d": (lambda: nn.Conv3d(2, 3, (2, 3, 2), stride=(1, 2, 1), padding=(0, 1, 1)), (6, 2, 3, 4, 3)),
    "conv3d_depthwise": (lambda: nn.Conv3d(2, 4, 2, groups=2), (6, 2, 3, 3, 3)),
}

_ATTENTIONS: dict[str, dict[str, Any]] = {
    "attention": {"batch_first": True},
    "attention_time_first": {"batch_first": False},
    "attention_weights": {"batch_first": True, "weights": True},
    "attention_weights_time_first": {"batch_first": False, "weights": True, "masks": "both"},
    "attention_causal": {"batch_first": True, "masks": "causal"},
    "attention_bool_mask": {"batch_first": False, "masks": "bool"},
    "attention_float_mask": {"batch_first": True, "masks": "float"},
    "attention_padding": {"batch_first": True, "masks": "padding"},
    "attention_both_masks": {"batch_first": False, "masks": "both"},
    "attention_mask_per_head": {"batch_first": True, "masks": "heads", "weights": True},
    "attention_other_keys": {"batch_first": True, "context": 3, "kdim": 3, "vdim": 2, "bias": False},
    "attention_other_keys_time_first": {"batch_first": False, "context": 5, "kdim": 5, "vdim": 3, "masks": "padding"},
}

_PARTS = tuple(f"attention.{part}" for part in ("q", "k", "v", "out_proj"))
_ENCODER = ("0.self_attn.q", "0.self_attn.k", "0.self_attn.v", "0.self_attn.out_proj", "0.linear1", "0.linear2", "2")


def _dict_batches() -> list[dict[str, Tensor]]:
    x, y = normal(6, 3), integers(3, 6)
    return [
        {"x": x[:4], "shift": x[:4, :1], "labels": y[:4]},
        {"x": x[4:], "shift": x[4:, :1], "labels": y[4:]},
    ]


def _labelled(*shape: int) -> Callable[[], list[tuple[Tensor, Tensor]]]:
    return lambda: list(zip(normal(*shape).split(4), integers(3, shape[0]).split(4), strict=True))


def _double_logits(model: nn.Module, batch: Any) -> Tensor:
    return 2.0 * model(batch[0]).log_softmax(dim=-1)


_LIST = [
    Case("linear", lambda: nn.Sequential(nn.Linear(4, 3)), split(6, 4), ("0",), trivial=("0",)),
    Case("mlp", mlp, split(6, 5), ("0", "2", "4"), trivial=("4",)),
    Case("mlp_labelled", mlp, _labelled(6, 5), ("0", "2", "4"), trivial=("4",)),
    Case("mlp_log_softmax", mlp, _labelled(6, 5), ("0", "2", "4"), outputs=_double_logits),
    Case("mlp_single_samples", mlp, lambda: list(normal(3, 5).split(1)), ("0", "2", "4"), trivial=("4",)),
    Case(
        "wide_head",
        lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 8)),
        split(6, 4),
        ("0", "2"),
        trivial=("2",),
    ),
    Case("sequence", mlp, split(6, 3, 5), ("0", "2", "4"), trivial=("4",)),
    Case("images_of_vectors", mlp, split(5, 2, 2, 5), ("0", "2", "4"), trivial=("4",)),
    Case("time_first", TimeFirst, split(6, 5, 3), ("inner", "head")),
    Case("square_time_first", TimeFirst, split(8, 4, 3), ("inner", "head")),  # as many steps as samples
    Case("frames_in_batch", FramesInBatch, split(6, 3, 2, 5), ("conv", "head")),
    Case("sample_by_sample", SampleBySample, split(6, 2, 4, 5), ("conv", "head")),
    Case("residual", lambda: Residual(4), split(6, 4), ("first", "left", "right", "head"), trivial=("head",)),
    Case("repeated", lambda: Repeated(4), split(6, 4), ("loop", "head")),
    Case("tied", lambda: Tied(4), split(6, 4), ("a", "b", "head"), trivial=("head",)),
    Case("convnet", convnet, _labelled(6, 2, 7, 6), ("0", "3", "8"), trivial=("8",)),
    Case("weight_norm", weight_normed, split(6, 4), ("0", "2")),
    Case("embedding", embedding, lambda: list(integers(7, 6, 3).split(4)), ("2", "4"), trivial=("4",)),
    Case("fused_qkv", FusedQKV, split(6, 3, 4), ("qkv", "proj", "head")),
    Case("encoder", encoder, split(6, 3, 4), _ENCODER),
    Case("encoder_norm_first", lambda: encoder(norm_first=True, activation="gelu"), split(6, 3, 4), _ENCODER),
    Case(
        "conv1d_of_hugging_face",
        lambda: nn.Sequential(Conv1D(6, 4), nn.GELU(), Conv1D(2, 6), nn.Tanh()),
        split(6, 3, 4),
        ("0", "2"),
    ),
    Case(
        "lora",
        lambda: nn.Sequential(LoRA(nn.Linear(4, 6), 2, 0.7), nn.Tanh(), nn.Linear(6, 2)),
        split(6, 4),
        ("0", "2"),
        trivial=("2",),
    ),
    Case(
        "lora_head",
        lambda: nn.Sequential(nn.Linear(4, 2), nn.Tanh(), LoRA(nn.Linear(2, 5), 1, 2.0)),
        split(6, 4),
        ("0", "2"),
        trivial=("2",),
    ),
    Case("custom_function", Custom, split(6, 3), ("inner", "head")),
    Case("checkpointed", Checkpointed, split(6, 3), ("first", "inner", "head")),
    Case(
        "experts",
        Experts,
        lambda: [normal(2, 3, 3).abs(), -normal(3, 3, 3, seed=3).abs(), normal(4, 2, 3, seed=4)],
        ("high", "low", "head"),
        trivial=(),
    ),
    Case("returns_dict", ReturnsDict, _dict_batches, ("inner", "head"), trivial=("head",)),
    Case("returns_tuple", ReturnsTuple, _labelled(6, 3), ("inner", "head"), trivial=("head",)),
    Case("returns_dataclass", ReturnsDataclass, split(6, 3), ("inner", "head"), trivial=("head",)),
    *(
        Case(name, lambda make=make: convolution(make(), make().out_channels), split(*shape), ("0", "3"))
        for name, (make, shape) in _CONVOLUTIONS.items()
    ),
    *(
        Case(name, lambda options=options: Attention(**options), split(6, 3, 4), (*_PARTS, "head"))
        for name, options in _ATTENTIONS.items()
    ),
]

CASES: dict[str, Case] = {case.name: case for case in _LIST}
CONVOLUTIONS = tuple(_CONVOLUTIONS)
