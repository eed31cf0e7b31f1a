"""Queries of their own for older segments, on any device: in Triton's interpreter on a CPU, compiled on a GPU."""

import functools
import sys
from dataclasses import replace

import torch
from torch import Tensor

from hierlandmark.config import Mode, RecallConfig
from hierlandmark.ops import Impl, landmark_attention
from hierlandmark.ops.selected import selected_attention
from tests.ops.cases import Case, random_tensors
from tests.ops.compare import FUSED, assert_all_near

OLDER_CASES = [
    Case(lengths=((28, 28, 28, 13), (28, 9, 0, 27)), block_size=16, blocks=2, heads=3, kv_heads=1, width=16),
    # some do not read the segment right before them, some read that alone
    Case(
        lengths=((28, 28, 11, 28), (28, 9, 28, 28)), block_size=16, blocks=2, width=16,
        reads=(((0,) * 4, (0,) * 4, (1, 0, 0, 0), (1, 1, 0, 0)), ((0,) * 4, (1, 0, 0, 0), (1, 1, 0, 0), (0, 0, 1, 0))),
    ),
]  # fmt: skip
OLDER_CASES += [replace(case, local_window="segment") for case in OLDER_CASES]
# half precision only, which is what wide heads are for
WIDE_CASES = [
    Case(
        lengths=((502, 502, 502, 131),), block_size=64, blocks=8, heads=6, kv_heads=2, width=width,
        local_window="segment",
    )
    for width in (64, 128)
]  # fmt: skip
EVERYTHING = RecallConfig(segments=99, blocks=999, threshold=0.0)


def attend(
    case: Case,
    mode: Mode,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    impl: Impl | None = None,
    select: RecallConfig | None = None,
    turns: int = 2,
) -> dict[str, Tensor]:
    """Output, and gradients of q, of q_far `turns` times, of k and v."""
    tensors, grad = random_tensors(case, dtype)
    far = torch.stack([random_tensors(case, dtype, seed=seed)[0].q_far for seed in range(turns)])
    leaves = [tensor.detach().to(device).requires_grad_() for tensor in (*tensors._replace(q_far=far),)]
    q, q_far, k, v = leaves
    if select is None:
        out = landmark_attention(q, k, v, case.layout, mode=mode, impl=impl, q_far=q_far)
    else:
        out = selected_attention(q, k, v, case.layout, select, mode=mode, impl=impl, q_far=q_far)
    grads = torch.autograd.grad(out, leaves, grad.to(device), allow_unused=True)
    found = [torch.zeros_like(leaf) if got is None else got for leaf, got in zip(leaves, grads, strict=True)]
    return {"out": out.detach(), **dict(zip(("dq", "dq_far", "dk", "dv"), found, strict=True))}


@functools.cache
def expected(case: Case, mode: Mode, turns: int = 2) -> dict[str, Tensor]:
    """What the reference makes of it in fp64."""
    return attend(case, mode, impl="reference", turns=turns)


def compare_older(case: Case, mode: Mode, dtype: torch.dtype, device: str, turns: int = 2) -> None:
    """The fused kernels, every block attended or everything selected, against the fp64 reference; and a choice."""
    wanted = expected(case, mode, turns)
    assert_all_near(attend(case, mode, dtype, device, "fused", turns=turns), wanted, dtype, FUSED)
    assert_all_near(attend(case, mode, dtype, device, "fused", EVERYTHING, turns), wanted, dtype, FUSED)
    if dtype == torch.float32:
        select = RecallConfig(segments=1, blocks=2, threshold=0.0)
        plain = attend(case, mode, impl="blockwise", select=select, turns=turns)
        assert_all_near(attend(case, mode, dtype, device, "fused", select, turns), plain, dtype, FUSED)


if __name__ == "__main__":
    modes: tuple[Mode, ...] = ("hierarchical", "flat")
    for each in OLDER_CASES:
        for way in modes:
            # every other case with a third query
            several = 2 + OLDER_CASES.index(each) % 2
            compare_older(each, way, torch.float32, sys.argv[1], several)
            print(each, way, several)
