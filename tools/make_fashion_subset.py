"""Make the bundled Fashion-MNIST subset from the four original idx files.

    python tools/make_fashion_subset.py FOLDER_OF_IDX_FILES

The selection is fixed: the first 400 training and the first 100 test images of every class, in file order. Debian's
package ``dataset-fashion-mnist`` has the files and their licence (MIT).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from featlearn.datasets import load_fashion_mnist

PER_CLASS = {"train": 400, "test": 100}
TARGET = Path(__file__).parents[1] / "src" / "featlearn" / "datasets" / "data" / "fashion_mnist_subset.npz"


def first_of_every_class(labels: np.ndarray, per_class: int) -> np.ndarray:
    """Indices, ascending, of the first ``per_class`` entries of every label."""
    chosen = [np.flatnonzero(labels == label)[:per_class] for label in np.unique(labels)]
    return np.sort(np.concatenate(chosen))


def main() -> None:
    """Read the idx files, select, write the npz."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with the four *-ubyte.gz files")
    parser.add_argument("--target", type=Path, default=TARGET, help="npz file to write")
    arguments = parser.parse_args()
    arrays = {}
    for split, per_class in PER_CLASS.items():
        data = load_fashion_mnist(split, folder=arguments.folder)
        chosen = first_of_every_class(data.labels.numpy(), per_class)
        arrays[f"{split}_images"] = data.images.numpy()[chosen, 0]
        arrays[f"{split}_labels"] = data.labels.numpy()[chosen].astype(np.uint8)
    np.savez_compressed(arguments.target, **arrays)
    print(f"{arguments.target.name}: {arguments.target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
