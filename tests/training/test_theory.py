"""The closed forms of three parametrisations, against the table they are derived for."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featlearn.exceptions import DataError
from featlearn.training.theory import ScalingRule, scaling_rule

# rule: readout std, rates of input, hidden and readout, sensitivity.
TABLE = {
    "ntk": lambda L, m, d: (m**-0.5, 1 / (L * d), 1 / (L * m), 1 / (L * m), math.sqrt(4 * L / (3 * m))),
    "mup": lambda L, m, d: (1 / m, m / (L * d), 1 / L, 1 / (L * m), math.sqrt(4 * L / 3)),
    "fsc": lambda L, m, d: (L**0.5 / m, m / (L**2 * d), 1 / L**2, 1 / (L * m), math.sqrt(4 / 3)),
}
SIZES = {"depth": st.integers(2, 200), "width": st.integers(1, 10_000), "inputs": st.integers(1, 10_000)}


@pytest.mark.parametrize("rule", TABLE)
@given(**SIZES)
def test_entries_are_those_of_the_table(rule: Any, depth: int, width: int, inputs: int):
    found = scaling_rule(rule, depth, width, inputs)
    std, *rates, sensitivity = TABLE[rule](depth, width, inputs)
    assert (found.input.std, found.hidden.std, found.readout.std) == pytest.approx(
        (inputs**-0.5, math.sqrt(2 / width), std), rel=1e-12
    )
    assert [found.input.rate, found.hidden.rate, found.readout.rate] == pytest.approx(rates, rel=1e-12)
    assert found.sensitivity == pytest.approx(sensitivity, rel=1e-12)
    assert found.layers() == [found.input, *[found.hidden] * (depth - 2), found.readout]


@given(**SIZES)
def test_every_layer_contributes_the_same_whatever_the_rule(depth: int, width: int, inputs: int):
    """One sample of rms 1, He scales: squared gradient of a layer's output times the squared size of its input."""
    for rule in ("ntk", "mup", "fsc"):
        found = scaling_rule(rule, depth, width, inputs)  # type: ignore[arg-type]
        backward = width * found.readout.std**2  # summed over the units of any hidden layer, up to one factor
        decays = [
            found.input.rate * backward * inputs,
            found.hidden.rate * backward * width,
            found.readout.rate * width,
        ]
        assert decays == pytest.approx([1 / depth] * 3, rel=1e-9)


def test_results_are_plain_and_shown():
    found = scaling_rule("fsc", 4, 256, 32)
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["hidden"] == {"std": math.sqrt(2 / 256), "rate": 1 / 16}
    assert plain["rule"] == "fsc"
    frame = found.frame()
    assert list(frame.index) == ["input", "hidden", "readout"]
    assert frame.loc["readout", "std"] == pytest.approx(2 / 256)
    assert "0.0625" in found._repr_html_()
    assert isinstance(found, ScalingRule)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("xavier", 4, 8, 8), "rule='xavier'"),
        (("fsc", 1, 8, 8), "depth=1"),
        (("fsc", True, 8, 8), "depth=True"),
        (("fsc", 4, 0, 8), "width=0"),
        (("fsc", 4, 8.5, 8), "width=8.5"),
        (("fsc", 4, 8, -1), "inputs=-1"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(arguments: Any, message: str):
    with pytest.raises(DataError, match=message):
        scaling_rule(*arguments)
