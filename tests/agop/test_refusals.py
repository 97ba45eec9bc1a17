"""Bad input is refused with what was got, what was expected and what to do; nothing has changed afterwards."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from cases import Attention, convnet, embedding, encoder, fill, mlp, normal
from torch import Tensor, nn
from torch.nn import functional as F

from featlearn import Rows, agop_of_module, register_layer_rule
from featlearn.agop import layers as rules
from featlearn.agop.assumptions import departure
from featlearn.agop.finding import resolve_layers
from featlearn.agop.layers import LINEAR
from featlearn.exceptions import DataError, FeatlearnError, MixingError, ModelError, UnmeasurableError

X = normal(6, 5)


def with_nan(value: float = float("nan")) -> Tensor:
    bad = X.clone()
    bad[2, 3] = value
    return bad


def broken_weights() -> nn.Module:
    model = fill(mlp())
    with torch.no_grad():
        model[4].weight[0, 0] = float("nan")
    return model


def wide_outputs() -> nn.Module:
    return fill(nn.Sequential(nn.Linear(5, 3), nn.Flatten(), nn.Linear(3, 5000), nn.Tanh()))


class Returns(nn.Module):
    """Returns what it is told to."""

    def __init__(self, what: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.what = nn.Linear(5, 3), what

    def forward(self, x: Tensor) -> Any:
        return self.what(self.inner(x))


@dataclass
class TwoTensors:
    first: Tensor
    second: Tensor


def returns(what: Callable[[Tensor], Any]) -> Callable[[], nn.Module]:
    return lambda: fill(Returns(what))


def linear_and(module: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: fill(nn.Sequential(nn.Linear(5, 4), module(), nn.Linear(4, 2)))


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2))


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit itself
        return nn.Sequential(torch.jit.trace(fill(mlp()), X), nn.Linear(3, 2).double())


def inference() -> nn.Module:
    with torch.inference_mode():
        return fill(mlp())


class FullyShardedDataParallel(nn.Module):
    """Only the name counts: the real one needs a process group."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 2)


class Vectorised(nn.Module):
    """Written for one sample, run for many."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.vmap(lambda row: self.inner(row).tanh())(x)


BatchNorm = linear_and(lambda: nn.BatchNorm1d(4, track_running_stats=False))
good = lambda: fill(mlp())  # noqa: E731
one = [X]

# model, batches, options, error, parts of the message
TABLE: dict[str, tuple[Callable[[], Any], Any, dict[str, Any], type[FeatlearnError], tuple[str, ...]]] = {
    "unknown layer": (good, one, {"layers": "1.fc"}, UnmeasurableError, ("Got layer '1.fc'", "'0'", "'2'", "'4'")),
    "holder of layers": (
        lambda: fill(encoder()),
        [normal(4, 3, 4)],
        {"layers": "0"},
        UnmeasurableError,
        ("Got '0', which holds layers but is none", "'0.*'", "0.self_attn.q"),
    ),
    "glob without a match": (good, one, {"layers": "conv*"}, UnmeasurableError, ("Got layer 'conv*'", "closest")),
    "no layer name": (good, one, {"layers": [3]}, UnmeasurableError, ("Got the layer 3", "name, a glob or Rows")),
    "empty choice": (good, one, {"layers": []}, UnmeasurableError, ("Got layers=[]", "'auto'")),
    "rows out of range": (
        good,
        one,
        {"layers": Rows("0", 3, 9)},
        UnmeasurableError,
        ("Got rows 3:9 of '0'", "0 <= start < stop <= 7"),
    ),
    "rows of nothing": (good, one, {"layers": Rows("0", 2, 2)}, UnmeasurableError, ("Got rows 2:2",)),
    "rows of an unknown layer": (good, one, {"layers": Rows("9", 0, 2)}, UnmeasurableError, ("Got layer '9'", "'0'")),
    "rows of groups": (
        lambda: fill(convnet()),
        [normal(4, 2, 7, 6)],
        {"layers": Rows("3", 0, 2)},
        UnmeasurableError,
        ("Rows of the grouped convolution '3'",),
    ),
    "rows of one name": (
        good,
        one,
        {"layers": [Rows("0", 0, 2, "h"), Rows("0", 2, 4, "h")]},
        UnmeasurableError,
        ("two Rows called '0.h'", "label of its own"),
    ),
    "no layers": (nn.ReLU, one, {}, UnmeasurableError, ("Got ReLU", "no linear, convolution or attention layer")),
    "no layers, one named": (nn.ReLU, one, {"layers": "fc"}, UnmeasurableError, ("Got layer 'fc'", "has no linear")),
    "embedding": (
        lambda: fill(embedding()),
        [torch.tensor([[1, 2, 3]])],
        {"layers": "0"},
        UnmeasurableError,
        ("Got layer '0', which cannot be measured: an embedding reads indices",),
    ),
    "bilinear": (
        lambda: nn.ModuleDict({"b": nn.Bilinear(2, 2, 3)}),
        one,
        {"layers": "b"},
        UnmeasurableError,
        ("bilinear",),
    ),
    "recurrent": (lambda: nn.ModuleDict({"r": nn.LSTM(2, 3)}), one, {"layers": "r"}, UnmeasurableError, ("recurrent",)),
    "recurrent cell": (
        lambda: nn.ModuleDict({"r": nn.GRUCell(2, 3)}),
        one,
        {"layers": "r"},
        UnmeasurableError,
        ("recurrent cell",),
    ),
    "transposed convolution": (
        lambda: nn.ModuleDict({"t": nn.ConvTranspose2d(2, 3, 3)}),
        one,
        {"layers": "t"},
        UnmeasurableError,
        ("transposed convolution",),
    ),
    "bias_k": (
        lambda: fill(Attention(add_bias_kv=True, batch_first=True)),
        [normal(4, 3, 4)],
        {"layers": "attention"},
        UnmeasurableError,
        ("Got layer 'attention', which cannot be measured", "bias_k"),
    ),
    "add_zero_attn": (
        lambda: fill(Attention(add_zero_attn=True, batch_first=True)),
        [normal(4, 3, 4)],
        {"layers": ["attention.q"]},
        UnmeasurableError,
        ("Got layer 'attention.q', a part of 'attention', which cannot be measured", "add_zero_attn"),
    ),
    "no module": (lambda: F.relu, one, {}, ModelError, ("Got function", "expected a torch.nn.Module")),
    "script": (scripted, one, {}, ModelError, ("ScriptModule at '0'", "Python model it was scripted from")),
    "lazy": (lazy, one, {}, ModelError, ("lazy parameter '0.weight'", "Run the model once first")),
    "lazy, named": (lazy, one, {"layers": "0"}, ModelError, ("lazy parameter '0.weight'",)),
    "inference": (inference, one, {}, ModelError, ("'0.weight' made under torch.inference_mode", "outside")),
    "without numbers": (
        lambda: mlp().to("meta"),
        one,
        {},
        ModelError,
        ("'0.weight' on the meta device", "Load the weights"),
    ),
    "inside vmap": (
        lambda: fill(Vectorised()),
        one,
        {},
        UnmeasurableError,
        ("measured layers 'inner'", "'inner': it ran inside torch.vmap"),
    ),
    "under no_grad": (
        returns(lambda h: h),
        one,
        {"outputs": torch.no_grad()(lambda model, batch: model(batch))},
        UnmeasurableError,
        ("'inner': it ran under torch.no_grad",),
    ),
    "sharded": (
        lambda: nn.Sequential(FullyShardedDataParallel()),
        one,
        {},
        ModelError,
        ("sharded parameters at '0'", "Gather"),
    ),
    "NaN inputs": (good, [X, with_nan()], {}, DataError, ("inputs that are not finite in batch 1", "NaN")),
    "infinite inputs": (good, [with_nan(float("inf"))], {}, DataError, ("inputs that are not finite in batch 0",)),
    "minus infinity": (good, [with_nan(-float("inf"))], {}, DataError, ("not finite",)),
    "NaN outputs": (broken_weights, one, {}, DataError, ("model outputs that are not finite", "weights")),
    "no batches": (good, [], {}, DataError, ("Got no batches", "at least one")),
    "a spent generator": (good, iter(()), {}, DataError, ("Got no batches", "generator can be read only once")),
    "empty batch": (good, [X[:0]], {}, DataError, ("Got an empty batch",)),
    "later empty batch": (good, [X, X[:0]], {}, DataError, ("Got an empty batch",)),
    "one tensor": (good, X, {}, DataError, ("Got one Tensor of shape (6, 5)", "X.split(50)")),
    "one array": (good, X.numpy(), {}, DataError, ("Got one ndarray of shape (6, 5)",)),
    "one mapping": (good, {"x": X}, {}, DataError, ("Got dict", "iterable of batches")),
    "one string": (good, "data", {}, DataError, ("Got str",)),
    "a number": (good, 5, {}, DataError, ("Got int", "iterable of batches")),
    "a data set": (
        good,
        torch.utils.data.TensorDataset(X),
        {},
        DataError,
        ("Got the data set TensorDataset", "DataLoader(dataset"),
    ),
    "batch of a wrong kind": (good, ["x"], {}, DataError, ("Got batch 0 of type str", "a tensor, (inputs, targets)")),
    "batch of nothing": (good, [()], {}, DataError, ("Got batch 0 of type tuple",)),
    "no probes": (good, one, {"probes": 0}, DataError, ("Got probes=0", "'exact', 'auto' or an integer >= 1")),
    "negative probes": (good, one, {"probes": -2}, DataError, ("Got probes=-2",)),
    "half a probe": (good, one, {"probes": 1.5}, DataError, ("Got probes=1.5",)),
    "probes as a truth value": (good, one, {"probes": True}, DataError, ("Got probes=True",)),
    "unknown probes": (good, one, {"probes": "all"}, DataError, ("Got probes='all'",)),
    "probes of a stream": (good, iter(one), {"probes": "auto"}, DataError, ("without a length", "integer")),
    "no random state": (good, one, {"random_state": None}, DataError, ("Got random_state=None", "non-negative")),
    "negative random state": (good, one, {"random_state": -1}, DataError, ("Got random_state=-1", "integer")),
    "unknown outputs": (good, one, {"outputs": "probs"}, DataError, ("Got outputs='probs'", "'logits' or a callable")),
    "too many passes": (
        wide_outputs,
        [normal(2, 5)],
        {},
        DataError,
        ("Got 5000 outputs a sample", "at most 4096", "probes="),
    ),
    "outputs of two tensors": (
        returns(lambda h: {"first": h, "second": h}),
        one,
        {},
        DataError,
        ("'first', 'second'", "none of them 'logits'", "outputs=lambda"),
    ),
    "outputs of a dataclass": (returns(lambda h: TwoTensors(h, h)), one, {}, DataError, ("'first', 'second'",)),
    "outputs of no tensor": (returns(lambda h: "x"), one, {}, DataError, ("Got outputs str", "floating tensor")),
    "outputs of integers": (returns(lambda h: h.argmax(-1)), one, {}, DataError, ("torch.int64", "floating")),
    "one number": (returns(lambda h: h.sum()), one, {}, DataError, ("of shape ()", "samples on its first axis")),
    "detached outputs": (
        returns(lambda h: h.detach()),
        one,
        {},
        UnmeasurableError,
        ("do not depend on the measured layers 'inner'", "detach()"),
    ),
    "batch norm": (BatchNorm, one, {}, MixingError, ("'1' normalises with batch statistics", "running statistics")),
    "batch norm of two samples": (BatchNorm, [X[:2]], {}, MixingError, ("'1' normalises", "1 of 2 samples")),
    "batch norm after one sample": (
        linear_and(lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), nn.BatchNorm1d(2, track_running_stats=False),
                                         nn.Flatten())),
        [X[:1], X],
        {},
        MixingError,
        ("'1.1' normalises",),
    ),
    "contrastive head": (
        returns(lambda h: h - h.mean(dim=0)),
        one,
        {},
        MixingError,
        ("Got outputs that change by", "half of the batch is left out", "each sample's outputs to be its own"),
    ),
    "random outputs": (
        returns(lambda h: F.dropout(h, 0.5, training=True)),
        one,
        {},
        MixingError,
        ("are not random",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.replace(" ", "_"))
def test_refused(row: str) -> None:
    build, batches, options, error, parts = TABLE[row]
    with pytest.raises(error) as caught:
        agop_of_module(build(), batches, **options)
    for part in parts:
        assert part in str(caught.value)
    assert str(caught.value).startswith(("Got ", "Layer "))
    assert str(caught.value).endswith(".")


def test_closest_names_are_three_and_the_nearest_first() -> None:
    model = fill(encoder())
    with pytest.raises(UnmeasurableError, match=r"The closest are '0.linear2', '0.linear1', '[^']+'\.$"):
        resolve_layers(model, "0.linear")


def test_skipped_layers_have_reasons() -> None:
    model = fill(embedding())
    layers, skipped, explicit = resolve_layers(model)
    assert [layer.name for layer in layers] == ["2", "4"]
    assert skipped == {"0": "an embedding reads indices, not vectors, so no input gradient exists"}
    assert not explicit


def test_a_module_of_unknown_kind_that_owns_weights_has_a_reason() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.inner = nn.Parameter(torch.zeros(2, 3)), nn.Linear(3, 2)

    _, skipped, _ = resolve_layers(nn.Sequential(Own()))
    assert "no layer rule for Own" in skipped["0"]
    assert "register_layer_rule" in skipped["0"]


def test_a_minimal_mask_in_the_batch_is_no_bad_input() -> None:
    """Additive masks hold minus infinity; and an axis of a mask may have as many entries as there are samples."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return torch.tanh(self.attention(x, x, x, attn_mask=mask)[0]).sum(dim=1)

    later = torch.ones(3, 3, dtype=torch.bool).triu(1)
    additive = torch.zeros(3, 3, dtype=torch.float64).masked_fill(later, -float("inf"))
    model, x = fill(Masked()), normal(3, 3, 4)
    boolean = agop_of_module(model, [{"x": x, "mask": later}])
    for name, layer in agop_of_module(model, [{"x": x, "mask": additive}]).items():
        torch.testing.assert_close(layer.agop(), boolean[name].agop())


# --- layers that do not compute what their rule says ------------------------------------------------------------------


class StandardisedConv(nn.Conv2d):
    """Weights standardised in the forward pass, as in residual networks of timm."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.flatten(1)
        weight = (flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True)
        return F.conv2d(x, weight.view_as(self.weight), self.bias, self.stride, self.padding)


class FusedReLU(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class InnerLoRA(nn.Linear):
    """An adapter inside a subclass of Linear: ``weight`` is not the whole weight."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.A, self.B = nn.Parameter(torch.empty(2, inputs)), nn.Parameter(torch.empty(outputs, 2))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.A.mT @ self.B.mT


@pytest.mark.parametrize(
    ("build", "batch"),
    [
        (lambda: StandardisedConv(2, 4, 3), normal(4, 2, 5, 5)),
        (lambda: FusedReLU(5, 4), X),
        (lambda: InnerLoRA(5, 4), X),
    ],
    ids=["standardised", "relu", "lora"],
)
def test_a_subclass_that_computes_something_else_is_left_out_or_refused_when_named(
    build: Callable[[], nn.Module], batch: Tensor
) -> None:
    model = fill(nn.Sequential(build(), nn.Flatten(), nn.Linear(4 * (9 if batch.dim() == 4 else 1), 2), nn.Tanh()))
    assert list(agop_of_module(model, [batch])) == ["2"]
    with pytest.raises(UnmeasurableError, match=r"Layer '0' cannot be measured: the output of .* is not the W x \+ b"):
        agop_of_module(model, [batch], layers="0")


def test_a_head_that_computes_something_else_is_not_compressed() -> None:
    """Its weight has rank 3 below 9 outputs, but the outputs are not its product."""
    model = fill(nn.Sequential(nn.Linear(5, 3), nn.Tanh(), FusedReLU(3, 9)))
    reference = fill(nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 9), nn.ReLU()))
    for layers in ("0", "auto"):
        found = agop_of_module(model, [X], layers=layers)
        assert list(found) == ["0"]
        torch.testing.assert_close(found["0"].agop(), agop_of_module(reference, [X])["0"].agop())


def test_a_mistaken_rule_of_the_users_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.empty(4, 5)), None

        def forward(self, x: Tensor) -> Tensor:
            return 2.0 * F.linear(x, self.weight)

    monkeypatch.setattr("featlearn.agop.layers._RULES", dict(rules._RULES))
    register_layer_rule(Doubled, LINEAR)
    with pytest.raises(UnmeasurableError, match="register_layer_rule"):
        agop_of_module(fill(nn.Sequential(Doubled(), nn.Linear(4, 2), nn.Tanh())), [X], layers="0")


def test_classes_with_the_forward_of_torch_and_own_padding_are_trusted() -> None:
    class SamePadded(nn.Conv2d):
        """Pads by the size of its input: patches of the rule and positions of the output differ."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(F.pad(x, (0, 1, 0, 1)))

    layers, _, _ = resolve_layers(nn.Sequential(SamePadded(2, 3, 3, stride=2).double(), nn.Linear(2, 2)))
    x = normal(2, 2, 6, 6)
    assert departure(layers[0], x, layers[0].module(x)) is None
    assert departure(layers[1], x, x) is None


@pytest.mark.parametrize(("cls", "rule"), [(int, LINEAR), (nn.Linear(2, 2), LINEAR), (nn.Linear, "linear")])
def test_wrong_rules_are_refused(cls: Any, rule: Any) -> None:
    with pytest.raises(ModelError, match=r"^Got .* but expected"):
        register_layer_rule(cls, rule)


def test_numpy_numbers_of_probes_are_numbers() -> None:
    found = agop_of_module(good(), one, probes=np.int64(2))
    expected = agop_of_module(good(), one, probes=2)
    assert all(torch.equal(found[name].agop(), expected[name].agop()) for name in found)
