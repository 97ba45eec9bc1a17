"""The model named on the command line, and the weights put into it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor, nn

from .._random import generator, preserved_rng
from ..exceptions import ModelError
from .object_loading import blame, load_object

__all__ = ["load_device", "load_model", "load_reference", "load_weights", "read_weights"]

PICKLED = (".pt", ".pth", ".th", ".bin", ".ckpt")
OUTER_KEYS = ("state_dict", "model_state_dict", "model")
WRAPPER_PREFIXES = ("module.", "_orig_mod.")  # left by DataParallel and by torch.compile
SHOWN = 4


def load_device(name: str) -> torch.device:
    """Device by its name in torch; refused when nothing can be computed on it here."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as problem:
        reason = str(problem).splitlines()[0].rstrip(".")
        raise typer.BadParameter(f"Got --device {name}, which cannot be used here: {reason}.") from problem
    return device


def load_model(spec: str, arguments: str | None, seed: int, device: torch.device) -> nn.Module:
    """Model that ``spec`` names: a module object as it is, anything callable called with ``arguments``.

    Parameters
    ----------
    spec : str
        ``package.module:factory`` or ``path/to/file.py:factory``.
    arguments : str or None
        JSON object of keyword arguments of the factory.
    seed : int
        Weights drawn from torch's global generator are the same ones for the same seed; the generator is given back as
        it was.
    device : torch.device
        Where the model goes.

    Raises
    ------
    typer.BadParameter
        ``arguments`` is not a JSON object, or the model takes none.
    ModelError
        The model cannot be found, made or moved.
    """
    keywords = _parse_arguments(arguments)
    with preserved_rng():
        torch.set_rng_state(generator(seed, "model").get_state())
        model = load_object(spec, "MODEL", ModelError)
        if isinstance(model, nn.Module) and arguments is not None:
            raise typer.BadParameter(f"Got --model-args, but MODEL {spec!r} is a module already: it is not called.")
        if callable(model) and not isinstance(model, nn.Module):
            try:
                model = model(**keywords)
            except Exception as problem:
                raise ModelError(
                    f"Got MODEL {spec!r}, but calling it with {keywords or 'no arguments'} failed: {blame(problem)}. "
                    "Pass what it needs as --model-args '{\"name\": value}'."
                ) from problem
    if not isinstance(model, nn.Module):
        raise ModelError(f"Got a {type(model).__name__} from MODEL {spec!r}, but expected a torch.nn.Module.")
    try:
        return model.to(device)
    except (RuntimeError, NotImplementedError) as problem:
        raise ModelError(f"Got a model that cannot be moved to {device}: {blame(problem)}.") from problem


def read_weights(path: Path, option: str) -> dict[str, Tensor]:
    """Tensors of a checkpoint by name, on the CPU, without an outer ``state_dict`` and without wrapper prefixes.

    Parameters
    ----------
    path : Path
        ``.safetensors``, or ``.pt``, ``.pth``, ``.th``, ``.bin`` or ``.ckpt`` read with ``weights_only=True``: a pickle
        of whole objects can run any code, so it is refused.
    option : str
        What the user calls it on the command line.

    Raises
    ------
    ModelError
        Missing, of another kind, damaged, a pickle of whole objects, or without tensors.
    """
    if not path.is_file():
        raise ModelError(f"Got {option} {path}, but there is no such file.")
    if path.suffix == ".safetensors":
        content = _read_safetensors(path, option)
    elif path.suffix in PICKLED:
        content = _read_pickled(path, option)
    else:
        raise ModelError(f"Got {option} {path}, but expected a file ending in .safetensors, {', '.join(PICKLED)}.")
    outer = next((key for key in OUTER_KEYS if isinstance(content, Mapping) and _holds_tensors(content.get(key))), None)
    if outer is not None:
        content = content[outer]
    if not _holds_tensors(content):
        keys = f" with entries {_some(list(content))}" if isinstance(content, Mapping) else ""
        raise ModelError(
            f"Got {option} {path}, which holds a {type(content).__name__}{keys}, but expected tensors by name. "
            "Save model.state_dict()."
        )
    state = {str(key): value for key, value in content.items()}
    for prefix in WRAPPER_PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def load_weights(model: nn.Module, path: Path, allow_partial: bool) -> list[str]:
    """Copy a checkpoint into the model; return one note for each kind of key that was left out.

    Raises
    ------
    ModelError
        The file cannot be read; keys are missing or unexpected (unless ``allow_partial``), none are in common, shapes
        differ, or values are not finite.
    """
    state = read_weights(path, "--weights")
    notes = _compare(model, state, path, allow_partial)
    model.load_state_dict(state, strict=False)
    return notes


def load_reference(model: nn.Module, path: Path, allow_partial: bool) -> tuple[dict[str, Tensor], list[str]]:
    """An earlier checkpoint of the model, and notes; what a partial one lacks counts as unchanged.

    Raises
    ------
    ModelError
        As for :func:`load_weights`.
    """
    state = read_weights(path, "--reference")
    notes = _compare(model, state, path, allow_partial)
    own = model.state_dict()
    # A tied tensor may be stored under one of its names only.
    tied = {own[key].data_ptr(): state[key] for key in own if key in state and own[key].numel()}
    return {key: state.get(key, tied.get(value.data_ptr(), value)) for key, value in own.items()}, notes


def _compare(model: nn.Module, state: Mapping[str, Tensor], path: Path, allow_partial: bool) -> list[str]:
    """Refuse a checkpoint of another model; notes on the keys that only one of the two has."""
    own = model.state_dict()
    shared = [key for key in own if key in state]
    held = {own[key].data_ptr() for key in shared if own[key].numel()}
    # Not missing: a counter that no evaluation reads, and a tied tensor stored under its other name (safetensors).
    missing = [
        key
        for key in own
        if key not in state and not key.endswith("num_batches_tracked") and own[key].data_ptr() not in held
    ]
    unexpected = [key for key in state if key not in own]
    wrong = [
        f"{key} {tuple(state[key].shape)} where the model has {tuple(own[key].shape)}"
        for key in shared
        if state[key].shape != own[key].shape
    ]
    if wrong:
        raise ModelError(f"Got weights {path} of other shapes: {_some(wrong)}. Is it the checkpoint of this model?")
    if not shared:
        raise ModelError(
            f"Got weights {path} with keys {_some(unexpected)}, but expected keys such as {_some(missing)}: none in "
            "common. Is it the checkpoint of this model?"
        )
    differences = {"missing": missing, "unexpected": unexpected}
    notes = [f"{path}: {len(keys)} {kind} ({_some(keys)})" for kind, keys in differences.items() if keys]
    if notes and not allow_partial:
        raise ModelError(f"Got weights {'; '.join(notes)}. Pass --allow-partial to load the {len(shared)} in common.")
    for key in shared:
        if state[key].is_floating_point() and not bool(torch.isfinite(state[key]).all()):
            raise ModelError(f"Got weights {path} with NaN or infinity in {key}, but expected finite numbers.")
    return notes


def _parse_arguments(arguments: str | None) -> dict[str, Any]:
    if arguments is None:
        return {}
    try:
        keywords = json.loads(arguments)
    except json.JSONDecodeError as problem:
        raise typer.BadParameter(
            f"Got --model-args {arguments!r}, but expected a JSON object ({problem})."
        ) from problem
    if not isinstance(keywords, dict):
        raise typer.BadParameter(f"Got --model-args {arguments!r}, but expected a JSON object of keyword arguments.")
    return keywords


def _read_safetensors(path: Path, option: str) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as problem:
        raise ModelError(f"Got {option} {path}, but it cannot be read as safetensors: {problem}.") from problem


def _read_pickled(path: Path, option: str) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as problem:
        if "weights_only" not in str(problem).lower() and "unsupported" not in str(problem).lower():
            raise ModelError(f"Got {option} {path}, but it is damaged or no checkpoint of torch.") from problem
        raise ModelError(
            f"Got {option} {path}, a pickle of whole Python objects, but only tensors are read from it "
            "(weights_only=True: such a pickle can run any code). Where you trust the file, convert it once: "
            f"torch.save(torch.load({path.name!r}, weights_only=False).state_dict(), 'weights.pt')."
        ) from problem
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError) as problem:
        raise ModelError(f"Got {option} {path}, but it cannot be read: {blame(problem)}.") from problem


def _holds_tensors(content: object) -> bool:
    return isinstance(content, Mapping) and bool(content) and all(isinstance(v, Tensor) for v in content.values())


def _some(names: list[Any]) -> str:
    rest = f", ... {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(str(name) for name in names[:SHOWN]) + rest
