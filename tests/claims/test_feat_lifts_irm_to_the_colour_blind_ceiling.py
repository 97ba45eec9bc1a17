"""Rich features let heads for new environments reach what a colour-blind model reaches; those of plain training do not.

Coloured Fashion-MNIST, shoes against the rest, labels noisy in one row of four, colours in one or two of ten. Published
(Zhang et al., 2022; Chen et al., 2023): features learned in rounds improve out-of-distribution heads on ColoredMNIST.
The images, sizes and numbers here are this package's. Measured at colour noise 0.9, 10,000 training rows, a featurizer
of 2 x 128 units, seeds 0, 1, 2: IRMv1 .584, .639, .670 on the features of plain training, .741, .742, .747 on those of
two rounds; V-REx .621, .631, .641 and .744, .749, .747. The ceiling is .75; a third of the images are shoes, so that
always answering "no shoe" gives .58.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from featlearn.datasets.colored import make_colored
from featlearn.datasets.fashion_mnist import has_fashion_mnist
from featlearn.exceptions import FeatlearnWarning
from featlearn.robust.feat import FeATPretrainer
from featlearn.robust.ood import OODHead

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_fashion_mnist(), reason="the original files of Fashion-MNIST are not here"),
]

PENALTIES = {"erm": 0.0, "irm": 5e3, "vrex": 1e4}


def narrow(generator: torch.Generator) -> nn.Module:
    layers = [nn.Linear(2 * 14 * 14, 128), nn.Linear(128, 128)]
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight, generator=generator)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU())


@pytest.fixture(scope="module")
def data():
    return make_colored("fashion-mnist", rule="footwear", n_train=10_000, flat=True, random_state=0)


@pytest.fixture(scope="module")
def accuracies(data) -> dict[tuple[int, str], dict[str, float]]:
    """Accuracy by colour noise, of every objective on the features of one and of two rounds."""
    train, found = data.train, {}
    for rounds in (1, 2):
        features = FeATPretrainer(narrow, n_rounds=rounds, random_state=0).fit(train.X, train.y)
        assert features.n_rounds_ == rounds
        coef, intercept = features.get_head()
        Z = features.transform(train.X)
        tests = {name: (features.transform(split.X), split.y) for name, split in data.environments.items()}
        for objective, weight in PENALTIES.items():
            head = OODHead(objective, penalty_weight=weight, alpha=5e-4, init="given", max_iter=600, learning_rate=1e-3)
            with warnings.catch_warnings():
                # Plain features leave penalised heads as good as constant, which is what is shown here.
                warnings.simplefilter("ignore", FeatlearnWarning)
                head.fit(Z, train.y, train.environment, coef_init=coef, intercept_init=intercept)
            found[rounds, objective] = {name: head.score(*test) for name, test in tests.items()}
    return found


@pytest.mark.parametrize("objective", ["irm", "vrex"])
def test_two_rounds_lift_penalised_heads_to_the_ceiling_and_one_does_not(accuracies, data, objective):
    plain, rich = (accuracies[rounds, objective]["e=0.9"] for rounds in (1, 2))
    assert plain < 0.66
    assert data.ceilings["shape"] - 0.02 < rich
    assert rich > plain + 0.08
    assert np.ptp(list(accuracies[2, objective].values())) < 0.03  # whatever the colours do


def test_rich_features_alone_do_not_help_a_head_that_follows_the_colour(accuracies):
    for rounds in (1, 2):
        assert accuracies[rounds, "erm"]["e=0.9"] < 0.2
        assert accuracies[rounds, "erm"]["e=0.1"] > 0.86


def test_nothing_exceeds_the_ceiling_of_a_colour_blind_model_where_colours_are_reversed(accuracies, data):
    n = len(data.test.y)
    chance = 3 * np.sqrt(0.75 * 0.25 / n)
    assert max(found["e=0.9"] for found in accuracies.values()) < data.ceilings["shape"] + chance
