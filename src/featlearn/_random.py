"""The only code that touches randomness: generators derived from ``random_state``, never the global one."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["generator", "preserved_rng", "seeded_rng"]


def generator(random_state: int, *keys: int | str) -> torch.Generator:
    """CPU generator seeded by ``random_state`` and ``keys``, the same on every device and in every process.

    Parameters
    ----------
    random_state : int
        Non-negative seed of the user.
    *keys : int or str
        What the numbers are for (a batch index, a layer name): different keys give independent streams.

    Returns
    -------
    torch.Generator
        On the CPU, so that the stream does not depend on the device.
    """
    entropy = [random_state, *(zlib.crc32(key.encode()) if isinstance(key, str) else key for key in keys)]
    seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.Generator().manual_seed(seed)


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Give the global generators of torch (CPU and every CUDA device in use), numpy and Python back as they were found.

    The last two are what data sets draw their augmentations from.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    of_numpy, of_python = np.random.get_state(), random.getstate()  # noqa: NPY002 (the user's, given back)
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        np.random.set_state(of_numpy)  # noqa: NPY002
        random.setstate(of_python)


@contextmanager
def seeded_rng(random_state: int, *keys: int | str) -> Iterator[None]:
    """Code of the user's that draws from the global generators draws the same numbers inside; afterwards they are as
    they were found.

    Parameters
    ----------
    random_state, *keys
        As for :func:`generator`.
    """
    with preserved_rng():
        seed = generator(random_state, *keys).initial_seed()
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)
        yield
