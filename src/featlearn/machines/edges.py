r"""How close directions between patches are to oriented derivatives, always beside what chance and plain PCA give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..exceptions import DataError
from ..kernels import ConvNTK
from ..linalg.psd import top_eigenvectors
from ..linalg.similarity import matrix_correlation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EdgeReport", "derivative_filters", "edge_report", "patch_moment", "sobel_magnitude"]

PCA = "patch PCA"


@dataclass(frozen=True)
class EdgeReport:
    r"""Leading directions of matrices between patches, and what they look for.

    Attributes
    ----------
    channels, patch_size : int
    matrices : tuple of str
        Names; the last one is "patch PCA", the second moment of the training patches: a null.
    eigenvalues : dict of str to tuple of float
        The leading ones, as shares of the trace; zeros where that is 0.
    directions : dict of str to array of shape (top, c, ps, ps)
    edge_energy : dict of str to tuple of float
        :math:`|E u|^2` of each direction u, E the orthonormal first derivatives in each channel: 1 for an oriented
        derivative of any angle and colour.
    constant_energy : dict of str to tuple of float
        Share of u that is constant within each channel.
    chance_of_edge, chance_of_constant : float
        Both for a random direction: ``2 c / q`` and ``c / q``.
    similarity : dict of (str, str) to dict
        For two matrices: ``cosine`` of their entries and its mean ``chance`` over random rotations of one of them;
        ``overlap`` of the leading subspaces, the mean squared cosine of their principal angles, and its chance
        ``top / q``.
    """

    channels: int
    patch_size: int
    matrices: tuple[str, ...]
    eigenvalues: dict[str, tuple[float, ...]]
    directions: dict[str, Any]
    edge_energy: dict[str, tuple[float, ...]]
    constant_energy: dict[str, tuple[float, ...]]
    chance_of_edge: float
    chance_of_constant: float
    similarity: dict[tuple[str, str], dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        told = {key: value for key, value in vars(self).items() if key not in ("directions", "similarity")}
        return told | {
            "matrices": list(self.matrices),
            "directions": {name: np.asarray(value).tolist() for name, value in self.directions.items()},
            "similarity": [{"first": a, "second": b, **entry} for (a, b), entry in self.similarity.items()],
        }

    def frame(self) -> Any:
        """One row a direction: matrix, place, share of the trace, edge and constant energy."""
        import pandas as pd

        return pd.DataFrame(
            [
                {"matrix": name, "direction": place + 1, "share": share, "edge": edge, "constant": constant}
                for name in self.matrices
                for place, (share, edge, constant) in enumerate(
                    zip(self.eigenvalues[name], self.edge_energy[name], self.constant_energy[name], strict=True)
                )
            ]
        )

    def plot(self) -> Figure:
        """The directions as patches, with their numbers."""
        from ..plots.filters import plot_filters

        return plot_filters(self.to_dict())


def derivative_filters(patch_size: int, channels: int = 1) -> Tensor:
    r"""Orthonormal first derivatives, (2 c, q): along x and along y in one channel each.

    For 3 x 3 those of Sobel over :math:`\sqrt{12}`, else those of a Gaussian of width ``patch_size / 5``. Any oriented
    first derivative, in any mixture of channels, lies in their span.

    Raises
    ------
    DataError
        For a patch size below 2.
    """
    if patch_size < 2:
        raise DataError(f"Got patches of {patch_size} pixel, but expected at least 2 x 2: a pixel has no derivative.")
    place = torch.arange(patch_size, dtype=torch.float64) - (patch_size - 1) / 2
    across = place.sign() if patch_size == 3 else place * torch.exp(-(place**2) * 12.5 / patch_size**2)
    along = torch.tensor([1.0, 2.0, 1.0]).double() if patch_size == 3 else torch.exp(-(place**2) * 12.5 / patch_size**2)
    x, y = torch.outer(along, across).flatten(), torch.outer(across, along).flatten()
    pair = torch.stack([x / x.norm(), y / y.norm()])
    return torch.block_diag(*[pair] * channels)


def patch_moment(kernel: ConvNTK, x: Tensor) -> Tensor:
    """Second moment (q, q) of all patches of images, float64: its eigenvectors are those of patch PCA."""
    q = x.shape[1] * kernel.patch_size**2
    total, count = x.new_zeros(q, q, dtype=torch.float64), 0
    for part in x.split(256):
        rows = kernel.patches(part).reshape(-1, q)
        total += (rows.mT @ rows).double()
        count += len(rows)
    return total / count


def edge_report(
    matrices: Mapping[str, Any], channels: int, *, patch_moment: Tensor | None = None, top: int | None = None
) -> EdgeReport:
    """Compare matrices (q, q) between patches of ``channels`` channels with derivatives, and with one another.

    Parameters
    ----------
    matrices : mapping of str to array (q, q)
        Symmetric: a patch AGOP, a learned metric, or ``W^T W`` of filters W (k, q) in the order (channel, row, column).
    channels : int
    patch_moment : Tensor of shape (q, q), optional
        :func:`patch_moment` of the images: added as the null "patch PCA".
    top : int, optional
        Directions; default ``2 c``.

    Raises
    ------
    DataError
        For matrices that are not all (c s^2, c s^2) with one s, or a ``top`` below 1.
    """
    found = {name: torch.as_tensor(value).detach().cpu().double() for name, value in matrices.items()}
    if patch_moment is not None:
        found[PCA] = patch_moment.cpu().double()
    sizes = {tuple(value.shape) for value in found.values()}
    q = next(iter(sizes))[0] if sizes else 0
    side = round((q / channels) ** 0.5) if channels > 0 else 0
    if len(sizes) != 1 or sizes != {(q, q)} or not q or channels * side * side != q:
        raise DataError(
            f"Got matrices of shapes {sorted(sizes)} for {channels} channels, but expected all (c s^2, c s^2) for "
            "patches of s x s pixels."
        )
    if top is not None and (not isinstance(top, int | np.integer) or isinstance(top, bool) or top < 1):
        raise DataError(f"Got top={top!r}, but expected a whole number of at least 1.")
    top = min(2 * channels if top is None else int(top), q)
    edges = derivative_filters(side, channels)
    constants = torch.block_diag(*[torch.full((1, side * side), 1.0 / side, dtype=torch.float64)] * channels)
    spectra = {name: top_eigenvectors(value, top) for name, value in found.items()}
    names = list(found)
    return EdgeReport(
        channels=channels,
        patch_size=side,
        matrices=tuple(names),
        eigenvalues={name: _shares(spectra[name][0], found[name]) for name in names},
        directions={name: spectra[name][1].mT.reshape(top, channels, side, side).numpy() for name in names},
        edge_energy={name: _floats((edges @ spectra[name][1]).square().sum(dim=0)) for name in names},
        constant_energy={name: _floats((constants @ spectra[name][1]).square().sum(dim=0)) for name in names},
        chance_of_edge=2 * channels / q,
        chance_of_constant=channels / q,
        similarity={
            (a, b): {
                "cosine": matrix_correlation(found[a], found[b], "cosine"),
                # The mean over all rotations of either is tr A tr B / q.
                "chance": float(found[a].trace() * found[b].trace() / (q * found[a].norm() * found[b].norm())),
                "overlap": float((spectra[a][1].mT @ spectra[b][1]).square().sum() / top),
                "overlap_chance": top / q,
            }
            for place, a in enumerate(names)
            for b in names[place + 1 :]
        },
    )


def sobel_magnitude(images: Tensor) -> Tensor:
    """Size of the Sobel gradient (n, H - 2, W - 2) of images (n, c, H, W), over all channels.

    Raises
    ------
    DataError
        For images of fewer than 3 x 3 pixels.
    """
    if min(images.shape[2:]) < 3:
        raise DataError(
            f"Got images of {images.shape[2]} x {images.shape[3]} pixels, but expected at least 3 x 3: smaller ones "
            "have no Sobel gradient."
        )
    filters = (derivative_filters(3) * 12**0.5).to(images).reshape(2, 1, 3, 3)
    maps = torch.nn.functional.conv2d(images.flatten(0, 1)[:, None], filters)
    return maps.unflatten(0, images.shape[:2]).square().sum(dim=(1, 2)).sqrt()


def _shares(values: Tensor, matrix: Tensor) -> tuple[float, ...]:
    total = float(matrix.trace())
    return _floats(values / total if total > 0 else torch.zeros_like(values))


def _floats(values: Tensor) -> tuple[float, ...]:
    return tuple(map(float, values))
