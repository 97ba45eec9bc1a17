"""``--help`` answers at once: it loads nothing that computes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "pandas", "scipy", "sklearn", "matplotlib", "jinja2", "numba", "PIL", "rich", "safetensors")
ASK = """
import json, sys
from featlearn.cli import main
code = main(sys.argv[1:])
print(json.dumps({"code": code, "loaded": sorted(sys.modules)}))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["measure", "--help"],
        ["fit", "--help"],
        ["predict", "-h"],
        ["coordinate-check", "--help"],
        ["dynamics", "--help"],
        ["dynamics", "phase-diagram", "-h"],
        ["dynamics", "verify", "--help"],
        ["dynamics", "diagnose", "--help"],
        ["groups", "--help"],
        ["robust", "--help"],
        ["tree", "--help"],
        ["probe", "-h"],
        ["demo", "-h"],
        ["doctor", "--help"],
        ["--version"],
        [],
    ],
    ids=" ".join,
)
def test_help_imports_neither_torch_nor_anything_else_that_is_slow(arguments) -> None:
    done = subprocess.run([sys.executable, "-c", ASK, *arguments], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["code"] == (0 if arguments else 2)
    assert not set(HEAVY) & set(found["loaded"])


def test_help_of_measure_names_every_option_of_the_specification(featlearn) -> None:
    outcome = featlearn("measure", "--help")
    options = (
        "--data --weights --reference --layers --outputs --loss --probes --power --statistic --n --batch-size --seed "
        "--device --image-size --mean --std --html --json --quiet --model-args --allow-partial --traceback"
    )
    assert outcome.code == 0
    assert [option for option in options.split() if option not in outcome.out] == []


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("groups", "--truth --predicted --group --train-groups --information --selection --confidence"),
        ("robust", "--layer --split-column --train-groups --predicted --information --selection --save --save-network"),
        ("probe", "--layer --split-column --no-baselines --refits --checkpoint --untrained"),
    ],
)
def test_help_of_commands_about_groups_names_their_options(featlearn, command: str, options: str) -> None:
    text = featlearn(command, "--help").out
    shared = "--html --json --png --seed --quiet --traceback"
    if command != "groups":
        shared += (
            " --groups --label --group --model --model-args --weights --images --file-column --image-size --device"
        )
    assert [option for option in f"{options} {shared}".split() if option not in text] == []


def test_help_and_version(featlearn) -> None:
    from featlearn import __version__

    outcome = featlearn("--help")
    assert [
        name
        for name in (
            "measure",
            "fit",
            "predict",
            "coordinate-check",
            "groups",
            "robust",
            "probe",
            "tree",
            "demo",
            "doctor",
        )
        if name not in outcome.out
    ] == []
    assert "..." not in outcome.out.split("Commands:")[1]  # no summary is cut
    assert featlearn("--version").out == f"featlearn {__version__}\n"
