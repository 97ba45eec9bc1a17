"""Closed forms of the solvable models: microseconds a trajectory of 100 times, and maps of 200 x 200.

Each model is timed as a batch and alone, and alone beside the integration of its raw equations, which a user would run
instead. Alone, the overhead of a call counts; in a batch, the flops. Theories without time are timed alone. Holds if a
trajectory in a batch costs at most a hundred microseconds and five more for each number that the answer holds at each
time (weights of neurons, entries of matrices), and each map takes less than a second.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from measuring import interleaved, report

from featlearn.dynamics import (
    FastSlow,
    FunctionalMeanField,
    Hyperbola,
    LambdaBalanced,
    LateFeatures,
    LinearNet1D,
    OneStepCK,
    SingleNeuron,
    implicit_bias,
    kernel_regime_of,
    phase_diagram,
    regime_of,
)

TIMES = np.linspace(0.0, 10.0, 100)
BATCH, WIDTH = 500, 10
MOST, MOST_A_NUMBER, MOST_OF_A_MAP = 100.0, 5.0, 1.0
AXIS = np.linspace(0.0, 2.0, 200)


class Contestant(NamedTuple):
    """A batch of a model, its size, and one element of it."""

    size: int
    batch: object
    one: object


def hyperbola() -> Contestant:
    rng = np.random.default_rng(0)
    F0, Theta0 = rng.normal(size=BATCH), 3 + rng.random(BATCH)
    return Contestant(BATCH, Hyperbola(F0, Theta0, 0.5, 1.0), Hyperbola(F0[0], Theta0[0], 0.5, 1.0))


def linear_net() -> Contestant:
    u, w = np.random.default_rng(0).normal(size=(2, BATCH, WIDTH))
    return Contestant(BATCH, LinearNet1D(u, w, Exy=0.5), LinearNet1D(u[0], w[0], Exy=0.5))


def neuron() -> Contestant:
    rng = np.random.default_rng(0)
    a, w = rng.normal(size=BATCH), rng.normal(size=(BATCH, WIDTH))
    target = rng.normal(size=WIDTH)
    return Contestant(BATCH, SingleNeuron(a, w, target), SingleNeuron(a[0], w[0], target))


def matrices() -> Contestant:
    nets = [LambdaBalanced.sample(4, 3, 4, 1.0, random_state=seed) for seed in range(50)]
    W1, W2, Syx = (np.stack([getattr(net, name) for net in nets]) for name in ("W1", "W2", "Syx"))
    return Contestant(len(nets), LambdaBalanced(W1, W2, Syx), nets[0])


MODELS: dict[str, Callable[[], Contestant]] = {
    "Hyperbola": hyperbola,
    "LinearNet1D of width 10": linear_net,
    "SingleNeuron of 10 inputs": neuron,
    "LambdaBalanced 4-3-4": matrices,
}

MODES = np.arange(1.0, 51.0)
CURVES = np.cos(np.outer([1, 2, 3], MODES)) / MODES
START = np.random.default_rng(0).normal(size=(BATCH, 6))
THEORIES: dict[str, Callable[[], object]] = {
    "implicit_bias, 500 starts": lambda: implicit_bias(START[:, 0], START[:, 1:], X=[[1, 0, 0, 0, 0]], y=[1.0]),
    "FastSlow.verdict": lambda: FastSlow([1.0, 0.5], [1.0, -0.5]).verdict,
    "OneStepCK.theory": lambda: OneStepCK("tanh", "softplus", psi1=3, psi2=1.5, ridge=0.01).theory(),
    "LateFeatures.theory": lambda: LateFeatures(np.eye(2), np.array([1.0, 0.8]), n_neurons=8, random_state=0).theory(),
    "FunctionalMeanField.theory, 50 modes": lambda: FunctionalMeanField(
        CURVES, [0.5, -0.4, 0.2], prior=MODES**-2
    ).theory(),
}
MAPS: dict[str, Callable[[], object]] = {
    "phase_diagram('exponents')": lambda: phase_diagram(resolution=200),
    "phase_diagram('initialisation')": lambda: phase_diagram("initialisation", resolution=200),
    "regime_of": lambda: regime_of(AXIS, AXIS[:, np.newaxis] - 1),
    "kernel_regime_of": lambda: kernel_regime_of(AXIS, AXIS[:, np.newaxis] - 1),
    "OneStepCK.theory over eta and psi1": lambda: OneStepCK(
        "tanh", "softplus", psi1=1.5 + AXIS, psi2=1.5, ridge=0.01, eta=AXIS[:, np.newaxis]
    ).theory(),
    "Hyperbola.rho over start and scale": lambda: Hyperbola(0.0, 0.01 + AXIS, 0.01 + AXIS[:, np.newaxis], 1.0).rho,
}


def main() -> None:
    models = {name: make() for name, make in MODELS.items()}
    calls = {(name, "together"): lambda model=model: model.batch.closed_form(TIMES) for name, model in models.items()}
    calls |= {(name, "alone"): lambda model=model: model.one.closed_form(TIMES) for name, model in models.items()}
    calls |= {(name, "ode"): lambda model=model: model.one.simulate(TIMES) for name, model in models.items()}
    calls |= {(name, "theory"): call for name, call in THEORIES.items()}
    times = interleaved(calls | {(name, "map"): draw for name, draw in MAPS.items()}, repeats=10)
    rows = {}
    for name, model in models.items():
        numbers = sum(array.size for array in model.one.closed_form(TIMES).values.values()) // len(TIMES)
        limit = MOST + MOST_A_NUMBER * numbers
        together = 1e6 * times[name, "together"]["wall"] / model.size
        alone = 1e6 * times[name, "alone"]["wall"]
        rows[name] = {
            "microseconds_in_a_batch": round(together, 2),
            "microseconds_alone": round(alone, 1),
            "integration_over_closed_form": round(1e6 * times[name, "ode"]["wall"] / alone, 1),
            "batch": model.size,
            "numbers_a_time": numbers,
            "most_microseconds": limit,
            "holds": together <= limit,
        }
    maps = {name: round(times[name, "map"]["wall"], 4) for name in MAPS}
    report(
        __file__,
        holds=all(row["holds"] for row in rows.values()) and max(maps.values()) < MOST_OF_A_MAP,
        times_a_trajectory=len(TIMES),
        models=rows,
        milliseconds_a_theory={name: round(1e3 * times[name, "theory"]["wall"], 3) for name in THEORIES},
        seconds_a_map_of_200_by_200=maps,
    )


if __name__ == "__main__":
    main()
