from __future__ import annotations

import pytest
import torch

from featlearn.datasets import modular_arithmetic
from featlearn.datasets.modular import OPERATIONS
from featlearn.exceptions import DataError

# What each label has to satisfy, in residues: for "div" the definition of the quotient.
EQUATIONS = {
    "add": lambda a, b, c: c - a - b,
    "sub": lambda a, b, c: c + b - a,
    "mul": lambda a, b, c: c - a * b,
    "div": lambda a, b, c: c * b - a,
    "x2+y2": lambda a, b, c: c - a**2 - b**2,
    "x2+xy+y2": lambda a, b, c: c - a**2 - a * b - b**2,
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_labels_satisfy_the_equation_of_the_operation(operation):
    data = modular_arithmetic(13, operation)
    a, b = data.pairs.T
    assert torch.equal(EQUATIONS[operation](a, b, data.labels) % 13, torch.zeros_like(a))
    assert 0 <= data.labels.min() <= data.labels.max() < 13
    assert len(data) == len({tuple(pair) for pair in data.pairs.tolist()}) == (13 * 12 if operation == "div" else 13**2)
    assert bool((b > 0).all()) == (operation == "div")


def test_rows_are_two_unit_vectors_side_by_side():
    data = modular_arithmetic(7)
    a, b = data.pairs.T
    expected = torch.cat([torch.eye(7, dtype=torch.float64)[a], torch.eye(7, dtype=torch.float64)[b]], dim=1)
    assert torch.equal(data.X, expected)


def test_every_pair_is_to_train_or_to_test_on():
    data = modular_arithmetic(11, "mul", train_fraction=0.3)
    assert len(data.X_train) == len(data.y_train) == 36
    assert len(data.X_test) == len(data.y_test) == 121 - 36
    assert torch.equal(data.X_train.sum(dim=0) + data.X_test.sum(dim=0), torch.full((22,), 11.0, dtype=torch.float64))
    assert torch.equal(data.X_train @ torch.arange(22.0).double(), (data.pairs[data.train].sum(1) + 11).double())


def test_the_draw_depends_on_the_seed_alone():
    first, again, other = (modular_arithmetic(11, random_state=seed).train for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"operation": "pow"}, "operation='pow', but expected one of add, sub, mul, div"),
        ({"p": 1}, "p=1, but expected a whole number of at least 2"),
        ({"p": 7.0}, r"p=7\.0, but expected a whole number"),
        ({"p": 9, "operation": "div"}, "p=9 for 'div', but expected a prime"),
        ({"train_fraction": 0.0}, r"train_fraction=0\.0, but expected a number between 0 and 1"),
        ({"p": 2, "train_fraction": 0.2}, "at least one pair to train on"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        modular_arithmetic(**options)


def test_other_operations_take_any_modulus():
    assert modular_arithmetic(9, "add").labels.max() == 8
