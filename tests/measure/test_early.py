"""The early ansatz predicted from inputs and labels: against wide random networks, Monte Carlo and dense formulas."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from featlearn import early_alignment
from featlearn.exceptions import DataError
from featlearn.kernels import ArcCosNTK
from featlearn.linalg.psd import haar_orthogonal
from featlearn.measure.early import ACTIVATIONS, tangent_statistics
from featlearn.measure.early_results import EarlyAlignment

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
PHI: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "linear": lambda h: h,
    "erf": torch.erf,
    "quadratic": torch.square,
}


def data(n: int = 60, d: int = 8, outputs: int = 2) -> tuple[Tensor, Tensor]:
    X = normal(n, d) * torch.arange(1, d + 1) ** -0.5 + 0.3
    return X, torch.stack([X[:, 0] * X[:, 1], X[:, 2], X[:, 0]], dim=1)[:, :outputs]


def forward(X: Tensor, weights: list[Tensor], activation: str) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and pre-activations of every hidden layer, then the outputs' inputs."""
    inputs, hidden = [X], []
    for weight in weights[:-1]:
        hidden.append((inputs[-1] @ weight.mT).requires_grad_(True))
        inputs.append(PHI[activation](hidden[-1]))
    return inputs, hidden


def random_weights(d: int, width: int, depth: int, outputs: int, scale: float = 1.0, seed: int = 0) -> list[Tensor]:
    sizes = [d, *[width] * depth]
    hidden = [scale * normal(width, size, seed=seed + i) / size**0.5 for i, size in enumerate(sizes[:-1])]
    return [*hidden, normal(outputs, width, seed=seed + 99) / width**0.5]


def measured(X: Tensor, R: Tensor, weights: list[Tensor], activation: str, layer: int) -> tuple[Tensor, Tensor]:
    """``N^T N`` and ``N^T K N`` of one hidden layer by autograd, in its own input space."""
    inputs, hidden = forward(X, weights, activation)
    outputs = inputs[-1] @ weights[-1].mT
    h, a = hidden[layer - 1], inputs[layer - 1].detach()
    gradients = [torch.autograd.grad(outputs[:, c].sum(), h, retain_graph=True)[0] for c in range(outputs.shape[1])]
    N = sum((g * R[:, c : c + 1]).mT @ a for c, g in enumerate(gradients))
    pulled = torch.cat([g @ N for g in gradients])
    return N.mT @ N, pulled.mT @ pulled / len(X)


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


def pearson(a: Tensor, b: Tensor) -> float:
    return cosine(a - a.mean(), b - b.mean())


# --- kernels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_covariances_means_and_tangent_features_are_those_of_random_networks(activation: str) -> None:
    """Mean over 60 networks of width 400: every entry within 3.5 standard errors, and 1% for the finite width."""
    X, _ = data(6, 5)
    sigma, means, tangent = tangent_statistics(X, activation=activation, depth=2, layer=2, weight_scale=1.3)
    drawn = []
    for seed in range(60):
        weights = random_weights(5, 400, 2, 1, 1.3, seed=1000 * seed)
        inputs, hidden = forward(X, weights, activation)
        g = torch.autograd.grad((inputs[-1] @ weights[-1].mT).sum(), hidden[1])[0]
        a = inputs[1].detach()
        drawn.append(torch.cat([(a @ a.mT / 400).flatten(), a.mean(1), (g @ g.mT).flatten()]))
    found, expected = torch.stack(drawn), torch.cat([sigma.flatten(), means, tangent.flatten()])
    error = found.std(0) / len(drawn) ** 0.5
    scores = (found.mean(0) - expected) / error.clamp_min(1e-12 * expected.abs().amax())
    # Layers above the first do not see exact Gaussians: a bias of one over the width.
    bias = 0.01 * expected.abs() / error.clamp_min(1e-12 * expected.abs().amax())
    assert bool((scores.abs() < 3.5 + bias).all()), scores


def test_a_relu_network_has_the_recursion_of_the_tangent_kernel() -> None:
    """The tangent kernel is the sum over layers of inputs' Gram matrix times that of the tangent features."""
    X, _ = data(12, 5)
    total = torch.zeros(12, 12).double()
    for layer in (1, 2, 3):
        sigma, _, tangent = tangent_statistics(X, activation="relu", depth=3, layer=layer)
        total += sigma * 2 ** (layer - 1) * tangent * 2 ** (4 - layer)  # a factor 1/2 an activation and a derivative
    top, _, _ = tangent_statistics(X, activation="relu", depth=4, layer=4)
    total += 8 * top
    torch.testing.assert_close(5 * total, ArcCosNTK(3).matrix(X, X), rtol=1e-6, atol=1e-8)


# --- predictions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("d", [8, 90])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_wide_networks_start_where_predicted(activation: str, d: int, outputs: int) -> None:
    """Width 4096, one hidden layer, mean of two networks: both statistics within 2%, and the matrices with them."""
    X, Y = data(60, d, outputs)
    found = early_alignment(X, Y, activation=activation, weight_scale=0.8)
    values = []
    for seed in (0, 1000):
        F, G = measured(X, Y, random_weights(d, 4096, 1, outputs, 0.8, seed), activation, 1)
        values.append((cosine(F, G), pearson(F, G)))
        assert cosine(found.nfm, F) > 0.99
        assert cosine(found.agop, G) > 0.99
    assert (found.cosine, found.pearson) == pytest.approx(np.mean(values, axis=0).tolist(), rel=0.02)
    assert found.nfa == found.pearson


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("activation", ["relu", "linear", "erf"])
def test_so_do_deep_ones(activation: str, layer: int) -> None:
    """Two hidden layers of 1024 units, labels that no linear function tells."""
    X, _ = data()
    Y = ((X - 0.3).abs() - (X - 0.3).abs().mean(0)).sum(1, keepdim=True)
    values = []
    for seed in (0, 1000):
        F, G = measured(X, Y, random_weights(8, 1024, 2, 1, seed=seed), activation, layer)
        values.append((cosine(F, G), pearson(F, G)))
    found = early_alignment(X, Y, activation=activation, depth=2, layer=layer)
    short = [1 - found.cosine, 1 - found.pearson]  # of full alignment: a stricter test where that is near
    assert short == pytest.approx((1 - np.mean(values, axis=0)).tolist(), rel=0.2, abs=1e-3)


def test_the_error_falls_with_the_width() -> None:
    X, Y = data(60, 8, 1)
    expected = early_alignment(X, Y, activation="quadratic").cosine
    errors = []
    for width in (64, 1024):
        found = [cosine(*measured(X, Y, random_weights(8, width, 1, 1, seed=s), "quadratic", 1)) for s in range(6)]
        errors.append(np.mean(np.abs(np.array(found) - expected)))
    assert errors[1] < 0.5 * errors[0]


# --- closed forms -----------------------------------------------------------------------------------------------------


def test_for_one_output_it_is_the_number_of_tangent_features_and_residuals() -> None:
    X, Y = data(20, 6, 1)
    _, _, P = tangent_statistics(X, activation="relu", depth=2, layer=1)
    S = torch.diag(Y[:, 0]) @ X @ X.mT @ torch.diag(Y[:, 0])
    expected = torch.trace(S @ P @ S @ P @ P) / (torch.trace(S @ P @ S @ P) * torch.trace(S @ P @ P @ S @ P @ P)).sqrt()
    assert early_alignment(X, Y, depth=2).cosine == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize("shape", [(20, 6), (9, 30)], ids=["more samples", "more inputs"])
def test_quadratic_networks_see_second_moments_alone(shape: tuple[int, int]) -> None:
    """``B_y^2`` and ``B_y C B_y`` with label-weighted and plain second moments of the inputs."""
    X, Y = data(*shape, outputs=1)
    moment, plain = (X * Y).mT @ X, X.mT @ X
    F, G = moment @ moment, moment @ plain @ moment
    found = early_alignment(X, Y, activation="quadratic")
    assert found.cosine == pytest.approx(cosine(F, G), abs=1e-12)
    assert found.pearson == pytest.approx(pearson(F, G), abs=1e-12)
    torch.testing.assert_close(found.nfm, F / F.norm(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.agop, G / G.norm(), rtol=1e-10, atol=1e-12)
    for directions, matrix in ((found.nfm_directions, F), (found.agop_directions, G)):
        top = torch.linalg.eigh(matrix)[1][:, -1]
        assert abs(float(torch.from_numpy(directions)[:, 0] @ top)) == pytest.approx(1, abs=1e-9)


def test_white_inputs_start_fully_aligned_in_quadratic_networks() -> None:
    X = torch.linalg.qr(normal(40, 6))[0]
    found = early_alignment(X, normal(40, 1, seed=3), activation="quadratic")
    assert found.cosine == pytest.approx(1, abs=1e-12)


def test_where_samples_cancel_there_is_nothing_to_predict() -> None:
    """Even labels of symmetric inputs: a network of odd activations cannot even begin."""
    half = normal(30, 6)
    X = torch.cat([half, -half])
    even, odd = X[:, 0] * X[:, 1], X[:, 0]
    with pytest.raises(DataError, match="none that is even in the inputs"):
        early_alignment(X, even, activation="erf")
    assert 0 < early_alignment(X, even).coherence < early_alignment(X, odd).coherence
    ones = torch.ones(60, 1)
    assert early_alignment(ones, ones, activation="linear").coherence == pytest.approx(1)


def test_linear_networks_start_fully_aligned() -> None:
    """All tangent features are one, so both matrices are the square of the inputs' correlation with the labels."""
    X, Y = data()
    found = early_alignment(X, Y, activation="linear", depth=3)
    assert found.cosine == pytest.approx(1, abs=1e-12)
    N = Y.mT @ X
    torch.testing.assert_close(found.nfm, N.mT @ N / (N.mT @ N).norm())


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_above_the_first_layer_it_is_a_number_of_gram_matrices(layer: int) -> None:
    X, Y = data()
    S, means, P = tangent_statistics(X, activation="relu", depth=3, layer=layer)
    A, B = (Y @ Y.mT) * P, (Y @ Y.mT) * (P @ P)
    inner, norms = torch.trace(S @ A @ S @ B), [torch.trace(S @ m @ S @ m) for m in (A, B)]
    sums = [means @ m @ means for m in (A, B)]
    found = early_alignment(X, Y, depth=3, layer=layer)
    assert found.cosine == pytest.approx(float(inner / (norms[0] * norms[1]).sqrt()), abs=1e-9)
    variances = [norm - total**2 for norm, total in zip(norms, sums, strict=True)]
    assert found.pearson == pytest.approx(
        float((inner - sums[0] * sums[1]) / (variances[0] * variances[1]).sqrt()), abs=1e-8
    )
    assert (found.nfm is None) == (found.nfm_directions is None) == (layer > 1)


# --- invariances ------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-2, 1e2), activation=st.sampled_from(ACTIVATIONS))
def test_rotations_of_inputs_and_outputs_order_and_label_scale_change_nothing(
    seed: int, scale: float, activation: str
) -> None:
    X, Y = data(20, 5)
    generator = torch.Generator().manual_seed(seed)
    turn, own = haar_orthogonal((5, 5), generator), haar_orthogonal((2, 2), generator)
    order = torch.randperm(20, generator=generator)
    found = early_alignment((X @ turn)[order], scale * (Y @ own)[order], activation=activation, depth=2)
    assert found.cosine == pytest.approx(early_alignment(X, Y, activation=activation, depth=2).cosine, abs=1e-9)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_scale_of_weights_matters_where_an_activation_saturates(activation: str) -> None:
    X, Y = data()
    small, large = (early_alignment(X, Y, activation=activation, depth=2, weight_scale=s).nfa for s in (0.5, 3.0))
    if activation == "erf":
        assert abs(small - large) > 1e-3
    else:
        assert small == pytest.approx(large, abs=1e-9)


@pytest.mark.parametrize("device", DEVICES)
def test_arrays_images_and_integers_are_inputs_too(device: str) -> None:
    X, Y = data()
    expected = early_alignment(X, Y).nfa
    assert early_alignment(X.numpy(), Y.numpy()).nfa == pytest.approx(expected, abs=1e-12)
    assert early_alignment(X.reshape(60, 2, 2, 2).to(device), Y.to(device)).nfa == pytest.approx(expected, abs=1e-10)
    assert early_alignment(X.float(), Y.float()).nfa == pytest.approx(expected, abs=1e-5)
    signs = torch.where(X[:, 0] > 0.3, 1, -1)
    assert early_alignment(X, signs).nfa == pytest.approx(early_alignment(X, signs.double()[:, None]).nfa, abs=1e-12)


# --- the record -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [1, 2])
def test_the_record_survives_json(layer: int) -> None:
    found = early_alignment(*data(), depth=2, layer=layer, statistic="cosine")
    again = EarlyAlignment.from_dict(json.loads(json.dumps(found.to_dict(matrices=True))))
    assert again.to_dict(matrices=True) == found.to_dict(matrices=True)
    assert again.nfa == found.cosine
    row = found.frame().iloc[0]
    assert (row["pearson"], row["layer"], row["n_outputs"]) == (found.pearson, layer, 2)
    assert f"{found.cosine:.3f}" in found._repr_html_()


def test_wide_inputs_show_directions_but_no_matrices() -> None:
    found = early_alignment(*data(12, 1100))
    assert found.nfm is None
    assert found.agop_directions is not None
    assert found.agop_directions.shape == (1100, 10)


def test_a_change_without_variance_has_no_pearson_correlation() -> None:
    found = early_alignment(torch.ones(4, 3), torch.ones(4), activation="linear")
    assert math.isnan(found.pearson)
    assert found.cosine == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "tanh"}, "Got activation='tanh', but expected one of 'relu'"),
        ({"depth": 0}, "Got depth=0"),
        ({"depth": True}, "Got depth=True"),
        ({"layer": 2}, "Got layer=2, but expected a hidden layer from 1 to depth=1"),
        ({"weight_scale": -1.0}, "Got weight_scale=-1.0"),
        ({"weight_scale": math.inf}, "Got weight_scale=inf"),
        ({"statistic": "rank"}, "Got statistic='rank'"),
        ({"Y": torch.zeros(60)}, "first weight change is zero"),
        ({"Y": torch.ones(59)}, "Got 60 rows of X and 59 of Y"),
        ({"X": torch.full((60, 8), math.nan)}, "NaN"),
        ({"X": torch.ones(60)}, "expected at least 2 axes"),
    ],
    ids=str,
)
def test_bad_input_is_refused(options: dict[str, Any], message: str) -> None:
    X, Y = data()
    given = {"X": X, "Y": Y} | options
    with pytest.raises(DataError, match=message):
        early_alignment(given.pop("X"), given.pop("Y"), **given)
