"""Decodability is the probe's, fitted and scored by hand; controls are compulsory; intervals hold what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, Ridge

from featlearn.exceptions import DataError, FeatlearnWarning
from featlearn.report.json import dump_json
from featlearn.robust.dfr import DFRClassifier
from featlearn.robust.excess_interval import excess_interval
from featlearn.robust.group_intervals import minimum_interval
from featlearn.robust.groups import balance_groups
from featlearn.robust.probe import feature_probe
from featlearn.robust.probe_results import FeatureProbe

RIDGE = LogisticRegression(C=1.0)


def rows(n: int, seed: int, minority: float = 0.3) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Labels, an attribute that mostly agrees, and features that hold them with different noise."""
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=n)
    s = np.where(rng.random(n) < minority, 1 - y, y)
    noise = rng.normal(size=(n, 3))
    both = np.column_stack([2.0 * y, 2.0 * s, np.zeros(n)])
    features = {
        "late": both + noise * [0.5, 0.5, 1.0],
        "pixels": both + noise * [1.5, 0.5, 1.0],
        "init": both + noise * [3.0, 1.0, 1.0],
        "early": both + noise * [1.0, 0.5, 1.0],
    }
    return y, s, features


def probed(**settings: Any) -> FeatureProbe:
    (y, s, X), (test_y, test_s, X_test) = rows(600, 0), rows(400, 1)
    return feature_probe(X, y, s, X_test, test_y, test_s, **({"probe": RIDGE} | settings))


def test_table_is_a_probe_fitted_to_balanced_rows_and_scored_group_by_group() -> None:
    (y, s, X), (test_y, test_s, X_test) = rows(600, 0), rows(400, 1)
    table = feature_probe(X, y, s, X_test, test_y, test_s, probe=RIDGE, random_state=3).table
    assert list(table.index) == ["pixels", "init", "late", "early"]  # controls first, the others in their order
    assert list(table.columns) == [
        "d", "pool", "core_wga", "core_mean", "spurious_wga", "spurious_mean", "excess_core", "n_per_group",
    ]  # fmt: skip
    kept = balance_groups((y, s), random_state=3)
    sizes = [int(((y == a) & (s == b)).sum()) for a in (0, 1) for b in (0, 1)]
    assert set(table["n_per_group"]) == {min(sizes)}
    for name in X:
        for target, test_target, kind in ((y, test_y, "core"), (s, test_s, "spurious")):
            hits = LogisticRegression().fit(X[name][kept], target[kept]).predict(X_test[name]) == test_target
            groups = [hits[(test_y == a) & (test_s == b)].mean() for a in (0, 1) for b in (0, 1)]
            assert table.loc[name, f"{kind}_wga"] == pytest.approx(min(groups), abs=1e-12)
            assert table.loc[name, f"{kind}_mean"] == pytest.approx(hits.mean(), abs=1e-12)
    better = max(table.loc["pixels", "core_wga"], table.loc["init", "core_wga"])
    assert table.loc["late", "excess_core"] == pytest.approx(table.loc["late", "core_wga"] - better)
    assert table.loc[["pixels", "init"], "excess_core"].isna().all()
    assert table.loc["late", "excess_core"] > 0.1  # least noise on the core


def test_the_default_probe_is_deep_feature_reweighting_with_the_groups() -> None:
    (y, s, X), (test_y, test_s, X_test) = rows(200, 0), rows(100, 1)
    table = feature_probe(X, y, s, X_test, test_y, test_s, n_refits=2, random_state=5)
    head = DFRClassifier(n_refits=2, random_state=5)
    for target, test_target, kind in ((y, test_y, "core"), (s, test_s, "spurious")):
        hits = head.fit(X["late"], target, groups=(y, s)).predict(X_test["late"]) == test_target
        worst = min(hits[(test_y == a) & (test_s == b)].mean() for a in (0, 1) for b in (0, 1))
        assert table.table.loc["late", f"{kind}_wga"] == pytest.approx(worst, abs=1e-12)
    assert table.selection == "group-labelled validation"
    assert "DFRClassifier" in table.probe
    assert table.information == "group labels (y, s) on 200 rows"


def test_n_refits_and_the_seed_reach_the_probe() -> None:
    (y, s, X), (test_y, test_s, X_test) = rows(120, 0), rows(2000, 1)

    def means(n_refits: int, random_state: int) -> list[float]:
        data = feature_probe(
            X, y, s, X_test, test_y, test_s, n_refits=n_refits, random_state=random_state, probe=None, baselines=False
        )
        return data.table["core_mean"].tolist()

    assert means(1, 0) == means(1, 0)
    assert means(1, 0) != means(4, 0)
    assert means(1, 0) != means(1, 1)


def test_intervals_are_exact_bounds_and_that_of_the_excess_is_paired() -> None:
    result = probed()
    (y, s, X), (test_y, test_s, X_test) = rows(600, 0), rows(400, 1)
    kept = balance_groups((y, s), random_state=0)
    hits = np.array(
        [
            LogisticRegression().fit(X[name][kept], y[kept]).predict(X_test[name]) == test_y
            for name in ("late", "pixels", "init")
        ]
    )
    members = [(test_y == a) & (test_s == b) for a in (0, 1) for b in (0, 1)]
    point = next(point for point in result.points if point.name == "late")
    expected = minimum_interval([hits[0, own].sum() for own in members], [own.sum() for own in members])
    assert (point.core_low, point.core_high) == expected
    codes = 2 * test_y + test_s
    assert (point.excess_low, point.excess_high) == excess_interval(hits[0], [hits[1], hits[2]], codes)


def test_the_interval_of_the_excess_holds_it_as_often_as_it_says() -> None:
    """Answers of known probabilities in place of features: a layer and two controls, in groups of 60 and 10 rows."""
    rng, held = np.random.default_rng(0), 0
    y, s = np.repeat([0, 0, 1, 1], [60, 10, 10, 60]), np.repeat([0, 1, 0, 1], [60, 10, 10, 60])
    shares = {"layer": 0.95, "pixels": 0.85, "init": 0.8}
    for _ in range(150):
        sets = {name: np.where(rng.random(len(y)) < p, y, 1 - y)[:, None] for name, p in shares.items()}
        point = feature_probe(sets, y, s, sets, y, s, probe=Told()).points[-1]
        held += point.excess_low <= 0.1 <= point.excess_high
    assert held / 150 > 0.95 - 3 * np.sqrt(0.05 * 0.95 / 150)


class Told(ClassifierMixin, BaseEstimator):
    """Says what the feature says."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> Told:
        self.classes_ = np.unique(y)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return X[:, 0]


def test_features_equal_to_the_better_control_have_no_excess_and_a_narrow_paired_interval() -> None:
    y, s, X = rows(4000, 0)
    X = {"pixels": X["late"], "init": X["late"], "same": X["late"]}
    point = feature_probe(X, y, s, X, y, s, probe=RIDGE).points[-1]
    assert point.excess_core == 0.0
    assert point.excess_low < 0 < point.excess_high
    # Twice the width of one interval is what two without pairing add up to.
    assert point.excess_high - point.excess_low < 0.35 * 2 * (point.core_high - point.core_low)


def test_right_answers_alone_are_not_certain() -> None:
    y, s = np.repeat([0, 0, 1, 1], [40, 3, 3, 40]), np.repeat([0, 1, 0, 1], [40, 3, 3, 40])
    sets = {"pixels": 1 - y[:, None], "init": 1 - y[:, None], "layer": y[:, None]}
    with pytest.warns(FeatlearnWarning, match="Fewer than 10 rows"):
        point = feature_probe(sets, y, s, sets, y, s, probe=Told()).points[-1]
    assert (point.core_wga, point.core_high, point.excess_core) == (1.0, 1.0, 1.0)
    assert point.core_low == pytest.approx(0.025 ** (1 / 3))
    assert point.excess_low < 0.8


def test_few_rows_are_told_once_and_without_an_option_that_there_is_not() -> None:
    y, s, X = rows(300, 0, minority=0.05)
    with pytest.warns(FeatlearnWarning) as caught:
        feature_probe(X, y, s, X, y, s, n_refits=1)
    (warning,) = caught
    assert str(warning.message).startswith("Fewer than 10 rows to fit on in y=")
    assert "reweight" not in str(warning.message)
    assert warning.filename == __file__


def test_probes_that_say_one_thing_are_marked_and_chance_is_that_of_the_worst_group() -> None:
    y, s, X = rows(400, 0)
    sets = {"pixels": np.zeros((400, 2)), "init": X["init"], "late": X["late"]}
    result = feature_probe(sets, y, s, sets, y, s, probe=RIDGE)
    assert result.points[0].core_wga == 0.0
    assert [point.core_constant for point in result.points] == [True, False, False]
    rng = np.random.default_rng(3)
    sizes = list(result.groups.values())
    worst = [min(rng.random(n).round().mean() for n in sizes) for _ in range(2000)]
    assert result.core_chance == pytest.approx(np.mean(worst), abs=4 * np.std(worst) / np.sqrt(1300))
    assert result.core_chance < 0.48
    text = result.summary()
    assert "The probe of the core feature says the same of every row, so that its worst group is 0, for: pixels" in text
    assert f"Guesses have {result.core_chance:.3f} and" in text


def test_a_category_without_rows_is_missed() -> None:
    y, s, X = rows(300, 0)
    places = pd.Categorical.from_codes(s, ["land", "water", "sky"])
    with pytest.raises(DataError, match=r"no rows to fit on in y=0, s=sky; y=1, s=sky"):
        feature_probe(X, y, places, X, y, places, probe=RIDGE)


def test_it_prints_as_a_table_that_a_terminal_holds() -> None:
    lines = str(probed()).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0].split() == ["d", "core", "interval", "spurious", "interval", "excess"]
    late = next(line for line in lines if line.startswith("late"))
    point = next(point for point in probed().points if point.name == "late")
    assert f"{point.core_wga:.3f}" in late
    assert f"{point.spurious_wga:.3f}" in late
    assert f"{point.excess_core:+.3f}" in late


def test_many_values_words_and_tensors_are_taken() -> None:
    rng = np.random.default_rng(0)
    y, s = rng.choice(["cat", "cow", "dog"], 900), rng.choice([0.0, 1.0], 900)
    X = {"layer": torch.from_numpy(np.column_stack([y == "cat", y == "cow", s]) + 0.1 * rng.normal(size=(900, 3)))}
    result = feature_probe(X, y, torch.from_numpy(s), X, y, s, probe=RIDGE, baselines=False)
    assert (result.n_classes, result.n_attributes) == (3, 2)
    assert result.table.loc["layer", ["core_wga", "spurious_wga"]].tolist() == [1.0, 1.0]
    assert list(result.groups) == [f"y={a}, s={b}" for a in ("cat", "cow", "dog") for b in (0, 1)]
    assert str(result).splitlines()[0].split() == ["d", "core", "interval", "spurious", "interval"]
    assert "nothing here shows that anything was learned" in result.summary()


def test_accuracies_of_the_groups_hold_the_worst_one() -> None:
    result = probed()
    table = result.accuracies()
    worst = table.groupby(["name", "predicts"])["accuracy"].min()
    for point in result.points:
        assert worst[point.name, "y"] == point.core_wga
        assert worst[point.name, "s"] == point.spurious_wga
    assert table.drop_duplicates("group")["n"].sum() == result.n_test == 400


def test_result_survives_json_and_says_what_it_means() -> None:
    result = probed(random_state=2)
    plain = json.loads(dump_json(result.to_dict()))
    again = FeatureProbe.from_dict(plain)
    assert again.frame().equals(result.frame())
    assert again.summary() == result.summary()
    assert again.groups == result.groups
    lines = result.summary().splitlines()
    assert lines[0].startswith("Without any training")
    assert any("better decodable than from both controls" in line for line in lines)
    assert "information: group labels (y, s) on 600 rows; selection: none" in lines[-1]
    assert "late" in result._repr_html_()


def test_summary_tells_suppression_from_learning() -> None:
    y, s, X = rows(800, 0)
    test_y, test_s, X_test = rows(800, 1)
    sets = [{"pixels": data["late"], "init": data["late"], "epoch 9": data["init"]} for data in (X, X_test)]
    result = feature_probe(sets[0], y, s, sets[1], test_y, test_s, probe=RIDGE)
    assert "worse decodable than from the better control (-" in result.summary()


@pytest.mark.parametrize("missing", [["pixels"], ["init"], ["pixels", "init"]], ids="-".join)
def test_controls_are_compulsory(missing: list[str]) -> None:
    y, s, X = rows(100, 0)
    X = {name: values for name, values in X.items() if name not in missing}
    with pytest.raises(DataError, match=f"Got no features {' and '.join(map(repr, missing))}"):
        feature_probe(X, y, s, X, y, s, probe=RIDGE)
    result = feature_probe(X, y, s, X, y, s, probe=RIDGE, baselines=False)
    assert list(result.table.index) == list(X)
    assert not any(point.control for point in result.points)
    assert result.table["excess_core"].isna().all()


def test_bad_features_are_refused_before_any_fit() -> None:
    y, s, X = rows(100, 0)
    fits = DummyClassifier()
    fits.fit = lambda *_, **__: pytest.fail("a probe was fitted")

    def refused(message: str, features: Any = X, test: Any = X, y: Any = y, s: Any = s) -> None:
        with pytest.raises(DataError, match=message):
            feature_probe(features, y, s, test, y, s, probe=fits)

    refused("expected the same", test={**X, "more": X["late"]})
    refused("Got 3 features 'late' to fit and 2 to test", test={**X, "late": X["late"][:, :2]})
    refused(r"'late' of shape \(99, 3\)", features={**X, "late": X["late"][1:]})
    refused(r"'late' of shape \(100,\)", features={**X, "late": X["late"][:, 0]})
    refused("'test late' with NaN", test={**X, "late": np.where(X["late"] > 1, np.nan, X["late"])})
    refused("Got features of type ndarray", features=X["late"])
    refused("besides the controls", *[{name: X[name] for name in ("pixels", "init")}] * 2)
    refused("Got one value of s, 0", s=np.zeros(100, dtype=int))
    refused("Got one value of y, 1", y=np.ones(100, dtype=int))
    refused("No rows|Got no rows to fit on in y=0, s=1; y=1, s=0", s=y)
    refused("Got 99 rows", s=s[1:])
    refused(r"Got features called \[1\]", features={1: X["late"]}, test={1: X["late"]})
    mixed = {**X, "late": pd.DataFrame(X["late"], index=np.arange(100)[::-1])}
    refused(r"features\['late'\] and y with the same index in different orders", features=mixed, y=pd.Series(y))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"probe": "logistic"}, "expected a classifier"),
        ({"probe": LogisticRegression}, "expected a classifier"),
        ({"probe": Ridge()}, "expected a classifier"),
        ({"n_refits": 0}, "n_refits=0, but expected a whole number of at least 1"),
        ({"random_state": None}, "random_state=None, but expected a whole number"),
        ({"random_state": -1}, "random_state=-1, but expected a whole number"),
        ({"names": "ys"}, "expected two that differ"),
        ({"names": {"y", "s"}}, "expected two that differ"),
        ({"names": ("y", "y")}, "expected two that differ"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        probed(**settings)


def test_names_reach_groups_accuracies_the_picture_and_the_page(tmp_path: Path) -> None:
    result = probed(names=("bird", "place"), random_state=np.int64(1))
    assert list(result.groups)[1] == "bird=0, place=1"
    assert set(result.accuracies()["predicts"]) == {"bird", "place"}
    again = FeatureProbe.from_dict(json.loads(dump_json(result.to_dict())))
    assert again.names == ("bird", "place")
    result.to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert '<span class="verbatim">bird</span> (core)' in page
    assert '<span class="verbatim">place</span> (spurious)' in page


def test_groups_without_test_rows_are_named() -> None:
    y, s, X = rows(300, 0)
    kept = ~((y == 0) & (s == 1))
    with pytest.warns(FeatlearnWarning, match="No test rows in y=0, s=1"):
        result = feature_probe(
            X, y, s, {name: values[kept] for name, values in X.items()}, y[kept], s[kept], probe=RIDGE
        )
    assert result.groups["y=0, s=1"] == 0
    assert np.isnan(result.points[0].core_accuracies[1])
    assert result.points[0].core_wga == np.nanmin(result.points[0].core_accuracies)


def test_the_probe_that_was_passed_is_not_fitted() -> None:
    probe = LogisticRegression()
    probed(probe=probe)
    assert not hasattr(probe, "coef_")


def test_progress_goes_to_the_error_stream(capsys: pytest.CaptureFixture[str]) -> None:
    probed(verbose=1)
    assert not capsys.readouterr().out
