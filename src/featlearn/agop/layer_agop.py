r"""The AGOP of one layer as its weight and tangent kernel, and of a convolution as images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..exceptions import DataError, UnmeasurableError
from ..linalg.psd import congruence, congruent_eigenvalues, top_eigenvectors
from ..linalg.spectrum import Spectrum
from .accumulate import accumulation_dtype

__all__ = ["LayerAGOP", "PatchAGOP", "patch_agop"]


@dataclass(frozen=True, eq=False)
class LayerAGOP:
    r"""Weight and tangent kernel of one layer; its AGOP is ``G = W^T K W``.

    Attributes
    ----------
    weight : Tensor of shape (groups, k, d)
    tangent_kernel : Tensor of shape (groups, k, k) or None
        ``K``, mean over samples, sum over positions and outputs. None when it is ``isotropic * I``.
    basis : Tensor of shape (k, r) or None
        Orthonormal columns spanning those of W; then ``tangent_kernel`` is ``basis^T K basis`` of shape (1, r, r).
    isotropic : float or None
        Set for the model's last layer on its raw outputs, where K is the number of positions times the identity.
    n_samples : int
    patch_shape : tuple of int or None
        ``(channels / groups, *kernel)`` of a convolution.
    """

    name: str
    weight: Tensor
    tangent_kernel: Tensor | None
    n_samples: int
    basis: Tensor | None = None
    isotropic: float | None = None
    patch_shape: tuple[int, ...] | None = None

    def effective(self) -> tuple[Tensor, Tensor]:
        """Weight and kernel in the same coordinates, shapes (groups, r, d) and (groups, r, r)."""
        if self.tangent_kernel is None:
            assert self.isotropic is not None
            weight = self.weight.to(accumulation_dtype(self.weight.dtype))
            eye = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
            return weight, self.isotropic * eye.expand(len(weight), -1, -1)
        weight = self.weight.to(self.tangent_kernel.dtype)
        return (weight if self.basis is None else self.basis.mT @ weight), self.tangent_kernel

    def agop(self) -> Tensor:
        """``W^T K W``, of shape (d, d), or (groups, d, d) for grouped convolutions."""
        if self.isotropic is not None:
            weight = self.weight.to(accumulation_dtype(self.weight.dtype))
            agop = self.isotropic * (weight.mT @ weight)
        else:
            agop = congruence(*self.effective())
        return agop[0] if len(agop) == 1 else agop

    def spectrum(self) -> Spectrum:
        """Eigenvalues of the AGOP over all groups, with their ranks."""
        weight, kernel = self.effective()
        return Spectrum(congruent_eigenvalues(weight.double(), kernel.double()).flatten().cpu().numpy())

    def merge(self, other: LayerAGOP) -> LayerAGOP:
        """The same layer over the samples of both measurements (of one unchanged model)."""
        if self.name != other.name or not torch.equal(self.weight, other.weight):
            raise DataError(
                f"Got AGOPs of {self.name!r} and {other.name!r}, but expected one layer with equal weights."
            )
        total = self.n_samples + other.n_samples
        mine, theirs = self.n_samples / total, other.n_samples / total
        kernel, isotropic = None, None
        if self.tangent_kernel is not None and other.tangent_kernel is not None:
            kernel = mine * self.tangent_kernel + theirs * other.tangent_kernel
        elif self.isotropic is not None and other.isotropic is not None:
            isotropic = mine * self.isotropic + theirs * other.isotropic
        else:
            raise DataError(f"Got two AGOPs of {self.name!r}, of which one is of the outputs themselves.")
        return LayerAGOP(self.name, self.weight, kernel, total, self.basis, isotropic, self.patch_shape)


@dataclass(frozen=True, eq=False)
class PatchAGOP:
    """Patch AGOP of a convolution over all its input channels: ``matrix`` of shape (c * kernel, c * kernel)."""

    matrix: Tensor
    patch_shape: tuple[int, ...]

    def images(self, top: int = 8) -> Tensor:
        """Top eigenvectors as patches ``(top, c, *kernel)``, largest eigenvalue first, largest entry positive."""
        return top_eigenvectors(self.matrix, top)[1].mT.reshape(-1, *self.patch_shape)


def patch_agop(layer_agop: LayerAGOP) -> PatchAGOP:
    """Patch AGOP of a convolution; the groups of a grouped one stand on the diagonal.

    Parameters
    ----------
    layer_agop : LayerAGOP
        From :func:`agop_of_module`.

    Returns
    -------
    PatchAGOP
        ``.matrix`` and ``.images(top)``.

    Raises
    ------
    UnmeasurableError
        When the layer is no convolution.
    """
    if layer_agop.patch_shape is None:
        raise UnmeasurableError(f"Got {layer_agop.name!r}, which is no convolution. Use .agop() for linear layers.")
    agop = layer_agop.agop()
    blocks = [agop] if agop.dim() == 2 else list(agop)
    channels, *kernel = layer_agop.patch_shape
    return PatchAGOP(torch.block_diag(*blocks), (channels * len(blocks), *kernel))
