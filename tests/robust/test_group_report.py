from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from featlearn.exceptions import DataError, FeatlearnWarning
from featlearn.report.json import dump_json
from featlearn.robust.group_intervals import equal_draws, minimum_interval, wilson_interval
from featlearn.robust.group_report import group_report
from featlearn.robust.group_results import GroupReport
from featlearn.robust.groups import as_groups

TRAIN, TEST = (3498, 184, 56, 1057), (2255, 2255, 642, 642)  # rows of Waterbirds, by label and background
QUIET = {"information": "none", "selection": "none"}


def crossed(counts):
    """Labels and attributes of four groups of these sizes."""
    return np.repeat([0, 0, 1, 1], counts), np.repeat([0, 1, 0, 1], counts)


def predicted(accuracies, counts):
    """Predictions with the nearest possible accuracies."""
    y, _ = crossed(counts)
    right = np.concatenate([np.arange(n) < round(a * n) for a, n in zip(accuracies, counts, strict=True)])
    return np.where(right, y, 1 - y)


def waterbirds(accuracies=(0.99, 0.80, 0.75, 0.97), **told):
    y, s = crossed(TEST)
    return group_report(y, predicted(accuracies, TEST), (y, s), train_groups=crossed(TRAIN), **told)


# --- intervals --------------------------------------------------------------------------------------------------------


def test_wilson_has_the_checked_values():
    low, high = wilson_interval([600, 0, 50], [642, 10, 50])
    assert low == pytest.approx([0.91275, 0.0, 0.92865], abs=1e-5)
    assert high == pytest.approx([0.95124, 0.27753, 1.0], abs=1e-5)
    assert np.isnan(wilson_interval(0, 0)).all()


@settings(deadline=None, derandomize=True)
@given(n=st.integers(1, 5000), share=st.floats(0, 1), confidence=st.floats(0.5, 0.999))
def test_wilson_is_that_of_scipy(n, share, confidence):
    k = round(share * n)
    expected = binomtest(k, n).proportion_ci(confidence, method="wilson")
    low, high = wilson_interval(k, n, confidence)
    assert (float(low), float(high)) == pytest.approx((expected.low, expected.high), abs=1e-12)


def at_least(t, n, p):
    """Probability that the lowest of independent proportions is at least t."""
    return np.prod([binom.sf(np.ceil(t * m - 1e-9) - 1, m, q) for m, q in zip(n, p, strict=True)], axis=0)


def mean_of_minimum(n, p):
    """Exact, by the tail integral over a grid that has every value of the proportions."""
    places = np.unique(np.concatenate([np.arange(m + 1) / m for m in n]))
    return float(np.diff(places) @ at_least(places[1:], n, p))


@pytest.mark.parametrize(("counts", "expected"), [(TEST, 0.890), ((500,) * 4, 0.886), ((50,) * 4, 0.855)])
def test_expected_minimum_of_equal_groups_is_the_exact_one(counts, expected):
    y, s = crossed(counts)
    report = group_report(y, predicted((0.9,) * 4, counts), (y, s), **QUIET)
    exact = mean_of_minimum(counts, [report.mean_accuracy_test] * 4)
    assert exact == pytest.approx(expected, abs=0.002)
    assert report.expected_min_if_equal == pytest.approx(exact, abs=0.002)
    assert report.min_if_equal_low < report.expected_min_if_equal < report.min_if_equal_high
    assert not report.beyond_chance


SHAPES = {
    "near one": ((500,) * 4, (0.995,) * 4),
    "equal": ((50,) * 4, (0.9,) * 4),
    "apart": ((642, 642, 2255, 2255), (0.75, 0.97, 0.80, 0.99)),
    "two groups of three rows": ((50, 50, 3, 3), (0.99,) * 4),
    "small, in the middle": ((5,) * 4, (0.5,) * 4),
    "many": ((20,) * 16, (0.85,) * 16),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_interval_of_the_worst_group_holds_the_smallest_accuracy_as_often_as_it_says(shape):
    n, p = map(np.array, SHAPES[shape])
    drawn = np.random.default_rng(0).binomial(n, p, size=(400, len(n)))
    for confidence in (0.95, 0.8):
        ends = np.array([minimum_interval(k, n, confidence) for k in drawn])
        worst = (drawn / n).min(axis=1)
        assert (ends[:, 0] <= worst).all()
        assert (worst <= ends[:, 1]).all()
        risk = (1 - confidence) / 2
        allowed = risk + 3 * math.sqrt(risk * (1 - risk) / len(drawn))
        assert (ends[:, 0] > p.min()).mean() <= allowed
        assert (ends[:, 1] < p.min()).mean() <= allowed


def test_percentiles_of_a_bootstrap_would_not():
    """Why the interval is another than the usual one."""
    rng, n = np.random.default_rng(0), np.full(4, 50)
    held = 0
    for k in rng.binomial(n, 0.9, size=(300, 4)):
        low, high = np.quantile((rng.binomial(n, k / n, size=(400, 4)) / n).min(axis=1), [0.025, 0.975])
        held += low <= 0.9 <= high
    assert held / 300 < 0.85


@pytest.mark.parametrize(
    ("k", "n"), [((3, 40, 7), (10, 50, 9)), ((0, 5), (4, 5)), ((4, 5, 0), (4, 5, 0)), ((9,), (9,))]
)
def test_interval_of_the_worst_group_is_made_of_the_exact_ones_of_scipy(k, n):
    filled = [(a, b) for a, b in zip(k, n, strict=True) if b]
    low = min(binomtest(a, b).proportion_ci(0.9).low for a, b in filled)
    high = min(binomtest(a, b).proportion_ci(1 - 0.1 / len(filled)).high for a, b in filled)
    assert minimum_interval(k, n, 0.9) == pytest.approx((low, high), abs=1e-12)


def test_three_right_rows_of_three_leave_the_worst_group_open():
    y, s = (np.concatenate([np.repeat([0, 1], 50), extra]) for extra in ([0] * 3 + [1] * 3, [1] * 3 + [0] * 3))
    for groups in ((y, s), np.column_stack([y == a for a in (0, 1)] + [(y == a) & (s == 1 - a) for a in (0, 1)])):
        report = group_report(y, y, groups, **QUIET)
        assert (report.worst_group_accuracy, report.worst_group_high) == (1.0, 1.0)
        assert report.worst_group_low == pytest.approx(0.025 ** (1 / 3))


def test_groups_that_share_rows_share_what_is_drawn():
    rng = np.random.default_rng(0)
    own = rng.random(400) < 0.3
    labels = as_groups(np.column_stack([own, own, ~own, rng.random(400) < 0.5]))
    draws = equal_draws(0.8, labels, 300, rng)
    assert (draws[:, 0] == draws[:, 1]).all()
    assert abs(np.corrcoef(draws[:, 0], draws[:, 2])[0, 1]) < 4 / math.sqrt(300)  # no rows in common
    assert np.corrcoef(draws[:, 2], draws[:, 3])[0, 1] > 0.4


def test_a_row_without_a_group_leaves_the_minimum_of_equal_groups_as_it_is():
    counts = (60, 40, 50)
    masks = np.vstack([np.repeat(np.eye(3, dtype=bool), counts, axis=0), [[False] * 3]])
    y, right = np.zeros(151, dtype=int), np.concatenate([np.arange(n) < 0.8 * n for n in counts])
    report = group_report(y, np.where([*right, False], 0, 1), masks)
    assert report.expected_min_if_equal == pytest.approx(mean_of_minimum(counts, [0.8] * 3), abs=0.003)
    assert report.mean_accuracy_test == pytest.approx(120 / 151)
    assert (report.overlapping, report.n_in_no_group) == (False, 1)


# --- means and the worst group ----------------------------------------------------------------------------------------


def test_the_two_means_of_waterbirds_differ_by_nine_points():
    report = waterbirds(**QUIET)
    assert report.mean_accuracy_test == pytest.approx(0.8872, abs=1e-4)
    assert report.mean_accuracy_train_weighted == pytest.approx(0.9755, abs=1e-4)
    assert report.worst_group == "y=1, s=0"
    assert report.gap == report.mean_accuracy_train_weighted - report.worst_group_accuracy
    assert report.beyond_chance


LABELS = st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=60)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(rows=LABELS, train=LABELS)
@pytest.mark.filterwarnings("ignore:No rows in")
def test_report_is_that_of_a_loop_over_rows(rows, train):
    y, p, s = (np.array(column) for column in zip(*rows, strict=True))
    training = tuple(np.array(column) for column in zip(*train, strict=True))[:2]
    report = group_report(y, p, (y, s), train_groups=training, n_boot=20, **QUIET)
    table = {entry.label: entry for entry in report.entries}
    values, shares = {}, {}
    for a in sorted({*y.tolist(), *training[0].tolist()}):
        for b in sorted({*s.tolist(), *training[1].tolist()}):
            name = f"y={a}, s={b}"
            shares[name] = sum((t, u) == (a, b) for t, u in zip(*training, strict=True)) / len(train)
            own = [r for r in rows if (r[0], r[2]) == (a, b)]
            assert table[name].n == len(own)
            if own:
                values[name] = accuracy_score([r[0] for r in own], [r[1] for r in own])
                assert table[name].accuracy == pytest.approx(values[name])
                assert table[name].low <= values[name] <= table[name].high
            else:
                assert math.isnan(table[name].accuracy)
    assert set(table) == set(shares)
    assert report.worst_group_accuracy == min(values.values()) == values[report.worst_group]
    assert report.mean_accuracy_test == pytest.approx(accuracy_score(y, p))
    assert report.mean_accuracy_balanced == pytest.approx(np.mean(list(values.values())))
    untested = any(share > 0 and name not in values for name, share in shares.items())
    weighted = math.nan if untested else sum(shares[name] * value for name, value in values.items())
    assert report.mean_accuracy_train_weighted == pytest.approx(weighted, nan_ok=True)
    mean = report.mean_accuracy_test if untested else weighted
    assert report.gap == pytest.approx(mean - report.worst_group_accuracy)


@pytest.mark.parametrize("overlapping", [False, True])
def test_order_of_the_rows_changes_nothing(overlapping):
    rng = np.random.default_rng(2)
    y, p, order = rng.integers(0, 3, 300), rng.integers(0, 3, 300), rng.permutation(300)
    groups = rng.random((300, 4)) < 0.4 if overlapping else rng.integers(0, 4, 300)
    first, second = group_report(y, p, groups), group_report(y[order], p[order], groups[order])
    assert dump_json(first.to_dict()) == dump_json(second.to_dict())


def test_kind_of_the_columns_changes_nothing():
    rng = np.random.default_rng(3)
    y, p, s = (rng.integers(0, 2, 80) for _ in range(3))
    words = np.array(["cat", "dog"])
    reports = [
        group_report(y, p, (y, s)),
        group_report(torch.tensor(y), torch.tensor(p), (torch.tensor(y), s)),
        group_report(pd.Series(y, index=range(80, 0, -1)), p.astype(float), pd.DataFrame({"y": y, "s": s})),
        group_report(y.tolist(), p.astype(bool), {"y": y, "s": s}),
        group_report(words[y], words[p].astype(object), (y, s)),
    ]
    assert len({dump_json(report.to_dict()) for report in reports}) == 1


def test_overlapping_masks_count_a_row_in_each_group_and_have_no_train_weighted_mean():
    y, p = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 0])
    masks = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]], dtype=bool)
    with pytest.warns(FeatlearnWarning, match="blind"):
        report = group_report(y, p, masks, train_groups=masks, group_names=["men", "black", "blind"])
    assert [(e.label, e.n, e.n_correct) for e in report.entries] == [("men", 3, 2), ("black", 3, 3), ("blind", 0, 0)]
    assert report.worst_group == "men"
    assert (report.n, report.n_in_no_group, report.overlapping) == (5, 1, True)
    assert math.isnan(report.mean_accuracy_train_weighted)
    assert report.gap == pytest.approx(3 / 5 - 2 / 3)
    assert any("1 of 5 rows are in no group" in caveat for caveat in report.caveats)


def test_groups_without_rows_are_listed_and_named_in_one_warning():
    y, s = np.array([0, 0, 1, 1]), np.array(["land", "land", "water", "water"])
    training = (np.array([0, 0, 1, 1]), np.array(["land", "water", "water", "water"]))
    with pytest.warns(FeatlearnWarning) as caught:
        report = group_report(y, y, (y, s), train_groups=training)
    assert len(caught) == 1
    text = str(caught[0].message)
    assert "y=0, s=water; y=1, s=land" in text
    assert "train-weighted mean is not defined" in text
    assert caught[0].filename == __file__
    assert report.groups.loc["y=0, s=water", "n"] == 0
    assert math.isnan(report.groups.loc["y=0, s=water", "accuracy"])
    assert report.mean_accuracy_balanced == 1.0
    assert math.isnan(report.mean_accuracy_train_weighted)


# --- another metric ---------------------------------------------------------------------------------------------------


def test_a_metric_that_is_accuracy_gives_the_report_of_accuracy():
    counts = (200, 100, 60, 90)
    y, s = crossed(counts)
    p = predicted((0.95, 0.7, 0.9, 0.8), counts)
    plain = group_report(y, p, (y, s), train_groups=crossed(TRAIN))
    other = group_report(y, p, (y, s), train_groups=crossed(TRAIN), metric=share_correct)
    for key in ("worst_group", "worst_group_accuracy", "mean_accuracy_test", "mean_accuracy_train_weighted"):
        assert getattr(other, key) == pytest.approx(getattr(plain, key))
    assert other.metric == "share_correct"
    resampled = np.random.default_rng(5).binomial(counts, [e.accuracy for e in plain.entries], size=(4000, 4)) / counts
    ends = np.quantile(resampled.min(axis=1), [0.025, 0.975])
    assert (other.worst_group_low, other.worst_group_high) == pytest.approx(tuple(ends), abs=0.02)
    # Shuffles keep the number of correct rows, which a binomial draw does not: the minimum is a little higher.
    assert other.expected_min_if_equal == pytest.approx(plain.expected_min_if_equal, abs=0.01)
    for mine, theirs in zip(other.entries, plain.entries, strict=True):
        assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=0.04)
        assert mine.n_correct is None


def share_correct(truth, guess):
    return float((truth == guess).mean())


def test_a_metric_of_numbers_works_in_groups_that_overlap():
    rng = np.random.default_rng(0)
    y, p = rng.normal(size=90), rng.normal(size=90)
    masks = rng.random((90, 3)) < 0.5

    def closeness(truth, guess):
        return -float(np.abs(truth - guess).mean())

    report = group_report(y, p, masks, metric=closeness, n_boot=50)
    values = [closeness(y[mask], p[mask]) for mask in masks.T]
    assert [entry.accuracy for entry in report.entries] == pytest.approx(values)
    assert report.worst_group == f"mask {int(np.argmin(values))}"
    assert all(entry.low < entry.accuracy < entry.high for entry in report.entries)
    assert report.n_classes is None


def test_a_metric_that_is_undefined_on_a_group_is_refused_with_its_name():
    with pytest.raises(DataError, match="not finite in b"):
        group_report([0, 1, 1], [0, 1, 0], ["a", "a", "b"], metric=lambda t, p: math.nan if len(t) == 1 else 1.0)


def test_a_metric_that_is_undefined_on_all_rows_is_refused():
    with pytest.raises(DataError, match="not finite in all groups"):
        group_report([0, 1, 1], [0, 1, 0], ["a", "a", "b"], metric=lambda t, p: math.nan if len(t) == 3 else 1.0)


def test_a_metric_called_accuracy_is_not_taken_for_the_accuracy_of_the_report(tmp_path):
    def accuracy(truth, guess):
        return 100 * share_correct(truth, guess)

    y, s = crossed((20, 10, 10, 20))
    report = group_report(y, y, (y, s), metric=accuracy, n_boot=9)
    assert report.metric == "accuracy()"
    report.to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "Wilson" not in page
    assert "9</data> bootstrap samples" in page
    with pytest.raises(DataError, match="metric"):
        GroupReport.compare({"a": report, "b": group_report(y, y, (y, s))})


def test_what_a_metric_raises_names_the_group():
    with pytest.raises(ValueError, match="one class") as caught:
        group_report([0, 1, 1], [0, 1, 0], ["a", "a", "b"], metric=_needs_two)
    assert "1 rows of b" in caught.value.__notes__[0]


def _needs_two(truth, guess):
    if len(set(truth)) < 2:
        raise ValueError("one class")
    return balanced_accuracy_score(truth, guess)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"y_pred": [0, 1]}, "3 rows in y_true and 2 in y_pred"),
        ({"y_pred": np.zeros((3, 2))}, "y_pred of shape"),
        ({"y_pred": [0.0, 1.0, np.nan]}, "missing values in y_pred"),
        ({"y_pred": [0.2, 0.9, 0.1]}, "0.2 in y_pred"),
        ({"y_pred": ["0", "1", "1"]}, "one kind"),
        ({"y_pred": np.array([b"0", b"1", b"1"])}, "one kind"),
        ({"y_true": np.array([b"0", b"1", b"1"]), "y_pred": ["0", "1", "1"]}, "one kind"),
        ({"y_pred": [0.0, 1e300, 1.0]}, "of 64 bits"),
        ({"y_true": [0, None, 1]}, "missing values in y_true"),
        ({"y_true": [], "y_pred": [], "groups": []}, "no rows"),
        ({"groups": [0, 1]}, "2 rows in groups"),
        ({"groups": [0, 1.5, 1]}, "1.5 in groups"),
        ({"groups": np.zeros((3, 2), dtype=bool)}, "no row in any group"),
        ({"train_groups": ["a", "b"]}, "sorted"),
        ({"y_pred": pd.Series([0, 1, 0], index=[2, 1, 0]), "y_true": pd.Series([0, 1, 1])}, "y_true and y_pred"),
        ({"metric": "f1"}, "sklearn.metrics.f1_score"),
        ({"confidence": 95}, "confidence=95"),
        ({"confidence": "0.95"}, "confidence='0.95'"),
        ({"confidence": math.nan}, "confidence=nan"),
        ({"n_boot": 0}, "n_boot=0"),
        ({"random_state": -1}, "random_state=-1"),
        ({"random_state": None}, "random_state=None"),
        ({"selection": "test"}, "selection='test'"),
        ({"information": 3}, "information=3"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_input_is_refused(changed, message):
    given_ = {"y_true": [0, 1, 1], "y_pred": [0, 1, 0], "groups": [0, 0, 1]} | changed
    with pytest.raises(DataError, match=message):
        group_report(**given_)


def test_every_argument_changes_the_report():
    y, s = crossed((40, 20, 10, 30))
    p = predicted((0.9, 0.8, 0.7, 0.9), (40, 20, 10, 30))
    told = dump_json(group_report(y, p, (y, s)).to_dict())
    changes = {
        "metric": balanced_or_zero,
        "train_groups": crossed(TRAIN),
        "group_names": ["label", "place"],
        "confidence": 0.9,
        "n_boot": 999,
        "random_state": 1,
        "information": "none",
        "selection": "none",
    }
    for key, value in changes.items():
        assert dump_json(group_report(y, p, (y, s), **{key: value}).to_dict()) != told, key
    assert dump_json(group_report(y, p, (y, s)).to_dict()) == told


def balanced_or_zero(truth, guess):
    return float(np.mean(truth == guess) / 2)


# --- what it returns --------------------------------------------------------------------------------------------------


def test_report_survives_json():
    with pytest.warns(FeatlearnWarning):
        report = group_report([0, 0, 1], [0, 1, 1], ([0, 0, 1], [0, 1, 1]))
    again = GroupReport.from_dict(json.loads(dump_json(report.to_dict())))
    assert dump_json(again.to_dict()) == dump_json(report.to_dict())
    assert math.isnan(again.mean_accuracy_train_weighted)
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.n = 3


def test_frame_has_a_row_a_group():
    frame = waterbirds(**QUIET).frame()
    assert frame.columns.tolist() == ["n", "n_correct", "accuracy", "low", "high", "train_share"]
    assert frame["n"].tolist() == list(TEST)
    assert (frame["n_correct"] / frame["n"]).tolist() == pytest.approx(frame["accuracy"].tolist())
    assert frame["train_share"].tolist() == pytest.approx([n / sum(TRAIN) for n in TRAIN])


def test_summary_names_worst_group_chance_information_and_selection():
    text = waterbirds(information="labels of 10 rows", selection="oracle (test)").summary()
    assert "Worst group y=1, s=0: accuracy 0.751" in text
    assert "Information used: labels of 10 rows; selection: oracle (test)." in text
    assert "not told" in waterbirds().summary()


def test_oracle_selection_is_a_caveat_and_so_is_silence():
    assert "test rows" in waterbirds(information="none", selection="oracle (test)").caveats[0]
    assert sum("not told" in caveat for caveat in waterbirds().caveats) == 2


@pytest.fixture
def pair():
    return {
        "ERM": waterbirds(**QUIET),
        "DFR": waterbirds((0.94, 0.92, 0.91, 0.93), information="groups of 1199 rows", selection=None),
    }


def test_comparison_shows_information_and_selection_of_every_method(pair):
    comparison = GroupReport.compare(pair)
    frame = comparison.frame()
    assert frame["information"].tolist() == ["none", "groups of 1199 rows"]
    assert frame["selection"].tolist() == ["none", "not told"]
    assert frame["worst_group_accuracy"].tolist() == [r.worst_group_accuracy for r in pair.values()]
    assert comparison.group_frame().loc[("DFR", "y=0, s=1"), "n"] == 2255
    assert sum("do not have the same" in caveat for caveat in comparison.caveats) == 2
    assert any(caveat.startswith("DFR: It was not told how") for caveat in comparison.caveats)
    again = type(comparison).from_dict(json.loads(dump_json(comparison.to_dict())))
    assert dump_json(again.to_dict()) == dump_json(comparison.to_dict())


def test_comparison_refuses_reports_of_different_things(pair):
    other = group_report([0, 1], [0, 1], [0, 1])
    scored = group_report([0, 1], [0, 1], [0, 1], metric=accuracy_score, n_boot=5)
    for reports, message in [
        ({}, "no report"),
        ({"a": other, "b": pair["ERM"]}, "the same"),
        ({"a": other, "b": scored}, "accuracy_score"),
        ({"a": {}}, "dict"),
    ]:
        with pytest.raises(DataError, match=message):
            GroupReport.compare(reports)


def test_comparison_says_when_rows_differ():
    reports = {str(n): group_report([0] * n + [1], [0] * n + [1], [0] * n + [1]) for n in (3, 4)}
    assert "same rows" in GroupReport.compare(reports).caveats[0]


# --- figure and page --------------------------------------------------------------------------------------------------


def test_figure_has_a_bar_a_group_and_method_and_names_n_information_and_selection(pair):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    ax = GroupReport.compare(pair).plot()
    heights = sorted(bar.get_height() for bar in ax.patches)
    assert heights == pytest.approx(sorted(e.accuracy for report in pair.values() for e in report.entries))
    words = [label.get_text() for label in ax.get_xticklabels()]
    assert words[:4] == [
        f"y={y}\ns={s}\nn = {n:,}" for y, s, n in zip(*([0, 0, 1, 1], [0, 1, 0, 1]), TEST, strict=True)
    ]
    legend = " ".join(text.get_text() for text in ax.get_legend().get_texts())
    assert "DFR (information: groups of 1199 rows; selection: not told)" in legend
    dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in dashed] == [0.5]
    means = {text.get_text() for text in ax.texts}
    assert {".887", ".975"} <= means
    pyplot.close(ax.figure)


def test_figure_says_where_there_are_no_rows_and_what_is_not_known():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    with pytest.warns(FeatlearnWarning):
        report = group_report([0, 0, 1], [0, 1, 1], ([0, 0, 1], [0, 1, 1]))
    figure, ax = pyplot.subplots()
    assert report.plot(ax) is ax
    words = [text.get_text() for text in ax.texts]
    assert "no rows" in words
    assert "not known" in words
    figure.canvas.draw()
    pyplot.close(figure)


def test_page_is_self_contained_and_holds_every_group_both_means_chance_and_rule(tmp_path):
    report = waterbirds(information="<b>none</b>", selection="oracle (test)")
    report.to_html(tmp_path / "page.html", title="Birds & co")
    page = (tmp_path / "page.html").read_text()
    for value in (
        *(value for entry in report.entries for value in (entry.accuracy, entry.low, entry.high)),
        report.worst_group_low,
        report.worst_group_high,
        report.expected_min_if_equal,
        report.mean_accuracy_test,
        report.mean_accuracy_train_weighted,
        report.mean_accuracy_balanced,
        report.gap,
    ):
        assert f'value="{value!r}"' in page
    assert page.count('class="group-bar') == 4
    assert page.count('class="group-bar worst"') == 1
    assert "&lt;b&gt;none&lt;/b&gt;" in page
    assert "<b>none</b>" not in page
    assert "oracle (test)" in page
    assert "Birds &amp; co" in page
    assert all(caveat in page for caveat in report.caveats)
    assert "http" not in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html"]


def test_page_of_a_comparison_tells_every_method(pair, tmp_path):
    GroupReport.compare(pair).to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count('class="group-bar') == 8
    assert "DFR (information: groups of 1199 rows; selection: not told)" in page
    assert "The methods do not have the same information" in page


def test_page_of_a_report_with_empty_groups_and_another_metric(tmp_path):
    with pytest.warns(FeatlearnWarning):
        report = group_report([0.5, 0, 1], [0, 1.5, 1], ([0, 0, 1], [0, 1, 1]), metric=lambda t, p: -abs(t - p).max())
    report.to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "no rows" in page
    assert "not known" in page
    assert "larger is better" in page


def test_notebook_shows_summary_and_table():
    shown = waterbirds(information="<none>", selection="none")._repr_html_()
    assert "&lt;none&gt;" in shown
    assert "y=1, s=0" in shown
    assert "ERM" in GroupReport.compare({"ERM": waterbirds()})._repr_html_()


def test_reports_print_as_tables_that_a_terminal_holds(pair):
    report = waterbirds(information="group labels on 1199 held-out rows, and more words " * 3)
    lines = str(report).splitlines()
    assert lines[0].split() == ["n", "correct", "accuracy", "interval"]
    for entry, line in zip(report.entries, lines[1:], strict=False):
        assert line.split() == [
            *entry.label.split(), f"{entry.n}", f"{entry.n_correct}", f"{entry.accuracy:.3f}",
            f"{entry.low:.3f}-{entry.high:.3f}", *(["worst"] if entry.label == report.worst_group else []),
        ]  # fmt: skip
    shown = str(GroupReport.compare(pair))
    for name, own in pair.items():
        line = next(line for line in shown.splitlines() if line.startswith(name))
        assert f"{own.worst_group_accuracy:.3f}" in line
        assert f"{own.mean_accuracy_train_weighted:.3f}" in line
        assert f"{own.gap:.3f}" in line
        assert f"{name}: worst group {own.worst_group}; information" in shown
    long = GroupReport.compare({"a method with a very long name of many words": report})
    assert max(map(len, [*lines, *shown.splitlines(), *str(long).splitlines()])) <= 100


def test_a_metric_gives_the_column_its_name():
    y, s = crossed((20, 10, 10, 20))
    report = group_report(y, y, (y, s), metric=share_correct, n_boot=9)
    assert "share_correct" in report.frame().columns
    assert "accuracy" not in report.frame().columns
    assert "share_correct" in str(report)


def test_reports_without_names_are_refused():
    report = waterbirds()
    with pytest.raises(DataError, match="by name of the method"):
        report.compare([report, report])


def test_markers_at_one_are_inside_of_the_figure():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    y, s = crossed((20, 10, 10, 20))
    ax = group_report(y, y, (y, s), **QUIET).plot()
    assert ax.get_ylim()[1] >= 1.02
    pyplot.close(ax.figure)
