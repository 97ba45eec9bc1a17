"""Features of any torch model, one row a sample: what its layers make of the data, at the cost of a forward pass."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..agop.batches import check_batches, count_batches, parse_batch
from ..agop.finding import unwrap
from ..agop.taps import guest
from ..agop.watching import watching
from ..exceptions import DataError
from .captures import Choice, check_choice, find_capture
from .labelled_batches import check_order, count_rows, first_tensor, join_labels, rows_of, split_batch
from .pooling import Pool, check_pool

__all__ = ["Extraction", "extract", "extract_features"]


def extract_features(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    layer: str | Sequence[str] | None = None,
    call: int | str | None = None,
    pool: str = "auto",
    return_labels: bool = False,
    allow_shuffled: bool = False,
    device: Any = None,
    dtype: Any = None,
    verbose: int = 0,
) -> Any:
    """What layers of a torch model make of the data, one row a sample, in one forward pass.

    Parameters
    ----------
    model : torch.nn.Module
        A guest: it runs in evaluation mode without gradients, and is left exactly as it was.
    batches : iterable
        Tensors or arrays; tuples (inputs, labels, ...); mappings with the input under "input", "inputs" or "x", or else
        of the model's keyword arguments.
    layer : str or sequence of str, optional
        Name of a module, for its output (the first tensor of a tuple); ``"name.input"`` for its input; ``"input"`` for
        the model's own input, also where a module has that name. By default what the last ``nn.Linear`` that runs
        reads: the penultimate features.
    call : int or "last", optional
        Which call of a layer that runs several times in a forward pass, from 0. By default such a layer is refused.
    pool : {"auto", "flatten", "mean"}, default "auto"
        All numbers of a sample, or their mean over positions (pixels, tokens); "auto" is the mean for tensors with four
        axes and all numbers for others. The model's own input is always flattened.
    return_labels : bool, default False
        Return the labels of the batches too, joined.
    allow_shuffled : bool, default False
        Accept a ``DataLoader`` that shuffles.
    device : device, optional
        Where to run, on a copy of the model if it is elsewhere. By default where the model is.
    dtype : dtype, default float32
        Of the features.
    verbose : int, default 0
        Show a progress bar if positive.

    Returns
    -------
    features : array or Tensor of shape (n, d), or dict of them by layer
        Tensors on the CPU if the batches hold tensors, in the order of the batches; a dict for a sequence of layers.
    *labels : array or Tensor of shape (n, ...)
        With ``return_labels``: as many as a batch has.

    Raises
    ------
    UnmeasurableError
        A layer that does not exist, does not run, runs several times, or does not have one row a sample.
    DataError
        No batches, a loader that shuffles, labels that do not match the rows, or a bad argument.

    Warns
    -----
    FeatlearnWarning
        Features that take more than a gigabyte.

    Notes
    -----
    Costs one forward pass and ``n d`` numbers of memory: features are copied once, to where they stay. Where the number
    of rows is not known beforehand (a stream), they are copied again as their store grows. The input is read by the
    first layer in the model's own precision.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    >>> X, y = torch.ones(8, 3), torch.zeros(8)
    >>> extract_features(model, X.split(4)).shape
    torch.Size([8, 5])
    >>> features, labels = extract_features(model, [(X, y)], layer=["0", "input"], return_labels=True)
    >>> {name: tuple(rows.shape) for name, rows in features.items()}
    {'0': (8, 5), 'input': (8, 3)}
    """
    several = isinstance(layer, Iterable) and not isinstance(layer, str | bytes)
    found = extract(
        model,
        batches,
        layers=list(layer) if several else [layer],  # type: ignore[arg-type, list-item]
        call=call,
        pool=pool,
        labels=return_labels,
        allow_shuffled=allow_shuffled,
        device=device,
        dtype=dtype,
        verbose=verbose,
    )
    rows = {name: tensor if found.of_tensors else tensor.numpy() for name, tensor in found.features.items()}
    features = rows if several else next(iter(rows.values()))
    return (features, *found.labels) if return_labels else features


@dataclass(frozen=True, eq=False, kw_only=True)
class Extraction:
    """Features, and how they came about.

    Attributes
    ----------
    features : dict of str to Tensor of shape (n, d)
        By layer, on the CPU; the default layer is called "penultimate".
    labels : tuple
        Joined over the batches, if they were asked for.
    pool : dict of str to {"flatten", "mean"}
        What was done with every layer.
    of_tensors : bool
        Whether the batches held tensors.
    """

    features: dict[str, Tensor]
    labels: tuple[Any, ...]
    pool: dict[str, Pool]
    of_tensors: bool


def extract(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    layers: Sequence[str | None],
    call: Choice = None,
    pool: str = "auto",
    labels: bool = False,
    allow_shuffled: bool = False,
    device: Any = None,
    dtype: Any = None,
    verbose: int = 0,
) -> Extraction:
    """As :func:`extract_features`, which has the parameters, with a record of what was done."""
    check_pool(pool)
    check_choice(call)
    kept_as = _floating(dtype)
    if not layers:
        raise DataError("Got no layers, but expected at least one name, or None for the penultimate features.")
    check_order(check_batches(batches), allow_shuffled)
    model = _placed(unwrap(model), device)
    expected = count_rows(batches)
    captures = [
        find_capture(model, layer, pool=pool, choice=call, dtype=kept_as, rows=expected)
        for layer in dict.fromkeys(layers)
    ]
    inputs = [pair for capture in captures for pair in capture.inputs()]
    outputs = [pair for capture in captures for pair in capture.outputs()]
    n, of_tensors = 0, False
    found: list[tuple[Any, ...]] = []
    with guest(model), torch.no_grad(), watching(inputs, outputs):
        for i, raw in enumerate(_shown(batches, verbose)):
            read, own_labels = split_batch(raw, i)
            rows, of_tensors = rows_of(read, i), isinstance(first_tensor(read), Tensor)
            if labels:
                _check_labels(own_labels, rows, i)
                found.append(own_labels)
            batch = parse_batch(read, model, i)
            for capture in captures:
                capture.begin(n, rows, batch.raw)
            if inputs or outputs:
                batch.call(model)
            for capture in captures:
                capture.end(i)
            n += rows
    return Extraction(
        features={capture.store.name: capture.store.result(n) for capture in captures},
        labels=join_labels(found),
        pool={capture.store.name: capture.how for capture in captures if capture.how is not None},
        of_tensors=of_tensors,
    )


def _check_labels(labels: Sequence[Any], rows: int, index: int) -> None:
    if not labels:
        raise DataError(f"Got batch {index} without labels, but expected (inputs, labels, ...).")
    lengths = [len(label) if np.ndim(label) else 0 for label in labels]
    if any(length != rows for length in lengths):
        raise DataError(f"Got labels of {lengths} rows for {rows} samples in batch {index}, but expected one a sample.")


def _floating(dtype: Any) -> torch.dtype:
    if dtype is None:
        return torch.float32
    try:
        chosen = dtype if isinstance(dtype, torch.dtype) else torch.from_numpy(np.empty(0, np.dtype(dtype))).dtype
    except TypeError:  # nothing that numpy or torch knows
        chosen = None
    if chosen not in (torch.float16, torch.float32, torch.float64):
        raise DataError(f"Got dtype={dtype}, but expected float16, float32 or float64.")
    return chosen


def _placed(model: nn.Module, device: Any) -> nn.Module:
    """The model itself where it is on the device, else a copy that is."""
    here = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
    wanted = here if device is None else torch.device(device)
    same = wanted.type == here.type and wanted.index in (None, here.index)
    return model if same else copy.deepcopy(model).to(wanted)


def _shown(batches: Iterable[Any], verbose: int) -> Iterable[Any]:
    if not verbose:
        return batches
    from rich.console import Console
    from rich.progress import track

    total = count_batches(batches)
    return track(batches, total=total, description="Features", console=Console(stderr=True), transient=True)
