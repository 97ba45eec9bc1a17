"""Sharpness under given rates against dense Hessians, and the edge of stability against training itself."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from featlearn import feature_speed_groups, rescale_init
from featlearn.exceptions import DataError
from featlearn.training.sharpness import rate_sharpness


def half(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.mse_loss(outputs, targets) / 2


def problem(activation: nn.Module, seed: int = 0) -> tuple[nn.Sequential, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(40, 4, generator=generator, dtype=torch.float64)
    net = nn.Sequential(nn.Linear(4, 6), activation, nn.Linear(6, 1)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return net, (x, x[:, :1] * x[:, 1:2])


def dense(net: nn.Module, batch: tuple[Tensor, Tensor], rates: dict[str, float]) -> float:
    """By autograd, twice."""
    names = [name for name, _ in net.named_parameters() if name in rates]
    shapes = [net.get_parameter(name).shape for name in names]

    def loss(flat: Tensor) -> Tensor:
        pieces = flat.split([shape.numel() for shape in shapes])
        values = {name: piece.view(shape) for name, piece, shape in zip(names, pieces, shapes, strict=True)}
        return half(torch.func.functional_call(net, values, (batch[0],)), batch[1])

    point = torch.cat([net.get_parameter(name).detach().flatten() for name in names])
    roots = torch.cat([torch.full((shape.numel(),), rates[n] ** 0.5) for n, shape in zip(names, shapes, strict=True)])
    hessian = torch.autograd.functional.hessian(loss, point)
    return float(torch.linalg.eigvalsh(roots[:, None].double() * hessian * roots).abs().max())


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU()], ids=["tanh", "relu"])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_top_eigenvalue_of_the_dense_hessian(activation: nn.Module, seed: int) -> None:
    net, batch = problem(activation, seed)
    every = {"0.weight": 0.3, "0.bias": 0.3, "2.weight": 0.02, "2.bias": 0.5}
    for rates in (every, {"0.weight": 1.0}):
        found = rate_sharpness(net, half, batch, rates)
        assert found == pytest.approx(dense(net, batch, rates), rel=0.05)


def test_the_model_is_a_guest() -> None:
    net, batch = problem(nn.ReLU())
    net.append(nn.Dropout(0.5))
    before, state = [p.detach().clone() for p in net.parameters()], torch.get_rng_state()
    in_training = rate_sharpness(net, half, batch, {"0.weight": 1.0}, mode="train")
    assert in_training != pytest.approx(rate_sharpness(net, half, batch, {"0.weight": 1.0}), rel=0.05)
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, net.parameters(), strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert net.training


def unstable() -> tuple[nn.Sequential, tuple[Tensor, Tensor]]:
    """A start at which the readout's gradient happens to be small."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(512, 32, generator=generator)
    y = (x[:, :5] * x[:, :5].roll(-1, dims=1)).sum(dim=1, keepdim=True) / math.sqrt(5)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        widths = [(32, 128), (128, 128), (128, 128), (128, 1)]
        layers = [module for a, b in widths for module in (nn.Linear(a, b), nn.ReLU())]
    net = nn.Sequential(*layers[:-1])
    rescale_init(net, half, (x, y))
    return net, (x, y)


def trained(net: nn.Module, batch: tuple[Tensor, Tensor], groups: list[dict[str, object]]) -> float:
    optimizer = torch.optim.SGD(groups)
    for _ in range(60):
        optimizer.zero_grad()
        loss = half(net(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
    return loss.item()


def test_rates_of_equal_contribution_diverge_without_the_limit_and_train_with_it() -> None:
    net, batch = unstable()
    free = feature_speed_groups(net, half, batch, max_sharpness=None)
    limited = feature_speed_groups(net, half, batch)
    each = {f"{g['name']}.{key}": g["lr"] for g in limited for key in ("weight", "bias")}
    assert rate_sharpness(net, half, batch, each) == pytest.approx(1.5, rel=0.05)
    ratios = [a["lr"] / b["lr"] for a, b in zip(free, limited, strict=True)]
    assert ratios[0] > 5
    assert ratios == pytest.approx([ratios[0]] * 4)
    start = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    assert trained(net, batch, limited) < 0.3
    net.load_state_dict(start)
    assert not math.isfinite(trained(net, batch, free))


def test_only_gradient_descent_is_limited_and_the_limit_lies_below_the_edge() -> None:
    net, batch = unstable()
    pairs = [feature_speed_groups(net, half, batch, rule="adam", max_sharpness=limit) for limit in (None, 1e-3)]
    assert [a["lr"] for a in pairs[0]] == [b["lr"] for b in pairs[1]]
    with pytest.raises(DataError, match="below 2, the edge of stability"):
        feature_speed_groups(net, half, batch, max_sharpness=2.0)
    with pytest.raises(DataError, match="max_sharpness=0"):
        feature_speed_groups(net, half, batch, max_sharpness=0.0)
