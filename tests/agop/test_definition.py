"""The definition itself, the AGOP of a function, and the normalisations of other papers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from cases import convnet, fill, mlp, normal
from reference import function_agop
from torch import Tensor, nn

from featlearn import agop_of_function, agop_of_module
from featlearn.agop.definition import accumulate_agop, rescale
from featlearn.exceptions import DataError


def test_definition_in_loops() -> None:
    gradients = normal(4, 3, 5)
    expected = torch.zeros(5, 5, dtype=torch.float64)
    for sample in gradients:
        for gradient in sample:
            expected += torch.outer(gradient, gradient) / 4
    torch.testing.assert_close(accumulate_agop(gradients), expected)


@pytest.mark.parametrize("shape", [(0, 3, 5), (4, 5), (5,), (1, 2, 3, 4)])
def test_gradients_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"Got gradients of shape \(.*\), but expected \(n >= 1, C, d\)"):
        accumulate_agop(torch.zeros(shape))


FUNCTIONS: dict[str, tuple[Callable[[], Callable[[Tensor], Tensor]], tuple[int, ...]]] = {
    "linear": (lambda: fill(nn.Linear(4, 3)), (6, 4)),
    "mlp": (lambda: fill(mlp()).eval(), (6, 5)),
    "convnet": (lambda: fill(convnet()).eval(), (4, 2, 7, 6)),
    "one output without an axis": (lambda: lambda x: (x**3).sum(dim=1), (6, 4)),
    "skip connection": (lambda: lambda x: x + torch.tanh(x).flip(1), (6, 4)),
    "an output that depends on nothing": (
        lambda: lambda x: torch.stack([x[:, 0] ** 2, torch.ones(len(x), dtype=x.dtype)], dim=1),
        (6, 4),
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("batch_size", [1, 4, 256])
def test_function_against_jacrev(name: str, center: bool, batch_size: int) -> None:
    build, shape = FUNCTIONS[name]
    f, X = build(), normal(*shape)
    found = agop_of_function(f, X, center_gradients=center, batch_size=batch_size)
    torch.testing.assert_close(found, function_agop(f, X, center=center), rtol=1e-10, atol=1e-12)


def test_the_total_gradient_is_that_of_the_first_layer_in_a_chain_only() -> None:
    chain, X = fill(mlp()).eval(), normal(6, 5)
    torch.testing.assert_close(agop_of_function(chain, X), agop_of_module(chain, [X])["0"].agop())
    skip = lambda x: chain(x) + x[:, :3]  # noqa: E731
    assert not torch.allclose(agop_of_function(skip, X), agop_of_module(chain, [X])["0"].agop(), rtol=0.1)


def test_the_answer_is_of_the_kind_of_the_data() -> None:
    f = lambda x: torch.tanh(x @ x.new_ones(3, 2))  # noqa: E731
    X = normal(6, 3)
    expected = agop_of_function(f, X)
    assert isinstance(agop_of_function(f, X.numpy()), np.ndarray)
    np.testing.assert_allclose(agop_of_function(f, X.numpy()), expected.numpy())
    np.testing.assert_allclose(agop_of_function(f, pd.DataFrame(X.numpy(), columns=list("abc"))), expected.numpy())
    assert agop_of_function(f, X.float()).dtype == torch.float32
    assert agop_of_function(f, X.half()).dtype == torch.float16
    assert agop_of_function(f, np.ones((4, 3), dtype=np.int64)).shape == (3, 3)


def test_half_precision_sums_do_not_stop_growing() -> None:
    """In float16 adding 1 to 2048 gives 2048: sums over many samples need more."""
    X = torch.zeros(6000, 1, dtype=torch.float16)
    assert float(agop_of_function(lambda x: x[:, 0], X, batch_size=1000)) == pytest.approx(1.0)


def test_the_data_and_the_parameters_are_left_alone() -> None:
    model, X = fill(mlp()), normal(6, 5).requires_grad_()
    agop_of_function(model, X)
    assert X.grad is None
    assert all(parameter.grad is None for parameter in model.parameters())


REFUSED: dict[str, tuple[Callable[[Tensor], Any], Any, dict[str, Any], str]] = {
    "one axis": (torch.tanh, torch.ones(4), {}, "at least 2 axes"),
    "no samples": (torch.tanh, torch.ones(0, 4), {}, "at least one sample"),
    "NaN": (torch.tanh, torch.tensor([[1.0, float("nan")]]), {}, "NaN or infinite"),
    "batch size": (torch.tanh, torch.ones(2, 3), {"batch_size": 0}, "Got batch_size=0, but expected at least 1"),
    "three axes": (lambda x: x.reshape(-1, 1, 3), torch.ones(2, 3), {}, r"Got outputs \(2, 1, 3\) for 2 samples"),
    "fewer samples": (lambda x: x[:1], torch.ones(2, 3), {}, r"Got outputs \(1, 3\) for 2 samples"),
    "no tensor": (lambda x: [x], torch.ones(2, 3), {}, "Got outputs list for 2 samples"),
    "no outputs": (lambda x: x[:, :0], torch.ones(2, 3), {}, "at least one a sample"),
    "infinite outputs": (lambda x: x / 0, torch.ones(2, 3), {}, "expected finite numbers"),
    "detached": (lambda x: x.detach(), torch.ones(2, 3), {}, "do not depend on the inputs through autograd"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    f, X, options, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        agop_of_function(f, X, **options)


@pytest.mark.parametrize(
    ("to", "size"),
    [
        ("max", lambda G: G.abs().max()),
        ("trace", torch.trace),
        ("frobenius", lambda G: G.square().sum().sqrt()),
    ],
)
def test_rescale(to: Any, size: Callable[[Tensor], Tensor]) -> None:
    blocks = torch.stack([accumulate_agop(normal(4, 3, 5, seed=seed)) for seed in range(3)])
    for block, found in zip(blocks, rescale(blocks, to), strict=True):
        torch.testing.assert_close(found, block / size(block))
        torch.testing.assert_close(rescale(block, to), found)
        assert float(size(found)) == pytest.approx(1.0)


def test_rescale_refuses() -> None:
    with pytest.raises(DataError, match="Got to='mean', but expected one of max, trace, frobenius"):
        rescale(torch.eye(2), "mean")  # type: ignore[arg-type]
    for bad in (0.0, float("nan")):
        with pytest.raises(DataError, match="no factor can normalise"):
            rescale(torch.full((2, 2), bad), "max")
