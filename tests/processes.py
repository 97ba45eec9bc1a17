"""Two gloo processes running one worker script, and results compared entry by entry."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from collections.abc import Container
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch


def load_worker(path: Path) -> ModuleType:
    """The worker script as a module: its scenarios, to run them in this process too."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    return worker


def run_two(worker: Path, folder: Path) -> list[dict[str, Any]]:
    """What each of two processes saved: ``worker RANK FOLDER`` writes ``FOLDER/RANK.pt``."""
    if not torch.distributed.is_available():
        pytest.skip("torch was built without torch.distributed")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(worker), str(rank), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=120)
            assert process.returncode == 0, output
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def assert_same(first: Any, second: Any, path: str = "", *, rtol: float, leave_out: Container[str] = ()) -> None:
    """Equal up to ``rtol``, entry by entry; keys in ``leave_out`` may differ."""
    assert type(first) is type(second), path
    if isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            if key not in leave_out:
                assert_same(first[key], second[key], f"{path}/{key}", rtol=rtol, leave_out=leave_out)
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), path
        for i, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_same(a, b, f"{path}/{i}", rtol=rtol, leave_out=leave_out)
    elif isinstance(first, torch.Tensor):
        torch.testing.assert_close(first, second, rtol=rtol, atol=rtol * float(second.abs().max()), msg=path)
    elif isinstance(first, float):
        assert math.isclose(first, second, rel_tol=rtol, abs_tol=rtol) or (first != first and second != second), path
    else:
        assert first == second, path
