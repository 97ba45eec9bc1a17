"""Encoded tables against pandas and scikit-learn, and encoded quantities read back as input columns."""

from __future__ import annotations

import json
import pickle
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from cases import normal
from hypothesis import given
from hypothesis import strategies as st
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import StandardScaler

from featlearn.exceptions import DataError, FeatlearnWarning
from featlearn.machines.columns import Columns, FittedColumns

N = 60
TRANSFORMS = ("none", "robust", "quantile", "uniform")


def frame(gaps: bool = False, n: int = N, seed: int = 0) -> pd.DataFrame:
    """One column of every kind that is taken."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "size": rng.lognormal(size=n) * 100,
            "count": rng.integers(0, 5, n),
            "colour": pd.Categorical(rng.choice(["red", "green", "blue"], n), categories=["red", "blue", "green"]),
            "town": rng.choice(["Ulm", "Bonn"], n),
            "old": rng.random(n) > 0.5,
            "grade": pd.Categorical(rng.integers(1, 4, n), ordered=True),
            "mixed": np.where(rng.random(n) > 0.3, "x", "y").astype(object),
            "nullable": pd.array(rng.integers(0, 9, n), dtype="Int64"),
            "flag": pd.array(rng.random(n) > 0.2, dtype="boolean"),
            "text": pd.array(rng.choice(["p", "q", "r"], n), dtype="string"),
            "bins": pd.cut(rng.normal(size=n), 3),
            "single": rng.normal(size=n).astype(np.float32),
        }
    )
    if gaps:
        for j, column in enumerate(table.columns):
            if table[column].dtype == bool:
                table[column] = table[column].astype(object)
            if column not in ("count", "town"):
                table.loc[rng.choice(n, 1 + j % 4, replace=False), column] = None
    return table


NUMBERS = ["size", "count", "nullable", "single"]


def one_hot(table: pd.DataFrame, column: str, dummy_na: bool = False) -> np.ndarray:
    values = table[column].astype(object)
    # Categories that pandas made by cutting are known by their text, and sorted as text.
    values = values.map(str, na_action="ignore") if column == "bins" else values
    return pd.get_dummies(values, dummy_na=dummy_na and table[column].isna().any()).to_numpy(dtype=float)


# --- the encoding


def test_every_kind_of_column_is_encoded_as_pandas_and_scikit_learn_do() -> None:
    table = frame()
    fitted = Columns().fit(table)
    encoded = fitted.transform(table)
    categories = [column for column in table if column not in NUMBERS]
    numbers = table[NUMBERS].astype(float)
    expected = [StandardScaler().fit_transform(numbers)] + [one_hot(table, column) for column in categories]
    np.testing.assert_allclose(encoded, np.hstack(expected), rtol=1e-12, atol=1e-13)
    assert encoded.dtype == torch.float64
    assert [len(block) for block in fitted.blocks] == [part.shape[1] for part in expected]
    assert torch.equal(torch.cat(fitted.blocks), torch.arange(len(fitted.names)))
    inputs = NUMBERS + [column for column, part in zip(categories, expected[1:], strict=True) for _ in part.T]
    assert [table.columns[j] for j in fitted.input_of.tolist()] == inputs
    assert fitted.names[:8] == (*NUMBERS, "colour=blue", "colour=green", "colour=red", "town=Bonn")
    assert {"old=False", "grade=2", "flag=True"} < set(fitted.names)
    assert fitted.notes == ()
    torch.testing.assert_close(fitted.spread, encoded.std(dim=0, correction=0))


def test_gaps_become_medians_and_indicators() -> None:
    table = frame(gaps=True)
    fitted = Columns(missing="indicator").fit(table)
    encoded = fitted.transform(table)
    categories = [column for column in table if column not in NUMBERS]
    numbers = table[NUMBERS].astype(float).to_numpy(na_value=np.nan)
    imputed = SimpleImputer(strategy="median", add_indicator=True).fit_transform(numbers)
    expected = [StandardScaler().fit_transform(imputed[:, :4]), imputed[:, 4:]]
    expected += [one_hot(table, column, dummy_na=True) for column in categories]
    np.testing.assert_allclose(encoded, np.hstack(expected), rtol=1e-12, atol=1e-13)
    gaps = [f"{name} is missing" for name in ("size", "nullable", "single")]
    assert fitted.names[:7] == (*NUMBERS, *gaps)
    assert "town is missing" not in fitted.names
    assert "colour is missing" in fitted.names
    assert fitted.blocks[0].tolist() == list(range(7))
    torch.testing.assert_close(fitted.spread, encoded.std(dim=0, correction=0))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_result_is_standardised_after_any_curve(transform: str) -> None:
    encoded = Columns(transform=transform).fit(frame()[NUMBERS]).transform(frame()[NUMBERS])
    torch.testing.assert_close(encoded.mean(dim=0), torch.zeros(4).double(), rtol=0, atol=1e-13)
    torch.testing.assert_close(encoded.std(dim=0, correction=0), torch.ones(4).double())


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_without_standardising_only_the_curve_is_applied(transform: str) -> None:
    table = frame()[["size", "single"]]
    plain = Columns(transform=transform, standardize=False).fit(table)
    encoded, scaled = plain.transform(table), Columns(transform=transform).fit(table).transform(table)
    again = StandardScaler().fit_transform(encoded)
    np.testing.assert_allclose(again, scaled, rtol=1e-10, atol=1e-12)
    if transform == "none":
        np.testing.assert_array_equal(encoded, table.astype(float))
    torch.testing.assert_close(plain.spread, encoded.std(dim=0, correction=0))


@pytest.mark.parametrize(
    "make",
    [
        np.asarray,
        lambda x: x.astype(object),
        lambda x: x.tolist(),
        np.asfortranarray,
        lambda x: x[::-1][::-1],
        lambda x: x.astype(">f8"),
        torch.from_numpy,
        lambda x: torch.from_numpy(x).requires_grad_(),
        pd.DataFrame,
        lambda x: pd.DataFrame(x).astype("Float64"),
        lambda x: pd.DataFrame(x).astype(object),
        lambda x: pd.DataFrame(x, columns=["a", "a", "b"]),
    ],
    ids=["array", "objects", "lists", "fortran", "back", "endian", "tensor", "graph", "frame", "null", "any", "twins"],
)
def test_numbers_are_the_same_whatever_holds_them(make: Any) -> None:
    x = normal(20, 3).numpy()
    fitted = Columns(transform="robust").fit(make(x))
    np.testing.assert_allclose(fitted.transform(make(x)), Columns(transform="robust").fit(x).transform(x), rtol=1e-12)
    assert not fitted.transform(make(x)).requires_grad
    assert len(fitted.blocks) == 1


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8, np.uint8, np.int64, bool])
def test_numbers_of_any_type(dtype: type) -> None:
    x = normal(20, 3).numpy() * 3
    x = x > 0 if dtype is bool else x.astype(dtype)
    expected = StandardScaler().fit_transform(x.astype(float))
    np.testing.assert_allclose(Columns().fit(x).transform(x), expected, rtol=1e-12, atol=1e-13)
    tensor = torch.from_numpy(x)
    np.testing.assert_allclose(Columns().fit(tensor).transform(tensor), expected, rtol=1e-12, atol=1e-13)


def test_single_precision_is_the_rounded_double() -> None:
    fitted = Columns(missing="indicator").fit(frame(gaps=True))
    double, single = fitted.transform(frame(gaps=True)), fitted.transform(frame(gaps=True), torch.float32)
    assert torch.equal(single, double.float())


def test_text_in_arrays_and_lists_is_categorical() -> None:
    rows = [["a", 1.5], ["b", 2.5], ["a", 4.5]]
    for data in (rows, np.array(rows, dtype=object)):
        fitted = Columns().fit(data)
        assert fitted.names == ("x1", "x0=a", "x0=b")
    text = Columns().fit(np.array([["a", "u"], ["b", "u"], ["c", "v"]]))
    assert text.names == ("x0=a", "x0=b", "x0=c", "x1=u", "x1=v")
    assert len(text.blocks) == 2
    assert text.transform([["c", "u"]]).tolist() == [[0, 0, 1, 1, 0]]


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy, pd.DataFrame])
def test_listed_columns_of_numbers_are_categorical(make: Any) -> None:
    x = np.array([[1.0, 10.0], [2.0, 10.0], [1.0, 30.5], [2.0, -4.0]])
    fitted = Columns(categorical=[-1]).fit(make(x))
    assert fitted.names == ("x0", "x1=-4", "x1=10", "x1=30.5")
    assert fitted.transform(make(x))[:, 1:].tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]


def test_a_list_rules_out_the_rest() -> None:
    table = frame()[["count", "old", "grade", "town"]]
    fitted = Columns(categorical=["town", "count"]).fit(table)
    assert fitted.names[:2] == ("old", "grade")
    expected = StandardScaler().fit_transform(table[["old", "grade"]].astype(float))
    np.testing.assert_allclose(fitted.transform(table)[:, :2], expected, rtol=1e-12, atol=1e-13)
    assert [len(block) for block in fitted.blocks] == [2, 5, 2]


def test_only_the_most_frequent_levels_have_columns() -> None:
    letters = pd.DataFrame({"letter": list("aaabbccddde"), "x": range(11)})
    fitted = Columns(max_levels=3).fit(letters)
    # d and a stand 3 times; b and c twice, so b, the smaller, is the third.
    assert fitted.names == ("x", "letter=a", "letter=b", "letter=d")
    assert fitted.transform(letters)[[5, 10], 1:].tolist() == [[0, 0, 0], [0, 0, 0]]
    assert fitted.notes == (
        "Encoded the 3 most frequent levels of column 'letter': the 2 others share the zero block.",
    )
    shuffled = letters.sample(frac=1, random_state=1)
    assert Columns(max_levels=3).fit(shuffled).names == fitted.names
    assert Columns(max_levels=None).fit(letters).blocks[1].numel() == 5
    assert Columns(max_levels=1).fit(letters).names == ("x", "letter=a")


def test_levels_that_training_never_saw_are_a_zero_block() -> None:
    table = pd.DataFrame({"town": ["Ulm", "Bonn", "Ulm"], "x": [1.0, 2.0, 3.0], "grade": pd.Categorical([1, 2, 1])})
    fitted = Columns().fit(table)
    new = pd.DataFrame({"town": ["Trier", "Ulm"], "x": [2.0, 2.0], "grade": pd.Categorical([7, 2])})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fitted.transform(new).tolist() == [[0, 0, 0, 0, 0], [0, 0, 1, 0, 1]]


def test_gaps_that_training_had_not_are_filled_with_a_warning() -> None:
    table = frame()[["size", "town"]]
    fitted = Columns(missing="indicator").fit(table)
    new = table.head(3).copy()
    new.loc[1, "size"], new.loc[2, "town"] = np.nan, None
    with pytest.warns(FeatlearnWarning, match="gaps in column 'size', column 'town' of X, where training had none"):
        encoded = fitted.transform(new)
    expected = fitted.transform(table.head(3).assign(size=[table["size"][0], table["size"].median(), table["size"][2]]))
    assert torch.equal(encoded[:, 0], expected[:, 0])
    assert encoded[2, 1:].tolist() == [0, 0]


def test_columns_that_do_not_vary_are_dropped_with_a_note() -> None:
    table = frame().assign(one=1.0, same="s", nearly=1e6 * (1 + 1e-16 * (np.arange(N) % 8)))
    fitted = Columns().fit(table)
    assert [table.columns[j] for j in fitted.dropped] == ["one", "same", "nearly"]
    assert fitted.notes[0] == "Dropped column 'one': it does not vary in training."
    assert torch.equal(fitted.transform(table.assign(one=2.0, same="t")), Columns().fit(frame()).transform(frame()))
    with pytest.raises(DataError, match="inf in row 0, column 'one'"):
        fitted.transform(table.assign(one=np.inf))


def test_a_column_that_varies_only_by_its_gaps_keeps_their_indicator() -> None:
    x = np.array([[1.0, 5.0], [2.0, np.nan], [3.0, 5.0]])
    fitted = Columns(missing="indicator").fit(x)
    assert fitted.names == ("x0", "x1 is missing")
    assert fitted.transform(x)[:, 1].tolist() == [0, 1, 0]
    assert fitted.notes == ("Kept of column 1 only where it is missing: its numbers do not vary in training.",)
    gone = Columns(missing="indicator").fit(np.array([[1.0, np.nan], [2.0, np.nan]]))
    assert gone.dropped == (1,)


# --- weights, order, chunks


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_weights_are_repeated_rows(transform: str) -> None:
    table = frame(gaps=True)
    repeats = np.random.default_rng(3).integers(0, 4, N)
    columns = Columns(missing="indicator", transform=transform, max_levels=2)
    weighted, repeated = columns.fit(table, repeats), columns.fit(table.loc[np.repeat(np.arange(N), repeats)])
    assert weighted.names == repeated.names
    kept = table[repeats > 0]
    torch.testing.assert_close(weighted.transform(kept), repeated.transform(kept), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(weighted.spread, repeated.spread)
    scaled = columns.fit(table, 0.3 * repeats)
    torch.testing.assert_close(scaled.transform(kept), repeated.transform(kept), rtol=1e-10, atol=1e-12)


@given(seed=st.integers(0, 1000), transform=st.sampled_from(TRANSFORMS))
def test_the_order_of_rows_does_not_matter(seed: int, transform: str) -> None:
    table = frame(gaps=True)
    columns = Columns(missing="indicator", transform=transform)
    shuffled = columns.fit(table.sample(frac=1, random_state=seed))
    torch.testing.assert_close(shuffled.transform(table), columns.fit(table).transform(table), rtol=1e-10, atol=1e-12)


@given(scale=st.floats(1e-6, 1e6), shift=st.floats(-1e3, 1e3), transform=st.sampled_from(TRANSFORMS))
def test_units_of_a_column_do_not_matter(scale: float, shift: float, transform: str) -> None:
    x = normal(40, 2).numpy()
    encoded = [Columns(transform=transform).fit(y).transform(y) for y in (x, x * scale + shift)]
    # A shift costs as many digits as it is larger than the deviations.
    torch.testing.assert_close(encoded[1], encoded[0], rtol=0, atol=1e-12 * (1 + abs(shift) / scale))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_chunks_do_not_change_the_numbers(transform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = frame(gaps=True)
    columns = Columns(missing="indicator", transform=transform)
    whole = columns.fit(table)
    expected = whole.transform(table)
    monkeypatch.setattr("featlearn.machines.tables.CHUNK_NUMBERS", 100)
    monkeypatch.setattr("featlearn.machines.numeric.GROUP_NUMBERS", 100)
    assert torch.equal(whole.transform(table), expected)
    chunked = columns.fit(table)
    assert chunked.names == whole.names
    torch.testing.assert_close(chunked.transform(table), expected, rtol=1e-12, atol=1e-13)


def test_rows_are_encoded_one_by_one() -> None:
    table = frame(gaps=True)
    fitted = Columns(missing="indicator", transform="quantile").fit(table)
    parts = [fitted.transform(table.iloc[[i]]) for i in range(N)]
    assert torch.equal(torch.cat(parts), fitted.transform(table))


@pytest.mark.parametrize("transform", ["none", "robust"])
def test_a_memmap_is_never_copied_whole(transform: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (20_000, 50)  # 8 MB
    stored = np.memmap(tmp_path / "rows.bin", dtype=np.float64, mode="w+", shape=shape)
    stored[:] = np.random.default_rng(0).normal(size=shape)
    stored.flush()
    rows = np.memmap(tmp_path / "rows.bin", dtype=np.float64, mode="r", shape=shape)
    monkeypatch.setattr("featlearn.machines.tables.CHUNK_NUMBERS", 2**15)
    monkeypatch.setattr("featlearn.machines.numeric.GROUP_NUMBERS", 2**15)
    columns = Columns(transform=transform)
    tracemalloc.start()
    try:
        fitted = columns.fit(rows)
        encoded = fitted.transform(rows, torch.float32)  # its own memory is torch's, which is not traced
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3e6
    expected = columns.fit(np.array(rows)).transform(np.array(rows), torch.float32)
    torch.testing.assert_close(encoded, expected)


# --- reading back


def test_importances_sum_the_diagonal_over_each_column() -> None:
    table = frame().assign(one=1.0)
    fitted = Columns().fit(table)
    diagonal = normal(len(fitted.names)).square()
    shares = fitted.input_importances(diagonal)
    spread = fitted.transform(table).std(dim=0, correction=0)
    for j in range(table.shape[1]):
        inside = fitted.input_of == j
        expected = (diagonal * spread**2)[inside].sum() / (diagonal * spread**2).sum()
        torch.testing.assert_close(shares[j], expected)
    assert shares[-1] == 0
    assert float(shares.sum()) == pytest.approx(1)
    assert fitted.input_importances(diagonal.float()).dtype == torch.float32
    assert not fitted.input_importances(torch.zeros(len(fitted.names))).any()


def test_importances_and_directions_do_not_depend_on_the_units_of_the_kernel() -> None:
    """One function seen in raw and in standardised columns: its gradients differ by the deviations, the answer not."""
    x = normal(30, 4).numpy() * np.array([1.0, 1e3, 1e-3, 5.0])
    raw, scaled = Columns(standardize=False).fit(x), Columns().fit(x)
    gradient = normal(4, 2, seed=3)
    in_raw = gradient / torch.from_numpy(x.std(axis=0))[:, None]
    torch.testing.assert_close(
        raw.input_importances((in_raw**2).sum(dim=1)), scaled.input_importances((gradient**2).sum(dim=1))
    )
    torch.testing.assert_close(raw.input_directions(in_raw), scaled.input_directions(gradient))


def test_directions_have_unit_norm_a_fixed_sign_and_norms_for_categories() -> None:
    table = frame(gaps=True)[["size", "colour", "count", "town"]]
    fitted = Columns(missing="indicator").fit(table)
    vectors = torch.linalg.qr(normal(len(fitted.names), 5)).Q
    directions = fitted.input_directions(vectors)
    assert directions.shape == (5, 4)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(5).double())
    torch.testing.assert_close(fitted.input_directions(-vectors), directions)
    scaled = vectors * fitted.spread[:, None]
    for row, vector in zip(directions, scaled.mT, strict=True):
        norms = torch.stack([vector[fitted.input_of == j].norm() for j in range(4)])
        torch.testing.assert_close(row.abs(), norms / norms.norm())
        assert float(row[1]) >= 0
        assert float(row[3]) >= 0
        assert float(row[[0, 2]][row[[0, 2]].abs().argmax()]) > 0
        assert bool((row[0] * row[2]).sign() == (vector[0] * vector[1]).sign())
    assert not fitted.input_directions(torch.zeros(len(fitted.names), 1)).any()


def test_quantities_of_another_size_are_refused() -> None:
    fitted = Columns().fit(normal(5, 3))
    with pytest.raises(DataError, match="p = 3 encoded"):
        fitted.input_importances(torch.ones(4))
    with pytest.raises(DataError, match="Got vectors of shape"):
        fitted.input_directions(torch.ones(3))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_json_and_pickle_keep_every_bit(transform: str) -> None:
    table = frame(gaps=True)
    fitted = Columns(missing="indicator", transform=transform, categorical="auto", max_levels=2).fit(table)
    text = json.dumps(fitted.to_dict(), allow_nan=False)
    for again in (FittedColumns.from_dict(json.loads(text)), pickle.loads(pickle.dumps(fitted))):
        assert torch.equal(again.transform(table), fitted.transform(table))
        assert again.config == fitted.config
        assert (again.names, again.notes, again.dropped) == (fitted.names, fitted.notes, fitted.dropped)
        assert all(torch.equal(a, b) for a, b in zip(again.blocks, fitted.blocks, strict=True))
        assert json.dumps(again.to_dict()) == text
    listed = Columns(categorical=["town", 1]).fit(table[["town", "count"]])
    assert FittedColumns.from_dict(json.loads(json.dumps(listed.to_dict()))).config.categorical == ("town", 1)


# --- what is refused

X = normal(4, 2).numpy()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.array([[1.0, np.nan], [2.0, 3.0]]), "NaN in row 0, column 1 of X"),
        (np.array([[1.0, 2.0], [-np.inf, 3.0]]), "Got -inf in row 1, column 0 of X"),
        (pd.DataFrame({"age": [1.0, np.nan]}), "NaN in row 1, column 'age' of X"),
        (pd.DataFrame({"a": pd.array([1, None], dtype="Int64")}), "NaN in row 1, column 'a'"),
        (pd.DataFrame({"town": ["Ulm", None]}), "missing entry in column 'town'"),
        (pd.DataFrame({"c": pd.Categorical([None, 1])}), "missing entry in column 'c'"),
        (pd.DataFrame({"c": pd.Categorical([np.inf, 1.0])}), "infinite category in column 'c'"),
        (np.array([[1.0, 2.0], [None, 3.0]], dtype=object), "NaN in row 1, column 0"),
        (pd.DataFrame({"when": pd.to_datetime(["2020-01-01", "2021-01-01"])}), "column 'when' of dtype datetime64"),
        (pd.DataFrame({"p": pd.period_range("2020", periods=2, freq="Y")}), "type Period in column 'p'"),
        (np.array(["2020-01-01", "2021-01-01"], dtype="M8[D]")[:, None], "dtype datetime64"),
        (np.array([[b"a"], [b"b"]]), "decode bytes"),
        (pd.DataFrame({"a": ["x", 1.0]}), "both numbers and text in column 'a' of X \\(for example 'x'\\)"),
        (np.array([[{"foo": 1}], [2.0]], dtype=object), "argument must be a string or a number"),
        (np.array([[1j], [2j]]), "Complex data not supported"),
        (torch.ones(2, 2, dtype=torch.complex64), "Complex data not supported"),
        (pd.DataFrame({"a": [1j, 2j]}), "Complex data not supported"),
        (torch.eye(2).to_sparse(), "sparse"),
        (np.ma.masked_array(X, mask=X > 0), "masked array"),
        (np.zeros((0, 3)), "0 sample\\(s\\) \\(shape=\\(0, 3\\)\\) while a minimum of 1"),
        (np.zeros((3, 0)), "0 feature\\(s\\) \\(shape=\\(3, 0\\)\\) while a minimum of 1"),
        (np.zeros(3), "Reshape your data"),
        (torch.zeros(2, 2, 2), "expected two axes"),
        ([[1.0], [1.0, 2.0]], "expected a table"),
        (X[:1], "1 sample"),
        (np.ones((3, 2)), "no column varies"),
        (pd.DataFrame({"a": ["x", "x"], "b": [1, 1]}), "no column varies"),
        (np.array([[1e200], [-1e200], [0.0]]) * 1e100, "variance overflows"),
    ],
)
def test_data_that_cannot_be_encoded_is_refused_by_name(data: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Columns().fit(data)


def test_an_entry_of_no_use_is_a_type_error_too() -> None:
    with pytest.raises(TypeError, match=r"argument must be .* string.* number"):
        Columns().fit(np.array([[{"foo": 1}], [2.0]], dtype=object))


@pytest.mark.parametrize("missing", ["error", "indicator"])
def test_infinity_is_always_refused(missing: str) -> None:
    fitted = Columns(missing=missing).fit(X)
    bad = X.copy()
    bad[2, 1] = np.inf
    for use in (fitted.transform, Columns(missing=missing).fit):
        with pytest.raises(DataError, match="Got inf in row 2, column 1"):
            use(bad)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": [np.nan, 1.0]}, "NaN in row 0, column 'a'"),
        ({"town": ["Ulm", None]}, "missing entry in row 1, column 'town'"),
        ({"town": [1.0, 2.0]}, "Got 1.0 in column 'town' of X, but expected text"),
        ({"grade": ["1", "2"]}, "Got '1' in column 'grade' of X, but expected numbers"),
        ({"a": ["1", "2"]}, "Got the text '1' in column 'a'"),
        ({"extra": [1, 2]}, "X has 4 features, but FittedColumns is expecting 3 features as input"),
    ],
)
def test_other_data_than_in_training_is_refused(change: dict[str, list[Any]], message: str) -> None:
    table = pd.DataFrame({"a": [1.0, 2.0], "town": ["Ulm", "Bonn"], "grade": pd.Categorical([1, 2])})
    fitted = Columns().fit(table)
    with pytest.raises(DataError, match=message):
        fitted.transform(table.assign(**change))


def test_names_in_another_order_are_refused_and_no_names_are_taken_by_position() -> None:
    table = pd.DataFrame(X, columns=["a", "b"])
    fitted = Columns().fit(table)
    with pytest.raises(DataError, match="other column names than in fit \\(in another order\\)"):
        fitted.transform(table[["b", "a"]])
    with pytest.raises(DataError, match="without 'b'; new 'c'"):
        fitted.transform(table.rename(columns={"b": "c"}))
    assert torch.equal(fitted.transform(X), fitted.transform(table))
    assert torch.equal(Columns().fit(X).transform(table), fitted.transform(table))


def test_text_that_is_not_listed_is_refused() -> None:
    table = frame()[["size", "town", "grade"]]
    with pytest.raises(DataError, match="text in column 'town' of X, but expected numbers in all columns but"):
        Columns(categorical=[]).fit(table)
    assert Columns(categorical=[]).fit(table.drop(columns="town")).names == ("size", "grade")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"standardize": 1}, "standardize=1"),
        ({"missing": "drop"}, "missing='drop'"),
        ({"transform": "log"}, "transform='log'"),
        ({"max_levels": 0}, "max_levels=0"),
        ({"max_levels": 2.5}, "max_levels=2.5"),
        ({"categorical": "town"}, "Pass \\['town'\\]"),
        ({"categorical": [True, False]}, "Got True in categorical"),
        ({"categorical": [1.0]}, "Got 1.0 in categorical"),
    ],
)
def test_options_that_do_not_exist_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Columns(**options)


@pytest.mark.parametrize(
    ("data", "listed", "message"),
    [
        (X, ["a"], "X has no column names"),
        (
            pd.DataFrame(X, columns=["a", "b"]),
            ["c"],
            "Got 'c' in categorical, but expected one of the columns 'a', 'b'",
        ),
        (X, [2], "positions below 2"),
    ],
)
def test_listed_columns_must_exist(data: object, listed: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Columns(categorical=listed).fit(data)


def test_numbers_too_large_for_the_dtype_are_refused() -> None:
    x = np.array([[1e60], [2e60], [0.0]])
    fitted = Columns(standardize=False).fit(x)
    assert fitted.transform(x).tolist() == x.tolist()
    with pytest.raises(DataError, match=r"'x0' that is too large for torch.float32"):
        fitted.transform(x, torch.float32)
    with pytest.raises(DataError, match=r"expected torch.float32 or torch.float64"):
        fitted.transform(x, torch.float16)


def test_rows_without_weight_do_not_count_as_samples() -> None:
    with pytest.raises(DataError, match="1 sample of positive weight"):
        Columns().fit(X, [1, 0, 0, 0])
    with pytest.raises(DataError, match="expected \\(4,\\)"):
        Columns().fit(X, [1, 1])


def test_text_that_reads_as_numbers_is_told_but_codes_are_not():
    numbers = np.random.default_rng(0).normal(size=60)
    with pytest.warns(FeatlearnWarning, match="reads as numbers, 60 different ones"):
        Columns().fit(pd.DataFrame({"a": numbers.astype(str)}))
    Columns().fit(pd.DataFrame({"a": [f"{i % 12:02}" for i in range(60)]}))
