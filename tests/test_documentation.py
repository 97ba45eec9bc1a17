"""What the pages say is true: their Python runs, their links lead somewhere, and the names they list exist."""

from __future__ import annotations

import ast
import importlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import featlearn
from featlearn._random import preserved_rng

ROOT = Path(__file__).parents[1]
HOUSE = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md"]
DOCS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)
PAGES = [*HOUSE, *DOCS]
EXAMPLES = sorted((ROOT / "examples").glob("*/plot_*.py"))

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return [body for kind, body in FENCE.findall(read(page)) if kind == language]


# The blocks of the command line page are about files of the reader's.
RUNNING = [page for page in PAGES if blocks(page, "python") and page != "docs/how-to/command_line.md"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder, a private random state, and what torchrun would tell a single process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launched = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for key, value in launched.items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(tmp_path)
    with preserved_rng():
        torch.manual_seed(0)
        yield tmp_path


def run(page: str) -> dict[str, Any]:
    """Run the Python blocks of a page one after another, as a reader would; what they leave behind."""
    names: dict[str, Any] = {"__name__": page}
    for number, block in enumerate(blocks(page, "python"), start=1):
        exec(compile(block, f"{page}, block {number}", "exec"), names)
    return names


@pytest.mark.parametrize("page", RUNNING)
def test_python_of_the_page_runs(page: str, place: Path) -> None:
    names = run(page)
    own = [value for value in names.values() if str(getattr(value, "__module__", "")).startswith("featlearn")]
    assert own or names["featlearn"] is featlearn
    written = [name for block in blocks(page, "python") for name in re.findall(r'^\w+\.to_html\("(.+?)"', block, re.M)]
    assert [name for name in written if not (place / name).exists()] == []


def test_the_readme_measures_and_fits_in_five_lines_and_sets_up_in_two_commands(place: Path) -> None:
    parts = blocks("README.md", "python")
    assert [len([line for line in part.splitlines() if line.strip()]) for part in parts] == [5, 5, 6, 6, 4, 6, 5]
    names = run("README.md")
    report = names["report"]
    assert names["machine"].score(names["test"].images / 255, names["test"].labels) > 0.75
    assert (place / "filters.png").exists()
    assert [group["name"] for group in names["optimizer"].param_groups] == ["1", "3"]
    assert "alignment" in str(names["net"].mechanisms().labels)
    assert (place / "phases.html").exists()
    assert names["tree"].n_leaves_ <= 4
    assert 0.85 < names["head"].score(names["unseen"].X, names["unseen"].y) < 0.96
    assert report["3"].trivial
    assert abs(report["1"].nfa - report["1"].nfa_null) < 0.05  # a fresh network is at chance
    assert "<html" in (place / "report.html").read_text(encoding="utf-8")
    (setup,) = blocks("README.md", "console")
    assert [line.split("#")[0].strip() for line in setup.splitlines()] == ["make demo", "make test"]


def test_the_callbacks_of_the_page_follow_a_run(place: Path) -> None:
    names = run("docs/how-to/track_training.md")
    logged: list[dict[str, Any]] = []
    model, batches = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)), torch.randn(40, 6).split(10)
    trainer = SimpleNamespace(global_step=0, logger=SimpleNamespace(log_metrics=logged.append))

    lightning = names["LightningFeatures"](batches, every=2)
    lightning.on_train_start(trainer, model)
    for batch in range(8):  # gradients of two batches make one step
        trainer.global_step = (batch + 1) // 2
        lightning.on_train_batch_end(trainer, model, None, None, batch)
    lightning.on_train_end(trainer, model)
    assert [step for step, _ in lightning.tracker.history] == [0, 2, 4]
    assert [entry["step"] for entry in logged] == [0, 2, 4]
    assert {"0/nfa_excess", "0/nfa"} <= set(logged[0])

    hugging = names["TrainerFeatures"](batches, every=3)
    hugging.on_train_begin(None, None, None, model=model)
    for _ in range(6):
        hugging.on_step_end(None, None, None, model=model)
    hugging.on_train_end(None, None, None, model=model)
    assert [step for step, _ in hugging.tracker.history] == [0, 3, 6]
    assert (place / "features.html").exists()


def slug(heading: str) -> str:
    """The anchor that GitHub and MyST give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def exists(page: str, target: str) -> bool:
    path, _, anchor = target.partition("#")
    found = (ROOT / page).parent / path if path else ROOT / page
    inside = found.resolve().relative_to(ROOT.resolve())
    if inside.parts[:2] == ("docs", "examples"):  # made by sphinx-gallery from examples/
        found = ROOT / Path(*inside.parts[1:]).with_suffix(".py")
    if anchor and found.suffix == ".md":
        headings = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
        return anchor in map(slug, headings)
    return found.exists()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    links = [target for target in LINK.findall(FENCE.sub("", read(page))) if "://" not in target]
    assert [target for target in links if not exists(page, target)] == []


def test_broken_links_are_found() -> None:
    assert exists("README.md", "docs/theory/measure.md#the-chance-level")
    assert not exists("README.md", "docs/theory/measure.md#no-such-heading")
    assert not exists("README.md", "docs/no_such_page.md")
    assert not exists("docs/theory/measure.md", "../examples/01_measure/plot_no_such_example.rst")


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page: str) -> None:
    named = re.findall(r"`((?:tests|benchmarks|tools|examples|docs|src)/[\w./-]+\.\w+)`", read(page))
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_that_a_page_names_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    code = [*re.findall(r"`(make [a-z ]+)", read(page)), *re.findall(r"^(make [a-z ]+)", read(page), re.MULTILINE)]
    named = {word for command in code for word in command.split()[1:]}
    assert named <= targets


@pytest.mark.parametrize("name", featlearn.__all__)
def test_every_public_name_is_on_the_api_page(name: str) -> None:
    page = read("docs/api/index.md")
    if (ROOT / "src" / "featlearn" / name).is_dir():
        assert f"`featlearn.{name}`" in page
    else:
        assert re.search(rf"^   {name}$", page, re.MULTILINE)


def test_every_name_on_the_api_page_exists() -> None:
    module, seen = "", 0
    for line in read("docs/api/index.md").splitlines():
        if current := re.match(r"\.\. currentmodule:: (\S+)", line):
            module = current[1]
        elif entry := re.fullmatch(r"   ([A-Za-z]\w*)", line):
            assert hasattr(importlib.import_module(module), entry[1])
            seen += 1
    assert seen > 20


def test_the_change_log_and_the_citation_name_the_version() -> None:
    version = featlearn.__version__
    dated = re.search(rf"^## \[{re.escape(version)}\] - (\d{{4}}-\d\d-\d\d)$", read("CHANGELOG.md"), re.MULTILINE)
    assert dated
    citation = read("CITATION.cff")
    assert f"\nversion: {version}\n" in citation
    assert f'\ndate-released: "{dated[1]}"\n' in citation


def test_the_tree_in_the_architecture_is_the_tree() -> None:
    tree = next(body for body in blocks("ARCHITECTURE.md", "") if "src/featlearn/" in body)
    folders: list[tuple[int, Path]] = []
    seen = set()
    for line in tree.splitlines():
        name, indent = line.split()[0], len(line) - len(line.lstrip())
        folders = [(depth, folder) for depth, folder in folders if depth < indent]
        path = (folders[-1][1] if folders else ROOT) / name
        if indent - (folders[-1][0] if folders else 0) <= 2:
            assert path.exists(), path
            seen.add(path.resolve())
        if name.endswith("/"):
            folders.append((indent, path))
    rooms = {path.resolve() for path in (ROOT / "src" / "featlearn").iterdir() if (path / "__init__.py").exists()}
    assert rooms <= seen


def test_pictures_of_the_readme_are_small() -> None:
    pictures = [target for target in LINK.findall(read("README.md")) if target.endswith(".png")]
    assert pictures
    for picture in pictures:
        content = (ROOT / picture).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) < 300_000


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_have_a_title_and_use_names_that_exist(example: Path) -> None:
    tree = ast.parse(example.read_text(encoding="utf-8"))
    title, rule = (ast.get_docstring(tree) or "").splitlines()[:2]
    assert set(rule) == {"="}
    assert len(rule) == len(title)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    own = [node for node in imports if (node.module or "").split(".")[0] == "featlearn"]
    assert own
    for node in own:
        module = importlib.import_module(str(node.module))
        assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_every_folder_of_examples_has_a_header() -> None:
    folders = {ROOT / "examples", *(example.parent for example in EXAMPLES)}
    assert len(folders) > 1
    assert [folder.name for folder in folders if not (folder / "GALLERY_HEADER.rst").exists()] == []


@pytest.mark.parametrize("page", [*PAGES, *(str(example.relative_to(ROOT)) for example in EXAMPLES)])
def test_no_page_holds_a_path_of_one_machine(page: str) -> None:
    assert not re.search(r"(?<![\w.])/(home|root|tmp|work|mnt|Users)/", read(page))
