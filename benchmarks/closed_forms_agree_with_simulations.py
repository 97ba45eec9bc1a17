"""Worst disagreement of every solvable model with its independent simulation, over random problems.

Hyperbola, LinearNet1D, SingleNeuron, LambdaBalanced and implicit_bias: 40 random problems each. The others are dearer
to simulate: the cases of ``featlearn dynamics verify``. Holds if all lie within the tolerances of their ``verify()``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from measuring import report

from featlearn.dynamics import Agreement, Hyperbola, LambdaBalanced, LinearNet1D, SingleNeuron, implicit_bias
from featlearn.dynamics.verification import CASES

PROBLEMS = 40


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


RANDOM: dict[str, Callable[[np.random.Generator], Agreement]] = {
    "Hyperbola": hyperbola,
    "LinearNet1D": linear_net,
    "SingleNeuron": neuron,
    "LambdaBalanced": matrices,
    "implicit_bias": bias,
}


def row(found: list[Agreement]) -> dict[str, Any]:
    worst = max(found, key=lambda agreement: agreement.worst / agreement.tolerance)
    return {
        "problems": len(found),
        "worst": worst.worst,
        "of": worst.quantity,
        "tolerance": worst.tolerance,
        "in": "standard errors" if worst.kind == "statistical" else "relative to max(1, size)",
        "holds": all(agreement.ok for agreement in found),
    }


def main() -> None:
    rows = {name: row([make(np.random.default_rng(seed)) for seed in range(PROBLEMS)]) for name, make in RANDOM.items()}
    rows |= {name: row([case.verify() for case in cases]) for name, cases in CASES.items() if name not in RANDOM}
    report(__file__, holds=all(found["holds"] for found in rows.values()), models=rows)


if __name__ == "__main__":
    main()
