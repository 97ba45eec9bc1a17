from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from featlearn.dynamics.integration import integrate
from featlearn.dynamics.solvable import (
    Trajectory,
    agreement,
    as_floats,
    as_times,
    broadcast,
    gradient_flow_time,
    statistical_agreement,
)
from featlearn.exceptions import ConvergenceWarning, DataError


def two(values: object, other: object) -> tuple[Trajectory, Trajectory]:
    t = np.array([0.0, 1.0, 2.0])
    return Trajectory(t, {"F": np.asarray(values)}), Trajectory(t, {"F": np.asarray(other)})


def test_a_trajectory_has_its_quantities_as_attributes_and_one_row_a_number() -> None:
    trajectory = Trajectory(np.array([0.0, 1.0]), {"w": np.arange(6.0).reshape(3, 2)})
    assert trajectory.w is trajectory["w"]
    frame = trajectory.frame()
    assert frame[(frame["index"] == (2,)) & (frame["t"] == 1.0)]["value"].item() == 5.0
    assert json.loads(json.dumps(trajectory.to_dict()))["values"]["w"][2] == [4.0, 5.0]
    with pytest.raises(AttributeError, match="quantity 'u'"):
        trajectory.u  # noqa: B018


def test_agreement_is_relative_to_the_largest_value_but_not_below_one() -> None:
    result = agreement(*two([[1.0, 2.0, 11.0], [0.1, 0.1, 0.1]], [[1.0, 2.0, 10.0], [0.1, 0.3, 0.1]]), 0.15)
    assert float(result) == pytest.approx(0.2)
    assert (result.at, result.ok) == (1.0, False)
    assert agreement(*two([1.0, 2.0, 11.0], [1.0, 2.0, 10.0]), 0.15).ok


def test_a_nan_never_agrees() -> None:
    result = agreement(*two([1.0, math.nan, 1.0], [1.0, 1.0, 1.0]), 1e9)
    assert not result.ok
    assert "disagree" in result._repr_html_()


def test_trajectories_without_a_common_quantity_are_refused() -> None:
    t = np.zeros(1)
    with pytest.raises(DataError, match="nothing to compare"):
        agreement(Trajectory(t, {"a": t}), Trajectory(t, {"b": t}), 1.0)


def test_statistical_agreement_counts_standard_errors() -> None:
    draws = np.array([1.0, 2.0, 3.0, 4.0])
    error = draws.std(ddof=1) / 2
    result = statistical_agreement({"m": 2.5 + 2 * error}, {"m": draws})
    assert float(result) == pytest.approx(2.0)
    assert result.ok
    assert not statistical_agreement({"m": 2.5 + 4 * error}, {"m": draws}).ok
    assert float(statistical_agreement({"m": 1.0}, {"m": [2.0, 2.0]})) == math.inf


def test_a_step_of_momentum_on_the_full_square_counts_twice_over_one_minus_momentum() -> None:
    assert gradient_flow_time(0.1, 10) == pytest.approx(1.0)
    assert gradient_flow_time(0.1, [10, 20], loss="mse", momentum=0.9) == pytest.approx([20.0, 40.0])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"lr": 0.0, "steps": 1}, "lr"),
        ({"lr": 1.0, "steps": 1, "loss": "l1"}, "loss"),
        ({"lr": 1.0, "steps": 1, "momentum": 1.0}, "momentum"),
    ],
)
def test_times_of_nothing_are_refused(arguments: dict[str, object], word: str) -> None:
    with pytest.raises(DataError, match=word):
        gradient_flow_time(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [-1.0, math.nan, [], [[1.0]], "soon"])
def test_times_that_are_none_are_refused(bad: object) -> None:
    with pytest.raises(DataError, match="t"):
        as_times(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [math.inf, [], "many", [1.0, math.nan]])
def test_numbers_that_are_none_are_refused_by_name(bad: object) -> None:
    with pytest.raises(DataError, match="rate"):
        as_floats(bad, "rate")  # type: ignore[arg-type]


def test_a_message_about_shapes_names_the_argument_and_both_shapes() -> None:
    with pytest.raises(DataError, match=r"b of shape \(3,\).*a of shape \(2,\)"):
        broadcast(a=np.zeros(2), b=np.zeros(3))


def test_integration_answers_in_the_order_of_the_question() -> None:
    t = np.array([2.0, 0.0, 1.0, 1.0])
    solution = integrate(lambda x: -x, np.array([[1.0, 2.0]]), t)
    np.testing.assert_allclose(solution, np.array([[[1.0], [2.0]]]) * np.exp(-t), rtol=1e-9)
    np.testing.assert_array_equal(integrate(lambda x: -x, np.array([3.0]), np.zeros(2)), [[3.0, 3.0]])


def test_integration_says_when_it_gave_up_and_has_no_limit() -> None:
    with pytest.warns(ConvergenceWarning, match="stopped early"), np.errstate(over="ignore", invalid="ignore"):
        solution = integrate(lambda x: x**2, np.array([1.0]), np.array([0.5, 2.0]))
    assert solution[0, 0] == pytest.approx(2.0)
    assert np.isnan(solution[0, 1])
    with pytest.raises(DataError, match="finite times"):
        integrate(lambda x: -x, np.ones(1), np.array([np.inf]))


def test_weights_of_a_torch_model_are_numbers() -> None:
    layer = torch.nn.Linear(3, 1)
    np.testing.assert_array_equal(as_floats(layer.weight, "w0"), layer.weight.detach().double().numpy())
