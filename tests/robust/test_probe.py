"""Decodability is the probe's, fitted and scored by hand; controls are compulsory; intervals are a bootstrap's."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression

from featlearn.exceptions import DataError, FeatlearnWarning
from featlearn.report.json import dump_json
from featlearn.robust.dfr import DFRClassifier
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
        "d", "core_wga", "core_mean", "spurious_wga", "spurious_mean", "excess_core", "n_per_group",
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


def test_intervals_are_those_of_rows_resampled_within_groups() -> None:
    result = probed()
    (y, s, X), (test_y, test_s, X_test) = rows(600, 0), rows(400, 1)
    kept = balance_groups((y, s), random_state=0)
    hits = {
        name: LogisticRegression().fit(X[name][kept], y[kept]).predict(X_test[name]) == test_y
        for name in ("late", "pixels", "init")
    }
    members = [np.flatnonzero((test_y == a) & (test_s == b)) for a in (0, 1) for b in (0, 1)]
    rng = np.random.default_rng(7)
    worst: dict[str, list[float]] = {name: [] for name in hits}
    for _ in range(3000):
        drawn = [rng.choice(group, len(group)) for group in members]
        for name, hit in hits.items():
            worst[name].append(min(hit[group].mean() for group in drawn))
    point = next(point for point in result.points if point.name == "late")
    draws = {name: np.array(values) for name, values in worst.items()}
    # Three standard errors of a 2.5% quantile of 1000 draws against one of 3000, and a step of the accuracies' grid.
    step = 1 / min(map(len, members))
    ends = np.quantile(draws["late"], [0.025, 0.975])
    np.testing.assert_allclose((point.core_low, point.core_high), ends, atol=0.3 * draws["late"].std() + step)
    excess = draws["late"] - np.maximum(draws["pixels"], draws["init"])
    ends = np.quantile(excess, [0.025, 0.975])
    np.testing.assert_allclose((point.excess_low, point.excess_high), ends, atol=0.3 * excess.std() + step)


def test_features_equal_to_the_better_control_have_no_excess_and_a_paired_interval_of_no_width() -> None:
    y, s, X = rows(600, 0)
    X = {"pixels": X["late"], "init": X["late"], "same": X["late"]}
    point = feature_probe(X, y, s, X, y, s, probe=RIDGE).points[-1]
    assert (point.excess_core, point.excess_low, point.excess_high) == (0.0, 0.0, 0.0)
    assert point.core_low < point.core_high


def test_many_values_words_and_tensors_are_taken() -> None:
    rng = np.random.default_rng(0)
    y, s = rng.choice(["cat", "cow", "dog"], 900), rng.choice([0.0, 1.0], 900)
    X = {"layer": torch.from_numpy(np.column_stack([y == "cat", y == "cow", s]) + 0.1 * rng.normal(size=(900, 3)))}
    result = feature_probe(X, y, torch.from_numpy(s), X, y, s, probe=RIDGE, baselines=False)
    assert (result.n_classes, result.n_attributes) == (3, 2)
    assert result.table.loc["layer", ["core_wga", "spurious_wga"]].tolist() == [1.0, 1.0]
    assert list(result.groups) == [f"y={a}, s={b}" for a in ("cat", "cow", "dog") for b in (0, 1)]
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
