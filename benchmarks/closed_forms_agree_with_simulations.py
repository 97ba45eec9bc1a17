"""Worst disagreement of every solvable model with its independent simulation, over random problems.

Forty random problems of each model that is quick to simulate, six to twenty of the dearer ones; for phase_slope,
regime_grid and plateau the cases of ``featlearn dynamics verify``. Holds if all lie within the tolerances of their
``verify()``; where that is statistical, some of many problems lie beyond three standard errors by chance.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from measuring import report

from featlearn.dynamics import (
    Agreement,
    FastSlow,
    FunctionalMeanField,
    Hyperbola,
    LambdaBalanced,
    LateFeatures,
    LinearNet1D,
    OneStepCK,
    SingleNeuron,
    attraction_repulsion,
    implicit_bias,
    phase_diagram,
)
from featlearn.dynamics.verification import CASES


def hyperbola(rng: np.random.Generator) -> Agreement:
    """From lazy to rich, targets of both signs."""
    start, omega = rng.normal(), 10 ** rng.uniform(-3, 0.5)
    return Hyperbola(
        start, omega * abs(start) + 10 ** rng.uniform(-2, 1), omega, rng.normal(), Exx=rng.uniform(0.5, 2)
    ).verify()


def linear_net(rng: np.random.Generator) -> Agreement:
    """Widths 2 to 30, unequal rates, any scale."""
    u, w = 10 ** rng.uniform(-1.5, 0.3) * rng.normal(size=(2, int(rng.integers(2, 31))))
    rates = dict(zip(("eta_u", "eta_w"), 10 ** rng.uniform(-1, 1, size=2), strict=True))
    return LinearNet1D(u, w, g=rng.choice([-1, 1]) * rng.uniform(0.2, 1), Exy=rng.normal(), **rates).verify()


def neuron(rng: np.random.Generator) -> Agreement:
    """Upstream, balanced and downstream, one to five inputs."""
    w, target = rng.normal(size=(2, int(rng.integers(1, 6))))
    return SingleNeuron(rng.normal(), w, target, eta_a=rng.uniform(0.5, 2), eta_w=rng.uniform(0.5, 2)).verify()


def matrices(rng: np.random.Generator) -> Agreement:
    """Lambda from -3 to 3 and 0, shapes that admit them."""
    hidden = int(rng.integers(1, 4))
    wide, more = hidden + int(rng.integers(0, 3)), hidden + int(rng.integers(0, 3))
    lam = float(rng.choice([0.0, rng.uniform(-3, 3)]))
    return LambdaBalanced.sample(wide, hidden, more, lam, random_state=int(rng.integers(2**31))).verify()


def bias(rng: np.random.Generator) -> Agreement:
    """Fewer samples than inputs, any spectrum."""
    n, d = sorted(int(size) for size in rng.integers(1, 6, size=2))
    X = rng.normal(size=(n, d + 1))
    return implicit_bias(rng.normal(), rng.normal(size=d + 1), X=X, y=rng.normal(size=n)).verify()


def features(rng: np.random.Generator) -> Agreement:
    """Slow features of two to four coefficients, signs at random: unlearned or kept."""
    sigma, tau = rng.uniform(0.3, 1.2, size=(2, int(rng.integers(2, 5))))
    tau[1:] *= rng.choice([-1, 1], size=len(tau) - 1)
    return FastSlow(sigma, tau, a0=rng.uniform(0.5, 1.5), R0=rng.uniform(0.02, 0.2), eps=0.01).verify()


def one_step(rng: np.random.Generator) -> Agreement:
    """Students and teachers of three kinds, ratios, ridge, noise and step at random."""
    return OneStepCK(
        str(rng.choice(["tanh", "erf"])),
        str(rng.choice(["relu", "softplus", "tanh"])),
        psi1=rng.uniform(1.5, 4),
        psi2=rng.uniform(0.7, 3),
        ridge=10 ** rng.uniform(-2, 0),
        noise=rng.uniform(0, 0.5),
        eta=rng.uniform(0, 2),
    ).verify(d=96, n_repeats=10, n_test=4000, random_state=int(rng.integers(2**31)))


def late(rng: np.random.Generator) -> Agreement:
    """Two to three orthogonal teachers in any basis, of any scale."""
    d = int(rng.integers(2, 4))
    basis, _ = np.linalg.qr(rng.normal(size=(d, d)))
    seed, scales = int(rng.integers(2**31)), rng.uniform(0.6, 1.4, size=d)
    return LateFeatures(basis, scales, n_neurons=4 * d, schedule=[(0.03, 4000)], random_state=seed).verify()


def functions(rng: np.random.Generator) -> Agreement:
    """Two to three random curves of 10 to 40 modes."""
    k, n = np.arange(1.0, rng.integers(10, 41)), int(rng.integers(2, 4))
    return FunctionalMeanField(rng.normal(size=(n, len(k))) / k, rng.uniform(-0.5, 0.5, size=n), prior=k**-2).verify()


def forces(rng: np.random.Generator) -> Agreement:
    """Two to four layers, more or fewer neurons than samples, with and without ridge."""
    sizes = rng.integers(2, 12, size=int(rng.integers(3, 6)))
    weights = [rng.normal(size=(above, below + 1)) for below, above in pairwise(sizes)]
    X, ridge = rng.normal(size=(int(rng.integers(2, 8)), sizes[0])), float(rng.choice([0.0, 1e-6, 1e-2]))
    return attraction_repulsion(weights, X, activation=str(rng.choice(["relu", "tanh"])), ridge=ridge).verify()


def parametrisation(rng: np.random.Generator) -> Agreement:
    """Any exponents with which the initial output stays bounded, at width 1000."""
    mine = dict(zip(("g", "eta_u", "eta_w", "var_u", "var_w"), rng.uniform(-1, 1, size=5), strict=True))
    mine["g"] = -(1 + mine["var_u"] + mine["var_w"]) / 2 - rng.uniform(0, 1)
    return phase_diagram(mine=mine, resolution=2).verify()


RANDOM: dict[str, tuple[Callable[[np.random.Generator], Agreement], int]] = {
    "Hyperbola": (hyperbola, 40),
    "LinearNet1D": (linear_net, 40),
    "SingleNeuron": (neuron, 40),
    "LambdaBalanced": (matrices, 40),
    "implicit_bias": (bias, 40),
    "FastSlow": (features, 20),
    "OneStepCK": (one_step, 20),
    "LateFeatures": (late, 6),
    "FunctionalMeanField": (functions, 10),
    "attraction_repulsion": (forces, 40),
    "phase_diagram": (parametrisation, 40),
}


def row(found: list[Agreement]) -> dict[str, Any]:
    worst = max(found, key=lambda agreement: agreement.worst / agreement.tolerance)
    return {
        "problems": len(found),
        "worst": worst.worst,
        "of": worst.quantity,
        "tolerance": worst.tolerance,
        "in": "standard errors" if worst.kind == "statistical" else "relative to max(1, size)",
        "outside": sum(not agreement.ok for agreement in found),
    }


def main() -> None:
    rows = {}
    for name, (make, problems) in RANDOM.items():
        rows[name] = row([make(np.random.default_rng(seed)) for seed in range(problems)])
        print(name, rows[name])
    rows |= {name: row([case.verify() for case in cases]) for name, cases in CASES.items() if name not in RANDOM}
    report(__file__, holds=not any(found["outside"] for found in rows.values()), models=rows)


if __name__ == "__main__":
    main()
