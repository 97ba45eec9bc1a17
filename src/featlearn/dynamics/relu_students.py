"""Two-layer ReLU students of known scale and balance, trained side by side on one teacher's data, and what moved."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..exceptions import DataError

__all__ = ["MEASURES", "Students", "TeacherStudent", "TeacherTask", "balanced_students"]

Floats = NDArray[np.float64]

MEASURES = ("train", "test", "kernel_distance", "hamming", "parameter_distance", "balance_drift")


class TeacherTask(NamedTuple):
    """One draw: inputs and targets to train and to test on, and the directions (n_neurons / 2, d) of the student."""

    X: Tensor
    y: Tensor
    X_test: Tensor
    y_test: Tensor
    directions: Tensor


@dataclass(frozen=True)
class TeacherStudent:
    r"""Inputs uniform on the unit sphere, a teacher :math:`\sum_k \pm \mathrm{relu}(u_k \cdot x)` of unit neurons.

    Parameters
    ----------
    n_features, n_samples : int, default 20 and 200
    n_neurons : int, default 20
        Of the student; even, as they come in pairs of opposite sign.
    n_teacher : int, default 3
        Neurons of the teacher, with random signs.
    n_test : int, default 4000

    Raises
    ------
    DataError
        Not positive integers, or an odd number of neurons.

    Notes
    -----
    Provenance: setting read in the authors' code; the sizes are smaller ones.

    References
    ----------
    Kunin et al., "Get rich quick: exact solutions reveal how unbalanced initializations promote rapid feature
    learning", arXiv 2406.06158.

    Examples
    --------
    >>> task = TeacherStudent(n_features=5, n_samples=7).draw(np.random.default_rng(0))
    >>> task.X.shape, task.directions.shape
    (torch.Size([7, 5]), torch.Size([10, 5]))
    """

    n_features: int = 20
    n_samples: int = 200
    n_neurons: int = 20
    n_teacher: int = 3
    n_test: int = 4000

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            count = getattr(self, name)
            if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
                raise DataError(f"Got {name}={count!r}, but expected a positive integer.")
        if self.n_neurons % 2:
            raise DataError(f"Got n_neurons={self.n_neurons}, but expected an even number: neurons come in pairs.")

    @property
    def numbers_a_run(self) -> int:
        """Size of the largest array that training or measuring one student needs."""
        return max(self.n_neurons * max(self.n_samples, self.n_test), 2 * self.n_samples**2)

    def draw(self, rng: np.random.Generator, device: str | torch.device = "cpu") -> TeacherTask:
        """Data, teacher and directions of the student, in float64."""
        counts = (self.n_samples, self.n_test, self.n_teacher, self.n_neurons // 2)
        X, X_test, teacher, directions = (
            torch.from_numpy(_on_sphere(rng, count, self.n_features)).to(device) for count in counts
        )
        signs = torch.from_numpy(rng.choice([-1.0, 1.0], self.n_teacher)).to(device)
        y, y_test = ((inputs @ teacher.T).relu() @ signs for inputs in (X, X_test))
        return TeacherTask(X, y, X_test, y_test, directions)


def _on_sphere(rng: np.random.Generator, count: int, d: int) -> Floats:
    rows = rng.standard_normal((count, d))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def balanced_students(tau: Tensor, delta: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    r"""Weights with :math:`|a_i| |w_i| = \tau^2` and :math:`a_i^2 - |w_i|^2 = \delta`, whose output is zero.

    Parameters
    ----------
    tau, delta : Tensor of shape (G,)
    directions : Tensor of shape (m / 2, d)
        Unit vectors; the second half of the neurons repeats them with opposite output weights.

    Returns
    -------
    w : Tensor of shape (G, m, d)
    a : Tensor of shape (G, m, 1)
    """
    ratio = delta / tau.square()
    # The larger layer first: the other root would be a difference of nearly equal numbers.
    large = ((ratio.square() + 4).sqrt() + ratio.abs()).div(2).sqrt()
    outer = torch.where(ratio > 0, large, 1 / large)
    w = (tau / outer)[:, None, None] * torch.cat([directions, directions])
    signs = torch.ones_like(w[:, :, :1])
    signs[:, len(directions) :] = -1
    return w, (tau * outer)[:, None, None] * signs


class Students:
    """G students of one task, all trained by full-batch gradient descent on the mean of ``(f - y)^2``.

    Parameters
    ----------
    task : TeacherTask
    tau, delta : Tensor of shape (G,)
        Scale and balance of the start.
    lr : float
        A step is ``lr / tau^2``.
    """

    def __init__(self, task: TeacherTask, tau: Tensor, delta: Tensor, lr: float) -> None:
        self.task, self._rate = task, (lr / tau.square())[:, None, None]
        self.w, self.a = balanced_students(tau, delta, task.directions)
        self._w0, self._a0, self._kernel0 = self.w, self.a, self._unit_kernel()

    def train(self, steps: int) -> None:
        """So many steps more."""
        X, y, count = self.task.X, self.task.y, len(self.task.y)
        scores = X.new_empty(len(self.w), self.w.shape[1], count)
        flat, back = scores.view(-1, count), torch.empty_like(scores)
        for _ in range(steps):
            torch.mm(self.w.flatten(0, 1), X.T, out=flat)
            scores.clamp_(min=0)
            slope = (self.a.mT @ scores - y) * (2 / count)
            torch.sign(scores, out=back).mul_(slope)
            through = (back.view(-1, count) @ X).view_as(self.w)
            # The gradient in w is a times this; relu(w.x) = w . (x where it is on), so that in a is w times this.
            of_a = (through * self.w).sum(dim=2, keepdim=True)
            self.w, self.a = self.w - self._rate * self.a * through, self.a - self._rate * of_a

    def outputs(self, X: Tensor) -> Tensor:
        """f, shape (G, n)."""
        return (self.a.mT @ (self.w @ X.T).relu())[:, 0]

    def kernel(self) -> Tensor:
        """Tangent kernel of both layers on the training inputs, shape (G, n, n)."""
        X = self.task.X
        scores = self.w @ X.T
        features, gates = scores.relu(), (scores > 0) * self.a
        return features.mT @ features + (X @ X.T) * (gates.mT @ gates)

    def measure(self) -> dict[str, Tensor]:
        """Each of MEASURES, shape (G,)."""
        task = self.task
        flips = (self.w @ task.X.T > 0) != (self._w0 @ task.X.T > 0)
        moved = (self.w - self._w0).square().sum(dim=(1, 2)) + (self.a - self._a0).square().sum(dim=(1, 2))
        drift = _balance(self.w, self.a) - _balance(self._w0, self._a0)
        values = (
            (self.outputs(task.X) - task.y).square().mean(dim=1),
            (self.outputs(task.X_test) - task.y_test).square().mean(dim=1),
            # 1 - cosine, which would cancel for kernels that hardly differ.
            (self._unit_kernel() - self._kernel0).square().sum(dim=(1, 2)) / 2,
            flips.double().mean(dim=(1, 2)),
            moved.sqrt(),
            drift.abs().amax(dim=1),
        )
        return dict(zip(MEASURES, values, strict=True))

    def _unit_kernel(self) -> Tensor:
        kernel = self.kernel()
        return kernel / kernel.norm(dim=(1, 2), keepdim=True)


def _balance(w: Tensor, a: Tensor) -> Tensor:
    return a[..., 0].square() - w.square().sum(dim=2)
