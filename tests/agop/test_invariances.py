"""Oracle 9: how the AGOP moves when outputs, inputs, weights and samples do."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from cases import CASES, fill, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import cosine, feature_matrix, pearson, power
from torch import Tensor, nn

from featlearn import agop_of_function, agop_of_module
from featlearn.agop.definition import accumulate_agop, rescale
from featlearn.linalg.psd import haar_orthogonal

few = settings(max_examples=20)
factors = st.floats(1e-3, 1e3) | st.floats(-1e3, -1e-3)
seeds = st.integers(0, 10_000)
sizes = st.integers(1, 6)


def net(d: int = 5, k: int = 7, outputs: int = 3, seed: int = 0) -> nn.Sequential:
    layers = (nn.Linear(d, k), nn.Tanh(), nn.Linear(k, k + 1), nn.ReLU(), nn.Linear(k + 1, outputs), nn.Softplus())
    return fill(nn.Sequential(*layers), seed=seed)


def orthogonal(d: int, seed: int) -> Tensor:
    return haar_orthogonal((d, d), torch.Generator().manual_seed(seed))


@few
@given(factor=factors, seed=seeds)
@pytest.mark.parametrize("name", ["mlp_log_softmax", "convnet", "conv2d_grouped", "attention_padding", "tied"])
def test_outputs_times_a_factor(name: str, factor: float, seed: int) -> None:
    """G gets its square; no correlation of F and G moves, at any power."""
    case = CASES[name]
    model, batches = fill(case.build(), seed=seed), case.batches()
    plain = agop_of_module(model, batches, outputs=case.call)
    scaled = agop_of_module(model, batches, outputs=lambda model, batch: factor * case.call(model, batch))
    for layer, found in scaled.items():
        before, after = plain[layer].agop(), found.agop()
        torch.testing.assert_close(after, factor**2 * before, rtol=1e-10, atol=1e-12 * factor**2)
        F = feature_matrix(found.weight)
        F = F[0] if len(F) == 1 else F
        for statistic in (cosine, pearson):
            for exponent in (1.0, 0.5):
                G, H = (power(agop, exponent) for agop in (before, after))
                assert statistic(F, H) == pytest.approx(statistic(F, G), abs=1e-10)


@few
@given(seed=seeds)
def test_a_rotation_of_the_layers_input(seed: int) -> None:
    """W -> W R rotates F and G alike: the cosine stays, the Pearson correlation does not."""
    model, X = net(seed=seed), normal(6, 5, seed=seed)
    R = orthogonal(5, seed)
    turned = copy.deepcopy(model)
    with torch.no_grad():
        turned[0].weight.copy_(model[0].weight @ R)
    before, after = agop_of_module(model, [X]), agop_of_module(turned, [X @ R])
    G, H = before["0"].agop(), after["0"].agop()
    torch.testing.assert_close(H, R.mT @ G @ R, rtol=1e-9, atol=1e-12)
    F, E = feature_matrix(model[0].weight), feature_matrix(turned[0].weight)
    assert cosine(E, H) == pytest.approx(cosine(F, G), abs=1e-10)
    torch.testing.assert_close(after["2"].agop(), before["2"].agop(), rtol=1e-9, atol=1e-12)


def test_the_pearson_correlation_is_not_free_of_rotations() -> None:
    model, X, R = net(), normal(6, 5), orthogonal(5, 1)
    F, G = feature_matrix(model[0].weight), agop_of_module(model, [X])["0"].agop()
    assert abs(pearson(R.mT @ F @ R, R.mT @ G @ R) - pearson(F, G)) > 1e-3


@few
@given(factor=st.floats(0.1, 10.0), seed=seeds)
def test_balancing_two_layers_of_a_relu(factor: float, seed: int) -> None:
    """ReLU(c h) = c ReLU(h): the function stays, and so do the AGOP of the first input and K W^T W of each layer."""
    model, X = net(seed=seed), normal(6, 5, seed=seed)
    balanced = copy.deepcopy(model)
    with torch.no_grad():
        balanced[2].weight.mul_(factor)
        balanced[2].bias.mul_(factor)
        balanced[4].weight.div_(factor)
    before, after = agop_of_module(model, [X]), agop_of_module(balanced, [X])
    for name, scale in (("0", 1.0), ("2", 1.0), ("4", factor**-2)):
        torch.testing.assert_close(
            after[name].agop(), scale * before[name].agop(), rtol=1e-9, atol=1e-12 * max(scale, 1.0)
        )
    torch.testing.assert_close(after["2"].tangent_kernel, before["2"].tangent_kernel / factor**2, rtol=1e-9, atol=1e-9)


@few
@given(order=st.permutations(range(8)), cuts=st.sets(st.integers(1, 7)))
def test_order_and_batches_of_the_samples(order: list[int], cuts: set[int]) -> None:
    model, X = net(), normal(8, 5)
    edges = [0, *sorted(cuts), 8]
    shuffled = X[order]
    batches = [shuffled[start:stop] for start, stop in itertools.pairwise(edges)]
    before, after = agop_of_module(model, [X]), agop_of_module(model, batches)
    for name in before:
        torch.testing.assert_close(after[name].agop(), before[name].agop(), rtol=1e-12, atol=1e-13)


@few
@given(times=st.integers(2, 4))
def test_repeated_samples_change_nothing(times: int) -> None:
    model, X = net(), normal(5, 5)
    before, after = agop_of_module(model, [X]), agop_of_module(model, [X] * times)
    for name in before:
        torch.testing.assert_close(after[name].agop(), before[name].agop(), rtol=1e-12, atol=1e-13)
        assert after[name].n_samples == times * 5


@few
@given(seed=seeds)
def test_an_orthogonal_mixture_of_the_outputs(seed: int) -> None:
    """The sum over outputs does not depend on their basis."""
    model, X, Q = net(seed=seed), normal(6, 5, seed=seed), orthogonal(3, seed)
    before = agop_of_module(model, [X])
    after = agop_of_module(model, [X], outputs=lambda model, batch: model(batch) @ Q)
    for name in before:
        torch.testing.assert_close(after[name].agop(), before[name].agop(), rtol=1e-9, atol=1e-12)


@few
@given(name=st.sampled_from(list(CASES)))
def test_every_agop_is_symmetric_and_positive(name: str) -> None:
    case = CASES[name]
    for layer in agop_of_module(case.model(), case.batches(), outputs=case.outputs).values():
        agop = layer.agop()
        torch.testing.assert_close(agop, agop.mT, rtol=1e-12, atol=1e-13)
        values = torch.linalg.eigvalsh(agop)
        assert float(values.min()) >= -1e-12 * float(values.max())


# --- of a function ----------------------------------------------------------------------------------------------------


def function(d: int, seed: int) -> Callable[[Tensor], Tensor]:
    first, second = normal(d, 4, seed=seed), normal(4, 3, seed=seed + 1)
    return lambda x: torch.tanh(x @ first) @ second


@few
@given(d=sizes, e=sizes, n=sizes, seed=seeds)
def test_a_linear_map_of_the_input(d: int, e: int, n: int, seed: int) -> None:
    """The AGOP of x -> f(A x) is A^T AGOP(f) A at the mapped points."""
    f, A, X = function(d, seed), normal(d, e, seed=seed + 2), normal(n, e, seed=seed + 3)
    found = agop_of_function(lambda x: f(x @ A.mT), X)
    torch.testing.assert_close(found, A.mT @ agop_of_function(f, X @ A.mT) @ A, rtol=1e-9, atol=1e-10)


@few
@given(d=sizes, n=sizes, factor=factors, shift=factors, seed=seeds)
def test_an_affine_map_of_the_output(d: int, n: int, factor: float, shift: float, seed: int) -> None:
    f, X = function(d, seed), normal(n, d, seed=seed + 3)
    for center in (False, True):
        plain = agop_of_function(f, X, center_gradients=center)
        moved = agop_of_function(lambda x: factor * f(x) + shift, X, center_gradients=center)
        torch.testing.assert_close(moved, factor**2 * plain, rtol=1e-8, atol=1e-10 * factor**2)


@few
@given(d=sizes, n=sizes, seed=seeds)
def test_centring_takes_out_linear_parts(d: int, n: int, seed: int) -> None:
    """A linear function has one gradient everywhere, so adding it moves no covariance of gradients."""
    f, A, X = function(d, seed), normal(d, 3, seed=seed + 4), normal(n, d, seed=seed + 3)
    plain = agop_of_function(f, X, center_gradients=True)
    moved = agop_of_function(lambda x: f(x) + x @ A, X, center_gradients=True)
    torch.testing.assert_close(moved, plain, rtol=1e-7, atol=1e-9)
    linear = agop_of_function(lambda x: x @ A, X, center_gradients=True)
    torch.testing.assert_close(linear, torch.zeros(d, d, dtype=torch.float64), rtol=0, atol=1e-12)


@few
@given(d=sizes, n=sizes, batch_size=st.integers(1, 9), seed=seeds)
def test_batch_size_and_flattening(d: int, n: int, batch_size: int, seed: int) -> None:
    f, X = function(2 * d, seed), normal(n, 2, d, seed=seed)
    found = agop_of_function(lambda x: f(x.flatten(1)), X, batch_size=batch_size)
    torch.testing.assert_close(found, agop_of_function(f, X.flatten(1)), rtol=1e-12, atol=1e-13)


# --- normalisations ---------------------------------------------------------------------------------------------------


@few
@given(d=sizes, n=sizes, factor=st.floats(1e-6, 1e6), seed=seeds)
@pytest.mark.parametrize("to", ["max", "trace", "frobenius"])
def test_rescaled_agops_forget_their_scale(to: str, d: int, n: int, factor: float, seed: int) -> None:
    agop = accumulate_agop(normal(n, 2, d, seed=seed))
    once = rescale(agop, to)  # type: ignore[arg-type]
    torch.testing.assert_close(rescale(factor * agop, to), once, rtol=1e-10, atol=1e-13)  # type: ignore[arg-type]
    torch.testing.assert_close(rescale(once, to), once, rtol=1e-12, atol=1e-14)  # type: ignore[arg-type]
    assert cosine(once, agop) == pytest.approx(1.0)
