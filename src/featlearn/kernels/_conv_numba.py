"""The recursion of :mod:`featlearn.kernels.conv` and its reverse, compiled for processors; imports numba.

Positions outside, 64 training images inside and side by side: every step, window sums included, is a loop over
contiguous numbers. Layers follow one another row by row, so that only ``patch_size`` rows of each are held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from .base import slices

if TYPE_CHECKING:
    from .conv import ConvNTK
    from .patch_metric import PatchMetric

__all__ = ["LANES", "Tile", "contracted_slopes", "fill_matrix", "tiles_of"]

LANES = 64  # images of a tile: eight vector registers, and a row of 30 positions in 8 kB
AT_ONCE = 2**25  # bytes of prepared evaluation images held at once

# Sums may be reordered, which is what lets them run in vector registers; NaN and infinity keep their meaning.
# Compiling takes 12 s: the machine code is kept beside this file, or where NUMBA_CACHE_DIR says.
compiled = numba.njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"}, cache=True)

Single = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Tile:
    """Up to 64 images side by side; those that are missing are blank.

    Attributes
    ----------
    pixels : array of (c H W 64) numbers
        Padded images, the images innermost.
    roots, inverses : array of shape (depth, h, w 64)
        ``sqrt(a)`` of every layer in its upper left corner, and ``1 / sqrt(a)``, 0 where a is.
    count : int
        Images in the tile.
    """

    pixels: Single
    roots: Single
    inverses: Single
    count: int


@dataclass(frozen=True, eq=False)
class _Points:
    """Images one by one.

    Attributes
    ----------
    weights : array of shape (m, h, w q)
        Patches times ``M / c``.
    roots, inverses : array of shape (m, depth, h, w)
        ``sqrt(b)`` and ``1 / sqrt(b)`` of every layer.
    """

    weights: Single
    roots: Single
    inverses: Single


def tiles_of(metric: PatchMetric, x: Tensor) -> list[Tile]:
    """The images in tiles of 64."""
    kernel, shape = metric.kernel, _Shape(metric.kernel, x)
    filters = np.empty((0, 0), np.float32)
    if metric.factor is not None:
        filters = np.tile(metric.factor.mT.numpy(), (1, shape.width))  # for every position of a row

    def one(part: slice) -> Tile:
        images = pad(x[part], (kernel.padding,) * 4)
        missing = LANES - len(images)
        if missing:
            images = pad(images, (0,) * 7 + (missing,))
        pixels = images.flatten(1).mT.contiguous().flatten().numpy()
        norms = np.zeros((kernel.depth, shape.height, shape.width * LANES), np.float32)
        _norms(pixels, shape.offsets, filters, kernel.patch_size, shape.row, np.float32(1 / x.shape[1]), norms)
        roots = torch.from_numpy(norms).sqrt_()
        return Tile(pixels, norms, _inverse(roots).numpy(), LANES - missing)

    return _in_threads(one, slices(len(x), LANES))


def _points_of(metric: PatchMetric, z: Tensor) -> _Points:
    """Evaluation images, ready for any tile."""
    kernel, factor, c = metric.kernel, metric.factor, z.shape[1]
    if factor is None:
        weights, norms = kernel.patches(z) / c, metric.norms(z)
    elif 2 * factor.shape[1] < len(factor):
        projected = metric.project(z)
        weights, norms = projected @ factor.mT / c, kernel.norms(projected.square().sum(dim=3) / c)
    else:
        weights = kernel.filtered(z, factor @ factor.mT / c)
        norms = kernel.norms((kernel.patches(z) * weights).sum(dim=3).clamp_min(0))
    roots = _roots(norms)
    return _Points(weights.flatten(2).contiguous().numpy(), roots.numpy(), _inverse(roots).numpy())


def fill_matrix(metric: PatchMetric, x: Tensor, z: Tensor | None, put: Callable[[slice, slice, Tensor], None]) -> None:
    """Blocks of the kernel matrix of x and z, handed over as ``put(rows of x, rows of z, block)``.

    Without z, that of x with itself: blocks on and above the diagonal of tiles only.
    """
    points = x if z is None else z
    tiles, shape = tiles_of(metric, x), _Shape(metric.kernel, x)
    step = max(LANES, AT_ONCE // (4 * shape.numbers) // LANES * LANES)
    for part in slices(len(points), step):
        ready = _points_of(metric, points[part])

        def one(place: int, ready: _Points = ready, part: slice = part) -> None:
            first = 0 if z is not None else max(0, place * LANES - part.start)
            if first >= part.stop - part.start:
                return
            out = np.empty((part.stop - part.start - first, LANES), np.float32)
            tile = tiles[place]
            _forward(
                tile.pixels, tile.roots, tile.inverses, ready.weights[first:], ready.roots[first:],
                ready.inverses[first:], shape.offsets, metric.kernel.patch_size, shape.row, out,
            )  # fmt: skip
            rows = slice(place * LANES, place * LANES + tile.count)
            put(rows, slice(part.start + first, part.stop), torch.from_numpy(out[:, : tile.count].T))

        _in_threads(one, range(len(tiles)))


def contracted_slopes(metric: PatchMetric, tiles: list[Tile], z: Tensor, dual: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes in S times coefficients and patches, ``sum_i dual_ic slope_i(p) u_p^i`` of shape (m, C, h, w, q), and
    slopes in b times coefficients, (m, C, h, w).
    """
    kernel = metric.kernel
    shape, ready = _Shape(kernel, z), _points_of(metric, z)
    m, outputs, q = len(z), dual.shape[1], z.shape[1] * kernel.patch_size**2
    along = np.zeros((m, outputs, shape.height, shape.width * q), np.float32)
    along_z = np.zeros((m, outputs, shape.height, shape.width), np.float32)
    coefficients = pad(dual, (0, 0, 0, len(tiles) * LANES - len(dual))).view(len(tiles), LANES, outputs)
    betas = coefficients.mT.contiguous().numpy()

    def some(part: slice) -> None:
        for tile, beta in zip(tiles, betas, strict=True):
            _adjoint(
                tile.pixels, tile.roots, tile.inverses, ready.weights[part], ready.roots[part], ready.inverses[part],
                shape.offsets, kernel.patch_size, shape.row, beta, along[part], along_z[part],
            )  # fmt: skip

    _in_threads(some, slices(m, max(1, m // (4 * torch.get_num_threads()))))
    return torch.from_numpy(along).unflatten(3, (shape.width, q)), torch.from_numpy(along_z)


class _Shape:
    """Sizes that the loops need."""

    def __init__(self, kernel: ConvNTK, x: Tensor) -> None:
        c, height, width = x.shape[1], x.shape[2] + 2 * kernel.padding, x.shape[3] + 2 * kernel.padding
        self.row = width * LANES
        self.height, self.width = kernel.map_size(*x.shape[2:])
        starts = [(channel * height + y) * self.row for channel in range(c) for y in range(kernel.patch_size)]
        self.offsets = np.array(starts, np.uint64)  # of the rows of a patch
        self.numbers = self.height * self.width * (c * kernel.patch_size**2 + 2 * kernel.depth)


def _in_threads(work: Callable[[Any], Any], parts: Iterable[Any]) -> list[Any]:
    """Parts are independent: the numbers do not depend on how many threads share them."""
    threads = torch.get_num_threads()
    if threads == 1:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, parts))


def _roots(norms: list[Tensor]) -> Tensor:
    """``sqrt(a)`` of every layer (n, depth, h, w), zeros outside of a layer's positions."""
    square = norms[0].new_zeros(len(norms[0]), len(norms), *norms[0].shape[1:])
    for layer, a in enumerate(norms):
        square[:, layer, : a.shape[1], : a.shape[2]] = a
    return square.sqrt_()


def _inverse(roots: Tensor) -> Tensor:
    return torch.where(roots > 0, 1 / roots, 0)


# Unsigned indices cannot be negative: no wrap-around, so that loops over them run in vector registers.
_LANES = np.uint64(LANES)
_ONE, _ZERO, _HALF = np.float32(1), np.float32(0), np.float32(0.5)
_OVER_PI = np.float32(1 / np.pi)
_FLAT = np.float32(1e-6)  # squared sine below which patches count as parallel
# acos(x) = sqrt(1 - x) polynomial(x) for 0 <= x <= 1, with an error of 3e-8; here over pi.
_ACOS = tuple(
    np.polynomial.Chebyshev.interpolate(
        lambda x: np.where(x < 1, np.arccos(np.minimum(x, 1)) / np.sqrt(np.maximum(1 - x, 1e-300)), np.sqrt(2)) / np.pi,
        7,
        domain=[0, 1],
    )
    .convert(kind=np.polynomial.Polynomial)
    .coef.astype(np.float32)
)


@compiled
def _acos_polynomial(x: Any) -> Any:
    c0, c1, c2, c3, c4, c5, c6, c7 = _ACOS
    return c0 + x * (c1 + x * (c2 + x * (c3 + x * (c4 + x * (c5 + x * (c6 + x * c7))))))


@compiled
def _products(pixels: Any, start: Any, offsets: Any, weights: Any, size: int, width: int, s: Any) -> None:
    """Row of S: patches of the tile times those of one point."""
    k = 0
    for x in range(width):
        base = np.uint64(x) * _LANES
        for j in range(_LANES):
            s[base + j] = _ZERO
        for row in range(len(offsets)):
            at = start + offsets[row] + base
            for _ in range(size // 3):
                w0, w1, w2 = weights[k], weights[k + 1], weights[k + 2]
                second, third = at + _LANES, at + _LANES + _LANES
                for j in range(_LANES):
                    s[base + j] += w0 * pixels[at + j] + w1 * pixels[second + j] + w2 * pixels[third + j]
                k += 3
                at = third + _LANES
            for _ in range(size % 3):
                w0 = weights[k]
                for j in range(_LANES):
                    s[base + j] += w0 * pixels[at + j]
                k += 1
                at += _LANES


@compiled
def _first_layer(s: Any, roots: Any, inverses: Any, z_roots: Any, z_inverses: Any, width: int, n: Any, t: Any) -> None:
    for x in range(width):
        base = np.uint64(x) * _LANES
        root, inverse = z_roots[x] * _OVER_PI, z_inverses[x]
        for lane in range(_LANES):
            j = base + lane
            rho = s[j] * inverses[j] * inverse
            size = min(abs(rho), _ONE)
            half = np.sqrt(_ONE - size)
            angle = half * _acos_polynomial(size)
            k0 = _ONE - angle if rho >= _ZERO else angle
            value = s[j] * k0
            t[j] = value
            n[j] = value + roots[j] * root * (half * np.sqrt(_ONE + size))


@compiled
def _next_layer(
    s: Any, more: Any, roots: Any, inverses: Any, z_roots: Any, z_inverses: Any, width: int, n: Any, t: Any
) -> None:
    """``Theta = S + more``; S is not negative here."""
    for x in range(width):
        base = np.uint64(x) * _LANES
        root, inverse = z_roots[x] * _OVER_PI, z_inverses[x]
        for lane in range(_LANES):
            j = base + lane
            rho = min(s[j] * inverses[j] * inverse, _ONE)
            half = np.sqrt(_ONE - rho)
            k0 = _ONE - half * _acos_polynomial(rho)
            t[j] = (s[j] + more[j]) * k0
            n[j] = s[j] * k0 + roots[j] * root * (half * np.sqrt(_ONE + rho))


@compiled
def _window_sums(values: Any, step: int, count: int, length: int, out: Any) -> None:
    """``out_j = sum_d values_(d step + j)``: over rows, or along one of them."""
    if count == 3:
        first, second, third = values[:length], values[step : step + length], values[2 * step : 2 * step + length]
        for j in range(length):
            out[j] = first[j] + second[j] + third[j]
        return
    out[:length] = values[:length]
    for d in range(1, count):
        other = values[d * step : d * step + length]
        for j in range(length):
            out[j] += other[j]


@compiled
def _norms(pixels: Any, offsets: Any, filters: Any, size: int, row: int, share: Any, out: Any) -> None:
    """``a`` of every layer (depth, h, w 64) of a tile; ``filters`` (k, w q) are a factor's columns, none for I."""
    depth, height, length = out.shape
    along = np.empty((height + size - 1) * max(row, length), np.float32)
    s = np.empty(length, np.float32)
    if len(filters) == 0:
        energy = np.zeros(row, np.float32)
        for top in range(height + size - 1):
            energy[:] = _ZERO
            for channel in range(0, len(offsets), size):
                values = pixels[offsets[channel] + np.uint64(top * row) :][:row]
                for j in range(row):
                    energy[j] += values[j] * values[j]
            _window_sums(energy, LANES, size, length, along[top * length :])
        for top in range(height):
            _window_sums(along[top * length :], length, size, length, out[0, top])
    for top in range(height):
        for k in range(len(filters)):
            _products(pixels, np.uint64(top * row), offsets, filters[k], size, length // LANES, s)
            norms = out[0, top]
            for j in range(length):
                norms[j] += s[j] * s[j]
        norms = out[0, top]
        for j in range(length):
            norms[j] *= share
    for layer in range(1, depth):
        width, last = length - layer * (size - 1) * LANES, height - layer * (size - 1)
        for y in range(last + size - 1):
            _window_sums(out[layer - 1, y], LANES, size, width, along[y * length :])
        for y in range(last):
            _window_sums(along[y * length :], length, size, width, out[layer, y])


@compiled
def _forward(
    pixels: Any, roots: Any, inverses: Any, weights: Any, z_roots: Any, z_inverses: Any, offsets: Any, size: int,
    row: int, out: Any,
) -> None:  # fmt: skip
    """Kernel values (m, 64) of the points with the images of a tile."""
    depth, height, length = roots.shape
    s, more = np.empty(length, np.float32), np.empty(length, np.float32)
    n, t = np.empty(length, np.float32), np.empty(length, np.float32)
    ring_n, ring_t = np.empty((depth, size * length), np.float32), np.empty((depth, size * length), np.float32)
    less = size - 1
    positions = np.float32((height - (depth - 1) * less) * (length // LANES - (depth - 1) * less))
    for z in range(len(weights)):
        total = out[z]
        total[:] = _ZERO
        for top in range(height):
            width = length // LANES
            _products(pixels, np.uint64(top * row), offsets, weights[z, top], size, width, s)
            _first_layer(s, roots[0, top], inverses[0, top], z_roots[z, 0, top], z_inverses[z, 0, top], width, n, t)
            y = top
            for layer in range(1, depth):
                width -= less
                place = y % size * length
                _window_sums(n, LANES, size, width * LANES, ring_n[layer, place:])
                _window_sums(t, LANES, size, width * LANES, ring_t[layer, place:])
                y -= less
                if y < 0:
                    break
                _window_sums(ring_n[layer], length, size, width * LANES, s)
                _window_sums(ring_t[layer], length, size, width * LANES, more)
                _next_layer(
                    s, more, roots[layer, y], inverses[layer, y], z_roots[z, layer, y], z_inverses[z, layer, y], width,
                    n, t,
                )  # fmt: skip
            if y >= 0:
                for x in range(width):
                    base = np.uint64(x) * _LANES
                    for j in range(_LANES):
                        total[j] += n[base + j] + t[base + j]
        for j in range(_LANES):
            total[j] /= positions


@compiled
def _reverse_layer(
    by_n: Any, by_t: Any, by_b: Any, s: Any, more: Any, first: bool, roots: Any, inverses: Any, z_inverses: Any,
    width: int, by_s: Any, by_theta: Any,
) -> None:  # fmt: skip
    """Slopes at a layer's entry from those at its end, ``by_b`` updated; the layer is evaluated again."""
    for x in range(width):
        base = np.uint64(x) * _LANES
        inverse = z_inverses[x]
        for lane in range(_LANES):
            j = base + lane
            both = inverses[j] * inverse
            rho = s[j] * both
            size = min(abs(rho), _ONE)
            half = np.sqrt(_ONE - size)
            angle = half * _acos_polynomial(size)
            k0 = _ONE - angle if rho >= _ZERO else angle
            sine = half * np.sqrt(_ONE + size)
            slope = by_t[j] * both * _OVER_PI / max(sine, _FLAT)
            slope = slope if sine * sine >= _FLAT else _ZERO
            slope *= s[j] if first else s[j] + more[j]  # Theta
            theta = by_t[j] * k0
            by_b[j] += (by_n[j] * roots[j] * sine * _OVER_PI - slope * s[j] * inverse) * (_HALF * inverse)
            by_s[j] = by_n[j] * k0 + slope + theta
            by_theta[j] = theta


@compiled
def _contract(
    pixels: Any, start: Any, offsets: Any, by_s: Any, by_b: Any, dual: Any, size: int, width: int, weighted: Any,
    along: Any, along_z: Any,
) -> None:  # fmt: skip
    """Add a row's slopes, weighted by coefficients (64,), times the patches of the tile."""
    k = 0
    for x in range(width):
        base = np.uint64(x) * _LANES
        total = _ZERO
        for j in range(_LANES):
            weighted[j] = by_s[base + j] * dual[j]
            total += by_b[base + j] * dual[j]
        along_z[x] += total
        for place in range(len(offsets)):
            at = start + offsets[place] + base
            for _ in range(size // 3):
                second, third = at + _LANES, at + _LANES + _LANES
                t0, t1, t2 = _ZERO, _ZERO, _ZERO
                for j in range(_LANES):
                    t0 += weighted[j] * pixels[at + j]
                    t1 += weighted[j] * pixels[second + j]
                    t2 += weighted[j] * pixels[third + j]
                along[k] += t0
                along[k + 1] += t1
                along[k + 2] += t2
                k += 3
                at = third + _LANES
            for _ in range(size % 3):
                t0 = _ZERO
                for j in range(_LANES):
                    t0 += weighted[j] * pixels[at + j]
                along[k] += t0
                k += 1
                at += _LANES


@compiled
def _adjoint(
    pixels: Any, roots: Any, inverses: Any, weights: Any, z_roots: Any, z_inverses: Any, offsets: Any, size: int,
    row: int, dual: Any, along: Any, along_z: Any,
) -> None:  # fmt: skip
    """Slopes of the kernel values in S and b of the first layer, contracted with a tile and coefficients (C, 64)."""
    depth, height, length = roots.shape
    less = size - 1
    n, t = np.empty(length, np.float32), np.empty(length, np.float32)
    ring_n, ring_t = np.empty((depth, size * length), np.float32), np.empty((depth, size * length), np.float32)
    # What the reverse needs again, small enough for the second cache.
    kept_s, kept_more = np.empty((depth, height, length), np.float32), np.empty((depth, height, length), np.float32)
    slopes = np.empty((5, length), np.float32)
    by_n, by_t, by_b, by_s, by_theta = slopes[0], slopes[1], slopes[2], slopes[3], slopes[4]
    weighted = np.empty(LANES, np.float32)
    # One row, with blank positions on both sides, and rows of sums along it.
    wide = np.zeros((3, length + 2 * less * LANES), np.float32)
    ring = np.empty((3, depth, size * length), np.float32)
    for z in range(len(weights)):
        for top in range(height):
            width = length // LANES
            s = kept_s[0, top]
            _products(pixels, np.uint64(top * row), offsets, weights[z, top], size, width, s)
            if depth > 1:
                _first_layer(s, roots[0, top], inverses[0, top], z_roots[z, 0, top], z_inverses[z, 0, top], width, n, t)
            y = top
            for layer in range(1, depth):
                width -= less
                place = y % size * length
                _window_sums(n, LANES, size, width * LANES, ring_n[layer, place:])
                _window_sums(t, LANES, size, width * LANES, ring_t[layer, place:])
                y -= less
                if y < 0:
                    break
                s, more = kept_s[layer, y], kept_more[layer, y]
                _window_sums(ring_n[layer], length, size, width * LANES, s)
                _window_sums(ring_t[layer], length, size, width * LANES, more)
                if layer < depth - 1:
                    _next_layer(
                        s, more, roots[layer, y], inverses[layer, y], z_roots[z, layer, y], z_inverses[z, layer, y],
                        width, n, t,
                    )  # fmt: skip
        ring[:] = _ZERO
        share = _ONE / np.float32((height - (depth - 1) * less) * (length // LANES - (depth - 1) * less))
        for y in range(height):
            for layer in range(depth - 1, -1, -1):
                width = length // LANES - layer * less
                m = width * LANES
                if layer == depth - 1:
                    by_n[:m] = share
                    by_t[:m] = share
                    by_b[:m] = _ZERO
                else:
                    _window_sums(ring[0, layer + 1], length, size, m, by_n)
                    _window_sums(ring[1, layer + 1], length, size, m, by_t)
                    _window_sums(ring[2, layer + 1], length, size, m, by_b)
                place = y % size * length
                if y >= height - layer * less:  # below the last row of this layer: nothing comes from it
                    for part in range(3):
                        ring[part, layer, place : place + length] = _ZERO
                    continue
                _reverse_layer(
                    by_n, by_t, by_b, kept_s[layer, y], kept_more[layer, y], layer == 0, roots[layer, y],
                    inverses[layer, y], z_inverses[z, layer, y], width, by_s, by_theta,
                )  # fmt: skip
                if layer == 0:
                    start = np.uint64(y * row)
                    for c in range(len(dual)):
                        _contract(
                            pixels,
                            start,
                            offsets,
                            by_s,
                            by_b,
                            dual[c],
                            size,
                            width,
                            weighted,
                            along[z, c, y],
                            along_z[z, c, y],
                        )
                    continue
                edge = less * LANES
                wide[:, edge + m :] = _ZERO
                wide[0, edge : edge + m] = by_s[:m]
                wide[1, edge : edge + m] = by_theta[:m]
                wide[2, edge : edge + m] = by_b[:m]
                for part in range(3):
                    _window_sums(wide[part], LANES, size, m + edge, ring[part, layer, place:])
