"""``featlearn coordinate-check``: verdicts as exit codes, numbers and figure as files, and bad input in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from featlearn.training.coordinate import CoordinateCheck

RULES = """
import torch
from torch import nn


def mlp(width):
    net = nn.Sequential(nn.Linear(6, width, bias=False), nn.Tanh(), nn.Linear(width, 1, bias=False))
    nn.init.normal_(net[0].weight, std=6**-0.5)
    nn.init.normal_(net[2].weight, std=1 / width)
    return net


def mup(net):
    width = net[0].out_features
    groups = [{"params": net[0].parameters(), "lr": 0.1 * width}, {"params": net[2].parameters(), "lr": 0.1 / width}]
    return torch.optim.SGD(groups)


def classes(width):
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3))


def deep(depth):
    hidden = [part for _ in range(depth - 2) for part in (nn.Linear(6, 6), nn.Tanh())]
    return nn.Sequential(nn.Linear(6, 6), nn.Tanh(), *hidden, nn.Linear(6, 1))


def sequence(width):
    return nn.Linear(6, 5)


def broken(width):
    raise RuntimeError("no such luck")


def nothing(width):
    return None


def bad_optimizer(model):
    return 3
"""


@pytest.fixture
def check(featlearn, folder):
    """``featlearn coordinate-check`` of ``rules.py:mlp`` with the rates of muP, with more or other options."""
    (folder / "rules.py").write_text(RULES, encoding="utf-8")

    def run(*options, factory="rules.py:mlp", **changed):
        given = {
            "widths": "16,32,64,128,256", "input-shape": 6, "loss": "mse", "optimizer": "rules.py:mup", "seeds": 8
        } | {key.replace("_", "-"): value for key, value in changed.items()}  # fmt: skip
        flags = [part for key, value in given.items() if value is not None for part in (f"--{key}", value)]
        return featlearn("coordinate-check", factory, *flags, *options)

    return run


def test_a_rule_that_transfers_is_0(check):
    outcome = check()
    assert outcome.code == 0
    assert "Passed: nothing that is judged depends on width" in outcome.out
    row = next(line for line in outcome.out.splitlines() if line.startswith("0      change of features"))
    assert row.endswith("  flat")
    assert outcome.err == ""


def test_a_rule_that_is_broken_is_6(check):
    outcome = check(optimizer="sgd:0.5")
    assert outcome.code == 6
    assert "Broken:" in outcome.out
    assert "depends on width" in outcome.out


def test_a_size_that_diverges_is_6_and_named(check):
    outcome = check(optimizer="sgd:1e30")
    assert outcome.code == 6
    assert "Not finite: width 16, 8 of 8 seeds" in outcome.out


def test_too_little_to_decide_is_7(check):
    outcome = check(tolerance=1e-6, seeds=1)
    assert outcome.code == 7
    assert "More seeds, or widths over a longer range" in outcome.out


def test_depths_are_compared_by_place(check):
    outcome = check(factory="rules.py:deep", widths=None, depths="3,6,12", optimizer="adam:0.001", seeds=1)
    assert outcome.code in (0, 6, 7)
    assert "last hidden" in outcome.out
    assert "readout" in outcome.out


def test_json_and_figure_are_written_and_read_back(check, folder):
    outcome = check("--json", "check.json", "--plot", "check.png")
    assert outcome.code == 0
    told = json.loads((folder / "check.json").read_text(encoding="utf-8"))
    assert told["passed"] is True
    assert told["command"].startswith("featlearn coordinate-check rules.py:mlp")
    assert len(CoordinateCheck.from_dict(told).measured) == 5 * 8 * 4 * 2
    assert (folder / "check.png").read_bytes().startswith(b"\x89PNG")
    assert outcome.out.endswith("Wrote check.json and check.png.\n")
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []


def test_numbers_on_standard_output_send_the_table_to_the_other(check):
    outcome = check("--json", "-")
    assert json.loads(outcome.out)["kind"] == "CoordinateCheck"
    assert "Passed" in outcome.err
    quiet = check("--json", "-", "--quiet")
    assert quiet.err == ""
    assert json.loads(quiet.out)["slopes"] == json.loads(outcome.out)["slopes"]


def test_quiet_says_nothing_and_has_the_same_code(check):
    outcome = check("--quiet", optimizer="sgd:0.5")
    assert (outcome.code, outcome.out, outcome.err) == (6, "", "")


def test_the_batch_is_that_of_a_file_or_drawn_with_classes(check, folder):
    plain = {"factory": "rules.py:classes", "loss": "cross_entropy", "optimizer": "adam:0.01", "seeds": 2}
    told = {}
    for name, changed in {"rows": {"input_shape": None, "data": "rows.npz"}, "drawn": {}}.items():
        outcome = check("--json", f"{name}.json", **plain, **changed)
        told[name] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        assert outcome.code == {True: 0, False: 6, None: 7}[told[name]["passed"]]
    assert told["rows"]["data"] == "rows.npz (60 of 60 samples)"
    assert told["drawn"]["data"] == "64 normal inputs of shape 6, random targets"
    assert told["rows"]["measured"] != told["drawn"]["measured"]


@pytest.mark.parametrize("option", ["seed", "steps", "batch_size", "confidence"])
def test_options_change_the_numbers(check, option):
    changed = {"seed": 1, "steps": 2, "batch_size": 32, "confidence": 0.5}[option]
    assert check(**{option: changed}).out != check().out


REFUSED = {
    "no sizes": ({"widths": None}, (), 2, "neither --widths nor --depths"),
    "both sizes": ({"depths": "2,4,8"}, (), 2, "both --widths and --depths"),
    "two widths": ({"widths": "16,32"}, (), 2, "at least 3 ascending"),
    "descending": ({"widths": "64,32,16"}, (), 2, "at least 3 ascending"),
    "no numbers": ({"widths": "a,b,c"}, (), 2, "--widths a,b,c"),
    "no data": ({"input_shape": None}, (), 2, "neither --data nor --input-shape"),
    "data twice": ({"data": "rows.npz"}, (), 2, "both --data and --input-shape"),
    "shape": ({"input_shape": "6,-1"}, (), 2, "--input-shape 6,-1"),
    "loss": ({"loss": "hinge"}, (), 2, "'hinge'"),
    "optimizer": ({"optimizer": "lion:0.1"}, (), 2, "lion"),
    "optimizer without rate": ({"optimizer": "sgd"}, (), 2, "positive rate"),
    "optimizer of rate zero": ({"optimizer": "adam:0"}, (), 2, "--optimizer adam:0"),
    "optimizer that is none": ({"optimizer": "rules.py:bad_optimizer"}, (), 2, "Got a int"),
    "tolerance": ({"tolerance": 0}, (), 2, "--tolerance 0"),
    "confidence": ({"confidence": 1}, (), 2, "--confidence 1"),
    "steps": ({"steps": 0}, (), 2, "--steps"),
    "figure": ({}, ("--plot", "a.gif"), 2, ".png, .svg, .pdf"),
    "figure in no folder": ({}, ("--plot", "no/a.png"), 2, "no folder no"),
    "one file for both": ({}, ("--plot", "a.png", "--json", "a.png"), 2, "two files"),
    "no such factory": ({"factory": "rules.py:mpl"}, (), 3, "mlp"),
    "factory that fails": ({"factory": "rules.py:broken"}, (), 3, "no such luck"),
    "factory of nothing": ({"factory": "rules.py:nothing"}, (), 3, "NoneType"),
    "a module": ({"factory": "nets.py:module"}, (), 3, "function of the width"),
    "other layers": ({"factory": "rules.py:deep", "optimizer": "sgd:0.1"}, (), 3, "other layers at width 32"),
    "inputs of other size": ({"input_shape": 7}, (), 4, "--input-shape 7"),
    "no such data": ({"input_shape": None, "data": "nowhere"}, (), 4, "nowhere"),
    "outputs without random targets": ({"factory": "rules.py:sequence", "input_shape": "4,6"}, (), 4, "(64, 4, 5)"),
    "no such layer": ({}, ("--layers", "encoder"), 5, "encoder"),
}


@pytest.mark.parametrize(("changed", "options", "code", "named"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_one_line_with_its_code_and_no_file(check, folder, changed, options, code, named):
    files = sorted(folder.iterdir())
    numbers = () if "--json" in options else ("--json", "numbers.json")
    outcome = check(*options, *numbers, **changed)
    assert outcome.code == code
    assert outcome.out == ""
    assert len(outcome.err.splitlines()) == 1, outcome.err
    assert outcome.err.startswith("featlearn: error: ")
    assert named in outcome.err
    assert [path for path in sorted(folder.iterdir()) if path.name != "__pycache__"] == files


def test_a_target_that_the_loss_refuses_is_data(check, folder):
    np.savez(folder / "far.npz", X=np.ones((20, 6), dtype=np.float32), y=np.full(20, 9))
    outcome = check(factory="rules.py:classes", input_shape=None, data="far.npz", loss="cross_entropy")
    assert outcome.code == 4
    assert "class number 9" in outcome.err


def test_help_names_the_codes_and_every_option(featlearn):
    outcome = featlearn("coordinate-check", "--help")
    options = (
        "--widths --depths --data --input-shape --loss --optimizer --steps --seeds --tolerance --confidence --layers "
        "--batch-size --seed --json --plot --quiet --traceback"
    )
    assert outcome.code == 0
    assert [option for option in options.split() if option not in outcome.out] == []
    assert "0: all flat; 6: something depends on size; 7: undecided" in " ".join(outcome.out.split())
