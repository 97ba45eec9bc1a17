"""Coordinate check against training written out by hand, and what it does with odd models, layers and arguments."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from featlearn.exceptions import DataError, FeatlearnError, FeatlearnWarning, ModelError, UnmeasurableError
from featlearn.report.json import dump_json
from featlearn.training.coordinate import CoordinateCheck, coordinate_check

WIDTHS = (8, 16, 32)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
X = torch.linspace(-1, 1, 60, dtype=torch.float64).reshape(12, 5).sin()
Y = X[:, :1] ** 2 - X[:, 1:2]


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs - targets) ** 2).mean() / 2


def sgd(model: nn.Module, lr: float = 0.05) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


def mlp(width: int, act: type[nn.Module] = nn.Tanh) -> nn.Module:
    return nn.Sequential(nn.Linear(5, width), act(), nn.Linear(width, width), act(), nn.Linear(width, 1)).double()


def deep(depth: int, width: int = 6) -> nn.Module:
    hidden = [part for _ in range(depth - 2) for part in (nn.Linear(width, width), nn.Tanh())]
    return nn.Sequential(nn.Linear(5, width), nn.Tanh(), *hidden, nn.Linear(width, 1)).double()


def check(factory=mlp, widths=WIDTHS, batch=(X, Y), loss=loss, *, optimizer=sgd, **options) -> CoordinateCheck:
    return coordinate_check(
        factory, None if "depths" in options else widths, batch, loss, optimizer=optimizer, **options
    )


def values(result: CoordinateCheck, quantity: str, **where) -> np.ndarray:
    rows = result.records()
    for key, value in where.items():
        rows = rows[rows[key] == value]
    return rows[quantity].to_numpy()


# --- the numbers ------------------------------------------------------------------------------------------------------


def by_hand(net: nn.Module, steps: int, lr: float) -> list[dict[str, tuple[float, float, float]]]:
    """Training of a chain of linear layers and tanh, each layer's output taken from a loop over the modules."""

    def run() -> tuple[dict[str, Tensor], Tensor]:
        features, signal = {}, X
        for name, module in net.named_children():
            signal = module(signal)
            if isinstance(module, nn.Linear):
                features[name] = signal
                signal.retain_grad()
        return features, loss(signal, Y)

    history, found = [], []
    for step in range(steps + 1):
        features, value = run()
        net.zero_grad()
        value.backward()
        history.append({name: (f.detach().clone(), f.grad.clone()) for name, f in features.items()})
        sizes = {}
        for name, (now, _) in history[-1].items():
            change = now - history[0][name][0]
            cosine = math.nan
            if step:
                before, pull = history[-2][name]
                cosine = -float((pull * (now - before)).sum() / (pull.norm() * (now - before).norm()))
            sizes[name] = (float((now**2).mean() ** 0.5), float((change**2).mean() ** 0.5), cosine)
        found.append(sizes)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= lr * parameter.grad
    return found


@pytest.mark.parametrize("device", DEVICES)
def test_features_changes_and_angles_are_those_of_training_by_hand(device):
    def factory(width: int) -> nn.Module:
        generator = torch.Generator().manual_seed(width)  # so that the test can build the same model
        net = mlp(width)
        for parameter in net.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 2
        return net.to(device)

    result = check(factory, seeds=1, steps=4)
    for width in WIDTHS:
        for step, sizes in enumerate(by_hand(factory(width).cpu(), 4, 0.05)):
            for name, expected in sizes.items():
                for quantity, value in zip(("feature_rms", "feature_change_rms", "cos_theta"), expected, strict=True):
                    measured = values(result, quantity, size=width, step=step, layer=name)
                    np.testing.assert_allclose(measured, [value], rtol=1e-9, atol=1e-14)


def test_slopes_are_fitted_to_the_last_step():
    result = check(steps=2)
    for (layer, quantity), row in result.frame().iterrows():
        last = result.records().query(f"step == 2 and layer == '{layer}'")
        expected = np.polyfit(np.log(last["size"]), np.log(last[quantity]), 1)[0]
        assert row["slope"] == pytest.approx(expected, abs=1e-10)


def test_in_place_activations_change_nothing():
    class InPlace(nn.Tanh):
        def forward(self, x: Tensor) -> Tensor:
            return x.tanh_()

    frames = [check(lambda width, act=act: mlp(width, act), seeds=2).records() for act in (nn.Tanh, InPlace)]
    assert frames[0].equals(frames[1])


def test_an_optimiser_with_rates_that_compensate_for_width_is_flat():
    """Two layers: the input layer's gradient falls like readout weight; rates and scales of muP undo it."""

    def factory(width: int) -> nn.Module:
        net = nn.Sequential(nn.Linear(5, width, bias=False), nn.Tanh(), nn.Linear(width, 1, bias=False)).double()
        nn.init.normal_(net[0].weight, std=5**-0.5)
        nn.init.normal_(net[2].weight, std=1 / width)
        return net

    def mup(net: nn.Module) -> torch.optim.Optimizer:
        width = net[0].out_features
        groups = [
            {"params": net[0].parameters(), "lr": 0.1 * width},
            {"params": net[2].parameters(), "lr": 0.1 / width},
        ]
        return torch.optim.SGD(groups)

    widths = (64, 128, 256, 512, 1024)
    assert check(factory, widths, optimizer=mup, seeds=8).passed is True
    common = check(factory, widths, optimizer=sgd, seeds=8)
    assert common.passed is False
    assert common.frame().loc[("0", "feature_change_rms"), "verdict"] == "depends on width"


# --- random numbers ---------------------------------------------------------------------------------------------------


def test_the_callers_generators_do_not_move():
    def factory(width: int) -> nn.Module:
        np.random.rand(3)  # noqa: NPY002
        random.random()
        return mlp(width)

    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    check(factory, seeds=1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert random.getstate() == before[2]


def test_every_run_has_random_numbers_of_its_own_that_other_runs_do_not_change():
    whole = check(seeds=3).records()
    torch.manual_seed(123)
    part = check(widths=(8, 16, 64), seeds=2).records()
    shared = whole.query("size < 32 and seed < 2").reset_index(drop=True)
    assert shared.equals(part.query("size < 32").reset_index(drop=True))
    first = whole.query("step == 0 and layer == '0'")["feature_rms"]
    assert first.nunique() == 9
    assert not whole.equals(check(seeds=3, random_state=1).records())


def test_dropout_keeps_its_masks_so_that_only_the_optimiser_moves_features():
    def factory(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Linear(5, width), nn.Dropout(0.5), nn.Linear(width, width), nn.Linear(width, 1)
        ).double()

    still = check(factory, optimizer=lambda net: sgd(net, lr=0.0), seeds=1)
    assert (still.records()["feature_change_rms"] == 0).all()
    assert still.passed is None  # nothing that moves was judged
    assert "never moves" in still.summary()
    modes = [check(factory, seeds=1, mode=mode).records() for mode in ("train", "eval")]
    assert not modes[0].equals(modes[1])


def test_mode_decides_which_statistics_normalise():
    def factory(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Linear(5, width), nn.BatchNorm1d(width), nn.Linear(width, width), nn.Linear(width, 1)
        ).double()

    large = {mode: check(factory, batch=(100 * X, Y), seeds=1, steps=1, mode=mode) for mode in ("train", "eval")}
    features = {mode: values(result, "feature_rms", layer="2", step=0) for mode, result in large.items()}
    assert (features["train"] < 2).all()
    assert (features["eval"] > 5).all()


# --- layers -----------------------------------------------------------------------------------------------------------


def test_over_width_the_readout_is_shown_and_not_judged():
    result = check()
    frame = result.frame()
    assert result.readout == "4"
    assert not frame.loc["4", "judged"].any()
    assert frame.loc[["0", "2"], "judged"].all()
    assert "readout" in result.summary()
    only_angle = check(judged=["cos_theta"]).frame()
    assert set(only_angle.index[only_angle["judged"]]) == {("0", "cos_theta"), ("2", "cos_theta")}


def test_over_depth_layers_correspond_by_place():
    result = check(deep, depths=(3, 6, 12), seeds=1)
    names = {
        size: dict(zip(rows["layer"], rows["name"], strict=True))
        for size, rows in result.records().query("step == 0").groupby("size")
    }
    assert names[3] == {"first": "0", "middle": "0", "last hidden": "2", "readout": "4"}
    assert names[6] == {"first": "0", "middle": "4", "last hidden": "8", "readout": "10"}
    assert names[12] == {"first": "0", "middle": "10", "last hidden": "20", "readout": "22"}
    frame = result.frame()
    assert set(frame.index[frame["judged"]]) == {("last hidden", "feature_rms"), ("last hidden", "feature_change_rms")}
    assert (result.over, result.readout) == ("depth", "readout")


def test_named_layers_are_measured_alone_and_the_last_one_may_be_hidden():
    result = check(layers=["0", "2"])
    assert set(result.records()["layer"]) == {"0", "2"}
    assert result.readout is None
    assert result.frame()["judged"].all()


def test_embeddings_and_layers_that_run_twice_are_measured():
    class Twice(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.table, self.middle, self.out = nn.Embedding(7, width), nn.Linear(width, width), nn.Linear(width, 1)

        def forward(self, tokens: Tensor) -> Tensor:
            signal = self.table(tokens)
            return self.out(self.middle(self.middle(signal).tanh()).tanh())

    tokens = torch.arange(12) % 7
    result = check(lambda width: Twice(width).double(), batch=(tokens, Y), seeds=1)
    assert list(dict.fromkeys(result.records()["layer"])) == ["table", "middle", "out"]
    assert np.isfinite(result.records().query("step > 0")["cos_theta"]).all()


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_transformers_with_dropout_are_measured(mode):
    class Transformer(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(7, width), nn.Linear(width, 1)
            self.block = nn.TransformerEncoderLayer(width, 2, width, dropout=0.3, batch_first=True)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.out(self.block(self.table(tokens)).mean(dim=1))

    tokens = torch.arange(48).reshape(12, 4) % 7
    result = check(lambda width: Transformer(width).double(), batch=(tokens, Y), seeds=1, mode=mode)
    layers = list(dict.fromkeys(result.records()["layer"]))
    attention = [f"block.self_attn.{part}" for part in ("q", "k", "v", "out_proj")]
    assert layers == ["table", *attention, "block.linear1", "block.linear2", "out"]
    assert np.isfinite(result.records().query("step > 0")["cos_theta"]).all()


def test_a_frozen_first_layer_is_not_judged():
    def factory(width: int) -> nn.Module:
        net = mlp(width)
        net[0].requires_grad_(False)
        return net

    result = check(factory, seeds=2)
    frame = result.frame()
    assert not frame.loc[("0", "feature_change_rms"), "judged"]
    assert frame.loc[("2", "feature_change_rms"), "judged"]
    assert "change of features of '0', angle of '0': never moves" in result.summary()


def test_a_readout_that_starts_at_zero_holds_the_first_step_and_no_further_ones():
    def factory(width: int) -> nn.Module:
        net = mlp(width)
        nn.init.zeros_(net[4].weight)
        return net

    one, three = check(factory, steps=1), check(factory, steps=3)
    assert one.passed is None
    assert (values(one, "feature_change_rms", layer="2") == 0).all()
    assert (values(three, "feature_change_rms", layer="2", step=3) > 0).all()


def test_values_without_a_logarithm_are_left_out_with_a_note():
    """Plain SGD on the negative loss makes every angle obtuse."""
    result = check(optimizer=lambda net: torch.optim.SGD(net.parameters(), lr=0.01, maximize=True), seeds=1)
    assert (values(result, "cos_theta", step=3, layer="0") < 0).all()
    row = result.frame().loc[("0", "cos_theta")]
    assert (row["n"], row["left_out"], row["verdict"]) == (0, 3, "undecided")
    assert "3 of 3 values are zero, negative or undefined" in row["note"]


# --- the verdict ------------------------------------------------------------------------------------------------------


def test_a_size_that_diverges_fails_by_name():
    def explosive(net: nn.Module) -> torch.optim.Optimizer:
        return sgd(net, lr=1e200 if net[0].out_features == 32 else 0.01)

    result = check(optimizer=explosive, seeds=2)
    assert result.passed is False
    assert {(failure.size, failure.seed) for failure in result.failures} == {(32, 0), (32, 1)}
    assert "Not finite: width 32, 2 of 2 seeds" in result.summary()
    assert set(result.records().query("step == 3")["size"]) == {8, 16}


def test_a_verdict_needs_intervals_inside_the_tolerance():
    assert check(tolerance=100.0).passed is True
    assert check(tolerance=1e-9).passed is not True
    wide, narrow = check(confidence=0.99).frame(), check(confidence=0.5).frame()
    assert ((wide["high"] - wide["low"]) > (narrow["high"] - narrow["low"])).all()


def test_results_survive_json_and_show_themselves():
    result = check(optimizer=lambda net: sgd(net, lr=1e200 if net[0].out_features == 32 else 0.01), seeds=2)
    back = CoordinateCheck.from_dict(json.loads(dump_json(result.to_dict())))
    assert back.summary() == result.summary()
    assert back.frame().equals(result.frame())
    assert back.records().equals(result.records())
    assert back.failures == result.failures
    assert "depends on width" in result._repr_html_() or "undecided" in result._repr_html_()


def test_progress_counts_runs():
    seen = []
    check(seeds=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 6) for done in range(7)]


def test_runs_also_where_the_caller_has_turned_gradients_off():
    expected = check(seeds=1).records()
    with torch.no_grad():
        assert check(seeds=1).records().equals(expected)
    with torch.inference_mode():
        assert check(seeds=1).records().equals(expected)


def test_sizes_close_together_are_warned_of():
    with pytest.warns(FeatlearnWarning, match="widths 8 and 12, less than a factor of two"):
        check(widths=(8, 12, 24), seeds=1)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"widths": None}, DataError, "neither widths nor depths"),
        ({"widths": (8, 16)}, DataError, "at least 3 ascending"),
        ({"widths": (8, 32, 16)}, DataError, "at least 3 ascending"),
        ({"widths": (8.5, 16, 32)}, DataError, "at least 3 ascending"),
        ({"widths": (0, 16, 32)}, DataError, "positive"),
        ({"widths": 64}, DataError, "widths=64"),
        ({"factory": mlp(8)}, DataError, "factory of type Sequential"),
        ({"factory": lambda width: None}, ModelError, r"NoneType from factory\(8\)"),
        ({"optimizer": sgd(mlp(8))}, DataError, "optimizer of type SGD"),
        ({"optimizer": lambda net: None}, DataError, "NoneType from optimizer"),
        ({"optimizer": lambda net: sgd(mlp(8))}, ModelError, "none of the model's parameters"),
        ({"optimizer": lambda net: torch.optim.LBFGS(net.parameters())}, DataError, "LBFGS"),
        ({"loss": None}, DataError, "loss of type NoneType"),
        ({"loss": lambda outputs, targets: outputs}, DataError, r"loss of shape \(12, 1\)"),
        ({"loss": lambda outputs, targets: outputs.detach().mean()}, DataError, "does not depend on the outputs"),
        ({"batch": None}, DataError, "batch=None"),
        ({"batch": X, "loss": functional.mse_loss}, DataError, "without targets"),
        ({"batch": (X / 0, Y)}, DataError, "not finite"),
        ({"layers": "encoder"}, UnmeasurableError, "'encoder'"),
        ({"judged": ["angle"]}, DataError, "judged="),
        ({"judged": []}, DataError, "judged="),
        ({"steps": 0}, DataError, "steps=0"),
        ({"seeds": True}, DataError, "seeds=True"),
        ({"random_state": -1}, DataError, "random_state=-1"),
        ({"tolerance": 0}, DataError, "tolerance=0"),
        ({"confidence": 1.0}, DataError, "confidence=1.0"),
        ({"mode": "test"}, DataError, "mode='test'"),
        ({"outputs": "loss"}, DataError, "outputs='loss'"),
        ({"factory": deep}, ModelError, "other layers at width 16 than at 8"),
    ],
)
def test_bad_arguments_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        check(**options)


def test_widths_and_depths_together_are_refused():
    with pytest.raises(DataError, match="both widths and depths"):
        coordinate_check(mlp, WIDTHS, (X, Y), loss, optimizer=sgd, depths=(3, 6, 12))


def test_depth_without_hidden_layers_is_refused():
    with pytest.raises(UnmeasurableError, match="hidden layers"):
        check(lambda depth: nn.Linear(5, 1).double(), depths=(3, 6, 12))


def test_arguments_are_refused_before_any_model_is_made():
    def factory(width: int) -> nn.Module:
        raise AssertionError("made")

    for options in ({"confidence": 2.0}, {"steps": -1}, {"widths": (1, 2)}, {"loss": 3}, {"judged": "nfa"}):
        with pytest.raises(FeatlearnError):
            check(factory, **options)


@pytest.mark.parametrize(
    "change",
    [{"steps": 2}, {"seeds": 2}, {"layers": ["0"]}, {"tolerance": 0.3}, {"confidence": 0.9}, {"judged": ["cos_theta"]},
     {"outputs": lambda model, batch: model(batch[0]) * 2}, {"random_state": 1}, {"widths": (8, 16, 64)}],
)  # fmt: skip
def test_every_argument_matters(change):
    assert check(**change).to_dict() != check().to_dict()
