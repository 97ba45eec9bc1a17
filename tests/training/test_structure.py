"""Order, owners and cuts of any model, against graphs that are cut by hand; the model is given back untouched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, Architecture, half_squares, mlp
from cases import integers, normal
from torch import Tensor, nn
from torch.nn import functional as F

from featlearn.agop.feature_speed import feature_speed
from featlearn.exceptions import DataError, ModelError
from featlearn.training.structure import Structure, read_structure

ALL = pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=str)


def read(model: nn.Module, *shape: int, **options: Any) -> Structure:
    x = normal(*shape)
    return read_structure(model.double(), lambda outputs, _: outputs.square().mean(), x, **options)


# --- order and owners -------------------------------------------------------------------------------------------------


@ALL
def test_every_trained_parameter_belongs_to_exactly_one_layer_and_layers_stand_in_order(architecture: Architecture):
    model = architecture.model()
    structure = read_structure(model, architecture.loss, architecture.batch())
    assert tuple(structure.layers) == architecture.layers
    owned = [id(p) for layer in structure.layers.values() for p in layer.parameters.values()]
    assert sorted(owned) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    for name, layer in structure.layers.items():
        assert layer.name == name
        assert layer.module is model.get_submodule(name)
        assert any(p.dim() >= 2 for p in layer.parameters.values())
    assert structure.readout.name == architecture.layers[-1]
    assert structure.tied == architecture.tied
    assert structure.unreached == ()


@ALL
def test_gradients_and_loss_are_those_of_backward(architecture: Architecture):
    model = architecture.model().eval()
    x, y = architecture.batch()
    structure = read_structure(model, architecture.loss, (x, y))
    value = architecture.loss(model(x), y)
    value.backward()
    assert structure.loss == pytest.approx(value.item(), rel=1e-12)
    parameters = dict(model.named_parameters())
    for layer in structure.layers.values():
        for name, gradient in layer.gradients.items():
            torch.testing.assert_close(gradient, parameters[name].grad, rtol=1e-9, atol=1e-12)


def test_free_parameters_belong_to_the_last_layer_before_their_first_use():
    structure = ARCHITECTURES["class_token"]
    layers = read_structure(structure.model(), structure.loss, structure.batch()).layers
    assert {"token", "positions"} <= set(layers["patch"].parameters)
    assert "encoder.layers.0.norm1.weight" in layers["encoder.layers.0.self_attn.out_proj"].parameters
    assert "encoder.layers.1.norm2.bias" in layers["encoder.layers.1.linear2"].parameters
    cnn = ARCHITECTURES["residual_cnn"]
    layers = read_structure(cnn.model(), cnn.loss, cnn.batch()).layers
    assert "3.bn1.weight" in layers["3.conv1"].parameters
    functional = ARCHITECTURES["functional_norms"]
    layers = read_structure(functional.model(), half_squares, functional.batch()).layers
    assert "gain" in layers["first"].parameters


def test_a_gain_before_every_layer_belongs_to_the_first():
    class Gained(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain, self.layer, self.head = nn.Parameter(torch.ones(4)), nn.Linear(4, 5), nn.Linear(5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(x * self.gain).tanh())

    assert "gain" in read(Gained(), 6, 4).layers["layer"].parameters


def test_gains_of_two_axes_are_no_layer():
    net = nn.Sequential(nn.Conv1d(2, 3, 1), nn.LayerNorm([3, 4]), nn.Flatten(), nn.Linear(12, 1))
    structure = read(net, 6, 2, 4)
    assert list(structure.layers) == ["0", "3"]
    assert {"1.weight", "1.bias"} <= set(structure.layers["0"].parameters)


def test_the_model_itself_may_be_the_layer_also_with_a_parametrisation():
    for model in (nn.Linear(4, 2), nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))):
        structure = read(model, 6, 4)
        assert list(structure.layers) == [""]
        assert structure.last_features is None
        assert len(structure.layers[""].parameters) == len(list(model.parameters()))


@pytest.mark.parametrize("detached", [True, False], ids=["detached", "never called"])
def test_layers_without_a_path_to_the_loss_are_told(detached: bool):
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lost, self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(self.lost(x).detach() if detached else x).tanh())

    structure = read(Broken(), 6, 4)
    assert structure.unreached == ("lost",)
    assert list(structure.layers) == ["layer", "head"]


# --- cuts -------------------------------------------------------------------------------------------------------------


def separated(architecture: Architecture, structure: Structure, name: str) -> bool:
    """Whether the parameters up to layer ``name`` lose their gradient once its output is detached."""
    model = architecture.model().eval()
    before = ["token"] if hasattr(model, "token") else []  # runs before every layer
    for layer in structure.layers.values():
        own = {key for key in layer.parameters if f".{key}".startswith(f".{layer.name}.")}
        before += own if layer.name == name else layer.parameters
        if layer.name == name:
            break
    called = []

    def detach(module: nn.Module, args: Any, output: Any) -> Any:
        called.append(module)
        return (output[0].detach(), *output[1:]) if isinstance(output, tuple) else output.detach()

    model.get_submodule(name).register_forward_hook(detach)
    x, y = architecture.batch()
    value = architecture.loss(model(x), y)
    if not called:
        return False
    parameters = dict(model.named_parameters())
    leaves = [parameters[key] for key in before]
    if not value.requires_grad:
        return True
    return all(gradient is None for gradient in torch.autograd.grad(value, leaves, allow_unused=True))


@ALL
def test_a_cut_takes_the_gradient_of_everything_before_it_when_it_is_detached(architecture: Architecture):
    structure = read_structure(architecture.model(), architecture.loss, architecture.batch())
    for name, layer in structure.layers.items():
        if "self_attn" in name:  # attention uses the weights of out_proj without calling it
            continue
        assert layer.is_cut == separated(architecture, structure, name), name


@pytest.mark.parametrize(
    "name", ["mlp", "residual_cnn", "decoder", "functional_norms", "checkpointed", "frozen_middle"]
)
def test_cuts_are_where_the_loss_decay_is_the_sum_of_those_before(name: str):
    architecture = ARCHITECTURES[name]
    model, batch = architecture.model(), architecture.batch()
    structure = read_structure(model, architecture.loss, batch)
    speed = feature_speed(model, architecture.loss, batch, finite=False)
    assert {n: layer.is_cut for n, layer in structure.layers.items()} == {n: speed[n].is_cut for n in structure.layers}


def test_the_last_features_are_a_layer_or_the_block_around_it():
    expected = {
        "mlp": "4",
        "residual_cnn": "4",
        "class_token": "encoder.layers.1",
        "decoder": "blocks.1",
        "checkpointed": "inner.2",
        "called_twice": "loop",
        "recurrent": "cells",
        "out_of_order": "second",
    }
    for name, features in expected.items():
        architecture = ARCHITECTURES[name]
        structure = read_structure(architecture.model(), architecture.loss, architecture.batch())
        assert structure.last_features == features, name


# --- normalisation ----------------------------------------------------------------------------------------------------


class Normalised(nn.Module):
    """A layer whose output goes through a norm, and perhaps elsewhere, before or after the norm reads it."""

    def __init__(self, elsewhere: str, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.elsewhere = elsewhere
        self.layer, self.head = nn.Linear(4, 6), nn.Linear(6, 1)
        self.norm = nn.LayerNorm(6) if norm is None else norm

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        aside = 2 * h if self.elsewhere == "before" else 0
        normed = self.norm(h)
        normed = normed[0] if isinstance(normed, tuple) else normed
        return self.head((normed + aside + (h if self.elsewhere == "after" else 0)).tanh())


class OwnRMSNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.square().mean(dim=-1, keepdim=True).sqrt()


class NormWithStatistics(OwnRMSNorm):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x), x.detach().mean()


class PreNorm(nn.Module):
    """Called a norm, but a block with a path around its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(self.norm(x))


@pytest.mark.parametrize("norm", [nn.LayerNorm(6), nn.BatchNorm1d(6), nn.RMSNorm(6), OwnRMSNorm()], ids=repr)
def test_a_layer_is_normalised_when_a_norm_alone_reads_it(norm: nn.Module):
    assert {n: e.normalised for n, e in read(Normalised("", norm), 6, 4).layers.items()} == {
        "layer": True,
        "head": False,
    }
    for elsewhere in ("before", "after"):
        assert not read(Normalised(elsewhere, norm), 6, 4).layers["layer"].normalised


@pytest.mark.parametrize("norm", [NormWithStatistics(), PreNorm(), nn.Tanh()], ids=repr)
def test_what_returns_more_or_acts_beside_its_norm_does_not_normalise(norm: nn.Module):
    assert not read(Normalised("", norm), 6, 4).layers["layer"].normalised


# --- the model is a guest ---------------------------------------------------------------------------------------------


class Everything:
    """Whatever a careless measurement could change."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.tensors = {n: t.detach().clone() for n, t in [*model.named_parameters(), *model.named_buffers()]}
        self.grads = {n: p.grad for n, p in model.named_parameters()}
        self.grad_copies = {n: g.clone() for n, g in self.grads.items() if g is not None}
        self.trained = {n: p.requires_grad for n, p in model.named_parameters()}
        self.modes = [m.training for m in model.modules()]
        self.hooks = self.count_hooks()
        self.random = torch.get_rng_state()

    def count_hooks(self) -> list[int]:
        return [
            len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in self.model.modules()
        ]

    def check(self) -> None:
        now = dict([*self.model.named_parameters(), *self.model.named_buffers()])
        assert now.keys() == self.tensors.keys()
        for name, tensor in self.tensors.items():
            assert torch.equal(now[name], tensor), name
        for name, parameter in self.model.named_parameters():
            assert parameter.grad is self.grads[name]
            assert parameter.grad is None or torch.equal(parameter.grad, self.grad_copies[name])
            assert parameter.requires_grad == self.trained[name]
        assert [m.training for m in self.model.modules()] == self.modes
        assert self.count_hooks() == self.hooks
        assert torch.equal(torch.get_rng_state(), self.random)


@ALL
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_model_is_given_back_untouched(architecture: Architecture, mode: Any):
    model = architecture.model()
    next(model.children()).eval()  # a mixture of modes
    x, y = architecture.batch()
    architecture.loss(model(x), y).backward()
    next(iter(model.parameters())).grad = None
    before = Everything(model)
    read_structure(model, architecture.loss, (x, y), mode=mode)
    before.check()


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_model_is_given_back_untouched_after_an_exception(mode: Any):
    architecture = ARCHITECTURES["residual_cnn"]
    model, batch = architecture.model(), architecture.batch()
    before = Everything(model)

    def failing(outputs: Tensor, targets: Tensor) -> Tensor:
        raise RuntimeError("no loss today")

    with pytest.raises(RuntimeError, match="no loss today"):
        read_structure(model, failing, batch, mode=mode)
    before.check()


def test_train_mode_uses_the_statistics_of_the_batch():
    architecture = ARCHITECTURES["residual_cnn"]
    model, (x, y) = architecture.model(), architecture.batch()
    model[7].p = 0.0
    expected = {"eval": architecture.loss(model.eval()(x), y), "train": None}
    running = {n: b.clone() for n, b in model.named_buffers()}
    expected["train"] = architecture.loss(model.train()(x), y)
    for name, buffer in model.named_buffers():
        buffer.copy_(running[name])
    for mode, value in expected.items():
        found = read_structure(model, architecture.loss, (x, y), mode=mode)
        assert found.loss == pytest.approx(value.item(), rel=1e-12)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (lambda outputs, _: outputs, DataError, "one number"),
        (lambda outputs, _: 1.0, DataError, "Got a loss of float"),
        (lambda outputs, _: outputs.sum() * torch.inf, DataError, "finite"),
        (lambda outputs, _: outputs.detach().sum(), ModelError, "depends on no trained weight"),
        (lambda outputs, _: outputs.new_ones((), requires_grad=True), ModelError, "depends on no trained weight"),
    ],
)
def test_losses_that_are_none_are_refused(loss: Any, error: type[Exception], message: str):
    net = mlp().double()
    with pytest.raises(error, match=message):
        read_structure(net, loss, normal(6, 5))


def test_other_bad_input_is_refused():
    net = mlp().double()
    with pytest.raises(DataError, match="mode='test'"):
        read(net, 6, 5, mode="test")
    with pytest.raises(DataError, match="not finite"):
        read_structure(net, half_squares, (torch.full((2, 5), torch.nan), torch.zeros(2, 1)))
    with pytest.raises(DataError, match="empty batch"):
        read_structure(net, half_squares, (torch.zeros(0, 5), torch.zeros(0, 1)))
    with pytest.raises(ModelError, match="expected a torch"):
        read_structure(lambda x: x, half_squares, normal(6, 5))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="depends on no trained weight"):
        read(mlp().requires_grad_(False), 6, 5)


def test_sparse_gradients_and_integer_inputs_are_read():
    net = nn.Sequential(nn.EmbeddingBag(7, 5, sparse=True), nn.Linear(5, 3)).double()
    structure = read_structure(net, F.cross_entropy, (integers(7, 8, 3), integers(3, 8)))
    assert list(structure.layers) == ["0", "1"]
    assert structure.layers["0"].gradients["0.weight"].is_sparse
