"""The body of ``featlearn doctor``: facts of the machine and checks of the installation."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import typer

from .. import __version__

__all__ = ["Finding", "findings", "identity_error", "run"]

NEEDED = ("torch", "numpy", "scipy", "scikit-learn", "pandas", "matplotlib", "jinja2", "rich", "safetensors", "pillow")
TOLERANCE = 1e-12  # of the identity in float64; round-off of this small net stays near 1e-16
MARKS = {None: "    ", True: "ok  ", False: "FAIL"}
SUBJECT = 20  # columns before what was found


@dataclass(frozen=True)
class Finding:
    """One line: its subject, what was found, and whether that is fine (``None``: a fact, not a check)."""

    subject: str
    found: str
    fine: bool | None = None


def run() -> int:
    """Print every finding as it is made; 0 when no check failed, else 1."""
    failed = []
    for finding in findings():
        text = f"{MARKS[finding.fine]} {finding.subject}".ljust(SUBJECT) + finding.found
        typer.echo(textwrap.fill(text, shutil.get_terminal_size().columns, subsequent_indent=" " * SUBJECT))
        failed += [finding.subject] if finding.fine is False else []
    typer.echo(
        f"Not usable as it is: {', '.join(failed)}." if failed else "Everything featlearn needs is here and right."
    )
    return 1 if failed else 0


def findings() -> Iterator[Finding]:
    """Versions, devices, threads, data and the self-check, in this order."""
    yield Finding("featlearn", f"{__version__} on Python {platform.python_version()}, {platform.platform(terse=True)}")
    yield _packages()
    try:
        import torch
    except ImportError as problem:
        yield Finding("torch", f"cannot be imported: {problem}. Install torch for this Python.", fine=False)
        return
    devices = ["cpu", *(f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count()))]
    yield Finding("devices", ", ".join([*devices, *(["mps"] if torch.backends.mps.is_available() else [])]))
    capability = torch.backends.cpu.get_cpu_capability()
    yield Finding("threads", f"{torch.get_num_threads()} of {os.cpu_count()} processors, {capability} instructions")
    yield _data()
    yield _bundled_images()
    yield _self_check()


def identity_error() -> float:
    r"""Relative error of ``W^T K W`` against the AGOP by autograd, for the first layer of a tiny float64 net.

    .. math:: \| W^\top K W - \tfrac{1}{n} \sum_i J_i^\top J_i \|_F \, / \, \| \tfrac{1}{n} \sum_i J_i^\top J_i \|_F

    ``J_i`` (outputs x inputs) is the Jacobian of sample ``i``, from :func:`torch.func.jacrev`.
    """
    import torch
    from torch import nn

    from .._random import generator
    from ..agop.of_module import agop_of_module

    stream = generator(0, "doctor")
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, generator=stream)
    inputs = torch.randn(32, 6, generator=stream, dtype=torch.float64)
    ours = agop_of_module(net, [inputs], layers=["0"])["0"].agop()
    jacobians = torch.func.vmap(torch.func.jacrev(net))(inputs).detach()
    theirs = torch.einsum("ica,icb->ab", jacobians, jacobians) / len(inputs)
    return float((ours - theirs).norm() / theirs.norm())


def _packages() -> Finding:
    versions, missing = [], []
    for name in NEEDED:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    advice = f"; missing: {', '.join(missing)}. Run pip install {' '.join(missing)}" if missing else ""
    return Finding("packages", ", ".join(versions) + advice, fine=not missing)


def _data() -> Finding:
    folder = os.environ.get("FEATLEARN_DATA")
    if not folder:
        return Finding("FEATLEARN_DATA", "not set: only the readers of MNIST, CIFAR-10 and CIFAR ResNets use it")
    if not Path(folder).is_dir():
        return Finding("FEATLEARN_DATA", f"{folder}, which is no folder. Set it to one, or unset it.", fine=False)
    rooms = sorted(child.name for child in Path(folder).iterdir() if child.is_dir())
    return Finding("FEATLEARN_DATA", f"{folder}, holding {', '.join(rooms) or 'no folder'}", fine=True)


def _bundled_images() -> Finding:
    from ..datasets import load_fashion_mnist

    try:
        images = load_fashion_mnist("test")
    except Exception as problem:
        return Finding("bundled images", f"cannot be read: {problem}. Install featlearn again.", fine=False)
    return Finding("bundled images", f"{images.name}, {len(images):,} for testing", fine=True)


def _self_check() -> Finding:
    start = time.perf_counter()
    try:
        error = identity_error()
    except Exception as problem:
        return Finding("self-check", f"W^T K W failed: {type(problem).__name__}: {problem}", fine=False)
    took = time.perf_counter() - start
    found = f"W^T K W = AGOP by autograd to a relative error of {error:.0e} ({took:.1f} s)"
    if error > TOLERANCE:
        found += f", but expected at most {TOLERANCE:.0e}: the installation of torch is broken"
    return Finding("self-check", found, fine=error <= TOLERANCE)
