"""``featlearn predict``: the machine's own predictions, row by row, and what it cannot give."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from featlearn import FeatureTreeClassifier, FeatureTreeRegressor, RFMTreeClassifier, RFMTreeRegressor
from featlearn.cli import main
from featlearn.cli.table_data import read_table
from featlearn.machines import Columns, RFMClassifier, RFMRegressor

QUICK = {"kernel": "laplace", "alpha": 1e-2, "max_iter": 1, "selection": None, "random_state": 0}


def rows(n: int, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(random.normal(size=(n, 2)), columns=["a", "b"])
    frame["code"] = random.choice(["01", "02", "x"], n)
    return frame


@pytest.fixture
def machines(folder):
    """``number``, ``intervals`` and ``class`` in the current folder, and ``new.csv``."""
    X = rows(60)
    y = X["a"] + (X["code"] == "01")
    columns = Columns(missing="indicator")
    made = {
        "number": RFMRegressor(columns=columns, **QUICK).fit(X, y),
        "intervals": RFMRegressor(columns=columns, intervals="split", **QUICK).fit(X, y),
        "class": RFMClassifier(columns=columns, **QUICK).fit(X, np.where(y > 0.5, "high", "low")),
    }
    for name, machine in made.items():
        machine.export(folder / name)
    rows(7, seed=1).to_csv(folder / "new.csv", index=False)
    return made


def table(text: str) -> pd.DataFrame:
    """What was printed, every number exactly as it stands there."""
    first, *lines = csv.reader(io.StringIO(text))
    frame = pd.DataFrame(lines, columns=first)
    numbers = [name for name in frame if name.split()[0] not in ("code", "prediction")]
    numbers += [name for name in frame if name.startswith("prediction") and frame[name].str.contains(r"\d").all()]
    return frame.astype(dict.fromkeys(numbers, float))


def test_predictions_are_the_machines_own_to_the_last_digit(featlearn, machines, folder) -> None:
    outcome = featlearn("predict", "number", "new.csv")
    assert (outcome.code, outcome.err) == (0, "")
    found = table(outcome.out)
    assert list(found) == ["prediction"]
    np.testing.assert_array_equal(found["prediction"], machines["number"].predict(read_table(folder / "new.csv")))


def test_classes_with_their_probabilities(featlearn, machines, folder) -> None:
    outcome = featlearn("predict", "class", "new.csv", "--proba", "--output", "p.csv")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    found = table((folder / "p.csv").read_text())
    assert list(found) == ["prediction", "probability high", "probability low"]
    assert found["prediction"].tolist() == machines["class"].predict(read_table(folder / "new.csv")).tolist()
    np.testing.assert_array_equal(found.iloc[:, 1:], machines["class"].predict_proba(read_table(folder / "new.csv")))


def test_intervals_at_the_level_that_was_asked_for(featlearn, machines, folder) -> None:
    for level in (0.5, 0.9):
        found = table(featlearn("predict", "intervals", "new.csv", "--interval", level).out)
        assert list(found) == ["prediction", "lower", "upper"]
        expected = machines["intervals"].predict_interval(read_table(folder / "new.csv"), level)
        np.testing.assert_array_equal(found[["lower", "upper"]], expected)


def test_other_columns_and_another_order_do_no_harm(featlearn, machines, folder) -> None:
    plain = featlearn("predict", "number", "new.csv").out
    rows(7, seed=1)[["code", "b", "a"]].assign(target=0, note="x").to_csv(folder / "mixed.csv")
    assert featlearn("predict", "number", "mixed.csv").out == plain


def test_the_rows_can_be_kept(featlearn, machines) -> None:
    found = table(featlearn("predict", "number", "new.csv", "--keep").out)
    assert list(found) == ["a", "b", "code", "prediction"]
    np.testing.assert_allclose(found["a"], rows(7, seed=1)["a"])
    assert found["code"].tolist() == rows(7, seed=1)["code"].tolist()


def test_text_that_looks_like_numbers_here_is_still_text(featlearn, machines, folder) -> None:
    new = rows(7, seed=1).assign(code="01")
    new.to_csv(folder / "codes.csv", index=False)
    found = table(featlearn("predict", "number", "codes.csv").out)
    np.testing.assert_array_equal(
        found["prediction"], machines["number"].predict(read_table(folder / "codes.csv", ["code"]))
    )


@pytest.mark.filterwarnings("default")
def test_a_gap_where_training_had_none_warns_and_predicts(featlearn, machines, folder) -> None:
    new = rows(7, seed=1)
    new.loc[2, "a"] = np.nan
    new.to_csv(folder / "gaps.csv", index=False)
    outcome = featlearn("predict", "number", "gaps.csv")
    assert outcome.code == 0
    assert "featlearn: warning: Got gaps in column 'a'" in outcome.err
    assert table(outcome.out)["prediction"].notna().all()


def test_the_folder_of_a_fit_stands_for_its_machine(featlearn, machines, folder) -> None:
    (folder / "out").mkdir()
    (folder / "number").rename(folder / "out" / "machine.safetensors")
    assert featlearn("predict", "out", "new.csv").code == 0


def test_several_outputs_are_numbered(featlearn, folder) -> None:
    X = rows(40)
    machine = RFMRegressor(intervals="split", **QUICK).fit(X, X[["a", "b"]].to_numpy())
    machine.export(folder / "two")
    X.to_csv(folder / "new.csv", index=False)
    found = table(featlearn("predict", "two", "new.csv", "--interval", 0.8).out)
    assert list(found) == ["prediction 0", "prediction 1", "lower 0", "lower 1", "upper 0", "upper 1"]
    np.testing.assert_array_equal(
        found[["lower 1", "upper 1"]], machine.predict_interval(read_table(folder / "new.csv"), 0.8)[:, 1]
    )


def test_fit_and_predict_agree_through_the_command_line(featlearn, folder) -> None:
    frame = rows(50)
    frame["y"] = np.where(frame["a"] > 0, "yes", "no")
    frame.to_csv(folder / "train.csv", index=False)
    options = ("--kernel", "laplace", "--max-iter", 1, "--output", "out/", "--quiet")
    assert featlearn("fit", "train.csv", "--target", "y", *options).code == 0
    found = table(featlearn("predict", "out", "train.csv").out)
    assert np.mean(found["prediction"] == frame["y"]) > 0.85


REFUSED = {
    "no machine": (3, ["nowhere", "new.csv"], "Got nowhere, but it cannot be read"),
    "a folder without one": (3, [".", "new.csv"], "expected machine.safetensors or tree.json in it"),
    "another file": (3, ["new.csv", "new.csv"], "cannot be read as a machine"),
    "no data": (4, ["number", "nowhere.csv"], "no such file"),
    "a column less": (4, ["number", "less.csv"], "without code, but expected all 3 columns"),
    "probabilities of numbers": (2, ["number", "new.csv", "--proba"], "--proba"),
    "intervals of classes": (2, ["class", "new.csv", "--interval", "0.9"], "Use --proba"),
    "intervals that were not prepared": (2, ["number", "new.csv", "--interval", "0.9"], "--intervals split"),
    "level": (2, ["intervals", "new.csv", "--interval", "90"], "--interval 90"),
    "output in no folder": (2, ["number", "new.csv", "--output", "no/p.csv"], "no folder no"),
    "columns of the same name": (4, ["number", "taken.csv", "--keep"], "with a column 'prediction'"),
    "infinity": (4, ["number", "infinite.csv"], "column 'b'"),
}


@pytest.mark.parametrize(("code", "arguments", "named"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_given_is_refused_in_one_line(featlearn, machines, folder, code, arguments, named) -> None:
    new = rows(7, seed=1)
    new.drop(columns="code").to_csv(folder / "less.csv", index=False)
    new.assign(prediction=1).to_csv(folder / "taken.csv", index=False)
    new.assign(b=np.inf).to_csv(folder / "infinite.csv", index=False)
    before = sorted(folder.iterdir())
    outcome = featlearn("predict", *arguments)
    assert outcome.code == code
    assert outcome.out == ""
    assert len(outcome.err.splitlines()) == 1, outcome.err
    assert named in outcome.err
    assert sorted(folder.iterdir()) == before


def test_a_truncated_machine_is_3(featlearn, machines, folder) -> None:
    whole = (folder / "number").read_bytes()
    (folder / "number").write_bytes(whole[: len(whole) // 2])
    outcome = featlearn("predict", "number", "new.csv")
    assert outcome.code == 3
    assert "cannot be read as a machine" in outcome.err


def test_trees_predict_from_their_files(featlearn, folder) -> None:
    X = rows(120)
    y = X["a"] + (X["code"] == "01")
    number = RFMTreeRegressor(RFMRegressor(**QUICK), max_leaf_size=50, intervals="split", random_state=0).fit(X, y)
    kind = RFMTreeClassifier(RFMClassifier(**QUICK), max_leaf_size=70, random_state=0)
    kind.fit(X, np.where(y > 0.5, "high", "low"))
    rows(7, seed=1).to_csv(folder / "new.csv", index=False)
    seen = read_table(folder / "new.csv")
    number.export(folder / "number")
    kind.export(folder / "kind")
    found = table(featlearn("predict", "number", "new.csv", "--interval", "0.8").out)
    np.testing.assert_array_equal(found["prediction"], number.predict(seen))
    np.testing.assert_array_equal(found[["lower", "upper"]], number.predict_interval(seen, 0.8))
    found = table(featlearn("predict", "kind", "new.csv", "--proba").out)
    np.testing.assert_array_equal(found["prediction"], kind.predict(seen))
    np.testing.assert_array_equal(found[["probability high", "probability low"]], kind.predict_proba(seen))
    assert featlearn("predict", "kind", "new.csv", "--interval", "0.8").code == 2


# --- trees on learned features ----------------------------------------------------------------------------------------

GIVEN = {"init_directions": np.eye(3), "n_init": 0, "max_iter": 0, "max_depth": 2}


def plants(n: int, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(random.normal(size=(n, 2)).round(3), columns=["light", "water"])
    frame["soil"] = random.choice(["01", "02", "03"], n)
    frame["potted"] = random.choice(["no", "yes"], n)
    health = frame["light"] + frame["water"] + 2.0 * (frame["soil"] == "02") - (frame["potted"] == "yes")
    return frame.assign(height=(3 * (health > 0.5) + 0.1 * random.normal(size=n)).round(4))


def encoded(frame: pd.DataFrame) -> pd.DataFrame:
    X = frame[["light", "water"]].copy()
    for entry in ("01", "02", "03"):
        X[f"soil[{entry}]"] = 1.0 * (frame["soil"] == entry)
    return X.assign(**{"potted[yes]": 1.0 * (frame["potted"] == "yes")})


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """``tree.json`` of ``featlearn tree``."""
    place = tmp_path_factory.mktemp("tree")
    plants(150).to_csv(place / "plants.csv", index=False)
    options = ["--categorical", "soil", "--selection", "penalty", "--max-depth", "1", "--test-fraction", "0", "--quiet"]
    arguments = [str(place / "plants.csv"), "--target", "height", "--json", str(place / "tree.json")]
    assert main(["tree", *arguments, *options]) == 0
    return place / "tree.json"


@pytest.fixture
def grown(folder, written):
    """It in ``out/`` of the current folder, and ``more.csv``; the tree itself."""
    plants(9, seed=1).to_csv(folder / "more.csv", index=False)
    (folder / "out").mkdir()
    shutil.copy(written, folder / "out")
    return FeatureTreeRegressor.from_dict(json.loads(written.read_text())["tree"])


def test_a_tree_predicts_from_its_json_or_folder_with_categories_as_in_fitting(featlearn, grown, folder) -> None:
    outcome = featlearn("predict", "out", "more.csv")
    assert (outcome.code, outcome.err) == (0, "")
    expected = grown.predict(encoded(plants(9, seed=1)))
    np.testing.assert_array_equal(table(outcome.out)["prediction"], expected)
    assert len(np.unique(expected)) > 1
    assert featlearn("predict", "out/tree.json", "more.csv").out == outcome.out
    plants(9, seed=1)[["potted", "soil", "water", "light"]].to_csv(folder / "turned.csv")
    assert featlearn("predict", "out", "turned.csv").out == outcome.out
    kept = featlearn("predict", "out", "more.csv", "--keep").out
    assert kept.splitlines()[0] == "light,water,soil,potted,height,prediction"


def test_codes_that_look_like_numbers_are_categories_of_the_tree(featlearn, grown, folder) -> None:
    new = plants(9, seed=1).assign(soil="02")
    new.to_csv(folder / "codes.csv", index=False)
    outcome = featlearn("predict", "out", "codes.csv")
    assert outcome.err == ""
    np.testing.assert_array_equal(table(outcome.out)["prediction"], grown.predict(encoded(new)))


@pytest.mark.filterwarnings("default")
def test_entries_that_training_did_not_have_warn_and_count_as_none(featlearn, grown, folder) -> None:
    new = plants(9, seed=1)
    new.loc[[2, 4], "soil"] = "peat"
    new.loc[3, "potted"] = "perhaps"
    new.to_csv(folder / "odd.csv", index=False)
    outcome = featlearn("predict", "out", "odd.csv")
    assert outcome.code == 0
    soil, potted = outcome.err.splitlines()
    assert "warning: Got 'peat' in soil (row 3 of the data)" in soil
    assert "2 here, count as none of its entries" in soil
    assert "'perhaps' in potted (row 4 of the data)" in potted
    assert "are taken as 'no'" in potted
    np.testing.assert_array_equal(table(outcome.out)["prediction"], grown.predict(encoded(new)))


def test_a_tree_of_classes_gives_their_probabilities_also_from_a_dictionary_of_ones_own(featlearn, folder) -> None:
    X = rows(80)[["a", "b"]].assign(c=np.random.default_rng(2).normal(size=80))
    tree = FeatureTreeClassifier(**GIVEN).fit(X, np.where(X["a"] > 0.3, "high", "low"))
    array = FeatureTreeRegressor(**GIVEN).fit(X.to_numpy(), X[["a", "b"]].to_numpy())
    for name, fitted in (("named", tree), ("array", array)):
        (folder / f"{name}.txt").write_text(json.dumps(fitted.export_dict()))
    X.to_csv(folder / "X.csv", index=False)
    seen = read_table(folder / "X.csv")
    found = table(featlearn("predict", "named.txt", "X.csv", "--proba").out)
    assert list(found) == ["prediction", "probability high", "probability low"]
    assert found["prediction"].tolist() == tree.predict(seen).tolist()
    np.testing.assert_array_equal(found.iloc[:, 1:], tree.predict_proba(seen))
    found = table(featlearn("predict", "array.txt", "X.csv").out)
    np.testing.assert_array_equal(found[["prediction 0", "prediction 1"]], array.predict(seen.to_numpy()))


REFUSED_OF_TREES = {
    "machine and tree": (2, ["both", "more.csv"], "with a machine and a tree"),
    "no tree": (3, ["scores.json", "more.csv"], "holds no tree"),
    "half a file": (3, ["half.json", "more.csv"], "cannot be read as a tree"),
    "parts of another tree": (3, ["mixed.json", "more.csv"], "an exported tree that is not whole"),
    "columns of another table": (3, ["columns.json", "more.csv"], "do not fit together"),
    "later format": (3, ["later.json", "more.csv"], "reads up to 1"),
    "a column less": (4, ["out", "less.csv"], "without soil, but expected all 4 columns"),
    "gap": (4, ["out", "gap.csv"], "1 gaps in light (the first in row 3 of the data)"),
    "text among numbers": (4, ["out", "text.csv"], "Got 'dry' in water (row 2 of the data), but expected numbers"),
    "infinity": (4, ["out", "infinite.csv"], "infinite number in water (row 1"),
    "probabilities of numbers": (2, ["out", "more.csv", "--proba"], "--proba for a tree"),
    "intervals": (2, ["out", "more.csv", "--interval", "0.9"], "for a tree without intervals"),
}


@pytest.mark.parametrize(("code", "arguments", "named"), REFUSED_OF_TREES.values(), ids=REFUSED_OF_TREES)
def test_what_a_tree_cannot_give_is_refused_in_one_line(featlearn, grown, folder, code, arguments, named) -> None:
    new = plants(9, seed=1)
    tables = {
        "less": new.drop(columns="soil"),
        "gap": new.assign(light=new["light"].where(new.index != 2)),
        "text": new.assign(water=new["water"].astype(object).where(new.index != 1, "dry")),
        "infinite": new.assign(water=new["water"].where(new.index != 0, np.inf)),
    }
    for name, frame in tables.items():
        frame.to_csv(folder / f"{name}.csv", index=False)
    whole = (folder / "out" / "tree.json").read_text()
    told, other, columns, later = (json.loads(whole) for _ in range(4))
    other["tree"]["exact"]["map"]["parameters"][0][0].pop()
    columns["columns"].pop("light")
    later["tree"]["version"] = 9
    files = {"scores": told["curve"], "mixed": other, "columns": columns, "later": later}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "half.json").write_text(whole[: len(whole) // 2])
    (folder / "both").mkdir()
    for name in ("tree.json", "machine.safetensors"):
        (folder / "both" / name).write_text(whole)
    outcome = featlearn("predict", *arguments)
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    assert len(outcome.err.splitlines()) == 1, outcome.err
    assert named in outcome.err
