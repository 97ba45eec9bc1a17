"""A last layer as a file of its own, and in its network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file, save_model
from torch import nn

from ..report.files import moved_to
from ..robust.dfr import DFRClassifier
from ..robust.last_layer import as_linear, install_head

__all__ = ["check_head_fits", "save_head", "save_network"]

FORMULA = "logits = features @ coef.T + intercept; of two classes one row, of the second"


def check_head_fits(network: nn.Module, width: int, batch: Any) -> None:
    """Refuse a network whose last linear layer does not read ``width`` features.

    Raises
    ------
    ModelError
        As :func:`featlearn.robust.last_layer.install_head` would, but before anything was fitted.
    """
    install_head(network, as_linear([[0.0] * width], [0.0]), batch=batch)


def save_head(head: DFRClassifier, path: Path, about: Mapping[str, Any]) -> None:
    """Write ``coef`` (K, d) and ``intercept`` (K,), for features as they leave the network, in double precision.

    Parameters
    ----------
    head : DFRClassifier
        Fitted.
    path : Path
        Written whole or not at all.
    about : mapping
        Goes to the metadata of the file, every value as JSON.
    """
    tensors = {
        "coef": torch.from_numpy(head.raw_coef_).contiguous(),
        "intercept": torch.from_numpy(head.raw_intercept_).contiguous(),
    }
    metadata = _metadata({"kind": "featlearn last layer", "formula": FORMULA, **about})
    with moved_to(path) as beside:
        save_file(tensors, str(beside), metadata)


def save_network(network: nn.Module, head: DFRClassifier, batch: Any, path: Path, about: Mapping[str, Any]) -> None:
    """Write the weights of a copy of the network with the head as its last layer.

    Parameters
    ----------
    network : torch.nn.Module
        Not changed.
    head : DFRClassifier
        Fitted to what its last linear layer reads.
    batch : tensor
        Shows which layer runs last.
    path : Path
        Written whole or not at all. Names are those of ``state_dict``; of tied tensors one is kept.
    about : mapping
        Goes to the metadata, every value as JSON.

    Raises
    ------
    ModelError
        The head does not fit.

    Notes
    -----
    The new layer has a bias, and as many outputs as there are classes (of two classes one, if it had one). A network
    that is to load these weights needs such a layer.
    """
    retrained = install_head(network, head, batch=batch)
    metadata = _metadata({"kind": "featlearn network with a new last layer", **about})
    with moved_to(path) as beside:
        save_model(retrained, str(beside), metadata)


def _metadata(about: Mapping[str, Any]) -> dict[str, str]:
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
