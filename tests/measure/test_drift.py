from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from cases import CASES, fill, integers, normal
from torch import nn
from torch.nn import functional as F

from featlearn import kernel_drift, lazy_rich
from featlearn.agop.layers import Rows
from featlearn.exceptions import DataError, FeatlearnWarning, MixingError, ModelError, UnmeasurableError
from featlearn.linalg.similarity import DebiasedCKA
from featlearn.measure.drift import KernelDrift, LazyRich


def pair(name):
    """A case, its model, and another with other weights."""
    case = CASES[name]
    return case, case.model(), fill(case.build(), seed=7)


def mlp():
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3))


def labelled(n=24, size=6):
    return list(zip(normal(n, 5).split(size), integers(3, n).split(size), strict=True))


# --- lazy or rich -----------------------------------------------------------------------------------------------------


def by_hand(model, other, x, sizes):
    """Every number of a sequential model of linear layers from plain forward passes."""
    rows, h, h0 = {}, x, x
    for name, (layer, twin) in enumerate(zip(model, other, strict=True)):
        if name == len(model) - 1:
            last, last0 = h, h0
        h, h0 = layer(h).detach(), twin(h0).detach()
        if isinstance(layer, nn.Linear):
            cka = DebiasedCKA()
            for a, b in zip(h.split(sizes), h0.split(sizes), strict=True):
                cka.add(a, b)
            moved = (layer.weight - twin.weight).detach()
            rows[str(name)] = {
                "weight_change": float(moved.norm() / twin.weight.detach().norm()),
                "weight_change_spectral": float(torch.linalg.svdvals(moved)[0]),
                "feature_change": float((h - h0).norm() / h0.norm()),
                "pattern_distance": float(((h > 0) != (h0 > 0)).double().mean()),
                "cka": cka.finalize(),
            }
    return rows, float((last - last0).norm() / last0.norm()), last, h


def d_lr_by_definition(features, outputs):
    phi, f = (array.numpy() - array.numpy().mean(axis=0) for array in (features, outputs))
    basis, spread, _ = np.linalg.svd(f, full_matrices=False)
    basis = basis[:, spread > 1e-8 * spread[0]]
    return 1 - np.linalg.norm(basis.T @ phi) ** 2 / math.sqrt(basis.shape[1]) / np.linalg.norm(phi.T @ phi)


def test_every_number_equals_plain_forward_passes():
    model, other, x = fill(mlp()), fill(mlp(), seed=7), normal(24, 5)
    result = lazy_rich(model, other, x.split(6))
    layers, last_change, features, outputs = by_hand(model, other, x, 6)
    assert list(result.layers) == ["0", "2", "4"]
    for name, expected in layers.items():
        for key, value in expected.items():
            assert getattr(result.layers[name], key) == pytest.approx(value, abs=1e-10), (name, key)
    weights = [(model[i].weight.detach(), other[i].weight.detach()) for i in (0, 2, 4)]
    moved = sum(float((weight - start).square().sum()) for weight, start in weights)
    size = sum(float(start.square().sum()) for _, start in weights)
    assert result.weight_change == pytest.approx(math.sqrt(moved / size), abs=1e-12)
    assert result.feature_change == pytest.approx(last_change, abs=1e-10)
    assert result.d_lr == pytest.approx(d_lr_by_definition(features, outputs), abs=1e-8)
    assert (result.n_samples, result.reason, result.d_lr_targets) == (24, None, None)


@pytest.mark.parametrize("name", [name for name in CASES if name != "experts"])
def test_reference_with_the_same_weights_changes_nothing(name):
    case, model, _ = pair(name)
    result = lazy_rich(model, case.model(), case.batches(), outputs=case.outputs)
    assert set(result.layers) == set(case.layers)
    assert result.weight_change == 0
    for change in result.layers.values():
        assert (change.weight_change, change.weight_change_spectral) == (0, 0)
        assert (change.feature_change, change.pattern_distance) == (0, 0)
        assert change.cka == pytest.approx(1.0, abs=1e-9) or math.isnan(change.cka)


@pytest.mark.parametrize("name", ["convnet", "repeated", "tied", "attention_time_first", "frames_in_batch", "lora"])
def test_features_of_every_layer_are_compared_call_by_call(name):
    case, model, other = pair(name)
    result = lazy_rich(model, other, case.batches(), outputs=case.outputs)
    for name, change in result.layers.items():
        expected, expected0 = (pre_activations(each, case, name) for each in (model, other))
        moved = sum(float((a - b).square().sum()) for a, b in zip(expected, expected0, strict=True))
        size = sum(float(b.square().sum()) for b in expected0)
        assert change.feature_change == pytest.approx(math.sqrt(moved / size), abs=1e-10)


def pre_activations(model, case, name):
    """Outputs of a layer at each call, through a hook of our own; attention's from its definition."""
    found = []
    module_name, _, part = name.rpartition(".")
    fused = part in ("q", "k", "v", "out_proj")
    module = model.get_submodule(module_name if fused else name)

    def project(module, args):
        index = "qkv".index(part)
        weight, bias = (tensor.chunk(3)[index] for tensor in (module.in_proj_weight, module.in_proj_bias))
        found.append(F.linear(args[index], weight, bias).detach())

    def keep(module, args, output):
        found.append((output[0] if fused else output).detach())

    handle = (
        module.register_forward_pre_hook(project) if part in ("q", "k", "v") else module.register_forward_hook(keep)
    )
    model.eval()
    for batch in case.batches():
        case.call(model, batch)
    handle.remove()
    return found


def test_time_first_layouts_are_compared_sample_by_sample():
    _, model, other = pair("time_first")
    x = normal(12, 5, 3)
    result = lazy_rich(model, other, [x])
    cka = DebiasedCKA()
    cka.add(*(each.inner(x).detach() for each in (model, other)))
    assert result.layers["inner"].cka == pytest.approx(cka.finalize(), abs=1e-10)


def test_as_many_steps_as_samples_leave_no_cka_and_a_reason():
    case, model, other = pair("square_time_first")
    result = lazy_rich(model, other, case.batches())
    assert math.isnan(result.layers["inner"].cka)
    assert result.layers["inner"].feature_change > 0
    assert "cka of 'inner': its rows are not laid out sample by sample" in result.reason


def test_layer_that_routes_tokens_otherwise_at_the_reference_has_no_feature_change():
    class Routes(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.expert, self.head = nn.Linear(3, 1), nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            chosen = self.gate(x)[:, 0] > 0
            return self.head(x.masked_scatter(chosen[:, None], self.expert(x[chosen])))

    model, other = fill(Routes()), fill(Routes(), seed=3)
    with torch.no_grad():
        other.gate.bias.fill_(50.0)  # every token goes through the expert
    result = lazy_rich(model, other, [normal(9, 3)])
    assert math.isnan(result.layers["expert"].feature_change)
    assert result.layers["expert"].weight_change > 0
    assert result.layers["head"].feature_change > 0
    assert "features of 'expert': it ran otherwise at the reference" in result.reason


def test_layers_that_do_not_run_are_left_out_or_refused_by_name():
    model, other = fill(mlp()), fill(mlp(), seed=7)
    for each in (model, other):
        each.idle = nn.Linear(2, 2).double()
        each.forward = lambda x, each=each: each[4](each[3](each[2](each[1](each[0](x)))))
    other = other.state_dict()
    assert list(lazy_rich(model, other, [normal(6, 5)]).layers) == ["0", "2", "4"]
    with pytest.raises(UnmeasurableError, match="'idle' cannot be compared: it never ran"):
        lazy_rich(model, other, [normal(6, 5)], layers=["0", "idle"])


def test_chosen_layers_and_rows_are_compared_alone():
    case, model, other = pair("fused_qkv")
    rows = Rows("qkv", 2, 7)
    result = lazy_rich(model, other, case.batches(), layers=[rows, "proj"])
    assert list(result.layers) == [rows.name, "proj"]
    moved = (model.qkv.weight - other.qkv.weight)[2:7].norm() / other.qkv.weight[2:7].norm()
    assert result.layers[rows.name].weight_change == pytest.approx(moved.item(), abs=1e-12)


def test_spectral_change_of_a_grouped_convolution_is_the_largest_over_groups():
    _, model, other = pair("conv2d_four_groups")
    moved = (model[0].weight - other[0].weight).detach().reshape(4, 2, -1)
    result = lazy_rich(model, other, CASES["conv2d_four_groups"].batches())
    assert result.layers["0"].weight_change_spectral == pytest.approx(float(torch.linalg.svdvals(moved).max()))


def test_half_precision_models_keep_a_small_weight_change():
    model = fill(mlp()).bfloat16()
    state = {key: value.double() for key, value in model.state_dict().items()}
    state["0.weight"] = state["0.weight"] + 1e-5  # far below the resolution of bfloat16
    result = lazy_rich(model, state, normal(12, 5).split(6))
    expected = 1e-5 * math.sqrt(35) / float(state["0.weight"].norm())
    assert result.layers["0"].weight_change == pytest.approx(expected, rel=1e-3)


def test_labels_add_the_distance_of_the_last_features_from_the_targets():
    model, other = fill(mlp()), fill(mlp(), seed=7)
    batches = labelled()
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    result = lazy_rich(model, other, batches, labels=True)
    features = model[:4](x).detach()
    assert result.d_lr_targets == pytest.approx(d_lr_by_definition(features, F.one_hot(y, 3).double()), abs=1e-8)
    numbers = normal(24, 2, seed=5)
    result = lazy_rich(model, other, list(zip(x.split(6), numbers.split(6), strict=True)), labels=True)
    assert result.d_lr_targets == pytest.approx(d_lr_by_definition(features, numbers), abs=1e-8)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([normal(6, 5)], "targets of NoneType for 6 samples"),
        ([(normal(6, 5), integers(3, 5))], r"targets of shape \(5,\) for 6 samples"),
        ([(normal(6, 5), integers(3, 6) + 1)], "expected classes .* from 0 to 2"),
        ([(normal(6, 2, 5), integers(3, 6))], "12 positions of 6 samples"),
    ],
)
def test_targets_that_do_not_fit_are_refused(batches, message):
    with pytest.raises(DataError, match=message):
        lazy_rich(fill(mlp()), fill(mlp(), seed=7), batches, labels=True)


def test_outputs_of_the_last_linear_layer_count_also_behind_a_softmax():
    model, other, x = fill(mlp()), fill(mlp(), seed=7), normal(24, 5)
    plain = lazy_rich(model, other, x.split(6))
    chosen = lazy_rich(model, other, x.split(6), outputs=lambda model, batch: model(batch).softmax(dim=-1))
    assert chosen.d_lr == plain.d_lr


def test_sequences_count_every_position_of_the_last_features():
    model, other, x = fill(mlp()), fill(mlp(), seed=7), normal(12, 4, 5)
    result = lazy_rich(model, other, x.split(6))
    features = model[:4](x).detach().flatten(0, 1)
    assert result.d_lr == pytest.approx(d_lr_by_definition(features, model[4](features).detach()), abs=1e-8)


def test_model_without_a_linear_layer_has_no_last_features():
    convolution = nn.Sequential(nn.Conv1d(2, 3, 2), nn.ReLU(), nn.Conv1d(3, 2, 2))
    result = lazy_rich(fill(convolution), fill(convolution.__class__(*convolution), seed=3), [normal(6, 2, 5)])
    assert math.isnan(result.d_lr)
    assert "no linear layer" in result.reason


def test_last_features_too_wide_for_their_scatter_have_no_distance(monkeypatch):
    monkeypatch.setattr("featlearn.measure.comparison.WIDEST", 5)
    result = lazy_rich(fill(mlp()), fill(mlp(), seed=7), [normal(6, 5)])
    assert math.isnan(result.d_lr)
    assert result.feature_change > 0
    assert "wider than 5" in result.reason


def test_dead_layer_gives_nan_and_a_warning_that_names_it():
    model, other = fill(mlp()), fill(mlp(), seed=7)
    with torch.no_grad():
        model[0].weight.zero_()
    with pytest.warns(FeatlearnWarning, match="layer '0' that do not differ"):
        result = lazy_rich(model, other, [normal(6, 5)], layers=["0"])
    assert math.isnan(result.layers["0"].cka)
    assert math.isnan(result.d_lr)
    assert "d_lr" in result.reason


def test_small_batches_give_no_cka_and_a_reason():
    result = lazy_rich(fill(mlp()), fill(mlp(), seed=7), normal(6, 5).split(3))
    assert math.isnan(result.layers["0"].cka)
    assert "no batch has the 4 samples" in result.reason
    with pytest.raises(DataError, match="no batches"):
        lazy_rich(fill(mlp()), fill(mlp(), seed=7), [])


# --- drift of the tangent kernel --------------------------------------------------------------------------------------


def tangent_kernel(model, x):
    """From the parameters of the whole model by vmapped reverse-mode autograd."""
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def outputs(parameters, sample):
        return torch.func.functional_call(model, parameters, (sample[None],)).flatten()

    jacobian = torch.func.vmap(torch.func.jacrev(outputs), (None, 0))(parameters, x)
    rows = torch.cat([value.flatten(2) for value in jacobian.values()], dim=2)
    return torch.einsum("icp,jcp->ij", rows, rows).numpy()


def cosine(a, b):
    return (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)


def centred(a):
    center = np.eye(len(a)) - 1 / len(a)
    return center @ a @ center


@pytest.mark.parametrize("build", ["mlp", "convolution"])
def test_distances_alignments_and_losses_equal_autograd(build):
    if build == "mlp":
        make, x = mlp, normal(10, 5)
    else:
        x = normal(10, 4, 5, 5)

        def make():
            return nn.Sequential(
                nn.Conv2d(4, 6, 3, groups=2, padding=1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(150, 3)
            )

    model, other, y = fill(make()), fill(make(), seed=7), integers(3, 10)
    batches = list(zip(x.split(4), y.split(4), strict=True))
    result = kernel_drift(model, other, batches, labels=True, loss=F.cross_entropy)
    now, start = tangent_kernel(model, x), tangent_kernel(other, x)
    target = (y[:, None] == y).double().numpy()
    assert result.distance == pytest.approx(1 - cosine(now, start), abs=1e-10)
    assert result.distance_centered == pytest.approx(1 - cosine(centred(now), centred(start)), abs=1e-10)
    assert result.alignment == pytest.approx(cosine(centred(now), centred(target)), abs=1e-10)
    assert result.reference_alignment == pytest.approx(cosine(centred(start), centred(target)), abs=1e-10)
    assert result.loss == pytest.approx(F.cross_entropy(model(x), y).item(), abs=1e-12)
    assert result.reference_loss == pytest.approx(F.cross_entropy(other(x), y).item(), abs=1e-12)
    assert (result.n_samples, result.probes, result.reason) == (10, "exact", None)


def test_kernel_of_the_same_weights_has_not_moved():
    model, x = fill(mlp()), normal(10, 5)
    result = kernel_drift(model, model, x.split(5))
    assert result.distance == pytest.approx(0.0, abs=1e-14)
    assert (result.alignment, result.loss, result.reference_loss) == (None, None, None)


def test_scale_of_the_outputs_does_not_move_the_kernel_of_the_layers_below():
    model, x = fill(mlp()), normal(10, 5)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    state["4.weight"] *= 3
    state["4.bias"] += 1
    result = kernel_drift(model, state, [x], layers=["0", "2"])
    assert result.distance == pytest.approx(0.0, abs=1e-13)
    assert kernel_drift(model, state, [x]).distance > 1e-3


def test_shared_probes_come_close_and_are_recorded():
    model, other, x = fill(mlp()), fill(mlp(), seed=7), normal(10, 5)
    exact = kernel_drift(model, other, [x])
    probed = kernel_drift(model, other, [x], probes=200)
    assert probed.probes == 200
    assert probed.distance == pytest.approx(exact.distance, abs=0.05)
    again = kernel_drift(model, other, x.split(3), probes=200)
    assert again.distance == pytest.approx(probed.distance, abs=1e-12)
    assert kernel_drift(model, other, [x], probes=1, random_state=1) != kernel_drift(model, other, [x], probes=1)


def test_max_samples_takes_the_first_ones():
    model, other = fill(mlp()), fill(mlp(), seed=7)
    batches = labelled()
    x = torch.cat([batch[0] for batch in batches])
    result = kernel_drift(model, other, batches, max_samples=9, labels=True)
    assert result.n_samples == 9
    assert result.distance == pytest.approx(kernel_drift(model, other, [x[:9]]).distance, abs=1e-13)


@pytest.mark.parametrize("kind", ["numbers", "one column", "tokens"])
def test_targets_of_every_kind(kind):
    model, other, x = fill(mlp()), fill(mlp(), seed=7), normal(8, 5)
    targets = {"numbers": normal(8), "one column": normal(8, 1), "tokens": integers(3, 8, 4)}[kind]
    result = kernel_drift(model, other, [(x, targets)], labels=True)
    if kind == "tokens":
        one_hot = F.one_hot(targets, 3).double().flatten(1)
        target = (one_hot @ one_hot.mT).numpy()
    else:
        target = (targets.reshape(8, 1) @ targets.reshape(1, 8)).numpy()
    assert result.alignment == pytest.approx(cosine(centred(tangent_kernel(model, x)), centred(target)), abs=1e-10)


def test_equal_targets_have_no_alignment():
    batches = [(normal(6, 5), torch.ones(6, dtype=torch.long))]
    with pytest.warns(FeatlearnWarning, match="all equal"):
        result = kernel_drift(fill(mlp()), fill(mlp(), seed=7), batches, labels=True)
    assert math.isnan(result.alignment)
    assert "constant" in result.reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_samples": 1}, "max_samples=1"),
        ({"max_samples": True}, "max_samples=True"),
        ({"probes": "auto"}, "probes='auto'"),
        ({"probes": 0}, "probes=0"),
        ({"random_state": -1}, "random_state=-1"),
        ({"loss": "mse"}, "loss='mse'"),
        ({"loss": F.cross_entropy}, "batches without targets"),
        ({"labels": True}, "targets of NoneType"),
    ],
)
def test_unusable_options_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        kernel_drift(fill(mlp()), fill(mlp(), seed=7), [normal(6, 5)], **options)


# --- both -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", [lazy_rich, kernel_drift])
@pytest.mark.parametrize("failing", [False, True])
def test_models_are_given_back_as_they_were(measure, failing):
    model, other = CASES["convnet"].model().train(), fill(CASES["convnet"].build(), seed=7).train()
    model[3].weight.requires_grad_(False)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = [{key: value.clone() for key, value in each.state_dict().items()} for each in (model, other)]
    rng = torch.get_rng_state()
    batches = CASES["convnet"].batches()
    if failing:
        with pytest.raises(DataError, match="not finite"):
            measure(model, other, [*batches, (torch.full((4, 2, 7, 6), math.nan), integers(3, 4))])
    else:
        measure(model, other, batches)
    for each, kept in zip((model, other), before, strict=True):
        assert all(torch.equal(value, kept[key]) for key, value in each.state_dict().items())
        assert all(module.training for module in each.modules())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in each.modules())
    assert not model[3].weight.requires_grad
    assert model[0].weight.requires_grad
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize("measure", [lazy_rich, kernel_drift])
def test_references_of_every_kind_give_the_same_numbers(measure):
    model, other, x = fill(mlp()), fill(mlp(), seed=7), normal(8, 5)
    expected = measure(model, other, [x]).to_dict()
    for reference in (other.state_dict(), dict(other.named_parameters()), nn.DataParallel(other)):
        assert measure(nn.DataParallel(model), reference, [{"input": x}]).to_dict() == expected


@pytest.mark.parametrize("measure", [lazy_rich, kernel_drift])
def test_incomplete_references_are_refused(measure):
    model = fill(mlp())
    with pytest.raises(ModelError, match=r"without '2\.weight'"):
        measure(model, {"0.weight": model[0].weight, "0.bias": model[0].bias}, [normal(8, 5)])


def test_batch_statistics_are_refused_by_the_kernel():
    model = fill(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2)))
    with pytest.raises(MixingError, match="running statistics"):
        kernel_drift(model, model, [normal(6, 3)])


# --- results ----------------------------------------------------------------------------------------------------------


def results():
    model, other = fill(mlp()), fill(mlp(), seed=7)
    return (
        lazy_rich(model, other, labelled(), labels=True),
        kernel_drift(model, other, labelled(), labels=True, loss=F.cross_entropy),
    )


def test_dictionaries_hold_the_numbers_and_come_back():
    drift, kernel = results()
    plain = json.loads(json.dumps(drift.to_dict()))
    assert set(plain["layers"]["0"]) == {
        *("weight_change", "weight_change_spectral", "feature_change", "pattern_distance", "cka")
    }
    assert set(plain["model"]) == {"weight_change", "feature_change", "d_lr", "d_lr_targets"}
    assert LazyRich.from_dict(plain) == drift
    assert KernelDrift.from_dict(json.loads(json.dumps(kernel.to_dict()))) == kernel


def test_null_comes_back_as_nan_and_missing_keys_as_not_asked_for():
    drift, kernel = results()
    plain = drift.to_dict()
    plain["layers"]["0"]["cka"] = None
    plain["model"] = {"weight_change": 1.0, "feature_change": 1.0, "d_lr": None}
    del plain["reason"]
    back = LazyRich.from_dict(plain)
    assert math.isnan(back.layers["0"].cka)
    assert math.isnan(back.d_lr)
    assert back.d_lr_targets is None
    plain = {key: value for key, value in kernel.to_dict().items() if key not in ("loss", "reference_loss", "reason")}
    back = KernelDrift.from_dict(plain | {"distance": None, "alignment": None})
    assert math.isnan(back.distance)
    assert (back.alignment, back.loss) == (None, None)


def test_frames_figures_pages_and_notebooks_show_the_numbers(tmp_path):
    from matplotlib import pyplot as plt

    drift, kernel = results()
    assert drift.frame().loc["2", "cka"] == drift.layers["2"].cka
    assert kernel.frame().loc[0, "distance"] == kernel.distance
    axes = drift.plot()
    drawn = {line.get_label(): np.asarray(line.get_ydata()).tolist() for line in axes.lines}
    assert [change.weight_change for change in drift.layers.values()] in drawn.values()
    plt.close(axes.figure)
    axes = kernel.plot()
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == [kernel.distance, kernel.distance_centered, kernel.alignment, kernel.reference_alignment]
    assert f"{kernel.loss:.3g}" in axes.get_title()
    plt.close(axes.figure)
    for result, value in ((drift, drift.layers["2"].cka), (kernel, kernel.loss)):
        result.to_html(tmp_path / "page.html")
        assert f"{value:.4g}" in (tmp_path / "page.html").read_text()
        assert f"{value:.3g}" in result._repr_html_()
    assert f"{drift.d_lr:.3f}" in drift._repr_html_()


def test_results_are_frozen():
    for result in results():
        with pytest.raises(AttributeError):
            result.n_samples = 0
