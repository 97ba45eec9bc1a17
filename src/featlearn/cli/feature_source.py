"""Where features come from: files that hold them, or a model over images that a table lists."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from torch import nn

from ..agop.batches import parse_batch
from ..agop.taps import guest
from ..exceptions import DataError, FeatlearnError
from .data_loading import InputNeeds, Preparation, read_numbers
from .group_table import GroupTable
from .listed_images import ListedImages
from .model_loading import load_device, load_model, load_weights
from .object_loading import blame
from .saved_features import SavedFeatures, find_features
from .table_data import column_named

__all__ = ["FeatureSource"]


@dataclass(frozen=True)
class FeatureSource:
    """The options as typed; see :mod:`featlearn.cli.group_options`."""

    features: Path | None
    model: str | None
    model_args: str | None
    weights: Path | None
    allow_partial: bool
    images: Path | None
    file_column: str
    image_size: int | None
    mean: str | None
    std: str | None
    batch_size: int
    device: str
    seed: int

    def check(self, needs_model: dict[str, Any]) -> None:
        """Refuse both or neither of FEATURES and --model, and options of the other.

        Parameters
        ----------
        needs_model : dict
            More options that go with ``--model`` only, by name.

        Raises
        ------
        typer.BadParameter
            Before anything is read.
        """
        if (self.features is None) == (self.model is None):
            got = "neither FEATURES nor --model" if self.model is None else "both FEATURES and --model"
            raise typer.BadParameter(f"Got {got}, but expected one: saved features, or a model and its --images.")
        own = {
            "--model-args": self.model_args,
            "--weights": self.weights,
            "--images": self.images,
            "--image-size": self.image_size,
            "--mean": self.mean,
            "--std": self.std,
            **needs_model,
        }
        given = [option for option, value in own.items() if value]
        if self.model is None and given:
            raise typer.BadParameter(f"Got {given[0]} with saved features, but expected it with --model only.")
        if self.model is not None and (self.images is None or not self.images.is_dir()):
            got = "no --images" if self.images is None else f"--images {self.images}, which is no folder"
            raise typer.BadParameter(f"Got --model with {got}, but expected the folder of the images.")

    @property
    def name(self) -> str:
        """For reports."""
        return str(self.features) if self.model is None else f"{self.model} over {self.images}"

    @property
    def files(self) -> list[Path | None]:
        """What is read of it, besides images."""
        return [self.features, self.weights]

    def saved(self, table: GroupTable) -> SavedFeatures:
        """The files."""
        assert self.features is not None  # checked
        return find_features(self.features, table.path)

    def network(self) -> tuple[nn.Module, list[str]]:
        """The model with its weights, and notes on them."""
        assert self.model is not None  # checked
        network = load_model(self.model, self.model_args, self.seed, load_device(self.device))
        notes = [] if self.weights is None else load_weights(network, self.weights, self.allow_partial)
        return network, notes

    def listed(self, table: GroupTable, network: nn.Module) -> ListedImages:
        """Images of the rows that fit and of those that judge."""
        assert self.images is not None  # checked
        column = column_named(table.frame, self.file_column, "--file-column")
        used = np.concatenate([table.rows.fit, table.rows.test])
        scale = read_numbers(self.mean, "--mean"), read_numbers(self.std, "--std", positive=True)
        how = Preparation(len(used), self.batch_size, self.seed, self.image_size, *scale)
        images = ListedImages(self.images, table.frame[column].to_numpy(), used, how, InputNeeds.of(network))
        _try(network, next(iter(images.batches(used[:2]))), str(self.images))
        return images


def _try(network: nn.Module, batch: Any, name: str) -> None:
    """Refuse images that the network's own ``forward`` refuses."""
    try:
        with guest(network), torch.no_grad():
            parse_batch(batch, network).call(network)
    except FeatlearnError:
        raise
    except Exception as problem:
        raise DataError(
            f"Got images of shape {tuple(batch[0].shape[1:])} from {name}, which the model cannot process: "
            f"{blame(problem)}. Check the number of channels and --image-size; a model without convolutions gets RGB."
        ) from problem
