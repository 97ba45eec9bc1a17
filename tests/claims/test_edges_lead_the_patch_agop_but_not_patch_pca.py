"""On photographs the first patch metric looks for edges, which principal components of patches do not; elsewhere not.

One step of a convolutional recursive feature machine on 700 images of CIFAR-10 (JPEG), patches of 3 x 3, three layers.
The two leading directions are oriented first derivatives; those of patch PCA are constant colours, and its derivatives
come third and fourth. The claim is one of photographs and small ridges: with the ridge that predicts best a constant
comes first, and on digits in noise patch PCA says the same as the machine.
"""

from __future__ import annotations

import pytest

from featlearn import ConvRFMClassifier
from featlearn.datasets import digits_in_noise, load_cifar10_jpeg, load_mnist
from featlearn.machines.edges import EdgeReport, edge_report, patch_moment

ONCE = (0.96, 0.96)  # edge energy of the two leading directions, from an independent implementation
SPECTRUM = (1, 0.95, 0.81)


def report_of(machine: ConvRFMClassifier, matrix) -> EdgeReport:
    moment = patch_moment(machine.kernel_.kernel, machine._basis)
    return edge_report({"metric": matrix, "PCA": moment}, machine.image_shape_[0], top=4)


@pytest.fixture(scope="module")
def photographs(data_folder):
    data = load_cifar10_jpeg("train", n=700, folder=data_folder / "cifar10_jpeg")
    return data.images / 255, data.labels


@pytest.fixture(scope="module")
def one_step(photographs) -> EdgeReport:
    machine = ConvRFMClassifier(alpha=1e-3, max_iter=1, agop_images=50, selection=None, random_state=0)
    machine.fit(*photographs)
    return report_of(machine, machine.metric_at(1))


def test_the_two_leading_directions_are_derivatives(one_step: EdgeReport) -> None:
    assert one_step.edge_energy["metric"][:2] == pytest.approx(ONCE, abs=0.03)
    assert max(one_step.edge_energy["metric"][2:]) < one_step.chance_of_edge
    values = one_step.eigenvalues["metric"]
    assert [value / values[0] for value in values[:3]] == pytest.approx(SPECTRUM, abs=0.12)


def test_patch_pca_puts_constant_colours_first(one_step: EdgeReport) -> None:
    assert max(one_step.edge_energy["PCA"][:2]) < 0.05
    assert min(one_step.constant_energy["PCA"][:2]) > 0.95
    assert one_step.edge_energy["PCA"][2:4] == pytest.approx((0.92, 0.93), abs=0.03)
    assert one_step.eigenvalues["PCA"][1] < 0.1 * one_step.eigenvalues["PCA"][0]


def test_with_the_ridge_that_predicts_best_a_constant_comes_before_the_edges(photographs, one_step: EdgeReport) -> None:
    machines = {
        alpha: ConvRFMClassifier(alpha=alpha, max_iter=0, agop_images=50, selection="loo", random_state=0)
        for alpha in (1e-3, 1e-1)
    }
    scores = {alpha: machine.fit(*photographs).selection_.best["score"] for alpha, machine in machines.items()}
    assert scores[1e-1] < scores[1e-3]
    report = report_of(machines[1e-1], machines[1e-1].patch_agop_)
    assert report.edge_energy["metric"][0] < 0.1
    assert report.constant_energy["metric"][0] > 0.8
    assert min(report.edge_energy["metric"][1:3]) > 0.8


def test_digits_in_noise_do_not_support_the_claim(data_folder) -> None:
    digits = load_mnist("train", n=2000, folder=data_folder / "mnist")
    data = digits_in_noise(400, images=digits.images, labels=digits.labels)
    machine = ConvRFMClassifier(alpha=1e-5, max_iter=0, agop_images=50, selection=None, random_state=0)
    machine.fit(data.X, data.y)
    report = report_of(machine, machine.patch_agop_)
    for name in ("metric", "PCA"):
        assert report.constant_energy[name][0] > 0.93
        assert report.edge_energy[name][1:3] == pytest.approx((0.96, 0.91), abs=0.04)
    # Each direction of the one is a direction of the other.
    overlaps = (report.directions["metric"][:3] * report.directions["PCA"][:3]).sum(axis=(1, 2, 3))
    assert (abs(overlaps) > 0.85).all()
