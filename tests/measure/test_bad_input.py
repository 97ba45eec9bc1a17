"""Bad input is refused with what was got, what was expected and what to do; before any work where that can be known."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import CASES, fill, integers, mlp, normal
from torch import Tensor, nn

from featlearn import Rows, canonical_relations, measure_features
from featlearn.exceptions import DataError, FeatlearnError, MixingError, ModelError, UnmeasurableError

cross_entropy = nn.functional.cross_entropy


def batches(n: int = 12) -> list[tuple[Tensor, Tensor]]:
    return list(zip(normal(n, 5).split(4), integers(3, n).split(4), strict=True))


def never() -> Any:
    """Batches that must not be asked for."""
    raise AssertionError("work began before the arguments were checked")
    yield


# --- arguments: refused before the first batch ------------------------------------------------------------------------

ARGUMENTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"probes": 0}, DataError, r"Got probes=0, but expected 'exact', 'auto' or an integer >= 1"),
    ({"probes": -3}, DataError, "probes=-3"),
    ({"probes": 1.5}, DataError, "probes=1.5"),
    ({"probes": True}, DataError, "probes=True"),
    ({"probes": "all"}, DataError, "probes='all'"),
    ({"power": 0}, DataError, r"Got power=0, but expected a positive finite number"),
    ({"power": -1.0}, DataError, "power=-1.0"),
    ({"power": float("nan")}, DataError, "power=nan"),
    ({"power": "one"}, DataError, "power='one'"),
    ({"statistic": "spearman"}, DataError, r"Got statistic='spearman', but expected 'pearson' or 'cosine'"),
    ({"outputs": "softmax"}, DataError, "outputs='softmax'"),
    ({"outputs": 3}, DataError, "outputs=3"),
    ({"loss": "cross_entropy"}, DataError, "loss='cross_entropy'"),
    ({"random_state": -1}, DataError, "random_state=-1"),
    ({"random_state": 1.0}, DataError, "random_state=1.0"),
    ({"random_state": None}, DataError, "random_state=None"),
    ({"kernel_samples": -1}, DataError, "kernel_samples=-1"),
    ({"kernel_samples": 1}, DataError, r"kernel_samples=1, but expected 0 \(none\) or an integer >= 2"),
    ({"kernel_samples": 2.0}, DataError, "kernel_samples=2.0"),
    ({"layers": "nowhere"}, UnmeasurableError, r"no such layer. The closest are"),
    ({"layers": []}, UnmeasurableError, "expected 'auto' or at least one layer"),
    ({"layers": ["0", 3]}, UnmeasurableError, "Got the layer 3"),
    ({"layers": Rows("0", 3, 2)}, UnmeasurableError, "0 <= start < stop"),
    ({"layers": Rows("0", 0, 99)}, UnmeasurableError, "stop <= 7"),
    ({"layers": "1"}, UnmeasurableError, "Got layer '1'"),
    ({"reference": 3}, ModelError, "reference=int"),
    ({"reference": {}}, ModelError, "without '0.weight'"),
    ({"reference": {"0.weihgt": torch.zeros(7, 5)}}, ModelError, "The closest keys are '0.weihgt'"),
    ({"reference": nn.Sequential(nn.Linear(5, 7))}, ModelError, "without the layer '2'"),
    ({"reference": nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))}, ModelError,
     r"shape \(1, 6, 5\).*expected \(1, 7, 5\)"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "error", "message"), ARGUMENTS, ids=lambda value: str(value)[:40])
def test_bad_arguments_are_refused_before_any_work(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        measure_features(fill(mlp()), never(), **options)


@pytest.mark.parametrize("change", [lambda w: w[:, :3], lambda w: w * float("nan"), lambda w: None])
def test_bad_reference_weights_are_refused_before_any_work(change: Callable[[Tensor], Any]) -> None:
    state = copy.deepcopy(fill(mlp()).state_dict())
    state["2.weight"] = change(state["2.weight"])
    with pytest.raises(ModelError, match=r"layer '2'|2\.weight"):
        measure_features(fill(mlp()), never(), reference=state)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (3, "expected a torch.nn.Module"),
        (nn.Linear, "expected a torch.nn.Module"),
        (nn.ReLU(), "no linear, convolution or attention layer"),
        (nn.Sequential(nn.Embedding(3, 2)), "an embedding reads indices"),
        (nn.LazyLinear(3), "lazy parameter"),
    ],
    ids=["number", "class", "no layer", "embedding", "lazy"],
)
def test_models_without_a_layer_to_measure_are_refused(model: Any, message: str) -> None:
    with pytest.raises(FeatlearnError, match=message):
        measure_features(model, never())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (normal(8, 5), r"Got one Tensor of shape \(8, 5\)"),
        (np.zeros((8, 5)), r"Got one ndarray"),
        (torch.utils.data.TensorDataset(normal(8, 5)), "DataLoader"),
        ({"x": normal(8, 5)}, "iterable of batches"),
        ("data", "iterable of batches"),
        (None, "iterable of batches"),
        (7, "iterable of batches"),
    ],
    ids=["tensor", "array", "data set", "mapping", "string", "none", "number"],
)
def test_what_is_no_iterable_of_batches_is_refused(bad: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        measure_features(fill(mlp()), bad)
    with pytest.raises(DataError, match=message):
        canonical_relations(fill(mlp()), bad, cross_entropy)


# --- data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", [[], (), iter([])], ids=["list", "tuple", "spent iterator"])
def test_no_batches_are_refused(empty: Any) -> None:
    with pytest.raises(DataError, match="Got no batches"):
        measure_features(fill(mlp()), empty)
    with pytest.raises(DataError, match="Got no batches"):
        canonical_relations(fill(mlp()), [], cross_entropy)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", [0, 2])
def test_inputs_that_are_not_finite_are_refused_with_the_batch(bad: float, where: int) -> None:
    data = batches()
    data[where][0][1, 2] = bad
    with pytest.raises(DataError, match=f"not finite in batch {where}"):
        measure_features(fill(mlp()), data)
    with pytest.raises(DataError, match=f"not finite in batch {where}"):
        canonical_relations(fill(mlp()), data, cross_entropy)


def test_outputs_that_are_not_finite_are_refused() -> None:
    model = fill(mlp())
    with torch.no_grad():
        model[4].bias[0] = float("inf")
    with pytest.raises(DataError, match="outputs that are not finite"):
        measure_features(model, batches())


@pytest.mark.parametrize("batch", [3, "text", None, []], ids=str)
def test_batches_of_another_kind_are_refused(batch: Any) -> None:
    with pytest.raises(DataError, match="batch 0 of type"):
        measure_features(fill(mlp()), [batch])


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(DataError, match="empty batch"):
        measure_features(fill(mlp()), [normal(4, 5), normal(0, 5)])


class Returns(nn.Module):
    """Whatever ``make`` makes of the outputs."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.make = mlp(), make

    def forward(self, x: Tensor) -> Any:
        return self.make(self.inner(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda y: {"first": y, "second": y}, "'first', 'second', none of them 'logits'"),
        (lambda y: [3, "a"], "expected a floating tensor"),
        (lambda y: y.argmax(-1), "expected a floating tensor"),
        (lambda y: y.mean(), "expected a floating tensor"),
    ],
    ids=["unnamed", "no tensor", "integers", "one number"],
)
def test_outputs_that_cannot_be_read_are_refused(make: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        measure_features(fill(Returns(make)), batches())


def test_outputs_that_are_detached_are_refused() -> None:
    with pytest.raises(UnmeasurableError, match="do not depend on the measured layers"):
        measure_features(fill(Returns(lambda y: y.detach())), batches())


def test_samples_that_interact_are_refused_naming_the_norm() -> None:
    model = fill(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 2)))
    with pytest.raises(MixingError, match="'1' normalises with batch statistics"):
        measure_features(model, batches())


def test_too_many_outputs_for_exact_passes_name_the_way_out() -> None:
    model = fill(nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 5000), nn.Tanh()))
    with pytest.raises(DataError, match=r"5000 outputs.*Pass probes='auto' or probes=8"):
        measure_features(model, batches())


def test_automatic_probes_need_the_number_of_batches() -> None:
    with pytest.raises(DataError, match=r"probes='auto' and batches without a length. Pass an integer"):
        measure_features(fill(mlp()), (batch for batch in batches()), probes="auto")


# --- losses -----------------------------------------------------------------------------------------------------------

LOSSES: list[tuple[Callable[..., Any], str]] = [
    (lambda o, t: cross_entropy(o, t, reduction="none"), r"a loss of shape \(4,\).*one number: the mean"),
    (lambda o, t: 3.0, "a loss of float"),
    (lambda o, t: o.sum().detach(), "does not depend on the outputs"),
    (lambda o, t: o.sum() * float("nan"), "a loss of nan"),
    (lambda o, t: o.sum() / 0, r"a loss of -?inf"),
]


@pytest.mark.parametrize(("loss", "message"), LOSSES, ids=["unreduced", "float", "detached", "nan", "inf"])
def test_bad_losses_are_refused(loss: Callable[..., Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        measure_features(fill(mlp()), batches(), loss=loss)
    with pytest.raises(DataError, match=message):
        canonical_relations(fill(mlp()), batches(), loss)


def test_a_loss_needs_targets() -> None:
    inputs = [x for x, _ in batches()]
    with pytest.raises(DataError, match=r"batch without targets. Pass \(inputs, targets\)"):
        measure_features(fill(mlp()), inputs, loss=cross_entropy)
    with pytest.raises(DataError, match="batch without targets"):
        canonical_relations(fill(mlp()), inputs, cross_entropy)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss": None}, DataError, "loss=None"),
        ({"statistic": "kendall"}, DataError, "statistic='kendall'"),
        ({"layers": "nowhere"}, UnmeasurableError, "no such layer"),
    ],
    ids=["loss", "statistic", "layers"],
)
def test_relations_refuse_bad_arguments_before_any_work(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    loss = options.pop("loss", cross_entropy)
    with pytest.raises(error, match=message):
        canonical_relations(fill(mlp()), never(), loss, **options)


# --- named layers -----------------------------------------------------------------------------------------------------


def test_a_named_layer_that_never_runs_is_an_error_and_otherwise_a_reason() -> None:
    model = fill(mlp())
    model.spare = nn.Linear(5, 4).double()
    model.forward = lambda x: nn.Sequential.forward(nn.Sequential(*list(model)[:5]), x)
    report = measure_features(model, batches())
    assert "never ran" in report.skipped["spare"]
    with pytest.raises(UnmeasurableError, match=r"'spare' cannot be measured: it never ran"):
        measure_features(model, batches(), layers=["0", "spare"])


def test_a_layer_that_cannot_be_measured_says_why_when_named() -> None:
    case = CASES["embedding"]
    data = [x.repeat(3, 1) for x in case.batches()]
    assert "an embedding" in measure_features(case.model(), data).skipped["0"]
    with pytest.raises(UnmeasurableError, match="an embedding reads indices"):
        measure_features(case.model(), data, layers="0")


def test_a_layer_that_the_outputs_do_not_depend_on_is_skipped_with_the_reason() -> None:
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.aside = mlp(), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.aside(x)
            return self.inner(x)

    report = measure_features(fill(Aside()), batches())
    assert "no gradient reached it" in report.skipped["aside"]
    with pytest.raises(UnmeasurableError, match="no gradient reached it"):
        measure_features(fill(Aside()), batches(), layers=["aside", "inner.0"])
    with pytest.raises(UnmeasurableError, match="do not depend on the measured layers 'aside'"):
        measure_features(fill(Aside()), batches(), layers="aside")
