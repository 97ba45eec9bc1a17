"""Measured initial scales and rates of equal contribution follow the closed forms of NTK, MF + muP and FSC.

Feature-speed correction, published in arXiv 2311.18718, has rates of hidden layers that fall with the square of depth.
The entries of the three rules are this package's derivation for one sample and loss = output; here nothing is told to
the measurement but the network, and its exponents in width and depth come out.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featlearn import feature_speed, rescale_init
from featlearn.training.groups import equal_decay, unit_steps
from featlearn.training.structure import read_structure
from featlearn.training.theory import ScalingRule, scaling_rule

INPUTS, SEEDS = 32, 4
RULES: tuple[Literal["ntk", "mup", "fsc"], ...] = ("ntk", "mup", "fsc")
SIZES = {"width": [(5, width) for width in (64, 128, 256, 512)], "depth": [(depth, 400) for depth in (5, 10, 20)]}


def output(outputs: Tensor, targets: Any) -> Tensor:
    return outputs.sum()


def network(depth: int, width: int, seed: int) -> tuple[nn.Sequential, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    parts: list[nn.Module] = []
    for inputs, outputs in pairwise([INPUTS, *[width] * (depth - 1), 1]):
        layer = nn.Linear(inputs, outputs, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(outputs, inputs, generator=generator) * inputs**-0.5)
        parts += [layer, nn.ReLU()]
    x = torch.randn(1, INPUTS, generator=generator)
    return nn.Sequential(*parts[:-1]), x * (INPUTS**0.5 / x.norm())


def measured(rule: Literal["ntk", "mup", "fsc"], depth: int, width: int, seed: int) -> dict[str, float]:
    net, x = network(depth, width, seed)
    # Sizes of hidden outputs are theirs in the closed form: inputs of std 1 / sqrt(d), then He: all of rms 1.
    rescale_init(net, output, x, rule=rule, sensitivity=(4 / 3) ** 0.5, tol=0.03, max_rounds=30)
    layers = read_structure(net, output, x).layers
    rates = equal_decay(layers, steps := unit_steps(layers, "sgd"))
    update = {key: -rates[name] * step for name in layers for key, step in steps[name].items()}
    last = str(2 * (depth - 2))
    speed = feature_speed(net, output, x, update=update, layers=last, finite=False)
    values = list(rates.values())
    return {
        "input": values[0],
        "hidden": float(np.exp(np.mean(np.log(values[1:-1])))),
        "readout": values[-1],
        "readout std": float(net[-1].weight.detach().square().mean().sqrt()),
        "sensitivity": speed[last].sensitivity,
    }


@pytest.fixture(scope="module")
def table() -> dict[tuple[str, int, int], dict[str, float]]:
    """Geometric means over seeds."""
    found = {}
    for rule in RULES:
        for depth, width in {size for sizes in SIZES.values() for size in sizes}:
            runs = [measured(rule, depth, width, seed) for seed in range(SEEDS)]
            found[rule, depth, width] = {
                key: float(np.exp(np.mean([np.log(run[key]) for run in runs]))) for key in runs[0]
            }
    return found


PARTS: dict[str, Callable[[ScalingRule], float]] = {
    "input": lambda rule: rule.input.rate,
    "hidden": lambda rule: rule.hidden.rate,
    "readout": lambda rule: rule.readout.rate,
    "readout std": lambda rule: rule.readout.std,
}


@pytest.mark.parametrize("over", SIZES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("part", PARTS)
def test_exponents_of_rates_and_of_the_readout_are_those_of_the_closed_form(part, rule, over, table):
    sizes = SIZES[over]
    axis = np.log([size[over == "width"] for size in sizes])
    slope = np.polyfit(axis, np.log([table[rule, *size][part] for size in sizes]), 1)[0]
    expected = [PARTS[part](scaling_rule(rule, *size, INPUTS)) for size in sizes]
    assert slope == pytest.approx(np.polyfit(axis, np.log(expected), 1)[0], abs=0.3)


def test_hidden_rates_of_fsc_fall_with_the_square_of_depth(table):
    slope = np.polyfit(np.log([5, 10, 20]), np.log([table["fsc", depth, 400]["hidden"] for depth in (5, 10, 20)]), 1)[0]
    assert slope == pytest.approx(-2.0, abs=0.3)


@pytest.mark.parametrize("rule", RULES)
def test_sensitivities_are_those_of_the_closed_form(rule, table):
    for depth, width in SIZES["depth"]:
        expected = scaling_rule(rule, depth, width, INPUTS).sensitivity
        assert table[rule, depth, width]["sensitivity"] == pytest.approx(expected, rel=0.2)
