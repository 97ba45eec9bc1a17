"""``agop_of_module``: what must not change the numbers, and what must."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import (
    CASES,
    Attention,
    Case,
    Checkpointed,
    Custom,
    FusedQKV,
    Tied,
    convnet,
    convolution,
    encoder,
    fill,
    mlp,
    normal,
)
from reference import layer_agop
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint_sequential

from featlearn import Rows, agop_of_module, patch_agop
from featlearn.agop.batches import parse_batch
from featlearn.agop.finding import find_layers, resolve_layers
from featlearn.agop.of_module import ModuleAGOP
from featlearn.agop.taps import guest
from featlearn.exceptions import DataError, UnmeasurableError


def agops(model: nn.Module, batches: Any, **options: Any) -> dict[str, Tensor]:
    return {name: layer.agop() for name, layer in agop_of_module(model, batches, **options).items()}


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor], rtol: float = 1e-12) -> None:
    assert first.keys() == second.keys()
    for name in first:
        scale = float(second[name].abs().max())
        torch.testing.assert_close(first[name].double(), second[name].double(), rtol=rtol, atol=rtol * scale)


def accumulator(model: nn.Module, batches: Any, start: int = 0, **options: Any) -> ModuleAGOP:
    layers, _, explicit = resolve_layers(model)
    measured = ModuleAGOP(model, layers, explicit, **options)
    for i, batch in enumerate(batches, start):
        measured.add(parse_batch(batch, model, i), i)
    return measured


# --- oracle 5: ways of computing that must agree ----------------------------------------------------------------------


def whole(case: Case) -> Any:
    """All samples of a case as one batch."""

    def join(parts: list[Any]) -> Any:
        if isinstance(parts[0], Tensor):
            return torch.cat(parts)
        if isinstance(parts[0], dict):
            return {key: join([part[key] for part in parts]) for key in parts[0]}
        return tuple(join(list(entries)) for entries in zip(*parts, strict=True))

    return join(case.batches())


SAME_SHAPES = [case for name, case in CASES.items() if name != "experts"]


@pytest.mark.parametrize("case", SAME_SHAPES, ids=str)
def test_batch_size_does_not_matter(case: Case) -> None:
    model = case.model()
    split = agops(model, case.batches(), outputs=case.outputs)
    assert_equal(split, agops(model, [whole(case)], outputs=case.outputs), rtol=1e-10)


@pytest.mark.parametrize("case", CASES.values(), ids=str)
def test_loop_equals_many_cotangents_at_once(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    model = case.model()
    at_once = agops(model, case.batches(), outputs=case.outputs)
    monkeypatch.setattr("featlearn.agop.of_module.BATCHED_NUMBERS", 0)
    assert_equal(at_once, agops(model, case.batches(), outputs=case.outputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["mlp", "convnet", "encoder", "conv2d_grouped", "wide_head"])
def test_single_precision_agrees_with_double(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    exact = agops(case.model(), case.batches())
    model = case.model().to(dtype)
    found = agops(model, case.batches())
    assert {agop.dtype for agop in found.values()} == {dtype}
    assert_equal(found, exact, rtol=1e-12 if dtype == torch.float64 else 1e-5)
    assert_equal(agops(model, [whole(case)]), found, rtol=1e-12 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("outputs", [8, 40])
def test_compression_is_exact_and_saves_passes(outputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fill(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, outputs)))
    batches = normal(6, 5).split(4)
    with guest(model):
        compressed = accumulator(model, batches)
    assert compressed.compressed
    assert compressed.passes == 2 * 4  # rank of the head, for each batch
    monkeypatch.setattr("featlearn.agop.of_module.compressed_cotangents", lambda weight: None)
    with guest(model):
        plain = accumulator(model, batches)
    assert plain.passes == 2 * outputs
    first, second = compressed.finalize(), plain.finalize()
    assert_equal({n: a.agop() for n, a in first.items()}, {n: a.agop() for n, a in second.items()})
    assert_equal({"K": first["0"].tangent_kernel}, {"K": second["0"].tangent_kernel})


def test_compression_by_a_head_that_is_not_measured() -> None:
    model = fill(nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2), nn.Linear(2, 9)))
    batches = normal(6, 5).split(4)
    everything = agops(model, batches)
    assert_equal(agops(model, batches, layers="0"), {"0": everything["0"]})
    torch.testing.assert_close(everything["0"], layer_agop(model, batches, "0")[0], rtol=1e-10, atol=1e-12)


def test_a_head_of_rank_one_needs_one_pass() -> None:
    model = fill(mlp())
    with torch.no_grad():
        model[4].weight.copy_(torch.outer(normal(3, seed=5), normal(6, seed=6)))
    with guest(model):
        measured = accumulator(model, [normal(4, 5)])
    assert measured.passes == 1
    torch.testing.assert_close(
        measured.finalize()["0"].agop(), layer_agop(model, [normal(4, 5)], "0")[0], rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("outputs", [3, 9])
def test_a_head_of_zeros_gives_zeros_below(outputs: int) -> None:
    model = fill(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, outputs)))
    nn.init.zeros_(model[2].weight)
    found = agops(model, [normal(6, 5)], layers=["0", "2"])
    assert torch.equal(found["0"], torch.zeros(5, 5, dtype=torch.float64))
    assert torch.equal(found["2"], torch.zeros(4, 4, dtype=torch.float64))


@pytest.mark.parametrize("cut", [1, 2, 4])
@pytest.mark.parametrize("probes", ["exact", 3])
def test_merging_parts_equals_the_whole(cut: int, probes: Any) -> None:
    model, batches = fill(convnet()), normal(20, 2, 7, 6).split(4)
    with guest(model):
        everything = accumulator(model, batches, probes=probes)
        merged = accumulator(model, batches[:cut], probes=probes).merge(
            accumulator(model, batches[cut:], start=cut, probes=probes)
        )
    assert merged.n_samples == 20
    assert merged.passes == everything.passes
    expected = {name: layer.agop() for name, layer in everything.finalize().items()}
    assert_equal({name: layer.agop() for name, layer in merged.finalize().items()}, expected)


def test_merging_results_equals_the_whole() -> None:
    model, X = fill(convnet()), normal(10, 2, 7, 6)
    everything = agop_of_module(model, [X])
    first, second = agop_of_module(model, [X[:3]]), agop_of_module(model, [X[3:]])
    for name, layer in everything.items():
        merged = first[name].merge(second[name])
        assert merged.n_samples == 10
        torch.testing.assert_close(merged.agop(), layer.agop(), rtol=1e-12, atol=1e-14)
    with pytest.raises(DataError, match="expected one layer with equal weights"):
        first["0"].merge(first["3"])


def test_results_of_outputs_of_other_lengths_merge() -> None:
    model = fill(mlp())
    short, long = normal(4, 2, 5), normal(6, 7, 5, seed=3)
    merged = agop_of_module(model, [short])["4"].merge(agop_of_module(model, [long])["4"])
    torch.testing.assert_close(merged.agop(), layer_agop(model, [short, long], "4")[0], rtol=1e-12, atol=1e-14)


def test_sequences_of_different_lengths() -> None:
    """The kernel of the last layer is the number of positions times the identity, averaged over all batches."""
    model = fill(mlp())
    batches = [normal(4, 2, 5), normal(6, 7, 5, seed=3), normal(1, 3, 5, seed=4)]
    found = agops(model, batches)
    for name, agop in found.items():
        torch.testing.assert_close(agop, layer_agop(model, batches, name)[0], rtol=1e-10, atol=1e-12)
    with guest(model):
        merged = accumulator(model, batches[:1]).merge(accumulator(model, batches[1:], start=1)).finalize()
    assert_equal({name: layer.agop() for name, layer in merged.items()}, found)


def test_the_columns_of_the_weight_suffice_for_wide_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above 1024 outputs the kernel is kept in a basis of the columns of W."""
    model = fill(nn.Sequential(nn.Linear(5, 1100), nn.Tanh(), nn.Linear(1100, 3), nn.Tanh()))
    X = normal(6, 5)
    layer = agop_of_module(model, X.split(4))["0"]
    assert layer.tangent_kernel.shape == (1, 5, 5)
    assert layer.basis.shape == (1100, 5)
    torch.testing.assert_close(layer.agop(), layer_agop(model, [X], "0")[0], rtol=1e-10, atol=1e-12)
    halves = [agop_of_module(model, [part])["0"] for part in X.split(3)]
    torch.testing.assert_close(halves[0].merge(halves[1]).agop(), layer.agop(), rtol=1e-10, atol=1e-12)


# --- layers that run for some batches only ----------------------------------------------------------------------------


class Switch(nn.Module):
    """Batches of positive first feature take the left branch, others the right one."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.head(torch.tanh((self.left if x[0, 0] > 0 else self.right)(x))))


def switched(sign: float, n: int, seed: int) -> Tensor:
    X = normal(n, 5, seed=seed)
    X[:, 0] = sign * X[:, 0].abs()
    return X


@pytest.mark.parametrize("layers", ["auto", ["right", "left"]])
def test_a_layer_that_runs_in_a_later_batch_only(layers: Any) -> None:
    model = fill(Switch())
    batches = [switched(1, 3, 1), switched(-1, 5, 2), switched(-1, 2, 3), switched(1, 4, 4)]
    found = agops(model, batches, layers=layers)
    for name in ("left", "right"):
        torch.testing.assert_close(found[name], layer_agop(model, batches, name)[0], rtol=1e-10, atol=1e-12)
    with guest(model):
        merged = accumulator(model, batches[:1]).merge(accumulator(model, batches[1:3], start=1))
        merged.merge(accumulator(model, batches[3:], start=3))
    assert_equal({name: a.agop() for name, a in merged.finalize().items()}, agops(model, batches))


def test_outputs_made_by_different_layers_are_refused() -> None:
    class TwoHeads(Switch):
        def forward(self, x: Tensor) -> Tensor:
            return (self.left if x[0, 0] > 0 else self.right)(x)

    with pytest.raises(UnmeasurableError, match="another layer made than in the first batch"):
        agop_of_module(fill(TwoHeads()), [switched(1, 3, 1), switched(-1, 5, 2)])


def test_a_layer_that_never_runs_is_left_out_or_refused_when_named() -> None:
    model = fill(Switch())
    assert list(agop_of_module(model, [switched(1, 3, 1)])) == ["left", "head"]
    with pytest.raises(UnmeasurableError, match="Layer 'right' cannot be measured: it never ran"):
        agop_of_module(model, [switched(1, 3, 1)], layers=["left", "right"])


class Detached(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.lost, self.kept = how, nn.Linear(5, 4), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "no_grad":
            with torch.no_grad():
                lost = self.lost(x)
        else:
            lost = self.lost(x).detach()
        return torch.tanh(self.kept(x) + lost)


@pytest.mark.parametrize(
    ("how", "reason"), [("no_grad", "torch.no_grad"), ("detach", "do not depend on the measured layers 'lost'")]
)
def test_a_layer_cut_off_is_left_out_or_refused_when_named(how: str, reason: str) -> None:
    model, X = fill(Detached(how)), normal(4, 5)
    found = agops(model, [X])
    assert list(found) == ["kept"]
    torch.testing.assert_close(found["kept"], layer_agop(model, [X], "kept")[0], rtol=1e-10, atol=1e-12)
    with pytest.raises(UnmeasurableError, match=reason):
        agop_of_module(model, [X], layers="lost")


# --- kinds of models --------------------------------------------------------------------------------------------------


def test_user_hooks_that_change_inputs_and_outputs_are_part_of_the_model() -> None:
    model, X = fill(mlp()), normal(4, 5)
    model[0].register_forward_pre_hook(lambda module, args: (2.0 * args[0],))
    model[2].register_forward_hook(lambda module, args, output: output**2)
    model[2].register_full_backward_hook(lambda module, inputs, outputs: None)
    for name, agop in agops(model, [X]).items():
        torch.testing.assert_close(agop, layer_agop(model, [X], name)[0], rtol=1e-10, atol=1e-12)


def test_a_frozen_lower_half_changes_nothing() -> None:
    model, X = fill(mlp()), normal(4, 5)
    expected = agops(model, [X])
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    assert_equal(agops(model, [X]), expected)


@pytest.mark.parametrize("probes", ["exact", 2])
def test_inputs_that_require_a_gradient_change_nothing(probes: Any) -> None:
    model, X = fill(mlp()), normal(4, 5)
    expected = agops(model, [X], probes=probes)
    assert_equal(agops(model, [(2 * X).requires_grad_() / 2], probes=probes), expected)


def test_gradients_that_leave_the_model_are_refused() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.head = torch.ones(5, dtype=torch.float64, requires_grad=True), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x * self.scale).tanh()

    with pytest.raises(UnmeasurableError, match="passes layer 'head' and ends in a tensor that is no parameter"):
        agop_of_module(fill(Scaled()), [normal(4, 5)])


def test_channels_last_gives_the_same_numbers() -> None:
    model, X = fill(convnet()), normal(4, 2, 7, 6)
    expected = agops(model, [X])
    last = model.to(memory_format=torch.channels_last)
    assert_equal(agops(last, [X.to(memory_format=torch.channels_last)]), expected, rtol=1e-10)


@pytest.mark.parametrize("unbatched", [True, False])
def test_one_image_without_a_batch_axis(unbatched: bool) -> None:
    """The outputs are given a sample axis of one; k = n = 1 is the case that shapes cannot tell apart."""
    for channels in (1, 3):
        model = fill(convolution(nn.Conv2d(2, channels, 3), channels)[:2])
        image = normal(2, 5, 4)
        batch = image if unbatched else image.unsqueeze(0)

        def outputs(model: nn.Module, batch: Tensor) -> Tensor:
            return torch.tanh(model(batch)).reshape(1, -1)[:, :5]

        found = agops(model, [batch], outputs=outputs)
        expected = layer_agop(model, [batch], "0", call=outputs)[0]
        torch.testing.assert_close(found["0"], expected, rtol=1e-10, atol=1e-12)


def test_vectors_without_a_batch_axis() -> None:
    class OneByOne(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(5, width), nn.Linear(width, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([torch.tanh(self.head(torch.tanh(self.inner(row)))) for row in x])

    for n, width in ((4, 4), (1, 1), (3, 6)):
        model, X = fill(OneByOne(width)), normal(n, 5)
        for name, agop in agops(model, [X]).items():
            torch.testing.assert_close(agop, layer_agop(model, [X], name)[0], rtol=1e-10, atol=1e-12)


OTHERS: dict[str, tuple[Callable[[Any, Tensor], Tensor], tuple[int, ...]]] = {
    "sums in place": (lambda m, x: m.c(m.a(x).add_(m.b(x)).mul_(2.0)).tanh(), (6, 5)),
    "inputs changed after use": (lambda m, x: _changed_after_use(m, x * 1.0), (6, 5)),
    "written into a larger tensor": (lambda m, x: _written(m, x), (6, 5)),
    "complex numbers on the way": (lambda m, x: torch.fft.ifft(torch.fft.fft(m.a(x)) * torch.fft.fft(m.b(x))).real,
                                   (6, 5)),
    "checkpoints in a row": (lambda m, x: checkpoint_sequential(nn.Sequential(m.a, nn.ReLU(inplace=True), m.c), 2, x,
                                                                use_reentrant=False).tanh(), (6, 5)),
    "a recurrent layer between": (lambda m, x: m.c(m.r(m.a(x))[0][:, -1]).tanh(), (6, 3, 5)),
    "outputs of one sample by many": (lambda m, x: torch.func.vmap(torch.tanh)(m.a(x)), (6, 5)),
}  # fmt: skip


def _changed_after_use(m: Any, x: Tensor) -> Tensor:
    h = m.a(x)
    x.relu_()
    return m.c(h).tanh() + x[:, :2]


def _written(m: Any, x: Tensor) -> Tensor:
    table = x.new_zeros(len(x), 6)
    table[:, :4] = m.a(x)
    table[:, 2:5] *= 2
    return m.c(table[:, 2:]).tanh()


@pytest.mark.parametrize("name", OTHERS)
def test_other_ways_of_writing_a_forward_pass(name: str) -> None:
    forward, shape = OTHERS[name]

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(4, 2)
            self.r = nn.GRU(4, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return forward(self, x)

    model, X = fill(Model()), normal(*shape)
    found = agops(model, X.split(4))
    assert found
    for layer, agop in found.items():
        torch.testing.assert_close(agop, layer_agop(model, [X], layer)[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("head", [nn.Conv2d(4, 3, 2, stride=2), nn.Conv2d(4, 4, 2, groups=2)], ids=["plain", "groups"])
def test_a_convolution_that_makes_the_outputs(head: nn.Module) -> None:
    model, X = fill(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True), head)), normal(6, 2, 6, 5)
    found = agop_of_module(model, X.split(4))
    assert found["2"].isotropic == math.prod(model(X).shape[2:])
    for name, layer in found.items():
        expected = layer_agop(model, [X], name)
        torch.testing.assert_close(layer.agop().reshape(expected.shape), expected, rtol=1e-10, atol=1e-12)


def test_an_attention_that_makes_the_outputs() -> None:
    class Bare(Attention):
        def forward(self, x: Tensor) -> Any:  # type: ignore[override]
            return self.attention(x, x, x)

    model, X = fill(Bare(batch_first=True)), normal(6, 3, 4)
    found = agop_of_module(model, X.split(4))
    assert found["attention.out_proj"].isotropic == 3
    for part in ("q", "k", "v", "out_proj"):
        expected = layer_agop(model, [X], "attention", call=lambda model, batch: model(batch)[0], part=part)[0]
        torch.testing.assert_close(found[f"attention.{part}"].agop(), expected, rtol=1e-10, atol=1e-12)


def test_pruned_weights_are_measured_as_they_act() -> None:
    model, X = fill(mlp()), normal(4, 5)
    prune.l1_unstructured(model[0], "weight", 0.5)
    twin = fill(mlp())
    with torch.no_grad():
        twin[0].weight.copy_(model[0].weight)
    assert_equal(agops(model, [X]), agops(twin, [X]))
    torch.testing.assert_close(agops(twin, [X])["0"], layer_agop(twin, [X], "0")[0], rtol=1e-10, atol=1e-12)


def test_shared_weights_are_told() -> None:
    model = fill(Tied(4))
    layers, _ = find_layers(model)
    assert layers["a"].shared_with == ("b",)
    assert layers["b"].shared_with == ("a",)
    assert layers["head"].shared_with == ()


def test_an_alias_names_the_module_it_is() -> None:
    inner = nn.Linear(5, 5)
    model = fill(nn.Sequential(inner, nn.Tanh(), inner, nn.Tanh()))
    assert_equal(agops(model, [normal(4, 5)], layers="2"), agops(model, [normal(4, 5)], layers="0"))


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")], ids=["dp", "compiled"])
def test_wrappers_are_taken_off(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model, X = fill(mlp()), normal(4, 5)
    assert_equal(agops(wrap(model), [X]), agops(model, [X]))
    assert_equal(agops(nn.DataParallel(wrap(model)), [X]), agops(model, [X]))


def test_compiled_parts_run_uncompiled() -> None:
    X = normal(4, 5)
    expected = agops(fill(mlp()), [X])
    inner = fill(mlp())
    inner[0] = torch.compile(inner[0], backend="eager")
    inner[2].compile(backend="eager")
    inner(X)  # compiled code exists before the measurement
    found = agops(inner, [X])
    assert_equal({name.replace("._orig_mod", ""): agop for name, agop in found.items()}, expected)


def test_reentrant_checkpoints_are_refused() -> None:
    model = fill(Checkpointed(reentrant=True))
    for probes in ("exact", 1):
        with pytest.raises(UnmeasurableError, match=r"reentrant checkpointing.*Use use_reentrant=False"):
            agop_of_module(model, [normal(4, 3)], probes=probes)


def test_operations_without_a_batching_rule_fall_back_and_count_once() -> None:
    model = fill(Custom())
    with guest(model):
        measured = accumulator(model, [normal(4, 3), normal(2, 3, seed=3)])
    assert measured.batched.startswith("unsupported: ")
    assert measured.passes == 6
    for name, layer in measured.finalize().items():
        expected = layer_agop(model, [normal(4, 3), normal(2, 3, seed=3)], name)[0]
        torch.testing.assert_close(layer.agop(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("build", [mlp, convnet, lambda: nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 300))])
def test_half_precision_weights(build: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    """Sums are kept in float32. The wide head has more outputs than inputs, so its cotangents are compressed."""
    X = normal(6, 2, 7, 6) if build is convnet else normal(6, 5)
    half = fill(build()).to(dtype)
    exact = agops(fill(build()).to(dtype).double(), [X.to(dtype)])
    found = agops(half, X.split(4))
    assert found.keys() == exact.keys()
    for name, agop in found.items():
        assert agop.dtype == torch.float32
        assert float((agop - exact[name]).norm() / exact[name].norm()) < 2e-2


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("width", [7, 1100])
def test_autocast(inside: bool, width: int) -> None:
    """Around the call or around the model: the sums are kept in float32."""
    model = fill(nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 3), nn.Softplus())).float()
    X = normal(6, 5)
    exact = agops(model, [X])
    if inside:

        def outputs(model: nn.Module, batch: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return model(batch)

        found = agop_of_module(model, [X], outputs=outputs)
    else:
        with torch.autocast("cpu", torch.bfloat16):
            found = agop_of_module(model, [X])
    for name, layer in found.items():
        assert layer.tangent_kernel.dtype == torch.float32
        assert float((layer.agop() - exact[name]).norm() / exact[name].norm()) < 2e-2


# --- parts of layers --------------------------------------------------------------------------------------------------


def test_rows_of_a_fused_projection_are_measured_alone() -> None:
    model, X = fill(FusedQKV()), normal(6, 3, 4)
    parts = [Rows("qkv", 0, 4, "q"), Rows("qkv", 4, 8, "k"), Rows("qkv", 8, 12)]
    found = agop_of_module(model, X.split(4), layers=[*parts, "qkv"])
    assert set(found) == {"qkv.q", "qkv.k", "qkv[8:12]", "qkv"}
    for part in parts:
        expected = layer_agop(model, [X], "qkv", rows=slice(part.start, part.stop))[0]
        torch.testing.assert_close(found[part.name].agop(), expected, rtol=1e-10, atol=1e-12)
        block = found["qkv"].tangent_kernel[:, part.start : part.stop, part.start : part.stop]
        torch.testing.assert_close(found[part.name].tangent_kernel, block, rtol=1e-12, atol=1e-14)


def test_rows_of_a_convolution_and_of_the_last_layer() -> None:
    model, X = fill(convnet()), normal(6, 2, 7, 6)
    found = agops(model, [X], layers=[Rows("0", 1, 3), Rows("8", 0, 2)])
    expected = layer_agop(model, [X], "0", rows=slice(1, 3))[0]
    torch.testing.assert_close(found["0[1:3]"], expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found["8[0:2]"], model[8].weight[:2].mT @ model[8].weight[:2], rtol=1e-10, atol=1e-12)


def test_rows_of_one_part_of_an_attention_module() -> None:
    model, X = fill(Attention(batch_first=True)), normal(6, 3, 4)
    found = agop_of_module(model, [X], layers=[Rows("attention.v", 0, 2, "head0"), "attention.v"])
    block = found["attention.v"].tangent_kernel[:, :2, :2]
    torch.testing.assert_close(found["attention.v.head0"].tangent_kernel, block, rtol=1e-12, atol=1e-14)


def test_names_globs_and_modules_select() -> None:
    model = fill(encoder())
    X = normal(4, 3, 4)
    assert set(agops(model, [X], layers="0.self_attn")) == {f"0.self_attn.{p}" for p in ("q", "k", "v", "out_proj")}
    assert set(agops(model, [X], layers="*linear?")) == {"0.linear1", "0.linear2"}
    assert set(agops(model, [X], layers=("2", "0.lin*"))) == {"2", "0.linear1", "0.linear2"}
    everything = agops(model, [X])
    assert_equal(agops(model, [X], layers="0.linear2"), {"0.linear2": everything["0.linear2"]})


def test_a_model_that_is_one_layer() -> None:
    model = fill(nn.Linear(5, 2))
    (agop,) = agops(model, [normal(4, 5)]).values()
    torch.testing.assert_close(agop, model.weight.mT @ model.weight)


# --- results ----------------------------------------------------------------------------------------------------------


def test_patch_agop_has_the_groups_on_its_diagonal() -> None:
    model, X = fill(convnet()), normal(6, 2, 7, 6)
    found = agop_of_module(model, [X])
    one = patch_agop(found["0"])
    torch.testing.assert_close(one.matrix, found["0"].agop())
    assert one.patch_shape == (2, 3, 3)
    images = one.images(4)
    assert images.shape == (4, 2, 3, 3)
    values = torch.linalg.eigvalsh(one.matrix).flip(0)
    vectors = images.flatten(1).mT
    torch.testing.assert_close(one.matrix @ vectors, vectors * values[:4], rtol=1e-8, atol=1e-10)
    two = patch_agop(found["3"])
    assert two.matrix.shape == (24, 24)
    assert two.patch_shape == (4, 3, 2)
    assert torch.equal(two.matrix[:12, :12], found["3"].agop()[0])
    assert torch.equal(two.matrix[:12, 12:], torch.zeros(12, 12, dtype=torch.float64))
    with pytest.raises(UnmeasurableError, match="Got '8', which is no convolution"):
        patch_agop(found["8"])


def test_spectrum_is_that_of_the_agop() -> None:
    found = agop_of_module(fill(convnet()), [normal(6, 2, 7, 6)])
    for name in ("0", "3", "8"):
        agop = found[name].agop()
        blocks = agop.unsqueeze(0) if agop.dim() == 2 else agop
        expected = torch.cat([torch.linalg.eigvalsh(block) for block in blocks]).sort(descending=True).values
        np.testing.assert_allclose(found[name].spectrum().values, expected.clamp_min(0), rtol=1e-9, atol=1e-12)


def test_effective_coordinates_give_the_agop() -> None:
    for name, layer in agop_of_module(fill(convnet()), [normal(6, 2, 7, 6)]).items():
        weight, kernel = layer.effective()
        agop = weight.mT @ kernel @ weight
        torch.testing.assert_close(agop[0] if len(agop) == 1 else agop, layer.agop(), msg=name)


# --- the accumulator --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probes", ["exact", 4])
def test_batches_go_to_blocks_in_turn(probes: Any) -> None:
    model, batches = fill(convnet()), normal(26, 2, 7, 6).split(2)
    with guest(model):
        measured = accumulator(model, batches, probes=probes, jackknife=True, n_batches=13)
        kernel = measured.kernels["0"]
        assert kernel.blocks == (10 if probes == "exact" else 5)
        single = [accumulator(model, [b], start=i, probes=probes).kernels["0"].sums for i, b in enumerate(batches)]
    expected = torch.zeros_like(kernel.sums)
    for i, sums in enumerate(single):
        expected[:, i % kernel.blocks] += sums[:, 0]
    torch.testing.assert_close(kernel.sums, expected, rtol=1e-12, atol=1e-14)
    assert kernel.samples.tolist() == [2 * len(range(b, 13, kernel.blocks)) for b in range(kernel.blocks)]


class Stops(nn.Module):
    """The backward pass of the third batch is interrupted, half-way down."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.armed = mlp(), False

    def forward(self, x: Tensor) -> Tensor:
        h = self.net[:2](x)
        if self.armed:
            h.register_hook(self._stop)
        return self.net[2:](h)

    def _stop(self, gradient: Tensor) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("probes", ["exact", 2])
@pytest.mark.parametrize("at_once", [True, False])
def test_an_interrupted_batch_leaves_nothing_behind(
    probes: Any, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not at_once:
        monkeypatch.setattr("featlearn.agop.of_module.BATCHED_NUMBERS", 0)
    model, batches = fill(Stops()), normal(12, 5).split(4)
    with guest(model):
        expected = accumulator(model, batches[:2], probes=probes, jackknife=True, n_batches=3).finalize()
        measured = accumulator(model, batches[:2], probes=probes, jackknife=True, n_batches=3)
        model.armed = True
        with pytest.raises(KeyboardInterrupt):
            measured.add(parse_batch(batches[2], model, 2), 2)
    found = measured.finalize()
    assert measured.n_samples == 8
    assert {layer.n_samples for layer in found.values()} == {8}
    assert_equal({n: a.agop() for n, a in found.items()}, {n: a.agop() for n, a in expected.items()})


def test_a_reference_weight_widens_the_basis() -> None:
    model, X = fill(nn.Sequential(nn.Linear(5, 1100), nn.Tanh(), nn.Linear(1100, 3), nn.Tanh())), normal(6, 5)
    other = fill(nn.Linear(5, 1100), seed=8).weight.detach().unsqueeze(0)
    with guest(model):
        plain = accumulator(model, [X], reduce_coordinates=False).kernels["0"]
        wide = accumulator(model, [X], references={"0": other}).kernels["0"]
    assert plain.basis is None
    assert wide.basis.shape == (1100, 10)
    for weight in (model[0].weight.detach(), other[0]):
        torch.testing.assert_close(wide.basis @ (wide.basis.mT @ weight), weight, rtol=1e-10, atol=1e-12)
        small = wide.basis.mT @ weight
        expected = weight.mT @ plain.finalize()[0] @ weight
        torch.testing.assert_close(small.mT @ wide.finalize()[0] @ small, expected, rtol=1e-10, atol=1e-12)


def test_layers_too_wide_are_left_out_or_refused_when_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featlearn.agop.of_module.WIDEST", 5)
    model, X = fill(mlp()), normal(4, 5)
    assert list(agop_of_module(model, [X])) == ["0", "4"]  # the second is 6 x 7
    with pytest.raises(UnmeasurableError, match=r"Layer '2' cannot be measured: its smaller side 6 is above 5.*Rows"):
        agop_of_module(model, [X], layers="2")
    assert list(agop_of_module(model, [X], layers=Rows("2", 0, 5))) == ["2[0:5]"]


def test_accumulators_of_other_options_do_not_merge() -> None:
    model, X = fill(mlp()), normal(4, 5)
    with guest(model), pytest.raises(DataError, match="Got probes exact and 2, but expected the same number"):
        accumulator(model, [X]).merge(accumulator(model, [X], probes=2))


def test_the_number_of_backward_passes_is_that_of_the_probes_or_outputs() -> None:
    model, walks = fill(mlp()), []

    def count(module: nn.Module, args: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(walks.append)

    model[0].register_forward_hook(count)
    agop_of_module(model, normal(8, 5).split(4), probes=2)
    assert len(walks) == 2 * 2


def test_layers_that_need_no_kernel_have_none() -> None:
    """The last layer would need C x C numbers, and a layer left out would need some for nothing."""

    class Own(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2.0 * super().forward(x)

    model = fill(nn.Sequential(Own(5, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)))
    for probes in ("exact", 2):
        with guest(model):
            measured = accumulator(model, [normal(4, 5)], probes=probes)
        assert set(measured.kernels) == {"2"}
        assert set(measured.skipped) == {"0"}
        assert set(measured.isotropic) == {"4"}
