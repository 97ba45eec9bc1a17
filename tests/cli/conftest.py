"""A folder with a user's models and data in it, and the command line run there in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from featlearn.cli import main

NETS = """
import torch
from torch import nn


def mlp(width=8):
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 5), nn.Tanh(), nn.Linear(5, 3))


def cnn(channels=1):
    head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(inplace=True), head)


def tied():
    net = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2))
    net[2].weight = net[0].weight
    return net


def mixing():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 2))


def no_weights():
    return nn.Sequential(nn.LayerNorm(6), nn.Tanh())


def broken():
    raise RuntimeError("no such luck")


module = mlp()
number = 3


def first_output(model, batch):
    return model(batch[0])[:, :1]


def absolute(outputs, targets):
    return (outputs[:, 0] - targets).abs().mean()
"""


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of the test, with ``nets.py`` and ``rows.npz`` (60 samples of 6 numbers, 3 classes)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "nets.py").write_text(NETS, encoding="utf-8")
    random = np.random.default_rng(0)
    X = random.normal(size=(60, 6)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", X=X, y=(X[:, 0] > 0).astype(int) + (X[:, 1] > 0))
    return tmp_path


@pytest.fixture
def featlearn(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """``featlearn(*arguments)`` as typed in the test's folder."""
    before = set(sys.modules)

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    yield run
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(folder) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.fixture
def measure(featlearn: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """``featlearn measure`` of ``nets.py:mlp`` on ``rows.npz``, quick, with more options, or others in their place."""

    def run(*options: object, model: str = "nets.py:mlp", data: object = "rows.npz") -> Outcome:
        return featlearn("measure", model, "--data", data, "--batch-size", 15, *options)

    return run
