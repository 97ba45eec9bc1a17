"""Two-layer linear networks of any shape, from lazy to rich by one number: exact learning curves of whole matrices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..exceptions import DataError
from .aligned import aligned_modes
from .hyperbola import Hyperbola
from .integration import integrate
from .riccati import march
from .short_repr import short_repr
from .solvable import Agreement, Trajectory, agreement, as_floats, as_times

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from matplotlib.axes import Axes

__all__ = ["LambdaBalanced"]

Floats = NDArray[np.float64]

_STIFF = 1e4  # fastest rate times the length of the run
_PRECISE = {"rtol": 1e-12, "atol": 1e-13}  # ten times finer than usual: the closed form is closer than that
_ROUNDING = 1e-14  # of a balance, relative to the squared weights it is a difference of


@short_repr
@dataclass(frozen=True, eq=False, init=False)
class LambdaBalanced:
    r"""``f(x) = W2 W1 x`` on whitened inputs with balanced layers, solved for whole matrices.

    .. math::
        \mathcal{L} = \tfrac12 |W_2 W_1 - \Sigma_{yx}|_F^2, \qquad
        W_2^\top W_2 - W_1 W_1^\top = \lambda I \ \text{conserved}

    Small :math:`|\lambda|` is rich: features are learned one after the other, in steps, and the kernel changes with
    them. Large :math:`|\lambda|` is lazy: exponentials at an almost constant kernel. It also means large weights, so
    compare with random starts of the same norm that have as much to learn. With fewer hidden units than features the
    lazy phase has an end: after a time of order :math:`|\lambda| / s^2` the units turn to the largest features.

    Parameters
    ----------
    W1 : array_like of shape (..., Nh, Ni)
        First layer at the start.
    W2 : array_like of shape (..., No, Nh)
        Second layer at the start.
    Syx : array_like of shape (..., No, Ni)
        ``E[y x^T]``, for inputs with ``E[x x^T] = I``.
    tol : float, default 1e-8
        Largest deviation from balance, times ``max(1, |W1|^2 + |W2|^2)``.

    Raises
    ------
    DataError
        Numbers that are not finite, shapes that do not fit, layers that are not balanced.

    Notes
    -----
    With ``Q = [W1^T; W2]`` the flow of ``Q Q^T`` is a matrix Riccati equation whose linear part is symmetric, of size
    ``Ni + No``; it is solved exactly in its eigenbasis, step by step, without inverting anything. Only what the flow
    determines is returned: ``W2 W1`` and the Gram matrices, not the layers, which any rotation of the hidden units
    changes. A feature of the target without any overlap with the start is never learned in theory; in floating point
    it grows from rounding, as in every simulation.
    Costs one ``eigh`` of size ``Ni + No``, and ``O((Ni + No) Nh^2)`` for each sub-step of 3 units of the fastest rate,
    until nothing changes. Provenance: that small and large balance are rich and lazy is published (abstract); the
    formula is derived here, checked against integration for wide, narrow and rectangular shapes.

    References
    ----------
    Domine et al., "From lazy to rich: exact learning dynamics in deep linear networks", arXiv 2409.14623.

    Examples
    --------
    >>> model = LambdaBalanced.sample(3, 2, 4, lam=0.5, random_state=0)
    >>> round(float(model.lam), 9), model.closed_form([0.0, 1.0]).product.shape
    (0.5, (4, 3, 2))
    """

    W1: Floats
    W2: Floats
    Syx: Floats
    lam: Floats

    def __init__(self, W1: ArrayLike, W2: ArrayLike, Syx: ArrayLike, *, tol: float = 1e-8) -> None:
        if not tol >= 0:
            raise DataError(f"Got tol={tol}, but expected a number of at least 0.")
        arrays = {"W1": as_floats(W1, "W1"), "W2": as_floats(W2, "W2"), "Syx": as_floats(Syx, "Syx")}
        shapes = ", ".join(f"{name} of shape {array.shape}" for name, array in arrays.items())
        if any(array.ndim < 2 for array in arrays.values()):
            raise DataError(f"Got {shapes}, but expected matrices (..., Nh, Ni), (..., No, Nh) and (..., No, Ni).")
        first, second, target = arrays.values()
        if first.shape[-2] != second.shape[-1] or target.shape[-2:] != (second.shape[-2], first.shape[-1]):
            raise DataError(f"Got {shapes}, but expected (..., Nh, Ni), (..., No, Nh) and (..., No, Ni).")
        try:
            batch = np.broadcast_shapes(*(array.shape[:-2] for array in arrays.values()))
        except ValueError as error:
            raise DataError(f"Got {shapes}, whose leading axes do not broadcast.") from error
        for name, array in arrays.items():
            object.__setattr__(self, name, np.broadcast_to(array, (*batch, *array.shape[-2:])))
        object.__setattr__(self, "lam", self._balance(tol))

    def _balance(self, tol: float) -> Floats:
        difference = self.W2.mT @ self.W2 - self.W1 @ self.W1.mT
        hidden = np.eye(difference.shape[-1])
        lam = np.asarray(np.trace(difference, axis1=-2, axis2=-1) / len(hidden))
        sizes = _square(self.W1) + _square(self.W2)
        lam = np.where(np.abs(lam) <= _ROUNDING * sizes, 0.0, lam)
        off = np.abs(difference - lam[..., np.newaxis, np.newaxis] * hidden)
        allowed = tol * np.maximum(1.0, sizes)
        if (off > allowed[..., np.newaxis, np.newaxis]).any():
            worst = np.unravel_index(int(off.argmax()), off.shape)[-2:]
            raise DataError(
                f"Got layers whose W2^T W2 - W1 W1^T is off lambda I by {off.max():.3g} at hidden units "
                f"({int(worst[0])}, {int(worst[1])}), but expected at most {allowed.min():.3g}; LambdaBalanced.sample "
                "draws balanced layers."
            )
        return lam

    @classmethod
    def sample(
        cls,
        n_in: int,
        n_hidden: int,
        n_out: int,
        lam: ArrayLike,
        scale: float = 0.3,
        Syx: ArrayLike | None = None,
        random_state: int | None = None,
    ) -> LambdaBalanced:
        """Random balanced layers; an array of ``lam`` gives a batch with the same random numbers for each.

        Parameters
        ----------
        n_in, n_hidden, n_out : int
            Ni, Nh, No. A positive ``lam`` needs ``No >= Nh``, a negative one ``Ni >= Nh``: there are no balanced layers
            otherwise.
        lam : array_like of shape (...)
            Balance.
        scale : float, default 0.3
            Standard deviation of the entries of the smaller layer, positive.
        Syx : array_like of shape (No, Ni), optional
            Target; by default Gaussian entries of standard deviation ``Ni^(-1/2)``.
        random_state : int, optional
            Of the layers and of the target.

        Raises
        ------
        DataError
            Sizes below 1, or balanced layers that do not exist.
        """
        for name, size in (("n_in", n_in), ("n_hidden", n_hidden), ("n_out", n_out)):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise DataError(f"Got {name}={size!r}, but expected an integer of at least 1.")
        balances = as_floats(lam, "lam")
        if (balances > 0).any() and n_out < n_hidden:
            raise DataError(f"Got lam > 0 with n_out={n_out} < n_hidden={n_hidden}: no layers are balanced like that.")
        if (balances < 0).any() and n_in < n_hidden:
            raise DataError(f"Got lam < 0 with n_in={n_in} < n_hidden={n_hidden}: no layers are balanced like that.")
        as_floats(scale, "scale", positive=True)
        rng = np.random.default_rng(random_state)
        draws = scale * rng.normal(size=(n_hidden, n_in)), scale * rng.normal(size=(n_out, n_hidden))
        target = rng.normal(size=(n_out, n_in)) / np.sqrt(n_in) if Syx is None else as_floats(Syx, "Syx")
        turns = rng.normal(size=(n_in, n_hidden)), rng.normal(size=(n_out, n_hidden))
        layers = [_balanced_layers(float(value), draws, turns) for value in balances.flat]
        W1, W2 = (
            np.stack(matrices).reshape(*balances.shape, *matrices[0].shape) for matrices in zip(*layers, strict=True)
        )
        return cls(W1, W2, target)

    # --- time ---------------------------------------------------------------------------------------------------------

    def closed_form(self, t: ArrayLike) -> Trajectory:
        """What the flow determines, at times t (scalar or 1-D, at least 0, infinity allowed).

        Returns
        -------
        Trajectory
            ``product`` W2 W1 (..., No, Ni, T), ``gram_in`` W1^T W1 (..., Ni, Ni, T), ``gram_out`` W2 W2^T
            (..., No, No, T), ``loss`` (..., T).

        Warns
        -----
        ConvergenceWarning
            After 100 000 sub-steps; what was reached is returned.
        """
        times = as_times(t)
        values, vectors = self._spectrum
        Q = np.concatenate([self.W1.mT, self.W2], axis=-2)
        states = np.expand_dims(vectors, -3) @ march(vectors.mT @ Q, values, times)
        n_in = self.W1.shape[-1]
        return self._trajectory(times, states[..., :n_in, :].mT, states[..., n_in:, :])

    def final(self) -> Trajectory:
        """Limit of the flow: ``closed_form(inf)``."""
        return self.closed_form(np.inf)

    def simulate(self, t: ArrayLike, *, method: Literal["ode", "network"] = "ode", lr: float = 1e-3) -> Trajectory:
        """The same from the raw layers: integrated, or trained by gradient descent with autograd.

        Parameters
        ----------
        t : array_like
            Finite times.
        method : {"ode", "network"}, default "ode"
            "ode" integrates ``dW1/dt, dW2/dt``; "network" makes ``t / lr`` steps of gradient descent, with an error
            that falls in proportion to ``lr``.
        lr : float, default 1e-3
            Step of "network".
        """
        times = as_times(t)
        if method == "ode":
            sizes = _square(self.W1) + _square(self.W2) + np.sqrt(_square(self.Syx))
            stiff = float(sizes.max()) * float(times.max()) > _STIFF
            start = np.concatenate([_flat(self.W1), _flat(self.W2)], axis=-1)
            path = np.moveaxis(
                integrate(self._flow, start, times, method="LSODA" if stiff else "DOP853", **_PRECISE), -1, -2
            )
            W1, W2 = self._layers(path)
            return self._trajectory(times, W1, W2)
        if method == "network":
            from .descent import descend

            first, second = descend(self._network_loss, [self.W1, self.W2], times, lr)
            return self._trajectory(times, np.moveaxis(first, -1, -3), np.moveaxis(second, -1, -3))
        raise DataError(f"Got method={method!r}, but expected 'ode' or 'network'.")

    def verify(self, t: ArrayLike | None = None, *, tolerance: float = 1e-9) -> Agreement:
        """How far the closed form is from :meth:`simulate`; by default over :meth:`horizon`."""
        times = np.linspace(0.0, self.horizon(), 40) if t is None else as_times(t)
        return agreement(self.closed_form(times), self.simulate(times), tolerance)

    def horizon(self) -> float:
        """Time by which features of a hundredth of the largest one, or larger, are learned."""
        fastest = np.hypot(self.lam / 2, np.linalg.norm(self.Syx, ord=2, axis=(-2, -1)))
        sizes = np.linalg.svd(self.Syx, compute_uv=False)
        learned = np.where(sizes > 1e-2 * sizes.max(axis=-1, keepdims=True), sizes, np.inf)
        slowest = 2 * np.minimum(np.hypot(self.lam / 2, learned.min(axis=-1)), fastest)
        start = np.minimum(_square(self.W1), _square(self.W2)) + self.lam**2
        needed = (8 + np.log1p(fastest / np.where(start > 0, start, 1.0))) / np.where(slowest > 0, slowest, np.inf)
        return float(needed.max()) or 8.0

    # --- the kernel, and the aligned case -----------------------------------------------------------------------------

    def kernel_distance(self, t: ArrayLike, X: ArrayLike | None = None) -> Floats:
        r"""``1 - <K_0, K_t> / (|K_0| |K_t|)`` of the neural tangent kernel, shape (..., T); nan where it is 0.

        .. math:: K = I \otimes X^\top W_1^\top W_1 X + W_2 W_2^\top \otimes X^\top X

        Parameters
        ----------
        t : array_like
            Times.
        X : array_like of shape (Ni, N), optional
            Inputs, one a column; by default the unit vectors, as for whitened inputs.

        Notes
        -----
        From traces of matrices of size N and No: the kernel, of size N No, is never formed.
        """
        n_in = self.W1.shape[-1]
        inputs = np.eye(n_in) if X is None else as_floats(X, "X")
        if inputs.ndim != 2 or inputs.shape[0] != n_in:
            raise DataError(f"Got X of shape {inputs.shape}, but expected ({n_in}, N): one input a column.")
        times = as_times(t)
        path = self.closed_form(np.append(0.0, times))
        A = inputs.T @ np.moveaxis(path.gram_in, -1, -3) @ inputs
        B, C = np.moveaxis(path.gram_out, -1, -3), inputs.T @ inputs
        size = np.sqrt(_inner(A, B, A, B, C))[..., np.newaxis, np.newaxis]
        with np.errstate(invalid="ignore", divide="ignore"):
            A, B = A / size, B / size
            # Half the squared distance of the two directions: no number near 1 is subtracted.
            dA, dB = A[..., 1:, :, :] - A[..., :1, :, :], B[..., 1:, :, :] - B[..., :1, :, :]
            return np.maximum(_inner(dA, dB, dA, dB, C), 0.0) / 2

    def modes(self) -> Hyperbola:
        r"""Each feature of the target on its own hyperbola, for layers aligned with it; shape (..., min(Ni, No)).

        F is the strength of the feature in ``W2 W1``; its kernel is :math:`\sqrt{\lambda^2 + 4 F^2}` where it has a
        hidden unit. At :math:`\lambda = 0` it grows along a sigmoid, far from it as an exponential of rate
        :math:`|\lambda|`.

        Raises
        ------
        DataError
            Layers that couple features: the target and ``W2 W1`` have other singular vectors.
        """
        return aligned_modes(self.W1, self.W2, self.Syx)

    # --- raw equations ------------------------------------------------------------------------------------------------

    @cached_property
    def _spectrum(self) -> tuple[Floats, Floats]:
        """Eigenvalues and eigenvectors of ``[[-lam/2 I, Syx^T], [Syx, lam/2 I]]``."""
        n_out, n_in = self.Syx.shape[-2:]
        half = (self.lam / 2)[..., np.newaxis, np.newaxis]
        upper = np.concatenate([-half * np.eye(n_in), self.Syx.mT], axis=-1)
        lower = np.concatenate([self.Syx, half * np.eye(n_out)], axis=-1)
        values, vectors = np.linalg.eigh(np.concatenate([upper, lower], axis=-2))
        return values, vectors

    def _trajectory(self, times: Floats, W1: Floats, W2: Floats) -> Trajectory:
        """Layers (..., T, Nh, Ni) and (..., T, No, Nh), whatever their hidden basis, to what does not depend on it."""
        product = W2 @ W1
        missing = product - np.expand_dims(self.Syx, -3)
        values = {"product": product, "gram_in": W1.mT @ W1, "gram_out": W2 @ W2.mT}
        moved = {name: np.moveaxis(matrix, -3, -1) for name, matrix in values.items()}
        return Trajectory(times, {**moved, "loss": _square(missing) / 2})

    def _layers(self, weights: Floats) -> tuple[Floats, Floats]:
        """Flat weights (batch, anything, Nh Ni + No Nh) to both layers."""
        (n_out, n_hidden), n_in = self.W2.shape[-2:], self.W1.shape[-1]
        first, second = np.split(weights, [n_hidden * n_in], axis=-1)
        return first.reshape(*first.shape[:-1], n_hidden, n_in), second.reshape(*second.shape[:-1], n_out, n_hidden)

    def _flow(self, weights: Floats) -> Floats:
        W1, W2 = self._layers(weights)
        missing = self.Syx - W2 @ W1
        return np.concatenate([_flat(W2.mT @ missing), _flat(missing @ W1.mT)], axis=-1)

    def _network_loss(self, W1: torch.Tensor, W2: torch.Tensor) -> torch.Tensor:
        return ((W2 @ W1 - W2.new_tensor(self.Syx)) ** 2).sum() / 2

    # --- showing ------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Parameters and balance, as plain numbers (nested lists)."""
        return {"kind": "LambdaBalanced", "schema": 1} | {
            name: getattr(self, name).tolist() for name in ("W1", "W2", "Syx", "lam")
        }

    def frame(self) -> pd.DataFrame:
        """One row an element of the batch: balance, sizes of the layers, loss at the start."""
        import pandas as pd

        columns = {"lam": self.lam, "W1_norm": np.sqrt(_square(self.W1)), "W2_norm": np.sqrt(_square(self.W2))}
        columns["loss0"] = _square(self.W2 @ self.W1 - self.Syx) / 2
        return pd.DataFrame({name: np.ravel(column) for name, column in columns.items()})

    def plot(self, t: ArrayLike | None = None, ax: Axes | list[Axes] | None = None) -> list[Axes]:
        """Singular values of ``W2 W1`` and kernel distance over time; lines the closed form, dots the simulation.

        Parameters
        ----------
        t : array_like, optional
            Times; by default 200 up to :meth:`horizon`.
        ax : Axes or two Axes, optional
            One Axes gets the singular values alone.
        """
        from ..plots.lambda_balanced import plot_lambda_balanced

        times = np.linspace(0.0, self.horizon(), 200) if t is None else as_times(t)
        sparse = times[:: max(len(times) // 12, 1)]
        distances = self.kernel_distance(times).tolist()
        closed, simulated = self.closed_form(times), self.simulate(sparse)
        return plot_lambda_balanced(self.to_dict(), closed.to_dict(), simulated.to_dict(), distances, ax)


def _balanced_layers(lam: float, draws: tuple[Floats, Floats], turns: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """Layers of balance ``lam``: the smaller one as drawn, the other one with the spectrum that this asks for."""
    first, second = draws
    if lam > 0:
        return first, np.linalg.qr(turns[1])[0] @ _root(lam, first @ first.T)
    if lam < 0:
        return _root(-lam, second.T @ second) @ np.linalg.qr(turns[0])[0].T, second
    U, s, V = np.linalg.svd(first, full_matrices=False)
    rank = min(len(s), len(second))
    U, s, V = U[:, :rank], s[:rank], V[:rank]
    return (U * s) @ V, np.linalg.qr(turns[1][:, :rank])[0] @ (U * s).T


def _root(lam: float, gram: Floats) -> Floats:
    """Square root of ``lam I + gram``."""
    values, vectors = np.linalg.eigh(gram)
    return np.asarray((vectors * np.sqrt(lam + np.maximum(values, 0.0))) @ vectors.T)


def _inner(A: Floats, B: Floats, A2: Floats, B2: Floats, C: Floats) -> Floats:
    """``<I x A + B x C, I x A2 + B2 x C>`` of Kronecker products, by traces."""
    cross = np.trace(B2, axis1=-2, axis2=-1) * (A * C).sum(axis=(-2, -1))
    cross = cross + np.trace(B, axis1=-2, axis2=-1) * (A2 * C).sum(axis=(-2, -1))
    own = B.shape[-1] * (A * A2).sum(axis=(-2, -1)) + (B * B2).sum(axis=(-2, -1)) * (C * C).sum()
    return np.asarray(own + cross)


def _square(matrix: Floats) -> Floats:
    return np.asarray((matrix**2).sum(axis=(-2, -1)))


def _flat(matrix: Floats) -> Floats:
    return matrix.reshape(*matrix.shape[:-2], -1)
