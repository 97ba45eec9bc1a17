"""Two gloo processes, each with every second batch, report what one process reports with all of them (oracle 5)."""

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

WORKER = Path(__file__).with_name("gloo_worker.py")

spec = importlib.util.spec_from_file_location("gloo_worker", WORKER)
assert spec is not None
assert spec.loader is not None
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)

# What one process has and several have not, or what is another number at another moment.
ELSEWHERE = {"seconds", "date"}


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


def assert_same(first: Any, second: Any, path: str = "", rtol: float = 1e-9) -> None:
    assert type(first) is type(second), path
    if isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            if key not in ELSEWHERE:
                assert_same(first[key], second[key], f"{path}/{key}", rtol)
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), path
        for i, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_same(a, b, f"{path}/{i}", rtol)
    elif isinstance(first, float):
        assert math.isclose(first, second, rel_tol=rtol, abs_tol=rtol) or (first != first and second != second), path
    else:
        assert first == second, path


@pytest.mark.parametrize("name", list(worker.SCENARIOS))
def test_two_processes_report_what_one_reports(ranks: list[dict[str, Any]], name: str) -> None:
    expected = worker.run(name)
    for key in ("layers", "skipped", "summary"):
        assert_same(ranks[0][name][key], expected[key], key)
    for key in ("n_samples", "n_batches", "mean_loss", "weights_sha256", "data_sha256", "backward_passes", "notes"):
        assert_same(ranks[0][name]["provenance"][key], expected["provenance"][key], key)


@pytest.mark.parametrize("name", [*worker.SCENARIOS, "stream"])
def test_every_rank_has_the_same_report(ranks: list[dict[str, Any]], name: str) -> None:
    assert_same(ranks[1][name], ranks[0][name], rtol=0.0)
    assert ranks[0][name]["provenance"]["date"] == ranks[1][name]["provenance"]["date"]
    assert list(ranks[0][name]["layers"]) == list(ranks[1][name]["layers"])


def test_batches_without_a_length_fall_into_the_same_blocks(ranks: list[dict[str, Any]]) -> None:
    assert_same(ranks[0]["stream"]["layers"], worker.run("uneven")["layers"])


def test_tracking_is_the_same_on_every_rank(ranks: list[dict[str, Any]]) -> None:
    expected = worker.track()
    for found, alone in zip(ranks[0]["track"], expected, strict=True):
        assert_same(found["layers"], alone["layers"])
    assert_same(ranks[1]["track"], ranks[0]["track"], rtol=0.0)
