"""Images that a table lists, as batches in the order of its rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..exceptions import DataError
from .data_loading import InputNeeds, Preparation, SizedBatches
from .image_folder import ImageFolder

__all__ = ["ListedImages"]


class ListedImages:
    """Images of the rows that are used, checked at once and decoded when their turn comes.

    Parameters
    ----------
    folder : Path
    names : array of str
        Paths inside the folder, one a row of the table.
    used : array of int
        Rows that will be asked for.
    how : Preparation
        Batch size, image size and scale.
    needs : InputNeeds
        Of the model.

    Raises
    ------
    DataError
        A file that is not there or is no image, sizes that differ, or a model that wants neither grey nor RGB.
    typer.BadParameter
        As many means as neither one nor the channels.
    """

    def __init__(
        self, folder: Path, names: NDArray[Any], used: NDArray[np.int64], how: Preparation, needs: InputNeeds
    ) -> None:
        channels = needs.channels or 3
        if channels not in (1, 3):
            raise DataError(
                f"Got images for a model whose first convolution wants {channels} channels, but expected 1 (grey) or 3 "
                "(RGB). Save its features, and pass those."
            )
        self._scale = how.scaling(channels)
        self._files = [folder / str(name) for name in names]
        self._how, self._needs, self._channels = how, needs, channels
        missing = [self._files[row] for row in used if not self._files[row].is_file()]
        if missing:
            raise DataError(
                f"Got {len(missing):,} of {len(used):,} images that are not there, the first {missing[0]}. The column "
                "must hold paths inside --images."
            )
        self._folder(used).check()

    def batches(self, rows: NDArray[np.int64], *labels: NDArray[Any]) -> SizedBatches:
        """Batches (pixels, label, ...) of some rows, whose labels are given; they can be read again and again."""
        images = self._folder(rows)

        def make() -> Iterator[Any]:
            for part in self._how.parts(len(rows)):
                pixels, _ = images.read(part)
                yield (self._scale(pixels.to(self._needs.dtype)), *(label[part] for label in labels))

        return SizedBatches(make, self._how.count(len(rows)))

    def _folder(self, rows: NDArray[np.int64]) -> ImageFolder:
        return ImageFolder([self._files[row] for row in rows], None, self._channels, self._how.image_size)
