"""Solvable models of feature learning: a closed form, an independent simulation, and the regimes they explain.

Where output and kernel go, exactly
    ``Hyperbola``, the common core; ``LinearNet1D``, ``SingleNeuron``, ``LambdaBalanced``; ``implicit_bias``, where they
    end. One step, slow features, late features: ``OneStepCK``, ``FastSlow``, ``LateFeatures``. Neurons that are
    functions: ``FunctionalMeanField``.

Which scales are lazy, which are rich
    ``phase_diagram``, ``scaling_exponents``, ``NAMED_PARAMETRISATIONS``; ``regime_of``, ``kernel_regime_of``,
    ``phase_slope``; ``regime_grid``, ``TeacherStudent``; ``condensation``; ``attraction_repulsion``,
    ``bipartite_example``, ``plateau``.

In a network of your own
    ``diagnose``, ``diagnose_weights``, ``RunRecorder``; ``layer_mechanisms``, ``MechanismRecorder``;
    ``gradient_flow_time``.

Names load at first use. What the models return: ``Trajectory``, ``Agreement``.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attraction_repulsion import attraction_repulsion, bipartite_example
    from .condensation import condensation
    from .diagnose import diagnose, diagnose_weights
    from .fast_slow import FastSlow
    from .functional_mean_field import FunctionalMeanField
    from .hyperbola import Hyperbola
    from .implicit_bias import implicit_bias
    from .lambda_balanced import LambdaBalanced
    from .late_features import LateFeatures
    from .layer_mechanisms import MechanismRecorder, layer_mechanisms
    from .linear_net_1d import LinearNet1D
    from .one_step_ck import OneStepCK
    from .parametrisations import NAMED_PARAMETRISATIONS, Parametrisation, scaling_exponents
    from .phase_diagram import phase_diagram
    from .phase_slope import kernel_regime_of, phase_slope, regime_of
    from .plateau import plateau
    from .regime_grid import regime_grid
    from .relu_students import TeacherStudent
    from .run_recorder import RunRecorder
    from .single_neuron import SingleNeuron
    from .solvable import Agreement, Trajectory, gradient_flow_time

__all__ = [
    # where output and kernel go, exactly
    "Hyperbola",
    "LinearNet1D",
    "SingleNeuron",
    "implicit_bias",
    "LambdaBalanced",
    "OneStepCK",
    "FastSlow",
    "LateFeatures",
    "FunctionalMeanField",
    "Trajectory",
    "Agreement",
    # which scales are lazy, which are rich
    "phase_diagram",
    "scaling_exponents",
    "NAMED_PARAMETRISATIONS",
    "Parametrisation",
    "phase_slope",
    "regime_of",
    "kernel_regime_of",
    "regime_grid",
    "TeacherStudent",
    "condensation",
    "attraction_repulsion",
    "bipartite_example",
    "plateau",
    # in a network of your own
    "diagnose",
    "diagnose_weights",
    "RunRecorder",
    "layer_mechanisms",
    "MechanismRecorder",
    "gradient_flow_time",
]

_HOME = {
    "Hyperbola": "hyperbola",
    "LinearNet1D": "linear_net_1d",
    "SingleNeuron": "single_neuron",
    "implicit_bias": "implicit_bias",
    "LambdaBalanced": "lambda_balanced",
    "OneStepCK": "one_step_ck",
    "FastSlow": "fast_slow",
    "LateFeatures": "late_features",
    "FunctionalMeanField": "functional_mean_field",
    "Trajectory": "solvable",
    "Agreement": "solvable",
    "phase_diagram": "phase_diagram",
    "scaling_exponents": "parametrisations",
    "NAMED_PARAMETRISATIONS": "parametrisations",
    "Parametrisation": "parametrisations",
    "phase_slope": "phase_slope",
    "regime_of": "phase_slope",
    "kernel_regime_of": "phase_slope",
    "regime_grid": "regime_grid",
    "TeacherStudent": "relu_students",
    "condensation": "condensation",
    "attraction_repulsion": "attraction_repulsion",
    "bipartite_example": "attraction_repulsion",
    "plateau": "plateau",
    "diagnose": "diagnose",
    "diagnose_weights": "diagnose",
    "RunRecorder": "run_recorder",
    "layer_mechanisms": "layer_mechanisms",
    "MechanismRecorder": "layer_mechanisms",
    "gradient_flow_time": "solvable",
}


class _Room(ModuleType):
    """A package whose functions keep their names.

    Importing ``dynamics.plateau`` sets the attribute ``plateau`` of this package to the module. The name belongs to the
    function, whichever of the two is asked for first.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Room


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"Module {__name__!r} has no attribute {name!r}.")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
