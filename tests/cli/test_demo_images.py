"""Four machines on the same images: paired errors, what chose, the matrices between patches, and words that follow."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import page_reader
import pytest
import torch

from featlearn import agop_of_function
from featlearn.cli import demo_images
from featlearn.cli.demo_images import Images, ImagesPlan, compare_machines, differences, plain_cnn
from featlearn.cli.demo_images_text import comparison_text
from featlearn.cli.demo_training import Recipe
from featlearn.report.filters import write_filters_report
from featlearn.report.json import dump_json

PLAN = ImagesPlan(
    n_train=101, n_test=40, steps=1, width=4, deep_width=2, deep_agop_images=5, learning_rates=(0.01, 0.03),
    recipe=Recipe(epochs=2),
)  # fmt: skip
NAMES = ["fixed kernel", "ConvRFM", "Deep ConvRFM", "CNN"]


def compare(plan: ImagesPlan = PLAN) -> dict:
    return compare_machines(plan, lambda done, total: None)


@pytest.fixture(scope="module")
def told() -> dict:
    return compare()


def sentence(text: str) -> str:
    return " ".join(text.split())


def without_seconds(told: dict) -> dict:
    rest = copy.deepcopy(told)
    for one in rest["machines"].values():
        del one["seconds"]
    return rest


def test_all_four_are_scored_with_binomial_errors(told) -> None:
    assert list(told["machines"]) == NAMES
    for one in told["machines"].values():
        hits = one["accuracy"] * 40
        assert hits == pytest.approx(round(hits))
        assert one["standard_error"] == pytest.approx(np.std([1] * round(hits) + [0] * (40 - round(hits))) / 40**0.5)
    assert told["machines"]["fixed kernel"]["chosen"][0]["iterate"] == 0
    assert len(told["machines"]["Deep ConvRFM"]["chosen"]) == 2
    assert [one["learning_rate"] for one in told["machines"]["CNN"]["candidates"]] == [0.01, 0.03]


def test_the_same_seed_gives_the_same_numbers_and_another_one_others(told) -> None:
    assert without_seconds(compare()) == without_seconds(told)
    assert compare(replace(PLAN, seed=1))["filters"] != told["filters"]


def test_test_labels_choose_nothing(told, monkeypatch) -> None:
    load = Images.load

    def wrong(plan: ImagesPlan) -> Images:
        images = load(plan)
        return replace(images, y_test=(images.y_test + 1) % 10)

    monkeypatch.setattr(demo_images.Images, "load", wrong)
    other = compare()
    for name in NAMES:
        assert other["machines"][name]["chosen"] == told["machines"][name]["chosen"]
    assert other["filters"] == told["filters"]
    assert other["machines"]["ConvRFM"]["accuracy"] != told["machines"]["ConvRFM"]["accuracy"]


def test_differences_have_the_error_of_paired_answers() -> None:
    """As McNemar's: only images count on which one is right and the other wrong."""
    first = torch.tensor([True] * 50 + [False] * 50)
    second = torch.tensor([True] * 45 + [False] * 5 + [True] * 20 + [False] * 30)
    (found,) = differences({"a": first, "b": second})
    gained, lost = 20, 5
    assert found["gain"] == pytest.approx((gained - lost) / 100)
    variance = (gained + lost) / 100 - ((gained - lost) / 100) ** 2
    assert found["standard_error"] == pytest.approx(math.sqrt(variance / 100))
    assert found["verdict"] == "better"
    assert differences({"b": second, "a": first})[0]["verdict"] == "worse"
    assert differences({"a": first, "b": first})[0]["verdict"] == "not told apart"


def test_the_matrices_are_what_their_names_say(told) -> None:
    images = Images.load(PLAN)
    found = {name: torch.tensor(entries).double() for name, entries in told["filters"]["entries"].items()}
    assert list(found)[0::3] == ["CNN filter covariance", "patch PCA"]
    windows = torch.nn.functional.unfold(images.x.double(), 5).mT.flatten(0, 1)
    torch.testing.assert_close(found["patch PCA"], windows.mT @ windows / len(windows), rtol=1e-5, atol=1e-6)
    for name, matrix in found.items():
        torch.testing.assert_close(matrix, matrix.mT, rtol=1e-4, atol=1e-6)
        assert torch.linalg.eigvalsh(matrix).min() > -1e-4 * matrix.trace(), name
        shares = torch.linalg.eigvalsh(matrix).flip(0)[:6] / matrix.trace()
        torch.testing.assert_close(
            torch.tensor(told["filters"]["eigenvalues"][name]).double(), shares, rtol=1e-3, atol=1e-6
        )


def test_the_patch_agop_of_the_network_is_that_of_its_windows() -> None:
    """Autograd along every window, with the windows as inputs of their own."""
    plan, net = replace(PLAN, n_test=3), plain_cnn(PLAN)
    images = Images.load(plan)
    machine = demo_images._fit_kernel(demo_images._convolutional(plan, 0), images).machine
    found = demo_images.patch_matrices(plan, machine, net, images)
    assert "ConvRFM patch AGOP" in found
    weight = net.get_submodule("conv1").get_parameter("weight").flatten(1).detach()
    torch.testing.assert_close(found["CNN filter covariance"], weight.mT @ weight)

    def of_windows(flat: torch.Tensor) -> torch.Tensor:
        maps = (flat.unflatten(1, (576, 25)) @ weight.mT).mT.reshape(-1, PLAN.width, 24, 24)
        return net[1:](maps)

    windows = torch.nn.functional.unfold(images.x_test, 5).mT.flatten(1)
    total = agop_of_function(of_windows, windows)
    blocks = total.reshape(576, 25, 576, 25).diagonal(dim1=0, dim2=2).sum(-1)
    torch.testing.assert_close(found["CNN patch AGOP"].double(), blocks.double(), rtol=1e-4, atol=1e-6)


def test_the_page_of_a_real_comparison_shows_its_own_numbers(told, tmp_path) -> None:
    write_filters_report(told, tmp_path / "page.html")
    page = page_reader.Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    known = set(page_reader.numbers_in(told)) | {0.1}
    assert [value for value, _ in page.data if float(value) not in known] == []
    assert (page.loose_digits(), page.problems) == ([], [])
    assert "NaN" not in dump_json(told)


def test_the_text_fits_eighty_columns_and_has_a_row_for_each(told) -> None:
    lines = comparison_text(told).splitlines()
    assert max(map(len, lines)) <= 80
    for name, one in told["machines"].items():
        (row,) = [line for line in lines if line.startswith(f"  {name} ")]
        assert f"{one['accuracy']:.1%} ± {one['standard_error']:.1%}" in row


@pytest.mark.parametrize(
    ("verdict", "gain", "words"),
    [
        ("better", 0.02, "ConvRFM beat the fixed kernel by more than two standard errors (+2.0 ± 0.7 points)"),
        ("worse", -0.02, "ConvRFM fell behind the fixed kernel by more than two standard errors (-2.0 ± 0.7 points)"),
        ("not told apart", 0.004, "ConvRFM did not beat the fixed kernel here, nor the other way round (+0.4 ± 0.7"),
    ],
)
def test_the_words_follow_from_the_numbers(told, verdict, gain, words) -> None:
    other = copy.deepcopy(told)
    other["differences"][0] |= {"verdict": verdict, "gain": gain, "standard_error": 0.007}
    assert words in sentence(comparison_text(other))
