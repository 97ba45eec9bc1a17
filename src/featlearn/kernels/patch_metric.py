"""A learned metric between patches, around the convolutional kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..exceptions import DataError
from .base import CHUNK, Kernel, positive, slices, wants_graph
from .conv import ConvNTK, box

__all__ = ["PatchMetric"]

SLAB = 2**27  # bytes of one temporary of the contraction


@dataclass(frozen=True, eq=False)
class PatchMetric(Kernel):
    r"""The convolutional kernel of linearly transformed patches; itself a kernel of images.

    .. math:: k_M(x, z) = \frac{1}{s} k(v^x_p A, v^z_p A), \qquad M = A A^\top

    Parameters
    ----------
    kernel : ConvNTK
        Knows nothing of the metric.
    factor : Tensor of shape (q, k), optional
        A, between patches of q = c patch_size^2 numbers; None is the identity. Only M matters.
    scale : float, default 1.0
        s.

    Raises
    ------
    DataError
        For a factor that does not fit the patches, or a scale that is not positive.
    """

    kernel: ConvNTK
    factor: Tensor | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        positive("scale", self.scale)
        if self.factor is not None and (self.factor.dim() != 2 or 0 in self.factor.shape):
            raise DataError(f"Got a factor of shape {tuple(self.factor.shape)}, but expected (q, k), k at least 1.")

    def to(self, rows: Tensor) -> PatchMetric:
        """The factor for images of this dtype and on this device."""
        return self if self.factor is None else PatchMetric(self.kernel, self.factor.to(rows), self.scale)

    def scaled_by(self, x: Tensor) -> PatchMetric:
        """The same metric, with the scale that makes 1 of the largest ``k(x_i, x_i)``; DataError for blank images."""
        largest = float(PatchMetric(self.kernel, self.factor).diagonal(x).max())
        if not 0 < largest < math.inf:
            raise DataError(f"Got images whose largest k(x, x) is {largest:g}, but expected a positive finite number.")
        return PatchMetric(self.kernel, self.factor, largest)

    def check(self, *batches: Tensor) -> None:
        """Refuse images that do not fit one another, the kernel or the factor."""
        self.kernel.check_images(*batches)
        q, x = batches[0].shape[1] * self.kernel.patch_size**2, batches[0]
        if self.factor is not None and (len(self.factor) != q or self.factor.dtype != x.dtype):
            raise DataError(
                f"Got a factor {tuple(self.factor.shape)} of {self.factor.dtype}, but expected ({q}, k) of {x.dtype} "
                f"for patches of {x.shape[1]} x {self.kernel.patch_size} x {self.kernel.patch_size} numbers."
            )

    def _check_expansion(self, x: Tensor, z: Tensor, dual: Tensor) -> None:
        self.check(x, z)
        if dual.dim() != 2 or len(dual) != len(x) or dual.dtype != x.dtype:
            raise DataError(
                f"Got dual coefficients {tuple(dual.shape)} of {dual.dtype}, but expected ({len(x)}, C) of {x.dtype}."
            )

    def project(self, x: Tensor) -> Tensor:
        """Patches times the factor, (n, h, w, k)."""
        return self.kernel.patches(x) if self.factor is None else self.kernel.filtered(x, self.factor)

    def norms(self, x: Tensor) -> list[Tensor]:
        """``a`` (n, h, w) of every layer."""
        if self.factor is None:
            square = pad(x.square().sum(dim=1), (self.kernel.padding,) * 4)
            return self.kernel.norms(box(square, self.kernel.patch_size) / x.shape[1])
        return self.kernel.norms(self.project(x).square().sum(dim=3) / x.shape[1])

    def definition(self, x: Tensor, z: Tensor) -> Tensor:
        """The recursion on the projected patches."""
        self.check(x, z)
        return self.kernel.of_patches(self.project(x), self.project(z), x.shape[1]) / self.scale

    def matrix(self, x: Tensor, z: Tensor) -> Tensor:
        """``k(x_i, z_j)`` of shape (n, m) for images (n, c, H, W) and (m, c, H, W).

        Equal images get the value of :meth:`diagonal`, which rounding would miss.
        """
        self.check(x, z)
        if wants_graph(x, z, *(() if self.factor is None else (self.factor,))):
            return self.definition(x, z)
        out = x.new_empty(len(x), len(z))
        if _compiled(x):
            from ._conv_numba import fill_matrix  # numba loads at first use

            few, many, target = (x, z, out) if len(x) <= len(z) else (z, x, out.mT)

            def put(rows: slice, columns: slice, block: Tensor) -> None:
                target[rows, columns] = block / self.scale

            fill_matrix(self, few, many, put)  # the fewer images are the ones that are kept prepared
        else:
            for part in self._parts(x, len(z)):
                out[:, part] = self.definition(x, z[part])
        return self._with_equal_pairs(out, x, z)

    def fill_(self, x: Tensor, out: Tensor, *, add: float | None = None) -> Tensor:
        """The symmetric matrix ``k(x_i, x_j)`` written into ``out`` (n, n), each pair computed once; or added to it,
        multiplied by ``add``.
        """
        self.check(x)
        if out.shape != (len(x), len(x)) or out.dtype != x.dtype or out.device != x.device:
            raise DataError(
                f"Got out {tuple(out.shape)} of {out.dtype} on {out.device}, but expected ({len(x)}, {len(x)}) of "
                f"{x.dtype} on {x.device}."
            )

        if add is not None:
            return out.add_(self.fill_(x, torch.empty_like(out)), alpha=add)
        x = x.detach()

        def put(rows: slice, columns: slice, block: Tensor) -> None:
            out[rows, columns] = block / self.scale

        if _compiled(x):
            from ._conv_numba import fill_matrix

            fill_matrix(self, x, None, put)
        else:
            for part in self._parts(x, len(x)):
                out[: part.stop, part] = self.definition(x[: part.stop], x[part])
        upper = out.triu(1)
        out.copy_(upper).add_(upper.mT)
        out.diagonal().copy_(self.diagonal(x))
        return out

    def diagonal(self, x: Tensor) -> Tensor:
        """``k(x_i, x_i)`` by its formula."""
        self.check(x)
        found = [
            self.norms(part)[-1].mean(dim=(1, 2)) for part in x.split(max(1, CHUNK // max(1, 8 * self._patch_bytes(x))))
        ]
        return torch.cat(found) * ((self.kernel.depth + 1) / self.scale)

    def expansion(self, x: Tensor, z: Tensor, dual: Tensor) -> Tensor:
        """Values (m, C) of ``f_c(z_j) = sum_i dual_ic k(x_i, z_j)``."""
        self._check_expansion(x, z, dual)
        if len(z) == 0:
            return z.new_empty(0, dual.shape[1])
        step = max(1, CHUNK // (x.element_size() * max(1, len(x))))
        return torch.cat([self.matrix(x, z[part]).mT @ dual for part in slices(len(z), step)])

    def expansion_gradient(self, x: Tensor, z: Tensor, dual: Tensor, *, rows: Tensor | None = None) -> Tensor:
        """Gradients (m, C, c, H, W) with respect to the pixels of z: those of all patches that hold one, added up."""
        images = [z.new_empty(0, dual.shape[-1], *z.shape[1:])]
        for part, gradients in self.patch_gradients(x, z, dual):
            folded = self.kernel.to_images(gradients.flatten(0, 1), (z.shape[2], z.shape[3]))
            images.append(folded.unflatten(0, (part.stop - part.start, dual.shape[1])))
        return torch.cat(images)

    def outer_factor(self, channels: int) -> Tensor | None:
        """``M / (c s)`` (q, q), the last factor of a patch gradient; None stands for ``I / (c s)``."""
        if self.factor is None:
            return None
        return self.factor @ self.factor.mT / (channels * self.scale)

    def patch_gradients(self, x: Tensor, z: Tensor, dual: Tensor) -> Iterator[tuple[slice, Tensor]]:
        r"""Gradients of a kernel expansion with respect to patches, for some images after the other.

        Parameters
        ----------
        x : Tensor of shape (n, c, H, W)
        z : Tensor of shape (m, c, H, W)
        dual : Tensor of shape (n, C)

        Yields
        ------
        part : slice
            Rows of z.
        gradients : Tensor of shape (len(part), C, h, w, q)
            :math:`d f_c(z_j) / d v_p`, patches as independent inputs: with respect to v, not to its projection.

        Notes
        -----
        One reverse pass a pair serves all outputs: 40 flops a position and layer, and then ``2 n m C q`` flops a
        position to combine. Where patches of the two images are parallel, the derivative of the kernel's arcus cosine
        counts as 0.
        """
        last = self.outer_factor(x.shape[1])
        for part, gradients in self.inner_gradients(x, z, dual):
            yield part, gradients / (x.shape[1] * self.scale) if last is None else gradients @ last

    @torch.no_grad()
    def inner_gradients(self, x: Tensor, z: Tensor, dual: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """The same before :meth:`outer_factor`, which quadratic forms of gradients need once, not for each of them."""
        self._check_expansion(x, z, dual)
        numbers = dual.shape[1] * self._patch_bytes(x)
        slopes = self._compiled_slopes(x, dual) if _compiled(x) else partial(self._slopes, x, dual)
        for part in slices(len(z), max(1, SLAB // max(1, numbers))):
            gradients, along_z = slopes(z[part])
            yield part, gradients.addcmul_(along_z[..., None], self.kernel.patches(z[part])[:, None], value=2)

    def _slopes(self, x: Tensor, dual: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes in S, times coefficients and patches of x, and in b, times coefficients: the plain definition."""
        patches, projected = self.kernel.patches(x), self.project(x)
        along, along_z = [], []
        for part in self._parts(x, len(z)):
            by_s, by_b = self.kernel.slopes_of_patches(projected, self.project(z[part]), x.shape[1])
            along.append(torch.einsum("nmhw,nC,nhwq->mChwq", by_s, dual, patches))
            along_z.append(torch.einsum("nmhw,nC->mChw", by_b, dual))
        return torch.cat(along), torch.cat(along_z)

    def _compiled_slopes(self, x: Tensor, dual: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        from ._conv_numba import contracted_slopes, tiles_of

        tiles = tiles_of(self, x)
        return lambda z: contracted_slopes(self, tiles, z, dual)

    def _with_equal_pairs(self, out: Tensor, x: Tensor, z: Tensor) -> Tensor:
        """Put the exact value where two images are equal, which their bytes tell."""
        places: dict[bytes, list[int]] = {}
        for i, image in enumerate(x.detach().cpu().numpy()):
            places.setdefault(image.tobytes(), []).append(i)
        pairs = [(i, j) for j, image in enumerate(z.detach().cpu().numpy()) for i in places.get(image.tobytes(), ())]
        if pairs:
            rows, columns = torch.tensor(pairs, device=x.device).unbind(dim=1)
            own, place = rows.unique(return_inverse=True)
            out[rows, columns] = self.diagonal(x[own])[place]
        return out

    def _patch_bytes(self, x: Tensor) -> int:
        h, w = self.kernel.map_size(*x.shape[2:])
        return int(h * w * x.shape[1] * self.kernel.patch_size**2 * x.element_size())

    def _parts(self, x: Tensor, points: int) -> Iterator[slice]:
        """Points whose maps with all of x are held at once."""
        h, w = self.kernel.map_size(*x.shape[2:])
        return slices(points, max(1, CHUNK // max(1, len(x) * h * w * x.element_size())))


def _compiled(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32
