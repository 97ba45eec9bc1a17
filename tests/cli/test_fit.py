"""``featlearn fit``: what it trains, prints and writes, and what it refuses before any work."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
from machine_reports import MACHINES, from_the_command_line, machine, nothing_learned

from featlearn.cli.fit_run import FitOptions
from featlearn.cli.machine_text import machine_lines, measured, print_machine, score_lines
from featlearn.cli.table_data import read_table, split_rows, target_of, task_of
from featlearn.exceptions import DataError
from featlearn.machines import RFMClassifier, RFMRegressor, load

QUICK = ("--kernel", "laplace", "--max-iter", 1)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def houses(n: int = 90) -> pd.DataFrame:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"area": random.lognormal(4, 0.5, n), "rooms": random.integers(1, 7, n)})
    frame["place"] = random.choice(["north", "south", "west"], n)
    frame["price"] = 3 * frame["area"] + 40 * (frame["place"] == "west") + 5 * random.normal(size=n)
    frame["sold"] = np.where(frame["price"] > frame["price"].median(), "late", "soon")
    frame.loc[::8, "area"] = np.nan
    return frame


@pytest.fixture
def table(folder):
    """``houses.csv`` in the current folder."""
    frame = houses()
    frame.to_csv(folder / "houses.csv", index=False)
    return frame


@pytest.fixture
def fit(featlearn, table):
    def run(*options: object, data: object = "houses.csv", target: str = "price"):
        return featlearn("fit", data, "--target", target, *QUICK, *options)

    return run


# --- what is trained, printed and written -----------------------------------------------------------------------------


def test_the_machine_is_that_of_the_estimator_on_the_training_rows(fit, folder, table) -> None:
    outcome = fit("--drop", "sold", "--json", "m.json", "--seed", 3)
    assert outcome.code == 0, outcome.err
    told = json.loads((folder / "m.json").read_text())
    X, y = table.drop(columns=["price", "sold"]), table["price"].to_numpy()
    rows = split_rows(y, "regression", 0.2, 20_000, 3)
    assert (len(rows.train), len(rows.test)) == (72, 18)
    loaded = load(folder / "houses.safetensors")
    error = loaded.predict(X.iloc[rows.test]) - y[rows.test]
    assert told["test"]["rows"] == 18
    assert told["test"]["scores"]["rmse"]["value"] == pytest.approx(np.sqrt(np.mean(error**2)))
    again = FitOptions("auto", "featlearn", ["laplace"], 1, None, 1, 3).machine("regression", verbose=False)
    again.fit(X.iloc[rows.train], y[rows.train])
    np.testing.assert_array_equal(again.predict(X), loaded.predict(X))


def test_no_test_row_is_seen_before_the_test(fit, folder, monkeypatch) -> None:
    seen: list[pd.DataFrame] = []
    original = RFMRegressor.fit

    def spy(self, X, y):
        seen.append(X)
        return original(self, X, y)

    monkeypatch.setattr(RFMRegressor, "fit", spy)
    assert fit("--drop", "sold").code == 0
    told = load(folder / "houses.safetensors").to_dict()
    rows = split_rows(np.zeros(90), "regression", 0.2, 20_000, 0)
    assert len(seen) == 1
    assert not set(seen[0].index) & set(rows.test.tolist())
    assert len(seen[0]) == told["rows"] == 72


def test_the_screen_shows_scores_choice_columns_and_files(fit) -> None:
    outcome = fit("--drop", "sold")
    lines = outcome.out.splitlines()
    assert outcome.err == ""
    assert lines[0] == "price of houses.csv: regression, 72 training rows, 3 columns."
    assert "test (18 rows)" in lines[2]
    assert "held out (72 rows)" in lines[2]
    assert [line.split()[0] for line in lines[3:6]] == ["R2", "RMSE", "mean"]
    assert any(line.startswith("Chosen: kernel laplace, columns ") for line in lines)
    assert any(line.startswith("Columns that matter: area") for line in lines)
    assert lines[-1] == "Wrote houses.safetensors."


def test_text_labels_are_classes_and_come_back_as_text(fit, folder, table) -> None:
    outcome = fit("--drop", "price", "--output", "m", target="sold")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("sold of houses.csv: classification, 2 classes, 72 training rows")
    assert "accuracy" in outcome.out
    loaded = load(folder / "m")
    assert loaded.classes_.tolist() == ["late", "soon"]
    assert set(loaded.predict(table[["area", "rooms", "place"]])) <= {"late", "soon"}


def test_a_folder_gets_machine_page_and_numbers(fit, folder) -> None:
    outcome = fit("--output", "out/")
    assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "machine.safetensors",
        "report.html",
        "report.json",
    ]
    told = json.loads((folder / "out" / "report.json").read_text())
    assert told["provenance"]["command"].startswith("featlearn fit houses.csv --target price")
    assert told["provenance"]["target"] == "price"
    page = (folder / "out" / "report.html").read_text()
    assert "price, predicted" in page
    assert repr(told["test"]["scores"]["r2"]["value"]) in page
    again = load(folder / "out" / "machine.safetensors").to_dict()
    assert again["test"] == told["test"]
    assert fit("--output", "out").code == 0  # it is there now; no / is needed


def test_json_to_standard_output_is_nothing_but_json(fit) -> None:
    outcome = fit("--json", "-", "--output", "m.safetensors", "--report", "m.html")
    assert json.loads(outcome.out)["machine"] == "RFMRegressor"
    assert "Wrote m.safetensors, m.html." in outcome.err


def test_quiet_says_nothing(fit, folder) -> None:
    outcome = fit("--quiet", "--test-fraction", 0)
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert load(folder / "houses.safetensors").to_dict()["test"] is None


def test_the_same_seed_gives_the_same_file_of_numbers(fit, folder) -> None:
    for name in ("a", "b"):
        assert fit("--output", f"{name}.safetensors").code == 0
    one, other = (load(folder / f"{name}.safetensors").to_dict() for name in "ab")
    for entry in (*one["history"], *other["history"]):
        entry.pop("seconds")
    assert [one[key] for key in ("test", "chosen", "importances")] == [
        other[key] for key in ("test", "chosen", "importances")
    ]
    assert fit("--output", "c.safetensors", "--seed", 5).code == 0
    assert load(folder / "c.safetensors").to_dict()["test"] != one["test"]


def test_fewer_training_rows_on_request(fit, folder) -> None:
    outcome = fit("-n", 40)
    assert "note: 32 rows were left out, so that 40 train the machine" in outcome.err
    told = load(folder / "houses.safetensors").to_dict()
    assert (told["rows"], told["test"]["rows"]) == (40, 18)


@pytest.mark.parametrize("intervals", ["split", "cv_plus"])
def test_intervals_are_prepared_and_their_coverage_is_told(fit, folder, intervals) -> None:
    outcome = fit("--intervals", intervals)
    assert f"Intervals of level 0.9 ({intervals}) held" in outcome.out
    bounds = load(folder / "houses.safetensors").predict_interval(houses().drop(columns="price"), 0.9)
    assert (bounds[:, 0] < bounds[:, 1]).all()


def test_columns_of_numbers_can_be_categories(fit, folder) -> None:
    assert fit("--categorical", "rooms").code == 0
    columns = load(folder / "houses.safetensors").blend.leading.columns
    kinds = {block.position: block.kind for block in columns.categories}
    assert kinds[1] == "text"


def test_texts_that_only_name_rows_are_remarked_on(fit, folder, table) -> None:
    table["name"] = [f"house {i}" for i in range(len(table))]
    table.to_csv(folder / "houses.csv", index=False)
    outcome = fit()
    assert "note: name has 90 distinct texts in 90 rows: if it only names the rows, pass --drop name." in outcome.err


def test_a_published_rule_by_name(featlearn, table, folder) -> None:
    outcome = featlearn("fit", "houses.csv", "--target", "price", "--rule", "pip", "--drop", "sold")
    assert outcome.code == 0, outcome.err
    told = load(folder / "houses.safetensors").to_dict()
    assert told["chosen"]["iteration"] == 3
    assert told["scores"] is None


def test_an_interrupt_is_130_and_nothing_is_written(fit, folder, monkeypatch) -> None:
    def stop(self, X, y):
        raise KeyboardInterrupt

    monkeypatch.setattr(RFMRegressor, "fit", stop)
    before = sorted(folder.iterdir())
    outcome = fit("--output", "out/")
    assert outcome.code == 130
    assert outcome.err.splitlines() == ["featlearn: interrupted before a machine was chosen: nothing was written."]
    assert sorted(folder.iterdir()) == before


# --- refusals ---------------------------------------------------------------------------------------------------------

USAGE = {
    "no target": (["fit", "houses.csv"], "--target"),
    "target that is not there": (["fit", "houses.csv", "--target", "prize"], "Some of the 5: price"),
    "drop what is not there": (["fit", "houses.csv", "--target", "price", "--drop", "x"], "--drop x"),
    "drop the target": (["fit", "houses.csv", "--target", "price", "--drop", "price"], "is the target"),
    "task": (["fit", "houses.csv", "--target", "price", "--task", "ranking"], "--task ranking"),
    "rule": (["fit", "houses.csv", "--target", "price", "--rule", "best"], "science"),
    "kernel": (["fit", "houses.csv", "--target", "price", "--kernel", "best"], "laplace"),
    "intervals": (["fit", "houses.csv", "--target", "price", "--intervals", "loo"], "cv_plus"),
    "intervals of classes": (["fit", "houses.csv", "--target", "sold", "--intervals", "split"], "probabilities"),
    "test of everything": (["fit", "houses.csv", "--target", "price", "--test-fraction", "1"], "--test-fraction"),
    "output in no folder": (["fit", "houses.csv", "--target", "price", "--output", "no/m"], "no folder no"),
    "folder in no folder": (["fit", "houses.csv", "--target", "price", "--output", "no/m/"], "no folder no"),
    "report is a folder": (["fit", "houses.csv", "--target", "price", "--report", "."], "is a folder"),
    "one file for two": (
        ["fit", "houses.csv", "--target", "price", "--output", "a", "--json", "a"],
        "one file for two",
    ),
    "over the data": (["fit", "houses.csv", "--target", "price", "--output", "houses.csv"], "as data and as a file"),
    "predict without a machine": (["predict"], "MODEL"),
}


@pytest.mark.parametrize(("arguments", "named"), USAGE.values(), ids=USAGE)
def test_bad_usage_is_2_before_any_work(featlearn, table, folder, monkeypatch, arguments, named) -> None:
    for cls in (RFMRegressor, RFMClassifier):
        monkeypatch.setattr(cls, "fit", None)
    before = sorted(folder.iterdir())
    outcome = featlearn(*arguments)
    assert outcome.code == 2
    assert_one_line(outcome, named)
    assert sorted(folder.iterdir()) == before


def test_an_earlier_machine_is_not_replaced_unless_it_is_named(fit, folder) -> None:
    (folder / "houses.safetensors").write_bytes(b"precious")
    outcome = fit()
    assert outcome.code == 2
    assert_one_line(outcome, "Name it to replace it")
    assert (folder / "houses.safetensors").read_bytes() == b"precious"
    assert fit("--output", "houses.safetensors").code == 0


def with_column(**columns):
    return lambda frame: frame.assign(**columns)


BAD = {
    "infinity": (with_column(area=np.inf), "inf in row 0, column 'area'"),
    "numbers and text": (with_column(area=["12", "x"] * 45, rooms=[1, "n/k"] * 45), None),
    "target with gaps": (
        lambda frame: frame.assign(price=frame["price"].where(frame.index != 3)),
        "1 rows without price",
    ),
    "no other column": (lambda frame: frame[["price"]], "without a column besides price"),
    "nothing varies": (lambda frame: frame[["price"]].assign(a=1, b="x"), "no column varies"),
    "one row": (lambda frame: frame[:1], "1 rows"),
    "no row": (lambda frame: frame[:0], "0 rows"),
    "target of text": (with_column(price="dear"), "expected numbers for --task regression"),
}


@pytest.mark.parametrize(("change", "named"), BAD.values(), ids=BAD)
def test_bad_data_are_4_and_nothing_is_written(fit, folder, table, change, named) -> None:
    change(table).to_csv(folder / "bad.csv", index=False)
    outcome = fit("--task", "regression", data="bad.csv")
    if named is None:  # a column read from text is text: nothing is wrong with it
        assert outcome.code == 0
        return
    assert outcome.code == 4
    assert_one_line(outcome, named)
    assert not (folder / "bad.safetensors").exists()


def test_one_class_and_classes_of_single_rows_are_4(fit, folder, table) -> None:
    table.assign(sold="late").to_csv(folder / "one.csv", index=False)
    assert_one_line(fit(data="one.csv", target="sold"), "one class only")
    table.assign(sold=np.arange(90).astype(str) + "x").to_csv(folder / "many.csv", index=False)
    assert_one_line(fit(data="many.csv", target="sold"), "90 distinct values of sold in 90 rows")


FILES = {
    "missing": ("nowhere.csv", None, "no such file"),
    "another kind": ("table.xlsx", b"PK", "expected a .csv, .tsv or .parquet file"),
    "empty": ("empty.csv", b"", "cannot be read as a table"),
    "ragged": ("ragged.csv", b"a,b\n1,2\n1,2,3\n", "cannot be read as a table"),
    "not text": ("bytes.csv", b"a,b\n\xff\xfe,1\n", "cannot be read as a table"),
    "no parquet": ("broken.parquet", b"PAR1 nothing", "cannot be read as a parquet file"),
}


@pytest.mark.parametrize(("name", "content", "named"), FILES.values(), ids=FILES)
def test_files_that_cannot_be_read_are_4(fit, folder, name, content, named) -> None:
    if content is not None:
        (folder / name).write_bytes(content)
    outcome = fit(data=name)
    assert outcome.code == 4
    assert_one_line(outcome, named)


# --- tables -----------------------------------------------------------------------------------------------------------


def test_every_kind_of_file_gives_the_same_table(table, folder) -> None:
    table.to_csv(folder / "a.csv")  # with pandas' index
    table.to_csv(folder / "b.csv", sep=";", index=False)
    table.to_csv(folder / "c.tsv", sep="\t", index=False)
    table.to_parquet(folder / "d.parquet")
    for name in ("a.csv", "b.csv", "c.tsv", "d.parquet"):
        read = read_table(folder / name)
        pd.testing.assert_frame_equal(read, table, check_dtype=False, check_column_type=False)


def test_columns_that_are_text_stay_so_and_keep_their_gaps(folder) -> None:
    (folder / "codes.csv").write_text("code,x\n01,1\n,2\n30,3\n")
    assert read_table(folder / "codes.csv", ["code"])["code"].tolist()[0] == "01"
    assert read_table(folder / "codes.csv", ["code"])["code"].isna().tolist() == [False, True, False]
    assert read_table(folder / "codes.csv")["code"].tolist()[0] == 1


TASKS = {
    "text": (["a", "b", "a"], "classification"),
    "truth": ([True, False, True], "classification"),
    "few whole numbers": ([1, 2, 1], "classification"),
    "few whole floats": ([1.0, 2.0, 1.0], "classification"),
    "halves": ([1.0, 1.5, 2.0], "regression"),
    "many whole numbers": (list(range(11)), "regression"),
}


@pytest.mark.parametrize(("values", "task"), TASKS.values(), ids=TASKS)
def test_the_task_is_known_by_the_target(values, task) -> None:
    target = pd.Series(values, name="y")
    found, remark = task_of(target, "auto")
    assert found == task
    assert (remark is None) == (
        task == "regression" or not pd.api.types.is_numeric_dtype(target) or target.dtype == bool
    )
    assert task_of(target, "regression") == ("regression", None)


def test_whole_floats_become_whole_labels_and_text_stays() -> None:
    assert target_of(pd.Series([1.0, 2.0, 1.0, 2.0], name="y"), "classification").tolist() == [1, 2, 1, 2]
    assert target_of(pd.Series([1.0, 2.0], name="y"), "classification").dtype.kind == "i"
    assert target_of(pd.Series(["a", "b"], name="y"), "classification").tolist() == ["a", "b"]
    with pytest.raises(DataError, match="the first is row 2"):
        target_of(pd.Series([1.0, None], name="y"), "regression")


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 0.5])
def test_test_and_training_rows_are_apart_and_classes_keep_their_share(fraction) -> None:
    y = np.repeat(["a", "b", "c"], [60, 30, 3])
    rows = split_rows(y, "classification", fraction, 0, 0)
    assert np.array_equal(np.sort(np.concatenate([rows.train, rows.test])), np.arange(93))
    for label, count in (("a", 60), ("b", 30), ("c", 3)):
        assert np.sum(y[rows.test] == label) == int(fraction * count)
    assert set(y[rows.train]) == {"a", "b", "c"}


def test_the_rows_depend_on_the_seed_alone() -> None:
    y = np.arange(100.0)
    one, same, other = (split_rows(y, "regression", 0.2, 50, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.test, same.test)
    np.testing.assert_array_equal(one.train, same.train)
    assert not np.array_equal(one.test, other.test)
    assert (len(one.test), len(one.train)) == (20, 50)
    np.testing.assert_array_equal(split_rows(y, "regression", 0.2, 0, 1).test, one.test)


# --- the screen -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("width", [60, 80, 200])
def test_every_machine_fits_the_terminal(told, width, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    print_machine(told, stream := Terminal())
    assert max(map(len, stream.getvalue().splitlines())) <= width
    assert "nan" not in stream.getvalue()


def test_scores_stand_beside_those_of_a_constant() -> None:
    lines = score_lines(from_the_command_line())
    assert lines[0].split() == ["test", "(65", "rows)", "held", "out", "(262", "rows)", "constant"]
    assert lines[1].split() == ["R2", "0.646", "±", "0.041", "0.612", "±", "0.041", "0"]
    assert len({len(line) for line in lines}) == 1


def test_no_better_than_a_constant_is_said() -> None:
    poor = machine()
    poor["scores"]["scores"]["r2"]["value"] = 0.05
    assert any("not clearly better" in line for line in machine_lines(poor))
    assert not any("not clearly better" in line for line in machine_lines(machine()))
    assert "No column matters: the predictions are constant." in machine_lines(nothing_learned())


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [(0.4413, 0.0443, "0.441 ± 0.044"), (51234.5, 230.1, "51234 ± 230"), (3.0, float("nan"), "3"), (0.0, 0.0, "0")],
)
def test_numbers_end_at_the_second_digit_of_their_error(value, error, text) -> None:
    assert measured(value, error) == text


def assert_one_line(outcome, named: str) -> None:
    assert outcome.out == ""
    assert len(outcome.err.splitlines()) == 1, outcome.err
    assert outcome.err.startswith("featlearn: error: ")
    assert named in outcome.err
