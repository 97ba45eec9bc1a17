"""Every solvable model agrees with its simulation, and every parameter of every model changes its answer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from featlearn.dynamics import (
    FastSlow,
    FunctionalMeanField,
    Hyperbola,
    LambdaBalanced,
    LateFeatures,
    LinearNet1D,
    OneStepCK,
    SingleNeuron,
    TeacherStudent,
    attraction_repulsion,
    condensation,
    gradient_flow_time,
    implicit_bias,
    kernel_regime_of,
    phase_diagram,
    phase_slope,
    plateau,
    regime_grid,
    regime_of,
    scaling_exponents,
)
from featlearn.dynamics.attraction_repulsion import Forces
from featlearn.dynamics.implicit_bias import ImplicitBias
from featlearn.dynamics.phase_diagram import PhaseDiagram
from featlearn.dynamics.phase_slope import PhaseSlope
from featlearn.dynamics.plateau import Plateau
from featlearn.dynamics.regime_grid import RegimeGrid
from featlearn.dynamics.verification import CASES, Case, verify_models
from featlearn.exceptions import DataError

EVERY = [
    pytest.param(case, id=f"{name}: {case.about}", marks=[pytest.mark.slow] if case.slow else [])
    for name, cases in CASES.items()
    for case in cases
]


@pytest.mark.parametrize("case", EVERY)
def test_closed_form_and_simulation_agree(case: Case) -> None:
    agreement = case.verify()
    assert float(agreement) <= agreement.tolerance
    assert agreement.ok


def test_every_room_with_a_verify_has_a_case() -> None:
    import featlearn.dynamics as dynamics

    models = {name for name in dynamics.__all__ if hasattr(getattr(dynamics, name), "verify")}
    answers = {ImplicitBias, PhaseDiagram, PhaseSlope, RegimeGrid, Forces, Plateau}
    assert all(hasattr(answer, "verify") for answer in answers)
    makers = {"implicit_bias", "phase_diagram", "phase_slope", "regime_grid", "attraction_repulsion", "plateau"}
    assert models | makers == set(CASES)
    assert all(any(not case.slow for case in cases) for cases in CASES.values())


def test_wrong_answers_do_not_agree() -> None:
    forces = attraction_repulsion(LAYERS, np.eye(2), ridge=1e-3)
    assert forces.verify().ok
    (layer,) = forces.layers
    assert not replace(forces, layers=(replace(layer, rep=1.001 * layer.rep),)).verify().ok

    found = plateau(np.eye(2), [[1.0, 1.0], [1.0, 1.0]], [1, 2], random_state=0)
    assert found.verify().ok
    assert replace(found, loss=found.loss * [1.0, 1.1]).verify().quantity == "rise over the width"
    below = replace(found, loss=0.9 * found.loss).verify()
    assert (below.quantity, below.ok) == ("below the bound", False)

    assert not phase_diagram(width=10).verify().ok  # the initial output counts
    diagram = phase_diagram(width=1000)
    names = [row["quantity"] for row in diagram.verify().table]
    assert names[:2] == ["Theta_inf / Theta_0 of ntk", "rho of mean_field"]
    shrunk = tuple({**point, "rho": 0.95 * point["rho"]} for point in diagram.points)
    assert not replace(diagram, points=shrunk).verify().ok
    with pytest.raises(DataError, match=r"use phase_slope\(gam, gamp\).verify\(\)"):
        phase_diagram("initialisation").verify()
    far = regime_grid([0.1], [0.1], SMALL, n_steps=4000, lr=0.05, n_repeats=1, random_state=0)
    assert not far.verify().ok  # large steps at a small scale, which do not keep the balance


def test_models_are_chosen_by_name_and_slow_cases_left_out() -> None:
    found = [(name, case) for name, case, _ in verify_models(["SingleNeuron", "Hyperbola"], fast=True)]
    assert found == [("Hyperbola", CASES["Hyperbola"][0]), ("SingleNeuron", CASES["SingleNeuron"][0])]
    with pytest.raises(DataError, match=r"'Neuron', but expected some of Hyperbola, LinearNet1D"):
        verify_models(["Hyperbola", "Neuron"])


# --- every parameter counts -------------------------------------------------------------------------------------------

TIMES = [0.3, 1.0, 4.0]
BALANCED = LambdaBalanced.sample(3, 2, 4, 0.5, random_state=0)
OTHER = LambdaBalanced.sample(3, 2, 4, 0.5, random_state=1)
CURVES = np.array([[0.5, -0.2, 0.1], [-0.4, 0.1, 0.3]])
ROWS = np.array([[1.0, 0.1], [-0.97, -0.2], [0.8, 0.9], [0.1, 1.0], [0.0, 0.004]])
SMALL = TeacherStudent(n_features=4, n_samples=10, n_neurons=4, n_teacher=2, n_test=10)
LAYERS = (np.array([[0.5, -0.3, 0.1], [0.2, 0.7, -0.4], [-0.6, 0.3, 0.5]]), np.array([[0.4, -0.5, 0.9, 0.2]]))


@dataclass(frozen=True)
class Model:
    """How it is called, with which arguments, which others change its answer, and what the answer is."""

    make: Callable[..., Any]
    given: Mapping[str, Any]
    others: Mapping[str, Any]
    answer: Callable[[Any], Any]
    exempt: frozenset[str] = frozenset()  # change what is accepted, not what is answered


def over_time(model: Any) -> Any:
    return list(model.closed_form(TIMES).values.values())


def told(result: Any) -> Any:
    return result.to_dict()


MODELS = {
    "Hyperbola": Model(
        Hyperbola,
        {"F0": 0.1, "Theta0": 1.0, "omega": 2.0, "F_inf": 1.0, "Exx": 1.0},
        {"F0": 0.2, "Theta0": 1.5, "omega": 1.5, "F_inf": -1.0, "Exx": 2.0},
        over_time,
    ),
    "Hyperbola.from_sums": Model(
        Hyperbola.from_sums,
        {"A": 1.0, "B": 0.5, "f": 2.0, "Exx": 1.0, "omega": 1.0},
        {"A": 1.5, "B": 0.7, "f": 1.0, "Exx": 2.0, "omega": 2.0},
        over_time,
    ),
    "LinearNet1D": Model(
        LinearNet1D,
        {"u0": [0.1, 0.2], "w0": [0.3, -0.1], "g": 1.0, "eta_u": 1.0, "eta_w": 1.0, "Exx": 1.0, "Exy": 1.0},
        {"u0": [0.1, 0.3], "w0": [0.3, 0.1], "g": -0.5, "eta_u": 2.0, "eta_w": 0.5, "Exx": 2.0, "Exy": -1.0},
        over_time,
    ),
    "LinearNet1D.sample": Model(
        LinearNet1D.sample,
        {"width": 5, "parametrisation": "ntk", "target": 1.0, "random_state": 0, "draws": 2},
        {"width": 6, "parametrisation": "mup", "target": 2.0, "random_state": 1, "draws": 3},
        lambda model: model.F(TIMES),
    ),
    "SingleNeuron": Model(
        SingleNeuron,
        {"a0": 0.5, "w0": [0.2, -0.1], "target": [1.0, 0.5], "eta_a": 1.0, "eta_w": 1.0},
        {"a0": 0.7, "w0": [0.2, 0.1], "target": [1.0, -0.5], "eta_a": 2.0, "eta_w": 0.5},
        over_time,
    ),
    "implicit_bias": Model(
        implicit_bias,
        {"a0": 0.5, "w0": [0.5, 0.4, 0.1], "X": [[1.0, 0.5, 0.0]], "y": [1.0], "eta_a": 1.0, "eta_w": 1.0, "sign": 1}
        | {"rcond": 1e-10},
        {"a0": 0.9, "w0": [0.5, 0.4, 0.3], "X": [[1.0, 0.2, 0.0]], "y": [0.5], "eta_a": 2.0, "eta_w": 0.5, "sign": -1},
        lambda result: result.beta,
        frozenset({"rcond"}),
    ),
    "LambdaBalanced": Model(
        LambdaBalanced,
        {"W1": BALANCED.W1, "W2": BALANCED.W2, "Syx": BALANCED.Syx, "tol": 1e-8},
        # Another rotation of either end keeps the balance.
        {"W1": BALANCED.W1[:, ::-1], "W2": BALANCED.W2[::-1], "Syx": OTHER.Syx},
        over_time,
        frozenset({"tol"}),
    ),
    "LambdaBalanced.sample": Model(
        LambdaBalanced.sample,
        {"n_in": 3, "n_hidden": 2, "n_out": 4, "lam": 0.5, "scale": 0.3, "Syx": None, "random_state": 0},
        {"n_in": 4, "n_hidden": 1, "n_out": 5, "lam": 1.0, "scale": 0.6, "Syx": np.ones((4, 3)), "random_state": 1},
        lambda model: model.closed_form(TIMES).product,
    ),
    "FastSlow": Model(
        FastSlow,
        {"sigma": [1.0, 0.5], "tau": [1.0, 0.3], "a0": 1.0, "R0": 0.05, "eps": 0.01},
        {"sigma": [1.0, 0.8], "tau": [1.0, -0.5], "a0": 2.0, "R0": 0.1, "eps": 0.05},
        lambda model: list(model.simulate([1.0, 30.0]).values.values()),
    ),
    "OneStepCK": Model(
        OneStepCK,
        {"activation": "tanh", "teacher": "softplus", "psi1": 3, "psi2": 1.5, "ridge": 0.01, "noise": 0.25, "eta": 2},
        {"activation": "erf", "teacher": "relu", "psi1": 4, "psi2": 2, "ridge": 0.1, "noise": 0.1, "eta": 3},
        lambda model: model.theory().risk,
    ),
    "LateFeatures": Model(
        LateFeatures,
        {"teacher_weights": np.eye(2), "teacher_scales": np.array([1.0, 0.8]), "n_neurons": 4, "init_scale": 0.05}
        | {"lr": 0.1, "schedule": ((0.03, 60),), "random_state": 0},
        {"teacher_weights": np.eye(2)[:, ::-1] * [1, -1], "teacher_scales": np.array([1.0, 0.9]), "n_neurons": 6}
        | {"init_scale": 0.1, "lr": 0.05, "schedule": ((0.01, 60),), "random_state": 1},
        lambda model: model.simulate().W,
    ),
    "FunctionalMeanField": Model(
        FunctionalMeanField,
        {"X": CURVES, "y": [0.5, -0.4], "prior": [1.0, 0.25, 0.1], "activation": "tanh", "temperature": 0.02},
        {"X": 2 * CURVES, "y": [0.5, 0.4], "prior": [1.0, 0.3, 0.1], "activation": "erf", "temperature": 0.05},
        lambda model: model.theory().f,
    ),
    "phase_diagram": Model(
        phase_diagram,
        {"plane": "exponents", "width": None, "target": None, "resolution": 5, "mine": None},
        {"plane": "initialisation", "width": 10, "target": 3.0, "resolution": 6, "mine": {"g": -0.7}},
        told,
    ),
    "scaling_exponents": Model(
        scaling_exponents,
        {"g": -0.5, "eta_u": 0.5, "eta_w": 0.5, "var_u": 0.0, "var_w": 0.0},
        {"g": -1.0, "eta_u": 0.7, "eta_w": 0.7, "var_u": 0.3, "var_w": 0.3},
        told,
    ),
    "regime_of": Model(regime_of, {"gam": 1.5, "gamp": 0.2}, {"gam": 1.2, "gamp": -0.2}, list),
    "kernel_regime_of": Model(kernel_regime_of, {"gam": 1.5, "gamp": 0.2}, {"gam": 1.2, "gamp": -0.4}, list),
    "condensation": Model(
        condensation,
        {"W": ROWS, "a": np.ones(5), "tol": 0.95, "min_norm": 1e-2},
        {"W": ROWS * [1, -0.5], "a": np.arange(1.0, 6.0), "tol": 0.999, "min_norm": 1e-3},
        told,
    ),
    "attraction_repulsion": Model(
        attraction_repulsion,
        {"weights_or_model": LAYERS, "X": np.eye(2), "bias": 1.0, "activation": "relu", "ridge": 1e-2},
        {"weights_or_model": (LAYERS[0], 2 * LAYERS[1]), "X": np.array([[1.0, 0.5], [0.0, 1.0]]), "bias": 0.5}
        | {"activation": "tanh", "ridge": 1e-1},
        told,
    ),
    "plateau": Model(
        plateau,
        {"X": np.eye(2), "Y": [[1.0, 0.5], [0.5, 1.0]], "widths": [1, 2], "weight_decay": 1e-2, "n_restarts": 2}
        | {"bias": 0.0, "random_state": 0, "verbose": 0},
        {"X": 2 * np.eye(2), "Y": [[1.0, 0.2], [0.5, 1.0]], "widths": [1, 3], "weight_decay": 1e-1, "n_restarts": 3}
        | {"bias": 1.0, "random_state": 1},
        told,
        frozenset({"verbose"}),
    ),
    "phase_slope": Model(
        phase_slope,
        {"gam": 0.5, "gamp": 0.0, "widths": (16, 32), "X": [0.2, 1.0], "y": [0.1, 0.3], "n_repeats": 1, "loss": 1e-2}
        | {"max_steps": 2000, "random_state": 0, "verbose": 0},
        {"gam": 0.6, "gamp": 0.1, "widths": (16, 48), "X": [0.4, 1.0], "y": [0.1, 0.2], "n_repeats": 2, "loss": 1e-3}
        | {"random_state": 1},
        told,
        frozenset({"max_steps", "verbose"}),
    ),
    "regime_grid": Model(
        regime_grid,
        {"tau": [1.0], "delta": [0.0], "problem": SMALL, "n_steps": 20, "lr": 0.02, "n_repeats": 1}
        | {"checkpoints": [10], "random_state": 0, "device": "cpu", "verbose": 0},
        {"tau": [0.5], "delta": [0.5], "problem": TeacherStudent(4, 10, 4, 3, 10), "n_steps": 30, "lr": 0.01}
        | {"n_repeats": 2, "checkpoints": [5], "random_state": 1},
        told,
        frozenset({"device", "verbose"}),
    ),
    "gradient_flow_time": Model(
        gradient_flow_time,
        {"lr": 0.1, "steps": 10, "loss": "half_mse", "momentum": 0.0},
        {"lr": 0.2, "steps": 20, "loss": "mse", "momentum": 0.9},
        float,
    ),
}
CHANGES = [(name, parameter) for name, model in MODELS.items() for parameter in model.others]


@pytest.mark.parametrize("name", MODELS)
def test_no_parameter_is_forgotten(name: str) -> None:
    model = MODELS[name]
    parameters = set(inspect.signature(model.make).parameters)
    assert parameters == set(model.given)
    assert parameters == set(model.others) | model.exempt


@pytest.mark.parametrize(("name", "parameter"), CHANGES, ids=map(".".join, CHANGES))
def test_every_parameter_changes_the_answer(name: str, parameter: str) -> None:
    model = MODELS[name]
    before = model.answer(model.make(**model.given))
    assert _flat(before) == _flat(model.answer(model.make(**model.given))), "it does not even repeat itself"
    assert _flat(before) != _flat(model.answer(model.make(**{**model.given, parameter: model.others[parameter]})))


def _flat(answer: Any) -> list[Any]:
    """Numbers and words of a nested answer, in their order; nan as a word, which equals itself."""
    if isinstance(answer, Mapping):
        return [leaf for value in answer.values() for leaf in _flat(value)]
    if isinstance(answer, list | tuple):
        return [leaf for value in answer for leaf in _flat(value)]
    return ["nan" if leaf != leaf else leaf for leaf in np.asarray(answer).ravel().tolist()]
