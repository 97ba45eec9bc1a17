"""What weakens a diagnosis, seen by inspection: normalisation, dropout, tied weights, activations, the optimiser."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import nn

from ..agop.batches import Batch, Outputs
from ..agop.execution import NORMALISATION, Place, passes
from ..exceptions import DataError, UnmeasurableError
from .layer_pairs import Names, Pair, find_pairs
from .run_measures import SMOOTH

__all__ = ["Optimizer", "check_optimizer", "flags_of_model", "flags_of_optimizer", "pairs_of_run", "rates_of"]

Optimizer = torch.optim.Optimizer | str | None

FEW_SAMPLES = 32


def pairs_of_run(
    model: nn.Module, pairs: Sequence[Names] | None, path: Sequence[Place], batch: Batch, outputs: Outputs
) -> list[tuple[Pair, bool]]:
    """Pairs, and whether a change of scale passes from one to the other on the batch, so that their balance is defined.

    Named pairs that do not exist are refused; without names, a model may have none.
    """
    try:
        found = find_pairs(model, pairs, path)
    except UnmeasurableError:
        if pairs is not None:
            raise
        return []
    # A fresh BatchNorm is the identity in evaluation mode, and lets every scale pass.
    return [(pair, not pair.normalised and passes(model, pair.first, pair.second, batch, outputs)) for pair in found]


def flags_of_model(model: nn.Module, path: Sequence[Place], n_samples: int) -> list[str]:
    """In the order of what they weaken most."""
    modules = [module for _, module in path]
    flags = []
    norms = sorted({type(module).__name__ for module in modules if isinstance(module, NORMALISATION)})
    if norms:
        flags.append(f"{', '.join(norms)}: norms and balance of the weights beside it mean nothing")
    if any(isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0 for module in modules):
        flags.append("dropout: training saw other networks than the one measured here")
    holders = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False) if p.dim() >= 2)
    if any(count > 1 for count in holders.values()):
        flags.append("tied weights: what one layer learns moves the other")
    smooth = sorted({type(module).__name__ for module in modules if isinstance(module, SMOOTH)})
    if smooth:
        flags.append(f"{', '.join(smooth)}: Hamming counts changes of sign only, the balance is not conserved")
    if n_samples < FEW_SAMPLES:
        flags.append(f"{n_samples} samples, under {FEW_SAMPLES}: kernel distance and Hamming are rough")
    return flags


def check_optimizer(optimizer: Optimizer) -> None:
    """Refuse what is neither an optimiser nor the name of one of torch's."""
    if optimizer is None or isinstance(optimizer, torch.optim.Optimizer):
        return
    kinds = (each for each in vars(torch.optim).values() if isinstance(each, type))
    known = {each.__name__.lower() for each in kinds if issubclass(each, torch.optim.Optimizer)} - {"optimizer"}
    if not isinstance(optimizer, str) or optimizer.lower() not in known:
        got = repr(optimizer) if isinstance(optimizer, str) else type(optimizer).__name__
        raise DataError(
            f"Got optimizer={got}, but expected a torch optimiser, or the name of one such as 'SGD' or 'AdamW'. For "
            "others pass the optimiser itself."
        )


def flags_of_optimizer(optimizer: Optimizer) -> list[str]:
    """Whether it follows gradient flow, and whether it decays the weights."""
    if optimizer is None:
        return []
    name = optimizer if isinstance(optimizer, str) else type(optimizer).__name__
    flags = []
    if name.lower() != "sgd":
        flags.append(f"{name}: not gradient flow, which conserves the balance and moves on one hyperbola")
    if isinstance(optimizer, torch.optim.Optimizer):
        groups = optimizer.param_groups
        if any(group.get("weight_decay", 0.0) > 0 for group in groups):
            flags.append("weight decay: shrinks norms by itself, which counts as rescaling and drift")
    elif name.lower() == "adamw":
        flags.append("weight decay: shrinks norms by itself, which counts as rescaling and drift")
    return flags


def rates_of(model: nn.Module, optimizer: Optimizer) -> Callable[[str], float]:
    """Learning rate of each parameter by name; 1 for all without an optimiser, and for what it does not hold.

    Raises
    ------
    DataError
        An optimiser that holds none of the model's parameters.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        return lambda name: 1.0
    by_id = {id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
    named = {name: by_id[id(p)] for name, p in model.named_parameters(remove_duplicate=False) if id(p) in by_id}
    if not named:
        raise DataError(f"Got a {type(optimizer).__name__} that holds none of the model's parameters.")
    top = max(named.values())
    if not (top > 0 and math.isfinite(top)):
        raise DataError(f"Got learning rates up to {top}, but expected a positive finite one.")
    # Relative to the largest: balances and their drift are ratios. A frozen layer keeps its rate of one.
    return lambda name: named.get(name, top) / top or 1.0
