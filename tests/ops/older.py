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
) -> dict[str, Tensor]:
    """Output, and gradients of q, q_far, k, v and q_older."""
    tensors, grad = random_tensors(case, dtype)
    older = random_tensors(case, dtype, seed=1)[0].q_far
    leaves = [tensor.detach().to(device).requires_grad_() for tensor in (*tensors, older)]
    q, q_far, k, v, q_older = leaves
    far: dict[str, Tensor] = {"q_far": q_far, "q_older": q_older}
    if select is None:
        out = landmark_attention(q, k, v, case.layout, mode=mode, impl=impl, **far)  # type: ignore[arg-type]
    else:
        out = selected_attention(q, k, v, case.layout, select, mode=mode, impl=impl, **far)  # type: ignore[arg-type]
    grads = torch.autograd.grad(out, leaves, grad.to(device), allow_unused=True)
    found = [torch.zeros_like(leaf) if got is None else got for leaf, got in zip(leaves, grads, strict=True)]
    return {"out": out.detach(), **dict(zip(("dq", "dq_far", "dk", "dv", "dq_older"), found, strict=True))}


@functools.cache
def expected(case: Case, mode: Mode) -> dict[str, Tensor]:
    """What the reference makes of it in fp64."""
    return attend(case, mode, impl="reference")


def compare_older(case: Case, mode: Mode, dtype: torch.dtype, device: str) -> None:
    """The fused kernels, every block attended or everything selected, against the fp64 reference; and a choice."""
    wanted = expected(case, mode)
    assert_all_near(attend(case, mode, dtype, device, "fused"), wanted, dtype, FUSED)
    assert_all_near(attend(case, mode, dtype, device, "fused", EVERYTHING), wanted, dtype, FUSED)
    if dtype == torch.float32:
        select = RecallConfig(segments=1, blocks=2, threshold=0.0)
        plain = attend(case, mode, impl="blockwise", select=select)
        assert_all_near(attend(case, mode, dtype, device, "fused", select), plain, dtype, FUSED)


if __name__ == "__main__":
    modes: tuple[Mode, ...] = ("hierarchical", "flat")
    for each in OLDER_CASES:
        for way in modes:
            compare_older(each, way, torch.float32, sys.argv[1])
            print(each, way)
