"""Every exit code, and errors that are one line, name what was got, and say what to do."""

from __future__ import annotations

import numpy as np
import pytest

USAGE = {
    "unknown command": (["train"], "train"),
    "unknown option": (["measure", "nets.py:mlp", "--data", "rows.npz", "--fast"], "--fast"),
    "no model": (["measure", "--data", "rows.npz"], "MODEL"),
    "no data": (["measure", "nets.py:mlp"], "--data"),
    "n of nothing": (["measure", "nets.py:mlp", "--data", "rows.npz", "--n", "0"], "--n"),
    "power": (["measure", "nets.py:mlp", "--data", "rows.npz", "--power", "-1"], "--power -1.0"),
    "statistic": (["measure", "nets.py:mlp", "--data", "rows.npz", "--statistic", "spearman"], "spearman"),
    "probes": (["measure", "nets.py:mlp", "--data", "rows.npz", "--probes", "0"], "--probes 0"),
    "loss": (["measure", "nets.py:mlp", "--data", "rows.npz", "--loss", "hinge"], "'hinge'"),
    "loss that is missing": (["measure", "nets.py:mlp", "--data", "rows.npz", "--loss", "nets.py:absolut"], "absolute"),
    "loss that is no function": (["measure", "nets.py:mlp", "--data", "rows.npz", "--loss", "nets.py:number"], "int"),
    "device": (["measure", "nets.py:mlp", "--data", "rows.npz", "--device", "abacus"], "--device abacus"),
    "mean": (["measure", "nets.py:mlp", "--data", "rows.npz", "--mean", "a,b"], "--mean a,b"),
    "std of zero": (["measure", "nets.py:mlp", "--data", "rows.npz", "--std", "0"], "--std 0"),
    "mean of other length": (["measure", "nets.py:mlp", "--data", "rows.npz", "--mean", "1,2"], "2 numbers"),
    "image size of rows": (["measure", "nets.py:mlp", "--data", "rows.npz", "--image-size", "8"], "--image-size"),
    "model args": (["measure", "nets.py:mlp", "--data", "rows.npz", "--model-args", "[1]"], "JSON object"),
    "model args of a module": (["measure", "nets.py:module", "--data", "rows.npz", "--model-args", "{}"], "module"),
    "html in no folder": (["measure", "nets.py:mlp", "--data", "rows.npz", "--html", "no/r.html"], "no folder no"),
    "html is a folder": (["measure", "nets.py:mlp", "--data", "rows.npz", "--html", "."], "is a folder"),
    "one file for both": (["measure", "nets.py:mlp", "--data", "rows.npz", "--html", "a", "--json", "a"], "two files"),
    "demo into a file": (["demo", "--out", "nets.py"], "which is a file"),
}
MODEL = {
    "no such file": ("nowhere.py:net", "no such file"),
    "no such module": ("nowhere.nets:net", "no module 'nowhere'"),
    "no such name": ("nets.py:mpl", "mlp"),
    "no name": ("nets.py", "package.module:name"),
    "not a model": ("nets.py:number", "int"),
    "fails when called": ("nets.py:broken", "no such luck"),
    "returns no model": ("builtins:dict", "dict"),
    "fails when imported": ("bad.py:net", "ZeroDivisionError"),
}


@pytest.mark.parametrize(("arguments", "named"), USAGE.values(), ids=USAGE)
def test_bad_usage_is_2(featlearn, arguments, named) -> None:
    outcome = featlearn(*arguments)
    assert outcome.code == 2
    assert_one_line(outcome, named)


@pytest.mark.parametrize(("model", "named"), MODEL.values(), ids=MODEL)
def test_a_model_that_cannot_be_loaded_is_3(measure, folder, model, named) -> None:
    (folder / "bad.py").write_text("1 / 0\n", encoding="utf-8")
    outcome = measure(model=model)
    assert outcome.code == 3
    assert_one_line(outcome, named)


def test_data_that_cannot_be_loaded_are_4(measure) -> None:
    outcome = measure(data="nowhere")
    assert outcome.code == 4
    assert_one_line(outcome, "nowhere")


def test_data_that_the_model_cannot_process_are_4(measure, folder) -> None:
    np.savez(folder / "wide.npz", X=np.ones((20, 7)))
    outcome = measure(data="wide.npz")
    assert outcome.code == 4
    assert_one_line(outcome, "wide.npz")


@pytest.mark.parametrize(
    ("options", "named"), [(["--layers", "encoder*"], "encoder*"), (["--layers", "1"], "'1'")], ids=["unknown", "tanh"]
)
def test_layers_that_cannot_be_measured_are_5(measure, options, named) -> None:
    outcome = measure(*options)
    assert outcome.code == 5
    assert_one_line(outcome, named)


@pytest.mark.parametrize(("factory", "named"), [("no_weights", "layer"), ("mixing", "batch statistics")])
def test_a_model_without_layers_or_that_mixes_samples_is_5(measure, factory, named) -> None:
    outcome = measure(model=f"nets.py:{factory}")
    assert outcome.code == 5
    assert_one_line(outcome, named)


def test_an_unexpected_error_is_1_and_points_to_the_traceback(measure, folder) -> None:
    (folder / "odd.py").write_text("def odd(model, batch):\n    return {}['logits']\n", encoding="utf-8")
    outcome = measure("--outputs", "odd.py:odd")
    assert outcome.code == 1
    assert_one_line(outcome, "KeyError")
    assert "--traceback" in outcome.err


def test_traceback_is_shown_when_asked_for(measure) -> None:
    outcome = measure("--traceback", model="nets.py:broken")
    assert outcome.code == 3
    assert "Traceback (most recent call last)" in outcome.err
    assert 'raise RuntimeError("no such luck")' in outcome.err
    assert outcome.err.splitlines()[-1].startswith("featlearn: error: Got MODEL 'nets.py:broken'")


def test_no_command_prints_the_help_and_is_2(featlearn) -> None:
    outcome = featlearn()
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("Usage: featlearn")


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_line_and_no_failure(measure) -> None:
    outcome = measure("--n", 10)
    assert outcome.code == 0
    assert "featlearn: warning: Got one batch" in outcome.err


def assert_one_line(outcome, named: str) -> None:
    """No output, and one line of error that names what is wrong."""
    assert outcome.out == ""
    assert len(outcome.err.splitlines()) == 1, outcome.err
    assert outcome.err.startswith("featlearn: error: ")
    assert named in outcome.err
