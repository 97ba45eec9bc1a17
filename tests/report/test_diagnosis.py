"""The page of a diagnosis: every number is one of it, and what was not measured is said."""

from __future__ import annotations

import copy
import json

import page_reader
import pytest
import torch

from featlearn.dynamics.diagnose import diagnose, diagnose_weights
from featlearn.exceptions import DataError
from featlearn.report.diagnosis import write_diagnosis_report
from featlearn.report.json import dump_json


@pytest.fixture(scope="module")
def diagnosis():
    """Of a network whose first layer was doubled."""
    generator = torch.Generator().manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 12), torch.nn.ReLU(), torch.nn.Linear(12, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    before = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        net[0].weight.mul_(2)
    return diagnose(before, net, torch.randn(40, 4, generator=generator))


def read(tmp_path, diagnosis) -> page_reader.Page:
    diagnosis.to_html(tmp_path / "page.html")
    return page_reader.Page((tmp_path / "page.html").read_text(encoding="utf-8"))


def test_every_number_shown_is_one_of_the_diagnosis(tmp_path, diagnosis) -> None:
    page = read(tmp_path, diagnosis)
    known = set(page_reader.numbers_in(diagnosis.to_dict()))
    assert len(page.data) > 25
    for value, text in page.data:
        assert float(value) in known, (value, text)
        assert page_reader.rounds_to(value, text), (value, text)
    assert page.problems == []


def test_verdict_advice_and_reasons_are_told(tmp_path, diagnosis) -> None:
    page = read(tmp_path, diagnosis)
    assert page.of_class("verdict")[0].lower() == diagnosis.verdict
    assert any(text == diagnosis.advice for _, _, text in page.texts)
    reasons = {entry.reason for entry in diagnosis.evidence.values() if entry.reason}
    assert reasons
    assert reasons <= {text for tag, _, text in page.texts if tag == "dd"}
    captions = {text for tag, _, text in page.texts if tag == "th"}
    assert {"kernel distance", "hamming", "rotation"} <= captions


def test_flags_are_escaped_and_weights_alone_have_no_regime(tmp_path) -> None:
    weights = {"a.weight": torch.eye(3), "b.weight": torch.eye(3)}
    told = diagnose_weights(weights, {**weights, "a.weight": 2 * torch.eye(3)}, [("a", "b")]).to_dict()
    told["flags"] = ["<b>bold</b> & more"]
    write_diagnosis_report(told, tmp_path / "one.html", title="A & B")
    page = page_reader.Page((tmp_path / "one.html").read_text(encoding="utf-8"))
    assert page.of_class("alert") == ["<b>bold</b> & more"]
    assert [text for tag, _, text in page.texts if tag == "h1"] == ["A & B"]
    assert page.of_class("verdict")[0].startswith("Regime unknown")
    write_diagnosis_report(json.loads(dump_json(told)), tmp_path / "two.html", title="A & B")
    assert (tmp_path / "one.html").read_text() == (tmp_path / "two.html").read_text()


def test_what_is_no_diagnosis_is_refused_before_anything_is_written(tmp_path, diagnosis) -> None:
    told = {name: value for name, value in diagnosis.to_dict().items() if name != "evidence"}
    with pytest.raises(DataError, match="without evidence"):
        write_diagnosis_report(told, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []
