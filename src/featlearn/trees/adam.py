"""Adam for a few arrays of numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Adam"]

Floats = NDArray[np.float64]

DECAY, DECAY_SQUARES = 0.9, 0.99
EPSILON = 1e-8


class Adam:
    r"""Steps ``p <- p - lr m / (sqrt(v) + 1e-8)``, m and v the corrected averages of gradients and of their squares.

    Parameters
    ----------
    learning_rate : float

    Notes
    -----
    Averages decay by .9 and .99 a step. An array's entry that never had a gradient never moves.

    References
    ----------
    Kingma, Ba (2015), Adam: a method for stochastic optimization, arXiv:1412.6980.

    Examples
    --------
    >>> import numpy as np
    >>> Adam(0.5).step((np.array([1.0, 1.0]),), (np.array([4.0, 0.0]),))
    (array([0.5, 1. ]),)
    """

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self.steps = 0
        self.first: list[Floats] = []
        self.second: list[Floats] = []

    def step(self, parameters: tuple[Floats, ...], gradients: tuple[Floats, ...]) -> tuple[Floats, ...]:
        """The parameters after one step, as new arrays."""
        if not self.steps:
            self.first = [np.zeros_like(gradient) for gradient in gradients]
            self.second = [np.zeros_like(gradient) for gradient in gradients]
        self.steps += 1
        moved = []
        for i, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
            self.first[i] = DECAY * self.first[i] + (1 - DECAY) * gradient
            self.second[i] = DECAY_SQUARES * self.second[i] + (1 - DECAY_SQUARES) * gradient**2
            mean = self.first[i] / (1 - DECAY**self.steps)
            size = np.sqrt(self.second[i] / (1 - DECAY_SQUARES**self.steps))
            moved.append(parameter - self.learning_rate * mean / (size + EPSILON))
        return tuple(moved)
