"""Small cases of every model on which closed form and simulation are compared: for the command line, and for tests."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

import numpy as np

from ..exceptions import DataError
from .attraction_repulsion import attraction_repulsion, bipartite_example
from .fast_slow import FastSlow
from .functional_mean_field import FunctionalMeanField
from .hyperbola import Hyperbola
from .implicit_bias import implicit_bias
from .lambda_balanced import LambdaBalanced
from .late_features import LateFeatures
from .linear_net_1d import LinearNet1D
from .one_step_ck import OneStepCK
from .phase_diagram import phase_diagram
from .phase_slope import phase_slope
from .plateau import plateau
from .regime_grid import regime_grid
from .relu_students import TeacherStudent
from .single_neuron import SingleNeuron
from .solvable import Agreement

__all__ = ["CASES", "Case", "verify_models"]


@dataclass(frozen=True)
class Case:
    """One model with its parameters.

    Attributes
    ----------
    about : str
        What is particular about it.
    verify : callable
        Makes the model and compares.
    slow : bool
        Takes more than about a second.
    """

    about: str
    verify: Callable[[], Agreement]
    slow: bool = False


def _hyperbola() -> Agreement:
    """From lazy (first) to rich (last), with targets of both signs."""
    return Hyperbola(
        F0=[0.0, 0.3, 0.01], Theta0=[1.0, 2.0, 0.02], omega=[1e-3, 2.0, 2.0], F_inf=[1.0, -1.0, 1.0]
    ).verify()


def _neuron() -> Agreement:
    return SingleNeuron(
        a0=[1.0, 0.3, 0.1], w0=[[0.1, 0.05], [0.2, -0.2], [1.0, 0.3]], target=[0.4, 1.0], eta_w=1.5
    ).verify()


def _bias() -> Agreement:
    return implicit_bias([1.0, 0.2], [[0.1, 0.3, -0.2], [0.8, -0.5, 0.4]], X=[[1.0, 0.5, 0.0]], y=[1.0]).verify()


def _bias_of_unequal_directions() -> Agreement:
    return implicit_bias(0.5, [0.3, 0.2, -0.1], X=[[2.0, 0.0, 0.5], [0.0, 1.0, 0.3]], y=[1.0, -0.5], eta_a=0.7).verify()


def _balanced_matrices(lam: float, n_in: int, n_out: int) -> Callable[[], Agreement]:
    return lambda: LambdaBalanced.sample(n_in, 2, n_out, lam, random_state=0).verify()


def _one_step(d: int, repeats: int, tests: int) -> Callable[[], Agreement]:
    model = OneStepCK("tanh", "softplus", psi1=3, psi2=1.5, ridge=0.01, noise=0.25, eta=2)
    return lambda: model.verify(d=d, n_repeats=repeats, n_test=tests, random_state=0)


def _late(schedule: list[tuple[float, int]]) -> Callable[[], Agreement]:
    model = LateFeatures(np.eye(2), np.array([1.0, 0.8]), n_neurons=8, schedule=schedule, random_state=0)
    return lambda: model.verify()


def _functions(modes: int) -> Callable[[], Agreement]:
    k = np.arange(1.0, modes + 1)
    model = FunctionalMeanField(np.cos(np.outer([1, 2, 3], k)) / k, [0.5, -0.4, 0.2], prior=k**-2)
    return lambda: model.verify()


def _forces(sizes: tuple[int, ...], ridge: float) -> Callable[[], Agreement]:
    def verify() -> Agreement:
        rng = np.random.default_rng(0)
        weights = [rng.normal(size=(above, below + 1)) for below, above in pairwise(sizes)]
        return attraction_repulsion(weights, rng.normal(size=(6, sizes[0])), ridge=ridge).verify()

    return verify


def _plateau() -> Agreement:
    example = bipartite_example(4)
    return plateau(example.X, example.Y, [3, 4, 6], random_state=0).verify()


def _students() -> Agreement:
    small = TeacherStudent(n_features=5, n_samples=30, n_neurons=10, n_test=100)
    return regime_grid([0.2, 2.0], [-1, 0, 1], small, n_steps=2000, n_repeats=1, random_state=0).verify()


CASES: Mapping[str, tuple[Case, ...]] = MappingProxyType(
    {
        "Hyperbola": (Case("lazy, falling, rich", _hyperbola),),
        "LinearNet1D": (
            Case("mean field, width 30", lambda: LinearNet1D.sample(30, "mean_field", random_state=0).verify()),
            Case("ntk, width 30", lambda: LinearNet1D.sample(30, "ntk", -0.5, random_state=1).verify()),
        ),
        "SingleNeuron": (Case("upstream, balanced, downstream", _neuron),),
        "implicit_bias": (
            Case("one sample, both balances", _bias),
            Case("two directions of unequal size", _bias_of_unequal_directions),
        ),
        "LambdaBalanced": (
            Case("lambda 1, 3-2-4", _balanced_matrices(1.0, 3, 4)),
            Case("lambda 0, 4-2-3", _balanced_matrices(0.0, 4, 3)),
            Case("lambda -3, 4-2-3", _balanced_matrices(-3.0, 4, 3)),
        ),
        "FastSlow": (
            Case("unlearns", lambda: FastSlow([1.0, 0.5], [1.0, -0.5]).verify(), slow=True),
            Case("learns in part", lambda: FastSlow([1.0, 0.5], [1.0, 0.3]).verify()),
        ),
        "OneStepCK": (
            Case("64 inputs, 6 draws", _one_step(64, 6, 2000)),
            Case("128 inputs, 10 draws", _one_step(128, 10, 5000), slow=True),
        ),
        "LateFeatures": (
            Case("two teachers, one stage", _late([(0.03, 2000)])),
            Case("two teachers, two stages", _late([(0.03, 2000), (0.01, 3000)]), slow=True),
        ),
        "FunctionalMeanField": (Case("three curves, 20 modes", _functions(20)),),
        "phase_diagram": (Case("named points, width 1000", lambda: phase_diagram(width=1000).verify()),),
        "phase_slope": (
            Case(
                "(1/2, 0), to width 256", lambda: phase_slope(0.5, 0, (64, 256), n_repeats=2, random_state=0).verify()
            ),
            Case("(1/2, 0), to width 512", lambda: phase_slope(0.5, 0, random_state=0).verify(), slow=True),
        ),
        "regime_grid": (Case("six starts, 2000 steps", _students),),
        "attraction_repulsion": (
            Case("more neurons than samples, ridge", _forces((5, 9, 7, 3), 1e-6)),
            Case("fewer neurons than samples", _forces((5, 4, 3, 3), 0.0)),
        ),
        "plateau": (Case("bipartite task on 4 inputs", _plateau),),
    }
)
"""By model, cases that take seconds together (``slow``: a few seconds each)."""


def verify_models(names: Collection[str] = (), *, fast: bool = False) -> Iterator[tuple[str, Case, Agreement]]:
    """Compare closed form and simulation of every model, or of those named, one case after the other.

    Parameters
    ----------
    names : collection of str, default all
        Of :data:`CASES`.
    fast : bool, default False
        Leave out slow cases.

    Yields
    ------
    name : str
    case : Case
    agreement : Agreement

    Raises
    ------
    DataError
        An unknown name; before anything is compared.

    Examples
    --------
    >>> [(name, agreement.ok) for name, _, agreement in verify_models(["Hyperbola"])]
    [('Hyperbola', True)]
    """
    unknown = [name for name in names if name not in CASES]
    if unknown:
        raise DataError(f"Got the model {unknown[0]!r}, but expected some of {', '.join(CASES)}.")
    chosen = [(name, case) for name in CASES if not names or name in names for case in CASES[name]]
    return ((name, case, case.verify()) for name, case in chosen if not (fast and case.slow))
