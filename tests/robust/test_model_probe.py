"""A network probed in one call is its features probed by hand, against the raw input and its own untrained copy."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from featlearn._random import preserved_rng
from featlearn.exceptions import DataError, ModelError, UnmeasurableError
from featlearn.robust import model_probe
from featlearn.robust.features import extract, extract_features
from featlearn.robust.model_probe import probe_model
from featlearn.robust.probe import feature_probe
from featlearn.robust.untrained import untrained_copy

RIDGE = LogisticRegression()


def network(seed: int = 0) -> nn.Sequential:
    with preserved_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 2))


def batches(n: int, seed: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    y, s = torch.randint(2, (2, n), generator=generator)
    X = torch.randn((n, 2, 4), generator=generator)
    X[:, 0, 0] += y
    X[:, 1, 0] += 3 * s
    return list(zip(X.split(40), y.split(40), s.split(40), strict=True))


FIT, TEST = batches(300, 0), batches(200, 1)


def by_hand(networks: dict[str, tuple[nn.Module, str | None]], random_state: int = 0) -> Any:
    sides = []
    for rows in (FIT, TEST):
        features = {"pixels": extract_features(network(), rows, layer="input")}
        features |= {name: extract_features(model, rows, layer=layer) for name, (model, layer) in networks.items()}
        sides.append((features, *(torch.cat(column) for column in list(zip(*rows, strict=True))[1:])))
    return feature_probe(*sides[0], *sides[1], probe=RIDGE, random_state=random_state)


def test_one_layer_of_one_network() -> None:
    model = network()
    result = probe_model(model, FIT, TEST, probe=RIDGE, random_state=4)
    init = untrained_copy(model, 4)
    expected = by_hand({"init": (init, None), "penultimate": (model, None)}, random_state=4)
    assert result.table.drop(columns="pool").equals(expected.table.drop(columns="pool"))
    assert [point.control for point in result.points] == ["pixels", "init", None]
    assert [point.pool for point in result.points] == ["flatten"] * 3


def test_checkpoints_are_the_network_at_their_weights() -> None:
    model, early, late = network(), network(1), network(2)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    states = {"epoch 1": early.state_dict(), "epoch 2": late.state_dict()}
    result = probe_model(model, FIT, TEST, checkpoints=states, probe=RIDGE)
    control = untrained_copy(model)
    expected = by_hand({"init": (control, None), "epoch 1": (early, None), "epoch 2": (late, None)})
    assert result.table.drop(columns="pool").equals(expected.table.drop(columns="pool"))
    assert [point.checkpoint for point in result.points] == [None, "init", "epoch 1", "epoch 2"]
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


def test_every_layer_has_the_same_layer_of_the_untrained_network_as_its_control() -> None:
    model, control = network(), network(5)
    result = probe_model(model, FIT, TEST, layers=["2", "5.input"], untrained=control, probe=RIDGE)
    assert list(result.table.index) == ["pixels", "init: 2", "init: 5.input", "2", "5.input"]
    for layer in ("2", "5.input"):
        expected = by_hand({"init": (control, layer), layer: (model, layer)}).frame().loc[layer]
        found = result.frame().loc[layer]
        for key in ("core_wga", "core_mean", "spurious_wga", "spurious_mean", "excess_core"):
            assert found[key] == expected[key], (layer, key)
    assert "untrained network (init: 2)" in result.summary()


def test_layers_and_checkpoints_are_crossed_in_order() -> None:
    states = {name: network(seed).state_dict() for name, seed in (("first", 1), ("second", 2))}
    result = probe_model(network(), FIT, TEST, layers=["2", "4"], checkpoints=states, probe=RIDGE)
    assert [point.name for point in result.points[3:]] == ["first: 2", "first: 4", "second: 2", "second: 4"]
    assert [(point.checkpoint, point.layer) for point in result.points[3:]] == [
        ("first", "2"), ("first", "4"), ("second", "2"), ("second", "4"),
    ]  # fmt: skip


def test_pooling_and_refits_reach_the_features_and_the_probe() -> None:
    convnet = nn.Sequential(nn.Conv1d(2, 3, 2), nn.Flatten(), nn.Linear(9, 2))
    flat = probe_model(convnet, FIT, TEST, layers="0", probe=RIDGE)
    mean = probe_model(convnet, FIT, TEST, layers="0", pool="mean", probe=RIDGE)
    assert (flat.table.loc["0", "d"], mean.table.loc["0", "d"]) == (9, 3)
    assert [point.pool for point in mean.points] == ["flatten", "mean", "mean"]
    assert mean.table["pool"].tolist() == ["flatten", "mean", "mean"]
    assert "0: means over positions, beside all pixels" in mean.summary()
    assert "means over positions" not in flat.summary()
    assert str(mean).splitlines()[0].split()[:2] == ["d", "pool"]
    assert "n_refits=1" in probe_model(convnet, FIT, TEST, n_refits=1).probe


def test_features_without_positions_are_not_said_to_be_means() -> None:
    result = probe_model(network(), FIT, TEST, pool="mean", probe=RIDGE)
    assert [point.pool for point in result.points] == ["flatten"] * 3
    assert "means over positions" not in result.summary()


def test_features_of_one_network_are_in_memory_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Tensor]] = []

    def counted(*args: Any, **settings: Any) -> Any:
        assert sum(kept() is not None for kept in alive) < 2  # those of the rows to fit, while the others are made
        found = extract(*args, **settings)
        alive.append(weakref.ref(found.features["penultimate"]))
        return found

    monkeypatch.setattr(model_probe, "extract", counted)
    states = {f"epoch {seed}": network(seed).state_dict() for seed in range(3)}
    probe_model(network(), FIT, TEST, checkpoints=states, probe=RIDGE)
    assert len(alive) == 8


def test_batches_must_be_readable_again_in_the_same_order() -> None:
    with pytest.raises(DataError, match="can be read only once"):
        probe_model(network(), iter(FIT), TEST, probe=RIDGE)
    X, y, s = (torch.cat(column) for column in zip(*FIT, strict=True))
    with pytest.raises(DataError, match="shuffle=False"):
        probe_model(network(), DataLoader(TensorDataset(X, y, s), batch_size=50, shuffle=True), TEST, probe=RIDGE)

    class Wandering:
        """Another order at every pass, which no sampler tells."""

        def __init__(self) -> None:
            self.generator = torch.Generator().manual_seed(0)

        def __iter__(self) -> Any:
            order = torch.randperm(len(X), generator=self.generator)
            return iter([(X[order], y[order], s[order])])

    with pytest.raises(DataError, match="other labels at the second pass"):
        probe_model(network(), Wandering(), TEST, probe=RIDGE)


def test_bad_requests_are_refused_before_the_network_runs() -> None:
    model = network()
    model.register_forward_hook(lambda *_: pytest.fail("the network ran"))

    def refused(message: str, error: type[Exception] = DataError, **settings: Any) -> None:
        with pytest.raises(error, match=message):
            probe_model(model, FIT, TEST, **({"probe": RIDGE} | settings))

    refused("expected different names", layers=["2", "2"])
    refused("expected different names", layers=[])
    refused("The raw input is probed in any case", layers=["input", "2"])
    refused("no such module", UnmeasurableError, layers="head")
    refused("Got the layer 3", UnmeasurableError, layers=3)
    refused("expected a classifier", probe="ridge")
    refused("n_refits=0", n_refits=0)
    refused("random_state=None", random_state=None)
    refused("a checkpoint called 'init'", checkpoints={"init": model.state_dict()})
    refused("a dict of state dicts", checkpoints=[model.state_dict()])
    refused("a dict of state dicts", checkpoints={})
    state = model.state_dict()
    wrong = {**state, "1.weight": torch.zeros(3, 8)}
    refused(r"Checkpoint 'epoch 1': .*'1\.weight' of shape", ModelError, checkpoints={"epoch 1": wrong})
    del state["5.bias"]
    refused(r"without '5\.bias'", ModelError, checkpoints={"epoch 1": state})


def test_batches_without_both_labels_are_refused() -> None:
    with pytest.raises(DataError, match="Got batches of 2 parts, but expected three"):
        probe_model(network(), [batch[:2] for batch in FIT], TEST, probe=RIDGE)


def test_arrays_serve_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    arrays = [[tuple(np.asarray(part) for part in batch) for batch in rows] for rows in (FIT, TEST)]
    expected = probe_model(network(), FIT, TEST, probe=RIDGE)
    assert probe_model(network(), *arrays, probe=RIDGE, verbose=1).table.equals(expected.table)
    assert not capsys.readouterr().out
