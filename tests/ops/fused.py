"""The fused kernels against the reference, on any device: in Triton's interpreter on a CPU, compiled on a GPU."""

import sys

import torch

from hierlandmark.config import Mode
from tests.ops.cases import Case, Tensors, random_tensors, reference, run
from tests.ops.compare import FUSED, assert_all_near

# 16 positions a block are the fewest that a matrix product takes
FUSED_CASES = [
    # full, a tail, a hole at the end, a hole in the middle
    Case(lengths=((58, 58, 13), (58, 5, 0), (9, 0, 57)), block_size=16, blocks=4, heads=6, kv_heads=2, width=16),
    Case(lengths=((29, 18),), block_size=16, blocks=2, sink=False, heads=2, kv_heads=2, width=32),
    # an odd number of blocks: a program's queries are one block
    Case(lengths=((43, 43, 21), (1, 42, 43)), block_size=16, blocks=3, heads=3, kv_heads=1, width=16),
    Case(lengths=((13, 13, 2),), block_size=16, blocks=1, width=16),
    # readers side by side behind shared memory; each text its own
    Case(
        lengths=((28, 28, 11, 28), (28, 9, 28, 28)), block_size=16, blocks=2, width=16,
        reads=(((0,) * 4, (0,) * 4, (1, 0, 0, 0), (1, 1, 0, 0)), ((0,) * 4, (0,) * 4, (1, 1, 0, 0), (0, 0, 1, 0))),
    ),
    Case(lengths=((28, 13), (7, 28)), block_size=16, blocks=2, width=16, reads=((0, 0), (0, 0))),
    # the local window is the whole segment
    Case(
        lengths=((58, 58, 13), (40, 0, 57)), block_size=16, blocks=4, heads=6, kv_heads=2, width=16,
        local_window="segment",
    ),
]  # fmt: skip
# the shipped model's grid, and the width of larger models; half precision only, which is what they are for
WIDE_CASES = [
    Case(lengths=((502, 502, 131), (502, 40, 0)), block_size=64, blocks=8, heads=9, kv_heads=3, width=64),
    Case(lengths=((502, 502, 131),), block_size=64, blocks=8, heads=4, kv_heads=1, width=128),
    Case(
        lengths=((502, 502, 131), (502, 40, 0)),
        block_size=64,
        blocks=8,
        heads=9,
        kv_heads=3,
        width=64,
        local_window="segment",
    ),
]


def compare_fused(case: Case, mode: Mode, dtype: torch.dtype, device: str) -> None:
    """Output and gradients of the fused kernels, against the fp64 reference."""
    tensors, grad = random_tensors(case, dtype)
    there = Tensors(*(tensor.to(device) for tensor in tensors))
    actual = run(there, case.layout, grad.to(device), mode=mode, impl="fused")
    assert_all_near(actual, reference(case, mode), dtype, FUSED)


if __name__ == "__main__":
    modes: tuple[Mode, ...] = ("hierarchical", "flat")
    for each in FUSED_CASES:
        for way in modes:
            compare_fused(each, way, torch.float32, sys.argv[1])
            print(each, way)
