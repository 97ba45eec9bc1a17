from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import featlearn

HEAVY = ["torch", "numpy", "scipy", "sklearn", "pandas", "matplotlib", "jinja2", "typer", "rich", "numba"]


@pytest.mark.parametrize("name", featlearn.__all__)
def test_public_name_imports_and_has_a_docstring(name):
    assert inspect.getdoc(getattr(featlearn, name))


def test_dir_lists_every_public_name():
    assert set(featlearn.__all__) <= set(dir(featlearn))


def test_public_names_are_distinct_and_all_have_a_home():
    assert len(set(featlearn.__all__)) == len(featlearn.__all__)
    assert set(featlearn._HOME) <= set(featlearn.__all__)


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(featlearn.__file__).read_text(encoding="utf-8"))
    guard = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: statement.module
        for statement in guard.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert set(seen) == set(featlearn.__all__)
    assert {name: home for name, home in seen.items() if home is not None} == featlearn._HOME


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'feature_sped'"):
        _ = featlearn.feature_sped


def test_importing_featlearn_imports_nothing_heavy():
    code = f"import featlearn, sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []


def test_measuring_imports_neither_plots_nor_command_line():
    unwanted = ["matplotlib", "jinja2", "typer", "numba", "featlearn.plots", "featlearn.report", "featlearn.cli"]
    code = f"from featlearn import measure_features; import sys; print(*[n for n in {unwanted} if n in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []
