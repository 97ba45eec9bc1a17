"""Files of a user who has features, predictions or images of four groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

N = 900


def write_features(folder: Path) -> pd.DataFrame:
    """``groups.csv``, ``predictions.csv`` (its test rows), ``train.csv``, ``features.npy`` and ``layers/``.

    Column 0 is the core feature, column 1 the spurious one; the label agrees with the background in most rows.
    """
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=N)
    split = np.repeat(["train", "held-out", "test"], N // 3)
    same = rng.random(N) < np.where(split == "train", 0.95, 0.75)
    s = np.where(same, y, 1 - y)
    Z = rng.normal(size=(N, 6)).astype(np.float32)
    Z[:, 0] += 3 * y - 1.5
    Z[:, 1] += 5 * s - 2.5
    predicted = np.where(rng.random(N) < 0.8, s, y)
    frame = pd.DataFrame(
        {"y": y, "background": np.where(s == 1, "water", "land"), "split": split, "predicted": predicted}
    )
    frame.to_csv(folder / "groups.csv", index=False)
    frame[split == "test"].to_csv(folder / "predictions.csv", index=False)
    frame[split == "train"].to_csv(folder / "train.csv", index=False)
    np.save(folder / "features.npy", Z)
    layers = folder / "layers"
    layers.mkdir()
    noisy = Z + np.array([3, 0, 0, 0, 0, 0]) * rng.normal(size=Z.shape)
    for name, array in {"pixels": noisy, "init": noisy[:, 1:], "conv2": noisy * 0.5, "conv10": Z}.items():
        np.save(layers / f"{name}.npy", array.astype(np.float32))
    return frame


def write_images(folder: Path) -> pd.DataFrame:
    """``photos.csv`` and ``photos/`` of 8 x 8 grey images: the label is the left half's brightness, the background the
    right half's.
    """
    rng = np.random.default_rng(1)
    n = 96
    y, s = np.arange(n) % 2, np.arange(n) // 2 % 2
    pixels = rng.uniform(0.2, 0.5, size=(n, 8, 8))
    pixels[:, :, :4] += 0.35 * y[:, None, None]
    pixels[:, :, 4:] += 0.35 * s[:, None, None]
    (folder / "photos").mkdir()
    names = [f"{row:03d}.png" for row in rng.permutation(n)]  # the order of names is not that of the rows
    for name, image in zip(names, pixels, strict=True):
        Image.fromarray((255 * image).astype(np.uint8)).save(folder / "photos" / name)
    frame = pd.DataFrame({"file": names, "y": y, "light": s, "split": np.repeat(["val", "test"], n // 2)})
    frame.to_csv(folder / "photos.csv", index=False)
    return frame
