"""``featlearn demo``: its files, and a finding that follows from the numbers."""

from __future__ import annotations

import json
import math
import re

import pytest
import torch

from featlearn.cli.demo_images import ImagesPlan
from featlearn.cli.demo_run import Finding, Plan, run, small_cnn
from featlearn.cli.demo_text import finding_text
from featlearn.cli.demo_training import Recipe, train

FEW = ImagesPlan(
    n_train=101, n_test=40, steps=1, width=4, deep_width=2, deep_agop_images=5, learning_rates=(0.01, 0.03),
    recipe=Recipe(epochs=1),
)  # fmt: skip
TINY = Plan(epochs=1, n_train=320, n_test=100, n_tracked=100, images=FEW)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One short demo: its folder."""
    out = tmp_path_factory.mktemp("demo") / "shown"
    assert run(TINY, out, quiet=True, arguments=["demo", "--out", "shown"]) == 0
    return out


def nfa(value: float, excess: float, error: float = 0.01) -> dict[str, float | str]:
    null = (value - excess) / (1 - excess)
    verdict = "above" if excess > 2 * error else "at"
    return {
        "verdict": verdict,
        "value": value,
        "null": null,
        "excess": excess,
        "standard_error": error,
        "excess_standard_error": error,
    }


def found(before: dict, after: dict, half: float = 0.5) -> Finding:
    def report(layers: dict) -> dict:
        rows = {name: {"trivial": False, "nfa": entry, "nfa_half": nfa(0.9, half)} for name, entry in layers.items()}
        return {"layers": rows | {"head": {"trivial": True, "nfa": nfa(1.0, 0.0), "nfa_half": nfa(1.0, 0.0)}}}

    return Finding(Plan(), report(before), report(after), [], 0.1, 0.9, 0.05, 30.0)


def sentence(text: str) -> str:
    return " ".join(text.split())


def test_page_and_numbers_are_written(done) -> None:
    assert sorted(path.name for path in done.iterdir()) == [
        f"{stem}.{kind}" for stem in ("filters", "report") for kind in ("html", "json")
    ]
    report = json.loads((done / "report.json").read_text(encoding="utf-8"))
    assert list(report["layers"]) == ["conv1", "conv2", "linear1", "linear2"]
    about = report["provenance"]
    assert (about["n_samples"], about["command"], about["complete"]) == (100, "featlearn demo --out shown", True)
    assert report["layers"]["conv1"]["centered"]["value"] is not None
    page = (done / "report.html").read_text(encoding="utf-8")
    assert "What a small CNN learned on Fashion-MNIST" in page


def test_the_command_prints_the_finding_and_names_the_files(featlearn, folder, monkeypatch) -> None:
    monkeypatch.setattr("featlearn.cli.demo_run.Plan", lambda **options: Plan(**vars(TINY) | options))
    outcome = featlearn("demo", "--epochs", 1, "--out", "shown", "--quiet")
    assert (outcome.code, outcome.err) == (0, "")
    report = json.loads((folder / "shown" / "report.json").read_text(encoding="utf-8"))
    for name in ("conv1", "conv2", "linear1"):
        now = report["layers"][name]["nfa"]
        assert f"{now['value']:.3f}" in outcome.out
        assert f"{now['excess']:+.3f} ± {now['excess_standard_error']:.3f}" in outcome.out
    files = "The report: shown/report.html\nIts numbers: shown/report.json\n"
    assert outcome.out.endswith(f"{files}The comparison: shown/filters.html\nIts numbers: shown/filters.json\n")
    compared = json.loads((folder / "shown" / "filters.json").read_text(encoding="utf-8"))
    for one in compared["machines"].values():
        assert f"{one['accuracy']:.1%} ± {one['standard_error']:.1%}" in outcome.out


def test_an_interrupted_demo_leaves_nothing(featlearn, folder, monkeypatch) -> None:
    def interrupted(plan, advance):
        raise KeyboardInterrupt

    monkeypatch.setattr("featlearn.cli.demo_run._work", interrupted)
    assert featlearn("demo", "--out", "shown").code == 130
    assert not (folder / "shown").exists()


def test_a_demo_interrupted_while_it_compares_leaves_nothing(featlearn, folder, monkeypatch) -> None:
    seen = []

    def interrupted(plan, advance):
        seen.append((plan.seed, torch.get_num_threads()))
        raise KeyboardInterrupt

    monkeypatch.setattr("featlearn.cli.demo_run._work", lambda plan, advance: None)
    monkeypatch.setattr("featlearn.cli.demo_run.compare_machines", interrupted)
    assert featlearn("demo", "--out", "shown", "--seed", 3).code == 130
    assert seen == [(3, 1)]
    assert not (folder / "shown").exists()


def test_one_thread_computes_and_the_others_come_back(featlearn, monkeypatch) -> None:
    seen = []

    def interrupted(plan, advance):
        seen.append(torch.get_num_threads())
        raise KeyboardInterrupt

    monkeypatch.setattr("featlearn.cli.demo_run._work", interrupted)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        featlearn("demo")
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


def test_the_network_learns() -> None:
    from featlearn.datasets import load_fashion_mnist

    data, net = load_fashion_mnist("train", n=640), small_cnn(0)
    images, losses = data.normalized(0.286, 0.353), []
    for _ in train(net, images, data.labels, Plan(epochs=3, n_train=640)):
        with torch.no_grad():
            losses.append(float(torch.nn.functional.cross_entropy(net(images[:64]), data.labels[:64])))
    assert len(losses) == Plan(epochs=3, n_train=640).steps
    assert losses[-1] < 0.7 * losses[0]


def test_seeds_give_weights_and_leave_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = (small_cnn(seed).conv1.weight.detach() for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert float(first.abs().max()) <= 1 / math.sqrt(25)  # PyTorch's default: uniform up to fan_in^(-1/2)


def test_layers_that_rose_are_named_and_the_others_are_not() -> None:
    text = sentence(
        finding_text(found({"a": nfa(0.9, 0.0), "b": nfa(0.5, 0.1)}, {"a": nfa(0.9, 0.4), "b": nfa(0.6, 0.11)}))
    )
    assert "raised the excess by more than two standard errors in a; after it a and b are above chance" in text
    assert "a went furthest: 40% of the way" in text
    assert "Before training a has an NFA of 0.900, yet no excess is higher than +0.10" in text
    assert "(head makes the answers themselves" in text


def test_a_training_that_taught_nothing_is_reported_as_such() -> None:
    same = {"a": nfa(0.9, 0.0), "b": nfa(0.5, -0.2)}
    text = sentence(finding_text(found(same, same, half=-0.1)))
    assert "by more than two standard errors in no layer; after it no layer is above chance" in text
    assert "furthest" not in text
    assert "the excess is -0.10 to -0.10" in text


def test_the_finding_fits_eighty_columns() -> None:
    layers = {name: nfa(0.95, 0.3) for name in ("conv1", "conv2", "linear1")}
    lines = finding_text(found(layers, layers)).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if re.search(r"conv1 +0\.950", line)]


def test_an_excess_inside_the_spread_of_chance_is_not_sold_as_one() -> None:
    before = {"conv": nfa(0.9, 0.0), "fc": nfa(0.3, 0.0)}
    after = {"conv": nfa(0.93, 0.3) | {"verdict": "at"}, "fc": nfa(0.8, 0.6)}
    text = sentence(finding_text(found(before, after)))
    assert "after it fc is above chance, and conv is within two standard deviations of what random turns give" in text
