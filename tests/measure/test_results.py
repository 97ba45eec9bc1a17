"""Reports as records: dictionaries that JSON can hold, tables, headlines and comparisons."""

from __future__ import annotations

import copy
import json
import math
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from cases import CASES, fill, integers, mlp, normal
from torch import nn

from featlearn import FeatureReport, measure_features
from featlearn.measure.results import LayerReport
from featlearn.report.json import dump_json

cross_entropy = nn.functional.cross_entropy


def labelled(n: int = 24, size: int = 4, seed: int = 0) -> list[Any]:
    return list(zip(normal(n, 5, seed=seed).split(size), integers(3, n, seed=seed).split(size), strict=True))


def full_report(**options: Any) -> FeatureReport:
    """With everything that there is to ask for."""
    defaults = {"reference": fill(mlp(), seed=1), "loss": cross_entropy}
    return measure_features(fill(mlp()), labelled(), **(defaults | options))


def undefined_report() -> FeatureReport:
    """With every kind of number that is not defined: one batch, a dead layer, no variance, one row."""
    model = fill(nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 1), nn.Tanh(), nn.Linear(1, 3), nn.Tanh()))
    with torch.no_grad():
        model[0].weight.zero_()
    return quiet(model, labelled(4), loss=cross_entropy, reference=copy.deepcopy(model))


def quiet(model: nn.Module, batches: Any, **options: Any) -> FeatureReport:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few batches: not what is tested here
        return measure_features(model, batches, **options)


def same(first: Any, second: Any, path: str = "") -> None:
    """Equal, with nan equal to nan, and lists equal to tuples."""
    if isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            same(first[key], second[key], f"{path}/{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), path
        for i, pair in enumerate(zip(first, second, strict=True)):
            same(*pair, f"{path}/{i}")
    elif isinstance(first, float) and math.isnan(first):
        assert isinstance(second, float), f"{path}: nan became {second!r}"
        assert math.isnan(second), path
    else:
        assert first == second, path


REPORTS = {
    "full": full_report,
    "probes": lambda: full_report(probes=3),
    "one probe": lambda: full_report(probes=1),
    "undefined": undefined_report,
    "lora": lambda: quiet(CASES["lora"].model(), CASES["lora"].batches()),
    "depthwise": lambda: quiet(CASES["conv1d_depthwise"].model(), CASES["conv1d_depthwise"].batches()),
    "attention": lambda: quiet(CASES["encoder"].model(), CASES["encoder"].batches()),
}


@pytest.fixture(scope="module", params=list(REPORTS))
def report(request: pytest.FixtureRequest) -> FeatureReport:
    return REPORTS[request.param]()


# --- dictionaries -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("matrices", [False, True])
def test_a_report_survives_strict_json(report: FeatureReport, matrices: bool) -> None:
    plain = report.to_dict(matrices=matrices)
    back = FeatureReport.from_dict(json.loads(dump_json(plain)))
    same(back.to_dict(matrices=matrices), plain)
    assert list(back) == list(report)
    for name, layer in back.layers.items():
        assert layer.nfm_directions.shape == report[name].nfm_directions.shape
        if matrices and report[name].nfm is not None:
            torch.testing.assert_close(layer.nfm, report[name].nfm.double())


def test_a_dictionary_holds_plain_objects_only(report: FeatureReport) -> None:
    def walk(value: Any, path: str) -> None:
        assert type(value) in (dict, list, tuple, str, int, float, bool, type(None)), f"{path}: {type(value)}"
        if isinstance(value, (list, tuple)):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{path}/{key}")

    walk(report.to_dict(matrices=True), "")
    json.dumps(report.to_dict())


def test_a_layer_survives_a_dictionary(report: FeatureReport) -> None:
    for layer in report.layers.values():
        same(LayerReport.from_dict(layer.to_dict()).to_dict(), layer.to_dict())


def test_what_is_nan_has_a_reason(report: FeatureReport) -> None:
    for layer in report.layers.values():
        numbers = [layer.nfa, layer.nfa_null, layer.nfa_excess, layer.nfa_standard_error]
        numbers += [value for value in (layer.fact, layer.fact_root, layer.loss_nfa) if value is not None]
        if any(map(math.isnan, numbers)):
            assert layer.reason
        for entry in (*layer.alignments, layer.centered, layer.derivative):
            if entry is not None and math.isnan(entry.value):
                assert entry.reason or layer.reason


def test_reasons_are_those_of_the_layer_at_hand() -> None:
    report = undefined_report()
    assert "weights are zero" in report["0"].reason
    assert report["0"].centered.reason == "its weights equal the reference's"
    assert "r = 1" in report["2"].reason
    assert "no variance" in report["4"].reason  # one input: F is one number


def test_reports_can_be_copied_and_pickled(report: FeatureReport) -> None:
    for other in (copy.deepcopy(report), pickle.loads(pickle.dumps(report))):
        same(other.to_dict(matrices=True), report.to_dict(matrices=True))


# --- one layer --------------------------------------------------------------------------------------------------------


def test_properties_are_those_of_the_leading_alignment() -> None:
    layer = full_report(power=0.5, statistic="cosine")["2"]
    lead = layer.alignment(0.5, "cosine")
    assert (layer.nfa, layer.nfa_null, layer.nfa_null_sd, layer.nfa_excess) == (
        lead.value,
        lead.null,
        lead.null_sd,
        lead.excess,
    )
    assert layer.nfa_standard_error == lead.standard_error
    assert layer.nfa_interval == lead.interval
    assert layer.nfa_half is lead
    assert layer.alignment() is lead
    assert layer.alignment(1.0, "pearson") is not lead
    assert layer.nfa_at(0.5) == pytest.approx(lead.value, abs=1e-12)
    assert layer.nfa_at(1.0, "pearson") == pytest.approx(layer.alignment(1.0, "pearson").value, abs=1e-12)
    assert layer.centered_nfa == layer.centered.value
    assert layer.derivative_nfa == layer.derivative.value
    assert layer.cos_theta == layer.speed["cos_theta"]
    assert layer.is_cut in (True, False)


def test_alignment_at_a_power_that_was_not_asked_for_has_its_value_only() -> None:
    entry = full_report()["0"].alignment(0.7)
    assert math.isfinite(entry.value)
    assert math.isnan(entry.null)
    assert "other powers" in entry.reason


def test_unknown_fields_are_attribute_errors() -> None:
    with_speed, without = full_report()["0"], quiet(fill(mlp()), labelled())["0"]
    for layer in (with_speed, without):
        with pytest.raises(AttributeError, match="no_such_field"):
            _ = layer.no_such_field
    with pytest.raises(AttributeError, match="cos_theta"):
        _ = without.cos_theta


def test_reports_are_frozen() -> None:
    report = full_report()
    with pytest.raises(AttributeError):
        report.layers = {}  # type: ignore[misc]
    with pytest.raises(AttributeError):
        report["0"].power = 2.0  # type: ignore[misc]


# --- tables -----------------------------------------------------------------------------------------------------------


def test_frame_has_one_row_a_layer_with_the_fields_of_the_layer(report: FeatureReport) -> None:
    frame = report.frame()
    assert list(frame.index) == list(report)
    for name, layer in report.layers.items():
        row = frame.loc[name]
        for column in ("nfa", "nfa_null", "nfa_null_sd", "nfa_excess", "nfa_standard_error", "best_power"):
            same(float(getattr(layer, column)), float(row[column]))
        same(layer.nfa_half.value, float(row["nfa_half"]))
        same(layer.nfm_spectrum.effective_rank, float(row["nfm_effective_rank"]))
        assert row["trivial"] == layer.trivial
        for column in ("centered_nfa", "derivative_nfa", "fact", "loss_nfa", "probe_error"):
            value = getattr(layer, column)
            assert value is None or float(row[column]) == value or math.isnan(value)


def test_summary_names_what_stands_above_chance() -> None:
    report = full_report()
    summary = report.summary()
    real = {name: layer for name, layer in report.layers.items() if not layer.trivial}
    assert summary["n_layers"] == len(real) == 2
    assert summary["n_trivial"] == 1
    assert summary["above_chance"] == [
        name
        for name, layer in real.items()
        if layer.nfa - layer.nfa_null > 2 * math.hypot(layer.nfa_standard_error, layer.nfa_null_sd)
    ]
    assert summary["strongest"] == sorted(real, key=lambda name: -real[name].nfa_excess)
    for key, field in (("mean_nfa", "nfa"), ("mean_null", "nfa_null"), ("mean_excess", "nfa_excess")):
        assert summary[key] == pytest.approx(np.mean([getattr(layer, field) for layer in real.values()]))


def test_summary_of_layers_without_a_chance_level_is_empty() -> None:
    report = REPORTS["depthwise"]()
    names = [name for name, layer in report.layers.items() if "r = 1" in (layer.reason or "")]
    assert names
    summary = report.summary()
    assert not set(names) & set(summary["strongest"])
    assert not set(names) & set(summary["above_chance"])
    trivial = quiet(CASES["linear"].model(), CASES["linear"].batches()).summary()
    assert trivial["n_layers"] == 0
    assert trivial["strongest"] == []
    assert math.isnan(trivial["mean_excess"])


def test_compare_gives_differences_with_errors_of_both() -> None:
    first, second = full_report(), full_report(probes=2, random_state=3)
    frame = first.compare(second)
    assert list(frame.index) == list(first)
    for name in ("0", "2"):
        a, b = first[name].alignment(), second[name].alignment()
        assert frame.loc[name, "nfa"] == pytest.approx(a.value - b.value)
        assert frame.loc[name, "nfa_standard_error"] == pytest.approx(math.hypot(a.standard_error, b.standard_error))
        assert frame.loc[name, "nfa_excess"] == pytest.approx(a.excess - b.excess)
        ratio = first[name].agop_spectrum.effective_rank / second[name].agop_spectrum.effective_rank
        assert frame.loc[name, "effective_rank_ratio"] == pytest.approx(ratio)
    itself = first.compare(first)
    assert (itself[["nfa", "nfa_excess"]].fillna(0) == 0).all().all()


def test_compare_takes_the_power_and_statistic_of_the_first() -> None:
    first, second = full_report(power=0.5, statistic="cosine"), full_report()
    frame = first.compare(second)
    assert frame.loc["0", "nfa"] == pytest.approx(0, abs=1e-12)  # the same measurement, led by another number
    assert abs(first["0"].nfa - second["0"].nfa) > 1e-4


def test_compare_with_other_layers_keeps_what_both_have() -> None:
    first = full_report()
    some, none = (quiet(fill(mlp()), labelled(), layers=["2"]), quiet(CASES["tied"].model(), CASES["tied"].batches()))
    assert list(first.compare(some).index) == ["2"]
    assert first.compare(none).empty
    assert list(first.compare(none).index.names) == ["layer"]


def test_a_report_is_a_mapping_of_layers() -> None:
    report = full_report()
    assert len(report) == 3
    assert [report[name].name for name in report] == list(report.layers)
    with pytest.raises(KeyError):
        _ = report["nowhere"]
