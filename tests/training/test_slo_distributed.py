"""Two gloo processes under SLO end with the weights of one: replicated (DDP) and in pieces (DTensor)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from processes import assert_same, load_worker, run_two

WORKER = Path(__file__).with_name("slo_worker.py")
worker = load_worker(WORKER)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank got."""
    return run_two(WORKER, tmp_path_factory.mktemp("gloo"))


@pytest.mark.parametrize("rule", list(worker.RULES))
@pytest.mark.parametrize("kind", ["replicated", "sharded"])
def test_two_processes_train_as_one(ranks: list[dict[str, Any]], kind: str, rule: str) -> None:
    assert_same(ranks[0][kind][rule], worker.replicated(rule), rtol=1e-10)
    assert_same(ranks[1][kind][rule], ranks[0][kind][rule], rtol=0.0)


def test_flattened_shards_are_refused(ranks: list[dict[str, Any]]) -> None:
    assert "has flattened and sharded" in ranks[0]["flattened"]
    assert "fully_shard instead" in ranks[1]["flattened"]


def test_speeds_that_follow_a_tracker_are_the_same_everywhere(ranks: list[dict[str, Any]]) -> None:
    assert_same(ranks[0]["automatic"], worker.automatic(), rtol=1e-9)
    assert_same(ranks[1]["automatic"], ranks[0]["automatic"], rtol=0.0)
