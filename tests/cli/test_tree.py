"""``featlearn tree``: what it fits, prints and writes, and what it refuses before any work."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, r2_score

from featlearn.cli.table_data import split_rows
from featlearn.cli.tree_columns import NumberColumns
from featlearn.exceptions import DataError
from featlearn.trees.estimators import FeatureTreeClassifier, FeatureTreeRegressor

QUICK = ("--selection", "penalty", "--max-depth", 2)
FILES = ["sizes.png", "tree.html", "tree.json", "tree.png", "tree.txt"]


def plants(n: int = 120) -> pd.DataFrame:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.normal(size=(n, 2)).round(3), columns=["light", "water"])
    frame["soil"] = random.choice(["clay", "peat", "sand"], n)
    frame["potted"] = random.choice(["no", "yes"], n)
    health = frame["light"] + frame["water"] + 2.0 * (frame["soil"] == "peat")
    frame["height"] = (3 * (health > 0.5) + 0.1 * random.normal(size=n)).round(4)
    frame["state"] = np.where(health > 0.5, "thrives", "wilts")
    return frame


def encoded(frame: pd.DataFrame) -> pd.DataFrame:
    X = frame[["light", "water"]].copy()
    for entry in ("clay", "peat", "sand"):
        X[f"soil[{entry}]"] = 1.0 * (frame["soil"] == entry)
    return X.assign(**{"potted[yes]": 1.0 * (frame["potted"] == "yes")})


@pytest.fixture
def table(folder):
    """``plants.csv`` in the current folder."""
    plants().to_csv(folder / "plants.csv", index=False)
    return plants()


@pytest.fixture
def tree(featlearn, table):
    def run(*options: object, data: object = "plants.csv", target: str = "state"):
        other = "height" if target == "state" else "state"
        return featlearn("tree", data, "--target", target, "--drop", other, *QUICK, *options)

    return run


# --- what is fitted, printed and written ------------------------------------------------------------------------------


def test_a_folder_gets_the_tree_in_words_as_page_numbers_and_pictures(tree, folder, table) -> None:
    outcome = tree("--output", "out/", "--seed", 3)
    assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in (folder / "out").iterdir()) == FILES
    told = json.loads((folder / "out" / "tree.json").read_text())
    X, y = encoded(table), table["state"].to_numpy()
    rows = split_rows(y, "classification", 0.2, 0, 3)
    assert told["tree"]["features"] == list(X.columns)
    again = FeatureTreeClassifier.from_dict(told["tree"])
    first = told["test"]["table"][0]
    assert told["test"]["rows"] == len(rows.test) == 23
    assert first["scores"]["accuracy"]["value"] == accuracy_score(y[rows.test], again.predict(X.iloc[rows.test]))
    assert first["leaves"] == again.n_leaves_
    fitted = FeatureTreeClassifier(selection="penalty", max_depth=2, random_state=3)
    fitted.fit(X.iloc[rows.train], y[rows.train])
    np.testing.assert_array_equal(fitted.predict_proba(X), again.predict_proba(X))
    words = fitted.export_text(decimals=4, max_terms=None)
    assert (folder / "out" / "tree.txt").read_text() == words + "\n"
    page = (folder / "out" / "tree.html").read_text()
    assert words.splitlines()[0].replace(">", "&gt;") in page
    assert repr(first["scores"]["accuracy"]["value"]) in page
    assert "Accuracy against leaves" in page
    assert told["provenance"]["command"].startswith("featlearn tree plants.csv --target state")
    for name in ("tree.png", "sizes.png"):
        with Image.open(folder / "out" / name) as picture:
            assert min(picture.size) > 150
    assert tree("--output", "out").code == 0  # it is there now


def test_no_test_row_is_seen_before_the_test(tree, folder, table, monkeypatch) -> None:
    seen: list[pd.DataFrame] = []
    original = FeatureTreeRegressor.fit

    def spy(self, X, y):
        seen.append(X)
        return original(self, X, y)

    monkeypatch.setattr(FeatureTreeRegressor, "fit", spy)
    outcome = tree("--json", "t.json", target="height")
    assert outcome.code == 0, outcome.err
    rows = split_rows(np.zeros(len(table)), "regression", 0.2, 0, 0)
    assert len(seen) == 1
    assert sorted(seen[0].index) == rows.train.tolist()
    told = json.loads((folder / "t.json").read_text())
    assert told["tree"]["outputs"] == ["height"]
    predicted = FeatureTreeRegressor.from_dict(told["tree"]).predict(encoded(table).iloc[rows.test])
    value = told["test"]["table"][0]["scores"]["r2"]["value"]
    assert value == pytest.approx(r2_score(table["height"].iloc[rows.test], predicted))


def test_the_screen_shows_rules_and_scores_beside_those_of_axis_aligned_trees(tree) -> None:
    outcome = tree()
    lines = outcome.out.splitlines()
    assert outcome.err == ""
    assert lines[0] == "state of plants.csv: classification, 2 classes, 97 training rows, 6 inputs."
    assert lines[2].startswith("if ")
    assert any("class: thrives" in line for line in lines)
    head = next(line for line in lines if line.startswith("on 23 test rows"))
    assert head.split()[4:] == ["accuracy", "Brier", "score", "leaves", "weights"]
    names = ["feature tree", "CART, tuned", "CART of as many leaves", "constant"]
    shown = [line for line in lines if line.startswith(tuple(names))]
    assert [name for name, line in zip(names, shown, strict=True) if line.startswith(name)] == names
    leaves = {name: int(line.split()[-2]) for name, line in zip(names, shown, strict=True)}
    assert leaves["CART of as many leaves"] == leaves["feature tree"]
    assert leaves["constant"] == 1


def test_held_out_rows_choose_by_default(featlearn, table, folder) -> None:
    options = ["--max-depth", 1, "--drop", "height", "--drop", "soil", "--json", "t.json"]
    outcome = featlearn("tree", "plants.csv", "--target", "state", *options)
    assert outcome.code == 0, outcome.err
    assert "A quarter of the training rows chose the tree" in " ".join(outcome.out.split())
    told = json.loads((folder / "t.json").read_text())
    assert told["tree"]["selection"] == "validation"
    assert all(row["held_out"] is not None for row in told["curve"]["rows"])


def test_the_curve_has_scores_of_the_test_rows_and_cart(tree, folder) -> None:
    assert tree("--json", "t.json", "--png", "curve.svg", "--picture", "tree.pdf").code == 0
    told = json.loads((folder / "t.json").read_text())
    assert told["curve"]["score_of"] == "test rows"
    chosen = [row["score"] for row in told["curve"]["rows"] if row["chosen"]]
    assert chosen == [told["test"]["table"][0]["scores"]["accuracy"]["value"]]
    assert told["curve"]["cart"][0]["leaves"] == 1
    assert (folder / "curve.svg").read_text().startswith("<?xml")
    assert (folder / "tree.pdf").read_bytes().startswith(b"%PDF")


def test_json_to_standard_output_is_nothing_but_json(tree) -> None:
    outcome = tree("--json", "-", "--html", "t.html")
    assert json.loads(outcome.out)["kind"] == "FeatureTreeRun"
    assert "Wrote t.html." in outcome.err


def test_quiet_says_nothing_and_without_test_rows_nothing_is_scored(tree, folder) -> None:
    outcome = tree("--quiet", "--test-fraction", 0, "--output", "out")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    told = json.loads((folder / "out" / "tree.json").read_text())
    assert told["test"] is None
    assert told["curve"]["score_of"] == "training rows"
    assert told["provenance"]["rows"] == 120
    assert "How good it is" not in (folder / "out" / "tree.html").read_text()
    assert "nothing says how good" in tree("--test-fraction", 0).out


def test_the_same_seed_gives_the_same_tree_and_another_other_rows(tree, folder) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert tree("--json", f"{name}.json", "--seed", seed).code == 0
    one, same, other = (json.loads((folder / f"{name}.json").read_text()) for name in "abc")
    assert one["tree"] == same["tree"]
    assert one["test"] == same["test"]
    assert one["tree"]["nodes"] != other["tree"]["nodes"]


def test_prototypes_and_maps_of_pixels(featlearn, folder) -> None:
    X = np.random.default_rng(0).normal(size=(90, 6)).round(3)
    frame = pd.DataFrame(X, columns=[f"p{k}" for k in range(6)]).assign(y=np.where(X[:, 0] + X[:, 1] > 0, "a", "b"))
    frame.to_csv(folder / "images.csv", index=False)
    arguments = ["tree", "images.csv", "--target", "y", *QUICK]
    assert featlearn(*arguments, "--image-shape", "2x3", "--html", "t.html").code == 0
    assert "data:image/png" in (folder / "t.html").read_text()
    outcome = featlearn(*arguments, "--features", "prototype", "--json", "t.json")
    assert outcome.code == 0
    nodes = json.loads((folder / "t.json").read_text())["tree"]["nodes"]
    assert {node["rule"] for node in nodes if node["left"] is not None} <= {"prototype"}
    outcome = featlearn(*arguments, "--image-shape", "3x3")
    assert outcome.code == 2
    assert_one_line(outcome, "expected 6 pixels")


def test_an_interrupt_gives_the_best_tree_until_then_and_130(tree, folder, monkeypatch) -> None:
    original = FeatureTreeClassifier.fit

    def interrupted(self, X, y):
        original(self, X, y)
        self.interrupted_ = True
        return self

    monkeypatch.setattr(FeatureTreeClassifier, "fit", interrupted)
    outcome = tree("--json", "t.json")
    assert outcome.code == 130
    assert "Interrupted: this is the best tree" in outcome.out
    assert json.loads((folder / "t.json").read_text())["provenance"]["interrupted"] is True


# --- columns ----------------------------------------------------------------------------------------------------------


def test_categories_become_a_column_each_and_unknown_entries_none() -> None:
    frame = plants()
    train = np.flatnonzero(frame["soil"] != "sand")
    columns = NumberColumns.of(frame[["light", "soil", "potted"]], train)
    assert columns.categories == {"light": None, "soil": ["clay", "peat"], "potted": ["no", "yes"]}
    numbers = columns.numbers(frame)
    assert list(numbers.columns) == ["light", "soil[peat]", "potted[yes]"]
    np.testing.assert_array_equal(numbers["soil[peat]"], 1.0 * (frame["soil"] == "peat"))
    three = NumberColumns.of(frame[["soil"]], np.arange(len(frame))).numbers(frame)
    np.testing.assert_array_equal(three.sum(axis=1), 1.0)


def test_truth_values_are_numbers_and_numbers_can_be_categories(featlearn, folder, table) -> None:
    table.assign(wet=table["water"] > 0, zone=np.arange(120) % 3).to_csv(folder / "more.csv", index=False)
    options = ["--drop", "height", "--categorical", "zone", "--json", "t.json", *QUICK]
    assert featlearn("tree", "more.csv", "--target", "state", *options).code == 0
    told = json.loads((folder / "t.json").read_text())
    assert told["columns"]["wet"] is None
    assert told["columns"]["zone"] == ["0", "1", "2"]
    assert "zone[2]" in told["tree"]["features"]


@pytest.mark.parametrize(
    ("column", "named"),
    [
        (pd.Series([1.0, None] * 60), "60 gaps in bad .* row 2 .* --drop bad"),
        (pd.Series(["a", None] * 60), "60 gaps in bad"),
        (pd.Series([1.0, np.inf] * 60), "infinite number in bad .*row 2"),
        (pd.Series([f"plant {k}" for k in range(120)]), "120 distinct texts in bad"),
        (pd.Series(pd.date_range("2020-01-01", periods=120)), "dates in bad"),
    ],
    ids=["gaps", "gaps in text", "infinity", "identifiers", "dates"],
)
def test_columns_that_a_tree_cannot_take_are_refused_by_name(column, named) -> None:
    with pytest.raises(DataError, match=named):
        NumberColumns.of(pd.DataFrame({"good": np.arange(120.0), "bad": column}), np.arange(120))


# --- refusals ---------------------------------------------------------------------------------------------------------

USAGE = {
    "no target": ([], "--target"),
    "target that is not there": (["--target", "stat"], "Some of the 6: state"),
    "drop what is not there": (["--target", "state", "--drop", "x"], "--drop x"),
    "task": (["--target", "state", "--task", "ranking"], "--task ranking"),
    "features": (["--target", "state", "--features", "quadratic"], "prototype"),
    "selection": (["--target", "state", "--selection", "test"], "validation"),
    "depth": (["--target", "state", "--max-depth", "0"], "--max-depth"),
    "shape": (["--target", "state", "--image-shape", "8"], "such as 8x8"),
    "shape of other columns": (["--target", "state", "--image-shape", "8x8"], "expected 7 pixels"),
    "kind of picture": (["--target", "state", "--picture", "tree.gif"], "--picture tree.gif"),
    "output is a file": (["--target", "state", "--output", "plants.csv"], "which is a file"),
    "output in no folder": (["--target", "state", "--output", "no/out"], "no folder no"),
    "page in no folder": (["--target", "state", "--output", "out", "--html", "no/t.html"], "no folder no"),
    "one file for two": (["--target", "state", "--html", "a", "--text", "a"], "one file for two"),
    "over the data": (["--target", "state", "--text", "plants.csv"], "as data and as a file"),
}


@pytest.mark.parametrize(("arguments", "named"), USAGE.values(), ids=USAGE)
def test_bad_usage_is_2_before_any_work(featlearn, table, folder, monkeypatch, arguments, named) -> None:
    for cls in (FeatureTreeClassifier, FeatureTreeRegressor):
        monkeypatch.setattr(cls, "fit", None)
    before = sorted(folder.iterdir())
    outcome = featlearn("tree", "plants.csv", *arguments)
    assert outcome.code == 2
    assert_one_line(outcome, named)
    assert sorted(folder.iterdir()) == before


BAD = {
    "gaps": (lambda frame: frame.assign(light=frame["light"].where(frame.index != 3)), "1 gaps in light"),
    "one class": (lambda frame: frame.assign(state="wilts"), "Got one class"),
    "nothing varies": (lambda frame: frame.assign(light=1, water=2, soil="clay", potted="no"), "do not vary"),
    "no other column": (lambda frame: frame[["state", "height"]], "without a column besides state"),
}


@pytest.mark.parametrize(("change", "named"), BAD.values(), ids=BAD)
def test_bad_data_are_4_and_nothing_is_written(tree, folder, table, change, named) -> None:
    change(table).to_csv(folder / "bad.csv", index=False)
    outcome = tree("--output", "out", data="bad.csv")
    assert outcome.code == 4
    assert_one_line(outcome, named)
    assert not (folder / "out").exists()


def assert_one_line(outcome, named: str) -> None:
    assert outcome.out == ""
    assert len(outcome.err.splitlines()) == 1, outcome.err
    assert outcome.err.startswith("featlearn: error: ")
    assert named in outcome.err
