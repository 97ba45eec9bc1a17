"""The matrix of the convolutional kernel against neural-tangents 0.6.5 on CPU, single precision: time, error, memory.

(3 x 3 convolution, ReLU) three times, flatten, dense, on Fashion-MNIST and CIFAR-10 (JPEG), each in two ways:

- as published code does: ``neural_tangents.batch`` around the kernel function, which compiles it, with the largest
  batch size up to 100 that divides n. For prime n that is 1.
- its best case: the compiled kernel function on blocks of 64 x 64 images on and above the diagonal, for any n.

Both take time in proportion to pairs: above 800 images (and for prime n) only the first rows are timed, and the time is
scaled up by the share of pairs, which the file states.

Needs neural-tangents==0.6.5, jax==0.4.30 and jaxlib==0.4.30. A pair-position is one position of one layer for one pair;
ours counts n (n + 1) / 2 pairs. From ``kernels/_conv_numba.py``, for patches of q numbers:

- flops: 2q for the product of patches, 27 in the first layer and 29 in later ones (two square roots count as two; 14
  are the polynomial of the arcus cosine), 4 for window sums over rows, 4 along them (in all rows of the layer above), 2
  in the last layer.
- bytes that a tile streams from the second and third cache: 8 a position for norms and inverse norms, and each row of
  pixels once for each of three window rows. Of main memory a tile needs next to nothing.

Where the time goes is measured by running the parts alone, on one thread. Bound by: the issue of vector instructions,
first of all the square roots, not by memory: with the norms in the first cache the layers take as long.

Arguments: numbers of images (default 300 800 2000 307).
"""

import os
import sys
import time
from itertools import pairwise

import numpy as np
import torch
from convolutional import (
    DEPTH,
    LOADERS,
    PATCH,
    jax,
    jnp,
    maps,
    network,
    neural_tangents,
    peaks,
    ratios,
    timed,
    versions,
)
from measuring import MEGABYTE, child_arguments, in_fresh_process, peak_bytes, report

from featlearn.kernels import ConvNTK, PatchMetric
from featlearn.kernels import _conv_numba as loops  # the parts alone

BLOCK, LARGEST_BATCH, LARGEST_WHOLE, ROWS_OF_PRIME = 64, 100, 800, 16
METRIC = PatchMetric(ConvNTK(PATCH, DEPTH))


def largest_divisor(n: int) -> int:
    return max(size for size in range(1, LARGEST_BATCH + 1) if n % size == 0)


def ours(images: torch.Tensor) -> np.ndarray:
    return METRIC.fill_(images, torch.empty(len(images), len(images))).numpy()


class Rival:
    """neural-tangents on images (n, height, width, channels)."""

    def __init__(self) -> None:
        self.kernel = network()
        self.compiled = jax.jit(lambda x, z: self.kernel(x, z, "ntk"))

    def batched(self, batch_size):
        run = neural_tangents.batch(self.kernel, batch_size=batch_size, device_count=0)
        return lambda x, z=None: np.asarray(run(x, z, "ntk"))

    def blocks(self, x, stop=None):
        """Blocks on and above the diagonal of the first ``stop`` rows (default all), mirrored."""
        parts = [x[start : start + BLOCK] for start in range(0, len(x), BLOCK)]
        out = np.full((len(x), len(x)), np.nan, np.float32)
        for i, rows in enumerate(parts[: -(-(stop or len(x)) // BLOCK)]):
            for j, columns in enumerate(parts[i:], i):
                block = np.asarray(self.compiled(rows, columns))
                out[i * BLOCK : i * BLOCK + len(rows), j * BLOCK : j * BLOCK + len(columns)] = block
                out[j * BLOCK : j * BLOCK + len(columns), i * BLOCK : i * BLOCK + len(rows)] = block.T
        return out


def scaled(time: dict, share: float) -> dict:
    seconds = {kind: time[kind] / share for kind in ("wall", "cpu", "least wall")}
    return time | seconds | {"share of pairs that was timed": share}


def case(name: str, n: int, rival: Rival, speeds: dict[str, float]) -> dict:
    images = LOADERS[name]("train", n=n).normalized()
    x = jnp.asarray(images.permute(0, 2, 3, 1).numpy())
    load = os.getloadavg()[0]
    ours(images)
    found, fast = timed(lambda: ours(images), 7)
    repeats = 3 if n < 400 else 2 if n > LARGEST_WHOLE else 1

    rival.blocks(x[: BLOCK + n % BLOCK])  # every shape of a block once
    rows = n if n <= LARGEST_WHOLE else BLOCK
    best_found, best = timed(lambda: rival.blocks(x, rows), repeats)
    pairs = sum(min(BLOCK, n - start) * (n - start) for start in range(0, n, BLOCK))
    best = scaled(best, 1.0 if rows == n else BLOCK * n / pairs)

    batch_size = largest_divisor(n)
    run = rival.batched(batch_size)
    rows = ROWS_OF_PRIME if batch_size == 1 else n if n <= LARGEST_WHOLE else batch_size
    whole = lambda: run(x) if rows == n else run(x[:rows], x)  # noqa: E731
    run(x[: 2 * batch_size]) if rows == n else whole()
    public_found, public = timed(whole, repeats)
    public = scaled(public, rows / n) | {"batch size": batch_size}

    off = ~np.eye(n, dtype=bool)
    away = {"best case": np.abs(best_found / found - 1), "as published": np.abs(public_found / found[:rows] - 1)}
    positions, q = maps(images), images.shape[1] * PATCH**2
    rate = n * (n + 1) / 2 * sum(positions) / fast["wall"]
    flops, stream = work(positions, images.shape[1:], q)
    return {
        "images": name,
        "n": n,
        "load of the machine before": load,
        "ours": fast | {"pair-positions a second": rate},
        "as published": public,
        "best case": best,
        "ratios": {"as published": ratios(public, fast), "best case": ratios(best, fast)},
        "largest relative difference": {
            way: {"off the diagonal": float(np.nanmax(d[off[: len(d)]])), "diagonal": float(np.nanmax(d.diagonal()))}
            for way, d in away.items()
        },
        "flops a pair-position": flops,
        "bytes a pair-position": stream,
        "shares": {
            peak: (flops if peak.startswith("flops") else stream) * rate / speed for peak, speed in speeds.items()
        },
    }


def work(positions: list[int], shape: tuple[int, ...], q: int) -> tuple[float, float]:
    """Flops and bytes of the docstring, both over all layers a pair-position."""
    channels, _, width = shape
    sides = [(shape[1] - (PATCH - 1) * layer, width - (PATCH - 1) * layer) for layer in range(1, DEPTH + 1)]
    flops = positions[0] * (2 * q + 27) + positions[-1] * 2.0
    for (above, _), (height, across) in pairwise(sides):
        flops += height * across * (29 + 4) + above * across * 4
    load = 8 * sum(positions) + 4 * channels * PATCH * width * sides[0][0]
    return flops / sum(positions), load / sum(positions)


# where the time goes ----------------------------------------------------------------------------------------------

_products, _first, _next, _sums = loops._products, loops._first_layer, loops._next_layer, loops._window_sums


@loops.compiled
def only_products(pixels, weights, offsets, row, s):
    for z in range(len(weights)):
        for top in range(weights.shape[1]):
            _products(pixels, np.uint64(top * row), offsets, weights[z, top], PATCH, len(s) // BLOCK, s)


@loops.compiled
def only_layers(roots, inverses, z_roots, z_inverses, still, s, more, n, t):
    """All layers; ``still`` stays on the first row of norms, which the first cache holds."""
    height = roots.shape[1]
    for z in range(len(z_roots)):
        for layer in range(DEPTH):
            side = height - layer * (PATCH - 1)
            for y in range(side):
                at = 0 if still else y
                a, b, c, d = roots[layer, at], inverses[layer, at], z_roots[z, layer, at], z_inverses[z, layer, at]
                if layer:
                    _next(s, more, a, b, c, d, side, n, t)
                else:
                    _first(s, a, b, c, d, side, n, t)


@loops.compiled
def only_sums(points, height, n, t, ring_n, ring_t, s, more):
    length = len(s)
    for _ in range(points):
        for layer in range(1, DEPTH):
            side = height - layer * (PATCH - 1)
            for y in range(side + PATCH - 1):
                place = y % PATCH * length
                _sums(n, BLOCK, PATCH, side * BLOCK, ring_n[place:])
                _sums(t, BLOCK, PATCH, side * BLOCK, ring_t[place:])
                if y >= PATCH - 1:
                    _sums(ring_n, length, PATCH, side * BLOCK, s)
                    _sums(ring_t, length, PATCH, side * BLOCK, more)


@loops.compiled
def only_roots(points, positions, s, out):
    """Two square roots a pair-position, in the first cache."""
    for _ in range(points * positions // (len(s) // BLOCK)):
        for j in range(len(s)):
            out[j] += np.sqrt(s[j]) + np.sqrt(np.float32(1) + s[j])


def parts() -> dict[str, float]:
    """Nanoseconds a pair-position of one thread: the whole, and parts alone, for 64 x 64 pairs of 28 x 28 pixels."""
    images = LOADERS["28 x 28 x 1"]("train", n=2 * BLOCK).normalized()
    tile, points = loops.tiles_of(METRIC, images[:BLOCK])[0], loops._points_of(METRIC, images[BLOCK:])
    shape = loops._Shape(METRIC.kernel, images)
    length, positions = shape.width * BLOCK, maps(images)
    draw = np.random.default_rng(0)
    s, more, n, t, out = (draw.random(length, np.float32) for _ in range(5))
    rings = [draw.random(PATCH * length, np.float32) for _ in range(2)]
    values = np.empty((BLOCK, BLOCK), np.float32)
    norms = (tile.roots, tile.inverses, points.roots, points.inverses)
    runs = {
        "whole": lambda: loops._forward(
            tile.pixels, tile.roots, tile.inverses, points.weights, points.roots, points.inverses, shape.offsets, PATCH,
            shape.row, values,
        ),
        "products of patches": lambda: only_products(tile.pixels, points.weights, shape.offsets, shape.row, s),
        "layers": lambda: only_layers(*norms, False, s, more, n, t),
        "layers, norms in the first cache": lambda: only_layers(*norms, True, s, more, n, t),
        "two square roots, in the first cache": lambda: only_roots(BLOCK, sum(positions), s, out),
        "window sums": lambda: only_sums(BLOCK, shape.height, n, t, *rings, s, more),
    }  # fmt: skip
    found = {}
    for name, run in runs.items():
        run()
        found[name] = timed(run, 25)[1]["least wall"] / (BLOCK**2 * sum(positions)) * 1e9
    return found


def child(way: str, name: str, n: int) -> float:
    """Megabytes above what was there after a warm-up on eight images."""
    images = LOADERS[name]("train", n=n).normalized()
    rival, x = Rival(), jnp.asarray(images.permute(0, 2, 3, 1).numpy())
    if way == "ours":
        run = lambda count: ours(images[:count])  # noqa: E731
    elif way == "best case":
        run = lambda count: rival.blocks(x[:count])  # noqa: E731
    else:
        run = lambda count: rival.batched(largest_divisor(count))(x[:count])  # noqa: E731
    run(8)
    before = peak_bytes()
    run(n)
    return (peak_bytes() - before) / MEGABYTE


def memory() -> dict[str, dict[str, float]]:
    """Before anything else: a process starts with the peak of the one that it comes from."""
    ways = ("ours", "best case", "as published")
    return {name: {way: in_fresh_process(__file__, way=way, name=name, n=300) for way in ways} for name in LOADERS}


def main() -> None:
    sizes = [int(size) for size in sys.argv[1:]] or [300, 800, 2000, 307]
    megabytes = memory()
    rival, machine_peaks, runs = Rival(), peaks(), []
    for name in LOADERS:
        for n in sizes:
            start = time.perf_counter()
            runs.append(case(name, n, rival, machine_peaks))
            print(name, n, runs[-1]["ratios"], f"{time.perf_counter() - start:.0f} s", flush=True)
    fast = all(run["ratios"]["as published"]["times faster (cpu)"] >= 30 for run in runs)
    near = all(
        part["off the diagonal"] <= 1e-4 and part["diagonal"] <= 1e-3
        for run in runs
        for part in run["largest relative difference"].values()
    )
    report(
        __file__,
        fast and near,
        versions=versions(),
        peaks=machine_peaks,
        **{"megabytes over baseline, n = 300": megabytes, "nanoseconds a pair-position, one thread": parts()},
        runs=runs,
    )


if __name__ == "__main__":
    arguments = child_arguments()
    if arguments is None:
        main()
    else:
        print(child(**arguments))
