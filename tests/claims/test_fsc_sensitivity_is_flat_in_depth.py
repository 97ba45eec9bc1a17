"""Sensitivity of the last hidden features: vanishing with width, growing with depth, or neither.

Published (arXiv 2311.18718): of the three parametrisations of ReLU networks only the feature-speed corrected one (FSC)
keeps the change of the last hidden features per unit of loss decay of order one when both width and depth grow. The
standard deviations and rates below, and the limits sqrt(4L/(3m)), sqrt(4L/3) and sqrt(4/3), are this package's
derivation: one input, loss = output, so that the loss gradient at the last features is isotropic. A batch or several
outputs change the common factor.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from featlearn.agop.feature_speed import feature_speed

INPUTS = 32
DEPTHS = (3, 5, 10, 20, 40)
LIMITS = {
    "ntk": lambda depth, width: (4 * depth / (3 * width)) ** 0.5,
    "mf+mup": lambda depth, width: (4 * depth / 3) ** 0.5,
    "fsc": lambda depth, width: (4 / 3) ** 0.5,
}


def deviations(rule: str, depth: int, width: int) -> list[float]:
    readout = {"ntk": width**-0.5, "mf+mup": 1 / width, "fsc": depth**0.5 / width}[rule]
    return [INPUTS**-0.5] + [(2 / width) ** 0.5] * (depth - 2) + [readout]


def rates(rule: str, depth: int, width: int) -> list[float]:
    first, hidden = {
        "ntk": (1 / (depth * INPUTS), 1 / (depth * width)),
        "mf+mup": (width / (depth * INPUTS), 1 / depth),
        "fsc": (width / (depth**2 * INPUTS), 1 / depth**2),
    }[rule]
    return [first] + [hidden] * (depth - 2) + [1 / (depth * width)]


def sensitivity(rule: str, depth: int, width: int, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    sizes = [INPUTS] + [width] * (depth - 1) + [1]
    parts: list[nn.Module] = []
    for inputs, outputs, deviation in zip(sizes, sizes[1:], deviations(rule, depth, width), strict=False):
        layer = nn.Linear(inputs, outputs, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(outputs, inputs, generator=generator) * deviation)
        parts += [layer, nn.ReLU()]
    net = nn.Sequential(*parts[:-1])
    x = torch.randn(1, INPUTS, generator=generator)
    x *= INPUTS**0.5 / x.norm()
    by_name = dict(zip((name for name, _ in net.named_parameters()), rates(rule, depth, width), strict=True))

    def update(parameters: dict[str, torch.Tensor], gradients: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: -by_name[name] * gradient for name, gradient in gradients.items()}

    last = str(2 * (depth - 2))
    return feature_speed(net, lambda o, _: o.sum(), x, update=update, layers=last, finite=False)[last].sensitivity


def mean_sensitivity(rule: str, depth: int, width: int, seeds: int = 4) -> float:
    return float(np.mean([sensitivity(rule, depth, width, seed) for seed in range(seeds)]))


@pytest.fixture(scope="module")
def table() -> dict[str, list[float]]:
    return {rule: [mean_sensitivity(rule, depth, 400) for depth in DEPTHS] for rule in LIMITS}


@pytest.mark.parametrize("rule", LIMITS)
def test_every_entry_is_that_of_wide_networks(rule, table):
    np.testing.assert_allclose(table[rule], [LIMITS[rule](depth, 400) for depth in DEPTHS], rtol=0.2)


def test_fsc_is_flat_in_depth_while_mean_field_grows(table):
    assert min(table["fsc"]) > 0.9
    assert max(table["fsc"]) < 1.35
    assert table["mf+mup"][-1] > 2.5 * table["mf+mup"][0]
    assert table["mf+mup"] == sorted(table["mf+mup"])


@pytest.mark.parametrize(("rule", "slope"), [("ntk", -0.5), ("mf+mup", 0.0), ("fsc", 0.0)])
def test_only_ntk_falls_with_width_like_one_over_its_root(rule, slope):
    widths = (100, 200, 400)
    found = [mean_sensitivity(rule, 5, width, seeds=24) for width in widths]
    assert np.polyfit(np.log(widths), np.log(found), 1)[0] == pytest.approx(slope, abs=0.1)
