"""The sparse kernels against the reference, on any device: in Triton's interpreter on a CPU, compiled on a GPU."""

import sys
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hierlandmark.config import Mode
from hierlandmark.ops import landmark_attention
from hierlandmark.ops.inputs import inputs_of
from hierlandmark.ops.sparse import Chosen, Launch, Launches, Sparse, SparseImpl, landmark_attention_sparse
from hierlandmark.ops.sparse_reference import choose_reference
from tests.ops.cases import Case, Tensors, random_tensors
from tests.ops.compare import FUSED, assert_near

EVERYTHING = 1000


@dataclass(frozen=True)
class Choice:
    """How much is opened and read."""

    segments: int
    blocks: int
    threshold: float = 0.0


# full, a tail, holes; more segments than a choice opens
HOLES = Case(lengths=((58, 13, 58), (58, 0, 9)), block_size=16, blocks=4, heads=3, kv_heads=1, width=16)
# an odd number of blocks
ODD = Case(lengths=((43, 43, 21), (1, 42, 43)), block_size=16, blocks=3, heads=2, kv_heads=2, width=32)
# readers side by side behind shared memory
SHARED = Case(
    lengths=((28, 28, 11, 28),), block_size=16, blocks=2, heads=3, kv_heads=1, width=16,
    reads=((0,) * 4, (0,) * 4, (1, 0, 0, 0), (1, 1, 0, 0)),
)  # fmt: skip
SMALL = [
    (HOLES, Choice(1, 3)),
    (ODD, Choice(2, 20, threshold=0.7)),
    (ODD, Choice(EVERYTHING, EVERYTHING)),
    (SHARED, Choice(1, 1)),
    (replace(ODD, local_window="segment"), Choice(1, 2)),
]
# the shipped model's grid and the width of larger models; half precision only
WIDE = [
    Case(
        lengths=((502, 502, 502, 131), (502, 40, 0, 502)), block_size=64, blocks=8, heads=6, kv_heads=2, width=64
    ),
    Case(lengths=((502, 502, 502, 131),), block_size=64, blocks=8, heads=8, kv_heads=2, width=128),
]  # fmt: skip


def sparse(tensors: Tensors, case: Case, mode: Mode, choice: Choice, impl: SparseImpl | None = None) -> Tensor:
    """The output of one implementation."""
    return landmark_attention_sparse(
        tensors.q, tensors.k, tensors.v, case.layout, mode=mode, q_far=tensors.q_far, segments=choice.segments,
        blocks=choice.blocks, threshold=choice.threshold, impl=impl,
    )  # fmt: skip


def chosen_by_reference(tensors: Tensors, case: Case, mode: Mode, choice: Choice) -> tuple[Tensor, Tensor]:
    """See `choose_reference`."""
    q, k, _, (q_far,), scale, _ = inputs_of(tensors.q, tensors.k, tensors.v, case.layout, None, tensors.q_far)
    return choose_reference(
        q, k, case.layout, mode=mode, scale=scale, q_far=q_far,
        segments=choice.segments, blocks=choice.blocks, threshold=choice.threshold,
    )  # fmt: skip


def by_steps(
    tensors: Tensors, case: Case, mode: Mode, choice: Choice, launches: Launches | None = None
) -> tuple[Tensor, Chosen]:
    """The kernels' output, and what they chose."""
    q, k, v, (q_far,), scale, pad = inputs_of(tensors.q, tensors.k, tensors.v, case.layout, None, tensors.q_far)
    work = Sparse(case.layout, q_far, k, v, mode, scale, launches)
    near = work.near(q)
    chosen = work.choose(near.lse, choice.segments, choice.blocks, choice.threshold)
    out = work.attend(near, chosen)
    return out if pad is None else out.masked_fill(pad, 0.0), chosen


def compare_sparse(case: Case, mode: Mode, choice: Choice, dtype: torch.dtype, device: str) -> None:
    """What the kernels choose and what they give, against the fp64 reference; everything chosen is the dense form."""
    exact = Tensors(*(tensor.to(device) for tensor in random_tensors(case)[0]))
    out, found = by_steps(Tensors(*(tensor.to(dtype) for tensor in exact)), case, mode, choice)
    chosen, active = chosen_by_reference(exact, case, mode, choice)
    places, blocks = found.blocks.long(), chosen.shape[3]
    as_mask = torch.zeros(*chosen.shape[:3], blocks + 1, dtype=torch.bool, device=device)
    as_mask.scatter_(-1, places.where(places >= 0, blocks), True)
    assert torch.equal(as_mask[..., :-1], chosen)
    assert torch.equal(found.total.isfinite(), active)
    if choice.blocks == EVERYTHING:
        expected = landmark_attention(exact.q, exact.k, exact.v, case.layout, mode=mode, q_far=exact.q_far)
    else:
        expected = sparse(exact, case, mode, choice, "reference")
    assert_near("out", out, expected, dtype, FUSED)


def compare_stacked(device: str) -> None:
    """However many heads a program owns, heads to spare among them, and candidates it looks at together."""
    case, choice = SHARED, Choice(2, 3)
    tensors, _ = random_tensors(case, torch.float32)
    there = Tensors(*(tensor.to(device) for tensor in tensors))
    whole = sparse(there, case, "hierarchical", choice, "fused")
    launches = {"candidates": Launch(16, 4, 1), "landmarks": Launch(1, 4, 1), "chosen": Launch(2, 4, 1)}
    assert_near("stacked", by_steps(there, case, "hierarchical", choice, launches)[0], whole, torch.float32)


if __name__ == "__main__":
    modes: tuple[Mode, ...] = ("hierarchical", "flat")
    for each, wanted in SMALL:
        for way in modes:
            compare_sparse(each, way, wanted, torch.float32, sys.argv[1])
            print(each, way, wanted)
    compare_stacked(sys.argv[1])
    print("stacked")
