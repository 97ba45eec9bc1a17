"""A start that is no copy changes along with the training that it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..agop.finding import unwrap
from ..agop.reference_model import named_weights
from ..exceptions import DataError

__all__ = ["refuse_shared"]


def refuse_shared(before: nn.Module | Mapping[str, Any], after: nn.Module | Mapping[str, Any]) -> None:
    """Refuse a start whose memory the trained weights are in.

    Frozen weights may be shared, and in mappings some of them; not any that is trained, and never all.

    Parameters
    ----------
    before, after : Module or mapping of str to Tensor

    Raises
    ------
    DataError

    Examples
    --------
    >>> net = nn.Linear(2, 2)
    >>> refuse_shared({name: weight.clone() for name, weight in net.state_dict().items()}, net)
    """
    earlier, later = named_weights(before), named_weights(after)
    both = [name for name, weight in later.items() if _in_memory(weight) and _in_memory(earlier.get(name))]
    shared = [name for name in both if _place(earlier[name]) == _place(later[name])]
    trained: set[str] = set()
    if isinstance(after, nn.Module):
        named = unwrap(after).named_parameters(remove_duplicate=False)
        trained = {name for name, parameter in named if parameter.requires_grad}
    if shared and (len(shared) == len(both) or not trained.isdisjoint(shared)):
        shown = ", ".join(map(repr, shared[:3])) + (", ..." if len(shared) > 3 else "")
        raise DataError(
            f"Got a start that shares the memory of {shown} with the trained model, so that training changed it, too, "
            "but expected a copy. Make one before training: before = copy.deepcopy(model); a state_dict() is no copy."
        )


def _in_memory(weight: Any) -> bool:
    return isinstance(weight, Tensor) and weight.layout == torch.strided and weight.numel() > 0 and not weight.is_meta


def _place(weight: Tensor) -> tuple[torch.device, int]:
    return weight.device, weight.untyped_storage().data_ptr()
