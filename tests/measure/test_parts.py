"""The ansatz taken apart: identity, sums and products against dense matrices; nothing of it depends on coordinates."""

from __future__ import annotations

import copy
import json
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from cases import CASES, convnet, fill, integers, mlp, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from featlearn import FeatureTracker, measure_features
from featlearn.agop.accumulate import TangentKernel
from featlearn.linalg.psd import haar_orthogonal
from featlearn.measure.alignment import Aligned, align, align_at_power_one
from featlearn.measure.coordinates import factorise
from featlearn.measure.parts import AlignmentParts, alignment_parts

SHAPES = {"wide": (1, 6, 11), "tall": (1, 11, 6), "square": (1, 7, 7), "groups": (3, 5, 8), "rows": (2, 4, 2)}


def case(shape: tuple[int, int, int], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """W, W_0 and a kernel of two blocks' worth of gradients."""
    groups, k, _ = shape
    gradients = normal(groups, 3 * k, k, seed=seed + 2)
    return normal(*shape, seed=seed), normal(*shape, seed=seed + 1), gradients.mT @ gradients


def parts_of(weight: Tensor, kernel: Tensor, reference: Tensor | None = None, spectra: bool = True) -> AlignmentParts:
    """As a report makes them."""
    held = TangentKernel.of_matrix(kernel)

    def aligned(matrix: Tensor) -> Aligned:
        return align(factorise(matrix), held, powers=(1.0,)) if spectra else align_at_power_one(matrix, held)

    change = None if reference is None else aligned(weight - reference)
    return alignment_parts(aligned(weight), factorise(weight) if spectra else None, kernel, reference, change)


def dense(blocks: Tensor) -> Tensor:
    return torch.block_diag(*blocks)


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


def root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp_min(0).sqrt() @ vectors.mT


def numbers(parts: AlignmentParts) -> list[float]:
    return [math.nan if value is None else value for value in vars(parts).values()]


# --- the identity -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_cosine_is_that_of_the_left_gram_with_the_kernel_seen_through_the_weights(shape: Any) -> None:
    W, _, K = (dense(m) for m in case(shape))
    M = W @ W.mT
    inside, outside = cosine(W.mT @ W, W.mT @ K @ W), cosine(M, root(M) @ K @ root(M))
    assert inside == pytest.approx(outside, abs=1e-12)
    parts = parts_of(*case(shape)[::2])
    assert parts.directional is not None
    assert parts.spectral is not None
    assert parts.directional * parts.spectral == pytest.approx(inside, abs=1e-12)


def test_the_identity_holds_along_training_of_any_model() -> None:
    """Here with strided, padded and grouped convolutions; F and G in input space."""
    model = fill(convnet())
    X, y = normal(12, 2, 6, 6), integers(3, 12)
    start = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(3):
        report = quiet(model, list(zip(X.split(6), y.split(6), strict=True)), reference=start)
        checked = 0
        for layer in report.layers.values():
            if layer.trivial:
                continue
            F, G, parts = layer.nfm, layer.agop, layer.parts
            assert parts is not None
            assert parts.directional * parts.spectral == pytest.approx(cosine(F, G), abs=1e-8)
            assert parts.initial + parts.mixed + parts.learned == pytest.approx(cosine(F, G), abs=1e-8)
            checked += 1
        assert checked >= 2
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), y).backward()
        optimizer.step()


# --- initial and learned ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spectra", [True, False])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_nine_inner_products_in_three_sums(shape: Any, spectra: bool) -> None:
    weight, reference, kernel = case(shape)
    parts = parts_of(weight, kernel, reference, spectra)
    W, A, K = dense(weight), dense(reference), dense(kernel)
    D = W - A
    pairs = {"00": (A, A), "11": (D, D), "01": (A, D), "10": (D, A)}
    norm = (W.mT @ W).norm() * (W.mT @ K @ W).norm()
    F = {ab: left.mT @ right for ab, (left, right) in pairs.items()}
    G = {ab: left.mT @ K @ right for ab, (left, right) in pairs.items()}
    share = {(ab, cd): float((F[ab] * G[cd]).sum() / norm) for ab in pairs for cd in pairs}
    assert parts.initial == pytest.approx(share.pop(("00", "00")), abs=1e-12)
    assert parts.learned == pytest.approx(share.pop(("11", "11")), abs=1e-12)
    assert parts.mixed == pytest.approx(sum(share.values()), abs=1e-12)


def test_without_a_change_all_is_initial_and_from_zero_all_is_learned() -> None:
    weight, _, kernel = case((1, 6, 11))
    value = cosine(weight[0].mT @ weight[0], weight[0].mT @ kernel[0] @ weight[0])
    for reference, expected in ((weight, (value, 0, 0)), (torch.zeros_like(weight), (0, 0, value))):
        parts = parts_of(weight, kernel, reference)
        assert (parts.initial, parts.mixed, parts.learned) == pytest.approx(expected, abs=1e-12)


def test_without_a_reference_or_spectra_their_parts_are_none() -> None:
    weight, reference, kernel = case((1, 6, 11))
    alone, cheap = parts_of(weight, kernel), parts_of(weight, kernel, reference, spectra=False)
    assert (alone.initial, alone.mixed, alone.learned) == (None, None, None)
    assert (cheap.directional, cheap.spectral) == (None, None)
    assert cheap.initial == pytest.approx(parts_of(weight, kernel, reference).initial, abs=1e-12)
    assert cheap.weight_kernel == pytest.approx(alone.weight_kernel, abs=1e-12)


# --- directions and sizes ---------------------------------------------------------------------------------------------


def test_shared_directions_and_even_weighing_are_what_the_factors_say() -> None:
    U, V = haar_orthogonal((6, 6), torch.Generator().manual_seed(0)), normal(6, 9).mT
    V = torch.linalg.qr(V)[0]
    s, lam = torch.arange(6, 0, -1).double(), torch.tensor([5.0, 1, 3, 2, 8, 1]).double()
    weight = (U * s @ V.mT)[None]
    shared = parts_of(weight, (U * lam @ U.mT)[None])
    assert shared.directional == pytest.approx(1, abs=1e-12)
    assert shared.spectral == pytest.approx(float((s**4 * lam).sum() / ((s**4).sum() * (s**4 * lam**2).sum()) ** 0.5))
    turned = haar_orthogonal((6, 6), torch.Generator().manual_seed(1))
    apart = parts_of(weight, (turned * lam @ turned.mT)[None])
    assert apart.directional < 0.99
    ones = torch.eye(6).double() + 0.1 * (1 - torch.eye(6).double())
    even = parts_of(weight, (U @ ones @ U.mT)[None])
    assert even.spectral == pytest.approx(1, abs=1e-12)
    assert even.directional < 1


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3))
def test_orthogonal_changes_of_input_and_output_and_scales_change_nothing(seed: int, scale: float) -> None:
    weight, reference, kernel = case((1, 5, 7), seed)
    generator = torch.Generator().manual_seed(seed)
    left, right = haar_orthogonal((5, 5), generator), haar_orthogonal((7, 7), generator)
    turned = parts_of(scale * left @ weight @ right, left @ kernel @ left.mT / scale, scale * left @ reference @ right)
    np.testing.assert_allclose(numbers(turned), numbers(parts_of(weight, kernel, reference)), atol=1e-9)


@pytest.mark.parametrize("noise", [0.0, 1e-8])
def test_equal_singular_values_leave_no_freedom(noise: float) -> None:
    """Orthogonal initialisation: every basis is singular, and round-off chooses one. The factors do not follow it."""
    _, _, kernel = case((1, 6, 9))
    generator = torch.Generator().manual_seed(0)
    found = []
    for seed in range(4):
        weight = haar_orthogonal((9, 9), generator)[:, :6].mT[None] + noise * normal(1, 6, 9, seed=seed)
        found.append(parts_of(weight, kernel))
    lam = torch.linalg.eigvalsh(kernel[0])
    for parts in found:
        assert parts.directional == pytest.approx(1, abs=1e-6)  # M is the identity and shares K's directions
        assert parts.spectral == pytest.approx(float(lam.sum() / (6**0.5 * lam.norm())), abs=1e-6)


def test_the_basis_chosen_for_equal_singular_values_gives_the_largest_directional_factor() -> None:
    U = haar_orthogonal((5, 5), torch.Generator().manual_seed(3))
    s = torch.tensor([3.0, 2.0, 2.0, 2.0, 1.0]).double()
    V = haar_orthogonal((8, 8), torch.Generator().manual_seed(4))[:, :5]
    _, _, kernel = case((1, 5, 8))
    chosen = parts_of((U * s @ V.mT)[None], kernel)
    for seed in range(20):
        turn = torch.eye(5).double()
        turn[1:4, 1:4] = haar_orthogonal((3, 3), torch.Generator().manual_seed(seed))
        K = (U @ turn).mT @ kernel[0] @ (U @ turn)
        outer = s[:, None] * K * s
        assert float((s**2 * K.diagonal()).norm() / outer.norm()) <= chosen.directional + 1e-12


# --- weights and kernel -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spectra", [True, False])
def test_the_plain_cosine_and_its_chance_level(spectra: bool) -> None:
    weight, _, kernel = case((1, 6, 11))
    parts = parts_of(weight, kernel, spectra=spectra)
    M, K = weight[0] @ weight[0].mT, kernel[0]
    assert parts.weight_kernel == pytest.approx(cosine(M, K), abs=1e-12)
    generator = torch.Generator().manual_seed(0)
    turns = haar_orthogonal((4000, 6, 6), generator)
    drawn = torch.stack([(M * (turn @ K @ turn.mT)).sum() for turn in turns]) / (M.norm() * K.norm())
    assert abs(parts.weight_kernel_null - float(drawn.mean())) < 4 * float(drawn.std()) / 4000**0.5
    assert parts.weight_kernel_null == pytest.approx(float(M.trace() * K.trace() / (6 * M.norm() * K.norm())))
    expected = (parts.weight_kernel - parts.weight_kernel_null) / (1 - parts.weight_kernel_null)
    assert parts.weight_kernel_excess == pytest.approx(expected)


@pytest.mark.parametrize("spectra", [True, False])
def test_of_more_outputs_than_inputs_it_sees_the_column_space(spectra: bool) -> None:
    weight, _, kernel = case((1, 11, 4))
    basis = torch.linalg.qr(weight[0])[0]
    M, K = basis.mT @ weight[0] @ weight[0].mT @ basis, basis.mT @ kernel[0] @ basis
    parts = parts_of(weight, kernel, spectra=spectra)
    assert parts.weight_kernel == pytest.approx(cosine(M, K), abs=1e-12)
    assert parts.weight_kernel_null == pytest.approx(float(M.trace() * K.trace() / (4 * M.norm() * K.norm())))


def test_an_isotropic_kernel_leaves_no_excess() -> None:
    weight = haar_orthogonal((9, 9), torch.Generator().manual_seed(0))[:, :6].mT[None]
    parts = parts_of(weight, torch.eye(6).double()[None])
    assert parts.weight_kernel == pytest.approx(1)
    assert math.isnan(parts.weight_kernel_excess)


# --- in reports -------------------------------------------------------------------------------------------------------


def quiet(model: nn.Module, batches: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few batches: not what is tested here
        return measure_features(model, batches, **options)


def labelled(n: int = 24, size: int = 4) -> list[tuple[Tensor, Tensor]]:
    return list(zip(normal(n, 5).split(size), integers(3, n).split(size), strict=True))


@pytest.mark.parametrize("name", list(CASES))
def test_parts_make_up_the_reported_cosine_in_every_model(name: str) -> None:
    case, found = CASES[name], 0
    model, other = case.model(), case.model()
    with torch.no_grad():
        for seed, parameter in enumerate(other.parameters()):
            if parameter.is_floating_point():
                parameter.add_(0.1 * normal(*parameter.shape, seed=seed).to(parameter))
    report = quiet(model, case.batches(), reference=other)
    for layer in report.layers.values():
        value = layer.alignment(1.0, "cosine").value
        if layer.trivial or math.isnan(value):
            continue
        parts, tolerance = layer.parts, 1e-5 if next(model.parameters()).dtype == torch.float32 else 1e-9
        assert parts.initial + parts.mixed + parts.learned == pytest.approx(value, abs=tolerance)
        assert parts.directional * parts.spectral == pytest.approx(value, abs=tolerance)
        found += 1
    assert found or all(layer.trivial for layer in report.layers.values())


@pytest.mark.parametrize("probes", [1, 2, 5])
def test_random_probes_keep_the_sums_and_lose_the_bias(probes: int) -> None:
    model, reference, batches = fill(mlp()), fill(mlp(), seed=1), labelled(600, 60)
    exact = quiet(model, batches, reference=reference)["0"].parts
    drawn = []
    for seed in range(20):
        layer = quiet(model, batches, reference=reference, probes=probes, random_state=seed)["0"]
        parts = layer.parts
        value = layer.alignment(1.0, "cosine").value
        assert parts.initial + parts.mixed + parts.learned == pytest.approx(value, abs=1e-9)
        assert parts.directional * parts.spectral == pytest.approx(value, abs=1e-9)
        drawn.append([parts.initial, parts.learned, parts.weight_kernel, parts.weight_kernel_null])
    expected = [exact.initial, exact.learned, exact.weight_kernel, exact.weight_kernel_null]
    error = np.std(drawn, axis=0, ddof=1) / 20**0.5
    assert (np.abs(np.mean(drawn, axis=0) - expected) < 4 * error + 2e-3).all()


def test_reduced_coordinates_change_nothing() -> None:
    """A layer of more than 1024 outputs accumulates ``U^T K U`` alone, U spanning W and W_0."""
    net = fill(nn.Sequential(nn.Linear(5, 1100), nn.Tanh(), nn.Linear(1100, 2), nn.Tanh()))
    reference = fill(copy.deepcopy(net), seed=1)
    X = normal(24, 5)
    parts = quiet(net, X.split(6), reference=reference)["0"].parts
    hidden = net[0](X).detach().requires_grad_(True)
    out = net[1:](hidden)
    g = torch.stack([torch.autograd.grad(out[:, c].sum(), hidden, retain_graph=True)[0] for c in range(2)])
    W, A = net[0].weight.detach(), reference[0].weight.detach()
    direct = parts_of(W[None], (g.flatten(0, 1).mT @ g.flatten(0, 1) / 24)[None], A[None])
    np.testing.assert_allclose(numbers(parts), numbers(direct), rtol=1e-8)


def test_tables_dictionaries_and_json_hold_them() -> None:
    report = quiet(fill(mlp()), labelled(), reference=fill(mlp(), seed=1))
    row, parts = report.frame().loc["0"], report["0"].parts
    assert row["nfa_initial"] == parts.initial
    assert row["centered_null"] == report["0"].centered.null
    assert row["nfa_initial"] + row["nfa_mixed"] + row["nfa_learned"] == pytest.approx(row["nfa_cosine"])
    assert (row["directional"], row["weight_kernel_null"]) == (parts.directional, parts.weight_kernel_null)
    again = type(report).from_dict(json.loads(json.dumps(report.to_dict())))
    assert again["0"].parts == parts
    old = report.to_dict()
    for layer in old["layers"].values():
        del layer["parts"]
    assert type(report).from_dict(old)["0"].parts is None
    last = report[list(report)[-1]]
    assert (last.trivial, last.parts) == (True, None)


def test_a_tracker_takes_the_ansatz_apart_along_training() -> None:
    model, batches = fill(mlp()), labelled(48)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with FeatureTracker(model, batches, every=5) as tracker:
        for _ in range(20):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(normal(48, 5)), integers(3, 48)).backward()
            optimizer.step()
            tracker.step()
    frame = tracker.frame()
    layer = frame[frame["layer"] == "0"]
    sums = layer["nfa_initial"] + layer["nfa_mixed"] + layer["nfa_learned"]
    np.testing.assert_allclose(sums, layer["nfa_cosine"], atol=1e-9)
    assert layer["nfa_learned"].iloc[0] == 0
    assert layer["nfa_learned"].iloc[-1] > 0
    assert layer["nfa_initial"].iloc[-1] < layer["nfa_initial"].iloc[0]


def test_a_layer_of_zeros_has_no_parts() -> None:
    model = fill(mlp())
    with torch.no_grad():
        model[0].weight.zero_()
    parts = quiet(model, labelled(), reference=fill(mlp(), seed=1))["0"].parts
    assert all(math.isnan(value) for value in numbers(parts))
    assert all(math.isnan(value) for value in numbers(AlignmentParts.from_dict(dict.fromkeys(parts.to_dict()))))
