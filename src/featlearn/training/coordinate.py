r"""Coordinate check: does training behave alike at every width, or at every depth?

A few steps of training at each size; then, for each layer, the exponent :math:`\beta` of

.. math:: \mathrm{rms}(f_l) \propto \text{size}^\beta, \qquad
          \mathrm{rms}(f_l(t) - f_l(0)) \propto \text{size}^\beta, \qquad
          \cos\theta_l \propto \text{size}^\beta

with its confidence interval. A scaling rule transfers if the exponents are zero.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import nn

from .._random import seeded_rng
from ..agop.batches import Outputs, check_outputs, parse_batch
from ..agop.feature_speed import chosen_layers
from ..agop.finding import find_layers, unwrap
from ..agop.layers import Rows
from ..agop.losses import Loss
from ..agop.updates import check_update
from ..exceptions import DataError, FeatlearnWarning, ModelError, UnmeasurableError
from .coordinate_results import (
    QUANTITIES,
    CoordinateCheck,
    CoordinateRecord,
    CoordinateSlope,
    Over,
    RunFailure,
    fit_slope,
)
from .coordinate_run import Coordinates, Diverged, watch_training
from .slopes import FEWEST_SIZES

__all__ = ["CoordinateCheck", "CoordinateRecord", "CoordinateSlope", "coordinate_check"]

Mode = Literal["train", "eval"]

# Layers of two depths that correspond, and the one of which a rule can make the change independent of depth.
PLACES = ("first", "middle", "last hidden", "readout")
_JUDGED_PLACE = "last hidden"
_JUDGED: dict[Over, tuple[str, ...]] = {
    "width": tuple(QUANTITIES),
    "depth": ("feature_rms", "feature_change_rms"),
}


def coordinate_check(
    factory: Callable[[int], nn.Module],
    widths: Sequence[int] | None = None,
    batch: Any = None,
    loss: Loss | None = None,
    *,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    depths: Sequence[int] | None = None,
    steps: int = 3,
    seeds: int = 3,
    layers: str | Rows | Sequence[str | Rows] = "auto",
    tolerance: float = 0.15,
    confidence: float = 0.95,
    judged: Sequence[str] | None = None,
    outputs: Outputs = "logits",
    mode: Mode = "train",
    random_state: int = 0,
    progress: Callable[[int, int | None], None] | None = None,
) -> CoordinateCheck:
    r"""Whether features, their changes and their angles depend on width, or on depth: slopes with a verdict.

    .. math:: \log q_l = \alpha_l + \beta_l \log(\text{size}) + \text{noise}

    for :math:`q_l` each of :math:`\mathrm{rms}(f_l(t))`, :math:`\mathrm{rms}(f_l(t) - f_l(0))` and :math:`\cos\theta_l`
    after the last step t, over all sizes and seeds. A quantity is flat if the interval of :math:`\beta_l` lies inside
    [-tolerance, tolerance], depends on size if it lies outside, and is undecided otherwise.

    Parameters
    ----------
    factory : callable
        ``factory(size) -> torch.nn.Module``, a new model each time, initialised and then trained here. What it draws
        from the global generators of torch, numpy or Python is fixed by ``random_state``, size and seed.
    widths : sequence of at least 3 int
        Ascending, each better at least twice the one before. The models must have the same layers.
    batch : (inputs, targets) or mapping
        The one batch of all steps of all models.
    loss : callable
        ``(outputs, targets) -> Tensor``, the mean over the batch.
    optimizer : callable
        ``optimizer(model) -> torch.optim.Optimizer``, with the rates that the rule gives to this model.
    depths : sequence of at least 3 int
        In place of ``widths``. Layers of different depths correspond by place: the first, the one half way through
        the hidden layers, the last hidden one, the readout.
    steps, seeds : int, default 3
        Steps a run, runs a size.
    layers : "auto", names, globs or Rows
        As for :func:`feature_speed`.
    tolerance : float, default 0.15
        Largest exponent that still counts as none.
    confidence : float, default 0.95
        Of the intervals.
    judged : sequence of str, optional
        Quantities that the overall verdict counts, of "feature_rms", "feature_change_rms" and "cos_theta". By default
        all three over width, and the first two over depth: see Notes.
    outputs : "logits" or callable
        ``(model, batch) -> Tensor`` replaces the model's own outputs.
    mode : "train" or "eval"
        Mode of dropout and normalisation. A new model's running statistics say nothing of its features, so the default
        is the mode in which models are trained. All passes of a run draw the same random numbers: dropout keeps its
        masks, and what changes is the work of the optimiser. Dropout inside ``nn.MultiheadAttention`` is off.
    random_state : int, default 0
        Seed of all runs. The caller's generators are not advanced.
    progress : callable, optional
        Called with the runs done and the runs there are.

    Returns
    -------
    CoordinateCheck
        Frozen; ``.passed`` (True, False or None for undecided), ``.summary()``, ``.frame()``, ``.records()``,
        ``.plot()``.

    Raises
    ------
    DataError, ModelError, UnmeasurableError
        Each says what was got, what was expected and what to do.

    Warns
    -----
    FeatlearnWarning
        Sizes closer together than a factor of two: their slopes have wide intervals.

    Notes
    -----
    Over width the hidden layers are judged; the readout is shown. Under muP its output starts at width^(-1/2), and a
    readout that starts at zero is not flat after one step: neither is a fault. A run that meets numbers that are not
    finite stops, is named in ``.failures``, and fails the check.

    Over depth the last hidden layer is judged, which the readout reads: where all layers contribute equally to the
    loss decay, only the share l/L of it passes through layer l, so that the change of the first layer falls with depth
    under any such rule. The angle is not judged. In plain ReLU networks :math:`\cos\theta_l` falls like
    :math:`l^{-1/2}` at any rate; a rule can make up for it, as the feature-speed correction does, but not undo it.

    Costs ``steps + 1`` forward and ``steps`` backward passes a run, and memory for four copies of the layers' outputs
    beside one model. Scatter that grows with size widens intervals that assume it does not.

    References
    ----------
    Yang et al., "Tensor Programs V", arXiv 2203.03466: the check of activation sizes over width. Chizat and Netrapalli,
    "The Feature Speed Formula", arXiv 2311.18718: the angle.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> x = torch.linspace(-1, 1, 40).reshape(10, 4)
    >>> def factory(width):
    ...     hidden = nn.Linear(4, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()
    ...     return nn.Sequential(*hidden, nn.Linear(width, 1))
    >>> check = coordinate_check(
    ...     factory, [32, 64, 128, 256], (x, x[:, :1]), nn.functional.mse_loss,
    ...     optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    ... )
    >>> check.passed  # one rate for all widths
    False
    """
    over, sizes = _sizes(widths, depths)
    counted = _judged(judged, over)
    _check_arguments(factory, batch, loss, optimizer, mode)
    _check_numbers(steps, seeds, random_state, tolerance, confidence)
    check_outputs(outputs)
    assert loss is not None  # callable

    runs: list[_Run] = []
    kind = ""
    plan = [(seed, size) for seed in range(seeds) for size in sizes]
    for done, (seed, size) in enumerate(plan):
        if progress is not None:
            progress(done, len(plan))
        seeded = seeded_rng(random_state, "coordinate_check", size, seed)
        with seeded, torch.inference_mode(False), torch.enable_grad():
            model = _model(factory, size, mode)
            with_steps = _optimizer(optimizer, model)
            run = _run(model, batch, loss, with_steps, layers, outputs, steps, _Run(over, size, seed))
        kind = type(with_steps).__name__
        _check_same_layers([*runs, run])
        runs.append(run)
    if progress is not None:
        progress(len(plan), len(plan))
    readout = next((run.readout for run in runs if run.readout is not None), None)
    return CoordinateCheck(
        over=over,
        sizes=sizes,
        seeds=seeds,
        steps=steps,
        tolerance=float(tolerance),
        confidence=float(confidence),
        slopes=tuple(_slopes(runs, steps, tolerance, confidence, counted)),
        measured=tuple(record for run in runs for record in run.records),
        failures=tuple(run.failure for run in runs if run.failure is not None),
        readout=readout,
        optimizer=kind,
        mode=mode,
    )


@dataclass
class _Run:
    """One model of one size and seed, and what was seen of it."""

    over: Over
    size: int
    seed: int
    records: list[CoordinateRecord] = field(default_factory=list)
    readout: str | None = None
    failure: RunFailure | None = None

    def compared_as(self, names: Sequence[str], last: str) -> dict[str, str]:
        """What each layer is compared as, and its name here; the readout is noted on the way."""
        self.readout = last if last in names and self.over == "width" else PLACES[-1] if last in names else None
        if self.over == "width":
            return {name: name for name in names}
        hidden = [name for name in names if name != last]
        if not hidden:
            raise UnmeasurableError(
                f"Got a model of depth {self.size} whose only measured layer is its last, {last!r}, but expected "
                "hidden layers. Name some with layers=."
            )
        found = dict(zip(PLACES, (hidden[0], hidden[(len(hidden) - 1) // 2], hidden[-1]), strict=False))
        return found | ({PLACES[-1]: last} if last in names else {})


def _run(
    model: nn.Module,
    batch: Any,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    layers: str | Rows | Sequence[str | Rows],
    outputs: Outputs,
    steps: int,
    run: _Run,
) -> _Run:
    chosen, _, explicit = chosen_layers(model, layers)
    taken = {layer.name for layer in chosen}
    others = [layer for name, layer in find_layers(model)[0].items() if name not in taken]
    parsed = parse_batch(batch, model)
    step = 0
    try:
        watched = watch_training(model, chosen, others, parsed, loss, outputs, optimizer, steps)
        for seen, last in watched:
            _check_ran(taken if explicit else set(), seen)
            for label, name in run.compared_as(list(seen), last).items():
                place: dict[str, Any] = {"size": run.size, "seed": run.seed, "step": step, "layer": label, "name": name}
                run.records.append(CoordinateRecord(**place, **vars(seen[name])))
            step += 1
    except Diverged as stop:
        run.failure = RunFailure(size=run.size, seed=run.seed, step=step, reason=str(stop))
    return run


def _slopes(
    runs: Sequence[_Run], steps: int, tolerance: float, confidence: float, counted: Sequence[str]
) -> list[CoordinateSlope]:
    last = [record for run in runs for record in run.records if record.step == steps]
    readouts = {run.readout for run in runs}
    over = runs[0].over
    found = []
    for quantity in QUANTITIES:
        for layer in dict.fromkeys(record.layer for run in runs for record in run.records):
            hidden = layer == _JUDGED_PLACE if over == "depth" else layer not in readouts
            judged = hidden and quantity in counted
            found.append(fit_slope(last, layer, quantity, tolerance, confidence, judged))
    return found


def _model(factory: Callable[[int], nn.Module], size: int, mode: Mode) -> nn.Module:
    model = factory(size)
    if not isinstance(model, nn.Module):
        raise ModelError(f"Got {type(model).__name__} from factory({size}), but expected a torch.nn.Module.")
    model = unwrap(model).train(mode == "train")
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.eval()  # its projections are seen by computing it again, which cannot draw the same masks
    return model


def _optimizer(optimizer: Callable[[nn.Module], torch.optim.Optimizer], model: nn.Module) -> torch.optim.Optimizer:
    made = optimizer(model)
    if not isinstance(made, torch.optim.Optimizer):
        raise DataError(
            f"Got {type(made).__name__} from optimizer(model), but expected a torch.optim.Optimizer, such as "
            "lambda model: torch.optim.SGD(model.parameters(), lr=0.1)."
        )
    check_update(made)
    held = {id(parameter) for group in made.param_groups for parameter in group["params"]}
    if not any(id(parameter) in held for parameter in model.parameters()):
        raise ModelError(
            f"Got {type(made).__name__}, which holds none of the model's parameters. Build it from the model that "
            "optimizer= is called with."
        )
    return made


# --- what is refused --------------------------------------------------------------------------------------------------


def _sizes(widths: Sequence[int] | None, depths: Sequence[int] | None) -> tuple[Over, tuple[int, ...]]:
    if (widths is None) == (depths is None):
        got = "neither widths nor depths" if widths is None else "both widths and depths"
        raise DataError(f"Got {got}, but expected one of them.")
    over: Over = "width" if depths is None else "depth"
    given = widths if depths is None else depths
    try:
        sizes = tuple(operator.index(size) for size in given or ())
    except TypeError:
        sizes = ()
    if len(sizes) < FEWEST_SIZES or sizes[0] < 1 or any(b <= a for a, b in pairwise(sizes)):
        raise DataError(
            f"Got {over}s={given!r}, but expected at least {FEWEST_SIZES} ascending positive integers, such as "
            f"{'(64, 128, 256, 512)' if over == 'width' else '(4, 8, 16, 32)'}."
        )
    close = next(((a, b) for a, b in pairwise(sizes) if b < 2 * a), None)
    if close is not None:
        warnings.warn(
            f"Got {over}s {close[0]} and {close[1]}, less than a factor of two apart: slopes over so short a range "
            "have wide intervals.",
            FeatlearnWarning,
            stacklevel=3,
        )
    return over, sizes


def _judged(judged: Sequence[str] | None, over: Over) -> tuple[str, ...]:
    chosen = _JUDGED[over] if judged is None else tuple([judged] if isinstance(judged, str) else judged)
    wrong = [quantity for quantity in chosen if quantity not in QUANTITIES]
    if wrong or not chosen:
        raise DataError(f"Got judged={judged!r}, but expected some of {', '.join(map(repr, QUANTITIES))}.")
    return chosen


def _check_arguments(factory: object, batch: object, loss: object, optimizer: object, mode: str) -> None:
    for name, value, signature in (
        ("factory", factory, "(size) -> torch.nn.Module"),
        ("loss", loss, "(outputs, targets) -> Tensor"),
        ("optimizer", optimizer, "(model) -> torch.optim.Optimizer"),
    ):
        if not callable(value) or (name == "factory" and isinstance(value, nn.Module)):
            raise DataError(f"Got {name} of type {type(value).__name__}, but expected a callable {signature}.")
    if batch is None:
        raise DataError("Got batch=None, but expected one batch: (inputs, targets) or a mapping.")
    if mode not in ("train", "eval"):
        raise DataError(f"Got mode={mode!r}, but expected 'train' or 'eval'.")


def _check_numbers(steps: object, seeds: object, random_state: object, tolerance: float, confidence: float) -> None:
    for name, number, least in (("steps", steps, 1), ("seeds", seeds, 1), ("random_state", random_state, 0)):
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise DataError(f"Got {name}={number!r}, but expected an integer of at least {least}.")
    if not 0 < tolerance < math.inf:
        raise DataError(f"Got tolerance={tolerance!r}, but expected a positive number, such as 0.15.")
    if not 0 < confidence < 1:
        raise DataError(f"Got confidence={confidence!r}, but expected a number between 0 and 1, such as 0.95.")


def _check_ran(named: set[str], seen: Mapping[str, Coordinates]) -> None:
    missing = sorted(named - set(seen))
    if missing:
        raise UnmeasurableError(f"Got layer {missing[0]!r}, which cannot be measured: it did not run.")


def _check_same_layers(runs: Sequence[_Run]) -> None:
    """The last run has the layers of the first: over width they are compared by name, over depth by place."""
    now = runs[-1]
    first = next((run for run in runs if run.records), now)
    before, after = ({record.layer for record in run.records} for run in (first, now))
    if now.records and before != after:
        only = [
            f"{sorted(names)} only at {now.over} {size}"
            for names, size in ((before - after, first.size), (after - before, now.size))
            if names
        ]
        raise ModelError(
            f"Got other layers at {now.over} {now.size} than at {first.size}: {' and '.join(only)}, but expected the "
            "same names at every width. Where size changes the layers, pass it as depths=."
        )
