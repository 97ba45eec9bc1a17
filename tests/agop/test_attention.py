"""Attention written out: the same output as the module, whatever its options, and the four projections seen."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import CASES, fill, normal
from reference import layer_agop
from torch import Tensor, nn

from featlearn import agop_of_module
from featlearn.agop.attention import recompute_attention
from featlearn.agop.finding import find_layers
from featlearn.exceptions import UnmeasurableError

LATER = torch.ones(3, 3, dtype=torch.bool).triu(1)
PADDING = torch.tensor([[False, False, True], [False, True, False]])
ADDITIVE = torch.zeros(3, 3, dtype=torch.float64).masked_fill(LATER, -math.inf)

CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "mask": {"attn_mask": LATER},
    "additive": {"attn_mask": ADDITIVE},
    "causal": {"attn_mask": LATER, "is_causal": True},
    "padding": {"key_padding_mask": PADDING},
    "additive padding": {"key_padding_mask": torch.zeros(2, 3, dtype=torch.float64).masked_fill(PADDING, -math.inf)},
    "both": {"attn_mask": ADDITIVE, "key_padding_mask": PADDING.double().mul(-1.0e4)},
    "per head": {"attn_mask": LATER.expand(4, 3, 3)},
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("weights", ["no", "mean", "each head"])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"kdim": 3, "vdim": 5}, {"dropout": 0.5}], ids=str)
def test_recomputed_output_and_weights_are_those_of_the_module(
    call: str, batch_first: bool, weights: str, options: dict[str, Any]
) -> None:
    module = fill(nn.MultiheadAttention(4, 2, batch_first=batch_first, **options)).eval()
    shapes = (4, options.get("kdim", 4), options.get("vdim", 4))
    inputs = [normal(2, 3, size, seed=size) for size in shapes]
    inputs = inputs if batch_first else [x.transpose(0, 1) for x in inputs]
    kwargs = {**CALLS[call], "need_weights": weights != "no", "average_attn_weights": weights == "mean"}
    original = module(*inputs, **kwargs)
    parts: dict[str, tuple[Tensor, Tensor]] = {}

    def tap(part: str, x: Tensor, output: Tensor) -> Tensor:
        parts[part] = (x, output)
        return output

    output, seen = recompute_attention(module, tuple(inputs), kwargs, original, tap, "attention")
    torch.testing.assert_close(output, original[0], rtol=1e-10, atol=1e-12)
    assert (seen is None) == (original[1] is None)
    if seen is not None:
        torch.testing.assert_close(seen, original[1], rtol=1e-10, atol=1e-12)
    assert set(parts) == {"q", "k", "v", "out_proj"}
    for part, layer in find_layers(nn.ModuleDict({"a": module}))[0].items():
        x, h = parts[part.removeprefix("a.")]
        bias = layer.bias()
        expected = x @ layer.weight()[0].mT + (0 if bias is None else bias)
        torch.testing.assert_close(h, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("weights", [True, False])
def test_sequences_without_a_batch_axis(weights: bool) -> None:
    module = fill(nn.MultiheadAttention(4, 2)).eval()
    x = normal(3, 4)
    kwargs = {"need_weights": weights, "attn_mask": LATER, "key_padding_mask": PADDING[0]}
    original = module(x, x, x, **kwargs)
    output, seen = recompute_attention(module, (x, x, x), kwargs, original, lambda part, x, h: h, "attention")
    torch.testing.assert_close(output, original[0], rtol=1e-10, atol=1e-12)
    if weights:
        torch.testing.assert_close(seen, original[1], rtol=1e-10, atol=1e-12)


class Tower(nn.Module):
    """An encoder stack with padding, read by a decoder layer: self- and cross-attention by keyword."""

    def __init__(self) -> None:
        super().__init__()
        options = {"dim_feedforward": 5, "batch_first": True}
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, **options), 2)
        self.decoder = nn.TransformerDecoderLayer(4, 2, **options)

    def forward(self, x: Tensor) -> Tensor:
        padding = (x[..., 0] > 0.5) & (torch.arange(x.shape[1]) > 0)
        memory = self.encoder(x, src_key_padding_mask=padding)
        h = self.decoder(x.flip(1), memory, memory_key_padding_mask=padding, tgt_mask=LATER)
        return h.tanh().sum(dim=1)


def test_stacks_of_encoders_and_decoders() -> None:
    model, X = fill(Tower()), normal(4, 3, 4)
    found = agop_of_module(model, [X])
    assert len(found) == 3 * 6 + 4
    for name in (
        "encoder.layers.0.self_attn.k",
        "encoder.layers.1.linear1",
        "decoder.self_attn.q",
        "decoder.multihead_attn.v",
    ):
        owner, _, part = name.rpartition(".")
        module, part = (owner, part) if "attn" in owner else (name, "")
        expected = layer_agop(model, [X], module, part=part)[0]
        torch.testing.assert_close(found[name].agop(), expected, rtol=1e-10, atol=1e-12)


def test_one_part_alone_equals_the_part_among_all() -> None:
    case = CASES["attention_both_masks"]
    everything = agop_of_module(case.model(), case.batches())
    for part in ("q", "k", "v", "out_proj"):
        name = f"attention.{part}"
        alone = agop_of_module(case.model(), case.batches(), layers=name)
        torch.testing.assert_close(alone[name].agop(), everything[name].agop(), rtol=1e-12, atol=1e-14)


class Scaled(nn.MultiheadAttention):
    """Attention with a temperature of its own."""

    def forward(self, query: Tensor, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        return super().forward(2.0 * query, *args, **kwargs)


class UsesScaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.attention = nn.Linear(4, 4), Scaled(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        return self.attention(h, h, h)[0].sum(dim=1).tanh()


def test_another_attention_is_refused_by_name_and_can_be_left_out() -> None:
    model, X = fill(UsesScaled()), normal(4, 3, 4)
    with pytest.raises(UnmeasurableError, match=r"'attention'.*gave another output.*Leave it out of layers="):
        agop_of_module(model, [X])
    found = agop_of_module(model, [X], layers="inner")["inner"].agop()
    torch.testing.assert_close(found, layer_agop(model, [X], "inner")[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_lower_precision(dtype: torch.dtype) -> None:
    case = CASES["attention_weights_time_first"]
    exact = agop_of_module(case.model(), case.batches())
    found = agop_of_module(case.model().to(dtype), case.batches())
    for name, layer in found.items():
        error = (layer.agop() - exact[name].agop()).norm() / exact[name].agop().norm()
        assert float(error) < (1e-5 if dtype == torch.float32 else 5e-2)
