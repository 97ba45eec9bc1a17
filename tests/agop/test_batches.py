"""Batches and outputs as users have them."""

from __future__ import annotations

from collections import OrderedDict, UserDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from cases import fill, mlp, normal
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from featlearn import agop_of_module
from featlearn.agop.batches import count_batches, parse_batch

X, Y = normal(6, 5), torch.arange(6) % 3


class Named(nn.Module):
    """Takes keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)


class Stream(IterableDataset[Any]):
    """Samples one by one, or whole batches."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


class Pair(NamedTuple):
    x: Any
    y: Any


BATCHES: dict[str, Any] = {
    "tensors": lambda: list(X.split(4)),
    "a tuple of tensors": lambda: X.split(4),
    "a generator": lambda: (part for part in X.split(4)),
    "tuples": lambda: list(zip(X.split(4), Y.split(4), strict=True)),
    "lists": lambda: [[x, y, "an identifier"] for x, y in zip(X.split(4), Y.split(4), strict=True)],
    "named tuples": lambda: [Pair(x, y) for x, y in zip(X.split(4), Y.split(4), strict=True)],
    "arrays": lambda: [x.numpy() for x in X.split(4)],
    "read-only arrays": lambda: [np.frombuffer(x.numpy().tobytes()).reshape(-1, 5) for x in X.split(4)],
    "arrays of negative strides": lambda: [x.flip(1).numpy()[:, ::-1] for x in X.split(4)],
    "a loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=4),
    "a loader of a stream": lambda: DataLoader(Stream(X), batch_size=4),
    "a stream of batches": lambda: Stream(X.split(4)),
    "single precision": lambda: [x.float() for x in X.float().split(4)],
    "a graph of the caller's": lambda: [(x.clone().requires_grad_() * 1.0, y) for x, y in [(X[:4], 0), (X[4:], 0)]],
}

MAPPINGS: dict[str, Any] = {
    "mappings": lambda: [{"inputs": x} for x in X.split(4)],
    "with labels": lambda: [{"inputs": x, "labels": y} for x, y in zip(X.split(4), Y.split(4), strict=True)],
    "with a label": lambda: [{"label": y, "inputs": x} for x, y in zip(X.split(4), Y.split(4), strict=True)],
    "encodings of a tokenizer": lambda: [UserDict({"inputs": x}) for x in X.split(4)],
    "a loader": lambda: DataLoader([{"inputs": x, "label": y} for x, y in zip(X, Y, strict=True)], batch_size=4),
}


@pytest.mark.parametrize("kind", BATCHES)
def test_batches_of_every_kind(kind: str) -> None:
    expected = agop_of_module(fill(mlp()), [X])
    found = agop_of_module(fill(mlp()), BATCHES[kind]())
    tolerance = 1e-6 if kind == "single precision" else 1e-12
    for name in ("0", "2", "4"):
        torch.testing.assert_close(found[name].agop(), expected[name].agop(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", MAPPINGS)
def test_mappings_are_keywords_without_the_labels(kind: str) -> None:
    expected = agop_of_module(fill(Named()), [{"inputs": X}])
    found = agop_of_module(fill(Named()), MAPPINGS[kind]())
    for name in expected:
        torch.testing.assert_close(found[name].agop(), expected[name].agop(), rtol=1e-12, atol=1e-14)


def test_targets_and_the_raw_batch_are_kept() -> None:
    model = fill(mlp())
    assert parse_batch(X, model).targets is None
    assert torch.equal(parse_batch((X, Y), model).targets, Y)
    assert torch.equal(parse_batch({"inputs": X, "labels": Y}, model).targets, Y)
    batch = parse_batch({"inputs": X.float(), "label": Y, "text": ["a"]}, model)
    assert batch.kwargs.keys() == {"inputs", "text"}
    assert batch.kwargs["inputs"].dtype == torch.float64  # as the model's parameters
    assert batch.raw["label"].dtype == torch.int64
    assert set(batch.raw) == {"inputs", "label", "text"}
    assert not parse_batch(X.clone().requires_grad_(), model).args[0].requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_floating_inputs_take_the_dtype_of_the_model(dtype: torch.dtype) -> None:
    model = mlp().to(dtype)
    assert parse_batch(X, model).args[0].dtype == dtype
    assert parse_batch(Y, model).args[0].dtype == torch.int64
    assert parse_batch(X, nn.ReLU()).args[0].dtype == torch.float32  # a model without parameters


def test_a_part_of_a_batch_cuts_every_sample_axis() -> None:
    model = fill(mlp())
    part = parse_batch({"inputs": X, "time_first": normal(3, 6, 2), "fixed": normal(4, 4), "label": Y}, model).part(
        model, 0, 3, 6
    )
    assert part is not None
    assert torch.equal(part.kwargs["inputs"], X[:3])
    assert part.kwargs["time_first"].shape == (3, 3, 2)
    assert part.kwargs["fixed"].shape == (4, 4)
    assert torch.equal(part.targets, Y[:3])
    assert parse_batch((["a", "b"],), model).part(model, 0, 1, 2) is None


def test_batches_are_counted_where_they_can_be() -> None:
    assert count_batches([1, 2, 3]) == 3
    assert count_batches([1, 2, 3], world=2) == 6
    assert count_batches(DataLoader(TensorDataset(X), batch_size=4)) == 2
    assert count_batches(DataLoader(Stream(X), batch_size=4)) is None
    assert count_batches(Stream(X)) is None
    assert count_batches(iter([1])) is None


# --- outputs ----------------------------------------------------------------------------------------------------------


@dataclass
class Output:
    logits: Tensor
    loss: Any = None
    hidden: Any = None


class Both(NamedTuple):
    hidden: Tensor
    logits: Tensor


class Only(NamedTuple):
    values: Tensor
    note: str


RETURNS: dict[str, Any] = {
    "tensor": lambda h: h,
    "tuple": lambda h: (h, h * 2, None),
    "tuple with the tensor behind": lambda h: (None, "x", h, h * 2),
    "list": lambda h: [h, h * 2],
    "mapping with logits": lambda h: {"hidden": h * 2, "logits": h},
    "mapping with one tensor": lambda h: {"loss": None, "scores": h},
    "ordered like Hugging Face's": lambda h: OrderedDict(loss=h.sum(), logits=h),
    "dataclass": lambda h: Output(h, h.sum(), (h, h)),
    "named tuple": lambda h: Both(h * 2, h),
    "named tuple with one tensor": lambda h: Only(h, "x"),
}


class Returning(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.net, self.kind = mlp(), kind

    def forward(self, x: Tensor) -> Any:
        return RETURNS[self.kind](self.net(x))


@pytest.mark.parametrize("kind", RETURNS)
def test_outputs_of_every_kind(kind: str) -> None:
    expected = agop_of_module(fill(Returning("tensor")), [X])
    found = agop_of_module(fill(Returning(kind)), [X])
    for name in expected:
        assert torch.equal(found[name].agop(), expected[name].agop())


def test_outputs_of_a_function_see_the_batch_as_it_came() -> None:
    seen = []

    def own_logit(model: nn.Module, batch: Any) -> Tensor:
        inputs, targets = batch
        seen.append(targets)
        return model(inputs).gather(1, targets[:, None])

    model = fill(mlp())
    found = agop_of_module(model, [(X, Y)], outputs=own_logit)["4"]
    assert torch.equal(seen[0], Y)
    rows = model[4].weight[Y]  # the gradient of logit y_i by the hidden features is row y_i of the last weight
    torch.testing.assert_close(found.agop(), (rows.mT @ rows / 6).detach())
    assert found.isotropic is None  # chosen logits are not the raw outputs


def test_outputs_without_a_class_axis_count_as_one_output() -> None:
    model = fill(mlp())
    flat = agop_of_module(model, [X], outputs=lambda model, batch: model(batch)[:, 0])
    column = agop_of_module(model, [X], outputs=lambda model, batch: model(batch)[:, :1])
    for name in flat:
        torch.testing.assert_close(flat[name].agop(), column[name].agop(), rtol=1e-12, atol=1e-14)
