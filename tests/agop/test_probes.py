"""Oracle 4: random probes have the predicted error, no bias, and a reproducible stream of their own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import convnet, fill, mlp, normal
from reference import probe_error
from torch import Tensor, nn

from featlearn import agop_of_module
from featlearn.agop.batches import parse_batch
from featlearn.agop.finding import resolve_layers
from featlearn.agop.of_module import ModuleAGOP
from featlearn.agop.probes import compressed_cotangents, rademacher
from featlearn.agop.taps import guest

OUTPUTS, SAMPLES = 6, 12


def net() -> nn.Module:
    return fill(nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, OUTPUTS), nn.Softplus()), seed=3)


def jacobians(model: nn.Sequential, X: Tensor) -> Tensor:
    """Of the outputs by the pre-activations of the first layer, (n, C, k)."""
    return torch.func.vmap(torch.func.jacrev(lambda h: model[1:](h)))(model[0](X)).detach()


def gaussian(random_state: int, batch: int, probe: int, n: int, outputs: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * random_state + 10 * batch + probe)
    return torch.randn(n, outputs, generator=generator, dtype=torch.float64)


def one_hot(random_state: int, batch: int, probe: int, n: int, outputs: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * random_state + 10 * batch + probe)
    chosen = torch.randint(outputs, (n,), generator=generator)
    return math.sqrt(outputs) * torch.nn.functional.one_hot(chosen, outputs)


LAWS = {"rademacher": rademacher, "gaussian": gaussian, "one-hot": one_hot}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("probes", [1, 3])
def test_error_is_the_predicted_one(law: str, probes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featlearn.agop.of_module.rademacher", LAWS[law])
    model, X = net(), normal(SAMPLES, 5)
    exact = agop_of_module(model, [X], layers="0")["0"].agop()
    draws = [agop_of_module(model, [X], layers="0", probes=probes, random_state=s)["0"].agop() for s in range(200)]
    errors = torch.stack([(draw - exact).square().sum() for draw in draws])
    predicted = probe_error(law, jacobians(model, X), model[0].weight) / probes
    standard_error = float(errors.std()) / math.sqrt(len(errors))
    assert abs(float(errors.mean()) - predicted) < max(0.05 * predicted, 3 * standard_error)
    # Unbiased: the mean of all draws is as close to the exact value as that many draws allow.
    assert float((torch.stack(draws).mean(dim=0) - exact).square().sum()) < 3 * predicted / len(draws)


def test_the_laws_differ_by_more_than_the_tolerance() -> None:
    model, X = net(), normal(SAMPLES, 5)
    errors = {law: probe_error(law, jacobians(model, X), model[0].weight) for law in LAWS}
    assert errors["rademacher"] < 0.95 * errors["one-hot"] < 0.95 * errors["gaussian"]


@pytest.mark.parametrize("probes", [1, 2, 5])
def test_reproducible_and_different_for_another_state(probes: int) -> None:
    model, batches = fill(convnet()), normal(10, 2, 7, 6).split(4)
    first, again, other = (agop_of_module(model, batches, probes=probes, random_state=s) for s in (7, 7, 8))
    for name in ("0", "3"):
        assert torch.equal(first[name].tangent_kernel, again[name].tangent_kernel)
        assert not torch.allclose(first[name].tangent_kernel, other[name].tangent_kernel, rtol=1e-3)
    assert torch.equal(first["8"].agop(), other["8"].agop())  # the last layer is known exactly


def test_chunking_and_global_state_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = fill(convnet()), normal(10, 2, 7, 6).split(4)
    first = agop_of_module(model, batches, probes=3)
    monkeypatch.setattr("featlearn.agop.of_module.BATCHED_NUMBERS", 0)
    torch.rand(5)
    again = agop_of_module(model, batches, probes=3)
    assert all(torch.equal(first[name].tangent_kernel, again[name].tangent_kernel) for name in ("0", "3"))


def test_the_choice_of_layers_does_not_change_the_stream() -> None:
    model, batches = fill(mlp()), normal(10, 5).split(4)
    alone = agop_of_module(model, batches, layers="2", probes=2)["2"].tangent_kernel
    assert torch.equal(alone, agop_of_module(model, batches, probes=2)["2"].tangent_kernel)


def test_more_probes_extend_the_stream() -> None:
    """Probe number p of a batch is the same however many there are: K over 4 probes is the mean of two pairs."""
    signs = [rademacher(0, 2, probe, 3, 4) for probe in range(4)]
    assert torch.equal(signs[1], rademacher(0, 2, 1, 3, 4))
    assert len({tuple(sign.flatten().tolist()) for sign in signs}) == 4


def test_signs_are_independent_for_every_sample_probe_and_batch() -> None:
    keys = [(state, batch, probe) for state in range(3) for batch in range(4) for probe in range(4)]
    signs = torch.stack([rademacher(*key, 64, 64) for key in keys]).double()
    assert set(signs.flatten().tolist()) == {-1.0, 1.0}
    flat = signs.flatten(1)
    correlations = flat @ flat.mT / flat.shape[1] - torch.eye(len(keys), dtype=torch.float64)
    assert float(correlations.abs().max()) < 5 / math.sqrt(flat.shape[1])  # 48 keys, five standard deviations
    rows = signs[0] @ signs[0].mT / 64 - torch.eye(64, dtype=torch.float64)
    assert float(rows.abs().max()) < 5 / math.sqrt(64)
    assert abs(float(signs.mean())) < 5 / math.sqrt(signs.numel())


def measure(model: nn.Module, batches: Any, **options: Any) -> ModuleAGOP:
    layers, _, explicit = resolve_layers(model)
    measured = ModuleAGOP(model, layers, explicit, **options)
    with guest(model):
        for i, batch in enumerate(batches):
            measured.add(parse_batch(batch, model, i), i)
    return measured


@pytest.mark.parametrize(("probes", "halves"), [(1, [1]), (2, [1, 1]), (5, [3, 2])])
def test_probes_alternate_between_two_halves(probes: int, halves: list[int]) -> None:
    model, batches = fill(mlp()), normal(10, 5).split(4)
    measured = measure(model, batches, probes=probes)
    assert measured.passes == 3 * probes
    kernel = measured.kernels["0"]
    assert kernel.probes == halves
    expected = torch.zeros(len(halves), 7, 7, dtype=torch.float64)
    for i, batch in enumerate(batches):
        h = model[0](batch).detach().requires_grad_()
        outputs = model[1:](h)
        for probe in range(probes):
            signs = rademacher(0, i, probe, *outputs.shape).double()
            (g,) = torch.autograd.grad(outputs, h, signs, retain_graph=True)
            expected[probe % len(halves)] += g.mT @ g
    torch.testing.assert_close(kernel.sums[:, 0, 0], expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(kernel.finalize()[0], expected.sum(dim=0) / (10 * probes), rtol=1e-10, atol=1e-12)


def many_outputs() -> nn.Module:
    return fill(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 60), nn.Softplus()), seed=4)


def test_auto_reaches_three_percent_with_fewer_passes() -> None:
    model, X = many_outputs(), normal(2000, 5)
    batches = X.split(200)
    exact = agop_of_module(model, batches)
    measured = measure(model, batches, probes="auto", n_batches=10)
    assert isinstance(measured.probes_used, int)
    assert measured.probes_used < 60
    assert measured.passes == 2 * (measured.probes_used >= 1) + 10 * measured.probes_used  # two of them the pilot's
    for name, layer in measured.finalize().items():
        error = (layer.agop() - exact[name].agop()).norm() / exact[name].agop().norm()
        assert float(error) < 2 * 0.03  # the root of the mean square is below .03


def test_auto_is_exact_when_that_is_cheaper() -> None:
    model, batches = fill(mlp()), normal(10, 5).split(4)
    measured = measure(model, batches, probes="auto", n_batches=3)
    assert measured.probes_used == "exact"
    assert measured.n_samples == 10
    exact = agop_of_module(model, batches)
    for name, layer in measured.finalize().items():
        torch.testing.assert_close(layer.agop(), exact[name].agop(), rtol=1e-12, atol=1e-14)


def test_probes_spare_what_exact_passes_cannot_do() -> None:
    model = fill(nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 5000), nn.Tanh()))
    found = agop_of_module(model, normal(4, 5).split(2), probes="auto")
    assert found["0"].n_samples == 4


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_compressed_cotangents_are_an_orthonormal_basis_of_the_columns(rank: int) -> None:
    weight = normal(7, rank, seed=1) @ normal(rank, 4, seed=2)
    cotangents = compressed_cotangents(weight)
    assert cotangents.shape == (rank, 7)
    torch.testing.assert_close(cotangents @ cotangents.mT, torch.eye(rank, dtype=torch.float64))
    torch.testing.assert_close(cotangents.mT @ (cotangents @ weight), weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_no_direction_of_the_weight_is_dropped(dtype: torch.dtype) -> None:
    """Also the small ones, and whatever the precision that they are stored in."""
    weight = (normal(300, 4, seed=1) * torch.tensor([1.0, 0.1, 0.01, 0.001])).to(dtype)
    cotangents = compressed_cotangents(weight)
    assert len(cotangents) == 4
    torch.testing.assert_close(cotangents.mT @ (cotangents @ weight.double()), weight.double(), rtol=0, atol=1e-12)


def test_a_weight_of_full_rank_is_not_compressed_and_zeros_need_one_pass() -> None:
    assert compressed_cotangents(normal(3, 6)) is None
    assert compressed_cotangents(torch.zeros(3, 6)).shape == (1, 3)
