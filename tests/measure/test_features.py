"""The whole report against dense F, G and K from one autograd call a sample and output (oracles 1, 2, 5, 9)."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from cases import CASES, Case, LoRA, Tied, convnet, fill, integers, mlp, normal
from reference import cosine, feature_matrix, layer_agop, pearson, power
from torch import Tensor, nn

from featlearn import (
    FeatureReport,
    FeatureTracker,
    Rows,
    canonical_relations,
    kernel_drift,
    lazy_rich,
    measure_features,
    neural_collapse,
)
from featlearn.agop.finding import find_layers
from featlearn.agop.of_module import ModuleAGOP
from featlearn.exceptions import FeatlearnWarning
from featlearn.measure.features import MeasurementInterrupted

cross_entropy = nn.functional.cross_entropy
STATISTICS = {"pearson": pearson, "cosine": cosine}


def quiet(model: nn.Module, batches: Any, **options: Any) -> FeatureReport:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few samples: not what is tested here
        return measure_features(model, batches, **options)


def labelled(n: int = 24, size: int = 4) -> list[tuple[Tensor, Tensor]]:
    return list(zip(normal(n, 5).split(size), integers(3, n).split(size), strict=True))


def mlp_agop(model: nn.Module, name: str, batches: Any) -> Tensor:
    return layer_agop(model, [batch[0] if isinstance(batch, tuple) else batch for batch in batches], name)


def close(first: FeatureReport, second: FeatureReport, rel: float = 1e-9) -> None:
    """All numbers of all layers."""

    def walk(a: Any, b: Any, path: str) -> None:
        if isinstance(a, dict):
            assert a.keys() == b.keys(), path
            for key in a:
                walk(a[key], b[key], f"{path}/{key}")
        elif isinstance(a, list):
            assert len(a) == len(b), path
            for i, pair in enumerate(zip(a, b, strict=True)):
                walk(*pair, f"{path}/{i}")
        elif isinstance(a, float):
            assert b == pytest.approx(a, rel=rel, abs=rel, nan_ok=True), path
        else:
            assert a == b, path

    walk(first.to_dict()["layers"], second.to_dict()["layers"], "")


# --- every kind of layer ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES.values(), ids=str)
def test_report_holds_what_dense_matrices_give(case: Case) -> None:
    model, batches = case.model(), case.batches()
    report = quiet(model, batches, outputs=case.outputs)
    samples = sum(len(case.call(copy.deepcopy(model).eval(), batch)) for batch in batches)
    assert tuple(report) == case.layers
    layers, _ = find_layers(model)
    for name in case.layers:
        layer, found = layers[name], report[name]
        G = layer_agop(model, batches, layer.module_name, call=case.call, part=layer.part)
        F = feature_matrix(layer.weight())
        scale = float(G.abs().max())
        torch.testing.assert_close(found.agop, G, rtol=1e-10, atol=1e-10 * scale)
        torch.testing.assert_close(found.nfm, F, rtol=1e-12, atol=1e-12)
        assert found.trivial == (name in case.trivial)
        assert (found.groups, found.k, found.d) == tuple(layer.weight().shape)
        assert found.n_samples == report.provenance["n_samples"] == samples
        for entry in found.alignments:
            expected = STATISTICS[entry.statistic](F, power(G, entry.power))
            if F.numel() > 1 or entry.statistic == "cosine":
                # Powers of eigenvalues near zero keep half or a third of the digits of the AGOP's own round-off.
                tolerance = 1e-9 if entry.power == 1 else 1e-6
                assert entry.value == pytest.approx(expected, abs=tolerance), entry
        for spectrum, matrix in ((found.nfm_spectrum, F), (found.agop_spectrum, G)):
            values = torch.linalg.eigvalsh(matrix).flatten().sort(descending=True).values.numpy()
            np.testing.assert_allclose(spectrum.values, values[: len(spectrum)], atol=1e-9 * values[0])
            np.testing.assert_allclose(values[len(spectrum) :], 0, atol=1e-9 * values[0])


@pytest.mark.parametrize("name", ["mlp", "convnet", "encoder", "conv2d_grouped", "repeated"])
def test_tangent_kernel_gives_the_agop_and_its_spectrum(name: str) -> None:
    case = CASES[name]
    model = case.model()
    layers, _ = find_layers(model)
    for layer in quiet(model, case.batches()).layers.values():
        if layer.trivial:
            assert layer.tangent_kernel is None
            np.testing.assert_allclose(layer.tangent_spectrum.values, layer.positions)
            continue
        W = layers[layer.name].weight()
        torch.testing.assert_close(W.mT @ layer.tangent_kernel @ W, layer.agop)
        values = torch.linalg.eigvalsh(layer.tangent_kernel).flatten().sort(descending=True).values.clamp_min(0)
        np.testing.assert_allclose(layer.tangent_spectrum.values, values.numpy(), atol=1e-12 * float(values[0]))


@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_directions_are_eigenvectors_with_their_largest_entry_positive(name: str) -> None:
    case = CASES[name]
    for layer in quiet(case.model(), case.batches()).layers.values():
        spaces = []
        for directions, matrix in ((layer.agop_directions, layer.agop[0]), (layer.nfm_directions, layer.nfm[0])):
            values, vectors = torch.linalg.eigh(matrix)
            m = directions.shape[1]
            assert m == min(10, int(torch.linalg.matrix_rank(layer.nfm[0])))
            np.testing.assert_allclose(directions.T @ directions, np.eye(m), atol=1e-8)
            found = torch.from_numpy(directions.copy())
            torch.testing.assert_close(matrix @ found, found * values.flip(0)[:m], rtol=0, atol=1e-8 * values[-1])
            assert (directions[abs(directions).argmax(axis=0), range(m)] > 0).all()
            spaces.append(vectors.flip(1)[:, :m])
        if float(torch.linalg.eigvalsh(layer.agop[0]).flip(0)[m - 1]) > 1e-8:
            assert layer.subspace_overlap == pytest.approx(float((spaces[0].mT @ spaces[1]).norm() ** 2) / m, abs=1e-6)


def test_the_trivial_head_is_exact_and_stays_out_of_the_headline() -> None:
    report = measure_features(fill(mlp()), labelled())
    head = report["4"]
    assert head.trivial
    assert head.nfa == 1.0
    assert math.isnan(head.nfa_excess)
    assert "K is the identity" in head.reason
    assert head.tangent_kernel is None
    assert "4" not in report.summary()["strongest"]
    real = measure_features(fill(mlp()), labelled(), outputs=lambda model, batch: model(batch[0]).softmax(-1))["4"]
    assert not real.trivial
    assert real.nfa < 0.999
    assert math.isfinite(real.nfa_excess)


# --- errors of the whole chain ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("n_batches", [4, 13])
def test_standard_errors_are_the_jackknife_over_blocks_of_batches(statistic: str, n_batches: int) -> None:
    """Batch i goes to block i mod 10."""
    model, batches = fill(mlp()), list(normal(3 * n_batches, 5).split(3))
    report = measure_features(model, batches, statistic=statistic)
    blocks = min(10, n_batches)
    for name in ("0", "2"):
        F = feature_matrix(find_layers(model)[0][name].weight())
        sums = [3 * layer_agop(model, [batch], name) for batch in batches]
        left_out = []
        for b in range(blocks):
            kept = [G for i, G in enumerate(sums) if i % blocks != b]
            left_out.append(STATISTICS[statistic](F, torch.stack(kept).sum(0)))
        error = math.sqrt((blocks - 1) / blocks * ((np.array(left_out) - np.mean(left_out)) ** 2).sum())
        assert report[name].nfa_standard_error == pytest.approx(error, rel=1e-6)
        low, high = report[name].nfa_interval
        assert low < report[name].nfa < high


def test_one_batch_warns_how_many_to_pass() -> None:
    with pytest.warns(FeatlearnWarning, match="Got one batch, so there is no standard error. Pass the data in ten"):
        report = measure_features(fill(mlp()), [normal(12, 5)])
    assert math.isnan(report["0"].nfa_standard_error)
    assert math.isnan(report["0"].alignment().excess_standard_error)
    assert math.isfinite(report["0"].nfa_excess)
    assert "needs more batches" in report["0"].reason
    assert report.summary()["above_chance"] == []


def test_too_few_probes_warn_and_name_the_layers() -> None:
    """One sample a batch, two batches, one probe each: gradients of the two samples that have no product."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False), nn.Tanh()).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[2].weight.fill_(1.0)
    batches = [torch.tensor([[1.0, -1.0]], dtype=torch.float64), torch.tensor([[-1.0, 1.0]], dtype=torch.float64)]
    with pytest.warns(FeatlearnWarning, match="too few samples or probes for 0: "):
        report = measure_features(model, batches, probes=1)
    assert math.isnan(report["0"].nfa)
    assert "too few samples or probes" in report["0"].reason


# --- ways of computing that must agree --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "convnet", "encoder"])
@pytest.mark.parametrize("factor", [1e-3, 40.0])
def test_scale_of_the_outputs_changes_no_correlation(name: str, factor: float) -> None:
    case = CASES[name]
    plain, scaled = (
        quiet(case.model(), case.batches(), outputs=lambda model, batch, c=c: c * case.call(model, batch))
        for c in (1.0, factor)
    )
    for layer, other in zip(plain.layers.values(), scaled.layers.values(), strict=True):
        torch.testing.assert_close(other.agop, factor**2 * layer.agop)
        for a, b in zip(layer.alignments, other.alignments, strict=True):
            for key in ("value", "null", "null_sd", "excess", "standard_error"):
                assert getattr(b, key) == pytest.approx(getattr(a, key), abs=1e-9, nan_ok=True), (layer.name, key)


@pytest.mark.parametrize("probes", ["exact", 2])
@pytest.mark.parametrize("reference", [False, True])
def test_reduced_coordinates_equal_the_full_ones(probes: Any, reference: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above k = 1024 and k = 1.618 d the column space of W (and of the reference) is enough."""
    model = fill(nn.Sequential(nn.Linear(6, 1100), nn.Tanh(), nn.Linear(1100, 3), nn.Tanh()))
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight += 0.01 * normal(1100, 6, seed=5)
    options = {"probes": probes, "reference": {n: p for n, p in other.named_parameters() if n != "2.bias"}}
    options = options if reference else {"probes": probes}
    batches = normal(12, 6).split(3)
    reduced = measure_features(model, batches, **options)
    assert reduced["0"].tangent_kernel is None
    monkeypatch.setattr(ModuleAGOP, "_basis", lambda self, layer, gradient: None)
    full = measure_features(model, batches, **options)
    for key in ("nfa", "nfa_null", "nfa_standard_error", "best_power", "subspace_overlap"):
        assert getattr(reduced["0"], key) == pytest.approx(getattr(full["0"], key), rel=1e-8), key
    for a, b in zip(reduced["0"].alignments, full["0"].alignments, strict=True):
        assert b.value == pytest.approx(a.value, rel=1e-8)
        assert b.standard_error == pytest.approx(a.standard_error, rel=1e-6)
    torch.testing.assert_close(reduced["0"].agop, full["0"].agop)
    if reference:
        assert reduced["0"].centered_nfa == pytest.approx(full["0"].centered_nfa, rel=1e-6)
        assert reduced["0"].energy_share == pytest.approx(full["0"].energy_share, rel=1e-6)


def test_wide_matrices_are_not_shown() -> None:
    model = fill(nn.Sequential(nn.Linear(1030, 4), nn.Tanh(), nn.Linear(4, 1030), nn.Tanh()))
    report = measure_features(model, normal(8, 1030).split(2), probes=2)
    assert report["0"].nfm is None
    assert report["0"].agop is None
    assert report["0"].tangent_kernel.shape == (1, 4, 4)
    assert report["2"].nfm.shape == (1, 4, 4)
    assert report["2"].tangent_kernel is None
    assert report["0"].agop_directions.shape == (1030, 4)
    assert math.isfinite(report["0"].nfa)
    assert len(report["2"].tangent_spectrum) > 0


@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_single_precision_agrees_with_double(name: str) -> None:
    case = CASES[name]
    exact, single = (quiet(case.model().to(dtype), case.batches()) for dtype in (torch.float64, torch.float32))
    for layer, other in zip(exact.layers.values(), single.layers.values(), strict=True):
        for a, b in zip(layer.alignments, other.alignments, strict=True):
            assert b.value == pytest.approx(a.value, abs=1e-4)
            assert b.standard_error == pytest.approx(a.standard_error, abs=1e-4, nan_ok=True)
            if a.power == 1.0:
                assert b.null == pytest.approx(a.null, abs=1e-4)


def test_half_precision_weights_are_taken_as_they_are() -> None:
    """bfloat16 rounds activations to three digits; F and the coordinates of W are not rounded again."""
    model = fill(mlp()).bfloat16()
    half, same = measure_features(model, labelled()), measure_features(copy.deepcopy(model).double(), labelled())
    for name in ("0", "2"):
        assert half[name].nfm.dtype == torch.float32
        torch.testing.assert_close(half[name].nfm.double(), same[name].nfm, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(half[name].nfm_spectrum.values, same[name].nfm_spectrum.values, rtol=1e-9)
        assert half[name].nfa == pytest.approx(same[name].nfa, abs=0.02)
        assert half[name].nfa_excess == pytest.approx(same[name].nfa_excess, abs=0.1)


@pytest.mark.parametrize("name", ["mlp_labelled", "convnet"])
def test_the_callers_autocast_is_for_the_model_alone(name: str) -> None:
    """Activations are in half precision then; what is made of weights alone is not."""
    case = CASES[name]
    model = case.model().float()
    outside = quiet(model, case.batches(), loss=cross_entropy)
    relations = canonical_relations(model, case.batches(), cross_entropy, normalize=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = quiet(model, case.batches(), loss=cross_entropy)
        tracked = FeatureTracker(model, case.batches()).history[0][1]
        inside_relations = canonical_relations(model, case.batches(), cross_entropy, normalize=True)
    for layer, other in zip(outside.layers.values(), inside.layers.values(), strict=True):
        torch.testing.assert_close(other.nfm, layer.nfm)
        torch.testing.assert_close(other.agop, layer.agop, rtol=2e-2, atol=2e-2 * float(layer.agop.abs().max()))
        assert other.agop.dtype == torch.float32
        assert other.nfa == pytest.approx(layer.nfa, abs=0.02)
        assert other.fact == pytest.approx(layer.fact, abs=0.05)
        assert tracked[layer.name].nfa == pytest.approx(other.nfa, abs=1e-4)
        assert inside_relations.layers[layer.name] == pytest.approx(relations.layers[layer.name], abs=0.05)


@pytest.mark.parametrize("n", [8, 60])
def test_batches_without_a_length_give_the_same(n: int) -> None:
    """A generator, and a loader of a stream, whose length raises."""

    class Stream(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[Tensor]:
            return iter(normal(n, 5))

    expected = measure_features(fill(mlp()), normal(n, 5).split(4))
    close(measure_features(fill(mlp()), (batch for batch in normal(n, 5).split(4))), expected)
    loader = torch.utils.data.DataLoader(Stream(), batch_size=4)
    assert measure_features(fill(mlp()), loader).provenance["n_batches"] == n // 4
    close(measure_features(fill(mlp()), loader), expected)


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # of torch.compile itself
@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["data parallel", "compiled"])
def test_wrappers_are_taken_off(wrap: Callable[[nn.Module], nn.Module]) -> None:
    close(measure_features(wrap(fill(mlp())), labelled()), measure_features(fill(mlp()), labelled()))


def test_numpy_numbers_are_numbers() -> None:
    found = measure_features(fill(mlp()), labelled(), probes=np.int64(2), power=np.float64(0.5))
    close(found, measure_features(fill(mlp()), labelled(), probes=2, power=0.5))
    assert type(found.provenance["probes_requested"]) is int


# --- parts and sharing ------------------------------------------------------------------------------------------------


def test_rows_are_measured_as_a_layer_of_their_own() -> None:
    case = CASES["fused_qkv"]
    model, batches = case.model(), case.batches()
    rows = [Rows("qkv", 0, 4, "q"), Rows("qkv", 4, 8), Rows("qkv", 8, 12, "v")]
    report = quiet(model, batches, layers=rows, loss=None)
    assert list(report) == ["qkv.q", "qkv[4:8]", "qkv.v"]
    for name, start in zip(report, (0, 4, 8), strict=True):
        W = model.qkv.weight.detach()[start : start + 4].unsqueeze(0)
        G = layer_agop(model, batches, "qkv", rows=slice(start, start + 4))
        torch.testing.assert_close(report[name].agop, G, rtol=1e-10, atol=1e-12)
        assert report[name].nfa == pytest.approx(pearson(feature_matrix(W), G), abs=1e-10)
        assert (report[name].k, report[name].d) == (4, 4)


def test_one_parameter_in_two_modules_is_two_layers() -> None:
    report = quiet(fill(Tied(4)), normal(8, 4).split(4))
    assert report["a"].shared_with == ("b",)
    assert report["b"].shared_with == ("a",)
    assert report["head"].shared_with == ()
    assert report["a"].nfa != report["b"].nfa  # one F, two kernels
    torch.testing.assert_close(report["a"].nfm, report["b"].nfm)


def test_calls_of_one_module_are_positions() -> None:
    case = CASES["repeated"]
    report = quiet(case.model(), case.batches())
    assert report["loop"].calls == 3
    assert report["loop"].positions == 1


# --- the reference ----------------------------------------------------------------------------------------------------


def test_the_centred_ansatz_is_that_of_the_weight_change() -> None:
    model, other = fill(mlp()), fill(mlp(), seed=1)
    report = measure_features(model, labelled(), reference=other)
    for name in ("0", "2"):
        D = (model.get_submodule(name).weight - other.get_submodule(name).weight).detach().unsqueeze(0)
        G, K = report[name].agop, report[name].tangent_kernel
        F, moved = feature_matrix(D), D.mT @ K @ D
        assert report[name].centered_nfa == pytest.approx(pearson(F, moved), abs=1e-10)
        shares = {"nfm": float(F.norm() / report[name].nfm.norm()), "agop": float(moved.norm() / G.norm())}
        assert report[name].energy_share == pytest.approx(shares, rel=1e-10)
        assert math.isfinite(report[name].centered.excess)
        assert math.isfinite(report[name].centered.standard_error)


def test_the_centred_ansatz_follows_the_statistic() -> None:
    model, other = fill(mlp()), fill(mlp(), seed=1)
    report = measure_features(model, labelled(), reference=other, statistic="cosine")
    D = (model[0].weight - other[0].weight).detach().unsqueeze(0)
    moved = D.mT @ report["0"].tangent_kernel @ D
    assert report["0"].centered_nfa == pytest.approx(cosine(feature_matrix(D), moved), abs=1e-10)


def test_adapters_are_centred_on_the_weight_before_them() -> None:
    case = CASES["lora"]
    model = case.model()
    adapter = model[0]
    assert isinstance(adapter, LoRA)
    report = quiet(model, case.batches())
    update = 0.7 * (adapter.lora_B["default"].weight @ adapter.lora_A["default"].weight).detach().unsqueeze(0)
    F, G = feature_matrix(update), update.mT @ report["0"].tangent_kernel @ update
    assert report["0"].centered_nfa == pytest.approx(pearson(F, G), abs=1e-10)
    assert report["2"].centered_nfa is None
    torch.testing.assert_close(
        report["0"].nfm, feature_matrix(adapter.base_layer.weight.detach().unsqueeze(0) + update)
    )


def test_the_comparisons_with_the_reference_are_those_of_the_functions() -> None:
    model, other = fill(mlp()), fill(mlp(), seed=1)
    batches = labelled(80, 8)
    report = measure_features(model, batches, reference=other, kernel_samples=20)
    lazy = lazy_rich(model, other, batches, labels=True)
    for name, change in report.lazy_rich.to_dict()["layers"].items():
        assert change == pytest.approx(lazy.to_dict()["layers"][name], rel=1e-9, nan_ok=True)
    drift = kernel_drift(model, other, batches, labels=True, max_samples=20)
    assert report.kernel_drift.distance == pytest.approx(drift.distance, rel=1e-9)
    assert report.kernel_drift.alignment == pytest.approx(drift.alignment, rel=1e-9)
    assert report.kernel_drift.n_samples == 20
    assert measure_features(model, batches, reference=other, kernel_samples=0).kernel_drift is None


def test_a_reference_of_weights_alone_gives_the_centred_ansatz_alone() -> None:
    model, other = fill(mlp()), fill(mlp(), seed=1)
    weights = {name: tensor for name, tensor in other.state_dict().items() if name.endswith("weight")}
    report = measure_features(model, labelled(), reference=weights)
    whole = measure_features(model, labelled(), reference=other)
    assert report["0"].centered_nfa == pytest.approx(whole["0"].centered_nfa)
    assert report.lazy_rich is None
    assert report.kernel_drift is None
    assert any("does not cover the whole model" in note for note in report.provenance["notes"])


def test_collapse_is_that_of_the_input_of_the_last_layer() -> None:
    model, batches = fill(mlp()), labelled(40, 8)
    report = measure_features(model, batches)
    features = torch.cat([model[:4](x) for x, _ in batches]).detach()
    expected = neural_collapse(features, torch.cat([y for _, y in batches]), weight=model[4].weight.detach())
    for key, value in expected.to_dict().items():
        found = report.collapse.to_dict()[key]
        assert found == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), key
    assert measure_features(model, [x for x, _ in batches]).collapse is None
    one_class = [(x, torch.zeros_like(y)) for x, y in batches]
    assert any("neural collapse left out" in note for note in measure_features(model, one_class).provenance["notes"])


# --- interruption and progress ----------------------------------------------------------------------------------------


class Interrupted(nn.Module):
    """Interrupts at one call of the model, going forward or backward."""

    def __init__(self, at: int, where: str) -> None:
        super().__init__()
        self.inner, self.at, self.where, self.calls = mlp(), at, where, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        h = self.inner[:2](x)
        if self.calls == self.at:
            if self.where == "forward":
                raise KeyboardInterrupt
            h.register_hook(self._stop)
        return self.inner[2:](h)

    def _stop(self, gradient: Tensor) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("probes", ["exact", 2])
def test_an_interrupted_measurement_reports_the_finished_batches(where: str, probes: Any) -> None:
    batches = normal(24, 5).split(4)
    model = fill(Interrupted(5, where))  # one call checks that samples do not interact; the fourth batch fails
    with pytest.raises(MeasurementInterrupted) as caught:
        measure_features(model, batches, probes=probes)
    report = caught.value.report
    assert not report.provenance["complete"]
    assert report.provenance["n_batches"] == 3
    finished = measure_features(model, (batch for batch in batches[:3]), probes=probes)
    for name in ("inner.0", "inner.2"):
        assert report[name].n_samples == 12
        assert report[name].nfa == pytest.approx(finished[name].nfa, rel=1e-9)
        assert report[name].nfa_standard_error == pytest.approx(finished[name].nfa_standard_error, rel=1e-9)


def test_an_interrupted_loader_reports_the_finished_batches() -> None:
    def stream() -> Iterator[Tensor]:
        yield from normal(12, 5).split(4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        measure_features(fill(mlp()), stream())
    assert isinstance(caught.value, MeasurementInterrupted)
    close(caught.value.report, measure_features(fill(mlp()), normal(12, 5).split(4)))


def test_an_interrupted_loss_leaves_the_loss_side_out() -> None:
    calls = 0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 5:  # once more for feature speed, on the first batch
            raise KeyboardInterrupt
        return cross_entropy(outputs, targets)

    with pytest.raises(MeasurementInterrupted) as caught:
        measure_features(fill(mlp()), labelled(), loss=loss)
    report = caught.value.report
    assert report["0"].fact is None
    assert any("loss side left out" in note for note in report.provenance["notes"])
    assert math.isfinite(report["0"].nfa)


def test_an_interruption_before_the_first_batch_has_nothing_to_report() -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        measure_features(fill(Interrupted(1, "forward")), normal(8, 5).split(4))
    assert not isinstance(caught.value, MeasurementInterrupted)


def test_progress_is_called_after_each_batch() -> None:
    seen: list[tuple[int, int | None]] = []
    measure_features(fill(mlp()), normal(12, 5).split(4), progress=lambda done, total: seen.append((done, total)))
    measure_features(fill(mlp()), iter(normal(8, 5).split(4)), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3), (1, None), (2, None)]
    close(
        measure_features(fill(mlp()), normal(8, 5).split(4), progress=True),
        measure_features(fill(mlp()), normal(8, 5).split(4)),
    )


# --- provenance -------------------------------------------------------------------------------------------------------


def test_provenance_tells_what_was_measured() -> None:
    model = fill(mlp())
    made = measure_features(model, labelled(), loss=cross_entropy, power=0.5, statistic="cosine", random_state=3)
    told = made.provenance
    assert told["model"] == "Sequential"
    assert told["parameters"] == sum(p.numel() for p in model.parameters())
    assert (told["n_samples"], told["n_batches"], told["random_state"]) == (24, 6, 3)
    assert (told["probes"], told["probes_requested"]) == ("exact", "exact")
    assert told["backward_passes"] == 6 * 3
    assert (told["statistic"], told["power"], told["dtype"], told["device"]) == ("cosine", 0.5, "float64", "cpu")
    assert told["loss"] == "cross_entropy"
    losses = [cross_entropy(model(x), y).item() for x, y in labelled()]
    assert told["mean_loss"] == pytest.approx(np.mean(losses))
    assert told["complete"] is True
    assert told["versions"]["torch"] == torch.__version__
    assert told["seconds"] > 0


def test_compression_and_probes_are_told() -> None:
    wide = fill(nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 9)))
    told = measure_features(wide, normal(12, 5).split(4)).provenance
    assert told["compression"] is True
    assert told["backward_passes"] == 3 * 4
    told = measure_features(wide, normal(12, 5).split(4), probes=2).provenance
    assert (told["probes"], told["backward_passes"]) == (2, 6)
    told = measure_features(wide, normal(12, 5).split(4), probes="auto").provenance
    assert told["probes_requested"] == "auto"
    assert told["probes"] == "exact"  # few samples: a relative error of 0.03 takes more probes than outputs


def test_automatic_probes_reach_the_error_they_aim_for() -> None:
    """Chosen from two probes on the first batch, for a relative error of 0.03 of every AGOP."""
    model = fill(nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 40), nn.Tanh()))
    batches = normal(400, 5).split(50)
    report = measure_features(model, batches, probes="auto")
    assert 1 < report.provenance["probes"] < 40
    exact = measure_features(model, batches)
    for name in ("0", "2"):
        error = float((report[name].agop - exact[name].agop).norm() / exact[name].agop.norm())
        assert error < 0.06
        assert report[name].probe_error < 0.06
        assert report[name].nfa == pytest.approx(exact[name].nfa, abs=0.02)


def test_fingerprints_follow_weights_and_data() -> None:
    model = fill(mlp())
    first = measure_features(model, labelled()).provenance
    again = measure_features(model, labelled()).provenance
    assert (first["weights_sha256"], first["data_sha256"]) == (again["weights_sha256"], again["data_sha256"])
    other = measure_features(model, [(x + 1, y) for x, y in labelled()]).provenance
    assert other["data_sha256"] != first["data_sha256"]
    with torch.no_grad():
        model[4].bias[0] += 1e-9
    assert measure_features(model, labelled()).provenance["weights_sha256"] != first["weights_sha256"]


# --- every option counts ----------------------------------------------------------------------------------------------

OPTIONS: list[dict[str, Any]] = [
    {"layers": "0"},
    {"layers": ["*2"]},
    {"reference": {"0.weight": torch.zeros(7, 5), "2.weight": torch.zeros(6, 7), "4.weight": torch.zeros(3, 6)}},
    {"outputs": lambda model, batch: model(batch[0]).softmax(-1)},
    {"loss": cross_entropy},
    {"probes": 1},
    {"probes": 2},
    {"power": 0.5},
    {"statistic": "cosine"},
    {"random_state": 1},
]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: "-".join(map(str, option.items()))[:30])
def test_every_option_changes_the_report(option: dict[str, Any]) -> None:
    plain = measure_features(fill(mlp()), labelled()).to_dict(matrices=True)["layers"]
    assert repr(measure_features(fill(mlp()), labelled(), **option).to_dict(matrices=True)["layers"]) != repr(plain)


def test_kernel_samples_change_the_drift() -> None:
    distances = {
        samples: measure_features(
            fill(mlp()), labelled(), reference=fill(mlp(), seed=1), kernel_samples=samples
        ).kernel_drift.distance
        for samples in (6, 12, 24)
    }
    assert len(set(distances.values())) == 3


def test_random_state_moves_probes_and_draws_but_not_exact_values() -> None:
    first, again, other = (measure_features(fill(mlp()), labelled(), random_state=seed)["0"] for seed in (0, 0, 1))
    assert first.nfa == again.nfa == other.nfa
    assert first.nfa_half.null == again.nfa_half.null != other.nfa_half.null
    first, again, other = (
        measure_features(fill(mlp()), labelled(), probes=2, random_state=seed)["0"].nfa for seed in (0, 0, 1)
    )
    assert first == again != other


def test_layers_too_large_for_small_matrices_are_skipped_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featlearn.agop.of_module.WIDEST", 3)
    report = measure_features(fill(convnet()), normal(8, 2, 7, 6).split(2))
    assert "smaller side 4 is above 3" in report.skipped["0"]
    assert list(report) == ["3", "8"]
