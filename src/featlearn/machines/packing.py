"""Objects taken apart into plain values and named tensors, and put together again to the last bit."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..exceptions import ModelError

__all__ = ["Classes", "Packer", "unpack"]

Classes = dict[str, Any]
"""The dataclasses that may be packed, by their names: what is read from a file can make nothing else."""

LONG = 64  # numbers from which a list becomes a tensor: headers are read whole, and limited in size


class Packer:
    """Collects the tensors of what it packs.

    Parameters
    ----------
    classes : dict of str to type

    Attributes
    ----------
    tensors : dict of str to Tensor
        By the place where they stand ("predictor.bases.0"); one that stands at several places is kept once.
    """

    def __init__(self, classes: Classes) -> None:
        self.classes = classes
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[int, str] = {}
        self._alive: list[Any] = []  # ids are those of other objects once these are gone

    def pack(self, value: Any, place: str) -> Any:
        """JSON values that stand for ``value``.

        Parameters
        ----------
        value : None, bool, number, text, Tensor, array, list, tuple, dict, or one of the dataclasses, nested
        place : str
            Prefix of the names of its tensors.

        Raises
        ------
        ModelError
            Anything else, such as a kernel of the user's own.
        """
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, str | bool | int | float):
            return value
        if isinstance(value, Tensor):
            return self._tensor(value, place)
        if isinstance(value, np.ndarray):
            return self._array(value, place)
        if isinstance(value, dict):
            return {"dict": {str(key): self.pack(item, f"{place}.{key}") for key, item in value.items()}}
        if isinstance(value, list) and len(value) >= LONG and all(type(item) is float for item in value):
            return {"floats": self._keep(value, torch.tensor(value, dtype=torch.float64), place)}
        if isinstance(value, list | tuple):
            items = [self.pack(item, f"{place}.{i}") for i, item in enumerate(value)]
            return items if isinstance(value, list) else {"tuple": items}
        if is_dataclass(value) and self.classes.get(type(value).__name__) is type(value):
            parts = {
                field.name: self.pack(getattr(value, field.name), f"{place}.{field.name}")
                for field in fields(value)
                if field.init
            }
            return {"class": type(value).__name__, "fields": parts}
        raise ModelError(
            f"Got {place} of type {type(value).__name__}, but expected a part of featlearn's own: a file holds nothing "
            "else. Use one of featlearn.kernels, or save the estimator with joblib."
        )

    def _tensor(self, value: Tensor, place: str) -> dict[str, Any]:
        # A matrix product can round differently for another layout in memory, so the layout is kept.
        turned = value.dim() == 2 and not value.is_contiguous() and value.mT.is_contiguous()
        plain = (value.mT if turned else value).detach().cpu().contiguous()
        return {"tensor": self._keep(value, plain, place)} | ({"transposed": True} if turned else {})

    def _array(self, value: NDArray[Any], place: str) -> dict[str, Any]:
        if value.dtype.kind in "biuf":
            return {"array": self._keep(value, torch.from_numpy(np.ascontiguousarray(value)), place)}
        labels = [self.pack(item, f"{place}.{i}") for i, item in enumerate(value.tolist())]
        return {"labels": labels, "dtype": value.dtype.str if value.dtype.kind == "U" else "object"}

    def _keep(self, owner: Any, tensor: Tensor, place: str) -> str:
        if id(owner) not in self._names:
            self._names[id(owner)] = place
            self._alive.append(owner)
            self.tensors[place] = tensor.clone()  # the format allows no two tensors that share memory
        return self._names[id(owner)]


def unpack(plain: Any, tensors: dict[str, Tensor], classes: Classes) -> Any:
    """What :class:`Packer` took apart.

    Raises
    ------
    KeyError, TypeError, ValueError
        ``plain`` was not made by it, or a tensor is missing.
    """
    if isinstance(plain, list):
        return [unpack(item, tensors, classes) for item in plain]
    if not isinstance(plain, dict):
        return plain
    if "tensor" in plain:
        tensor = tensors[plain["tensor"]]
        return tensor.mT if plain.get("transposed") else tensor
    if "array" in plain:
        return tensors[plain["array"]].numpy()
    if "floats" in plain:
        return tensors[plain["floats"]].tolist()
    if "labels" in plain:
        return np.array([unpack(item, tensors, classes) for item in plain["labels"]], dtype=plain["dtype"])
    if "tuple" in plain:
        return tuple(unpack(item, tensors, classes) for item in plain["tuple"])
    if "dict" in plain:
        return {key: unpack(item, tensors, classes) for key, item in plain["dict"].items()}
    values = {name: unpack(item, tensors, classes) for name, item in plain["fields"].items()}
    return classes[plain["class"]](**values)
