from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from cases import fill, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from featlearn.dynamics.layer_mechanisms import MechanismRecorder, layer_mechanisms
from featlearn.dynamics.mechanism_results import LayerMechanisms
from featlearn.exceptions import DataError, ModelError, UnmeasurableError


class Tokens(nn.Module):
    """A linear layer at five positions, whose outputs are flattened: units vary fastest."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.head = nn.Linear(3, 4), nn.Linear(20, 2)

    def forward(self, x):
        return self.head(self.each(x).relu().flatten(1))


def chain(*layers):
    return lambda: nn.Sequential(*[layer() for layer in layers])


# Two layers each, an input, and how many hidden units.
NETWORKS = {
    "linear": (chain(lambda: nn.Linear(5, 7), lambda: nn.Linear(7, 3)), ("0", "1"), normal(1, 5), 7),
    "wide_head": (chain(lambda: nn.Linear(2, 4), lambda: nn.Linear(4, 9)), ("0", "1"), normal(1, 2), 4),
    "convolutions": (chain(lambda: nn.Conv2d(2, 6, 3), lambda: nn.Conv2d(6, 4, 2)), ("0", "1"), normal(1, 2, 6, 6), 6),
    "conv1d": (chain(lambda: nn.Conv1d(2, 6, 3), lambda: nn.Conv1d(6, 4, 2)), ("0", "1"), normal(1, 2, 6), 6),
    "flatten": (
        chain(lambda: nn.Conv2d(2, 6, 3), nn.Flatten, lambda: nn.Linear(24, 4)),
        ("0", "2"),
        normal(1, 2, 4, 4),
        6,
    ),
    "grouped_first": (
        chain(lambda: nn.Conv2d(4, 6, 3, groups=2), lambda: nn.Conv2d(6, 4, 1)),
        ("0", "1"),
        normal(1, 4, 3, 3),
        6,
    ),
    "grouped_second": (
        chain(lambda: nn.Conv2d(2, 6, 1), lambda: nn.Conv2d(6, 6, 3, groups=3)),
        ("0", "1"),
        normal(1, 2, 3, 3),
        6,
    ),
    "depthwise": (
        chain(lambda: nn.Conv2d(4, 4, 3, groups=4), lambda: nn.Conv2d(4, 5, 1)),
        ("0", "1"),
        normal(1, 4, 3, 3),
        4,
    ),
    "tokens": (Tokens, ("each", "head"), normal(1, 5, 3), 4),
}


def product(model, names):
    """|W_2 W_1|_F from the weights alone: every path from an input of W_1 to an output of W_2, at every position."""
    first, second = (model.get_submodule(name) for name in names)
    w1, w2 = first.weight.detach().double(), second.weight.detach().double()
    width = w1.shape[0]
    # To (units, inputs of W_1) and (outputs, units, positions), groups written out as zeros.
    g1 = getattr(first, "groups", 1)
    w1 = torch.block_diag(*w1.reshape(g1, width // g1, -1))
    if isinstance(second, nn.Linear):
        units_last = isinstance(first, nn.Linear)
        w2 = w2.reshape(len(w2), -1, width).mT if units_last else w2.reshape(len(w2), width, -1)
        return float(torch.einsum("oup,ui->opi", w2, w1).norm())
    w2 = w2.flatten(2)
    dense = torch.zeros(w2.shape[0], width, w2.shape[2], dtype=torch.float64)
    rows, units = w2.shape[0] // second.groups, w2.shape[1]
    for g in range(second.groups):
        dense[g * rows : (g + 1) * rows, g * units : (g + 1) * units] = w2[g * rows : (g + 1) * rows]
    return float(torch.einsum("oup,ui->opi", dense, w1).norm())


@pytest.mark.parametrize("name", NETWORKS)
def test_three_terms_add_up_to_the_change_of_the_product(name):
    build, names, _, width = NETWORKS[name]
    model, before = fill(build()), fill(build(), seed=5)
    pair = layer_mechanisms(model, [names], before=before)[names]
    expected = math.log(product(model, names) / product(before, names))
    assert abs(pair.rotation + pair.concentration + pair.rescaling - expected) < 1e-12
    assert abs(pair.total - expected) < 1e-12
    assert pair.width == width
    assert pair.cosine[1] * pair.norm[1] == pytest.approx(product(model, names), rel=1e-13)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_networks_run_so_that_their_widths_are_what_they_seem(name):
    build, _, x, _ = NETWORKS[name]
    assert fill(build())(x).isfinite().all()


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "tokens"])
def test_pairs_are_found_from_the_shapes(name):
    build, names, _, _ = NETWORKS[name]
    result = layer_mechanisms(fill(build()))
    assert [(pair.first, pair.second) for pair in result.pairs] == [names]
    assert result.steps == (0,)
    assert math.isnan(result.pairs[0].score)
    assert result.pairs[0].labels == ()


def test_outputs_of_linear_layers_are_no_pair_by_themselves_with_a_multiple():
    with pytest.raises(UnmeasurableError, match="without two consecutive"):
        layer_mechanisms(fill(Tokens()))


def test_units_flattened_after_a_linear_layer_vary_fastest():
    model = fill(Tokens())
    model.requires_grad_(False)
    model.each.weight[1:] = 0  # one unit is left: what the head reads of it are the columns in which it acts
    model.each.bias.zero_()
    outputs = torch.func.jacrev(model.head)(torch.zeros(1, 20, dtype=torch.float64))[0, :, 0]
    ones = torch.zeros(1, 5, 3, dtype=torch.float64)
    ones[...] = model.each.weight[0]
    acts = model.each(ones).flatten(1)[0] != 0
    state = layer_mechanisms(model, [("each", "head")]).pairs[0]
    expected = float(outputs[:, acts].norm() * model.each.weight[0].norm())
    assert int(acts.sum()) == 5
    assert state.cosine[0] * state.norm[0] == pytest.approx(expected, rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(2, 6), st.integers(1, 6), st.integers(0, 10**6))
def test_rotations_of_the_hidden_units(inputs, width, outputs, seed):
    model = nn.Sequential(nn.Linear(inputs, width), nn.Linear(width, outputs))
    fill(model, seed)
    base = layer_mechanisms(model).pairs[0]
    assert 0 <= base.cosine[0] <= base.largest[0] * (1 + 1e-12)
    assert base.largest[0] <= 1 + 1e-12
    one = torch.linalg.qr(normal(width, width, seed=seed + 1))[0]
    with torch.no_grad():
        model[0].weight.copy_(one @ model[0].weight)
    turned = layer_mechanisms(model).pairs[0]
    np.testing.assert_allclose(turned.largest, base.largest, rtol=1e-12)
    np.testing.assert_allclose(turned.norm, base.norm, rtol=1e-12)
    with torch.no_grad():
        model[1].weight.copy_(model[1].weight @ one.mT)
    np.testing.assert_allclose(layer_mechanisms(model).pairs[0].cosine, base.cosine, rtol=1e-9, atol=1e-7)
    # The rotation that takes the left singular vectors of W_1 to the right ones of W_2 attains cmax.
    left, right = torch.linalg.svd(model[0].weight.detach())[0], torch.linalg.svd(model[1].weight.detach())[2].mT
    with torch.no_grad():
        model[0].weight.copy_(right @ left.mT @ model[0].weight)
    best = layer_mechanisms(model).pairs[0]
    np.testing.assert_allclose(best.cosine, best.largest, rtol=1e-10)


def test_one_input_and_one_output_are_the_vectors_of_a_linear_network():
    model = fill(nn.Sequential(nn.Linear(1, 8, bias=False), nn.Linear(8, 1, bias=False)))
    w, u = model[0].weight.detach()[:, 0].numpy(), model[1].weight.detach()[0].numpy()
    pair = layer_mechanisms(model).pairs[0]
    assert pair.cosine[0] == pytest.approx(abs(u @ w) / np.linalg.norm(u) / np.linalg.norm(w), rel=1e-12)
    assert pair.norm[0] == pytest.approx(np.linalg.norm(u) * np.linalg.norm(w), rel=1e-14)
    assert pair.largest[0] == pytest.approx(1.0, rel=1e-12)
    assert pair.chance == 3 / 8


@pytest.mark.parametrize(("inputs", "outputs", "k"), [(1, 4, 3), (4, 1, 3), (4, 4, 1)])
def test_chance_level_of_single_vectors_is_larger(inputs, outputs, k):
    model = fill(nn.Sequential(nn.Linear(inputs, 6), nn.Linear(6, outputs)))
    assert layer_mechanisms(model).pairs[0].chance == k / 6


def test_depthwise_units_of_one_input_each_are_no_single_vector():
    model = fill(nn.Sequential(nn.Conv2d(4, 4, 1, groups=4), nn.Conv2d(4, 2, 1)))
    assert layer_mechanisms(model).pairs[0].chance == 1 / 4


def test_independent_layers_have_a_cosine_of_one_over_root_width():
    squares = [
        layer_mechanisms(fill(nn.Sequential(nn.Linear(40, 50), nn.Linear(50, 30)), seed), spectra=False)
        .pairs[0]
        .cosine[0]
        ** 2
        for seed in range(30)
    ]
    error = np.std(squares, ddof=1) / math.sqrt(len(squares))
    assert abs(np.mean(squares) - 1 / 50) < 3 * error


@pytest.mark.parametrize("scale", [1e-120, 1e120])
def test_any_scale_of_the_weights_gives_the_same_angles(scale):
    model = fill(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)))
    base = layer_mechanisms(model).pairs[0]
    with torch.no_grad():
        model[0].weight.mul_(scale)
    scaled = layer_mechanisms(model).pairs[0]
    np.testing.assert_allclose(scaled.cosine, base.cosine, rtol=1e-12)
    np.testing.assert_allclose(scaled.largest, base.largest, rtol=1e-12)
    np.testing.assert_allclose(scaled.norm, scale * base.norm, rtol=1e-12)


def labelled(change):
    model = fill(nn.Sequential(nn.Linear(6, 64, bias=False), nn.ReLU(), nn.Linear(64, 4, bias=False)))
    start = copy.deepcopy(model)
    with torch.no_grad():
        change(model)
    return layer_mechanisms(model, before=start).pairs[0]


def test_turning_alone_is_alignment_and_rotation():
    def turn(model):
        left = torch.linalg.svd(model[0].weight)[0]
        right = torch.linalg.svd(model[2].weight)[2].mT
        model[0].weight.copy_(right @ left.mT @ model[0].weight)

    pair = labelled(turn)
    assert pair.labels == ("alignment",)
    assert pair.score > math.log(2)
    assert abs(pair.concentration) < 1e-10
    assert abs(pair.rescaling) < 1e-10
    assert pair.rotation > 0.5


def test_turning_away_is_disalignment():
    def turn(model):
        model[2].weight.copy_(torch.linalg.svd(model[0].weight)[0][:, :4].mT)

    aligned = labelled(turn)
    model = fill(nn.Sequential(nn.Linear(6, 64, bias=False), nn.ReLU(), nn.Linear(64, 4, bias=False)))
    start = copy.deepcopy(model)
    with torch.no_grad():
        turn(start)
    pair = layer_mechanisms(model, before=start).pairs[0]
    assert "alignment" in aligned.labels
    assert "disalignment" in pair.labels
    assert pair.score == pytest.approx(-aligned.score, rel=1e-10)


def test_growing_alone_is_rescaling_and_a_little_of_it_nothing():
    grown = labelled(lambda model: model[0].weight.mul_(1.3))
    assert grown.labels == ("rescaling",)
    assert grown.rescaling == pytest.approx(math.log(1.3), rel=1e-12)
    assert labelled(lambda model: model[0].weight.mul_(0.7)).labels == ("rescaling",)
    assert labelled(lambda model: model[0].weight.mul_(1.2)).labels == ("kernel-like",)


def test_growth_of_one_direction_is_concentration():
    def grow(model):
        left, values, right = torch.linalg.svd(model[0].weight, full_matrices=False)
        values[0] *= 30
        model[0].weight.copy_(left @ values.diag() @ right)

    assert labelled(grow).concentration > 0.2


def test_units_that_cancel_have_no_cosine_but_a_finite_score():
    model = nn.Sequential(nn.Linear(3, 8, bias=False), nn.ReLU(), nn.Linear(8, 1, bias=False))
    w, a = normal(4, 3), normal(1, 4, seed=3)
    with torch.no_grad():
        model.double()
        model[0].weight.copy_(torch.cat([w, w]))
        model[2].weight.copy_(torch.cat([a, -a], dim=1))
    after = copy.deepcopy(model)
    with torch.no_grad():
        after[2].weight.abs_()
    pair = layer_mechanisms(after, before=model).pairs[0]
    assert pair.cosine[0] == 0
    assert pair.rotation == math.inf
    assert math.isfinite(pair.score)


def test_a_zero_weight_has_no_angle():
    model = fill(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    start = copy.deepcopy(model)
    with torch.no_grad():
        start[2].weight.zero_()
    pair = layer_mechanisms(model, before=start).pairs[0]
    assert math.isnan(pair.cosine[0])
    assert pair.rescaling == math.inf
    assert pair.labels == ("rescaling",)


def test_a_normalisation_between_leaves_the_angle_alone():
    layers = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1)]
    model, start = fill(nn.Sequential(*layers)), fill(copy.deepcopy(nn.Sequential(*layers)), seed=4)
    first, second = layer_mechanisms(model, before=start).pairs
    assert "BatchNorm2d between" in first.flags[0]
    assert math.isnan(first.rescaling)
    assert math.isfinite(first.rotation)
    assert second.flags == ()
    assert math.isfinite(second.rescaling)


def test_tied_weights_are_flagged():
    model = fill(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
    model[2].weight = model[0].weight
    first, second = layer_mechanisms(model).pairs
    assert any("'0' shares its weight with '2'" in flag for flag in first.flags)
    assert any("'2' shares its weight with '0'" in flag for flag in second.flags)


def test_without_spectra_the_angle_is_not_split():
    model, start = (
        fill(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))),
        fill(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), seed=3),
    )
    pair, full = (layer_mechanisms(model, before=start, spectra=spectra).pairs[0] for spectra in (False, True))
    assert np.isnan(pair.largest).all()
    assert math.isnan(pair.rotation)
    assert pair.total == full.total
    assert pair.score == full.score


def test_a_state_dict_is_as_good_as_a_module():
    model, start = (
        fill(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))),
        fill(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), seed=3),
    )
    results = [layer_mechanisms(model, before=before).to_dict() for before in (start, start.state_dict())]
    assert results[0] == results[1]


def test_recorder_records_what_two_states_say():
    model = fill(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)))
    start, seen = copy.deepcopy(model), []
    recorder = MechanismRecorder(model, log=seen.append)
    recorder(0)
    for step in (1, 10):
        with torch.no_grad():
            model[0].weight.mul_(1.5)
        recorder(step)
    result = recorder.result()
    compared = layer_mechanisms(model, before=start).pairs[0]
    assert result.steps == (0, 1, 10)
    assert result.pairs[0].rescaling == pytest.approx(2 * math.log(1.5), rel=1e-12)
    for name in ("score", "rotation", "concentration", "rescaling", "total"):
        assert getattr(result.pairs[0], name) == pytest.approx(getattr(compared, name), abs=1e-12)
    assert seen[2]["step"] == 10
    assert seen[2]["0-2/norm"] == result.pairs[0].norm[2]
    assert len(result.curves()) == 3
    bare = MechanismRecorder(model, [("0", "2")], spectra=False)
    bare(0)
    assert np.isnan(bare.result()[("0", "2")].largest).all()


def test_results_survive_a_dictionary_and_become_tables():
    model, start = (
        fill(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))),
        fill(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), seed=3),
    )
    result = layer_mechanisms(model, before=start)
    plain = result.to_dict()
    assert LayerMechanisms.from_dict(plain).to_dict() == plain
    assert result.frame().loc[("0", "1"), "norm"] == result.pairs[0].norm[-1]
    assert "rotation" in result._repr_html_()
    with pytest.raises(UnmeasurableError, match=r"the result has \('0', '1'\)"):
        result[("0", "2")]


def test_model_is_not_touched():
    model = fill(nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 2))).train()
    before = copy.deepcopy(model.state_dict())
    layer_mechanisms(model, before=before)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("0", "9")], "no such layer"),
        ([("0",)], "expected two names"),
        ([], "Got no pairs"),
        ([("0", "0")], "twice"),
        ([("2", "0")], "2 outputs and whose second reads 3"),
        ([("*", "2")], "stands for 2 layers"),
    ],
)
def test_pairs_that_are_none_are_refused(pairs, message):
    with pytest.raises(UnmeasurableError, match=message):
        layer_mechanisms(fill(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))), pairs)


def test_a_state_dict_that_training_changed_is_refused():
    model = fill(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    before = model.state_dict()
    fill(model, seed=3)
    with pytest.raises(DataError, match="shares the memory"):
        layer_mechanisms(model, before=before)


def test_a_pair_that_did_not_move_is_flagged():
    model = fill(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
    start = copy.deepcopy(model)
    with torch.no_grad():
        model[4].weight.mul_(2)
    first, second = layer_mechanisms(model, before=start).pairs
    assert first.flags == ("both weights are those of the start",)
    assert second.flags == ()


def test_weights_name_their_layers_and_a_pair_that_skips_one_is_flagged():
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2)]
    model = fill(nn.Sequential(*layers))
    (pair,) = layer_mechanisms(model, ("0.weight", "2.weight")).pairs
    assert (pair.first, pair.second, pair.flags) == ("0", "2", ())
    (skipping,) = layer_mechanisms(model, [("0", "5")]).pairs
    assert skipping.flags == ("not consecutive: '2' between '0' and '5' in registration",)


def test_a_change_below_the_thresholds_is_called_that():
    result = LayerMechanisms(steps=(0, 1), pairs=(labelled(lambda model: model[0].weight.mul_(1.2)),))
    assert result.thresholds == {"score": math.log(2), "rescaling": math.log(1.25)}
    assert result.frame()["labels"].tolist() == ["below the thresholds (kernel-like)"]
    assert "|score| above 0.693" in result._repr_html_()


def test_what_cannot_be_measured_is_refused():
    model = fill(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    with pytest.raises(ModelError, match="reference without"):
        layer_mechanisms(model, before={"0.weight": torch.zeros(4, 3)})
    recorder = MechanismRecorder(model)
    with pytest.raises(DataError, match="no recorded step"):
        recorder.result()
    recorder(3)
    with pytest.raises(DataError, match="expected a later one"):
        recorder(3)
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    with pytest.raises(ModelError, match="not finite"):
        layer_mechanisms(model)
