"""Covariance of two neurons with the activation |z| on Gaussian inputs, and its gradient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .solvable import as_floats

__all__ = ["NO_DIRECTION", "AbsoluteKernel", "absolute_kernel", "polar"]

Floats = NDArray[np.float64]

NO_DIRECTION = 1e-12  # norm below which a vector has none


def absolute_kernel(u: ArrayLike, v: ArrayLike) -> Floats:
    r"""Covariance of ``|u.x|`` and ``|v.x|`` for standard Gaussian x.

    .. math:: K(u, v) = \frac2\pi |u| |v| \left(\sqrt{1 - \rho^2} + \rho \arcsin \rho - 1\right),
              \quad \rho = \cos(u, v)

    Parameters
    ----------
    u : array_like of shape (..., n, d)
    v : array_like of shape (..., m, d)

    Returns
    -------
    array of shape (..., n, m)

    Notes
    -----
    Costs O(n m d). Provenance: derived here, checked against samples.

    Examples
    --------
    >>> absolute_kernel([[1.0, 0.0]], [[2.0, 0.0], [0.0, 1.0]]).round(4).tolist()
    [[0.7268, 0.0]]
    """
    return AbsoluteKernel.of(as_floats(u, "u"), as_floats(v, "v")).matrix()


@dataclass(frozen=True, eq=False)
class AbsoluteKernel:
    """What the kernel of u (..., n, d) and v (..., m, d) and its gradient in u have in common."""

    unit_u: Floats
    norm_u: Floats
    unit_v: Floats
    norm_v: Floats
    bend: Floats  # sqrt(1 - rho^2) - 1
    arcsine: Floats
    cosine: Floats

    @classmethod
    def of(cls, u: Floats, v: Floats) -> AbsoluteKernel:
        """Angles between all u and v."""
        (unit_u, norm_u), (unit_v, norm_v) = polar(u), polar(v)
        cosine = np.clip(unit_u @ np.swapaxes(unit_v, -1, -2), -1.0, 1.0)
        square = cosine**2
        # As it stands, the difference would cancel at small cosines.
        bend = -square / (1 + np.sqrt(1 - square))
        return cls(unit_u, norm_u, unit_v, norm_v, bend, np.arcsin(cosine), cosine)

    def matrix(self) -> Floats:
        """``K(u_i, v_j)``, shape (..., n, m)."""
        norms = self.norm_u * np.swapaxes(self.norm_v, -1, -2)
        return np.asarray(2 / np.pi * norms * (self.bend + self.cosine * self.arcsine))

    def gradient(self, weights: Floats) -> Floats:
        r"""Gradient in u of ``sum_j weights_j K(u, v_j)``, shape (..., n, d); 0 for a u without direction.

        .. math:: \frac{\partial K}{\partial u} = \frac2\pi |v| \left(\frac{u}{|u|} (\sqrt{1 - \rho^2} - 1)
                  + \frac{v}{|v|} \arcsin \rho\right)
        """
        mass = weights[..., np.newaxis] * self.norm_v
        return np.asarray(2 / np.pi * (self.unit_u * (self.bend @ mass) + self.arcsine @ (self.unit_v * mass)))


def polar(vectors: Floats) -> tuple[Floats, Floats]:
    """Unit vectors (..., n, d), zero for those without direction, and norms (..., n, 1)."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    alive = norms > NO_DIRECTION
    return np.where(alive, vectors / np.where(alive, norms, 1.0), 0.0), norms
