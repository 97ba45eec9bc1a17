from __future__ import annotations

import json
import os
import stat

import numpy as np
import pandas as pd
import pytest

from featlearn.report.files import atomic_write, write_table
from featlearn.report.json import dump_json, write_json


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "page.html"
    atomic_write(path, "old")
    atomic_write(str(path), "new é")
    assert path.read_text(encoding="utf-8") == "new é"
    assert list(tmp_path.iterdir()) == [path]


def test_text_that_cannot_be_encoded_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        atomic_write(path, "new" * 10_000 + "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interruption_while_moving_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("old")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_keeps_pointing_at_the_file_that_changed(tmp_path):
    target, link = tmp_path / "real.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    atomic_write(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    atomic_write(tmp_path / "written", "text")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "written")}
    assert len(modes) == 1


def test_a_missing_folder_and_a_folder_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*absent"):
        atomic_write(tmp_path / "absent" / "page.html", "text")
    with pytest.raises(IsADirectoryError, match="which is a folder"):
        atomic_write(tmp_path, "text")


def test_a_device_is_written_to_and_stays_a_device():
    atomic_write(os.devnull, "text")
    assert not os.path.isfile(os.devnull)


def test_a_table_is_a_page_with_escaped_names(tmp_path):
    frame = pd.DataFrame({"value": [0.123456, float("nan")]}, index=["<b>layer</b>", "other"])
    write_table(frame, tmp_path / "table.html", title="A < B")
    page = (tmp_path / "table.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;layer&lt;/b&gt;" in page
    assert "<b>" not in page
    assert "<title>A &lt; B</title>" in page
    assert "0.1235" in page
    assert "nan" not in page.lower()


def test_json_is_strict_and_floats_read_back_exactly(tmp_path):

    given = {"a": [0.1 + 0.2, np.float32(0.5), np.int64(3)], "b": np.eye(2), "c": (1, "é"), "d": None, "e": True}
    given |= {"nan": float("nan"), "inf": [float("inf"), np.float64("-inf")], "path": tmp_path}

    def refuse(constant):
        raise AssertionError(constant)

    write_json(given, tmp_path / "numbers.json")
    read = json.loads((tmp_path / "numbers.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert read == {
        "a": [0.1 + 0.2, 0.5, 3],
        "b": [[1.0, 0.0], [0.0, 1.0]],
        "c": [1, "é"],
        "d": None,
        "e": True,
        "nan": None,
        "inf": [None, None],
        "path": str(tmp_path),
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [({"layers": [1, {2, 3}]}, r"Got set as the object\['layers'\]\[1\]"), ({"a": {1: 2}}, "the key 1 in the object")],
)
def test_what_json_cannot_hold_is_named_with_its_place_and_nothing_is_written(tmp_path, given, message):
    with pytest.raises(TypeError, match=message):
        write_json(given, tmp_path / "numbers.json")
    with pytest.raises(TypeError, match=message):
        dump_json(given)
    assert list(tmp_path.iterdir()) == []
