from __future__ import annotations

import json
import math

import feature_reports
import numpy as np
import pandas as pd
import pytest

from featlearn.exceptions import DataError
from featlearn.plots.history import grows_geometrically, history_rows, history_series
from featlearn.report.json import dump_json


class Report:
    """As much of a FeatureReport as a history needs."""

    def __init__(self, plain):
        self.plain = plain

    def to_dict(self):
        return self.plain


def test_every_form_of_a_history_gives_the_same_curves():
    steps = (0, 10, 20)
    nested = feature_reports.history(["a", "b"], steps)
    rows = [{"step": e["step"], "layer": n, **values} for e in nested for n, values in e["layers"].items()]
    frame = pd.DataFrame(rows)
    forms = [nested, rows, frame, frame.set_index(["step", "layer"]), json.loads(dump_json(nested))]
    series = [history_series(form, "centered_nfa") for form in forms]
    for other in series:
        assert list(other) == ["a", "b"]
        for name, (at, values) in other.items():
            assert at == [0, 10, 20]
            np.testing.assert_array_equal(values, series[0][name][1])
    assert math.isnan(series[0]["a"][1][0])


def test_reports_of_a_tracker_give_their_numbers_and_no_trivial_layer():
    before, after = feature_reports.small(), feature_reports.resnet()
    rows = history_rows([(0, Report(before)), (5, after)])
    assert {row["layer"] for row in rows if row["step"] == 0} == {"conv1", "fc1"}
    last = next(row for row in rows if row["step"] == 5 and row["layer"] == "conv1")
    layer = after["layers"]["conv1"]
    assert last["nfa_excess"] == layer["nfa"]["excess"]
    assert last["nfa_null"] == layer["nfa"]["null"]
    assert last["centered_nfa"] == layer["centered"]["value"]


@pytest.mark.parametrize("history", [[], [{"step": 1}], ["text"], [(1, 2, 3)], [{"step": 0, "layers": {}}]])
def test_what_is_no_history_is_refused(history):
    with pytest.raises(DataError, match="Got a"):
        history_rows(history)


def test_an_unknown_quantity_is_refused_with_those_there_are():
    with pytest.raises(DataError, match="quantity='loss', but expected one of centered_nfa, nfa, nfa_excess"):
        history_series(feature_reports.history(["a"]), "loss")


@pytest.mark.parametrize(
    ("steps", "geometric"),
    [([0, 1, 2, 4, 8, 16, 32], True), ([0, 100, 200, 300, 350], False), ([0], False), ([0, 1000], False)],
)
def test_steps_that_double_are_recognised(steps, geometric):
    assert grows_geometrically(steps) is geometric
