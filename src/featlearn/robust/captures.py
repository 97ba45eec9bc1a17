"""What is caught of a model in a forward pass: its input, one of its layers, or what its last linear layer reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from ..agop.reference_model import closest_names
from ..agop.watching import See
from ..exceptions import DataError, UnmeasurableError
from .labelled_batches import first_tensor
from .pooling import Pool, RowStore, choose_pool, pooled

__all__ = ["Capture", "Choice", "check_choice", "find_capture"]

INPUT = "input"
PENULTIMATE = "penultimate"
Choice = int | str | None  # of the call, where a layer runs several times in a forward pass


class Capture(ABC):
    """Rows of one request, which go from the batch at hand straight to their place in the store.

    Parameters
    ----------
    store : RowStore
        Has the name of the request.
    pool : {"auto", "flatten", "mean"}
    choice : int, "last" or None
        Which call counts.
    """

    def __init__(self, store: RowStore, pool: str, choice: Choice) -> None:
        self.store = store
        self.pool = pool
        self.choice = choice
        self.how: Pool | None = None
        self._start = self._rows = 0
        self._calls: Counter[str] = Counter()

    def inputs(self) -> list[tuple[nn.Module, See]]:
        """Modules whose inputs it has to see."""
        return []

    def outputs(self) -> list[tuple[nn.Module, See]]:
        """Modules whose outputs it has to see."""
        return []

    def begin(self, start: int, rows: int, inputs: Any) -> None:
        """A batch is about to run, whose rows start at ``start``."""
        self._start, self._rows = start, rows
        self._calls.clear()

    @abstractmethod
    def end(self, index: int) -> None:
        """Batch ``index`` has run; raises UnmeasurableError if the layer was not seen."""

    def _counts(self, key: str) -> bool:
        """Whether the call of layer ``key`` that has just begun is one that counts."""
        place = self._calls[key]
        self._calls[key] += 1
        return not isinstance(self.choice, int) or place == self.choice

    def _check_calls(self, key: str, index: int) -> None:
        calls = self._calls[key]
        if self.choice is None and calls > 1:
            raise UnmeasurableError(
                f"Layer {key!r} runs {calls} times in one forward pass, but expected one call. Pass call=0 for the "
                "first, call='last' for the last."
            )
        if calls <= (self.choice if isinstance(self.choice, int) else 0):
            ran = f"ran {calls} times" if calls else "did not run"
            wanted = f"call={self.choice}" if isinstance(self.choice, int) else "a call"
            raise UnmeasurableError(
                f"Layer {key!r} {ran} in batch {index}, but expected {wanted}. Name a layer that the forward pass uses."
            )

    def _write(self, key: str, value: Any, module: nn.Module) -> None:
        tensor = value[0] if isinstance(value, tuple | list) and value else value
        if not isinstance(tensor, Tensor):
            raise UnmeasurableError(
                f"Layer {key!r} gave {type(tensor).__name__}, but expected a tensor. Name a module inside it."
            )
        if tensor.dim() == 0 or len(tensor) != self._rows:
            raise UnmeasurableError(
                f"Layer {key!r} gave a tensor of shape {tuple(tensor.shape)} for {self._rows} samples, but expected "
                "samples on its first axis. Name another layer."
            )
        self.how = choose_pool(tensor, self.pool)
        self.store.write(self._start, pooled(tensor, self.how, module))


class _OwnInput(Capture):
    """The model's input, all its numbers."""

    def begin(self, start: int, rows: int, inputs: Any) -> None:
        super().begin(start, rows, inputs)
        self.how = "flatten"
        self.store.write(start, pooled(first_tensor(inputs), "flatten", None))

    def end(self, index: int) -> None:
        """Nothing to check: it was there before the batch ran."""


class _OneLayer(Capture):
    """Input or output of a module that was named."""

    def __init__(self, store: RowStore, pool: str, choice: Choice, module: nn.Module, before: bool) -> None:
        super().__init__(store, pool, choice)
        self.module = module
        self.before = before

    def inputs(self) -> list[tuple[nn.Module, See]]:
        return [(self.module, self._see)] if self.before else []

    def outputs(self) -> list[tuple[nn.Module, See]]:
        return [] if self.before else [(self.module, self._see)]

    def end(self, index: int) -> None:
        self._check_calls(self.store.name, index)

    def _see(self, value: Any) -> None:
        if self._counts(self.store.name):
            self._write(self.store.name, value, self.module)


class _LastLinear(Capture):
    """Input of the linear layer that runs last, which is known when the batch has run."""

    def __init__(self, store: RowStore, pool: str, choice: Choice, linears: dict[str, nn.Module]) -> None:
        super().__init__(store, pool, choice)
        self.linears = linears
        self._held: dict[str, tuple[Tensor, int]] = {}
        self._last = ""

    def inputs(self) -> list[tuple[nn.Module, See]]:
        return [(module, self._hold(key)) for key, module in self.linears.items()]

    def end(self, index: int) -> None:
        if not self._calls:
            raise UnmeasurableError(f"No linear layer ran in batch {index}, but expected one. Pass layer=.")
        self._check_calls(self._last, index)
        tensor, version = self._held[self._last]
        # Held and not copied, because any of the linear layers may be the last; what overwrites it is noticed.
        if tensor._version != version:
            raise UnmeasurableError(
                f"Got the input of {self._last!r} changed in place after it was read. "
                f"Pass layer={self._last + '.' + INPUT!r}, which copies it in time."
            )
        self._write(self._last, tensor, self.linears[self._last])
        self._held.clear()

    def _hold(self, key: str) -> See:
        def see(value: Tensor) -> None:
            self._last = key
            if self._counts(key):
                if not isinstance(self.choice, int):
                    self._held.clear()  # only the latest can be the last
                if value.is_inference():  # has no version that would tell a change
                    with torch.inference_mode(False):
                        value = value.clone()
                self._held[key] = (value, value._version)

        return see


def find_capture(
    model: nn.Module, layer: str | None, *, pool: str, choice: Choice, dtype: torch.dtype, rows: int | None
) -> Capture:
    """What a name stands for.

    Parameters
    ----------
    model : torch.nn.Module
    layer : str or None
        As for :func:`featlearn.robust.features.extract_features`.
    pool, choice, dtype, rows
        How and where its rows are kept, and how many there will be.

    Raises
    ------
    UnmeasurableError
        No such module, with the closest names.
    """
    name = PENULTIMATE if layer is None else layer
    if not isinstance(name, str):
        raise UnmeasurableError(f"Got the layer {layer!r}, but expected the name of a module, or None.")
    store = RowStore(name, dtype, rows)
    if name == INPUT:
        return _OwnInput(store, pool, choice)
    if layer is None:
        linears: dict[str, nn.Module] = {
            key: module for key, module in model.named_modules() if isinstance(module, nn.Linear)
        }
        if not linears:
            raise UnmeasurableError(
                f"Got {type(model).__name__}, which has no nn.Linear to read penultimate features. "
                "Pass layer= with the name of a module."
            )
        return _LastLinear(store, pool, choice, linears)
    modules = dict(model.named_modules(remove_duplicate=False))
    if name in modules:
        return _OneLayer(store, pool, choice, modules[name], before=False)
    owner = name.removesuffix(f".{INPUT}")
    if owner != name and owner in modules:
        return _OneLayer(store, pool, choice, modules[owner], before=True)
    raise UnmeasurableError(
        f"Got layer {name!r}, but the model has no such module. The closest are "
        f"{closest_names(name, {key: None for key in modules if key})}; '.{INPUT}' behind a name is its input."
    )


def check_choice(choice: Choice) -> None:
    """Refuse anything but None, "last" and whole numbers from 0."""
    whole = isinstance(choice, int) and not isinstance(choice, bool) and choice >= 0
    if not (choice is None or choice == "last" or whole):
        raise DataError(f"Got call={choice!r}, but expected None, 'last' or a number from 0.")
