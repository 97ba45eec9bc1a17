"""Two gloo processes, each with half of the batches, give what one process gives with all of them."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

WORKER = Path(__file__).with_name("worker.py")

spec = importlib.util.spec_from_file_location("worker", WORKER)
assert spec is not None
assert spec.loader is not None
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank got."""
    if not torch.distributed.is_available():
        pytest.skip("torch was built without torch.distributed")
    folder = tmp_path_factory.mktemp("gloo")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), str(folder)],
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


def assert_same(first: Any, second: Any, path: str = "", rtol: float = 1e-12) -> None:
    assert type(first) is type(second), path
    if isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            assert_same(first[key], second[key], f"{path}/{key}", rtol)
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), path
        for i, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_same(a, b, f"{path}/{i}", rtol)
    elif isinstance(first, torch.Tensor):
        torch.testing.assert_close(first, second, rtol=rtol, atol=rtol * float(second.abs().max()), msg=path)
    elif isinstance(first, float):
        assert math.isclose(first, second, rel_tol=rtol, abs_tol=rtol) or (first != first and second != second), path
    else:
        assert first == second, path


@pytest.mark.parametrize("name", list(worker.SCENARIOS))
def test_two_processes_equal_one(ranks: list[dict[str, Any]], name: str) -> None:
    expected = worker.run(name)
    assert_same(ranks[0][name], expected)
    assert_same(ranks[1][name], ranks[0][name], rtol=0.0)  # bitwise: every rank has the same result
    assert list(ranks[0][name]) == list(ranks[1][name])


def test_the_whole_report_is_the_same(ranks: list[dict[str, Any]]) -> None:
    expected = worker.report()
    assert_same(ranks[0]["report"], expected, rtol=1e-8)
    assert_same(ranks[1]["report"], ranks[0]["report"], rtol=1e-12)


def test_primitives(ranks: list[dict[str, Any]]) -> None:
    for rank, result in enumerate(found["primitives"] for found in ranks):
        assert result["rank"] == (rank, 2)
        assert result["sum"].tolist() == [0.0, 3.0, 6.0]
        assert result["max"] == 10.0
        assert result["gathered"] == [{"rank": 0}, {"rank": 1}]
        assert result["first"] == "from 0"


def test_without_a_group_nothing_is_communicated() -> None:
    result = worker.primitives(None)
    assert result["rank"] == (0, 1)
    assert result["sum"].tolist() == [0.0, 1.0, 2.0]
    assert result["max"] == 10.0
    assert result["gathered"] == [{"rank": 0}]
    assert result["first"] == "from 0"
    assert not torch.distributed.is_initialized()


def test_distributed_data_parallel_is_taken_off(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert_same(found["wrapped"], found["exact"], rtol=0.0)


def test_a_group_of_one_is_one_process(ranks: list[dict[str, Any]]) -> None:
    expected = worker.run("exact")
    for found in ranks:
        assert_same(found["alone"], expected)
