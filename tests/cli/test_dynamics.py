"""``featlearn dynamics``: the diagrams, the comparisons and the diagnosis, as typed in a terminal."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from featlearn.dynamics import Hyperbola, diagnose_weights, phase_diagram
from featlearn.dynamics.solvable import Agreement
from featlearn.dynamics.verification import CASES, Case

ASK = """
import json, sys
from featlearn.cli import main
code = main(sys.argv[1:])
print(json.dumps({"code": code, "loaded": sorted(sys.modules)}))
"""
HEAVY = {"torch", "numpy", "scipy", "pandas", "matplotlib", "jinja2", "rich", "safetensors", "PIL"}


@pytest.mark.parametrize("command", [[], ["phase-diagram"], ["verify"], ["diagnose"]], ids=" ".join)
def test_help_loads_nothing_that_is_slow(command: list[str]) -> None:
    arguments = [sys.executable, "-c", ASK, "dynamics", *command, "--help"]
    found = json.loads(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    assert found["code"] == 0
    assert HEAVY & set(found["loaded"]) == set()


def test_help_names_every_option(featlearn) -> None:
    text = "".join(featlearn("dynamics", command, "--help").out for command in ("phase-diagram", "verify", "diagnose"))
    options = "--plane --width --target --mine --html --png --json --fast --pair --traceback"
    assert [option for option in options.split() if option not in text] == []


def test_without_a_command_it_prints_the_help_and_is_2(featlearn) -> None:
    outcome = featlearn("dynamics")
    assert (outcome.code, outcome.out) == (2, "")
    assert "phase-diagram" in outcome.err


# --- phase-diagram ----------------------------------------------------------------------------------------------------


def test_the_points_are_printed_with_their_phases(featlearn) -> None:
    outcome = featlearn("dynamics", "phase-diagram", "--width", 100, "--mine", "g=-1, eta_u=1, eta_w=0.5")
    assert outcome.code == 0
    rows = {line[:27].strip(): line[27:].split() for line in outcome.out.splitlines()[4:]}
    points = phase_diagram(width=100, mine={"g": -1.0, "eta_u": 1.0, "eta_w": 0.5}).points
    assert list(rows) == [point["label"] for point in points]
    for point in points:
        *numbers, phase, speed = rows[point["label"]]
        assert (phase, speed) == (point["phase"], point["speed"])
        shown = [point[name] for name in ("eT", "eF", "e0", "Theta0", "rho")]
        assert [float(number) for number in numbers] == pytest.approx(shown, rel=5e-4)


def test_page_figure_and_numbers_are_written(featlearn, folder: Path) -> None:
    files = ("--html", "map.html", "--png", "map.png", "--json", "map.json")
    outcome = featlearn("dynamics", "phase-diagram", "--target", 2, *files)
    assert outcome.code == 0
    assert outcome.out.splitlines()[-1] == "Wrote map.html and map.png and map.json."
    assert json.loads((folder / "map.json").read_text()) == phase_diagram(target=2.0).to_dict()
    assert (folder / "map.png").read_bytes().startswith(b"\x89PNG")
    assert "target <data" in (folder / "map.html").read_text(encoding="utf-8")
    assert {path.name for path in folder.iterdir()} == {"nets.py", "rows.npz", "map.html", "map.png", "map.json"}


def test_numbers_on_standard_output_are_all_there_is_on_it(featlearn) -> None:
    mine = ("--mine", "gamma=1.5,gamma_prime=-0.25")
    outcome = featlearn("dynamics", "phase-diagram", "--plane", "initialisation", *mine, "--json", "-")
    told = json.loads(outcome.out)
    assert told == phase_diagram("initialisation", mine={"gamma": 1.5, "gamma_prime": -0.25}).to_dict()
    assert "condensed" in outcome.err


WRONG = {
    "unknown exponent": (["--mine", "rate=1"], "'rate', but expected some of g, eta_u"),
    "exponent twice": (["--mine", "g=1,g=2"], "'g' twice"),
    "two points": (["--mine", "g=1", "--mine", "g=2"], "--mine 2 times, but expected it once"),
    "no exponent": (["--mine", "g"], "name=number"),
    "not a number": (["--mine", "g=big"], "'g=big'"),
    "not finite": (["--mine", "g=inf"], "'g=inf'"),
    "too steep": (["--mine", "g=9"], "between -5 and 5"),
    "exponent of the other plane": (["--plane", "initialisation", "--mine", "g=1"], "gamma and gamma_prime"),
    "width": (["--width", "0"], "width=0"),
    "target": (["--target", "0"], "target=0"),
    "width of the other plane": (["--plane", "initialisation", "--width", "10"], "has no width"),
    "plane": (["--plane", "rates"], "'rates'"),
    "no such folder": (["--json", "no/map.json"], "no folder no"),
    "figure of unknown kind": (["--png", "map.bmp"], ".png, .svg, .pdf"),
    "one file for two": (["--json", "map.html"], "different files"),
}


@pytest.mark.parametrize(("options", "named"), WRONG.values(), ids=WRONG)
def test_bad_usage_is_2_and_writes_nothing(featlearn, folder: Path, options: list[str], named: str) -> None:
    outcome = featlearn("dynamics", "phase-diagram", "--html", "map.html", *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert named in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert {path.name for path in folder.iterdir()} == {"nets.py", "rows.npz"}


# --- verify -----------------------------------------------------------------------------------------------------------


def test_verify_prints_one_row_a_case(featlearn) -> None:
    outcome = featlearn("dynamics", "verify", "Hyperbola", "LinearNet1D", "--json", "all.json")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [
        ["ok", "Hyperbola"],
        ["ok", "LinearNet1D"],
        ["ok", "LinearNet1D"],
    ]
    assert lines[4:] == ["All agree.", "Wrote all.json."]
    told = json.loads(Path("all.json").read_text())["comparisons"]
    assert [entry["model"] for entry in told] == ["Hyperbola", "LinearNet1D", "LinearNet1D"]
    assert told[0]["worst"] == float(
        Hyperbola([0.0, 0.3, 0.01], [1.0, 2.0, 0.02], [1e-3, 2.0, 2.0], [1.0, -1.0, 1.0]).verify()
    )


def test_a_disagreement_is_1_and_named(featlearn, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong() -> Agreement:
        return Hyperbola(0.1, 1.0, 2.0, 1.0).verify(tolerance=1e-300)

    cases = {
        "Hyperbola": (Case("asked too much of", wrong), Case("slow", wrong, slow=True)),
        "FastSlow": CASES["FastSlow"],
    }
    monkeypatch.setattr(sys.modules["featlearn.dynamics.verification"], "CASES", cases)
    outcome = featlearn("dynamics", "verify", "Hyperbola", "--fast")
    assert outcome.code == 1
    assert outcome.out.splitlines()[1].startswith("FAIL Hyperbola")
    assert "disagree: Hyperbola (asked too much of) in " in outcome.out.splitlines()[2]
    assert len(outcome.out.splitlines()) == 3


def test_an_unknown_model_is_2(featlearn) -> None:
    outcome = featlearn("dynamics", "verify", "Parabola")
    assert (outcome.code, outcome.out) == (2, "")
    assert "'Parabola', but expected some of Hyperbola" in outcome.err


# --- diagnose ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoints(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Three layers before training, and after: the first doubled, the last turned."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"fc1": (8, 4), "fc2": (6, 8), "fc3": (2, 6)}
    before = {f"{name}.weight": torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    after = {**before, "fc1.weight": 2 * before["fc1.weight"], "fc3.weight": torch.randn(2, 6, generator=generator)}
    save_file(before, folder / "before.safetensors")
    save_file(after, folder / "after.safetensors")
    return before, after


def test_diagnose_prints_evidence_and_mechanisms_of_every_pair(featlearn, checkpoints) -> None:
    pairs = ("--pair", "fc1.weight", "fc2.weight", "--pair", "fc2", "fc3")
    outcome = featlearn("dynamics", "diagnose", "before.safetensors", "after.safetensors", *pairs, "--json", "-")
    assert outcome.code == 0
    found = diagnose_weights(*checkpoints, [("fc1.weight", "fc2.weight"), ("fc2", "fc3")]).to_dict()
    told = json.loads(outcome.out)
    assert told["mechanisms"]["pairs"] == found["mechanisms"]["pairs"]
    assert "fc1.weight | fc2.weight" in outcome.err
    assert "rescaling" in outcome.err
    assert "Mechanisms: |score| above 0.693, |rescaling| above 0.223 (conventions)." in outcome.err
    assert f"{told['evidence']['weights_moved']['value']:.3g}" in outcome.err


def test_what_is_not_known_of_a_pair_is_left_out(featlearn, checkpoints, folder: Path) -> None:
    save_file({name: torch.zeros_like(weight) for name, weight in checkpoints[0].items()}, folder / "zero.safetensors")
    outcome = featlearn("dynamics", "diagnose", "zero.safetensors", "after.safetensors", "--pair", "fc1", "fc2")
    assert outcome.code == 0
    row = next(line for line in outcome.out.splitlines() if line.startswith("fc1 | fc2"))
    assert row.split() == ["fc1", "|", "fc2", "-", "-", "-", "+inf", "rescaling"]


def test_diagnose_writes_a_page_that_needs_no_other_file(featlearn, checkpoints, folder: Path) -> None:
    files = ("before.safetensors", "after.safetensors")
    outcome = featlearn("dynamics", "diagnose", *files, "--pair", "fc1", "fc2", "--html", "report.html")
    assert outcome.code == 0
    assert outcome.out.splitlines()[-1] == "Wrote report.html."
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert [word for word in ("http", "src=", "<link", "@import") if word in page] == []
    value = diagnose_weights(*checkpoints, [("fc1", "fc2")]).evidence["weights_moved"].value
    assert f'<data value="{value!r}">' in page


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["nowhere.safetensors", "after.safetensors", "--pair", "fc1", "fc2"], 3, "nowhere.safetensors"),
        (["before.safetensors", "after.safetensors", "--pair", "fc1", "fc9"], 5, "fc9"),
        (["before.safetensors", "after.safetensors", "--pair", "fc1", "fc3"], 5, "fc3"),
        (["before.safetensors", "after.safetensors"], 2, "--pair"),
        (["before.safetensors", "after.safetensors", "--pair", "fc1", "fc2", "--html", "."], 2, "folder"),
    ],
    ids=["no file", "no such layer", "widths that do not match", "no pair", "page is a folder"],
)
def test_what_cannot_be_diagnosed_has_its_own_code(featlearn, checkpoints, arguments, code, named) -> None:
    outcome = featlearn("dynamics", "diagnose", *arguments)
    assert (outcome.code, outcome.out) == (code, "")
    assert named in outcome.err
