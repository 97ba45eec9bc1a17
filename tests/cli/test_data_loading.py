"""Folders of images, .npz files and loaders of one's own, as batches."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from featlearn.cli.data_loading import Preparation, load_data
from featlearn.exceptions import DataError

COLOURS = {"cat": (255, 0, 0), "dog": (0, 255, 0), "owl": (0, 0, 255)}


def net(channels: int | None, dtype=torch.float32) -> torch.nn.Module:
    """A model that wants this many channels, or plain rows."""
    first = torch.nn.Linear(6, 2) if channels is None else torch.nn.Conv2d(channels, 2, 3)
    return first.to(dtype)


def read(spec, *, n=1000, batch_size=4, seed=0, model=None, **options) -> list:
    return list(load_data(str(spec), Preparation(n, batch_size, seed, **options), model or net(3)).batches)


@pytest.fixture
def photos(folder):
    """Three classes of five images of one colour each, 6 x 6."""
    for name, colour in COLOURS.items():
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (6, 6), colour).save(folder / "photos" / name / f"{number}.png")
    return folder / "photos"


# --- folders of images -----------------------------------------------------------------------------------------------


def test_every_image_comes_once_with_the_class_of_its_subfolder(photos) -> None:
    batches = read(photos)
    assert [len(x) for x, _ in batches] == [4, 4, 4, 3]
    pixels, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert pixels.shape == (15, 3, 6, 6)
    assert sorted(labels.tolist()) == [0] * 5 + [1] * 5 + [2] * 5
    # The classes are numbered in sorted order: the channel that is lit is the class.
    assert torch.equal(pixels.mean(dim=(2, 3)), torch.eye(3)[labels])


def test_the_shuffle_depends_on_the_seed_and_n_takes_its_first_samples(photos) -> None:
    order = {seed: torch.cat([y for _, y in read(photos, seed=seed)]).tolist() for seed in (0, 1)}
    assert order[0] != order[1]
    assert order[0] == torch.cat([y for _, y in read(photos, seed=0)]).tolist()
    assert torch.cat([y for _, y in read(photos, seed=0, n=6)]).tolist() == order[0][:6]


def test_a_flat_folder_has_no_labels(photos) -> None:
    batches = read(photos / "cat")
    assert all(isinstance(batch, torch.Tensor) for batch in batches)
    assert sum(len(batch) for batch in batches) == 5


def test_images_become_grey_for_a_model_of_one_channel(photos) -> None:
    pixels, labels = (torch.cat(parts) for parts in zip(*read(photos, model=net(1)), strict=True))
    assert pixels.shape == (15, 1, 6, 6)
    luma = torch.tensor([0.299, 0.587, 0.114])  # ITU-R 601, as Pillow and every camera
    torch.testing.assert_close(pixels[:, 0, 0, 0], luma[labels], atol=1 / 255, rtol=0)


def test_grey_images_fill_three_channels(folder) -> None:
    (folder / "grey").mkdir()
    Image.new("L", (5, 5), 51).save(folder / "grey" / "a.png")
    [batch] = read(folder / "grey")
    torch.testing.assert_close(batch, torch.full((1, 3, 5, 5), 0.2))


def test_sixteen_bit_images_keep_their_range(folder) -> None:
    (folder / "deep").mkdir()
    Image.fromarray(np.full((5, 5), 13107, np.uint16)).save(folder / "deep" / "a.png")
    [batch] = read(folder / "deep", model=net(1))
    torch.testing.assert_close(batch, torch.full((1, 1, 5, 5), 0.2))


def test_image_size_resizes_the_shorter_side_and_crops_the_centre(folder) -> None:
    (folder / "wide").mkdir()
    strip = np.zeros((10, 30, 3), np.uint8)
    strip[:, 10:20] = 255
    Image.fromarray(strip).save(folder / "wide" / "a.png")
    [batch] = read(folder / "wide", image_size=20)
    assert batch.shape == (1, 3, 20, 20)
    assert batch[..., 2:-2].min() > 0.99  # the white third in the middle, but for blurred edges


def test_mean_and_std_are_those_of_each_channel(photos) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)
    plain, scaled = read(photos), read(photos, mean=mean, std=std)
    shape = (1, 3, 1, 1)
    for (x, _), (z, _) in zip(plain, scaled, strict=True):
        torch.testing.assert_close(z, (x - torch.tensor(mean).reshape(shape)) / torch.tensor(std).reshape(shape))


def test_images_take_the_dtype_of_the_model(photos) -> None:
    assert read(photos, model=net(3, torch.float64))[0][0].dtype == torch.float64


def test_hidden_files_and_other_files_are_no_images(photos) -> None:
    (photos / "cat" / "notes.txt").write_text("cats", encoding="utf-8")
    (photos / "cat" / "._0.png").write_bytes(b"left by another system")
    assert sum(len(x) for x, _ in read(photos)) == 15


def damage(path) -> None:
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize(
    ("spoil", "options", "named"),
    [
        (lambda photos: (photos / "dog" / "2.png").write_bytes(b"no image"), {}, "2.png"),
        (lambda photos: damage(photos / "dog" / "2.png"), {}, "2.png"),
        (lambda photos: Image.new("RGB", (7, 6)).save(photos / "dog" / "2.png"), {}, "--image-size"),
        (lambda photos: Image.new("F", (6, 6)).save(photos / "dog" / "2.tiff"), {}, "mode F"),
        (lambda photos: Image.new("RGB", (6, 6)).save(photos / "loose.png"), {}, "subfolder a class"),
        (lambda photos: None, {"model": net(4)}, "4 channels"),
    ],
    ids=["no image", "cut short", "other size", "other mode", "flat and classes", "channels"],
)
def test_a_folder_that_cannot_be_used_is_refused_by_name(photos, spoil, options, named) -> None:
    spoil(photos)
    with pytest.raises(DataError, match=named):
        read(photos, **options)


def test_an_empty_folder_is_refused(folder) -> None:
    (folder / "empty" / "class").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no image"):
        read(folder / "empty")


# --- .npz -------------------------------------------------------------------------------------------------------------


def test_rows_of_npz_keep_their_targets(folder) -> None:
    X = np.arange(60.0).reshape(10, 6)
    np.savez("a.npz", X=X, y=np.arange(10))
    batches = read("a.npz", model=net(None))
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert sorted(y.tolist()) == list(range(10))
    torch.testing.assert_close(x, torch.from_numpy(X).float()[y])
    assert y.dtype == torch.int64


def test_npz_without_y_has_no_labels(folder) -> None:
    np.savez("a.npz", X=np.ones((10, 6)))
    assert [tuple(batch.shape) for batch in read("a.npz", model=net(None))] == [(4, 6), (4, 6), (2, 6)]


def test_bytes_become_zero_to_one_and_tokens_stay_whole(folder) -> None:
    np.savez("bytes.npz", X=np.full((4, 6), 51, np.uint8))
    np.savez("tokens.npz", X=np.full((4, 6), 51, np.int32))
    [pixels], [tokens] = read("bytes.npz", model=net(None)), read("tokens.npz", model=net(None))
    torch.testing.assert_close(pixels, torch.full((4, 6), 0.2))
    assert torch.equal(tokens, torch.full((4, 6), 51))


@pytest.mark.parametrize(
    ("shape", "channels"), [((5, 8, 8), 1), ((5, 1, 8, 8), 1), ((5, 8, 8, 3), 3), ((5, 3, 8, 8), 3)]
)
def test_images_in_npz_get_their_channels_to_the_front(folder, shape, channels) -> None:
    np.savez("a.npz", X=np.zeros(shape, np.uint8))
    assert read("a.npz", batch_size=5, model=net(channels))[0].shape == (5, channels, 8, 8)


def test_targets_of_one_column_are_classes_and_floats_stay(folder) -> None:
    np.savez("column.npz", X=np.ones((4, 6)), y=np.ones((4, 1), int))
    np.savez("real.npz", X=np.ones((4, 6)), y=np.ones((4, 1)))
    assert read("column.npz", model=net(None))[0][1].shape == (4,)
    assert read("real.npz", model=net(None))[0][1].shape == (4, 1)


def objects() -> np.ndarray:
    return np.array([{"a": 1}, None], dtype=object)


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"x": np.ones((4, 6)), "labels": np.ones(4)}, "arrays x, labels"),
        ({"X": objects()}, "Python objects"),
        ({"X": np.ones((4, 6)), "y": objects()}, "Python objects"),
        ({"X": np.array([["a", "b"]])}, "dtype <U1"),
        ({"X": np.ones((4, 6)), "y": np.ones(3)}, "4 rows"),
        ({"X": np.ones((0, 6))}, r"\(0, 6\)"),
        ({"X": np.ones(4)}, r"\(4,\)"),
        ({"X": np.array([[1.0, 2.0], [np.nan, 1.0]])}, "row 1"),
        ({"X": np.ones((2, 6)), "y": np.array([np.inf, 0.0])}, "row 0"),
    ],
    ids=["names", "objects", "objects in y", "text", "lengths", "empty", "flat", "nan", "inf in y"],
)
def test_npz_that_cannot_be_used_is_refused(folder, arrays, named) -> None:
    np.savez("a.npz", **arrays)
    with pytest.raises(DataError, match=named):
        read("a.npz", model=net(None))


def test_npz_of_other_channels_or_damaged_or_absent_is_refused(folder) -> None:
    np.savez("a.npz", X=np.ones((4, 2, 8, 8)))
    with pytest.raises(DataError, match="wants 3 channels"):
        read("a.npz")
    (folder / "b.npz").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match=r"b\.npz, which cannot be read"):
        read("b.npz")
    with pytest.raises(DataError, match="no such file"):
        read("c.npz")


# --- loaders ----------------------------------------------------------------------------------------------------------

LOADERS = """
import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

X, y = torch.arange(20.0)[:, None].expand(20, 6), torch.arange(20)
batches = list(zip(X.split(6), y.split(6)))
arrays = [(x.numpy(), t.numpy()) for x, t in batches]
dataset = TensorDataset(X, y)
loader = DataLoader(dataset, batch_size=6)
mappings = [{"input": x, "labels": t} for x, t in batches]


def function():
    return loader


def generator():
    yield from batches


class Stream(IterableDataset):
    def __iter__(self):
        return iter(batches)


stream = Stream()
empty = []
words = ["a", "b"]
tensor = X


def raises():
    yield batches[0]
    raise OSError("the disk is gone")


def fails():
    raise OSError("no disk")
"""


@pytest.fixture
def loaders(folder):
    (folder / "loaders.py").write_text(LOADERS, encoding="utf-8")


@pytest.mark.parametrize("name", ["batches", "arrays", "loader", "mappings", "function", "generator", "stream"])
def test_a_loader_gives_its_first_n_samples_in_its_own_order(loaders, name) -> None:
    batches = read(f"loaders.py:{name}", n=10)
    targets = [batch["labels"] if isinstance(batch, dict) else batch[1] for batch in batches]
    inputs = [batch["input"] if isinstance(batch, dict) else batch[0] for batch in batches]
    assert [len(target) for target in targets] == [6, 4]
    assert np.concatenate([np.asarray(target) for target in targets]).tolist() == list(range(10))
    assert [tuple(x.shape) for x in inputs] == [(6, 6), (4, 6)]


def test_a_dataset_is_shuffled_and_batched(loaders) -> None:
    batches = read("loaders.py:dataset", n=10, batch_size=4)
    targets = torch.cat([y for _, y in batches]).tolist()
    assert [len(y) for _, y in batches] == [4, 4, 2]
    assert len(set(targets)) == 10
    assert targets != sorted(targets)


@pytest.mark.parametrize(("name", "n", "count"), [("batches", 10, 2), ("batches", 1000, 4), ("loader", 12, 2)])
def test_the_number_of_batches_is_known_where_it_can_be(loaders, name, n, count) -> None:
    data = load_data(f"loaders.py:{name}", Preparation(n, 50, 0), net(None))
    assert len(data.batches) == count == len(list(data.batches))


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("empty", "without a single sample"),
        ("words", "type str without tensors"),
        ("tensor", "Tensor"),
        ("raises", "after 6 samples: OSError: the disk is gone"),
        ("fails", "no disk"),
        ("absent", "no 'absent'"),
    ],
)
def test_a_loader_that_cannot_be_used_is_refused(loaders, name, named) -> None:
    with pytest.raises(DataError, match=named):
        read(f"loaders.py:{name}")


# --- through the command ----------------------------------------------------------------------------------------------


def test_images_are_measured_with_labels_and_loss(measure, photos) -> None:
    images = ("--image-size", 12, "--mean", "0.5", "--std", "0.5,0.5,0.5", "--batch-size", 5)
    rest = ("--model-args", '{"channels": 3}', "--loss", "cross_entropy", "--json", "-")
    outcome = measure(*images, *rest, model="nets.py:cnn", data="photos")
    assert outcome.code == 0, outcome.err
    about = json.loads(outcome.out)["provenance"]
    assert about["data"] == "photos (15 of 15 RGB images, 3 classes)"
    assert about["mean_loss"] > 0


def test_fewer_samples_than_n_are_all_measured_and_the_report_says_so(measure) -> None:
    about = json.loads(measure("--n", 5000, "--json", "-").out)["provenance"]
    assert (about["n_samples"], about["data"]) == (60, "rows.npz (60 of 60 samples)")


def test_a_loss_without_labels_is_refused(measure, folder) -> None:
    np.savez("bare.npz", X=np.ones((20, 6)))
    outcome = measure("--loss", "cross_entropy", data="bare.npz")
    assert outcome.code == 4
    assert "without targets" in outcome.err


def test_class_numbers_beyond_the_outputs_are_refused(measure, folder) -> None:
    np.savez("many.npz", X=np.ones((20, 6)), y=np.arange(20))
    outcome = measure("--loss", "cross_entropy", data="many.npz")
    assert outcome.code == 4
    assert "expected 0 to 2" in outcome.err


def test_probes_auto_work_with_a_generator_only_once_it_has_a_length(measure, folder) -> None:
    (folder / "loaders.py").write_text(LOADERS, encoding="utf-8")
    assert measure("--probes", "auto", data="loaders.py:loader").code == 0
    assert measure("--probes", "auto", data="loaders.py:generator").code == 4
