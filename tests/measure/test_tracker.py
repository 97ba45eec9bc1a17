"""Tracking a training run: when it measures, what it keeps, what it leaves alone."""

from __future__ import annotations

import copy
import io
import math
import random
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import CASES, convnet, fill, integers, mlp, normal
from torch import Tensor, nn

from featlearn import FeatureTracker, Rows, measure_features
from featlearn.exceptions import DataError, FeatlearnError, FeatlearnWarning, UnmeasurableError
from featlearn.measure import tracker as tracker_module

cross_entropy = nn.functional.cross_entropy


def batches(n: int = 24, size: int = 4) -> list[tuple[Tensor, Tensor]]:
    return list(zip(normal(n, 5).split(size), integers(3, n).split(size), strict=True))


def train(model: nn.Module, tracker: FeatureTracker | None, steps: int, lr: float = 0.3) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    X, y = normal(32, 5, seed=7), integers(3, 32, seed=8)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(X), y).backward()
        optimizer.step()
        if tracker is not None:
            tracker.step()


def steps_of(tracker: FeatureTracker) -> list[int]:
    return [step for step, _ in tracker.history]


def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Schedules do not care what a report holds."""
    monkeypatch.setattr(tracker_module, "run_measurement", lambda model, batches, options: (None, []))


# --- schedules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0, *range(100, 601, 100)]),
        ({"every": 7}, list(range(0, 601, 7))),
        ({"every": 1000}, [0]),
        ({"schedule": "log"}, [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512]),
        (
            {"schedule": "log", "every": 20},
            [0, 1, 2, 4, 8, 16, 32, 52, 64, 84, 104, 124, 128, 148, *range(168, 256, 20)],
        ),
    ],
    ids=str,
)
def test_schedules(options: dict[str, Any], expected: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    cheap(monkeypatch)
    tracker = FeatureTracker(fill(mlp()), batches(), **options)
    last = expected[-1] if options.get("every", 0) == 20 else 601
    for _ in range(last):
        tracker.step()
    assert steps_of(tracker) == expected


def test_the_context_measures_the_end_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap(monkeypatch)
    for steps, expected in ((20, [0, 10, 20]), (25, [0, 10, 20, 25]), (0, [0])):
        with FeatureTracker(fill(mlp()), batches(), every=10) as tracker:
            for _ in range(steps):
                tracker.step()
        assert steps_of(tracker) == expected


def test_an_exception_in_the_loop_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap(monkeypatch)
    tracker = FeatureTracker(fill(mlp()), batches(), every=10)

    def loop() -> None:
        with tracker:
            tracker.step()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()
    assert steps_of(tracker) == [0]


def test_step_returns_the_report_when_there_is_one() -> None:
    model = fill(mlp())
    tracker = FeatureTracker(model, batches(), every=2)
    assert tracker.step() is None
    report = tracker.step()
    assert report is tracker.history[-1][1]


# --- budget -----------------------------------------------------------------------------------------------------------


class Clock:
    """Time that passes when told: a measurement takes 1 s, a training step 0.1 s."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(tracker_module.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(tracker_module, "run_measurement", self.measure)

    def measure(self, *args: Any) -> tuple[None, list[str]]:
        self.now += 1.0
        return None, []


@pytest.mark.parametrize("budget", [0.05, 0.2, 1.0])
def test_a_budget_delays_measurements_until_they_fit(budget: float, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    tracker = FeatureTracker(fill(mlp()), batches(), every=10, budget=budget)
    for step in range(2000):
        clock.now += 0.1
        if tracker.step() is None and steps_of(tracker)[-1] == step + 1:
            assert tracker.share <= budget + 1e-9  # right after each measurement but the first
    assert tracker.seconds == pytest.approx(len(tracker.history))
    assert tracker.share == pytest.approx(tracker.seconds / clock.now)
    wanted = 201 if budget == 1.0 else budget * clock.now
    assert 0.9 * wanted <= len(tracker.history) <= wanted
    assert all(a < b for a, b in zip(steps_of(tracker), steps_of(tracker)[1:], strict=False))


def test_the_share_is_the_time_that_measuring_took() -> None:
    model = fill(mlp())
    start = time.perf_counter()
    with FeatureTracker(model, batches(), every=1) as tracker:
        train(model, tracker, 5)
    assert 0 < tracker.seconds < time.perf_counter() - start
    assert 0 < tracker.share < 1


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probes", ["exact", 1, 3])
def test_a_report_is_that_of_measure_features_at_power_one(probes: Any) -> None:
    model = fill(mlp())
    start = copy.deepcopy(model.state_dict())
    tracker = FeatureTracker(model, batches(), every=5, probes=probes)
    train(model, tracker, 5)
    full = measure_features(model, batches(), reference=start, probes=probes)
    found = tracker.history[-1][1]
    assert list(found) == list(full)
    for name in ("0", "2"):
        for key in ("nfa", "nfa_null", "nfa_excess", "nfa_standard_error", "centered_nfa"):
            assert getattr(found[name], key) == pytest.approx(getattr(full[name], key), rel=1e-8), key
        assert found[name].centered.null == pytest.approx(full[name].centered.null, rel=1e-6)
        assert found[name].centered.standard_error == pytest.approx(full[name].centered.standard_error, rel=1e-6)
        assert found[name].energy_share == pytest.approx(full[name].energy_share, rel=1e-8)
        assert found[name].alignment(1.0, "cosine").value == pytest.approx(full[name].alignment(1.0, "cosine").value)
        assert found[name].nfm is None
        assert len(found[name].agop_spectrum) == 0


def test_with_spectra_there_are_spectra_and_powers() -> None:
    model = fill(mlp())
    found = FeatureTracker(model, batches(), spectra=True).history[0][1]
    full = measure_features(model, batches())
    for name in ("0", "2"):
        np.testing.assert_allclose(found[name].agop_spectrum.values, full[name].agop_spectrum.values, rtol=1e-9)
        assert found[name].nfa_half.value == pytest.approx(full[name].nfa_half.value)
        assert found[name].best_power == full[name].best_power
        assert math.isnan(found[name].nfa_half.null)  # takes draws


KINDS = ("convnet", "conv2d_grouped", "conv2d_depthwise", "conv1d_depthwise", "tied", "encoder", "lora", "weight_norm")


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_layer_is_tracked_as_it_is_measured(name: str) -> None:
    case = CASES[name]
    model = case.model()
    found = FeatureTracker(model, case.batches()).history[0][1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        full = measure_features(model, case.batches())
    assert list(found) == list(full)
    for layer in full.layers.values():
        for key in ("nfa", "nfa_excess", "nfa_standard_error"):
            expected, mine = getattr(layer, key), getattr(found[layer.name], key)
            if key == "nfa_excess" and "rank of the weight" in (found[layer.name].reason or ""):
                continue  # only a decomposition tells the rank, and the tracker makes none
            assert mine == pytest.approx(expected, rel=1e-7, abs=1e-9, nan_ok=True), key


@pytest.mark.parametrize("dead", [0, 3])
def test_dead_units_do_not_move_the_null(dead: int) -> None:
    """Rows of zeros keep their biases, and with them a gradient, which is no part of the chance level."""
    model = fill(mlp())
    with torch.no_grad():
        model[0].weight[:dead] = 0
    found, full = FeatureTracker(model, batches()).history[0][1], measure_features(model, batches())
    assert found["0"].nfa_null == pytest.approx(full["0"].nfa_null, rel=1e-9)


@pytest.mark.parametrize(
    "option",
    [
        {"layers": "0"},
        {"layers": [Rows("0", 0, 3)]},
        {"outputs": lambda model, batch: model(batch[0]).softmax(-1)},
        {"loss": cross_entropy},
        {"probes": 2},
        {"power": 0.5},
        {"statistic": "cosine"},
        {"reference": None},
        {"spectra": True},
    ],
    ids=lambda option: next(iter(option)),
)
def test_every_option_changes_the_report(option: dict[str, Any]) -> None:
    model = fill(mlp())
    plain = FeatureTracker(model, batches()).history[0][1].to_dict()["layers"]
    with_it = FeatureTracker(model, batches(), **option).history[0][1].to_dict()["layers"]
    assert repr(plain) != repr(with_it)


def test_random_state_seeds_the_probes() -> None:
    values = [
        FeatureTracker(fill(mlp()), batches(), probes=1, random_state=s).history[0][1]["0"].nfa for s in (0, 0, 1)
    ]
    assert values[0] == values[1] != values[2]


def test_the_reference_is_the_model_at_construction_and_stays() -> None:
    model = fill(mlp())
    start = model[0].weight.detach().clone()
    tracker = FeatureTracker(model, batches(), every=3)
    assert "equal the reference's" in tracker.history[0][1]["0"].centered.reason
    train(model, tracker, 3)
    assert torch.equal(tracker.initial_weights["0"][0], start)
    first = tracker.history[-1][1]["0"].centered_nfa
    expected = measure_features(model, batches(), reference={n: w[0] for n, w in tracker.initial_weights.items()})
    assert first == pytest.approx(expected["0"].centered_nfa, rel=1e-8)


def test_half_precision_weights_keep_a_reference_in_single_precision() -> None:
    model = fill(mlp()).bfloat16()
    tracker = FeatureTracker(model, [x.bfloat16() for x, _ in batches()])
    assert {weight.dtype for weight in tracker.initial_weights.values()} == {torch.float32}


# --- batches ----------------------------------------------------------------------------------------------------------


def test_batches_are_read_once_and_stay_the_same() -> None:
    read = 0

    def stream() -> Any:
        nonlocal read
        for batch in batches():
            read += 1
            yield batch

    model = fill(mlp())
    tracker = FeatureTracker(model, stream(), every=1)
    for _ in range(3):
        tracker.step()
    assert read == 6
    values = [report["0"].nfa for _, report in tracker.history]
    assert len(set(values)) == 1  # the model did not change


def test_a_shuffling_loader_is_asked_once() -> None:
    data = torch.utils.data.TensorDataset(normal(24, 5))
    tracker = FeatureTracker(fill(mlp()), torch.utils.data.DataLoader(data, batch_size=4, shuffle=True), every=1)
    tracker.step()
    (_, first), (_, second) = tracker.history
    assert first["0"].nfa_standard_error == second["0"].nfa_standard_error


# --- what it leaves alone ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probes", ["exact", 1])
def test_a_tracked_run_is_the_same_run_bitwise(probes: Any) -> None:
    """With dropout and batch statistics, which a stray random number or a stray mode would change."""

    def run(tracked: bool) -> list[Tensor]:
        model = fill(convnet()).train()
        X, y = normal(12, 2, 7, 6), integers(3, 12)
        tracker = FeatureTracker(model, list(X.split(4)), every=1, probes=probes) if tracked else None
        torch.manual_seed(5)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(4):
            optimizer.zero_grad()
            cross_entropy(model(X), y).backward()
            gradients = [p.grad.clone() for p in model.parameters()]
            if tracker is not None:
                tracker.step()
            assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
            optimizer.step()
        assert model.training
        return [*(t.clone() for t in model.state_dict().values()), torch.rand(3)]

    state = torch.get_rng_state()
    try:
        assert all(torch.equal(a, b) for a, b in zip(run(True), run(False), strict=True))
    finally:
        torch.set_rng_state(state)


def test_augmentations_in_the_batches_do_not_advance_the_training() -> None:
    class Noisy(torch.utils.data.Dataset[Tensor]):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, i: int) -> Tensor:
            noise = np.random.randn() + random.random()  # noqa: NPY002 (as data sets do)
            return normal(5, seed=i) + noise + torch.rand(5)

    model = fill(mlp())
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    FeatureTracker(model, torch.utils.data.DataLoader(Noisy(), batch_size=2, shuffle=True))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]


# --- what goes wrong --------------------------------------------------------------------------------------------------


def diverge(model: Any) -> None:
    with torch.no_grad():
        model[0].weight.fill_(float("nan"))


def test_a_diverged_network_is_a_warning_in_the_run() -> None:
    model = fill(mlp())
    tracker = FeatureTracker(model, batches(), every=1)
    start = copy.deepcopy(model.state_dict())
    diverge(model)
    with pytest.warns(FeatlearnWarning, match=r"Step 1 was not measured: .*not finite"):
        assert tracker.step() is None
    model.load_state_dict(start)
    assert tracker.step() is not None
    assert steps_of(tracker) == [0, 2]


def test_a_diverged_network_is_a_warning_at_the_end() -> None:
    model = fill(mlp())
    tracker = FeatureTracker(model, batches(), every=10)
    for _ in range(3):
        tracker.step()
    diverge(model)
    with pytest.warns(FeatlearnWarning, match="Step 3 was not measured"):
        tracker.__exit__(None, None, None)
    assert steps_of(tracker) == [0]


def test_a_failed_measurement_is_told_once() -> None:
    model = fill(mlp())
    tracker = FeatureTracker(model, batches(), every=1)
    diverge(model)
    with pytest.warns(FeatlearnWarning, match="Step 1"):
        tracker.step()
    tracker.__exit__(None, None, None)  # no second warning, which would be an error here


def test_a_network_that_is_no_good_from_the_start_is_an_error() -> None:
    model = fill(mlp())
    diverge(model)
    with pytest.raises(FeatlearnError, match="not finite"):
        FeatureTracker(model, batches())


@pytest.mark.parametrize("of_first", [1e-12, 1e12])
def test_extreme_scales_are_measured(of_first: float) -> None:
    """Weights of a linear chain that cancel: nothing about the function or its correlations changes."""
    model = fill(nn.Sequential(nn.Linear(5, 7, bias=False), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3))).float()
    data = [x.float() for x, _ in batches()]
    tracker = FeatureTracker(model, data, every=1)
    with torch.no_grad():
        model[0].weight *= of_first
        model[1].weight /= of_first
    tracker.step()
    before, after = (report for _, report in tracker.history)
    for name in ("0", "1"):
        assert after[name].nfa == pytest.approx(before[name].nfa, abs=1e-4)
        assert after[name].nfa_null == pytest.approx(before[name].nfa_null, abs=1e-4)
        assert after[name].nfa_standard_error == pytest.approx(before[name].nfa_standard_error, rel=1e-2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"every": 0}, DataError, "every=0"),
        ({"every": 2.0}, DataError, "every=2.0"),
        ({"every": True}, DataError, "every=True"),
        ({"schedule": "sqrt"}, DataError, "schedule='sqrt'"),
        ({"budget": 0}, DataError, "budget=0"),
        ({"budget": 2}, DataError, "budget=2"),
        ({"log": "wandb"}, DataError, "log='wandb'"),
        ({"progress": True}, TypeError, "progress"),
        ({"kernel_samples": 3}, TypeError, "kernel_samples"),
        ({"probes": 0}, DataError, "probes=0"),
        ({"layers": "nowhere"}, UnmeasurableError, "nowhere"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_bad_arguments_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FeatureTracker(fill(mlp()), batches(), **options)


def test_no_batches_are_refused() -> None:
    with pytest.raises(DataError, match="no batches"):
        FeatureTracker(fill(mlp()), [])


# --- logging and tables -----------------------------------------------------------------------------------------------


def test_log_gets_flat_numbers_at_each_measurement() -> None:
    model, seen = fill(mlp()), []
    tracker = FeatureTracker(model, batches(), every=2, log=seen.append)
    train(model, tracker, 4)
    assert [entry["step"] for entry in seen] == [0, 2, 4]
    names = ("nfa", "nfa_null", "nfa_excess", "nfa_standard_error", "centered_nfa")
    assert set(seen[-1]) == {"step", *(f"{layer}/{key}" for layer in ("0", "2") for key in names)}  # not the trivial
    for (_, report), entry in zip(tracker.history, seen, strict=True):
        for layer in ("0", "2"):
            assert entry[f"{layer}/nfa_excess"] == report[layer].nfa_excess
    assert all(isinstance(value, (int, float)) for value in seen[-1].values())


def test_frame_has_a_row_for_each_step_and_layer() -> None:
    model = fill(mlp())
    tracker = FeatureTracker(model, batches(), every=2)
    train(model, tracker, 4)
    frame = tracker.frame()
    assert list(zip(frame["step"], frame["layer"], strict=True)) == [(s, n) for s in (0, 2, 4) for n in ("0", "2", "4")]
    assert set(tracker.history[0][1].frame().columns) <= set(frame.columns)
    chosen = frame[(frame["step"] == 4) & (frame["layer"] == "2")]
    assert float(chosen["nfa"].iloc[0]) == tracker.history[-1][1]["2"].nfa
    assert "<table" in tracker._repr_html_()


def test_plot_draws_one_curve_a_layer() -> None:
    model = fill(mlp())
    tracker = FeatureTracker(model, batches(), every=2)
    train(model, tracker, 4)
    ax = tracker.plot("nfa")
    curves = {tuple(line.get_ydata()) for line in ax.lines}
    assert tuple(report["0"].nfa for _, report in tracker.history) in curves
    assert tuple(report["2"].nfa for _, report in tracker.history) in curves
    import matplotlib.pyplot as plt

    plt.close(ax.figure)


# --- resuming ---------------------------------------------------------------------------------------------------------


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)  # plain numbers and tensors only


@pytest.mark.parametrize(
    "options", [{}, {"spectra": True}, {"loss": cross_entropy, "probes": 2}], ids=["plain", "spectra", "loss"]
)
def test_a_run_can_be_resumed(options: dict[str, Any]) -> None:
    model = fill(mlp())
    whole = FeatureTracker(model, batches(), every=3, **options)
    train(model, whole, 4)
    checkpoint, state = copy.deepcopy(model.state_dict()), through_a_file(whole.state_dict())
    train(model, whole, 5)

    other = fill(mlp(), seed=9)
    other.load_state_dict(checkpoint)
    resumed = FeatureTracker(other, batches(), every=3, **options)
    resumed.load_state_dict(state)
    assert resumed.steps == 4
    train(other, resumed, 5)
    assert steps_of(resumed) == steps_of(whole) == [0, 3, 6, 9]
    assert resumed.seconds >= state["seconds"]
    for (_, a), (_, b) in zip(whole.history, resumed.history, strict=True):
        for name in ("0", "2"):
            assert b[name].nfa == pytest.approx(a[name].nfa, rel=1e-12)
            assert b[name].centered_nfa == pytest.approx(a[name].centered_nfa, rel=1e-12, nan_ok=True)
    assert resumed.frame()["step"].tolist() == whole.frame()["step"].tolist()


@pytest.mark.parametrize("build", [lambda: nn.Sequential(nn.Linear(5, 3)), lambda: nn.Sequential(nn.Linear(5, 4))])
def test_the_state_of_another_model_is_refused(build: Callable[[], nn.Module]) -> None:
    model = build().double()
    tracker = FeatureTracker(model, [x for x, _ in batches()])
    state = FeatureTracker(nn.Sequential(nn.Linear(5, 9)).double(), [x for x, _ in batches()]).state_dict()
    with pytest.raises(DataError, match="another model"):
        tracker.load_state_dict(state)


def test_an_incomplete_state_is_refused() -> None:
    tracker = FeatureTracker(fill(mlp()), batches())
    state = tracker.state_dict()
    del state["history"]
    with pytest.raises(DataError, match="without history"):
        tracker.load_state_dict(state)
