from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featlearn.exceptions import DataError, FeatlearnWarning
from featlearn.robust.groups import as_groups, balance_groups, common_groups
from featlearn.robust.selection import SELECTION_RULES, check_selection

COLUMNS = st.integers(1, 3).flatmap(
    lambda width: st.lists(st.tuples(*[st.integers(-2, 3)] * width), min_size=1, max_size=40)
)


# --- crossing ---------------------------------------------------------------------------------------------------------


@settings(deadline=None, derandomize=True)
@given(rows=COLUMNS)
def test_crossed_groups_are_all_combinations_of_values_and_each_row_is_in_its_own(rows):
    columns = [list(column) for column in zip(*rows, strict=True)]
    labels = as_groups(tuple(columns), len(rows), names=[f"c{k}" for k in range(len(columns))])
    expected = list(product(*(sorted(set(column)) for column in columns)))
    assert labels.names == [", ".join(f"c{k}={v}" for k, v in enumerate(values)) for values in expected]
    assert [expected[code] for code in labels.codes] == rows
    assert labels.counts.tolist() == [rows.count(values) for values in expected]
    assert labels.empty == [name for name, values in zip(labels.names, expected, strict=True) if values not in rows]
    assert (labels.masks.sum(axis=1) == 1).all()
    assert (labels.masks.argmax(axis=1) == labels.codes).all()


Y, S = [0, 1, 1, 0], ["land", "land", "water", "land"]


@pytest.mark.parametrize(
    "groups",
    [
        (np.array(Y), np.array(S)),
        (pd.Series(Y, name="y"), pd.Series(S, name="s", dtype="category")),
        (torch.tensor(Y), S),
        (np.array(Y, dtype=float), np.array(S, dtype=object)),
        {"y": Y, "s": S},
        pd.DataFrame({"y": Y, "s": S}, index=[7, 7, 1, 0]),
    ],
    ids=["arrays", "series", "tensor", "whole floats and objects", "mapping", "frame"],
)
def test_every_kind_of_columns_gives_the_same_groups(groups):
    labels = as_groups(groups, 4)
    assert labels.names == ["y=0, s=land", "y=0, s=water", "y=1, s=land", "y=1, s=water"]
    assert labels.codes.tolist() == [0, 2, 3, 0]
    assert labels.levels == {"y": [0, 1], "s": ["land", "water"]}
    assert labels.table() == "y=0, s=land: 2 rows; y=0, s=water: 0 rows; y=1, s=land: 1 rows; y=1, s=water: 1 rows"


def test_one_column_is_groups_by_value():
    assert as_groups(np.array([4, 2, 4])).names == ["group 2", "group 4"]
    assert as_groups(["b", "a"]).names == ["a", "b"]
    assert as_groups(pd.Series([True, False], name="male")).names == ["male=False", "male=True"]


def test_objects_are_the_numbers_that_they_hold():
    assert as_groups(np.array([1.0, 1, 0], dtype=object)).names == ["group 0", "group 1"]
    assert as_groups(pd.cut(pd.Series([1, 2, 9]), [0, 5, 10])).names == ["group (0, 5]", "group (5, 10]"]


def test_counts_of_some_rows_and_groups_of_every_row_are_those_of_the_masks():
    rng = np.random.default_rng(0)
    some = rng.random(60) < 0.5
    for groups in (rng.integers(0, 4, 60), rng.random((60, 3)) < 0.4):
        labels = as_groups(groups)
        assert labels.count(some).tolist() == labels.masks[some].sum(axis=0).tolist()
        assert labels.memberships.tolist() == labels.masks.sum(axis=1).tolist()


def test_names_of_a_column_declare_groups_without_rows():
    labels = as_groups([0, 2, 2], names=["land on land", "land on water", "water on water"])
    assert labels.counts.tolist() == [1, 0, 2]
    assert labels.empty == ["land on water"]
    with pytest.raises(DataError, match="from 0 to 1"):
        as_groups([0, 2], names=["a", "b"])


def test_a_frame_of_booleans_is_crossed_and_a_matrix_of_them_is_masks():
    matrix = np.array([[True, False], [True, True], [False, True]])
    assert len(as_groups(pd.DataFrame(matrix, columns=["a", "b"]))) == 4
    masks = as_groups(matrix, names=["a", "b"])
    assert masks.overlapping
    assert masks.codes is None
    assert (masks.names, masks.counts.tolist()) == (["a", "b"], [2, 2])
    assert (masks.masks == matrix).all()


def test_masks_that_part_the_rows_are_groups_like_any_other():
    labels = as_groups(np.eye(3, dtype=bool)[[0, 2, 2]])
    assert labels.codes.tolist() == [0, 2, 2]
    assert not labels.overlapping
    assert labels.empty == ["mask 1"]
    assert as_groups(np.array([[True, False], [False, False]])).overlapping  # a row in no group


def test_several_sets_of_rows_share_the_groups_that_any_has():
    test, train = common_groups([([0, 1], [0, 0]), ([0, 1, 1], [0, 0, 1])], [2, None])
    assert test.names == train.names == ["y=0, s=0", "y=0, s=1", "y=1, s=0", "y=1, s=1"]
    assert (test.counts.tolist(), train.counts.tolist()) == ([1, 0, 1, 0], [1, 0, 1, 1])
    with pytest.raises(DataError, match="attributes"):
        common_groups([([0], [1]), {"y": [0], "hair": [1]}], [1, None])
    with pytest.raises(DataError, match="one kind"):
        common_groups([[0], np.array([[True]])], [1, None])


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([0, 1, 1], "3 rows"),
        ([0.0, np.nan], "missing"),
        ([None, "a"], "missing"),
        ([0.5, 1.0], "0.5 in groups"),
        ([np.inf, 1.0], "inf in groups"),
        ([1e300, 1.0], "1e\\+300 in groups"),
        ([2.0**63, 1.0], "of 64 bits"),
        (np.array([0.5, 1], dtype=object), "0.5 in groups"),
        (np.array(["2020-01-01", "2021-01-01"], dtype="datetime64[D]"), "datetime64"),
        (np.array([1j, 2]), "complex128"),
        ([[0, 1], [1]], "different lengths"),
        (pd.DataFrame([[0, 1], [1, 0]], columns=["a", "a"]), "names \\['a', 'a'\\]"),
        (pd.DataFrame([[0, 1], [1, 0]], columns=[1, "1"]), "names \\['1', '1'\\]"),
        (np.array(["a", 1], dtype=object), "sorted"),
        ((0, 1), "tuple of single values"),
        ((), "tuple of single values"),
        (([0, 1], [1]), "1 rows in groups"),
        (np.zeros((2, 2), dtype=int), "tuple\\(groups.T\\)"),
        (np.zeros((2, 0), dtype=bool), "masks"),
        (pd.DataFrame(index=range(2)), "without columns"),
        ([], "no rows"),
        (np.zeros((0, 3), dtype=bool), "no rows"),
        (3, "shape"),
    ],
)
def test_what_is_no_groups_is_refused(groups, message):
    with pytest.raises(DataError, match=message):
        as_groups(groups, 2)


def test_a_column_that_is_no_attribute_is_refused_before_it_is_crossed():
    with pytest.raises(DataError, match="1600 groups from 40 x 40"):
        as_groups((np.arange(40), np.arange(40)))


def test_names_that_do_not_fit_are_refused():
    for groups, names in [(([0], [1]), ["y"]), (np.array([[True, False]]), ["a", "a"]), (([0], [1]), ["y", "y"])]:
        with pytest.raises(DataError, match="expected one each, all different"):
            as_groups(groups, names=names)


# --- balance ----------------------------------------------------------------------------------------------------------


def test_subsample_has_the_smallest_group_of_everything_and_repeats_no_row():
    groups = (np.repeat([0, 0, 1, 1], [50, 7, 9, 30]), np.repeat([0, 1, 0, 1], [50, 7, 9, 30]))
    rows = balance_groups(groups, random_state=3)
    assert as_groups((groups[0][rows], groups[1][rows])).counts.tolist() == [7] * 4
    assert (np.diff(rows) > 0).all()
    assert (rows == balance_groups(groups, random_state=3)).all()
    assert not np.array_equal(rows, balance_groups(groups, random_state=4))


def test_subsample_draws_every_row_of_a_group_equally_often():
    groups = np.repeat([0, 1], [8, 2])
    rng = np.random.default_rng(0)
    drawn = np.bincount(np.concatenate([balance_groups(groups, random_state=rng) for _ in range(2000)]), minlength=10)
    assert drawn[8:].tolist() == [2000, 2000]
    assert np.abs(drawn[:8] / 2000 - 0.25).max() < 3 * np.sqrt(0.25 * 0.75 / 2000)


def test_weights_give_every_group_the_same_total_and_have_mean_one():
    groups = np.array([2, 0, 0, 1, 2, 2, 2, 0, 2])
    weights = balance_groups(groups, "reweight")
    assert weights.mean() == pytest.approx(1.0, abs=1e-15)
    assert [weights[groups == g].sum() for g in range(3)] == pytest.approx([3.0] * 3)


def test_a_missing_group_cannot_be_subsampled_and_no_weight_brings_it_back():
    groups = ([0, 0, 1], [0, 0, 1])
    with pytest.raises(DataError, match=r"y=0, s=1; y=1, s=0 \(y=0, s=0: 2 rows"):
        balance_groups(groups)
    with pytest.warns(FeatlearnWarning, match="y=0, s=1; y=1, s=0"):
        weights = balance_groups(groups, "reweight")
    assert weights.tolist() == [0.75, 0.75, 1.5]


def test_overlapping_groups_have_no_balance():
    with pytest.raises(DataError, match="overlap"):
        balance_groups(np.array([[True, True], [True, False]]))
    with pytest.raises(DataError, match="how='both'"):
        balance_groups([0, 1], "both")


# --- selection --------------------------------------------------------------------------------------------------------


def test_selection_is_one_of_the_rules_or_not_told():
    assert [check_selection(rule) for rule in (*SELECTION_RULES, None)] == [*SELECTION_RULES, None]
    with pytest.raises(DataError, match=r"'validation'.*'oracle \(test\)'"):
        check_selection("validation")


# --- pandas -----------------------------------------------------------------------------------------------------------


def test_categories_without_rows_are_kept():
    place = pd.Categorical(["land", "water", "land"], categories=["land", "water", "sky"])
    for groups in (place, pd.Series(place), {"group": place}, pd.DataFrame({"group": place})):
        labels = as_groups(groups)
        assert labels.names == ["land", "sky", "water"]
        assert labels.counts.tolist() == [2, 0, 1]
    assert as_groups(([0, 0, 1], place)).empty == ["y=0, s=sky", "y=1, s=sky", "y=1, s=water"]
    used, other = common_groups([place.remove_unused_categories(), place], [3, 3])
    assert used.names == other.names == ["land", "sky", "water"]


def test_columns_of_booleans_are_crossed_and_their_array_is_masks():
    frame = pd.DataFrame({"a": [True, True, False], "b": [True, False, False]})
    assert as_groups(frame).names[-1] == "a=True, b=True"
    assert as_groups(frame.to_numpy()).counts.tolist() == [2, 1]


def test_an_index_in_another_order_is_refused_and_another_index_is_not():
    y, s = pd.Series([0, 1, 1, 0], index=list("abcd")), pd.Series([0, 0, 1, 1], index=list("bacd"))
    with pytest.raises(DataError, match=r"Got groups\[0\] and groups\[1\] with the same index in different orders"):
        as_groups((y, s))
    with pytest.raises(DataError, match=r"groups\['s'\]"):
        as_groups({"y": y, "s": s})
    labels = as_groups((y, s.reset_index(drop=True)))
    assert labels.codes.tolist() == as_groups((y.to_numpy(), s.to_numpy())).codes.tolist()
    assert as_groups((y, s.loc[y.index])).counts.tolist() == [1, 1, 1, 1]
