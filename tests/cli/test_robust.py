"""``featlearn robust``: retrained last layers from saved features or a model, as typed in a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import group_tables
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from featlearn.robust.dfr import DFRClassifier
from featlearn.robust.group_results import GroupComparison

ASKED = ("--groups", "groups.csv", "--label", "y", "--group", "background")
PHOTOS = ("--images", "photos", "--groups", "photos.csv", "--label", "y", "--group", "light")
NETS = """
from torch import nn


def net(outputs=2):
    return nn.Sequential(nn.Conv2d(1, 12, 8), nn.Flatten(), nn.ReLU(), nn.Linear(12, outputs))


def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
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


def by_hand(frame: pd.DataFrame, Z: np.ndarray, **options: object) -> DFRClassifier:
    rows = (frame["split"] == "held-out").to_numpy()
    groups = frame.loc[rows, ["y", "background"]]
    return DFRClassifier(random_state=0, **options).fit(Z[rows], frame.loc[rows, "y"], groups)


def test_every_method_is_what_it_is_in_python(featlearn, table) -> None:
    found = told(featlearn("robust", "features.npy", *ASKED, "--json", "-"))
    reports = GroupComparison.from_dict(found["comparison"]).reports
    assert list(reports) == ["ERM", "class-balanced", "RWG", "SUBG", "DFR"]
    Z, test, train = np.load("features.npy"), table["split"] == "test", table["split"] == "train"
    groups = table[["y", "background"]]
    dfr, subg = by_hand(table, Z), by_hand(table, Z, C=1.0, n_refits=1)
    for name, head in (("DFR", dfr), ("SUBG", subg)):
        report = head.report(Z[test], table.loc[test, "y"], groups[test], train_groups=groups[train])
        assert reports[name].to_dict() == report.to_dict()
    correct = (table["predicted"] == table["y"])[test].groupby([groups["y"], groups["background"]]).mean()
    assert [entry.accuracy for entry in reports["ERM"].entries] == correct.tolist()
    assert reports["ERM"].worst_group_accuracy < 0.5 < 0.8 < reports["DFR"].worst_group_accuracy
    assert found["C"]["DFR"] == {"chosen": dfr.best_C_, "used": dfr.C_}


def test_the_screen_tells_rows_methods_information_and_selection(featlearn, table) -> None:
    outcome = featlearn("robust", "features.npy", *ASKED, "--information", "class labels", "--selection", "none")
    flat = " ".join(outcome.out.split())
    assert "Rows split by the column split: 300 held-out rows fit, 300 test rows judge, 300 training rows" in flat
    assert "Information: class labels; selection: none." in flat
    assert "Information: group labels on 300 rows; selection: group-labelled validation." in flat
    assert "mean, training" in outcome.out
    assert "The methods do not have the same information" in flat
    counts = table.groupby(["y", "background", "split"]).size()
    line = next(line for line in outcome.out.splitlines() if line.startswith("y=1, background=land"))
    assert line.split()[-3:] == [str(counts[1, "land", use]) for use in ("train", "held-out", "test")]


def test_without_a_split_every_group_is_halved_at_random_and_it_is_said(featlearn, table, folder: Path) -> None:
    table.drop(columns=["split", "predicted"]).to_csv(folder / "plain.csv", index=False)
    asked = ("robust", "features.npy", "--groups", "plain.csv", "--label", "y", "--group", "background")
    found = told(featlearn(*asked, "--json", "-"))
    assert "ERM" not in found["comparison"]["reports"]
    assert found["provenance"]["split"] == "by halving every group at random (seed 0)"
    assert all(abs(row["fit"] - row["test"]) <= 1 and row["train"] == 0 for row in found["rows"])
    outcome = featlearn(*asked)
    assert "split by halving every group at random (seed 0)" in " ".join(outcome.out.split())
    assert "nothing says which rows trained the network" in outcome.err
    other = told(featlearn(*asked, "--json", "-", "--seed", 1))
    assert other["comparison"] != found["comparison"]
    weighted = told(featlearn(*asked, "--json", "-", "--train-groups", "train.csv"))
    report = weighted["comparison"]["reports"]["DFR"]
    assert report["mean_accuracy_train_weighted"] is not None
    assert found["comparison"]["reports"]["DFR"]["mean_accuracy_train_weighted"] is None


def test_numbers_say_train_held_out_and_test_as_in_published_metadata(featlearn, table, folder: Path) -> None:
    numbers = table.assign(split=table["split"].map({"train": 0, "held-out": 1, "test": 2}))
    numbers.rename(columns={"split": "part"}).to_csv(folder / "numbers.csv", index=False)
    words = told(featlearn("robust", "features.npy", *ASKED, "--json", "-"))
    asked = ("--groups", "numbers.csv", "--label", "y", "--group", "background", "--split-column", "part")
    found = told(featlearn("robust", "features.npy", *asked, "--json", "-"))
    assert (found["comparison"], found["rows"]) == (words["comparison"], words["rows"])


@pytest.mark.parametrize("kind", ["npz", "safetensors", "csv", "folder"])
def test_every_kind_of_file_gives_the_same_answer(featlearn, table, folder: Path, kind: str) -> None:
    Z = np.load("features.npy")
    expected = told(featlearn("robust", "features.npy", *ASKED, "--json", "-"))["comparison"]
    place = f"saved.{kind}"
    if kind == "npz":
        np.savez(folder / place, only=Z)
    elif kind == "safetensors":
        from safetensors.numpy import save_file

        save_file({"only": Z}, folder / place)
    elif kind == "csv":
        pd.DataFrame(Z.astype(float)).to_csv(folder / place, index=False)
    else:  # beside baselines and the table itself, the one layer is meant
        place = "saved"
        (folder / place).mkdir()
        for name in ("penultimate", "pixels", "init"):
            np.save(folder / place / f"{name}.npy", Z.reshape(len(Z), 2, 3))
    assert told(featlearn("robust", place, *ASKED, "--json", "-"))["comparison"] == expected


def test_the_saved_layer_predicts_as_the_method_did(featlearn, table, folder: Path) -> None:
    outcome = featlearn("robust", "features.npy", *ASKED, "--save", "head.safetensors", "--json", "r.json")
    assert outcome.out.splitlines()[-1] == "Wrote r.json and head.safetensors."
    head, Z = load_file(folder / "head.safetensors"), np.load("features.npy")
    expected = by_hand(table, Z)
    logits = Z @ head["coef"].numpy().T + head["intercept"].numpy()
    np.testing.assert_allclose(logits[:, 0], expected.decision_function(Z), rtol=1e-5, atol=1e-5)
    with safe_open(folder / "head.safetensors", "np") as file:
        about = file.metadata()
    assert json.loads(about["classes"]) == [0, 1]
    assert json.loads(about["groups"]) == ["y", "background"]
    assert (about["method"], about["selection"]) == ("DFR", "group-labelled validation")


def test_page_and_figure_are_written(featlearn, table, folder: Path) -> None:
    found = featlearn("robust", "features.npy", *ASKED, "--html", "r.html", "--png", "r.svg", "--json", "r.json")
    assert found.code == 0
    page = (folder / "r.html").read_text(encoding="utf-8")
    numbers = json.loads((folder / "r.json").read_text(encoding="utf-8"))
    for report in numbers["comparison"]["reports"].values():
        assert f'value="{report["worst_group_accuracy"]!r}"' in page
    assert "--html r.html" in page
    assert [word for word in ("http", "src=", "<link") if word in page] == []
    assert "<svg" in (folder / "r.svg").read_text(encoding="utf-8")


# --- of a model -------------------------------------------------------------------------------------------------------


def test_a_model_is_compared_as_it_is_and_goes_on_with_the_new_layer(featlearn, photos, folder: Path) -> None:
    asked = ("robust", "--model", "photo_nets.py:net", *PHOTOS, "--json", "-", "--batch-size", 7)
    found = told(featlearn(*asked, "--save-network", "net.safetensors"))
    assert found["provenance"]["n_features"] == 12
    # The network with the new layer, as it is, is the method.
    again = told(featlearn(*asked, "--weights", "net.safetensors"))
    first, second = found["comparison"]["reports"]["DFR"], again["comparison"]["reports"]["ERM"]
    assert [group["n_correct"] for group in second["groups"]] == [group["n_correct"] for group in first["groups"]]
    assert first["worst_group_accuracy"] > 0.8


def test_rows_of_the_table_and_images_belong_together(featlearn, photos, folder: Path) -> None:
    """Brightness of the halves is the answer: a network that hands it on is read without an error."""
    weight = torch.zeros(2, 1, 8, 8)
    weight[0, 0, :, :4] = weight[1, 0, :, 4:] = 1 / 32
    torch.save(
        {"0.weight": torch.cat([weight, torch.zeros(10, 1, 8, 8)]), "0.bias": torch.zeros(12),
         "3.weight": torch.zeros(2, 12), "3.bias": torch.tensor([0.0, 1.0])}, folder / "known.pt",
    )  # fmt: skip
    found = told(featlearn("robust", "--model", "photo_nets.py:net", "--weights", "known.pt", *PHOTOS, "--json", "-"))
    reports = found["comparison"]["reports"]
    assert reports["DFR"]["worst_group_accuracy"] == 1.0
    assert [group["accuracy"] for group in reports["ERM"]["groups"]] == [0.0, 0.0, 1.0, 1.0]  # it says 1, always


def test_words_are_taken_in_order_and_outputs_that_are_no_labels_are_left_out(featlearn, photos, folder: Path) -> None:
    photos.assign(y=photos["y"].map({0: "cat", 1: "dog"})).to_csv(folder / "words.csv", index=False)
    asked = ("--images", "photos", "--groups", "words.csv", "--label", "y", "--group", "light", "--json", "-")
    numbers = told(featlearn("robust", "--model", "photo_nets.py:net", *PHOTOS, "--json", "-"))
    outcome = featlearn("robust", "--model", "photo_nets.py:net", *asked)
    assert "were taken as y = cat, dog, in order" in outcome.err
    values = [told(outcome), numbers]
    first, second = (value["comparison"]["reports"]["ERM"]["worst_group_accuracy"] for value in values)
    assert first == second
    # A guess that could be wrong goes where the number goes.
    assert told(outcome)["methods"]["ERM"].endswith("its outputs taken as y = cat, dog, in order")
    photos.assign(y=photos["y"].map({0: "cat", 1: "dog"}), predicted="cat").to_csv(folder / "known.csv", index=False)
    outcome = featlearn("robust", "--model", "photo_nets.py:net", *asked, "--groups", "known.csv")
    assert "taken as" not in outcome.err + outcome.out
    outcome = featlearn("robust", "--model", "photo_nets.py:net", "--model-args", '{"outputs": 5}', *asked)
    assert "do not stand for the 2 values of y" in outcome.err
    assert "ERM" not in told(outcome)["comparison"]["reports"]


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        ((), 2, "neither FEATURES nor --model"),
        (("features.npy", "--model", "nets.py:mlp"), 2, "both FEATURES and --model"),
        (("features.npy", "--weights", "w.pt"), 2, "--weights"),
        (("features.npy", "--save-network", "n.safetensors"), 2, "--save-network"),
        (("--model", "nets.py:mlp"), 2, "--images"),
        (("--model", "nets.py:mlp", "--images", "groups.csv"), 2, "no folder"),
        (("features.npy", "--label", "background"), 2, "besides the label"),
        (("features.npy", "--label", "colour"), 2, "no such column"),
        (("features.npy", "--split-column", "background"), 2, "held-out"),
        (("features.npy", "--split-column", "y"), 2, "without test rows"),
        (("features.npy", "--predicted", "split"), 2, "none is a label"),
        (("features.npy", "--train-groups", "train.csv"), 2, "training rows too"),
        (("features.npy", "--selection", "luck"), 2, "oracle (test)"),
        (("features.npy", "--save", "head.pt"), 2, ".safetensors"),
        (("features.npy", "--layer", "conv9"), 2, "features"),
        (("features.npy", "--save", "a.safetensors", "--html", "a.safetensors"), 2, "one file"),
        (("features.npy", "--html", "groups.csv"), 2, "--html groups.csv, which the command reads"),
        (("features.npy", "--json", "features.npy"), 2, "--json features.npy, which the command reads"),
        (("layers",), 2, "conv2, conv10"),
        (("layers", "--layer", "conv9"), 2, "conv2"),
        (("nowhere.npy",), 4, "nowhere.npy"),
        (("nets.py",), 4, ".safetensors"),
        (("photos",), 4, "holds no features"),
        (("short.npy",), 4, "900"),
        (("flat.npy",), 4, "(n, d)"),
        (("holes.npy",), 4, "NaN"),
        (("objects.npy",), 4, "cannot be read"),
        (("damaged.npz",), 4, "cannot be read"),
        (("nothing.npz",), 4, "holds no array"),
        (("groups.csv",), 4, "no numbers"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_has_its_own_code_and_leaves_nothing(
    featlearn, table, folder: Path, arguments, code, named
) -> None:
    Z = np.load("features.npy")
    (folder / "photos").mkdir()
    np.save(folder / "short.npy", Z[:-1])
    np.save(folder / "flat.npy", Z[:, 0])
    np.save(folder / "holes.npy", np.where(np.arange(len(Z))[:, None] == 500, np.nan, Z))
    np.save(folder / "objects.npy", np.array([[{}]] * len(Z)))
    (folder / "damaged.npz").write_bytes(b"PK not a zip")
    np.savez(folder / "nothing.npz")
    before = {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}
    outcome = featlearn("robust", *ASKED, *arguments)
    assert (outcome.code, outcome.out) == (code, "")
    assert named in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")} == before


def test_a_group_without_held_out_rows_is_refused_by_name(featlearn, table, folder: Path) -> None:
    gone = (table["split"] == "held-out") & (table["y"] == 1) & (table["background"] == "land")
    np.save(folder / "fewer.npy", np.load("features.npy")[~gone])
    table[~gone].to_csv(folder / "fewer.csv", index=False)
    outcome = featlearn("robust", "fewer.npy", "--groups", "fewer.csv", "--label", "y", "--group", "background")
    assert (outcome.code, outcome.out) == (4, "")
    assert "y=1, background=land" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("--file-column", "path"), 2, "file"),
        (("--mean", "0.5,0.5"), 2, "--mean"),
        (("--layer", "1", "--save-network", "n.safetensors"), 2, "--layer"),
        (("--layer", "nope"), 5, "nope"),
        (("--weights", "own.safetensors", "--save-network", "own.safetensors"), 2, "which the command reads"),
        (("--weights", "nowhere.pt"), 3, "nowhere.pt"),
        (("--images", "empty"), 4, "96 of 96 images"),
        (("--model", "photo_nets.py:flat"), 4, "cannot process"),
    ],
)  # fmt: skip
def test_what_a_model_cannot_do_has_its_own_code(featlearn, photos, folder: Path, arguments, code, named) -> None:
    (folder / "empty").mkdir()
    before = sorted(folder.iterdir())
    outcome = featlearn("robust", "--model", "photo_nets.py:net", *PHOTOS, *arguments)
    assert (outcome.code, outcome.out) == (code, "")
    assert named in outcome.err
    assert sorted(folder.iterdir()) == before


@pytest.mark.filterwarnings("default")
def test_few_rows_are_told_once_and_not_when_quiet(featlearn, folder: Path) -> None:
    few = group_tables.write_features(folder)
    rare = few.index[(few["y"] == 0) & (few["background"] == "water") & (few["split"] == "held-out")]
    few.loc[rare[4:], "split"] = "train"
    few.to_csv(folder / "groups.csv", index=False)
    asked = ("robust", "features.npy", "--groups", "groups.csv", "--label", "y", "--group", "background")
    lines = [line for line in featlearn(*asked).err.splitlines() if "Fewer than 10 rows" in line]
    assert len(lines) == len(set(lines)) == 2  # of samples and of weights
    assert featlearn(*asked, "--quiet").err == ""
