"""Canonical relations against activations and gradients of one sample at a time, in loops (oracle 7)."""

from __future__ import annotations

import json
import math
import warnings
from typing import Any

import pytest
import torch
from cases import CASES, fill, integers, mlp, normal
from reference import cosine, pearson, unfold
from torch import Tensor, nn

from featlearn import canonical_relations, measure_features
from featlearn.measure import lossside
from featlearn.measure.relations import CanonicalRelations
from featlearn.report.json import dump_json

STATISTICS = {"pearson": pearson, "cosine": cosine}
RELATIONS = ("out_hg", "out_hw", "out_gw", "in_hg", "in_hw", "in_gw")
cross_entropy = nn.functional.cross_entropy


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over samples of a sum over everything else, with targets of one number a sample."""
    return ((outputs.flatten(1) - targets[:, None]) ** 2).sum(dim=1).mean()


def batches_of(name: str) -> list[tuple[Tensor, Tensor]]:
    found = CASES[name].batches()
    inputs = [batch[0] if isinstance(batch, tuple) else batch for batch in found]
    return [(x, normal(len(x), seed=10 + i)) for i, x in enumerate(inputs)]


def with_zeros(calls: list[tuple[Tensor, Tensor, Tensor]]) -> Any:
    """A hook that adds zeros to the output, to differentiate by: an in-place activation may change the output."""

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        zeros = torch.zeros_like(output, requires_grad=True)
        calls.append((args[0].detach().clone(), output.detach().clone(), zeros))
        return output + zeros

    return hook


def vectors(model: nn.Module, batches: Any, loss: Any, name: str) -> dict[str, Tensor]:
    """``h`` without bias, ``g`` and ``x`` of a layer as (samples, positions, groups, size), one sample at a time."""
    model = model.eval()
    module: Any = model.get_submodule(name)
    found: dict[str, list[Tensor]] = {"h": [], "g": [], "x": []}
    for inputs, targets in batches:
        for i in range(len(inputs)):
            calls: list[tuple[Tensor, Tensor, Tensor]] = []
            handle = module.register_forward_hook(with_zeros(calls))
            value = loss(model(inputs[i : i + 1]), targets[i : i + 1])
            handle.remove()
            gradients = torch.autograd.grad(value, [zeros for _, _, zeros in calls])
            rows: dict[str, list[Tensor]] = {"h": [], "g": [], "x": []}
            for (x, h, _), g in zip(calls, gradients, strict=True):
                if isinstance(module, nn.modules.conv._ConvNd):
                    size = module.out_channels // module.groups
                    bias = torch.zeros(len(h[0])) if module.bias is None else module.bias
                    h = h - bias.reshape(1, -1, *[1] * (h.dim() - 2))
                    split = [t.flatten(2).unflatten(1, (module.groups, size)).permute(0, 3, 1, 2)[0] for t in (h, g)]
                    rows["x"].append(unfold(module, x)[0][0])
                else:
                    h = h if module.bias is None else h - module.bias
                    split = [t.reshape(-1, 1, t.shape[-1]) for t in (h, g)]
                    rows["x"].append(x.reshape(-1, 1, x.shape[-1]))
                rows["h"].append(split[0])
                rows["g"].append(split[1])
            for key, parts in rows.items():
                found[key].append(torch.cat(parts).detach())
    return {key: torch.stack(values) for key, values in found.items()}


def moment(rows: Tensor, normalize: bool, center: bool) -> Tensor:
    """(groups, size, size), by loops: mean over samples, sum over positions."""
    n, positions, groups, size = rows.shape
    total = torch.zeros(groups, size, size, dtype=torch.float64)
    for group in range(groups):
        found = [rows[i, p, group] for i in range(n) for p in range(positions)]
        if normalize:
            found = [v / v.norm() if v.norm() > 0 else v for v in found]
        mean = sum(found) / len(found) if center else torch.zeros(size, dtype=torch.float64)
        for v in found:
            total[group] += torch.outer(v - mean, v - mean)
    return total / n


def weight_of(model: nn.Module, name: str) -> Tensor:
    module: Any = model.get_submodule(name)
    groups = getattr(module, "groups", 1)
    return module.weight.detach().reshape(groups, module.weight.shape[0] // groups, -1)


def expected(
    model: nn.Module, batches: Any, loss: Any, name: str, statistic: str, normalize: bool = False, center: bool = False
) -> dict[str, float]:
    W, rows = weight_of(model, name), vectors(model, batches, loss, name)
    pulled = torch.einsum("gkd,npgk->npgd", W, rows["g"])
    out = {"h": moment(rows["h"], normalize, center), "g": moment(rows["g"], normalize, center), "w": W @ W.mT}
    inside = {"h": moment(rows["x"], normalize, center), "g": moment(pulled, normalize, center), "w": W.mT @ W}
    correlate = STATISTICS[statistic]
    return {
        f"{side}_{a}{b}": correlate(parts[a], parts[b])
        for side, parts in (("out", out), ("in", inside))
        for a, b in ("hg", "hw", "gw")
    }


NAMES = ["mlp", "sequence", "residual", "repeated", "convnet", "conv2d_strided", "conv1d_grouped", "conv2d_circular"]


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("name", NAMES)
def test_relations_are_those_of_single_samples(name: str, statistic: str) -> None:
    case, batches = CASES[name], batches_of(name)
    model = case.model()
    found = canonical_relations(model, batches, squared, statistic=statistic)
    assert sorted(found.layers) == sorted(case.layers)
    for layer in case.layers:
        value = expected(model, batches, squared, layer, statistic)
        assert found.layers[layer] == pytest.approx(value, abs=1e-10)


@pytest.mark.parametrize(("normalize", "center"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("name", ["mlp", "sequence", "convnet", "conv1d_grouped", "repeated"])
def test_unit_norms_and_means_are_those_of_single_vectors(name: str, normalize: bool, center: bool) -> None:
    case, batches = CASES[name], batches_of(name)
    model = case.model()
    found = canonical_relations(model, batches, squared, normalize=normalize, center=center)
    for layer in case.layers:
        value = expected(model, batches, squared, layer, "pearson", normalize, center)
        assert found.layers[layer] == pytest.approx(value, abs=1e-9)


def test_a_sample_without_a_gradient_has_no_direction() -> None:
    """A unit-norm gradient of zero stays zero."""
    model, batches = fill(mlp()), [(normal(6, 5), torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 0.0]))]

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.sum(dim=1) * targets).mean()

    found = canonical_relations(model, batches, loss, normalize=True)
    assert found.layers["0"] == pytest.approx(expected(model, batches, loss, "0", "pearson", normalize=True), abs=1e-10)


def test_the_report_holds_the_same_relations() -> None:
    model = fill(mlp())
    batches = list(zip(normal(24, 5).split(4), integers(3, 24).split(4), strict=True))
    report = measure_features(model, batches, loss=cross_entropy, statistic="cosine")
    found = canonical_relations(model, batches, cross_entropy, statistic="cosine")
    assert found.n_samples == 24
    assert found.mean_loss == pytest.approx(report.provenance["mean_loss"])
    for name, values in found.layers.items():
        crh = dict(report[name].crh)
        null = crh.pop("in_gw_null")
        assert crh == pytest.approx(values, abs=1e-12)
        assert 0 < null <= 1 + 1e-12
        assert crh["in_gw"] == pytest.approx(report[name].loss_nfa, abs=1e-12)


def test_the_identities_of_the_two_sides() -> None:
    """Published for H_b = W H_a W^T: <H_a, G_a> = tr(H_b G_b), <H_a, F> = tr H_b, <G_a, F> = tr(M^2 G_b)."""
    model, batches = fill(mlp()), batches_of("mlp")
    W, rows = weight_of(model, "2"), vectors(model, batches, squared, "2")
    H_b, G_b, H_a = (moment(rows[key], False, False) for key in ("h", "g", "x"))
    torch.testing.assert_close(H_b, W @ H_a @ W.mT)
    torch.testing.assert_close((H_a * (W.mT @ G_b @ W)).sum(), (H_b * G_b).sum())
    torch.testing.assert_close((H_a * (W.mT @ W)).sum(), H_b.diagonal(dim1=1, dim2=2).sum())


def test_batch_size_does_not_matter() -> None:
    model, (x, y) = fill(mlp()), (normal(12, 5), normal(12))
    options: dict[str, Any] = {"normalize": True, "center": True}
    whole = canonical_relations(model, [(x, y)], squared, **options)
    parts = canonical_relations(
        model, list(zip(x.split([1, 7, 4]), y.split([1, 7, 4]), strict=True)), squared, **options
    )
    assert parts.mean_loss == pytest.approx(whole.mean_loss, rel=1e-12)
    for name, values in whole.layers.items():
        assert parts.layers[name] == pytest.approx(values, abs=1e-10)


def test_patches_unfolded_a_few_at_a_time_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    case, batches = CASES["convnet"], batches_of("convnet")
    found = canonical_relations(case.model(), batches, squared, center=True)
    monkeypatch.setattr(lossside, "UNFOLDED", 1)
    again = canonical_relations(case.model(), batches, squared, center=True)
    for name, values in found.layers.items():
        assert again.layers[name] == pytest.approx(values, abs=1e-12)


def test_wide_inputs_leave_their_second_moment_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lossside, "WIDEST_INPUT", 5)
    monkeypatch.setattr("featlearn.measure.layer_report.WIDEST_INPUT", 5)
    model, batches = fill(mlp()), batches_of("mlp")
    found = canonical_relations(model, batches, squared).layers
    assert all(math.isfinite(value) for value in found["0"].values())
    assert [math.isnan(found["2"][key]) for key in RELATIONS] == [False, False, False, True, True, True]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = measure_features(model, batches, loss=squared)
    assert "in_hg and in_hw need d <= " in report["2"].reason


@pytest.mark.parametrize(
    "option", [{"normalize": True}, {"center": True}, {"statistic": "cosine"}, {"layers": "0"}], ids=str
)
def test_every_option_changes_the_relations(option: dict[str, Any]) -> None:
    model, batches = fill(mlp()), batches_of("mlp")
    assert (
        canonical_relations(model, batches, squared, **option).layers
        != canonical_relations(model, batches, squared).layers
    )


def test_outputs_of_ones_own_are_what_the_loss_sees() -> None:
    model, batches = fill(mlp()), batches_of("mlp")
    doubled = canonical_relations(model, batches, squared, outputs=lambda model, batch: 2 * model(batch[0]))
    assert doubled.layers["0"] == pytest.approx(
        canonical_relations(model, batches, lambda o, t: squared(2 * o, t)).layers["0"], abs=1e-12
    )
    assert doubled.layers["0"] != pytest.approx(canonical_relations(model, batches, squared).layers["0"], abs=1e-3)


def test_relations_as_records() -> None:
    found = canonical_relations(fill(mlp()), batches_of("mlp"), squared)
    frame = found.frame()
    assert list(frame.columns) == list(RELATIONS)
    assert frame.loc["2", "in_hw"] == found.layers["2"]["in_hw"]
    back = CanonicalRelations.from_dict(json.loads(dump_json(found.to_dict())))
    assert back.to_dict() == found.to_dict()
    undefined = CanonicalRelations({"0": {**found.layers["0"], "in_hg": float("nan")}}, 6, 1.0)
    assert math.isnan(CanonicalRelations.from_dict(json.loads(dump_json(undefined.to_dict()))).layers["0"]["in_hg"])
    assert "<table" in found._repr_html_()
