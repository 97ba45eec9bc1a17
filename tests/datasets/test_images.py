from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import torch

from featlearn.datasets import load_cifar10_jpeg, load_fashion_mnist, load_mnist
from featlearn.exceptions import DataError


@pytest.fixture
def idx_folder(tmp_path):
    """A folder of four tiny idx files; the training half gzipped, the test half plain."""
    pixels = np.arange(3 * 2 * 2, dtype=np.uint8).reshape(3, 2, 2)
    for prefix, n, pack, ending in (("train", 3, gzip.compress, ".gz"), ("t10k", 2, bytes, "")):
        images = struct.pack(">HBB3I", 0, 8, 3, n, 2, 2) + pixels[:n].tobytes()
        labels = struct.pack(">HBBI", 0, 8, 1, n) + bytes(range(n))
        (tmp_path / f"{prefix}-images-idx3-ubyte{ending}").write_bytes(pack(images))
        (tmp_path / f"{prefix}-labels-idx1-ubyte{ending}").write_bytes(pack(labels))
    return tmp_path


@pytest.mark.parametrize(("split", "per_class"), [("train", 400), ("test", 100)])
def test_bundled_subset_is_balanced_and_real(split, per_class):
    data = load_fashion_mnist(split)
    assert data.images.shape == (10 * per_class, 1, 28, 28)
    assert data.images.dtype == torch.uint8
    assert torch.bincount(data.labels).tolist() == [per_class] * 10
    assert len(data.classes) == 10
    # Trousers (1) are two legs: darker than pullovers (2) in every split of the original.
    brightness = [data.images[data.labels == label].float().mean() for label in range(10)]
    assert brightness[1] < brightness[2]


def test_bundled_subset_is_small_enough_to_ship():
    from featlearn.datasets import images

    size = (images.BUNDLED).stat().st_size
    assert size <= 2.5e6
    assert images.BUNDLED.with_name("fashion_mnist_subset.LICENSE.txt").exists()


def test_splits_of_the_bundled_subset_share_no_image():
    train, test = load_fashion_mnist("train").images, load_fashion_mnist("test").images
    seen = {image.numpy().tobytes() for image in train}
    assert not any(image.numpy().tobytes() in seen for image in test)


def test_idx_files_read_plain_and_gzipped(idx_folder):
    train, test = load_mnist("train", folder=idx_folder), load_mnist("test", folder=idx_folder)
    assert train.images.flatten().tolist() == list(range(12))
    assert test.images.flatten().tolist() == list(range(8))
    assert test.labels.tolist() == [0, 1]
    assert repr(test) == "ImageData('MNIST', 'test', 2 images of shape (1, 2, 2))"
    assert len(load_mnist("train", n=2, folder=idx_folder)) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "unpack_from requires"), (b"\x00\x00\x0d\x01\x00\x00\x00\x01abcd", "starts with"), (b"PK", "idx file")],
)
def test_broken_idx_file_is_refused_by_name(idx_folder, content, message):
    (idx_folder / "t10k-labels-idx1-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_mnist("test", folder=idx_folder)
    assert "t10k-labels-idx1-ubyte" in str(caught.value)


def test_truncated_gzip_is_refused(idx_folder):
    path = idx_folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="expected an idx file"):
        load_mnist("train", folder=idx_folder)


def test_images_without_as_many_labels_are_refused(idx_folder):
    (idx_folder / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">HBBI", 0, 8, 1, 1) + b"\x01")
    with pytest.raises(DataError, match="2 images but 1 labels"):
        load_mnist("test", folder=idx_folder)


@pytest.mark.parametrize(
    ("load", "options", "message"),
    [
        (load_fashion_mnist, {"split": "validation"}, "split='validation', but expected 'train' or 'test'"),
        (load_fashion_mnist, {"n": 4001}, "n=4001, but expected 1 to 4000"),
        (load_fashion_mnist, {"n": 0}, "n=0, but expected 1 to 4000"),
        (load_mnist, {"folder": "nowhere"}, "expected it to hold train-images-idx3-ubyte"),
        (load_cifar10_jpeg, {"folder": "nowhere"}, "expected it to hold cifar10_jpeg_24k.npz"),
        (load_cifar10_jpeg, {"split": "validation"}, "split='validation', but expected 'train' or 'test'"),
    ],
)
def test_bad_arguments_are_refused(load, options, message):
    with pytest.raises(DataError, match=message):
        load(**options)


def test_absent_folder_says_which_variable_to_set(monkeypatch):
    monkeypatch.delenv("FEATLEARN_DATA", raising=False)
    with pytest.raises(DataError, match="set FEATLEARN_DATA to the folder that holds 'mnist'"):
        load_mnist()


def test_normalized_is_per_channel():
    data = load_fashion_mnist("test", n=3)
    torch.testing.assert_close(data.normalized(0.25, 0.5), (data.images.float() / 255 - 0.25) / 0.5)
    assert data.images.dtype == torch.uint8
    with pytest.raises(DataError, match="mean of 3 entries, but expected one or one a channel"):
        data.normalized((0.1, 0.2, 0.3))
    with pytest.raises(DataError, match=r"std=0\.0, but expected positive"):
        data.normalized(0.0, 0.0)


def test_batches_are_the_data_in_order():
    data = load_fashion_mnist("test", n=7)
    batches = data.batches(3, mean=0.5)
    assert [len(labels) for _, labels in batches] == [3, 3, 1]
    torch.testing.assert_close(torch.cat([images for images, _ in batches]), data.normalized(0.5))
    assert torch.equal(torch.cat([labels for _, labels in batches]), data.labels)
    with pytest.raises(DataError, match="batch_size=0"):
        data.batches(0)


def test_mnist_of_the_data_folder(data_folder):
    data = load_mnist("test", folder=data_folder / "mnist")
    assert data.images.shape == (10_000, 1, 28, 28)
    assert torch.bincount(data.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_cifar10_jpeg_of_the_data_folder(data_folder):
    data = load_cifar10_jpeg("test", n=500, folder=data_folder / "cifar10_jpeg")
    assert data.images.shape == (500, 3, 32, 32)
    assert data.classes[0] == "airplane"
    assert 0.3 < data.normalized().mean() < 0.6
    assert torch.bincount(data.labels, minlength=10).min() > 20


def test_cifar10_jpeg_refuses_another_npz(tmp_path):
    np.savez(tmp_path / "cifar10_jpeg_24k.npz", X=np.zeros(3))
    with pytest.raises(DataError, match="expected an npz of JPEG files"):
        load_cifar10_jpeg(folder=tmp_path)
