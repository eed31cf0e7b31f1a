"""The sparse kernels against the reference, on any device: in Triton's interpreter on a CPU, compiled on a GPU."""

import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from hierlandmark.config import Mode
from hierlandmark.ops import landmark_attention
from hierlandmark.ops.inputs import inputs_of
from hierlandmark.ops.sparse import LAUNCHES, Launch, Sparse, landmark_attention_sparse
from hierlandmark.ops.sparse_reference import choose_reference
from tests.ops.cases import Case, Tensors, random_tensors
from tests.ops.compare import FUSED, assert_near
from tests.ops.fused import FUSED_CASES

EVERYTHING = 1000


@dataclass(frozen=True)
class Choice:
    """How much is opened and read."""

    segments: int
    blocks: int
    threshold: float = 0.0


CHOICES = [Choice(1, 3), Choice(2, 2), Choice(2, 20, threshold=0.7), Choice(EVERYTHING, EVERYTHING)]
SMALL = [
    # full, a tail, holes; more segments than a choice opens
    Case(lengths=((58, 58, 13, 58), (58, 0, 58, 9)), block_size=16, blocks=4, heads=6, kv_heads=2, width=16),
    # an odd number of blocks, one key-value head
    Case(lengths=((43, 43, 21), (1, 42, 43)), block_size=16, blocks=3, heads=3, kv_heads=1, width=32),
    *FUSED_CASES[4:],
]
# the shipped model's grid and the width of larger models; half precision only
WIDE = [
    Case(lengths=((502,) * 5 + (131,), (502, 40, 0, 502, 502, 502)), block_size=64, blocks=8, heads=9, kv_heads=3, width=64),
    Case(lengths=((502,) * 4 + (131,),), block_size=64, blocks=8, heads=8, kv_heads=2, width=128),
]  # fmt: skip


def sparse(tensors: Tensors, case: Case, mode: Mode, choice: Choice, impl: str) -> Tensor:
    """The output of one implementation."""
    return landmark_attention_sparse(
        tensors.q, tensors.k, tensors.v, case.layout, mode=mode, q_far=tensors.q_far, segments=choice.segments,
        blocks=choice.blocks, threshold=choice.threshold, impl=impl,  # type: ignore[arg-type]
    )  # fmt: skip


def compare_sparse(case: Case, mode: Mode, choice: Choice, dtype: torch.dtype, device: str) -> None:
    """What the kernels choose and what they give, against the fp64 reference."""
    exact, _ = random_tensors(case)
    there = Tensors(*(tensor.to(device, dtype) for tensor in exact))
    same_blocks(exact, there, case, mode, choice)
    expected = sparse(exact, case, mode, choice, "reference")
    assert_near("out", sparse(there, case, mode, choice, "fused"), expected, dtype, FUSED)
    if choice.blocks == EVERYTHING:
        dense = landmark_attention(exact.q, exact.k, exact.v, case.layout, mode=mode, q_far=exact.q_far)
        assert_near("dense", expected, dense, torch.float64)


def same_blocks(exact: Tensors, there: Tensors, case: Case, mode: Mode, choice: Choice) -> None:
    """Both choose the same blocks, and the same queries read."""
    layout, scale = case.layout, case.width**-0.5
    q, k, v, q_far, scale, _ = inputs_of(exact.q, exact.k, exact.v, layout, None, exact.q_far)
    chosen, active = choose_reference(
        q, k, layout, mode=mode, scale=scale, q_far=q_far,
        segments=choice.segments, blocks=choice.blocks, threshold=choice.threshold,
    )  # fmt: skip
    q, k, v, q_far, scale, _ = inputs_of(there.q, there.k, there.v, layout, None, there.q_far)
    work = Sparse(layout, q_far, k, v, mode, scale)
    found = work.choose(work.near(q).lse, choice.segments, choice.blocks, choice.threshold)
    places = found.blocks.long().cpu()
    as_mask = torch.zeros(*chosen.shape[:3], chosen.shape[3] + 1, dtype=torch.bool)
    as_mask.scatter_(-1, places.where(places >= 0, chosen.shape[3]), True)
    assert torch.equal(as_mask[..., :-1], chosen)
    assert torch.equal(found.total.cpu().isfinite(), active)


def compare_stacked(device: str) -> None:
    """Any number of heads to a program, the last one with heads to spare, gives the same."""
    case, mode = SMALL[0], "hierarchical"
    tensors, _ = random_tensors(case, torch.float32)
    layout = case.layout
    q, k, v, q_far, scale, _ = inputs_of(*(x.to(device) for x in (tensors.q, tensors.k, tensors.v)), layout, None,
                                         tensors.q_far.to(device))  # fmt: skip
    outs = []
    for heads in (1, 2, 4):
        launches = {**LAUNCHES[False], "chosen": Launch(heads, 4, 1), "candidates": Launch(16, 4, 1)}
        work = Sparse(layout, q_far, k, v, mode, scale, launches)
        near = work.near(q)
        outs.append(work.attend(near, work.choose(near.lse, 2, 3, 0.0)))
    for other in outs[1:]:
        assert_near("stacked", other, outs[0], torch.float32)


if __name__ == "__main__":
    modes: tuple[Mode, ...] = ("hierarchical", "flat")
    for each in SMALL:
        for way in modes:
            for wanted in CHOICES:
                compare_sparse(each, way, wanted, torch.float32, sys.argv[1])
                print(each, way, wanted)
    compare_stacked(sys.argv[1])
    print("stacked")
