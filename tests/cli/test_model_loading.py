"""Models and checkpoints as people have them, and the same numbers as from the library."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from featlearn import measure_features


def seeded_mlp(seed: int) -> nn.Sequential:
    """``nets.py:mlp`` with weights of its own, and no random number taken from anyone."""
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))
    stream = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        nn.init.normal_(parameter, generator=stream)
    return net


def rows(folder) -> torch.Tensor:
    with np.load(folder / "rows.npz") as stored:
        return torch.from_numpy(stored["X"])


def measured(outcome) -> dict:
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def assert_measures(outcome, net: nn.Module, folder, **options) -> None:
    """The command's numbers are those of the library for this net: exact mode does not depend on the order of rows."""
    report = measure_features(net, rows(folder).split(15), **options)
    layers = measured(outcome)["layers"]
    assert list(layers) == list(report.layers)
    for name, layer in report.layers.items():
        assert layers[name]["nfa"]["value"] == pytest.approx(layer.nfa, abs=1e-5)
        if layer.centered_nfa is not None:
            assert layers[name]["centered"]["value"] == pytest.approx(layer.centered_nfa, abs=1e-5)


SAVED = {
    "plain.pt": lambda state: state,
    "plain.pth": lambda state: state,
    "outer.th": lambda state: {"state_dict": state, "epoch": 7, "arch": "mlp"},
    "outer_model.ckpt": lambda state: {"model_state_dict": state, "epoch": 7},
    "parallel.pt": lambda state: {f"module.{key}": value for key, value in state.items()},
    "outer_parallel.pt": lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    "compiled.pt": lambda state: {f"_orig_mod.{key}": value for key, value in state.items()},
    "safe.safetensors": lambda state: state,
    "safe_parallel.safetensors": lambda state: {f"module.{key}": value for key, value in state.items()},
}


@pytest.mark.parametrize("name", SAVED)
def test_a_checkpoint_of_any_wrapping_is_the_model_that_was_saved(measure, folder, name) -> None:
    net = seeded_mlp(1)
    content = SAVED[name](net.state_dict())
    save_file(content, name) if name.endswith(".safetensors") else torch.save(content, name)
    assert_measures(measure("--weights", name, "--json", "-"), net, folder)


def test_a_reference_gives_the_change_since_then(measure, folder) -> None:
    net, earlier = seeded_mlp(1), seeded_mlp(2)
    torch.save(net.state_dict(), "late.pt")
    torch.save({"state_dict": earlier.state_dict()}, "early.pt")
    outcome = measure("--weights", "late.pt", "--reference", "early.pt", "--json", "-")
    assert_measures(outcome, net, folder, reference=earlier.state_dict())
    assert measured(outcome)["provenance"]["reference"] == "early.pt"


def test_a_tied_weight_stored_under_one_name_is_no_missing_key(measure, folder) -> None:
    tied = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2))
    tied[2].weight = tied[0].weight
    for seed, name in enumerate(("late.safetensors", "early.safetensors")):
        for parameter in tied.parameters():
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(seed))
        state = tied.state_dict()
        del state["2.weight"]
        save_file(state, name)
    outcome = measure(
        "--weights", "late.safetensors", "--reference", "early.safetensors", "--json", "-", model="nets.py:tied"
    )
    layers = measured(outcome)["layers"]
    assert layers["2"]["energy_share"]["nfm"] == pytest.approx(layers["0"]["energy_share"]["nfm"])
    assert layers["2"]["energy_share"]["nfm"] > 0.1


@pytest.mark.parametrize(
    ("change", "option", "named"),
    [
        (lambda state: state.pop("2.bias"), "--weights", "1 missing (2.bias)"),
        (lambda state: state.update({"4.scale": torch.ones(1)}), "--weights", "1 unexpected (4.scale)"),
        (lambda state: state.pop("2.weight"), "--reference", "1 missing (2.weight)"),
    ],
    ids=["missing", "unexpected", "reference"],
)
def test_missing_or_unexpected_keys_are_an_error_unless_allowed(measure, change, option, named) -> None:
    state = seeded_mlp(1).state_dict()
    change(state)
    torch.save(state, "part.pt")
    refused = measure(option, "part.pt")
    assert refused.code == 3
    assert named in refused.err
    assert "--allow-partial" in refused.err
    allowed = measure(option, "part.pt", "--allow-partial", "--json", "-")
    assert any(named in note for note in measured(allowed)["provenance"]["notes"])
    assert f"note: part.pt: {named}" in allowed.err


REFUSED = {
    "absent.pt": (None, "no such file"),
    "weights.npz": ({}, "expected a file ending in .safetensors"),
    "garbage.pt": (b"no checkpoint at all", "garbage.pt"),
    "garbage.safetensors": (b"no checkpoint at all", "safetensors"),
    "list.pt": ([torch.ones(2)], "which holds a list"),
    "numbers.pt": ({"epoch": 3}, "with entries epoch"),
    "other.pt": ({"conv.weight": torch.ones(2, 2)}, "none in common"),
    "shape.pt": (
        {**seeded_mlp(1).state_dict(), "0.weight": torch.ones(4, 6)},
        "0.weight (4, 6) where the model has (8, 6)",
    ),
    "nan.pt": ({**seeded_mlp(1).state_dict(), "0.bias": torch.full((8,), math.nan)}, "NaN or infinity in 0.bias"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("option", ["--weights", "--reference"])
def test_other_checkpoints_are_refused(measure, folder, name, option) -> None:
    content, named = REFUSED[name]
    if isinstance(content, bytes):
        (folder / name).write_bytes(content)
    elif content is not None:
        torch.save(content, name)
    outcome = measure(option, name)
    assert outcome.code == 3
    assert named in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_a_pickle_of_objects_is_refused_never_run_and_told_how_to_convert(measure, folder) -> None:
    class Mark:
        def __reduce__(self):
            return open, (str(folder / "was_run"), "w")

    torch.save({"state_dict": seeded_mlp(1).state_dict(), "hook": Mark()}, "whole.pt")
    outcome = measure("--weights", "whole.pt")
    assert outcome.code == 3
    assert not (folder / "was_run").exists()
    assert "weights_only=True" in outcome.err
    assert "torch.save(torch.load('whole.pt', weights_only=False).state_dict(), 'weights.pt')" in outcome.err


def test_a_module_object_is_measured_as_it_is(measure, folder) -> None:
    source = "import torch, nets\nnet = nets.mlp()\nfor p in net.parameters():\n    torch.nn.init.constant_(p, 0.5)\n"
    (folder / "ready.py").write_text(source, encoding="utf-8")
    layers = measured(measure("--json", "-", model="ready.py:net"))["layers"]
    # Equal columns: every input direction counts alike, in the weights and in the sensitivity.
    np.testing.assert_allclose(np.abs(layers["0"]["agop_directions"][0]), 6**-0.5, atol=1e-5)


def test_arguments_reach_the_factory(measure) -> None:
    layers = measured(measure("--model-args", '{"width": 11}', "--json", "-"))["layers"]
    assert (layers["0"]["k"], layers["2"]["d"]) == (11, 11)


def test_a_factory_draws_the_same_weights_for_the_same_seed_and_others_for_another(measure) -> None:
    state = torch.get_rng_state()
    digests = [measured(measure("--seed", seed, "--json", "-"))["provenance"]["weights_sha256"] for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("spec", ["nets:mlp", "./nets.py:mlp", "nets:module"])
def test_a_model_is_found_in_the_current_folder_by_module_and_by_file(measure, spec) -> None:
    assert list(measured(measure("--json", "-", model=spec))["layers"]) == ["0", "2", "4"]


def test_a_file_may_import_its_neighbours_and_may_be_called_like_a_package(measure, folder) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "torch_parts.py").write_text("WIDTH = 9\n", encoding="utf-8")
    (folder / "deep" / "torch.py").write_text(
        "from torch_parts import WIDTH\nfrom torch import nn\n\n\ndef net():\n    return nn.Linear(6, WIDTH)\n",
        encoding="utf-8",
    )
    assert measured(measure("--json", "-", model="deep/torch.py:net"))["layers"][""]["k"] == 9


def test_the_command_runs_as_a_module(folder) -> None:
    command = [sys.executable, "-m", "featlearn", "measure", "nets:mlp", "--data", "rows.npz", "--batch-size", "15"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "layers above chance" in done.stdout
    assert done.stderr == ""
