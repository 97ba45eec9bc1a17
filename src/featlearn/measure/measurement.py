"""One measurement: accumulators fed batch by batch, then the report. What a call and a tracker share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..agop.batches import Batch, Outputs, check_batches, count_batches, parse_batch
from ..agop.feature_speed import speed_of_layers
from ..agop.finding import find_layers, resolve_layers, unwrap
from ..agop.layers import Rows
from ..agop.losses import Loss
from ..agop.of_module import ModuleAGOP
from ..agop.probes import Probes, check_probes
from ..agop.taps import guest
from ..distributed.reduce import all_gather, broadcast_from_first, rank_and_world
from ..exceptions import DataError, FeatlearnError, UnmeasurableError
from .alignment import check_power, check_statistic
from .collapse import CollapseAccumulator, NeuralCollapse
from .drift import KernelDrift, LazyRich, kernel_drift, lazy_rich
from .last_features import LastFeatures, class_labels
from .layer_report import Evidence, Style, report_layer
from .lossside import LossSide, check_loss
from .provenance import describe_loss, fingerprint_of_data, fingerprint_of_weights, now, versions
from .reference import covers_model, describe_reference, reference_weights
from .results import FeatureReport

__all__ = ["MeasurementInterrupted", "Options", "Progress", "run_measurement"]

Progress = bool | Callable[[int, int | None], None]

DRIFT_PASSES = 32  # outputs up to which the tangent kernels are exact; as many shared probes beyond
COLLAPSE_NUMBERS = 2**22  # last features held for the nearest-centre agreement; a p x p matrix beyond
DRIFT_SAMPLES = 512  # samples that lazy_rich compares, the first ones: memory does not grow with the data


class MeasurementInterrupted(KeyboardInterrupt):
    """Measuring was interrupted; ``report`` covers the batches finished until then."""

    def __init__(self, report: FeatureReport) -> None:
        super().__init__("measuring was interrupted; .report covers the batches finished until then")
        self.report = report


@dataclass(frozen=True, kw_only=True)
class Options:
    """Arguments of :func:`featlearn.measure_features` after the first two, and what a tracker goes without.

    ``thorough``: nulls sampled by Haar draws, errors at other powers, F, G and K themselves in the report, and
    fingerprints. ``spectra``: eigenvalues, directions, and powers other than 1.
    """

    layers: str | Rows | Sequence[str | Rows] = "auto"
    reference: Any = None
    outputs: Outputs = "logits"
    loss: Loss | None = None
    probes: Probes = "exact"
    power: float = 1.0
    statistic: str = "pearson"
    random_state: int = 0
    group: Any = None
    kernel_samples: int = 64
    thorough: bool = True
    spectra: bool = True

    def check(self) -> None:
        """Refuse bad values before any work."""
        check_probes(self.probes)
        check_power(self.power)
        check_statistic(self.statistic)
        if self.loss is not None:
            check_loss(self.loss)
        if not (self.outputs == "logits" or callable(self.outputs)):
            raise DataError(f"Got outputs={self.outputs!r}, but expected 'logits' or a function (model, batch).")
        whole = isinstance(self.random_state, int) and not isinstance(self.random_state, bool)
        if not whole or self.random_state < 0:
            raise DataError(f"Got random_state={self.random_state!r}, but expected a non-negative integer.")
        whole = isinstance(self.kernel_samples, int) and not isinstance(self.kernel_samples, bool)
        if not whole or self.kernel_samples < 0 or self.kernel_samples == 1:
            raise DataError(f"Got kernel_samples={self.kernel_samples!r}, but expected 0 (none) or an integer >= 2.")


def run_measurement(
    model: nn.Module, batches: Iterable[Any], options: Options, progress: Progress = False
) -> tuple[FeatureReport, list[str]]:
    """The report, and what deserves a warning."""
    options.check()
    batches = check_batches(batches)
    start = time.perf_counter()
    work = _Work(unwrap(model), options, count_batches(batches))
    with guest(work.model):
        with _bar(progress) as advance:
            complete = work.read(batches, advance)
        report = work.report(complete, start)
    if not complete:
        raise MeasurementInterrupted(report)
    return report, work.complaints


class _Work:
    """One measurement: accumulators fed batch by batch, then the report."""

    def __init__(self, model: nn.Module, options: Options, n_batches: int | None) -> None:
        self.model, self.options, self.total = model, options, n_batches
        self.rank, self.world = rank_and_world(options.group)
        layers, self.refused, explicit = resolve_layers(model, options.layers)
        self.references = reference_weights(options.reference, layers)
        self.agop = ModuleAGOP(
            model,
            layers,
            explicit,
            options.outputs,
            options.probes,
            options.random_state,
            n_batches=_sum_over(options.group, n_batches),
            jackknife=True,
            references=self.references,
            reduce_coordinates=options.loss is None,
            group=options.group,
        )
        layers = list(self.agop.layers)
        self.side = None if options.loss is None else LossSide(model, layers, options.loss, options.outputs)
        self.last = LastFeatures(list(find_layers(model)[0].values()))
        self.collapse = CollapseAccumulator(keep=COLLAPSE_NUMBERS)
        self.speed: dict[str, Any] = {}
        self.runs_reference = options.reference is not None and covers_model(options.reference, model)
        # A model handed over frozen, for inference, is asked about as if all of it were trained.
        self.trainable = {name for name, p in model.named_parameters() if p.requires_grad} or None
        self.labelled = False
        self.kept: list[Any] = []
        self.n_kept = self.n_batches = self.n_outputs = 0
        self.data_sha256: str | None = None
        self.complaints: list[str] = []
        self.notes: list[str] = []

    def read(self, batches: Iterable[Any], advance: Callable[[int, int | None], None]) -> bool:
        """Feed every batch; ``False`` when a keyboard interrupt ended it after at least one."""
        try:
            for i, raw in enumerate(batches):
                self._add(raw, i)
                advance(self.n_batches, self.total)
        except KeyboardInterrupt:
            if not self.n_batches or self.options.group is not None:
                raise
            return False
        if not self.n_batches:
            raise DataError("Got no batches, but expected at least one. A generator can be read only once.")
        return True

    def _add(self, raw: Any, i: int) -> None:
        batch = parse_batch(raw, self.model, i)
        with self.last.watching(batch.targets):
            outputs = self.agop.add(batch, i * self.world + self.rank)
        if self.side is not None:
            self.side.add(batch)
        if i == 0:
            self._first(batch, raw)
        features = self.last.of(self.agop.head)
        if features is not None:
            self.collapse.add(features, batch.targets)
        if self.runs_reference and self.n_kept < DRIFT_SAMPLES:
            self.kept.append(raw)
            self.n_kept += len(outputs)
        self.n_outputs = outputs[0].numel()
        self.n_batches += 1

    def _first(self, batch: Batch, raw: Any) -> None:
        if self.options.thorough:
            self.data_sha256 = fingerprint_of_data(raw)
        self.labelled = class_labels(batch.targets) is not None
        if self.options.loss is not None:
            layers = [layer for layer in self.agop.layers if layer.name in self.agop.calls]
            with self._in_full_precision():  # forward-mode derivatives do not know every operation under autocast
                self.speed = speed_of_layers(
                    self.model, layers, batch, self.options.loss, self.options.outputs, trainable=self.trainable
                )

    def _in_full_precision(self) -> torch.autocast:
        """Without the caller's autocast."""
        return torch.autocast(next(iter(self.model.parameters())).device.type, enabled=False)

    # --- results ------------------------------------------------------------------------------------------------------

    def report(self, complete: bool, start: float) -> FeatureReport:
        """Everything as one frozen report, the same on every rank."""
        options = self.options
        self.agop.reduce()
        self.n_batches = _sum_over(options.group, self.n_batches) or 0
        self.speed = broadcast_from_first(self.speed, options.group)
        if self.side is not None:
            if not self.side.complete:
                self.notes.append("loss side left out: it was interrupted within a batch")
                self.side = None
            else:
                self.side.reduce(options.group)
        found = self.agop.finalize()
        if not found:
            reasons = "; ".join(f"{name}: {why}" for name, why in (self.refused | self.agop.skipped).items())
            raise UnmeasurableError(f"Got {type(self.model).__name__}, of which no layer can be measured: {reasons}.")
        style = Style(
            power=options.power,
            statistic=options.statistic,
            random_state=options.random_state,
            thorough=options.thorough,
            spectra=options.spectra or options.power != 1,
        )
        by_name = {layer.name: layer for layer in self.agop.layers}
        with self._in_full_precision():
            layers = {name: report_layer(by_name[name], self._evidence(name), style) for name in found}
        self._complain(layers)
        parts: dict[str, Any] = {
            "lazy_rich": broadcast_from_first(self._lazy_rich(), options.group),
            "kernel_drift": broadcast_from_first(self._kernel_drift(), options.group),
            "collapse": self._collapse(),
        }
        provenance = broadcast_from_first(self._provenance(complete, start), options.group)
        return FeatureReport(layers, self.refused | self.agop.skipped, provenance, **parts)

    def _evidence(self, name: str) -> Evidence:
        agop = self.agop
        isotropic = agop.isotropic.get(name)
        kernel = agop.kernels[name] if isotropic is None else float(isotropic)
        return Evidence(
            kernel=kernel,
            positions=agop.positions[name],
            calls=agop.calls[name],
            n_samples=agop.n_samples if isinstance(kernel, float) else kernel.n_samples,
            probed=isinstance(agop.probes_used, int),
            reference=self.references.get(name),
            side=self.side,
            speed=self.speed.get(name),
        )

    def _complain(self, layers: dict[str, Any]) -> None:
        """What the user should hear about although there is a report."""
        if self.n_batches == 1:
            self.complaints.append(
                "Got one batch, so there is no standard error. Pass the data in ten batches or more."
            )
        short = [n for n, layer in layers.items() if "too few samples or probes" in (layer.reason or "")]
        if short:
            self.complaints.append(
                f"Got too few samples or probes for {', '.join(short)}: the norm of the AGOP cannot be told from "
                "their noise. Pass more samples, or more probes."
            )

    def _lazy_rich(self) -> LazyRich | None:
        if self.options.reference is not None and not self.runs_reference and self.options.thorough:
            self.notes.append("lazy_rich and kernel_drift left out: the reference does not cover the whole model")
        return self._from_reference("lazy_rich", lazy_rich, labels=self.labelled)

    def _kernel_drift(self) -> KernelDrift | None:
        options = self.options
        if not options.kernel_samples:
            return None
        return self._from_reference(
            "kernel_drift",
            kernel_drift,
            labels=self.labelled,
            max_samples=options.kernel_samples,
            probes="exact" if self.n_outputs <= DRIFT_PASSES else DRIFT_PASSES,
            random_state=options.random_state,
            loss=options.loss,
        )

    def _from_reference(self, name: str, function: Callable[..., Any], **options: Any) -> Any:
        """Compare with the reference on the first batches; what cannot be compared is a note, not the end."""
        if not self.runs_reference or self.rank:
            return None
        chosen = [layer.name for layer in self.agop.layers if layer.name in self.agop.calls and layer.rows is None]
        chosen = [layer for layer in chosen if layer not in self.agop.skipped]
        try:
            return function(
                self.model,
                self.options.reference,
                self.kept,
                layers=chosen,
                outputs=self.options.outputs,
                **options,
            )
        except FeatlearnError as error:
            self.notes.append(f"{name} left out: {error}")
            return None

    def _collapse(self) -> NeuralCollapse | None:
        if self.options.group is not None or not self.collapse.n_samples or self.agop.head is None:
            return None
        try:
            return self.collapse.finalize(weight=self.agop.head.weight()[0])
        except FeatlearnError as error:
            self.notes.append(f"neural collapse left out: {error}")
            return None

    def _provenance(self, complete: bool, start: float) -> dict[str, Any]:
        model, agop, options = self.model, self.agop, self.options
        parameter = next(iter(model.parameters()))
        return {
            "model": type(model).__name__,
            "parameters": sum(p.numel() for p in model.parameters()),
            "weights_sha256": fingerprint_of_weights(model) if options.thorough else None,
            "data": None,
            "data_sha256": self.data_sha256,
            "n_samples": agop.n_samples,
            "n_batches": self.n_batches,
            "random_state": options.random_state,
            "probes": agop.probes_used,
            "probes_requested": check_probes(options.probes),
            "backward_passes": agop.passes,
            "compression": agop.compressed,
            "batched": agop.batched,
            "statistic": options.statistic,
            "power": float(options.power),
            "dtype": str(parameter.dtype).removeprefix("torch."),
            "device": str(parameter.device),
            "loss": describe_loss(options.loss),
            "mean_loss": None if self.side is None else self.side.mean_loss,
            "reference": describe_reference(options.reference),
            "versions": versions(),
            "seconds": round(time.perf_counter() - start, 3),
            "date": now(),
            "command": None,
            "notes": [*agop.notes, *self.notes],
            "complete": complete,
        }


def _sum_over(group: Any, count: int | None) -> int | None:
    """Batches of all processes; ``None`` when some do not know theirs."""
    counts = all_gather(count, group)
    return None if None in counts else sum(n for n in counts if n is not None)


@contextmanager
def _bar(progress: Progress) -> Iterator[Callable[[int, int | None], None]]:
    """What to call after each batch."""
    if callable(progress):
        yield progress
        return
    if not progress:
        yield lambda done, total: None
        return
    from rich.progress import Progress as Bar

    with Bar(transient=True) as bar:
        task = bar.add_task("Measuring", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
