"""Kernel matrices that are stored, and those that are computed a tile at a time."""

from __future__ import annotations

import pytest
import torch

from featlearn.exceptions import DataError
from featlearn.linalg import gram as module
from featlearn.linalg.gram import DenseGram, TiledGram, as_operator


@pytest.mark.parametrize("block", [1, 7, 40, 100, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_and_rows(make_system, block: int | None, dtype: torch.dtype) -> None:
    system = make_system(dtype=dtype)
    sizes = []

    def rows(index):
        made = system.kernel(system.x[index], system.x)
        sizes.append(len(made))
        return made

    tiled, dense = TiledGram(rows, 40, block), as_operator(system.gram)
    right = system.targets.mT.contiguous()
    torch.testing.assert_close(tiled.product(right), right @ system.gram, rtol=1e-5, atol=1e-5)
    assert sum(sizes) == 40
    assert max(sizes) == min(40, block or 40)
    torch.testing.assert_close(dense.product(right), right @ system.gram)
    for index in (torch.tensor([3, 1]), slice(4, 9)):
        torch.testing.assert_close(tiled.rows(index), dense.rows(index))
    assert tiled.shape == dense.shape == (40, 40)
    assert isinstance(dense, DenseGram)
    assert as_operator(tiled) is tiled


def test_default_tiles_hold_a_fixed_amount_of_memory() -> None:
    for n in (10, 5000, 100_000, 10**8):
        tiled = TiledGram(lambda index: torch.empty(0), n)
        assert tiled.block == 1 or 8 * n * tiled.block <= module.TILE_BYTES
        assert 1 <= tiled.block <= n


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(DataError, match="n=0"):
        TiledGram(lambda index: torch.empty(0), 0)
    with pytest.raises(DataError, match="block=0"):
        TiledGram(lambda index: torch.empty(0), 5, 0)
