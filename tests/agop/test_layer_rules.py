"""Layer rules: weights, outputs and patches of every kind, and rules of a user's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import CASES, CONVOLUTIONS, Case, Conv1D, LoRA, fill, mlp, normal
from reference import layer_agop, unfold
from torch import Tensor, nn
from torch.nn import functional as F

from featlearn import agop_of_module, register_layer_rule
from featlearn.agop import layers as rules
from featlearn.agop.batches import parse_batch
from featlearn.agop.finding import find_layers, resolve_layers
from featlearn.agop.layers import Layer, LayerRule, lora_reference
from featlearn.agop.taps import Taps, guest
from featlearn.exceptions import UnmeasurableError


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_patches_of_a_convolution_are_its_unfolded_input(name: str) -> None:
    model, (x, _) = CASES[name].model(), CASES[name].batches()
    layer = find_layers(model)[0]["0"]
    expected, _ = unfold(model[0], x)  # (n, P, groups, d)
    assert torch.equal(layer.patches(x, len(x)), expected.permute(0, 2, 3, 1))
    assert torch.equal(layer.patches(x[0], 1), expected[:1].permute(0, 2, 3, 1))  # one image without a batch axis
    kernel = model[0].weight.shape[1:]
    assert layer.rule.patch_shape(model[0]) == tuple(kernel)
    assert layer.weight().shape == (model[0].groups, len(model[0].weight) // model[0].groups, kernel.numel())


@pytest.mark.parametrize("case", CASES.values(), ids=str)
def test_outputs_are_weights_times_patches_plus_bias(case: Case) -> None:
    """``h = W x + b`` for every call of every layer, in the coordinates of the rule."""
    model = case.model().eval()
    layers, _, _ = resolve_layers(model)
    seen: list[tuple[Layer, Tensor, Tensor]] = []
    with guest(model), Taps(layers, on_forward=lambda *call: seen.append((call[0], call[1], call[2].clone()))) as taps:
        batch = case.batches()[0]
        n = len(taps.forward(lambda: case.call(model, batch)))
    assert {layer.name for layer, _, _ in seen} >= set(case.layers)
    for layer, inputs, outputs in seen:
        unbatched = inputs.dim() == 1 or (inputs.dim() == 3 and layer.rule.kind == "conv2d")
        n_call = 1 if unbatched else n
        patches, found = layer.patches(inputs, n_call), layer.output(outputs, n_call)
        expected = (layer.weight() @ patches).flatten(1, 2)
        bias = layer.bias()
        expected = expected if bias is None else expected + bias.detach()[:, None]
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["conv2d_grouped", "mlp", "conv1d_of_hugging_face", "attention", "lora"])
def test_a_gradient_of_the_weight_is_read_as_the_weight_is(name: str) -> None:
    """Moving the parameter by a tensor moves the matrix by that tensor's matrix."""
    for layer in find_layers(CASES[name].model())[0].values():
        parameter = layer.parameter().detach()
        step = normal(*parameter.shape, seed=5)
        torch.testing.assert_close(layer.matrix(parameter + step), layer.weight() + layer.matrix(step))


def test_vectors_in_every_layout() -> None:
    rule = rules.LINEAR
    x = normal(4, 3, 2)
    expected = x.mT
    assert torch.equal(rule.output(None, x, 4), expected)
    assert torch.equal(rule.output(None, x.transpose(0, 1), 4), expected)  # (T, n, d)
    assert torch.equal(rule.output(None, x.flatten(0, 1), 4), expected)  # frames merged into the batch
    assert torch.equal(rule.output(None, x.unsqueeze(1), 4), expected)
    assert rule.output(None, x[0, 0], 4).shape == (1, 2, 1)  # one vector
    assert rule.output(None, x.flatten(0, 1)[:7], 4).shape == (7, 2, 1)  # tokens chosen by a router
    assert rule.output(None, x[:0], 4).numel() == 0
    assert rule.patches(None, x, 4).shape == (4, 1, 2, 3)


# --- adapters ---------------------------------------------------------------------------------------------------------


class PlainLoRA(nn.Module):
    """One adapter whose factors are parameters, scaling a number."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer, self.scaling, self.merged = nn.Linear(4, 6), 0.5, False
        self.lora_A, self.lora_B = nn.Parameter(torch.empty(2, 4)), nn.Parameter(torch.empty(6, 2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.base_layer(x)
        return h if self.merged else h + self.scaling * F.linear(F.linear(x, self.lora_A), self.lora_B)


class TwoAdapters(LoRA):
    """PEFT keeps a dictionary of adapters, of which some are active."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 6), 2, 0.5)
        self.scaling["other"] = 2.0
        self.lora_A["other"], self.lora_B["other"] = nn.Linear(4, 1, bias=False), nn.Linear(1, 6, bias=False)
        self.active_adapters = ["other", "default"]
        self.disable_adapters = False

    def forward(self, x: Tensor) -> Tensor:
        h = self.base_layer(x)
        for key in [] if self.disable_adapters else self.active_adapters:
            h = h + self.scaling[key] * self.lora_B[key](self.lora_A[key](x))
        return h


def merged(adapter: Any) -> None:
    adapter.merged = True


def disabled(adapter: Any) -> None:
    adapter.disable_adapters = True


def only_one(adapter: Any) -> None:
    adapter.active_adapters = ["other"]


@pytest.mark.parametrize(
    ("build", "change"),
    [(PlainLoRA, None), (PlainLoRA, merged), (TwoAdapters, None), (TwoAdapters, disabled), (TwoAdapters, only_one)],
)
def test_adapters(build: Any, change: Any) -> None:
    model, X = fill(nn.Sequential(build(), nn.Tanh(), nn.Linear(6, 2), nn.Tanh())), normal(6, 4)
    if change is not None:
        change(model[0])
    found = agop_of_module(model, [X], layers=["0", "2"])
    torch.testing.assert_close(found["0"].agop(), layer_agop(model, [X], "0")[0], rtol=1e-10, atol=1e-12)
    layer = find_layers(model)[0]["0"]
    assert layer.rule.kind == "lora"
    torch.testing.assert_close(lora_reference(layer), model[0].base_layer.weight.detach())


def test_an_adapter_around_something_else_is_measured_by_its_parts() -> None:
    """Around HF's Conv1D: the base is measured as the layer it is."""
    model = fill(nn.Sequential(LoRA(nn.Linear(4, 6), 2, 0.5), nn.Linear(6, 2)))
    model[0].base_layer = fill(Conv1D(6, 4))
    assert list(find_layers(model)[0]) == [
        "0.base_layer",
        "0.lora_A.default",
        "0.lora_B.default",
        "1",
    ]


# --- a user's own -----------------------------------------------------------------------------------------------------


class Gained(nn.Module):
    """A weight of a direction and a gain for each output."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.direction, self.gain = nn.Parameter(torch.empty(outputs, inputs)), nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.direction) * self.gain


class MoreGained(Gained):
    """A subclass without a rule of its own."""


class TokenMixer(nn.Module):
    """A linear map of the channels of (n, channels, T), as an einsum over the middle axis."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(outputs, inputs)), nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("kd,ndt->nkt", self.weight, x) + self.bias[:, None]


GAINED = LayerRule(
    kind="gained",
    parameter=lambda module: module.direction * module.gain[:, None],
    matrix=lambda module, weight: weight.unsqueeze(0),
    output=rules.LINEAR.output,
    patches=rules.LINEAR.patches,
    bias=lambda module: None,
)

MIXER = LayerRule(
    kind="mixer",
    parameter=lambda module: module.weight,
    matrix=lambda module, weight: weight.unsqueeze(0),
    output=lambda module, output, n: output,
    patches=lambda module, x, n: x.unsqueeze(1),
)


@pytest.fixture
def own_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules of this test only."""
    monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))
    register_layer_rule(Gained, GAINED)
    register_layer_rule(TokenMixer, MIXER)


@pytest.mark.usefixtures("own_rules")
@pytest.mark.parametrize("cls", [Gained, MoreGained])
def test_a_rule_of_the_users(cls: type[Gained]) -> None:
    model, X = fill(nn.Sequential(cls(5, 4), nn.Tanh(), nn.Linear(4, 3), nn.Tanh())), normal(6, 2, 5)
    found = agop_of_module(model, X.split(4))
    assert list(found) == ["0", "2"]
    torch.testing.assert_close(found["0"].agop(), layer_agop(model, [X], "0")[0], rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("own_rules")
def test_a_rule_with_positions_on_the_last_axis() -> None:
    model = fill(nn.Sequential(TokenMixer(3, 4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(20, 2), nn.Tanh()))
    twin = nn.Sequential(nn.Conv1d(3, 4, 1), *model[1:]).double()
    with torch.no_grad():
        twin[0].weight.copy_(model[0].weight.unsqueeze(-1))
        twin[0].bias.copy_(model[0].bias)
    X = normal(6, 3, 5)
    found = agop_of_module(model, X.split(4))["0"].agop()
    torch.testing.assert_close(found, layer_agop(twin, [X], "0")[0], rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("own_rules")
def test_a_rule_replaces_the_one_of_the_base_class() -> None:
    class Renamed(nn.Linear):
        pass

    register_layer_rule(Renamed, LayerRule(**{**vars(rules.LINEAR), "kind": "renamed"}))
    found, _ = find_layers(nn.Sequential(Renamed(3, 2), nn.Linear(2, 2)))
    assert [layer.rule.kind for layer in found.values()] == ["renamed", "linear"]


def test_a_layer_that_returns_no_tensor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pair(Gained):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), x

    class Uses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair, self.head = Pair(5, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.pair(x)[0]).tanh()

    monkeypatch.setattr(rules, "_RULES", {**rules._RULES, Gained: {"": GAINED}})
    with pytest.raises(UnmeasurableError, match="Layer 'pair' returned tuple, but its rule expects one tensor"):
        agop_of_module(fill(Uses()), [normal(4, 5)])


def test_rows_are_named_by_their_label_or_range() -> None:
    assert rules.Rows("qkv", 0, 4).name == "qkv[0:4]"
    assert rules.Rows("qkv", 0, 4, "q").name == "qkv.q"
    layer = resolve_layers(fill(mlp()), rules.Rows("0", 2, 5))[0][0]
    assert layer.weight().shape == (1, 3, 5)
    assert torch.equal(layer.bias(), find_layers(fill(mlp()))[0]["0"].bias()[2:5])
    assert parse_batch(normal(2, 5), layer.module).args[0].shape == (2, 5)
