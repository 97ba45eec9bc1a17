"""The patch AGOP of a kernel expansion of ten outputs against gradients of neural-tangents 0.6.5 by jax, on CPU.

``f_o(z) = sum_i beta_io k(x_i, z)`` with the kernel of (3 x 3 convolution, ReLU) three times, flatten, dense, around a
factor A between patches; beta solves a ridge regression on ten classes; gradients at the first 20 training images with
respect to patches as independent inputs. Single precision; Fashion-MNIST and CIFAR-10 (JPEG). The rival's network takes
patches times A (its first convolution is 1 x 1); everything is compiled and warmed up. Three ways:

- as published code does: output by output, ``jax.grad`` of f_o for all 20 images at once by ``vmap``, so that the
  kernel is computed and differentiated ten times. Batches of 20 were no slower than of 1 or 4.
- its best case: image by image, the kernel forward once (``jax.vjp``), then ten cotangents pulled back.
- the same without compiling the gradient: ``jax.jit`` around the kernel function alone, at n = 300.

Needs neural-tangents==0.6.5, jax==0.4.30 and jaxlib==0.4.30. Ours, the preparation of the training images included,
makes one reverse pass for all outputs. From ``kernels/_conv_numba.py``, flops for a pair of images, q numbers a patch
and r outputs: (2q + 39) + 9 + r (2q + 3) a position of the first layer (forward; reverse; contraction), 40 + 9 a
position of later ones, and window sums of 2 maps forward and 3 back, of 4 each. Bytes that it streams from the second
and third cache: 8 a position for norms, 32 for four coefficients written and read again, and rows of pixels 3 (1 + r)
times. Both errors are against the definition in double precision. Bound by: forward and
reverse of the layers at 9 numbers a patch; at 27 as much by the contraction with coefficients and patches, a reduction
over images for every output and number. One output is timed beside ten to tell them apart.

Arguments: numbers of training images (default 300 307).
"""

import os
import sys

import numpy as np
import torch
from convolutional import DEPTH, LOADERS, PATCH, jax, jnp, maps, network, peaks, ratios, timed, versions
from measuring import MEGABYTE, child_arguments, in_fresh_process, peak_bytes, report

from featlearn.agop.of_patches import patch_agop_of_expansion
from featlearn.kernels import ConvNTK, PatchMetric

POINTS, CLASSES, RIDGE = 20, 10, 1e-3
KERNEL = ConvNTK(PATCH, DEPTH)


def problem(name: str, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, coefficients (n, 10), factor."""
    data = LOADERS[name]("train", n=n)
    images, targets = data.normalized(), torch.nn.functional.one_hot(data.labels, CLASSES).float()
    q = images.shape[1] * PATCH**2
    draw = torch.Generator().manual_seed(0)
    factor = torch.eye(q) + 0.3 * torch.randn(q, q, generator=draw) / q**0.5
    matrix = PatchMetric(KERNEL, factor).fill_(images, torch.empty(n, n)).double()
    matrix /= matrix.max()
    dual = torch.linalg.solve(matrix + RIDGE * torch.eye(n, dtype=torch.float64), targets.double())
    return images, dual.float(), factor


def ours(images: torch.Tensor, dual: torch.Tensor, factor: torch.Tensor) -> np.ndarray:
    return patch_agop_of_expansion(PatchMetric(KERNEL, factor), images, dual, images[:POINTS]).matrix.numpy()


class Rival:
    """Gradients by jax of the kernel of neural-tangents between patches (n, h, w, q)."""

    def __init__(self) -> None:
        self.kernel = network(first=1)
        self.gradients = jax.jit(self.traced(self.kernel))
        self.pulled_back = jax.jit(self.all_outputs)
        self.plain = self.traced(jax.jit(self.kernel, static_argnames="get"))

    @staticmethod
    def traced(kernel):
        def value(z, patches, dual, factor):
            return kernel(patches @ factor, (z @ factor)[None], get="ntk")[:, 0] @ dual

        return jax.vmap(jax.grad(value), in_axes=(0, None, None, None))

    def all_outputs(self, z, patches, dual, factor):
        values = lambda z: self.kernel(patches @ factor, (z @ factor)[None], get="ntk")[:, 0] @ dual  # noqa: E731
        _, back = jax.vjp(values, z)
        return jax.vmap(lambda cotangent: back(cotangent)[0])(jnp.eye(dual.shape[1]))

    def output_by_output(self, gradients, patches, dual, factor):
        total, q = 0.0, patches.shape[-1]
        for output in range(dual.shape[1]):
            rows = gradients(patches[:POINTS], patches, dual[:, output], factor).reshape(-1, q)
            total = total + rows.T @ rows
        return np.asarray(total / POINTS)

    def image_by_image(self, patches, dual, factor):
        total, q = 0.0, patches.shape[-1]
        for point in patches[:POINTS]:
            rows = self.pulled_back(point, patches, dual, factor).reshape(-1, q)
            total = total + rows.T @ rows
        return np.asarray(total / POINTS)

    def ways(self, images, dual, factor):
        inputs = [jnp.asarray(part.numpy()) for part in (KERNEL.patches(images), dual, factor)]
        found = {
            "as published": lambda: self.output_by_output(self.gradients, *inputs),
            "best case": lambda: self.image_by_image(*inputs),
        }
        if len(images) == 300:
            found["gradient not compiled"] = lambda: self.output_by_output(self.plain, *inputs)
        return found


def case(name: str, n: int, rival: Rival, speeds: dict[str, float]) -> dict:
    images, dual, factor = problem(name, n)
    exact = ours(images.double(), dual.double(), factor.double())
    off = lambda matrix, truth: float(np.linalg.norm(matrix - truth) / np.linalg.norm(truth))  # noqa: E731
    ours(images, dual, factor)
    load = os.getloadavg()[0]
    matrix, fast = timed(lambda: ours(images, dual, factor), 7)
    _, single = timed(lambda: ours(images, dual[:, :1], factor), 7)
    entry = {"images": name, "n": n, "load of the machine before": load, "ours": fast, "ours, one output": single}
    errors, apart, times = {"ours": off(matrix, exact)}, {}, {}
    for way, run in rival.ways(images, dual, factor).items():
        run()
        found, entry[way] = timed(run, 2 if way != "gradient not compiled" else 1)
        errors[way], apart[way], times[way] = off(found, exact), off(matrix, found), ratios(entry[way], fast)
    flops, stream = work(images, dual.shape[1])
    pairs = n * POINTS
    return entry | {
        "ratios": times,
        "relative difference (Frobenius)": apart,
        "relative error (Frobenius)": errors,
        "pair-positions a second": pairs * sum(maps(images)) / fast["wall"],
        "shares": {
            peak: pairs * (flops if peak.startswith("flops") else stream) / fast["wall"] / speed
            for peak, speed in speeds.items()
        },
    }


def work(images: torch.Tensor, outputs: int) -> tuple[float, float]:
    """Flops and bytes of the docstring for a pair."""
    (channels, height, width), positions = images.shape[1:], maps(images)
    q = channels * PATCH**2
    flops = positions[0] * (2 * q + 48 + outputs * (2 * q + 3)) + sum(positions[1:]) * (49 + 4 * 5)
    rows = height - PATCH + 1
    return flops, (8 + 32) * sum(positions) + 4 * channels * PATCH * width * rows * (1 + outputs)


def child(way: str, name: str, n: int) -> float:
    """Megabytes above what was there after a warm-up on 24 training images."""
    images, dual, factor = problem(name, n)
    rival = Rival()

    def run(count: int) -> None:
        part = (images[:count], dual[:count], factor)
        ours(*part) if way == "ours" else rival.ways(*part)[way]()

    run(24)
    before = peak_bytes()
    run(n)
    return (peak_bytes() - before) / MEGABYTE


def memory() -> dict[str, dict[str, float]]:
    """Before anything else: a process starts with the peak of the one that it comes from."""
    ways = ("ours", "best case", "as published")
    return {name: {way: in_fresh_process(__file__, way=way, name=name, n=300) for way in ways} for name in LOADERS}


def main() -> None:
    sizes = [int(size) for size in sys.argv[1:]] or [300, 307]
    megabytes = memory()
    rival, machine_peaks, runs = Rival(), peaks(), []
    for name in LOADERS:
        for n in sizes:
            runs.append(case(name, n, rival, machine_peaks))
            print(name, n, runs[-1]["ratios"], flush=True)
    fast = all(run["ratios"]["as published"]["times faster (cpu)"] >= 100 for run in runs)
    near = all(value <= 1e-3 for run in runs for value in run["relative difference (Frobenius)"].values())
    report(
        __file__,
        fast and near,
        versions=versions(),
        peaks=machine_peaks,
        **{"megabytes over baseline, n = 300": megabytes},
        runs=runs,
    )


if __name__ == "__main__":
    arguments = child_arguments()
    if arguments is None:
        main()
    else:
        print(child(**arguments))
