"""Images of a folder as batches of tensors, decoded when their turn comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..exceptions import DataError
from .data_loading import Data, InputNeeds, Preparation, SizedBatches

__all__ = ["ImageFolder", "list_images", "load_folder"]

SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"])
# Modes of Pillow with 8 bits a channel or fewer.
CONVERTIBLE = frozenset(["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"])


def load_folder(path: Path, spec: str, how: Preparation, needs: InputNeeds) -> Data:
    """Chosen images of a folder as batches, grey or RGB as the model's first convolution wants (else RGB).

    Raises
    ------
    DataError
        No image, one that is damaged, sizes that differ, or a model that wants neither grey nor RGB.
    typer.BadParameter
        As many means as neither one nor the channels.
    """
    channels = needs.channels or 3
    if channels not in (1, 3):
        raise DataError(
            f"Got a folder of images, but the model's first convolution wants {channels} channels: expected 1 (grey) "
            "or 3 (RGB). Pass the data as .npz or module:loader."
        )
    scale = how.scaling(channels)
    files, labels, classes = list_images(path)
    chosen = how.choose(len(files))
    images = ImageFolder(
        files=[files[i] for i in chosen],
        labels=None if labels is None else [labels[i] for i in chosen],
        channels=channels,
        image_size=how.image_size,
    )
    shape = images.check()

    def make() -> Iterator[Any]:
        for part in how.parts(len(chosen)):
            pixels, targets = images.read(part)
            inputs = scale(pixels.to(needs.dtype))
            yield inputs if targets is None else (inputs, targets)

    kind = "grey" if channels == 1 else "RGB"
    about = f", {len(classes)} classes" if classes else ", no labels"
    name = f"{spec} ({len(chosen)} of {len(files)} {kind} images{about})"
    return Data(SizedBatches(make, how.count(len(chosen))), name, shape)


def list_images(folder: Path) -> tuple[list[Path], list[int] | None, list[str]]:
    """Image files of a folder in sorted order, their class numbers and the class names.

    One subfolder a class, numbered in sorted order; or images directly in the folder, without labels.

    Raises
    ------
    DataError
        No image at all, or images both in the folder and in its subfolders.
    """
    flat = _images_in(folder.iterdir())
    classes = {
        child.name: _images_in(child.rglob("*"))
        for child in sorted(folder.iterdir())
        if child.is_dir() and not child.name.startswith(".")
    }
    classes = {name: files for name, files in classes.items() if files}
    if flat and classes:
        raise DataError(
            f"Got images both directly in {folder} and in its subfolders ({next(iter(classes))}, ...), but expected "
            "one subfolder a class, or all images in the folder. Move one of the two away."
        )
    if not flat and not classes:
        raise DataError(f"Got {folder}, which holds no image ({', '.join(sorted(SUFFIXES))}).")
    if flat:
        return flat, None, []
    files = [file for group in classes.values() for file in group]
    labels = [number for number, group in enumerate(classes.values()) for _ in group]
    return files, labels, list(classes)


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """Image files, decoded as they are asked for.

    Attributes
    ----------
    files, labels : sequences
        In the order of the batches.
    channels : int
        1 (grey) or 3 (RGB): every image is converted.
    image_size : int or None
        The shorter side is resized to it (bilinear, antialiased), then its centre square is taken. ``None`` leaves the
        images as they are: they must then all have one size.
    """

    files: Sequence[Path]
    labels: Sequence[int] | None
    channels: int
    image_size: int | None

    def read(self, part: slice) -> tuple[Tensor, Tensor | None]:
        """Images (m, channels, height, width) in [0, 1], and their class numbers."""
        pixels = torch.stack([torch.from_numpy(self._decode(file)) for file in self.files[part]])
        return pixels, None if self.labels is None else torch.tensor(self.labels[part])

    def check(self) -> tuple[int, int, int]:
        """Open every file (headers only): each must be an image, all of one size unless they are resized.

        Returns
        -------
        tuple of int
            (channels, height, width) of every sample.

        Raises
        ------
        DataError
            Names the first file that is not, or the first two that differ.
        """
        first: tuple[int, int] | None = None
        for file in self.files:
            try:
                with Image.open(file) as image:
                    size = image.size
            except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as problem:
                raise DataError(f"Got {file}, which cannot be opened as an image: {problem}.") from problem
            first = first or size
            if self.image_size is None and size != first:
                raise DataError(
                    f"Got images of different sizes ({self.files[0]} is {_by(first)}, {file} is {_by(size)}), but "
                    "expected one size. Pass --image-size, or resize them."
                )
        assert first is not None  # an empty folder never gets here
        width, height = first if self.image_size is None else (self.image_size, self.image_size)
        return self.channels, height, width

    def _decode(self, file: Path) -> NDArray[np.float32]:
        """One image as float32 of shape (channels, height, width) in [0, 1]."""
        try:
            with Image.open(file) as image:
                image.load()
                return self._to_array(image, file)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as problem:
            if isinstance(problem, DataError):
                raise
            raise DataError(f"Got {file}, which cannot be decoded: {problem}. Remove or replace it.") from problem

    def _to_array(self, image: Image.Image, file: Path) -> NDArray[np.float32]:
        if image.mode.startswith("I;16"):
            # Pillow clips 16-bit grey at 255 when it converts it to 8 bits, so the division comes first.
            image, scale = Image.fromarray(np.asarray(image).astype(np.float32) / 65535.0), 1.0
        elif image.mode in CONVERTIBLE:
            image, scale = image.convert("L" if self.channels == 1 else "RGB"), 1 / 255.0
        else:
            raise DataError(f"Got {file} in mode {image.mode}, but expected 8 or 16 bits a channel. Convert it.")
        if self.image_size is not None:
            image = _resize_and_crop(image, self.image_size)
        array = np.asarray(image, dtype=np.float32) * np.float32(scale)
        if array.ndim == 2:
            return np.repeat(array[None], self.channels, axis=0)
        return np.ascontiguousarray(array.transpose(2, 0, 1))


def _images_in(paths: Iterator[Path]) -> list[Path]:
    return sorted(
        path for path in paths if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    scale = size / min(width, height)
    width, height = max(size, round(width * scale)), max(size, round(height * scale))
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
