"""Neural tangent kernel of a convolutional ReLU network, and its slopes with respect to patches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, fold, pad

from ..exceptions import DataError
from .arccos import PARALLEL, cut_off_activations, relu_activations
from .base import Kernel

__all__ = ["ConvNTK", "box", "box_transposed"]


@dataclass(frozen=True)
class ConvNTK(Kernel):
    r"""Tangent kernel of an infinitely wide network: (convolution, ReLU) ``depth`` times, flatten, linear.

    Windows are ``patch_size`` x ``patch_size`` with stride 1, only those inside the image, without biases. "Flatten"
    means that only equal positions of two images meet. With patches :math:`v_p` (numbers of all channels of one
    window), for a pair of images maps over positions p:

    .. math::

        & S = \Theta = \tfrac1c \langle v_p^x, v_p^z \rangle, \quad a = \tfrac1c |v_p^x|^2, \quad
          b = \tfrac1c |v_p^z|^2; \\
        & \text{each layer:} \quad \rho = S / \sqrt{ab}, \quad N = \sqrt{ab} \, \kappa_1(\rho), \quad
          T = \Theta \, \kappa_0(\rho); \\
        & \text{the next one:} \quad S = \mathrm{box}(N), \quad \Theta = S + \mathrm{box}(T), \quad
          a = \mathrm{box}(a), \quad b = \mathrm{box}(b); \\
        & k(x, z) = \mathrm{mean}_p (N + T),

    where box sums each window, and :math:`\kappa_0, \kappa_1` are those of :class:`~featlearn.kernels.ArcCosNTK`.

    Parameters
    ----------
    patch_size : int
        Side of the windows.
    depth : int, default 3
        Convolutional layers.
    padding : int, default 0
        Zeros put around the image, before the first layer only.

    Raises
    ------
    DataError
        For a patch size or depth below 1, a negative padding or one of ``patch_size`` or more, an even patch size with
        padding, or (when it is used) images that are smaller than ``depth (patch_size - 1) + 1`` after padding.

    Notes
    -----
    "Rows" are images here, tensors (n, c, H, W); everything else is as for any :class:`Kernel`. For an image with
    itself ``k(x, x) = (depth + 1) mean_p a(p)`` of the last layer, which rounding would miss by 1e-4 in single
    precision. Homogeneous of degree 1 in each image. A blank patch contributes nothing; its
    slope, which has no single value, is that of the middle, kappa_0 = 1/2.

    One pair costs about ``2 q + 33 depth`` flops a position, q the numbers of a patch. Single precision on a processor
    runs compiled, and never holds a map of more than 64 pairs; else the definition runs in chunks.

    References
    ----------
    Arora, Du, Hu, Li, Salakhutdinov, Wang (2019), arXiv:1904.11955, for tangent kernels of convolutional networks;
    Beaglehole, Radhakrishnan, Pandit, Belkin (2023), arXiv:2309.00570, for this one's use.

    Examples
    --------
    >>> import torch
    >>> images = torch.arange(32.0).reshape(2, 1, 4, 4)
    >>> ConvNTK(3, depth=1).matrix(images, images).shape
    torch.Size([2, 2])
    """

    patch_size: int
    depth: int = 3
    padding: int = 0

    def __post_init__(self) -> None:
        for name, least in (("patch_size", 1), ("depth", 1), ("padding", 0)):
            value: Any = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise DataError(f"Got {name}={value!r}, but expected an integer of at least {least}.")
        if self.padding >= self.patch_size:
            raise DataError(
                f"Got padding={self.padding} with patch_size={self.patch_size}, but expected at most "
                f"{self.patch_size - 1}: windows further out would hold zeros alone."
            )
        if self.padding and self.patch_size % 2 == 0:
            raise DataError(
                f"Got patch_size={self.patch_size} with padding={self.padding}, but expected an odd patch size: even "
                "windows have no centre, so that the padding would be lopsided."
            )

    # patches and maps ---------------------------------------------------------------------------------------------

    @property
    def smallest_image(self) -> int:
        """Least height and width of an image, before padding."""
        return self.depth * (self.patch_size - 1) + 1 - 2 * self.padding

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the first layer's positions."""
        less = self.patch_size - 1 - 2 * self.padding
        return height - less, width - less

    def patches(self, x: Tensor) -> Tensor:
        """Patches (n, h, w, q) of images (n, c, H, W), each in the order (channel, row, column)."""
        windows = pad(x, (self.padding,) * 4).unfold(2, self.patch_size, 1).unfold(3, self.patch_size, 1)
        return windows.permute(0, 2, 3, 1, 4, 5).flatten(3)

    def to_images(self, patches: Tensor, size: tuple[int, int]) -> Tensor:
        """The transpose of :meth:`patches`: (n, h, w, q) added up into images (n, c, H, W); padding is dropped."""
        return fold(patches.flatten(1, 2).mT, size, self.patch_size, padding=self.padding)

    def filtered(self, x: Tensor, filters: Tensor) -> Tensor:
        """Patches times filters (q, k), shape (n, h, w, k): as a convolution, which makes no copies of pixels."""
        weight = filters.mT.reshape(-1, x.shape[1], self.patch_size, self.patch_size)
        last = torch.channels_last  # several times faster on processors
        maps = conv2d(x.contiguous(memory_format=last), weight.contiguous(memory_format=last), padding=self.padding)
        return maps.permute(0, 2, 3, 1).contiguous()

    def norms(self, first: Tensor) -> list[Tensor]:
        """``a`` (n, h, w) of every layer, from that of the first one."""
        found = [first]
        for _ in range(self.depth - 1):
            found.append(box(found[-1], self.patch_size))
        return found

    def check_images(self, *batches: Tensor) -> None:
        """Refuse tensors that are no images of one kind, or images that are too small."""
        first = batches[0]
        for x in batches:
            alike = x.dim() == 4 and first.dim() == 4 and x.shape[1:] == first.shape[1:]
            single_or_double = x.dtype == first.dtype and x.dtype in (torch.float32, torch.float64)
            if not alike or not single_or_double or x.device != first.device or not first.shape[1]:
                raise DataError(
                    f"Got images {tuple(x.shape)} of {x.dtype} on {x.device} and {tuple(first.shape)} of {first.dtype} "
                    f"on {first.device}, but expected (n, channels, height, width) of one size, all cast to float32 or "
                    "all to float64, on one device."
                )
        if min(first.shape[2:]) < self.smallest_image:
            raise DataError(
                f"Got images of {first.shape[2]} x {first.shape[3]} pixels, but depth={self.depth} with "
                f"patch_size={self.patch_size} and padding={self.padding} needs at least {self.smallest_image} x "
                f"{self.smallest_image}. Use a smaller depth or patch size, or more padding. (Channels come second.)"
            )

    # the definition -----------------------------------------------------------------------------------------------

    def of_patches(self, u: Tensor, v: Tensor, channels: int) -> Tensor:
        """The recursion (n, m) for patches u (n, h, w, k) and v (m, h, w, k), differentiable."""
        s = theta = n = t = torch.einsum("nhwk,mhwk->nmhw", u, v) / channels
        for layer, (a, b) in enumerate(self._layer_norms(u, v, channels)):
            if layer:
                s = box(n, self.patch_size)
                theta = s + box(t, self.patch_size)
            product = a[:, None] * b
            blank = product == 0
            norm = torch.where(blank, 1.0, product).sqrt()
            k0, k1 = cut_off_activations((s / norm).masked_fill(blank, 0))
            n, t = (norm * k1).masked_fill(blank, 0), (theta * k0).masked_fill(blank, 0)
        return (n + t).mean(dim=(2, 3))

    def slopes_of_patches(self, u: Tensor, v: Tensor, channels: int) -> tuple[Tensor, Tensor]:
        r"""The recursion in reverse: maps (n, m, h, w) of the slopes of k(x, z) in S and in b of the first layer.

        The gradient with respect to a patch of z is ``(slope_S u_p + 2 slope_b v_p) / c``.
        """
        layers = []
        s = theta = n = t = torch.einsum("nhwk,mhwk->nmhw", u, v) / channels
        for layer, (a, b) in enumerate(self._layer_norms(u, v, channels)):
            if layer:
                s = box(n, self.patch_size)
                theta = s + box(t, self.patch_size)
            product = a[:, None] * b
            blank = product == 0
            norm = torch.where(blank, 1.0, product).sqrt()
            rho = (s / norm).masked_fill(blank, 0).clamp(-1, 1)
            k0, k1, sine = relu_activations(rho)
            # Parallel patches, to within rounding: the derivative of the arcus cosine is infinite and counts as 0.
            flat = blank | (sine.square() < PARALLEL[u.dtype])
            by_rho = (theta / (math.pi * sine)).masked_fill(flat, 0)
            layers.append((rho, k0, sine, by_rho / norm, norm / torch.where(b == 0, 1.0, b), blank))
            n, t = (norm * k1).masked_fill(blank, 0), (theta * k0).masked_fill(blank, 0)
        by_n = by_t = torch.full_like(n, 1 / (n.shape[2] * n.shape[3]))
        by_b = torch.zeros_like(by_n)
        for layer, (rho, k0, sine, by_s_of_k0, ratio, blank) in reversed(list(enumerate(layers))):
            step = by_n * ratio * sine / (2 * math.pi) - by_t * by_s_of_k0 * rho * ratio / 2
            by_b = by_b + step.masked_fill(blank, 0)
            by_theta = by_t * k0
            by_s = by_n * k0 + by_t * by_s_of_k0 + by_theta
            if layer:
                by_n, by_t = box_transposed(by_s, self.patch_size), box_transposed(by_theta, self.patch_size)
                by_b = box_transposed(by_b, self.patch_size)
        return by_s, by_b

    def _layer_norms(self, u: Tensor, v: Tensor, channels: int) -> list[tuple[Tensor, Tensor]]:
        first = (patches.square().sum(dim=-1) / channels for patches in (u, v))
        return list(zip(*(self.norms(a) for a in first), strict=True))

    def definition(self, x: Tensor, z: Tensor) -> Tensor:
        """The recursion on the patches of the images."""
        self.check_images(x, z)
        return self.of_patches(self.patches(x), self.patches(z), x.shape[1])

    # what every kernel offers -------------------------------------------------------------------------------------

    def matrix(self, x: Tensor, z: Tensor) -> Tensor:
        """``k(x_i, z_j)`` of shape (n, m) for images (n, c, H, W) and (m, c, H, W)."""
        return self._plain_metric.matrix(x, z)

    def fill_(self, x: Tensor, out: Tensor, *, add: float | None = None) -> Tensor:
        """The symmetric matrix ``k(x_i, x_j)`` written into ``out``, each pair computed once."""
        return self._plain_metric.fill_(x, out, add=add)

    def diagonal(self, x: Tensor) -> Tensor:
        """``(depth + 1) mean_p a(p)`` of the last layer."""
        return self._plain_metric.diagonal(x)

    def expansion(self, x: Tensor, z: Tensor, dual: Tensor) -> Tensor:
        """Values (m, C) of a kernel expansion."""
        return self._plain_metric.expansion(x, z, dual)

    def expansion_gradient(self, x: Tensor, z: Tensor, dual: Tensor, *, rows: Tensor | None = None) -> Tensor:
        """Gradients (m, C, c, H, W) with respect to the pixels of z: those of the patches, added up."""
        return self._plain_metric.expansion_gradient(x, z, dual, rows=rows)

    @property
    def _plain_metric(self) -> Any:
        from .patch_metric import PatchMetric  # which is built on this class

        return PatchMetric(self)


def box(maps: Tensor, size: int) -> Tensor:
    """Sums over all windows inside (..., h, w)."""
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    return avg_pool2d(flat, size, stride=1, divisor_override=1).reshape(*maps.shape[:-2], *(
        side - size + 1 for side in maps.shape[-2:]
    ))  # fmt: skip


def box_transposed(maps: Tensor, size: int) -> Tensor:
    """The transpose of :func:`box`: every entry of (..., h, w) added to all positions of its window."""
    return box(pad(maps, (size - 1,) * 4), size)
