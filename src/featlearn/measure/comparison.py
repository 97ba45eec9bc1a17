"""One pass of two models over the same batches, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..agop.batches import Batch, Outputs, check_batches, flat_outputs, parse_batch, raw_outputs
from ..agop.finding import find_layers
from ..agop.layers import Layer
from ..agop.reference_model import twin_layers
from ..agop.samples import by_sample, mixed_layers, targets_of
from ..agop.taps import Taps
from ..exceptions import DataError, UnmeasurableError
from ..linalg.similarity import FEWEST
from .feature_change import FeatureChange, LastFeatureScatter, relative

__all__ = ["Comparison"]

NAN = float("nan")
WIDEST = 8192  # last features, with the targets, beyond which their scatter matrix is not small any more
READOUTS = ("linear", "lora")


class Comparison:
    """A model beside a copy of it with other weights, inside ``guest`` of both: ``read(batches)``, then the measures.

    Each batch goes through the model first, whose pre-activations are kept, then through the other, where each call is
    compared with its twin and dropped.

    Attributes
    ----------
    layers : list of Layer
        Those of ``layers`` that run, in the order in which they run.
    changes : dict of str to FeatureChange
    n_samples : int
    reasons : list of str
        Why a number is nan.
    """

    def __init__(
        self,
        model: nn.Module,
        other: nn.Module,
        layers: Sequence[Layer],
        outputs: Outputs,
        *,
        labels: bool,
        explicit: bool,
    ) -> None:
        self.model, self.other, self.outputs, self.labels, self.explicit = model, other, outputs, labels, explicit
        self.layers = list(layers)
        self.changes: dict[str, FeatureChange] = {}
        self.n_samples = 0
        self.reasons: list[str] = []
        self._readout: Layer | None = None
        self._last = LastFeatureScatter()
        self._moved = self._size = 0.0

    def read(self, batches: Iterable[Any]) -> None:
        """Compare the two models on every batch.

        Raises
        ------
        DataError
            No batches, or targets that do not fit.
        UnmeasurableError
            A layer named explicitly does not run.
        """
        largest = 0
        for i, raw in enumerate(check_batches(batches)):
            batch = parse_batch(raw, self.model, i)
            if i == 0:
                self._first(batch)
            n = self._compare(batch)
            largest = max(largest, n)
            self.n_samples += n
        if self.n_samples == 0:
            raise DataError("Got no batches, but expected at least one. A generator can be read only once.")
        if largest < FEWEST:
            self.reasons.append(f"cka: no batch has the {FEWEST} samples that it needs")
        self.reasons += [
            f"features of {name!r}: it ran otherwise at the reference"
            if change.unequal
            else f"cka of {name!r}: its rows are not laid out sample by sample"
            for name, change in self.changes.items()
            if change.unequal or change.unaligned
        ]

    def _first(self, batch: Batch) -> None:
        """Find the layers that run, and the last linear layer: the one that makes the outputs, if there is one."""
        linear = [layer for layer in find_layers(self.model)[0].values() if layer.rule.kind in READOUTS]
        with Taps([*self.layers, *linear]) as taps:
            raw = taps.forward(partial(raw_outputs, self.model, batch, self.outputs))
            ran = list(dict.fromkeys(call.layer.name for call in taps.calls))
            unseen = dict(taps.unseen)
            readouts = [call for call in taps.calls if any(call.layer is layer for layer in linear)]
            made = [call for call in readouts if call.made(raw)] or readouts
        self._readout = made[-1].layer if made else None
        by_name = {layer.name: layer for layer in self.layers}
        for name in by_name:
            if name not in ran and self.explicit:
                why = unseen.get(name, "it never ran")
                raise UnmeasurableError(f"Layer {name!r} cannot be compared: {why}. Leave it out of layers=.")
        self.layers = [by_name[name] for name in ran if name in by_name]
        self.changes = {layer.name: FeatureChange(layer.name) for layer in self.layers}

    # --- one batch ----------------------------------------------------------------------------------------------------

    def _compare(self, batch: Batch) -> int:
        kept: dict[str, list[Tensor]] = {layer.name: [] for layer in self.layers}

        def keep(layer: Layer, tensor: Tensor, output: Tensor) -> None:
            kept[layer.name].append(output.clone())  # an activation may overwrite it in place

        with self._last_input(self.model) as last, Taps(self.layers, on_forward=keep) as taps:
            flat = flat_outputs(taps.forward(partial(raw_outputs, self.model, batch, self.outputs)))
            n = len(flat)
            self._find_unaligned(taps, flat)

        def compare(layer: Layer, tensor: Tensor, output: Tensor) -> None:
            change = self.changes[layer.name]
            mine = kept[layer.name].pop(0) if kept[layer.name] else None
            if mine is None or mine.shape != output.shape:
                change.unequal = True
                return
            pair = [layer.output(h, n) for h in (mine, output)]
            change.unaligned = change.unaligned or len(pair[0]) % n > 0
            change.add(*(pair if change.unaligned else [by_sample(h, n, layer.name) for h in pair]))

        twins = twin_layers(self.layers, self.other)
        with self._last_input(self.other) as last_of_other, Taps(twins, on_forward=compare) as taps:
            taps.forward(partial(raw_outputs, self.other, batch, self.outputs))
        for name, change in self.changes.items():
            change.unequal = change.unequal or bool(kept[name])
            change.close()
        if last and last_of_other:
            self._add_last(last[-1], last_of_other[-1], batch, n)
        return n

    def _find_unaligned(self, taps: Taps, flat: Tensor) -> None:
        """Layers whose samples are not plainly on the first axis are looked at through gradients."""
        n = len(flat)
        doubtful = [call for call in taps.calls if call.shape[:1] != (n,) or n in call.shape[1:-1]]
        if n > 1 and doubtful and flat.requires_grad:
            for name in mixed_layers(doubtful, flat, n):
                self.changes[name].unaligned = True

    @contextmanager
    def _last_input(self, model: nn.Module) -> Iterator[list[Tensor]]:
        """Inputs of the last linear layer, as they come."""
        inputs: list[Tensor] = []
        if self._readout is None:
            yield inputs
            return

        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            tensor = args[0] if args else next(iter(kwargs.values()))
            inputs[:] = [tensor.detach().clone()]

        module = model.get_submodule(self._readout.module_name)
        handle = module.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            yield inputs
        finally:
            handle.remove()

    def _add_last(self, features: Tensor, reference: Tensor, batch: Batch, n: int) -> None:
        self._moved += float((features.double() - reference.double()).square().sum())
        self._size += float(reference.double().square().sum())
        rows = features.reshape(-1, features.shape[-1])
        targets = self._targets(batch, n, len(rows)) if self.labels else None
        if rows.shape[1] + (0 if targets is None else targets.shape[1]) <= WIDEST:
            self._last.add(rows, targets)

    def _targets(self, batch: Batch, n: int, rows: int) -> Tensor:
        targets = targets_of(batch, n, "labels=True")
        if rows != n:
            raise DataError(f"Got {rows} positions of {n} samples at the last linear layer, but labels=True needs one.")
        if targets.is_floating_point():
            return targets.reshape(n, -1)
        assert self._readout is not None
        classes = max(2, self._readout.weight().shape[1])
        if targets.dim() != 1 or int(targets.min()) < 0 or int(targets.max()) >= classes:
            raise DataError(
                f"Got integer targets of shape {tuple(targets.shape)} from {int(targets.min())} to "
                f"{int(targets.max())}, but expected classes (n,) from 0 to {classes - 1}, the outputs of the model."
            )
        return torch.nn.functional.one_hot(targets.long(), classes)

    # --- results ------------------------------------------------------------------------------------------------------

    @property
    def last_feature_change(self) -> float:
        """``rms(phi - phi_0) / rms(phi_0)`` of the last linear layer's input."""
        return relative(self._moved, self._size)

    def distances(self) -> tuple[float, float | None]:
        """Lazy-rich distance of the last features from the outputs, and from the targets if asked for."""
        if self._readout is None:
            self.reasons.append("feature_change and d_lr of the model: it has no linear layer")
            return NAN, NAN if self.labels else None
        if self._last.n_rows == 0:
            self.reasons.append(f"d_lr: the last features (and targets) are wider than {WIDEST}")
            return NAN, NAN if self.labels else None
        outputs = self._last.distance_from_outputs(self._readout.weight()[0])
        targets = self._last.distance_from_targets() if self.labels else None
        if outputs != outputs or targets != targets:
            self.reasons.append("d_lr: the last features, the outputs or the targets are constant")
        return outputs, targets
