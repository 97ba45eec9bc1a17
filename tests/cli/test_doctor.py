"""``featlearn doctor`` finds what is there, and what is wrong."""

from __future__ import annotations

import importlib.metadata
import os

import torch

from featlearn.cli import doctor_run


def test_a_sound_installation_is_0(featlearn, monkeypatch) -> None:
    monkeypatch.delenv("FEATLEARN_DATA", raising=False)
    outcome = featlearn("doctor")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"torch {importlib.metadata.version('torch')}" in " ".join(outcome.out.split())
    assert f"{torch.get_num_threads()} of {os.cpu_count()} processors" in outcome.out
    assert outcome.out.splitlines()[-1] == "Everything featlearn needs is here and right."


def test_the_identity_holds_to_round_off() -> None:
    assert 0 < doctor_run.identity_error() < 1e-14


def test_a_wrong_number_is_found(featlearn, monkeypatch) -> None:
    monkeypatch.setattr(doctor_run, "identity_error", lambda: 1e-3)
    outcome = featlearn("doctor")
    assert outcome.code == 1
    assert "FAIL self-check" in outcome.out
    assert outcome.out.splitlines()[-1] == "Not usable as it is: self-check."


def test_a_missing_package_and_a_wrong_data_folder_are_found(featlearn, monkeypatch) -> None:
    monkeypatch.setattr(doctor_run, "NEEDED", ("torch", "a-package-that-is-nowhere"))
    monkeypatch.setenv("FEATLEARN_DATA", "nowhere")
    outcome = featlearn("doctor")
    assert outcome.code == 1
    assert "pip install a-package-that-is-nowhere" in outcome.out
    assert outcome.out.splitlines()[-1] == "Not usable as it is: packages, FEATLEARN_DATA."


def test_a_data_folder_is_named_with_what_it_holds(featlearn, folder, monkeypatch) -> None:
    (folder / "data" / "mnist").mkdir(parents=True)
    monkeypatch.setenv("FEATLEARN_DATA", "data")
    outcome = featlearn("doctor")
    assert outcome.code == 0
    assert "data, holding mnist" in outcome.out
