"""Two gloo processes, each with every second batch, report what one process reports with all of them (oracle 5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from processes import assert_same, load_worker, run_two

WORKER = Path(__file__).with_name("gloo_worker.py")
worker = load_worker(WORKER)

# What one process has and several have not, or what is another number at another moment.
ELSEWHERE = {"seconds", "date"}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank got."""
    return run_two(WORKER, tmp_path_factory.mktemp("gloo"))


@pytest.mark.parametrize("name", list(worker.SCENARIOS))
def test_two_processes_report_what_one_reports(ranks: list[dict[str, Any]], name: str) -> None:
    expected = worker.run(name)
    for key in ("layers", "skipped", "summary"):
        assert_same(ranks[0][name][key], expected[key], key, rtol=1e-9, leave_out=ELSEWHERE)
    for key in ("n_samples", "n_batches", "mean_loss", "weights_sha256", "data_sha256", "backward_passes", "notes"):
        assert_same(ranks[0][name]["provenance"][key], expected["provenance"][key], key, rtol=1e-9, leave_out=ELSEWHERE)


@pytest.mark.parametrize("name", [*worker.SCENARIOS, "stream"])
def test_every_rank_has_the_same_report(ranks: list[dict[str, Any]], name: str) -> None:
    assert_same(ranks[1][name], ranks[0][name], rtol=0.0, leave_out=ELSEWHERE)
    assert ranks[0][name]["provenance"]["date"] == ranks[1][name]["provenance"]["date"]
    assert list(ranks[0][name]["layers"]) == list(ranks[1][name]["layers"])


def test_batches_without_a_length_fall_into_the_same_blocks(ranks: list[dict[str, Any]]) -> None:
    assert_same(ranks[0]["stream"]["layers"], worker.run("uneven")["layers"], rtol=1e-9, leave_out=ELSEWHERE)


def test_tracking_is_the_same_on_every_rank(ranks: list[dict[str, Any]]) -> None:
    expected = worker.track()
    for found, alone in zip(ranks[0]["track"], expected, strict=True):
        assert_same(found["layers"], alone["layers"], rtol=1e-9, leave_out=ELSEWHERE)
    assert_same(ranks[1]["track"], ranks[0]["track"], rtol=0.0, leave_out=ELSEWHERE)
