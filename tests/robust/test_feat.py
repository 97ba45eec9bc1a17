"""Feature augmented training: the loss it minimises, its sets, its stop rule, and scikit-learn's contract."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from featlearn.exceptions import DataError, FeatlearnWarning, ModelError
from featlearn.robust.feat import FeATPretrainer
from featlearn.robust.ood import OODHead

TINY = {"n_rounds": 2, "steps_per_round": 10, "learning_rate": 0.05, "random_state": 0}


@dataclass(frozen=True)
class Small:
    """A factory of one ReLU layer, whatever the number of columns; its text is the same in every process."""

    width: int = 8

    def __call__(self, generator: torch.Generator) -> nn.Module:
        return nn.Sequential(nn.LazyLinear(self.width, dtype=torch.float64), nn.ReLU())


def two_cues(n: int = 400, classes: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An easy cue that is right nine times in ten, a hard one three times in four; noise apart."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    easy = np.where(rng.random(n) < 0.1, rng.integers(0, classes, n), y)
    hard = np.where(rng.random(n) < 0.25, rng.integers(0, classes, n), y)
    codes = np.eye(classes)
    X = np.hstack([3 * codes[easy], codes[hard], np.zeros((n, 2))])
    return X + 0.1 * rng.normal(size=X.shape), y


# Checks have labels that nothing can learn, or hardly any rows; other tests make few steps.
little_learned = pytest.mark.filterwarnings("ignore:.*less than stop_margin:featlearn.exceptions.FeatlearnWarning")


@little_learned
@parametrize_with_checks(
    [
        FeATPretrainer(Small(), **TINY),
        FeATPretrainer(Small(), **TINY, batch_size=20),
    ]
)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def network(columns: int, width: int = 6, seed: int = 1) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(columns, width, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return nn.Sequential(layer, nn.ReLU())


def first_head(model: FeATPretrainer, X: np.ndarray, y: np.ndarray) -> nn.Linear:
    """The head with which a fit of the same seed begins: after one step of no length."""
    start = FeATPretrainer(
        model.featurizer, n_rounds=1, steps_per_round=1, learning_rate=1e-30, random_state=model.random_state
    )
    return copy.deepcopy(start.fit(X, y).heads_[0]).requires_grad_(True)


def own_loss(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Logistic loss by its formula."""
    if logits.shape[1] == 1:
        return torch.log1p(torch.exp(-(2.0 * y - 1) * logits[:, 0])).mean()
    return (torch.log(torch.exp(logits).sum(dim=1)) - logits[torch.arange(len(y)), y]).mean()


@little_learned
@pytest.mark.parametrize("normalised", [False, True], ids=["plain", "batch_norm"])
@pytest.mark.parametrize("classes", [2, 3])
def test_one_round_is_plain_training_step_for_step(classes, normalised):
    X, y = two_cues(200, classes)
    alpha, rate, steps = 0.01, 0.02, 15

    def made() -> nn.Module:
        own = network(X.shape[1])
        return nn.Sequential(own[0], nn.BatchNorm1d(6, dtype=torch.float64), own[1]) if normalised else own

    model = FeATPretrainer(made(), n_rounds=1, steps_per_round=steps, alpha=alpha, learning_rate=rate, random_state=3)
    head = first_head(model, X, y)
    model.fit(X, y)

    featurizer = made()
    weights = [*featurizer.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(weights, lr=rate)
    x, codes = torch.from_numpy(X), torch.from_numpy(y)
    losses = []
    for _ in range(steps):
        mean_loss = own_loss(head(featurizer(x)), codes)
        loss = mean_loss + alpha * sum((weight**2).sum() for weight in weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append([loss.item(), mean_loss.item()])

    found = [[entry["loss"], *entry["set_losses"]] for entry in model.history_]
    np.testing.assert_allclose(found, losses, rtol=1e-10)
    states = model.featurizer_.state_dict(), featurizer.eval().state_dict()
    torch.testing.assert_close(*states, rtol=1e-7, atol=1e-9)  # running statistics too
    np.testing.assert_allclose(model.get_head()[0], head.weight.detach().numpy(), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(model.transform(X), featurizer(x).detach().numpy(), rtol=1e-7, atol=1e-9)


def rounds(n_rounds: int, **options) -> FeATPretrainer:
    settings = {"steps_per_round": 60, "learning_rate": 0.03, "stop_margin": 0.02, "random_state": 0}
    return FeATPretrainer(Small(), n_rounds=n_rounds, **{**settings, **options})


def test_every_mask_is_reproduced_by_the_head_of_its_round():
    X, y = two_cues(1000)
    full = rounds(2).fit(X, y)
    assert full.n_rounds_ == 2
    for k in (1, 2):
        # Later rounds move the featurizer, so that the mask of round k is checked at its end.
        model = rounds(k).fit(X, y)
        torch.testing.assert_close(model.heads_[-1].weight, full.heads_[k - 1].weight, rtol=0, atol=0)
        coef, intercept = (p.numpy() for p in model.heads_[-1].parameters())
        answers = model.transform(X) @ coef[0] + intercept[0] > 0
        np.testing.assert_array_equal(full.masks_[k - 1], answers == (y == 1))


class Spy:
    """A loss that remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[np.ndarray, np.ndarray]] = []

    def __call__(self, logits: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        self.calls.append((logits.detach().numpy().copy(), codes.numpy().copy()))
        return own_loss(logits[:, None], codes)


def test_a_second_round_minimises_its_worst_set_and_a_share_of_what_it_retains():
    X, y = two_cues(1000)
    options = {"retain_weight": 0.3, "alpha": 0.0}
    before = rounds(1, **options).fit(X, y)
    right = before.masks_[0]
    spy = Spy()
    model = rounds(2, **options, loss=spy).fit(X, y)
    first, calls = model.history_[60], spy.calls[-60 * 3 :][:3]  # of the first step of round 2
    assert (first["round"], first["step"]) == (2, 1)
    losses = first["set_losses"] + first["retention_losses"]
    for (logits, codes), rows, loss in zip(calls, [np.full(1000, True), ~right, right], losses, strict=True):
        np.testing.assert_array_equal(codes, y[rows])
        assert own_loss(torch.from_numpy(logits)[:, None], torch.from_numpy(codes)).item() == pytest.approx(loss)
    np.testing.assert_array_equal(calls[0][0][~right], calls[1][0])
    np.testing.assert_allclose(calls[2][0], before.decision_function(X)[right], rtol=1e-9)
    assert first["loss"] == pytest.approx(max(losses[:2]) + 0.3 * losses[2], rel=1e-12)
    assert first["retention_accuracies"] == [1.0]


@pytest.mark.parametrize(
    ("keep", "sets", "kept"),
    [
        ("all", ["all", "wrong after round 1", "wrong after round 2"], ["right after round 1", "right after round 2"]),
        ("latest", ["all", "wrong after round 2"], ["right after round 2"]),
    ],
)
def test_sets_of_a_third_round(keep, sets, kept):
    X, y = two_cues(1000)
    model = rounds(3, keep=keep, stop_margin=0.0).fit(X, y)
    third = model.rounds_[model.rounds_["round"] == 3]
    assert list(third["set"]) == sets + kept
    assert list(third["role"]) == ["learn"] * len(sets) + ["retain"] * len(kept)
    counts = {"all": 1000}
    for k in (1, 2):
        counts |= {
            f"wrong after round {k}": (~model.masks_[k - 1]).sum(),
            f"right after round {k}": model.masks_[k - 1].sum(),
        }
    assert list(third["n"]) == [counts[name] for name in third["set"]]
    last = model.history_[-1]
    assert (len(last["set_losses"]), len(last["retention_losses"])) == (len(sets), len(kept))


def test_the_table_of_rounds_is_that_of_the_masks():
    X, y = two_cues(1000)
    model = rounds(2).fit(X, y)
    table = model.rounds_[model.rounds_["role"] == "learn"].set_index(["round", "set"])
    wrong = ~model.masks_[0]
    for k, name, rows in ((1, "all", slice(None)), (2, "all", slice(None)), (2, "wrong after round 1", wrong)):
        row = table.loc[(k, name)]
        majority = np.bincount(y[rows]).max() / len(y[rows])
        assert row["accuracy"] == pytest.approx(model.masks_[k - 1][rows].mean())
        assert row["majority"] == pytest.approx(majority)
        assert row["gain"] == pytest.approx(row["accuracy"] - majority)
        assert row["accepted"]


@pytest.mark.parametrize("normalised", [False, True], ids=["plain", "batch_norm"])
def test_a_rejected_round_leaves_the_featurizer_bitwise_as_before(normalised):
    X, y = two_cues(400)
    layers = nn.Sequential(network(X.shape[1]), nn.BatchNorm1d(6, dtype=torch.float64), nn.Dropout(0.1))
    options = {"featurizer": layers} if normalised else {}
    expected = rounds(1, stop_margin=0.3).set_params(**options).fit(X, y)
    model = rounds(3, stop_margin=0.3).set_params(**options).fit(X, y)
    assert model.stop_reason_ == "set accuracy below the margin"
    assert model.n_rounds_ == len(model.heads_) == len(model.masks_) == 1
    own, other = model.featurizer_.state_dict(), expected.featurizer_.state_dict()
    assert own.keys() == other.keys()
    assert all(torch.equal(own[name], other[name]) for name in own)
    assert not model.featurizer_.training
    np.testing.assert_array_equal(model.get_head()[0], expected.get_head()[0])
    assert not model.rounds_["accepted"].iloc[-1]
    assert max(entry["round"] for entry in model.history_) == 2


def test_a_round_that_diverges_is_rejected():
    X, y = two_cues(400)

    class Exploding(Spy):
        """Not finite from the second round on, where sets are smaller."""

        def __call__(self, logits: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
            return super().__call__(logits, codes) * (1.0 if len(codes) == 400 else float("nan"))

    model = rounds(2, loss=Exploding()).fit(X, y)
    assert model.stop_reason_ == "diverged"
    assert model.n_rounds_ == 1
    assert all(bool(parameter.isfinite().all()) for parameter in model.featurizer_.parameters())


def test_a_first_round_that_diverges_is_an_error():
    X, y = two_cues(100)
    with pytest.raises(DataError, match="not finite in the first 60 steps"):
        rounds(2, loss=lambda logits, codes: logits.sum() * (float("nan") if len(codes) else 1.0)).fit(X, y)


def test_without_errors_there_is_nothing_left_to_learn():
    y = np.repeat([0, 1], 50)
    X = np.column_stack([2.0 * y - 1, np.zeros(100)])
    model = rounds(3).fit(X, y)
    assert model.stop_reason_ == "no errors left"
    assert model.n_rounds_ == 1
    assert model.masks_.all()


def test_a_first_round_that_learns_nothing_is_kept_with_a_warning():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(2000, 3)), rng.integers(0, 2, 2000)
    with pytest.warns(FeatlearnWarning, match="less than stop_margin=0.1"):
        model = rounds(3, stop_margin=0.1).fit(X, y)
    assert model.n_rounds_ == 1
    assert model.stop_reason_ == "set accuracy below the margin"
    assert model.predict(X).shape == (2000,)


def test_predictions_are_those_of_the_mean_head():
    X, y = two_cues(600, classes=3)
    names = np.array(["ant", "bee", "cow"])[y]
    model = rounds(2).fit(X, names)
    assert model.n_rounds_ == 2
    coef = np.mean([head.weight.numpy() for head in model.heads_], axis=0)
    intercept = np.mean([head.bias.numpy() for head in model.heads_], axis=0)
    np.testing.assert_allclose(model.get_head()[0], coef, rtol=1e-12)
    np.testing.assert_allclose(model.get_head()[1], intercept, rtol=1e-12)
    logits = model.transform(X) @ coef.T + intercept
    np.testing.assert_allclose(model.decision_function(X), logits, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(model.predict(X), model.classes_[logits.argmax(axis=1)])


def test_the_mean_head_starts_another_head_on_the_features():
    X, y = two_cues(300)
    model = rounds(2).fit(X, y)
    before = {name: value.clone() for name, value in model.featurizer_.state_dict().items()}
    coef, intercept = model.get_head()
    Z = model.transform(X)
    head = OODHead("irm", init="given", max_iter=1, learning_rate=1e-30)
    head.fit(Z, y, np.arange(300) % 2, coef_init=coef, intercept_init=intercept)
    np.testing.assert_allclose(head.decision_function(Z), model.decision_function(X), rtol=1e-9)
    assert all(torch.equal(value, before[name]) for name, value in model.featurizer_.state_dict().items())


def test_a_module_is_copied_and_never_changed():
    X, y = two_cues(200)
    featurizer = nn.Sequential(network(X.shape[1]), nn.BatchNorm1d(6, dtype=torch.float64), nn.Dropout(0.2))
    before = copy.deepcopy(featurizer.state_dict())
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = (rounds(2).set_params(featurizer=featurizer).fit(X, y) for _ in range(2))
    assert torch.equal(torch.rand(1), expected)  # dropout drew from its own numbers
    assert all(torch.equal(value, before[name]) for name, value in featurizer.state_dict().items())
    assert featurizer.training
    assert all(parameter.grad is None for parameter in featurizer.parameters())
    np.testing.assert_array_equal(first.transform(X), second.transform(X))
    np.testing.assert_array_equal(first.transform(X[:7]), first.transform(X)[:7])  # in evaluation mode


def test_a_network_that_a_function_keeps_is_never_changed_either():
    X, y = two_cues(100)
    kept = network(X.shape[1])
    before = copy.deepcopy(kept.state_dict())
    rounds(1, steps_per_round=5).set_params(featurizer=lambda generator: kept).fit(X, y)
    assert all(torch.equal(value, before[name]) for name, value in kept.state_dict().items())


@little_learned
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_taken_whatever_the_mode_of_the_caller(mode):
    X, y = two_cues(100)
    with mode():
        inside = rounds(1, steps_per_round=5).fit(torch.from_numpy(X) + 0, y)
    outside = rounds(1, steps_per_round=5).fit(X, y)
    np.testing.assert_array_equal(inside.transform(X), outside.transform(X))


def test_a_fit_that_fails_leaves_the_one_before_it_whole():
    X, y = two_cues(100)
    broken = {"loss": lambda logits, codes: logits.sum() * float("nan"), "n_rounds": 1}
    model = rounds(1).fit(X, y)
    before = dict(vars(model))
    with pytest.raises(DataError, match="not finite"):
        model.set_params(**broken).fit(X[:, :3], np.arange(100) % 3)
    after = vars(model)
    assert {name for name in before if after[name] is not before[name]} == {"loss"}
    with pytest.raises(DataError, match="not finite"):
        (new := rounds(1).set_params(**broken)).fit(X, y)
    with pytest.raises(NotFittedError):
        new.transform(X)


def test_a_loss_sees_the_precision_of_the_features():
    X, y = two_cues(100, classes=3)
    weighted = nn.CrossEntropyLoss(weight=torch.ones(3, dtype=torch.float64))
    found = [rounds(1, loss=loss).fit(X, y).history_[-1]["loss"] for loss in (weighted, "auto")]
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def test_rows_in_different_orders_are_refused():
    X, y = two_cues(50)
    with pytest.raises(DataError, match="different orders"):
        rounds(1).fit(pd.DataFrame(X), pd.Series(y).sample(frac=1, random_state=0))


def test_frozen_parameters_stay():
    X, y = two_cues(200)
    frozen = network(X.shape[1])
    frozen.requires_grad_(False)
    model = rounds(1).set_params(featurizer=nn.Sequential(frozen, nn.Linear(6, 4, dtype=torch.float64))).fit(X, y)
    assert torch.equal(model.featurizer_[0][0].weight, frozen[0].weight)
    assert model.transform(X).shape == (200, 4)


def test_images_as_tensors_stay_tensors_and_mini_batches_suffice():
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 2, (200,), generator=generator)
    X = torch.rand(200, 1, 6, 6, generator=generator) + y[:, None, None, None]
    convolution = nn.Sequential(nn.LazyConv2d(3, 3), nn.ReLU(), nn.AvgPool2d(4))
    model = rounds(1, batch_size=32).set_params(featurizer=convolution).fit(X, y)
    Z = model.transform(X)
    assert (Z.shape, Z.dtype) == ((200, 3), torch.float32)
    assert isinstance(model.predict(X), torch.Tensor)
    assert float((model.predict(X) == y).double().mean()) > 0.95
    as_arrays = rounds(1, batch_size=32).set_params(featurizer=convolution).fit(X.numpy(), y.numpy())
    np.testing.assert_array_equal(as_arrays.transform(X.numpy()), Z.numpy())
    with pytest.raises(DataError, match="rows of shape"):
        model.transform(X[:, :, :5])


def test_the_default_network_has_two_layers_of_256_and_the_precision_of_x():
    X, y = two_cues(60)
    model = FeATPretrainer(n_rounds=1, steps_per_round=3, stop_margin=0.0, random_state=0)
    model.fit(X.astype(np.float32), y)
    shapes = [tuple(parameter.shape) for parameter in model.featurizer_.parameters()]
    assert shapes == [(256, X.shape[1]), (256,), (256, 256), (256,)]
    assert model.transform(X.astype(np.float32)).dtype == np.float32
    assert next(model.fit(X, y).featurizer_.parameters()).dtype == torch.float64
    half = torch.from_numpy(X).half()  # in which Adam's division by almost nothing is by nothing
    assert next(model.fit(half, y).featurizer_.parameters()).dtype == torch.float32
    assert model.transform(half).dtype == torch.float16


def test_each_parameter_changes_the_features():
    X, y = two_cues(200)
    brief = {"stop_margin": 0.0, "steps_per_round": 20, "learning_rate": 0.08}
    base = rounds(3, **brief).fit(X, y)
    assert (base.n_rounds_, len(base.history_)) == (3, 60)
    changes = {
        "steps_per_round": 21, "retain_weight": 0.5, "keep": "latest", "alpha": 0.1, "learning_rate": 0.02,
        "batch_size": 100, "random_state": 1, "loss": lambda logits, codes: (logits - codes).square().mean(),
        "n_rounds": 1, "stop_margin": 0.3,
    }  # fmt: skip
    for name, value in changes.items():
        other = rounds(3, **brief).set_params(**{name: value}).fit(X, y)
        assert not np.allclose(other.transform(X), base.transform(X)), name


def test_a_fitted_machine_is_pickled_with_its_features():
    X, y = two_cues(100)
    model = rounds(1).fit(X, y)
    copied = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copied.transform(X), model.transform(X))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_rounds": 0}, "n_rounds"),
        ({"steps_per_round": 1.5}, "steps_per_round"),
        ({"batch_size": 0}, "batch_size"),
        ({"retain_weight": -1}, "retain_weight"),
        ({"stop_margin": float("nan")}, "stop_margin"),
        ({"alpha": "small"}, "alpha"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"keep": "some"}, "keep"),
        ({"loss": "squared"}, "loss"),
        ({"loss": lambda logits, codes: logits}, "one number"),
    ],
)
def test_bad_parameters_are_refused(options, message):
    X, y = two_cues(20)
    with pytest.raises(DataError, match=message):
        FeATPretrainer(Small(), **options).fit(X, y)


@pytest.mark.parametrize(
    ("featurizer", "message"),
    [
        ("mlp", "expected a Module"),
        (lambda generator: "mlp", "expected a Module"),
        (nn.ReLU(), "without trainable parameters"),
        (nn.Sequential(nn.LazyLinear(3), nn.Flatten(0)), "one row a sample"),
    ],
)
def test_bad_featurizers_are_refused(featurizer, message):
    X, y = two_cues(20)
    with pytest.raises(ModelError, match=message):
        FeATPretrainer(featurizer, random_state=0).fit(X, y)


def test_one_class_is_refused():
    with pytest.raises(DataError, match="one class"):
        FeATPretrainer(Small()).fit(np.ones((4, 2)), np.zeros(4))


def test_the_class_of_a_module_is_not_a_module():
    with pytest.raises(ModelError, match="made, not its class"):
        FeATPretrainer(torch.nn.Linear).fit(np.zeros((4, 2)), [0, 1, 0, 1])
