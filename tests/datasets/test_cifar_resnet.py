from __future__ import annotations

import pytest
import torch

from featlearn.datasets import CIFAR_MEAN, CIFAR_STD, CifarResNet, load_cifar10_jpeg, load_cifar_resnet
from featlearn.exceptions import DataError, ModelError


@pytest.mark.parametrize(("depth", "parameters"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018)])
def test_number_of_parameters(depth, parameters):
    model = CifarResNet(depth)
    assert sum(weight.numel() for weight in model.parameters()) == parameters
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(layers) == depth


def test_shortcut_is_option_a():
    block = CifarResNet(8).layer2[0].eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.rand(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    y = block(x)
    torch.testing.assert_close(y[:, 8:24], x[:, :, ::2, ::2])
    assert y[:, :8].abs().max() == 0
    assert y[:, 24:].abs().max() == 0


def test_initial_weights_come_from_random_state_alone():
    state = torch.random.get_rng_state()
    one, same, other = CifarResNet(8, random_state=1), CifarResNet(8, random_state=1), CifarResNet(8, random_state=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, same.state_dict()[name])
    assert not torch.equal(one.conv1.weight, other.conv1.weight)
    assert one.layer3[0].conv2.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


@pytest.mark.parametrize("depth", [2, 18, 21])
def test_impossible_depth_is_refused(depth):
    with pytest.raises(ModelError, match=f"depth={depth}, but expected 6 m"):
        CifarResNet(depth)


def test_bad_names_and_folders_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="name='resnet18', but expected one of resnet20"):
        load_cifar_resnet("resnet18", folder=tmp_path)
    with pytest.raises(DataError, match=r"expected it to hold resnet20-\*\.th"):
        load_cifar_resnet("resnet20", folder=tmp_path)
    monkeypatch.delenv("FEATLEARN_DATA", raising=False)
    with pytest.raises(DataError, match="set FEATLEARN_DATA to the folder that holds 'cifar_resnet'"):
        load_cifar_resnet()


def test_prefixed_checkpoint_is_read_and_one_of_another_depth_refused(tmp_path):
    model = CifarResNet(20, random_state=3)
    weights = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": weights}, tmp_path / "resnet20-0.th")
    torch.save({"state_dict": weights}, tmp_path / "resnet32-0.th")
    loaded = load_cifar_resnet("resnet20", folder=tmp_path)
    assert not loaded.training
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    with pytest.raises(ModelError, match="expected the weights of resnet32"):
        load_cifar_resnet("resnet32", folder=tmp_path)


@pytest.mark.parametrize(("name", "accuracy"), [("resnet20", 0.829), ("resnet32", None), ("resnet44", None)])
def test_public_checkpoints_classify_recompressed_cifar10(data_folder, name, accuracy):
    model = load_cifar_resnet(name, folder=data_folder / "cifar_resnet")
    data = load_cifar10_jpeg("test", n=1000, folder=data_folder / "cifar10_jpeg")
    with torch.no_grad():
        batches = data.batches(250, mean=CIFAR_MEAN, std=CIFAR_STD)
        hits = sum(int((model(images).argmax(dim=1) == labels).sum()) for images, labels in batches)
    if accuracy is None:
        assert 0.79 < hits / 1000 < 0.86
    else:
        assert hits / 1000 == pytest.approx(accuracy, abs=1e-9)
