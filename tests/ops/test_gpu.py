"""The same comparisons on a GPU, where other kernels run. A kernel that only fails there costs a training run."""

from unittest import mock

import pytest
import torch

from hierlandmark.config import Mode
from hierlandmark.ops import selected
from hierlandmark.ops.picks import picks_of
from hierlandmark.ops.selected import Counts
from tests.ops.blocks import BLOCK_CASES, BlockCase, by_autograd, by_block_attention, random_blocks
from tests.ops.cases import CASES, DEFAULT_GRID, Case, Tensors, random_tensors, reference, run, selecting
from tests.ops.compare import FUSED, TOLERANCES, assert_all_near

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=["fp64", "fp32", "bf16"])


@dtypes
@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
@pytest.mark.parametrize("case", [*CASES, DEFAULT_GRID], ids=str)
def test_blockwise_is_the_fp64_reference_within_the_table(case: Case, mode: Mode, dtype: torch.dtype) -> None:
    tensors, grad = random_tensors(case, dtype)
    on_gpu = Tensors(*(tensor.cuda() for tensor in tensors))
    actual = run(on_gpu, case.layout, grad.cuda(), mode=mode, impl="blockwise")
    assert_all_near(actual, reference(case, mode), dtype)


@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
@pytest.mark.parametrize(
    ("index", "dtype"), [*((i, torch.float32) for i in range(7)), *((i, torch.bfloat16) for i in range(10))]
)
def test_fused_kernels_are_the_fp64_reference_within_the_table(index: int, mode: Mode, dtype: torch.dtype) -> None:
    fused = pytest.importorskip("tests.ops.fused", reason="triton is not installed")
    fused.compare_fused((fused.FUSED_CASES + fused.WIDE_CASES)[index], mode, dtype, "cuda")


@dtypes
@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
@pytest.mark.parametrize("granularity", ["head_token", "head", "token", "shared"])
def test_everything_selected_is_the_fp64_reference_within_the_table(
    granularity: str, mode: Mode, dtype: torch.dtype
) -> None:
    case = CASES[0]
    tensors, grad = random_tensors(case, dtype)
    there = Tensors(*(tensor.cuda() for tensor in tensors))
    actual = selecting(there, case, grad.cuda(), mode=mode, granularity=granularity, segments=99, blocks=999)
    assert_all_near(actual, reference(case, mode), dtype, FUSED if dtype == torch.bfloat16 else TOLERANCES)


@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
@pytest.mark.parametrize("index", range(11))
def test_fused_selection_is_plain_selection_in_fp64(index: int, mode: Mode) -> None:
    picked = pytest.importorskip("tests.ops.picked", reason="triton is not installed")
    case, choice = picked.SMALL[index]
    picked.compare_picked(case, mode, choice, torch.float32, "cuda")


@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
@pytest.mark.parametrize("choice", range(6), ids=["head_token", "head", "token", "shared", "everything", "landmarks"])
@pytest.mark.parametrize("width", [0, 1], ids=["D64", "D128"])
def test_fused_selection_in_half_precision_at_the_shipped_grid(width: int, choice: int, mode: Mode) -> None:
    picked = pytest.importorskip("tests.ops.picked", reason="triton is not installed")
    picked.compare_picked(picked.WIDE[width], mode, picked.WIDE_CHOICES[choice], torch.bfloat16, "cuda")


@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
@pytest.mark.parametrize("turns", [2, 3])
@pytest.mark.parametrize(
    ("index", "dtype"), [*((i, torch.float32) for i in range(4)), *((i, torch.bfloat16) for i in range(6))]
)
def test_older_segments_are_asked_by_queries_of_their_own(
    index: int, mode: Mode, dtype: torch.dtype, turns: int
) -> None:
    older = pytest.importorskip("tests.ops.older", reason="triton is not installed")
    older.compare_older((older.OLDER_CASES + older.WIDE_CASES)[index], mode, dtype, "cuda", turns)


@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
def test_selection_is_fused_unless_counted(mode: Mode) -> None:
    """Nobody has to ask for the kernels; what they choose and give is what is counted."""
    picked = pytest.importorskip("tests.ops.picked", reason="triton is not installed")
    case, options = picked.WIDE[0], {"mode": mode, "segments": 2, "blocks": 4}
    tensors, grad = random_tensors(case, torch.bfloat16)
    there, grad = Tensors(*(tensor.cuda() for tensor in tensors)), grad.cuda()
    with mock.patch.object(selected, "picks_of", wraps=picks_of) as chosen:
        by_default = selecting(there, case, grad, **options)
        assert chosen.call_count == 1
        counted = selecting(there, case, grad, counts=Counts(), **options)
        assert chosen.call_count == 1
    # a choice between near equals may fall otherwise: few rows of many
    differ = (by_default["out"] - counted["out"]).abs().amax(-1) > 0.05
    assert differ.float().mean() < 1e-3


@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
@pytest.mark.parametrize("index", range(5))
def test_sparse_kernels_choose_and_give_what_the_fp64_reference_does(index: int, mode: Mode) -> None:
    sparse = pytest.importorskip("tests.ops.sparse", reason="triton is not installed")
    case, choice = sparse.SMALL[index]
    sparse.compare_sparse(case, mode, choice, torch.float32, "cuda")


@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
@pytest.mark.parametrize("blocks", [8, 1000])
@pytest.mark.parametrize("width", [0, 1], ids=["D64", "D128"])
def test_sparse_kernels_in_half_precision_at_the_shipped_grid(width: int, blocks: int, mode: Mode) -> None:
    sparse = pytest.importorskip("tests.ops.sparse", reason="triton is not installed")
    choice = sparse.Choice(segments=max(2, blocks - 8), blocks=blocks)
    sparse.compare_sparse(sparse.WIDE[width], mode, choice, torch.bfloat16, "cuda")


def test_sparse_kernels_with_heads_stacked() -> None:
    pytest.importorskip("tests.ops.sparse", reason="triton is not installed").compare_stacked("cuda")


@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
def test_queries_in_single_and_values_in_half_precision_are_taken(mode: Mode) -> None:
    """As a model in training hands them over: rotated in fp32 beside bf16 values."""
    case = DEFAULT_GRID
    tensors, grad = random_tensors(case, torch.float32)
    there = Tensors(*(tensor.cuda() for tensor in tensors))
    mixed = there._replace(v=there.v.bfloat16())
    actual = run(mixed, case.layout, grad.cuda(), mode=mode)
    assert_all_near(actual, reference(case, mode), torch.bfloat16, FUSED)


@dtypes
@pytest.mark.parametrize("case", BLOCK_CASES, ids=str)
def test_block_attention_is_autograd_s(case: BlockCase, dtype: torch.dtype) -> None:
    actual = by_block_attention(*random_blocks(case, dtype, "cuda"))
    assert_all_near(actual, by_autograd(*random_blocks(case)), dtype)


@pytest.mark.parametrize("index", range(8))
def test_triton_s_tiles_are_the_plain_ones(index: int) -> None:
    tiles = pytest.importorskip("tests.ops.tiles", reason="triton is not installed")
    tiles.compare_tiles(tiles.TILE_CASES[index], "cuda")
    tiles.compare_block_attention(tiles.TILE_CASES[index], "cuda")


def test_block_attention_takes_triton_s_tiles_below_fp64() -> None:
    from hierlandmark.ops import weighted

    names = [
        weighted._tiles(torch.empty(1, device="cuda", dtype=dtype)).__name__
        for dtype in (torch.float32, torch.bfloat16, torch.float64)
    ]
    assert names == ["hierlandmark.ops.tiles_triton"] * 2 + ["hierlandmark.ops.weighted"]
