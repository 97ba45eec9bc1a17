"""The original files of Fashion-MNIST: found in order, checked, fetched only when asked; on tiny files made here."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
from http.client import IncompleteRead

import numpy as np
import pytest

from featlearn.datasets import fashion_mnist, load_fashion_mnist
from featlearn.exceptions import DataError

NAMES = tuple(fashion_mnist.SHA256)


def content(name, n):
    labels = name.endswith("idx1-ubyte")
    head = struct.pack(">HBBI", 0, 8, 1, n) if labels else struct.pack(">HBB3I", 0, 8, 3, n, 2, 2)
    return head + bytes((7 * i + n) % 10 for i in range(n if labels else 4 * n))


TINY = {name: content(name, 3 if name.startswith("train") else 2) for name in NAMES}


@pytest.fixture
def places(monkeypatch, tmp_path):
    """Empty folders in place of the usual ones, and checksums of the tiny files; nothing is on the network."""
    folders = {name: tmp_path / name for name in ("data", "debian", "home", "web")}
    for folder in folders.values():
        folder.mkdir()
    monkeypatch.setenv("FEATLEARN_DATA", str(folders["data"]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folders["home"]))
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", folders["debian"])
    monkeypatch.setattr(fashion_mnist, "URL", folders["web"].as_uri() + "/")
    monkeypatch.setattr(fashion_mnist, "SHA256", {n: hashlib.sha256(b).hexdigest() for n, b in TINY.items()})
    return {
        "data": folders["data"] / "fashion-mnist",
        "debian": folders["debian"],
        "cache": folders["home"] / "featlearn" / "fashion-mnist",
        "web": folders["web"],
    }


def write(folder, names=NAMES, *, packed=True, level=9):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(TINY[name], level))
        else:
            (folder / name).write_bytes(TINY[name])
    return folder


def files_under(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("place", ["data", "debian", "cache"])
def test_every_usual_folder_is_looked_into(places, place, packed):
    assert not fashion_mnist.has_fashion_mnist()
    write(places[place], packed=packed)
    assert fashion_mnist.has_fashion_mnist()
    data = load_fashion_mnist("train", full=True)
    assert repr(data) == "ImageData('Fashion-MNIST', 'train', 3 images of shape (1, 2, 2))"
    assert data.images.flatten().tolist() == list(TINY[NAMES[0]][16:])
    assert len(load_fashion_mnist("test", n=1, full=True)) == 1


def test_the_first_folder_that_holds_the_files_wins_and_is_checked(places):
    write(places["debian"])
    broken = write(places["data"]) / f"{NAMES[0]}.gz"
    broken.write_bytes(gzip.compress(TINY[NAMES[0]][:-1] + b"\xff"))
    with pytest.raises(DataError, match=r"data/fashion-mnist/train-images-idx3-ubyte\.gz with 28 bytes of SHA-256"):
        load_fashion_mnist(full=True)
    broken.unlink()
    assert len(load_fashion_mnist(full=True)) == 3


def test_folder_is_looked_into_alone(places, tmp_path):
    write(places["debian"])
    with pytest.raises(DataError, match="elsewhere") as caught:
        load_fashion_mnist(folder=tmp_path / "elsewhere")
    assert "debian" not in str(caught.value).split("Install")[0]
    # One split's files are enough for that split.
    write(tmp_path / "elsewhere", NAMES[2:])
    assert len(load_fashion_mnist("test", folder=tmp_path / "elsewhere")) == 2
    with pytest.raises(DataError, match="no folder with train-images-idx3-ubyte"):
        load_fashion_mnist("train", folder=tmp_path / "elsewhere")


def test_the_checksum_is_of_the_unpacked_bytes(places):
    write(places["data"], level=1)
    write(places["cache"], level=9)
    assert (places["data"] / f"{NAMES[0]}.gz").read_bytes() != (places["cache"] / f"{NAMES[0]}.gz").read_bytes()
    assert len(load_fashion_mnist(full=True)) == 3


def test_nothing_is_fetched_unless_asked(places, monkeypatch):
    write(places["web"])

    def refuse(*args, **options):
        raise AssertionError("the network was used")

    monkeypatch.setattr(fashion_mnist, "urlopen", refuse)
    with pytest.raises(DataError, match="dataset-fashion-mnist") as caught:
        load_fashion_mnist(full=True)
    assert "download=True" in str(caught.value)
    assert all(str(places[name]) in str(caught.value) for name in ("data", "debian", "cache"))
    write(places["debian"])
    assert len(load_fashion_mnist(download=True)) == 3  # it is there already


def test_download_goes_to_the_cache_or_to_folder_and_only_what_the_split_needs(places, tmp_path):
    write(places["web"])
    assert len(load_fashion_mnist("test", download=True)) == 2
    assert files_under(places["cache"]) == [f"{name}.gz" for name in sorted(NAMES[2:])]
    assert len(load_fashion_mnist("train", folder=tmp_path / "mine", download=True)) == 3
    assert files_under(tmp_path / "mine") == [f"{name}.gz" for name in sorted(NAMES[:2])]
    (places["web"] / f"{NAMES[2]}.gz").unlink()
    assert len(load_fashion_mnist("test", full=True)) == 2


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (gzip.compress(b"another file"), "with 12 bytes of SHA-256"),
        (gzip.compress(TINY[NAMES[0]])[:-9], "expected an idx file"),
        (b"<html>not found</html>", "expected an idx file"),
    ],
    ids=["other", "truncated", "page"],
)
def test_a_wrong_download_is_refused_and_nothing_is_written(places, sent, message):
    write(places["web"])
    (places["web"] / f"{NAMES[0]}.gz").write_bytes(sent)
    with pytest.raises(DataError, match=message):
        load_fashion_mnist(download=True)
    assert files_under(places["cache"].parent.parent) == []


def test_no_answer_names_the_address(places):
    with pytest.raises(DataError, match=r"no answer from file:.*train-images-idx3-ubyte\.gz"):
        load_fashion_mnist(download=True)


def test_an_answer_that_ends_too_early_names_the_address(places, monkeypatch):
    class Answer(io.BytesIO):
        def read(self, *args):
            raise IncompleteRead(b"", 99)

    monkeypatch.setattr(fashion_mnist, "urlopen", lambda *args, **options: Answer())
    with pytest.raises(DataError, match=r"no answer from .*IncompleteRead"):
        load_fashion_mnist(download=True)
    assert files_under(places["cache"].parent.parent) == []


def test_a_download_can_be_read_by_whom_the_user_lets_read(places):
    (write(places["web"]) / "plain").touch()
    load_fashion_mnist(download=True)
    assert (places["cache"] / f"{NAMES[0]}.gz").stat().st_mode == (places["web"] / "plain").stat().st_mode


def test_a_write_that_fails_leaves_nothing_behind(places, monkeypatch):
    write(places["web"])

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(fashion_mnist.Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        load_fashion_mnist(download=True)
    assert files_under(places["cache"]) == []


@pytest.mark.parametrize("damage", ["magic", "short"])
def test_content_of_another_format_is_refused_even_with_its_checksum(places, monkeypatch, damage):
    wrong = b"PK" + TINY[NAMES[0]][2:] if damage == "magic" else TINY[NAMES[0]][:-1]
    monkeypatch.setitem(fashion_mnist.SHA256, NAMES[0], hashlib.sha256(wrong).hexdigest())
    (write(places["data"]) / f"{NAMES[0]}.gz").write_bytes(gzip.compress(wrong))
    with pytest.raises(DataError, match="expected an idx file of bytes"):
        load_fashion_mnist(full=True)


def test_the_subset_stays_the_default(places):
    write(places["data"])
    assert len(load_fashion_mnist()) == 4000


@pytest.mark.skipif(not fashion_mnist.has_fashion_mnist(), reason="the original files of Fashion-MNIST are not here")
@pytest.mark.parametrize(("split", "per_class"), [("train", 6000), ("test", 1000)])
def test_original_files_are_balanced_and_begin_with_the_subset(split, per_class):
    data, subset = load_fashion_mnist(split, full=True), load_fashion_mnist(split)
    assert data.images.shape == (10 * per_class, 1, 28, 28)
    assert np.bincount(data.labels).tolist() == [per_class] * 10
    boots = data.images[data.labels == 9]
    ours = subset.images[subset.labels == 9]
    assert bool((boots[: len(ours)] == ours).all())
