"""A network probed layer by layer and epoch by epoch, with both of its controls made on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..agop.batches import check_batches
from ..agop.finding import unwrap
from ..agop.reference_model import reference_model, reference_state
from ..exceptions import DataError, ModelError
from .captures import INPUT
from .features import Extraction, extract
from .probe import Prober, Source, check_settings
from .probe_results import CONTROLS, FeatureProbe
from .untrained import untrained_copy

__all__ = ["probe_model"]

PIXELS, UNTRAINED = CONTROLS


def probe_model(
    model: nn.Module,
    batches: Iterable[Any],
    test_batches: Iterable[Any],
    *,
    layers: str | Sequence[str] | None = None,
    checkpoints: Mapping[str, Any] | None = None,
    untrained: nn.Module | None = None,
    probe: Any = None,
    pool: str = "auto",
    n_refits: int = 5,
    names: Sequence[str] = ("y", "s"),
    random_state: int = 0,
    verbose: int = 0,
) -> FeatureProbe:
    """How well layers of a network tell the core and the spurious attribute, over depth and over training.

    Parameters
    ----------
    model : torch.nn.Module
        A guest, as in :func:`~featlearn.robust.features.extract_features`.
    batches : iterable of (x, y, s)
        Rows that fit the probes: inputs, core labels, spurious attribute. They did not train the network, and have rows
        of every group (y, s). Read once for every network, in the same order.
    test_batches : iterable of (x, y, s)
        Other rows, that score the probes.
    layers : str or sequence of str, optional
        As ``layer`` of :func:`~featlearn.robust.features.extract_features`; by default the penultimate features.
    checkpoints : mapping of str to state dict, optional
        By the name that they are to have ("epoch 3"), in order; these are probed in place of the model's own weights.
    untrained : torch.nn.Module, optional
        Control network with the same layers. By default :func:`~featlearn.robust.untrained.untrained_copy`.
    probe, n_refits
        As for :func:`~featlearn.robust.probe.feature_probe`.
    pool : {"auto", "flatten", "mean"}, default "auto"
        As for :func:`~featlearn.robust.features.extract_features`. "auto" takes means of the channels of convolutions,
        but all pixels of the raw input: what pooling loses then counts against the network. "flatten" compares like
        with like where memory allows it; the table tells what was done, and the summary where it differs.
    names : pair of str, default ("y", "s")
        As for :func:`~featlearn.robust.probe.feature_probe`.
    random_state : int, default 0
        Of the untrained network, the probes, the balancing and the guesses.
    verbose : int, default 0
        Show a progress bar if positive.

    Returns
    -------
    FeatureProbe
        The raw input is "pixels". With one layer, the untrained network is "init" and checkpoints keep their names;
        with several, features are called by their layer, behind that name ("epoch 3: conv2", "init: conv2"). Each is
        held against the raw input and the same layer of the untrained network.

    Raises
    ------
    DataError, ModelError, UnmeasurableError
        As for the functions that it calls; batches that are no triples, that can be read only once, or that come in
        another order the second time.

    Notes
    -----
    Costs one forward pass and two fits of the probe a layer, for every checkpoint and for the control. Features of one
    network are in memory at a time.

    The raw input is a control as strong as a linear head on it: of pixels that is much, but token numbers of a
    transformer are labels without an order, from which it reads next to nothing. Hold such a network against "init"
    alone, whose embeddings tell tokens apart, or put counts of tokens in place of the raw input (``feature_probe``).

    References
    ----------
    Izmailov, Kirichenko, Gruver and Wilson, "On feature learning in the presence of spurious correlations",
    arXiv 2210.11369.

    Examples
    --------
    >>> import torch
    >>> from sklearn.linear_model import LogisticRegression
    >>> y, s = torch.randint(2, (2, 200), generator=torch.Generator().manual_seed(0))
    >>> X = torch.stack([y, s], dim=1).float()
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    >>> result = probe_model(model, [(X, y, s)], [(X, y, s)], probe=LogisticRegression(C=100.0))
    >>> list(result.table.index), float(result.table.loc["pixels", "core_wga"])
    (['pixels', 'init', 'penultimate'], 1.0)
    """
    model = unwrap(model)
    wanted = list(layers) if isinstance(layers, Iterable) and not isinstance(layers, str) else [layers]
    check_settings(probe, n_refits, names, random_state)
    _check_request(wanted, checkpoints, (batches, test_batches))
    # Checked before anything runs, loaded one at a time.
    states = {name: _state(model, name, state) for name, state in (checkpoints or {}).items()}
    control = untrained_copy(model, random_state) if untrained is None else unwrap(untrained)
    with _progress(verbose, 1 + len(wanted) * (1 + max(1, len(states)))) as advance:
        found = _read(control, (batches, test_batches), [INPUT, *wanted], pool)
        prober = Prober(*_labels(found), probe=probe, n_refits=n_refits, names=names, random_state=random_state)
        _add(prober, found, UNTRAINED, len(wanted) > 1, advance)
        del found
        for name, network in _networks(model, states):
            found = _read(network, (batches, test_batches), wanted, pool)
            if not prober.has_rows(*_labels(found)):
                raise DataError(
                    "Got other labels at the second pass over the batches, but expected the same rows in the same "
                    "order. Pass a list of batches, or a loader that does not shuffle."
                )
            _add(prober, found, name, len(wanted) > 1, advance)
            del found  # before the next network's are made
    return prober.result()


def _state(model: nn.Module, name: str, state: Any) -> dict[str, Any]:
    try:
        return reference_state(model, state)
    except ModelError as problem:
        raise ModelError(f"Checkpoint {name!r}: {problem}") from problem


def _networks(model: nn.Module, states: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str | None, nn.Module]]:
    """The model itself, or a copy of it with the weights of each checkpoint."""
    if not states:
        yield None, model
    for name, state in states.items():
        yield name, reference_model(model, state)


def _read(
    network: nn.Module, batches: tuple[Iterable[Any], Iterable[Any]], layers: Sequence[str | None], pool: str
) -> tuple[Extraction, Extraction]:
    """Features and labels of both sets of rows."""
    first, second = (extract(network, rows, layers=layers, pool=pool, labels=True) for rows in batches)
    for found in (first, second):
        if len(found.labels) != 2:
            raise DataError(f"Got batches of {1 + len(found.labels)} parts, but expected three: (x, y, s).")
    return first, second


def _labels(found: tuple[Extraction, Extraction]) -> tuple[Any, Any, Any, Any]:
    (y, s), (test_y, test_s) = (extraction.labels for extraction in found)
    return y, s, test_y, test_s


def _add(
    prober: Prober,
    found: tuple[Extraction, Extraction],
    checkpoint: str | None,
    several: bool,
    advance: Callable[[], None],
) -> None:
    for layer, rows in found[0].features.items():
        source = _source(layer, checkpoint, several, found[0].pool[layer])
        prober.add(source, *prober.checked(source.name, rows, found[1].features[layer]))
        advance()


def _source(layer: str, checkpoint: str | None, several: bool, pool: str) -> Source:
    if layer == INPUT:
        return Source(PIXELS, control=PIXELS, layer=layer, pool=pool)

    def called(checkpoint: str | None) -> str:
        return layer if checkpoint is None else f"{checkpoint}: {layer}" if several else checkpoint

    if checkpoint == UNTRAINED:
        return Source(called(checkpoint), control=UNTRAINED, layer=layer, checkpoint=checkpoint, pool=pool)
    return Source(
        called(checkpoint), layer=layer, checkpoint=checkpoint, pool=pool, against=(PIXELS, called(UNTRAINED))
    )


def _check_request(wanted: Sequence[str | None], checkpoints: Any, batches: tuple[Any, Any]) -> None:
    for rows in batches:
        if iter(check_batches(rows)) is rows:
            raise DataError(
                f"Got batches as a {type(rows).__name__}, which can be read only once, but expected to read them for "
                "every network. Pass a list or a loader."
            )
    if not wanted or len(set(wanted)) < len(wanted) or INPUT in wanted:
        raise DataError(
            f"Got layers={wanted}, but expected different names of modules. The raw input is probed in any case."
        )
    if checkpoints is None:
        return
    if not isinstance(checkpoints, Mapping) or not checkpoints or not all(isinstance(key, str) for key in checkpoints):
        raise DataError("Got checkpoints without names, but expected a dict of state dicts: {'epoch 3': state, ...}.")
    taken = [name for name in CONTROLS if name in checkpoints]
    if taken:
        raise DataError(f"Got a checkpoint called {taken[0]!r}, which is the name of a control. Call it otherwise.")


@contextmanager
def _progress(verbose: int, total: int) -> Iterator[Callable[[], None]]:
    if not verbose:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("Probes", total=total)
        yield lambda: progress.advance(bar)
