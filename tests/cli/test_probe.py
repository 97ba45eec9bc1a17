"""``featlearn probe``: what layers tell, from saved features or a model, as typed in a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import group_tables
import numpy as np
import pandas as pd
import pytest
import torch

from featlearn.robust.probe import feature_probe
from featlearn.robust.probe_results import FeatureProbe

ASKED = ("--groups", "groups.csv", "--label", "y", "--group", "background")
PHOTOS = ("--images", "photos", "--groups", "photos.csv", "--label", "y", "--group", "light")
NETS = """
import torch
from torch import nn


def net():
    return nn.Sequential(nn.Conv2d(1, 12, 8), nn.Flatten(), nn.ReLU(), nn.Linear(12, 2))


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(192))
        self.last = nn.Linear(192, 2)

    def forward(self, x):
        return self.last(x.flatten(1) * self.scale)
"""


@pytest.fixture
def table(folder: Path) -> pd.DataFrame:
    return group_tables.write_features(folder)


@pytest.fixture
def photos(folder: Path) -> pd.DataFrame:
    (folder / "photo_nets.py").write_text(NETS, encoding="utf-8")
    return group_tables.write_images(folder)


def told(outcome) -> dict:
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def test_saved_layers_are_probed_as_in_python_in_the_order_of_their_numbers(featlearn, table) -> None:
    found = told(featlearn("probe", "layers", *ASKED, "--json", "-", "--refits", 3))
    fit, test = ((table["split"] == use).to_numpy() for use in ("held-out", "test"))
    sets = {name: np.load(f"layers/{name}.npy") for name in ("pixels", "init", "conv2", "conv10")}
    y, s = table["y"].to_numpy(), table["background"].to_numpy()
    expected = feature_probe(
        {name: Z[fit] for name, Z in sets.items()}, y[fit], s[fit],
        {name: Z[test] for name, Z in sets.items()}, y[test], s[test], n_refits=3,
    )  # fmt: skip
    result = FeatureProbe.from_dict(found["probe"])
    pd.testing.assert_frame_equal(result.frame(), expected.frame())
    assert list(result.table.index) == ["pixels", "init", "conv2", "conv10"]
    assert result.table.loc["conv10", "excess_core"] > 0.1


def test_the_screen_shows_every_layer_and_says_how_rows_were_split(featlearn, table) -> None:
    outcome = featlearn("probe", "layers", *ASKED)
    result = FeatureProbe.from_dict(told(featlearn("probe", "layers", *ASKED, "--json", "-"))["probe"])
    rows = {line.split()[0]: line for line in outcome.out.splitlines() if line.split()[:1]}
    for point in result.points:
        assert f"{point.core_wga:.3f}" in rows[point.name]
        assert f"{point.spurious_wga:.3f}" in rows[point.name]
    assert f"{result.points[-1].excess_core:+.3f}" in rows["conv10"]
    flat = " ".join(outcome.out.split())
    assert "split by the column split: 300 fit the probes, 300 judge them" in flat
    assert " ".join(result.summary().split()) in flat


def test_baselines_are_compulsory_unless_it_is_said_loudly(featlearn, table, folder: Path) -> None:
    outcome = featlearn("probe", "features.npy", *ASKED)
    assert (outcome.code, outcome.out) == (4, "")
    assert "'pixels' and 'init'" in outcome.err
    assert "--no-baselines" in outcome.err
    outcome = featlearn("probe", "features.npy", *ASKED, "--no-baselines", "--html", "p.html")
    assert outcome.code == 0
    assert "WITHOUT BASELINES" in outcome.out
    assert "excess" not in outcome.out
    assert 'class="alert"' in (folder / "p.html").read_text(encoding="utf-8")
    featlearn("probe", "layers", *ASKED, "--html", "q.html")
    assert 'class="alert"' not in (folder / "q.html").read_text(encoding="utf-8")


def test_layers_can_be_chosen_and_ordered(featlearn, table) -> None:
    found = told(featlearn("probe", "layers", *ASKED, "--json", "-", "--layer", "conv10", "--layer", "conv2"))
    assert [point["name"] for point in found["probe"]["points"]] == ["pixels", "init", "conv10", "conv2"]


def test_page_and_figure_are_written(featlearn, table, folder: Path) -> None:
    outcome = featlearn("probe", "layers", *ASKED, "--html", "p.html", "--png", "p.png", "--json", "p.json")
    assert outcome.out.splitlines()[-1] == "Wrote p.html and p.png and p.json."
    page = (folder / "p.html").read_text(encoding="utf-8")
    for point in json.loads((folder / "p.json").read_text(encoding="utf-8"))["probe"]["points"]:
        assert page.count(f'value="{point["core_wga"]!r}"') >= 2
    assert [word for word in ("http", "src=", "<link") if word in page] == []
    assert (folder / "p.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_is_probed_with_both_controls(featlearn, photos) -> None:
    asked = ("probe", "--model", "photo_nets.py:net", *PHOTOS, "--json", "-", "--batch-size", 7)
    points = told(featlearn(*asked))["probe"]["points"]
    assert [(point["name"], point["d"]) for point in points] == [("pixels", 64), ("init", 12), ("penultimate", 12)]
    assert points[0]["core_wga"] > 0.9  # a half's brightness can be read from the pixels
    points = told(featlearn(*asked, "--layer", "0", "--layer", "2"))["probe"]["points"]
    assert [point["name"] for point in points] == ["pixels", "init: 0", "init: 2", "0", "2"]


def test_checkpoints_are_called_by_their_files_and_an_untrained_one_can_be_given(featlearn, photos, folder: Path):
    torch.manual_seed(0)
    states = [
        {"0.weight": torch.randn(12, 1, 8, 8), "0.bias": torch.zeros(12), "3.weight": torch.zeros(2, 12),
         "3.bias": torch.zeros(2)} for _ in range(2)
    ]  # fmt: skip
    for name, state in zip(("epoch1", "epoch2"), states, strict=True):
        torch.save(state, folder / f"{name}.pt")
    asked = ("--checkpoint", "epoch2.pt", "--checkpoint", "epoch1.pt", "--untrained", "epoch1.pt")
    points = told(featlearn("probe", "--model", "photo_nets.py:net", *PHOTOS, *asked, "--json", "-"))["probe"]["points"]
    assert [point["name"] for point in points] == ["pixels", "init", "epoch2", "epoch1"]
    assert points[1]["core_wga"] == points[3]["core_wga"]
    assert points[3]["excess_core"] <= 0


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("layers", "--group", "y"), 2, "besides the label"),
        (("layers", "--layer", "conv3"), 2, "conv2, conv10"),
        (("layers", "--layer", "pixels"), 4, "at least one layer"),
        (("layers", "--checkpoint", "a.pt"), 2, "--checkpoint"),
        (("layers", "--untrained", "a.pt"), 2, "--untrained"),
        ((), 2, "neither FEATURES nor --model"),
        (("twice",), 4, "two files called a"),
        (("nothing.npz",), 4, "holds no array"),
        (("layers", "--html", "groups.csv"), 2, "--html groups.csv, which the command reads"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_has_its_own_code(featlearn, table, folder: Path, arguments, code, named) -> None:
    (folder / "twice").mkdir()
    np.save(folder / "twice" / "a.npy", np.ones((3, 2)))
    np.savez(folder / "twice" / "a.npz", b=np.ones((3, 2)))
    np.savez(folder / "nothing.npz")
    before = {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}
    outcome = featlearn("probe", *ASKED, *arguments)
    assert (outcome.code, outcome.out) == (code, "")
    assert named in outcome.err
    assert {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("model", "arguments", "code", "named"),
    [
        ("net", ("--no-baselines",), 2, "made from the model"),
        ("net", ("--checkpoint", "init.pt"), 2, "is taken"),
        ("net", ("--checkpoint", "nowhere.pt"), 3, "nowhere.pt"),
        ("net", ("--checkpoint", "a.json", "--json", "a.json"), 2, "which the command reads"),
        ("net", ("--untrained", "a.json", "--json", "a.json"), 2, "which the command reads"),
        ("net", ("--layer", "nope"), 5, "nope"),
        ("Own", (), 3, "--untrained"),
    ],
)  # fmt: skip
def test_what_a_model_cannot_do_has_its_own_code(featlearn, photos, model, arguments, code, named) -> None:
    outcome = featlearn("probe", "--model", f"photo_nets.py:{model}", *PHOTOS, *arguments)
    assert (outcome.code, outcome.out) == (code, "")
    assert named in outcome.err


@pytest.mark.filterwarnings("default")
def test_groups_have_the_names_of_the_columns_and_few_rows_are_told_once(featlearn, table, folder: Path) -> None:
    few = table.copy()
    rare = few.index[(few["y"] == 0) & (few["background"] == "water") & (few["split"] == "held-out")]
    few.loc[rare[4:], "split"] = "train"
    few.to_csv(folder / "groups.csv", index=False)
    outcome = featlearn("probe", "layers", *ASKED, "--json", "p.json")
    assert outcome.code == 0
    lines = [line for line in outcome.err.splitlines() if "warning" in line]
    assert len(lines) == 1
    assert "Fewer than 10 rows to fit on in y=0, background=water: 4" in lines[0]
    assert "reweight" not in lines[0]
    probe = json.loads((folder / "p.json").read_text(encoding="utf-8"))["probe"]
    assert next(iter(probe["groups"])) == "y=0, background=land"
    assert probe["information"].startswith("group labels (y, background)")
    assert featlearn("probe", "layers", *ASKED, "--quiet").err == ""


def test_layers_of_a_model_can_be_kept_whole(featlearn, photos) -> None:
    asked = ("probe", "--model", "photo_nets.py:net", *PHOTOS, "--json", "-", "--layer", "0")
    assert [point["pool"] for point in told(featlearn(*asked))["probe"]["points"]] == ["flatten", "mean", "mean"]
    whole = told(featlearn(*asked, "--pool", "flatten"))["probe"]["points"]
    assert [point["pool"] for point in whole] == ["flatten"] * 3
    outcome = featlearn(*asked, "--pool", "median")
    assert (outcome.code, outcome.out) == (2, "")
    assert "auto, flatten, mean" in outcome.err
