"""What the two benchmarks of the convolutional kernel share: images, the rival's network, timing, the machine's peaks.

Both sides run in one process on all cores it may use; ``taskset -c 0`` gives each one thread. Other work on the machine
distorts times, those of several threads most: runs wait for a quiet moment, though not for ever, and say how many cores
others kept busy meanwhile. Claims are judged by CPU seconds, which other work distorts less than wall time.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # tensorflow, which neural-tangents imports, tells of absent GPUs

import numpy as np
import torch

try:
    import jax
    import jax.numpy as jnp
    import neural_tangents
    from neural_tangents import stax
except ModuleNotFoundError as missing:
    print(f"Left out: {missing}. benchmarks/README.md says which environment this benchmark wants.")
    raise SystemExit(0) from missing

from featlearn.datasets import load_cifar10_jpeg, load_fashion_mnist

__all__ = ["DEPTH", "LOADERS", "PATCH", "jax", "jnp", "maps", "network", "neural_tangents", "peaks", "ratios", "timed",
           "versions"]  # fmt: skip

PATCH, DEPTH = 3, 3
LOADERS = {"28 x 28 x 1": load_fashion_mnist, "32 x 32 x 3": load_cifar10_jpeg}
PATIENCE = 5.0  # seconds to wait for a free core a thread

torch.set_num_threads(len(os.sched_getaffinity(0)))


def network(first: int = PATCH) -> Callable[..., Any]:
    """Kernel function of (convolution, ReLU) x 3, flatten, dense; ``first=1`` for patches in place of images."""
    layers = []
    for layer in range(DEPTH):
        side = PATCH if layer else first
        layers.append(stax.Conv(1, (side, side), padding="VALID", W_std=float(PATCH), b_std=None))
        layers.append(stax.ABRelu(0.0, 2**0.5))
    return stax.serial(*layers, stax.Flatten(), stax.Dense(1))[2]


def maps(images: torch.Tensor) -> list[int]:
    """Positions of each layer."""
    height, width = images.shape[2:]
    return [(height - (PATCH - 1) * layer) * (width - (PATCH - 1) * layer) for layer in range(1, DEPTH + 1)]


def timed(run: Callable[[], Any], repeats: int) -> tuple[Any, dict[str, Any]]:
    """Result, and wall (median) and CPU seconds (smallest) of the repeats; whoever calls has warmed up."""
    rounds = []
    wait_for_quiet()
    for _ in range(repeats):
        before = busy_seconds()
        wall, cpu = time.perf_counter(), time.process_time()
        result = run()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        rounds.append((wall, cpu, max(0.0, busy_seconds() - before - cpu) / wall))
    walls, cpus, others = zip(*rounds, strict=True)
    return result, {
        "wall": statistics.median(walls),
        "cpu": min(cpus),
        "least wall": min(walls),
        "repeats": repeats,
        "cores busy with other work": round(statistics.median(others), 2),
    }


def busy_seconds() -> float:
    """CPU seconds of all processes since the machine started; 0 where the system does not tell."""
    try:
        user, nice, system, *_ = Path("/proc/stat").read_text().split(maxsplit=8)[1:]
    except OSError:
        return 0.0
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


def wait_for_quiet() -> None:
    """Until others leave a core a thread for half a second, to within a tenth; five seconds at most."""
    quiet = (os.cpu_count() or 1) - torch.get_num_threads() + 0.1
    until = time.perf_counter() + PATIENCE
    while time.perf_counter() < until:
        before, own = busy_seconds(), time.process_time()
        time.sleep(0.5)
        if (busy_seconds() - before - (time.process_time() - own)) / 0.5 < quiet:
            return


def ratios(rival: dict[str, Any], ours: dict[str, Any]) -> dict[str, float]:
    return {f"times faster ({kind})": rival[kind] / ours[kind] for kind in ("wall", "cpu")}


def peaks() -> dict[str, float]:
    """Measured on all threads: flops of a large float32 product; bytes of a large copy and of copies in the cache."""
    threads, side = torch.get_num_threads(), 3072
    a, b, out = torch.rand(side, side), torch.rand(side, side), torch.empty(side, side)
    source, target = np.ones(2**27, np.float32), np.zeros(2**27, np.float32)
    small = [(np.ones(2**17, np.float32), np.zeros(2**17, np.float32)) for _ in range(threads)]

    def copies(pair: tuple[np.ndarray, np.ndarray]) -> None:
        for _ in range(2000):
            np.copyto(pair[1], pair[0])

    def halves(part: int) -> None:
        rows = slice(part * len(source) // threads, (part + 1) * len(source) // threads)
        np.copyto(target[rows], source[rows])

    with ThreadPoolExecutor(threads) as pool:
        runs = {
            "flops a second, product of 3072 x 3072 matrices": (2 * side**3, lambda: torch.mm(a, b, out=out)),
            "bytes a second, copy of 512 MiB": (8 * len(source), lambda: list(pool.map(halves, range(threads)))),
            "bytes a second, copies of 512 KiB": (threads * 2000 * 2**20, lambda: list(pool.map(copies, small))),
        }
        found = {}
        for name, (amount, run) in runs.items():
            run()
            found[name] = amount / timed(run, 5)[1]["least wall"]
    return found


def versions() -> dict[str, str]:
    return {"neural-tangents": neural_tangents.__version__, "jax": jax.__version__, "numpy": np.__version__}
