"""Closed forms of the solvable models: microseconds a trajectory of 100 times, and phase maps of 200 x 200.

Each model is timed as a batch and alone. Alone, the overhead of a call counts; in a batch, the flops. Holds if a
trajectory in a batch costs at most a hundred microseconds for each model with scalar state, or 10 more for each neuron
where the answer holds every neuron's weights, and each map less than a second.

A model is one entry of MODELS, a function that makes its Contestant; a map is one of MAPS.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from measuring import interleaved, report

from featlearn.dynamics.hyperbola import Hyperbola
from featlearn.dynamics.linear_net_1d import LinearNet1D
from featlearn.dynamics.phase_diagram import phase_diagram

TIMES = np.linspace(0.0, 10.0, 100)
BATCH, WIDTH = 500, 10
MOST, MOST_A_NEURON, MOST_OF_A_MAP = 100.0, 10.0, 1.0


class Contestant(NamedTuple):
    """A model: how many neurons its answer holds, and its closed form for a batch and for one trajectory."""

    neurons: int
    batch: int
    together: Callable[[], object]
    alone: Callable[[], object]


def hyperbola() -> Contestant:
    rng = np.random.default_rng(0)
    parameters = {"F0": rng.normal(size=BATCH), "Theta0": 3 + rng.random(BATCH), "omega": 0.5, "F_inf": 1.0}
    first = {name: np.ravel(value)[0] for name, value in parameters.items()}
    return Contestant(
        0,
        BATCH,
        lambda: Hyperbola(**parameters).closed_form(TIMES),
        lambda: Hyperbola(**first).closed_form(TIMES),
    )


def linear_net() -> Contestant:
    u, w = np.random.default_rng(0).normal(size=(2, BATCH, WIDTH))
    return Contestant(
        WIDTH,
        BATCH,
        lambda: LinearNet1D(u, w, Exy=0.5).closed_form(TIMES),
        lambda: LinearNet1D(u[0], w[0], Exy=0.5).closed_form(TIMES),
    )


MODELS: dict[str, Callable[[], Contestant]] = {"Hyperbola": hyperbola, "LinearNet1D of width 10": linear_net}
MAPS: dict[str, Callable[[], object]] = {
    "phase_diagram('exponents')": lambda: phase_diagram(resolution=200),
    "phase_diagram('initialisation')": lambda: phase_diagram("initialisation", resolution=200),
}


def main() -> None:
    models = {name: make() for name, make in MODELS.items()}
    calls = {(name, "together"): model.together for name, model in models.items()}
    calls |= {(name, "alone"): model.alone for name, model in models.items()}
    times = interleaved(calls | {(name, "map"): draw for name, draw in MAPS.items()}, repeats=10)
    rows = {}
    for name, model in models.items():
        limit = MOST + MOST_A_NEURON * model.neurons
        together = 1e6 * times[name, "together"]["wall"] / model.batch
        rows[name] = {
            "microseconds_in_a_batch": round(together, 2),
            "microseconds_alone": round(1e6 * times[name, "alone"]["wall"], 1),
            "batch": model.batch,
            "most_microseconds": limit,
            "holds": together <= limit,
        }
    maps = {name: round(times[name, "map"]["wall"], 4) for name in MAPS}
    report(
        __file__,
        holds=all(row["holds"] for row in rows.values()) and max(maps.values()) < MOST_OF_A_MAP,
        times_a_trajectory=len(TIMES),
        models=rows,
        seconds_a_map_of_200_by_200=maps,
    )


if __name__ == "__main__":
    main()
