from __future__ import annotations

import json
import math
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from featlearn.agop.definition import agop_of_function
from featlearn.datasets import modular_arithmetic
from featlearn.exceptions import DataError
from featlearn.machines.grokking import circulant_block, circulant_deviation, grok, random_circulant_metric
from featlearn.report.json import dump_json


def circulant(row: np.ndarray) -> np.ndarray:
    """Each row is the one above moved right by one."""
    return np.array([np.roll(row, shift) for shift in range(len(row))])


def metric_of(block: np.ndarray) -> np.ndarray:
    p = len(block)
    return np.block([[np.eye(p), block.T], [block, np.eye(p)]])


ROW = np.random.default_rng(0).normal(size=11)


def test_deviation_is_the_share_that_the_nearest_circulant_matrix_leaves():
    block = np.random.default_rng(1).normal(size=(7, 7))
    basis = np.array([circulant(np.eye(7)[j]).ravel() / math.sqrt(7) for j in range(7)])  # orthonormal
    rest = block.ravel() - basis.T @ (basis @ block.ravel())
    assert circulant_deviation(block) == pytest.approx(rest @ rest / np.sum(block**2))
    assert circulant_deviation(torch.from_numpy(3 * block)) == pytest.approx(circulant_deviation(block))


def test_deviation_of_special_matrices():
    assert circulant_deviation(circulant(ROW)) == pytest.approx(0, abs=1e-28)
    assert circulant_deviation(circulant(ROW)[:, ::-1].copy()) > 0.5
    assert math.isnan(circulant_deviation(np.zeros((4, 4))))
    large = np.random.default_rng(2).normal(size=(200, 200))
    assert circulant_deviation(large) == pytest.approx(1 - 1 / 200, abs=0.01)


@pytest.mark.parametrize(("operation", "sign"), [("add", 1), ("sub", -1)])
def test_order_of_sums_and_differences(operation, sign):
    block = np.array([[ROW[(b - sign * a) % 11] for b in range(11)] for a in range(11)])
    assert circulant_deviation(circulant_block(metric_of(block), operation)) == pytest.approx(0, abs=1e-28)
    other = "sub" if operation == "add" else "add"
    assert circulant_deviation(circulant_block(metric_of(block), other)) > 0.5


@pytest.mark.parametrize(("operation", "sign"), [("mul", 1), ("div", -1)])
def test_order_of_products_and_quotients_is_that_of_discrete_logarithms(operation, sign):
    # Entries that depend on b / a (or on b a) alone: a function of residues, given by no logarithm.
    block = np.array([[ROW[b * pow(a, -sign, 11) % 11] if a and b else 7.0 for b in range(11)] for a in range(11)])
    ordered = circulant_block(metric_of(block), operation)
    assert ordered.shape == (10, 10)
    assert circulant_deviation(ordered) == pytest.approx(0, abs=1e-28)
    assert circulant_deviation(block) > 0.1


@pytest.mark.parametrize("kernel", ["quadratic", "gaussian"])
def test_a_step_is_interpolation_and_the_root_of_the_centred_agop(kernel):
    data = modular_arithmetic(7, "add", train_fraction=0.6)
    x, y = data.X_train, torch.eye(7, dtype=torch.float64)[data.y_train]

    def gram(rows, points):
        if kernel == "quadratic":
            return (rows @ points.mT) ** 2
        return torch.exp(-torch.cdist(rows, points).square() / (2 * 2.5**2))

    dual = torch.linalg.solve(gram(x, x) + 1e-9 * torch.eye(len(x), dtype=torch.float64), y)
    agop = agop_of_function(lambda z: gram(z, x) @ dual, x)
    mean = torch.func.vmap(torch.func.jacrev(lambda z: gram(z[None], x)[0] @ dual))(x).mean(dim=0)
    values, vectors = torch.linalg.eigh(agop - mean.mT @ mean)
    expected = (vectors * values.clamp_min(0).sqrt()) @ vectors.mT
    expected = expected / expected.max() if kernel == "quadratic" else expected
    found = grok(data, kernel=kernel, max_iter=1)
    torch.testing.assert_close(found.metrics[0], torch.eye(14, dtype=torch.float64))
    torch.testing.assert_close(found.metric, expected, rtol=1e-5, atol=1e-6)
    scores = gram(data.X_test, x) @ dual
    assert found.history[0]["test_accuracy"] == pytest.approx(float((scores.argmax(1) == data.y_test).double().mean()))
    residual = torch.eye(7, dtype=torch.float64)[data.y_test] - scores
    assert found.history[0]["test_loss"] == pytest.approx(float(residual.square().sum(1).mean()), rel=1e-6)
    assert found.history[0]["train_loss"] < 1e-12


@pytest.fixture(scope="module")
def grokked():
    """p = 31, 0.6 of the pairs by numpy's permutation."""
    data = modular_arithmetic(31, "add")
    train = torch.zeros(961, dtype=torch.bool)
    train[np.random.default_rng(0).permutation(961)[:576]] = True
    return grok(replace(data, train=train), max_iter=21)


def test_golden_numbers_of_addition_modulo_31(grokked):
    # Deviations belong to the metric that the predictor of a step leads to, that of the next step.
    steps = (0, 4, 8, 10, 12, 20)
    deviations = [grokked.history[t + 1]["deviation"] for t in steps]
    assert deviations == pytest.approx([0.392, 0.236, 0.078, 0.052, 0.037, 0.023], abs=6e-4)
    accuracies = [grokked.history[t]["test_accuracy"] for t in steps]
    assert accuracies == pytest.approx([0, 0, 0, 0.45, 0.86, 0.99], abs=6e-3)


def test_history_is_of_the_metrics(grokked):
    last = grokked.metrics[-1]
    for entry, metric in zip(grokked.history, grokked.metrics, strict=True):
        cosine = np.corrcoef(np.r_[metric.ravel(), -metric.ravel()], np.r_[last.ravel(), -last.ravel()])[0, 1]
        assert entry["alignment"] == pytest.approx(cosine)
        assert metric.max() == pytest.approx(1)
    assert math.isnan(grokked.history[0]["deviation"])
    assert grokked.history[7]["deviation"] == circulant_deviation(grokked.metrics[7][31:, :31])
    assert grokked.first(0.5) == 11
    assert grokked.first(0.995) is None


def test_result_as_numbers_table_page_and_figure(grokked, tmp_path):
    plain = json.loads(dump_json(grokked.to_dict()))
    assert plain["operation"] == "add"
    assert plain["history"][0]["deviation"] is None
    frame = grokked.frame()
    assert frame.loc[12, "test_accuracy"] == grokked.history[12]["test_accuracy"]
    grokked.to_html(tmp_path / "page.html")
    assert "Grokking add modulo 31" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "test_accuracy" in grokked._repr_html_()
    curves = {line.get_label(): line.get_ydata() for line in grokked.plot().lines}
    np.testing.assert_allclose(curves["test accuracy"], frame["test_accuracy"])
    np.testing.assert_allclose(curves["deviation from circulant"], frame["deviation"])
    plt.close("all")


def test_operations_without_a_known_order_have_no_deviation():
    result = grok(modular_arithmetic(7, "x2+y2"), max_iter=1)
    assert all(math.isnan(entry["deviation"]) for entry in result.history)
    assert len(result.plot().lines) == 2
    plt.close("all")


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("p", [2, 10, 11])
def test_random_circulant_metrics_are_roots_of_circulant_blocks(p, flat):
    metric = random_circulant_metric(p, 3, flat=flat)
    square = metric @ metric
    torch.testing.assert_close(square[:p, :p], torch.eye(p, dtype=torch.float64) - 1 / p)
    block = square[:p, p:]
    assert circulant_deviation(block) == pytest.approx(0, abs=1e-25)
    singular = torch.linalg.svdvals(block)
    assert singular[0] == pytest.approx(1)
    assert singular[-1] == pytest.approx(0, abs=1e-7)
    assert bool((singular[:-1] > 1 - 1e-7).all()) == (flat or p == 2)
    assert torch.linalg.eigvalsh(metric)[0] > -1e-9


def test_flat_circulant_structure_alone_solves_addition_and_a_random_one_does_not():
    data = modular_arithmetic(31, "add")
    accuracy = {
        flat: [
            grok(data, kernel="gaussian", max_iter=0, start=random_circulant_metric(31, seed, flat=flat)).history[0][
                "test_accuracy"
            ]
            for seed in range(3)
        ]
        for flat in (True, False)
    }
    assert min(accuracy[True]) > 0.9
    assert max(accuracy[False]) < 0.5


def test_starting_from_a_metric_goes_on_from_it():
    data = modular_arithmetic(7, "add", train_fraction=0.6)
    whole = grok(data, max_iter=3)
    rest = grok(data, max_iter=1, start=whole.metrics[2])
    torch.testing.assert_close(rest.metrics[1], whole.metrics[3], rtol=1e-6, atol=1e-8)


def test_a_callback_can_stop():
    seen = []
    result = grok(modular_arithmetic(7), callback=lambda entry: seen.append(entry["iteration"]) or len(seen) == 2)
    assert seen == [0, 1]
    assert len(result.history) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "laplace"}, "kernel='laplace', but expected one of quadratic, gaussian"),
        ({"max_iter": -1}, "max_iter=-1, but expected a whole number of at least 0"),
        ({"alpha": -1.0}, r"alpha=-1\.0, but expected a finite number"),
        ({"bandwidth": 0.0}, r"bandwidth=0\.0, but expected a positive"),
        ({"start": np.eye(7)}, r"start of shape \(7, 7\), but expected \(14, 14\)"),
        ({"start": -np.eye(14)}, "symmetric and positive semi-definite"),
        ({"start": np.triu(np.ones((14, 14)))}, "symmetric and positive semi-definite"),
    ],
)
def test_bad_arguments_of_grok_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        grok(modular_arithmetic(7), **options)


def test_bad_matrices_are_refused():
    with pytest.raises(DataError, match=r"shape \(2, 3\), but expected a square matrix"):
        circulant_deviation(np.zeros((2, 3)))
    with pytest.raises(DataError, match=r"shape \(5, 5\), but expected \(2 p, 2 p\)"):
        circulant_block(np.eye(5))
    with pytest.raises(DataError, match=r"operation='x2\+y2', but expected one of add"):
        circulant_block(np.eye(6), "x2+y2")
    with pytest.raises(DataError, match="p=9, which has no root"):
        circulant_block(np.eye(18), "mul")
    with pytest.raises(DataError, match="p=1, but expected a whole number"):
        random_circulant_metric(1)
