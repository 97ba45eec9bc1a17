from __future__ import annotations

import json

import matplotlib.pyplot as plt
import page_reader
import pytest
import torch
from torch import nn

from featlearn import FeatureReport, FeatureTracker, measure_features
from featlearn.report.features import write_feature_report
from featlearn.report.json import write_json


@pytest.fixture(scope="module")
def run():
    """A convolutional network trained for a moment, measured with everything there is to measure."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 12), nn.ReLU(), nn.Linear(12, 3))
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / weight[0].numel() ** 0.5)
    x = torch.randn(64, 3, 6, 6, generator=generator)
    y = (x.mean((1, 2, 3)) > 0).long() + (x[:, 0].mean((1, 2)) > 0).long()
    batches = list(zip(x.split(16), y.split(16), strict=True))
    initial = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with FeatureTracker(net, batches, schedule="log") as tracker:
        for _ in range(8):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
            tracker.step()
    return measure_features(net, batches, reference=initial, loss=nn.functional.cross_entropy), tracker


def test_a_measured_report_makes_a_page_whose_numbers_are_its_own(run, tmp_path):
    report, tracker = run
    path = tmp_path / "report.html"
    write_feature_report(report.to_dict(), path, history=tracker.history, comparison=tracker.history[0][1].to_dict())
    page = page_reader.Page(path.read_text(encoding="utf-8"))
    known = set(page_reader.numbers_in(report.to_dict()))
    known |= set(page_reader.numbers_in(tracker.history[0][1].to_dict()))
    assert all(float(value) in known and page_reader.rounds_to(value, text) for value, text in page.data)
    assert page.loose_digits() == []
    assert page.problems == []
    sections = {attributes["id"] for tag, attributes in page.elements if tag == "section"}
    assert {"directions", "loss", "speed", "lazy", "collapse", "tracking", "comparison"} <= sections
    assert len([path for tag, path in page.elements if tag == "path" and path.get("class") == "line"]) == 6 * 2


def test_a_report_written_as_json_and_read_back_makes_the_page_it_made(run, tmp_path):
    report, _ = run
    write_json(report.to_dict(), tmp_path / "report.json")
    back = FeatureReport.from_dict(json.loads((tmp_path / "report.json").read_text(encoding="utf-8")))
    report.to_html(tmp_path / "one.html")
    back.to_html(tmp_path / "two.html")
    assert (tmp_path / "one.html").read_text() == (tmp_path / "two.html").read_text()
    assert report._repr_html_() == back._repr_html_()


def test_what_is_measured_is_drawn(run):
    report, tracker = run
    assert [label.get_text() for label in report.plot().get_yticklabels()] == ["0", "3"]
    assert [line.get_label() for line in tracker.plot().lines[:2]] == ["0", "3"]
    plt.close("all")
