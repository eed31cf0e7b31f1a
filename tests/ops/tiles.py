"""Triton's tiles against the plain ones, on any device: in Triton's interpreter on a CPU, compiled on a GPU."""

import sys
from typing import NamedTuple
from unittest import mock

import torch

from hierlandmark.ops import tiles_triton, weighted
from tests.ops.blocks import BLOCK_CASES, BlockCase, by_autograd, by_block_attention, random_blocks
from tests.ops.compare import assert_all_near, assert_near


class TileCase(NamedTuple):
    """One tile and the dtype of its results."""

    case: BlockCase
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.case}-{str(self.dtype).removeprefix('torch.')}"


TILE_CASES = [TileCase(case, dtype) for case in BLOCK_CASES for dtype in (torch.float32, torch.bfloat16)]


def compare_tiles(tile: TileCase, device: str) -> None:
    """Forward and backward tile on random logits, some masked, some blocks without weight."""
    X, T, N, P, _ = tile.case
    (_, _, _, bias, w), _, scale = random_blocks(tile.case, torch.float32, device)
    generator = torch.Generator().manual_seed(1)
    logits, dp = (torch.randn(X, T, N, P, generator=generator).to(device) for _ in range(2))
    expected = weighted.forward_tile(logits.double(), bias.double(), w.double(), scale, torch.float64)
    actual = tiles_triton.forward_tile(logits, bias, w, scale, tile.dtype)
    assert actual.dtype == tile.dtype
    assert_near("p", actual, expected)

    all_expected = weighted.backward_tile(logits.double(), bias.double(), w.double(), dp.double(), scale, torch.float64)
    all_actual = tiles_triton.backward_tile(logits, bias, w, dp, scale, tile.dtype)
    dtypes = {"p": tile.dtype, "da": tile.dtype, "dw": torch.float32}
    for (name, dtype), actual, expected in zip(dtypes.items(), all_actual, all_expected, strict=True):
        assert actual.dtype == dtype, name
        assert_near(name, actual, expected)


def compare_block_attention(tile: TileCase, device: str) -> None:
    """`block_attention` on Triton's tiles, values and gradients, more than one chunk of it."""
    inputs = random_blocks(tile.case, tile.dtype, device)
    with (
        mock.patch.object(weighted, "_tiles", return_value=tiles_triton),
        mock.patch.object(weighted, "CHUNK_ELEMENTS", 1),
    ):
        actual = by_block_attention(*inputs)
    assert_all_near(actual, by_autograd(*random_blocks(tile.case)), tile.dtype)


if __name__ == "__main__":
    for each in TILE_CASES:
        compare_tiles(each, sys.argv[1])
        compare_block_attention(each, sys.argv[1])
        print(each)
