"""Two gloo processes, each with half of the batches, give what one process gives with all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from processes import assert_same, load_worker, run_two

WORKER = Path(__file__).with_name("worker.py")
worker = load_worker(WORKER)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank got."""
    return run_two(WORKER, tmp_path_factory.mktemp("gloo"))


@pytest.mark.parametrize("name", list(worker.SCENARIOS))
def test_two_processes_equal_one(ranks: list[dict[str, Any]], name: str) -> None:
    expected = worker.run(name)
    assert_same(ranks[0][name], expected, rtol=1e-12)
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
        assert_same(found["alone"], expected, rtol=1e-12)
