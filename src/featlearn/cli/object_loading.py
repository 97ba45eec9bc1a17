"""Objects of the user named on the command line: ``package.module:name`` or ``path/to/file.py:name``."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
import traceback
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["blame", "load_object"]


def load_object(spec: str, option: str, error: type[Exception]) -> Any:
    """Import the object that ``spec`` names.

    The current folder can be imported from, as under ``python -m``; a file's own folder too, as under
    ``python file.py``.

    Parameters
    ----------
    spec : str
        ``package.module:name`` or ``path/to/file.py:name``; the name may have dots.
    option : str
        What the user calls it on the command line: it opens the message.
    error : type
        Raised, with a message of one line, when the object cannot be had.
    """
    source, colon, name = spec.rpartition(":")
    if not (colon and source and name):
        raise error(f"Got {option} {spec!r}, but expected 'package.module:name' or 'path/to/file.py:name'.")
    module = _import_file(source, option, error) if source.endswith(".py") else _import_module(source, option, error)
    try:
        return reduce(getattr, name.split("."), module)
    except AttributeError as missing:
        near = difflib.get_close_matches(name, [entry for entry in vars(module) if not entry.startswith("_")])
        hint = f" The closest names there: {', '.join(near)}." if near else ""
        raise error(f"Got {option} {spec!r}, but {source} has no {name!r}.{hint}") from missing


def blame(problem: BaseException) -> str:
    """Return ``Kind: message (file.py, line 12)``, the place being the innermost line that raised it."""
    frames = traceback.extract_tb(problem.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(problem).__name__}: {problem}{place}"


def _import_module(source: str, option: str, error: type[Exception]) -> ModuleType:
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return importlib.import_module(source)
    except ModuleNotFoundError as missing:
        if missing.name and (source == missing.name or source.startswith(f"{missing.name}.")):
            raise error(
                f"Got {option} from module {source!r}, but no module {missing.name!r} can be found. Run in the folder "
                "that holds it, install it, or name the file: path/to/file.py:name."
            ) from missing
        raise error(f"Got {option} from module {source!r}, but importing it failed: {blame(missing)}.") from missing
    except Exception as problem:
        raise error(f"Got {option} from module {source!r}, but importing it failed: {blame(problem)}.") from problem


def _import_file(source: str, option: str, error: type[Exception]) -> ModuleType:
    path = Path(source)
    if not path.is_file():
        raise error(f"Got {option} from {source!r}, but there is no such file.")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    # A file called torch.py must not take the place of the real torch.
    name = path.stem if path.stem not in sys.modules else f"featlearn_user_{path.stem}"
    description = importlib.util.spec_from_file_location(name, path)
    assert description is not None
    assert description.loader is not None  # of a .py file
    module = importlib.util.module_from_spec(description)
    sys.modules[name] = module  # dataclasses and pickles look their module up by name
    try:
        description.loader.exec_module(module)
    except Exception as problem:
        del sys.modules[name]
        raise error(f"Got {option} from {source!r}, but running it failed: {blame(problem)}.") from problem
    return module
