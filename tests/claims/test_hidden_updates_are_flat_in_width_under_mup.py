"""Three steps move hidden features alike at every width under muP, and less and less under the NTK scaling.

Over depth the same check tells the feature-speed correction from both: the change of the last hidden layer grows like
sqrt(depth) without it. The rules are written out here: ReLU networks of L weight layers without biases, width m, inputs
of d numbers; first-layer entries of standard deviation 1/sqrt(d), hidden ones sqrt(2/m).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from featlearn.training.coordinate import CoordinateCheck, coordinate_check

D, WIDTHS, DEPTHS = 32, (64, 128, 256, 512, 1024), (3, 6, 12, 24)

# rule -> (L, m) -> standard deviation of the readout, rates of the input, hidden and readout layers
RULES: dict[str, Callable[[int, int], tuple[float, float, float, float]]] = {
    "ntk": lambda L, m: (1 / math.sqrt(m), 1 / (L * D), 1 / (L * m), 1 / (L * m)),
    "mup": lambda L, m: (1 / m, m / (L * D), 1 / L, 1 / (L * m)),
    "fsc": lambda L, m: (math.sqrt(L) / m, m / (L**2 * D), 1 / L**2, 1 / (L * m)),
    "he": lambda L, m: (math.sqrt(2 / m), 1 / 64, 1 / 64, 1 / 64),
}


def network(rule: str, depth: int, width: int) -> nn.Sequential:
    readout, *_ = RULES[rule](depth, width)
    sizes = [D, *[width] * (depth - 1), 1]
    deviations = [D**-0.5, *[math.sqrt(2 / width)] * (depth - 2), readout]
    parts: list[nn.Module] = []
    for inputs, outputs, deviation in zip(sizes[:-1], sizes[1:], deviations, strict=True):
        parts += [nn.Linear(inputs, outputs, bias=False), nn.ReLU()]
        nn.init.normal_(parts[-2].weight, std=deviation)
    return nn.Sequential(*parts[:-1])


def descent(rule: str, factor: float, net: nn.Sequential) -> torch.optim.Optimizer:
    layers = [part for part in net if isinstance(part, nn.Linear)]
    _, first, hidden, last = RULES[rule](len(layers), layers[0].out_features)
    rates = [first, *[hidden] * (len(layers) - 2), last]
    groups = [{"params": layer.parameters(), "lr": factor * r} for layer, r in zip(layers, rates, strict=True)]
    return torch.optim.SGD(groups)


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs - targets) ** 2).mean() / 2


def over_width(rule: str, seeds: int) -> CoordinateCheck:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, D, generator=generator)
    y = torch.randint(0, 2, (64, 1), generator=generator) * 2.0 - 1.0
    step = functools.partial(descent, rule, 1.0)
    return coordinate_check(lambda m: network(rule, 4, m), WIDTHS, (x, y), half_square, optimizer=step, seeds=seeds)


def test_under_mup_nothing_hidden_depends_on_width():
    result = over_width("mup", seeds=3)
    assert result.passed is True
    hidden = result.frame().loc[["0", "2", "4"]]
    assert (hidden["verdict"] == "flat").all()
    assert hidden["slope"].abs().max() < 0.06


def test_under_ntk_every_hidden_change_falls_like_one_over_sqrt_width():
    result = over_width("ntk", seeds=5)
    assert result.passed is False
    frame = result.frame()
    for layer in ("0", "2", "4"):
        change = frame.loc[(layer, "feature_change_rms")]
        assert change["verdict"] == "depends on width"
        assert change["low"] < -0.5 < change["high"]
        assert frame.loc[(layer, "feature_rms"), "verdict"] == "flat"
        assert frame.loc[(layer, "cos_theta"), "verdict"] == "flat"


def test_one_rate_for_all_layers_does_not_transfer():
    result = over_width("he", seeds=3)
    assert result.passed is False
    change = result.frame().xs("feature_change_rms", level="quantity")
    assert (change.loc[["2", "4"], "verdict"] == "depends on width").all()
    assert (change.loc[["2", "4"], "slope"] > 1.0).all()


@pytest.mark.parametrize(
    ("rule", "passed", "slope"), [("fsc", True, 0.0), ("mup", False, 0.5), ("ntk", False, 0.5)], ids=str
)
def test_over_depth_only_the_feature_speed_correction_is_flat(rule, passed, slope):
    """One input and the output as the loss, as in the theory; a tenth of the rates, so that steps are small."""
    x = torch.randn(1, D, generator=torch.Generator().manual_seed(0))
    x *= math.sqrt(D) / x.norm()
    result = coordinate_check(
        lambda depth: network(rule, depth, 512),
        depths=DEPTHS,
        batch=x,
        loss=lambda outputs, _: outputs.mean(),
        optimizer=functools.partial(descent, rule, 0.1),
        steps=1,
        seeds=16,
    )
    assert result.passed is passed
    last = result.frame().loc["last hidden"]
    assert last.loc["feature_change_rms", "slope"] == pytest.approx(slope, abs=0.15)
    assert last.loc["feature_rms", "verdict"] == "flat"
    # The angle falls under every rule; the correction makes up for it.
    assert last.loc["cos_theta", "slope"] == pytest.approx(-0.5, abs=0.1)
