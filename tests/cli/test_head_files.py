"""A head in a file of its own, and back in networks of several kinds, whose weights are read into a new network."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model
from torch import nn

from featlearn.cli.head_files import check_head_fits, save_head, save_network
from featlearn.exceptions import ModelError
from featlearn.robust.dfr import DFRClassifier
from featlearn.robust.features import extract_features

N = 120


class Transformer(nn.Module):
    """The first token is what the last layer reads; four other layers take as many features."""

    def __init__(self, outputs):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.top = nn.Linear(8, outputs)

    def forward(self, x):
        return self.top(self.encoder(x)[:, 0])


def mlp(outputs):
    return nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Dropout(0.5), nn.Linear(7, outputs))


def cnn(outputs):
    body = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(body, nn.Linear(6, outputs))


NETWORKS = {"mlp": (mlp, (4,)), "cnn": (cnn, (1, 8, 8)), "transformer": (Transformer, (5, 8))}


def seeded(build, outputs, shape):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(outputs).double(), torch.randn(N, *shape, dtype=torch.float64)


def fitted(Z, classes):
    labels = np.arange(N) % classes
    Z = Z.clone()
    Z[torch.arange(N), torch.from_numpy(labels)] += Z.std()
    return DFRClassifier(C=1.0, n_refits=2, random_state=0).fit(Z, labels)


@pytest.mark.parametrize("outputs", [1, 2, 10])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_read_from_the_file_decides_as_the_head(tmp_path, name, classes, outputs):
    build, shape = NETWORKS[name]
    network, x = seeded(build, outputs, shape)
    Z = extract_features(network, [x], dtype=torch.float64)
    head = fitted(Z, classes)
    save_network(network, head, x[:3], tmp_path / "net.safetensors", {"classes": head.classes_.tolist()})
    new = 1 if classes == 2 and outputs == 1 else classes
    again = build(new).double()
    load_model(again, tmp_path / "net.safetensors")
    logits = again.eval()(x).detach()
    torch.testing.assert_close(logits[:, -1] if classes == 2 else logits, head.decision_function(Z), rtol=1e-9, atol=0)
    predicted = logits.argmax(dim=1) if new > 1 else (logits[:, 0] > 0).long()
    assert torch.equal(predicted, head.predict(Z))
    if classes == 2:
        both = logits.softmax(dim=1)[:, 1] if new == 2 else logits[:, 0].sigmoid()
        torch.testing.assert_close(both, head.predict_proba(Z)[:, 1])


@pytest.mark.parametrize("classes", [2, 4])
def test_a_head_of_its_own_has_all_digits_and_says_what_it_is(tmp_path, classes):
    Z = torch.randn(N, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 1
    head = fitted(Z, classes)
    save_head(head, tmp_path / "head.safetensors", {"classes": head.classes_.tolist(), "method": "DFR"})
    saved = load_file(tmp_path / "head.safetensors")
    logits = Z @ saved["coef"].T + saved["intercept"]
    torch.testing.assert_close(logits.squeeze(1), head.decision_function(Z), rtol=1e-12, atol=1e-12)
    with safe_open(tmp_path / "head.safetensors", "pt") as file:
        about = file.metadata()
    assert about["method"] == "DFR"
    assert json.loads(about["classes"]) == list(range(classes))


def test_a_head_that_does_not_fit_writes_nothing(tmp_path):
    network, x = seeded(mlp, 2, (4,))
    check_head_fits(network, 7, x)
    with pytest.raises(ModelError, match="takes 7"):
        check_head_fits(network, 5, x)
    head = fitted(x, 2)
    with pytest.raises(ModelError, match="takes 7"):
        save_network(network, head, x, tmp_path / "net.safetensors", {})
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_file_leaves_the_one_before(tmp_path, monkeypatch):
    def half(tensors, place, metadata):
        with open(place, "wb") as file:
            file.write(b"half")
        raise KeyboardInterrupt

    place = tmp_path / "head.safetensors"
    place.write_bytes(b"before")
    monkeypatch.setattr("featlearn.cli.head_files.save_file", half)
    head = fitted(torch.randn(N, 4, generator=torch.Generator().manual_seed(0)), 2)
    with pytest.raises(KeyboardInterrupt):
        save_head(head, place, {})
    assert [path.name for path in tmp_path.iterdir()] == ["head.safetensors"]
    assert place.read_bytes() == b"before"
