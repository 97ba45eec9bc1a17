"""The page that compares machines and their matrices between patches: every number its own, words that follow."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import page_reader
import pytest
import torch
from PIL import Image

from featlearn.exceptions import DataError
from featlearn.machines.edges import derivative_filters, edge_report
from featlearn.plots.palette import diverging
from featlearn.report.filters import learned_matrix, likenesses, write_filters_report
from featlearn.report.json import dump_json

NAMES = ("fixed kernel", "ConvRFM", "Deep ConvRFM", "CNN")


def difference(first: str, second: str, gain: float, verdict: str) -> dict:
    return {"first": first, "second": second, "gain": gain, "standard_error": 0.0071, "verdict": verdict}


def comparison(learned: str = "ConvRFM metric", verdict: str = "better", gain: float = 0.019) -> dict:
    """A comparison with matrices that are known: the metric is all edges, the network's filters mostly."""
    edges = derivative_filters(5)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(25, 25, generator=generator, dtype=torch.float64)
    flat = torch.full((25, 25), 0.04, dtype=torch.float64)
    metric = edges.mT @ edges
    matrices = {"CNN filter covariance": metric + 0.02 * noise @ noise.mT, "CNN patch AGOP": noise @ noise.mT}
    matrices[learned] = metric
    told = edge_report(matrices, 1, patch_moment=flat + 0.01 * torch.eye(25), top=6).to_dict()
    every = {**matrices, "patch PCA": flat + 0.01 * torch.eye(25)}
    for entry in told["similarity"]:
        entry["excess"] = (entry["cosine"] - entry["chance"]) / (1 - entry["chance"])
    told["entries"] = {name: matrix.tolist() for name, matrix in every.items()}
    told["edge_share"] = {name: float((edges @ m @ edges.mT).trace() / m.trace()) for name, m in every.items()}
    machines = {
        name: {
            "accuracy": 0.8 + 0.013 * place,
            "standard_error": 0.0123,
            "chosen": [{"ridge": 0.01, "iterate": place}] * (2 if name == "Deep ConvRFM" else 1),
            "how": ["leave-one-out over the training images"] * (2 if name == "Deep ConvRFM" else 1),
            "seconds": 5.5 + place,
        }
        for place, name in enumerate(NAMES)
    }
    machines["CNN"] |= {
        "chosen": [{"learning_rate": 0.03, "epochs": 8}],
        "how": ["a fifth, held out"],
        "candidates": [{"learning_rate": 0.01, "accuracy": 0.79}, {"learning_rate": 0.03, "accuracy": 0.82}],
    }
    return {
        "data": {"n_train": 800, "n_test": 1000, "patch_size": 5},
        "machines": machines,
        "differences": [
            difference("fixed kernel", "ConvRFM", gain, verdict),
            difference("ConvRFM", "CNN", -0.031, "worse"),
        ],
        "filters": told,
        "training": {"width": 24, "deep_width": 8, "start_cosine": 0.81},
        "provenance": {"data": "Fashion-MNIST (subset)", "date": "2026-01-02T03:04:05+00:00", "random_state": 0},
    }


@pytest.fixture
def page_of(tmp_path):
    def write(told, **options):
        write_filters_report(told, tmp_path / "page.html", **options)
        return page_reader.Page((tmp_path / "page.html").read_text(encoding="utf-8"))

    return write


def prose(page) -> str:
    """Everything that is written on the page, with its numbers."""
    texts = [text for tag, _, text in page.texts if tag in ("p", "li", "dd")]
    return " ".join(" ".join(texts).split())


def rounds_to(value: str, text: str) -> bool:
    """Whether ``text`` is the number, rounded; in percent where it says so."""
    if text.startswith("<"):
        return 0 < 100 * float(value) < float(text[1:-1])
    return (
        page_reader.rounds_to(str(100 * float(value)), text[:-1])
        if text.endswith("%")
        else page_reader.rounds_to(value, text)
    )


def test_every_number_shown_is_one_of_the_comparison(page_of) -> None:
    told = comparison()
    page = page_of(told)
    known = set(page_reader.numbers_in(told))
    assert len(page.data) > 80
    for value, text in page.data:
        assert float(value) in known | {0.1}, (value, text)
        assert rounds_to(value, text), (value, text)
    assert page.loose_digits() == []
    assert page.problems == []


def test_the_page_needs_no_other_file(page_of) -> None:
    page = page_of(comparison())
    sources = [attributes["src"] for tag, attributes in page.elements if "src" in attributes]
    assert len(sources) == 4 + 4 * 6
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not [tag for tag, attributes in page.elements if tag == "link" or attributes.get("href", "#")[0] != "#"]


def test_heatmaps_are_the_matrices_over_their_largest_entry(page_of) -> None:
    told = comparison()
    page = page_of(told)
    shown = {a["alt"]: a["src"] for tag, a in page.elements if tag == "img"}
    for name, entries in told["filters"]["entries"].items():
        file = base64.b64decode(shown[f"Heatmap of {name}"].partition(",")[2])
        matrix = np.array(entries)
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(file))), diverging(matrix / abs(matrix).max()))


def test_a_comparison_read_back_from_json_makes_the_same_page(tmp_path) -> None:
    told = comparison()
    write_filters_report(told, tmp_path / "one.html")
    write_filters_report(json.loads(dump_json(told)), tmp_path / "two.html")
    assert (tmp_path / "one.html").read_text() == (tmp_path / "two.html").read_text()


@pytest.mark.parametrize(
    ("verdict", "gain", "words"),
    [
        ("better", 0.019, "ConvRFM beat the fixed kernel by more than two standard errors: 1.9% ± 0.7%"),
        ("worse", -0.019, "ConvRFM fell behind the fixed kernel by more than two standard errors: −1.9% ± 0.7%"),
        ("not told apart", 0.005, "ConvRFM did not beat the fixed kernel here, nor the other way round: 0.5% ± 0.7%"),
    ],
)
def test_who_won_follows_from_the_verdict(page_of, verdict, gain, words) -> None:
    text = prose(page_of(comparison(verdict=verdict, gain=gain)))
    assert words in text
    assert "The CNN fell behind ConvRFM" in text


@pytest.mark.parametrize(
    ("excess", "overlap", "words"),
    [
        (-0.5, -0.5, "clearly closer than patch PCA by both"),
        (-0.5, 1.0, "clearly closer than patch PCA by the cosine, but not by its leading directions"),
        (0.99, -0.5, "clearly closer than patch PCA by its leading directions, but not by the cosine"),
        (0.99, 1.0, "not clearly closer than patch PCA by either, so that this likeness shows no learning"),
    ],
)
def test_likeness_counts_only_beyond_that_of_patch_pca(page_of, excess, overlap, words) -> None:
    told = comparison()
    for name in ("CNN filter covariance", "CNN patch AGOP"):
        likenesses(told, name)[1].update(excess=excess, overlap=overlap)
    assert prose(page_of(told)).count(f"So it is {words}.") == 2


def test_edges_count_only_beyond_those_of_patch_pca(page_of) -> None:
    told = comparison()
    assert ", more than of patch PCA" in prose(page_of(told))
    told["filters"]["edge_share"]["patch PCA"] = 1.0
    assert ", no more than of patch PCA" in prose(page_of(told))


def test_the_agop_of_a_fixed_kernel_is_not_called_a_metric(page_of) -> None:
    told = comparison(learned="ConvRFM patch AGOP")
    assert learned_matrix(told) == "ConvRFM patch AGOP"
    assert "there is no learned metric" in prose(page_of(told))
    assert "ConvRFM metric" not in prose(page_of(told))
    assert "there is no learned metric" not in prose(page_of(comparison()))


def test_what_is_no_comparison_is_refused_before_anything_is_written(tmp_path) -> None:
    told = comparison()
    del told["filters"]
    with pytest.raises(DataError, match="without filters, but expected all of data, machines"):
        write_filters_report(told, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []
