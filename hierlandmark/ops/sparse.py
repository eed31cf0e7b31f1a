"""Recall while reading: each block of queries attends to its window and to the few earlier blocks that it chooses."""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from hierlandmark.config import Mode
from hierlandmark.layout import Layout
from hierlandmark.ops.fused import (
    Tables,
    Tile,
    _group_keys,
    _sizes,
    _strides,
    preferred,
    run_forward,
    tables_of,
    why_not,
)
from hierlandmark.ops.inputs import inputs_of
from hierlandmark.ops.sparse_reference import sparse_reference

SparseImpl = Literal["reference", "fused"]


class Launch(NamedTuple):
    """How a kernel is compiled: candidates looked at together, or heads of a group stacked; warps; stages."""

    size: int
    warps: int
    stages: int


Launches = Mapping[str, Launch]


class Chosen(NamedTuple):
    """What each block of queries reads, as the kernels take it. N blocks in the text, -1 where fewer were chosen."""

    segments: Tensor  # (B, H_kv, N, segments) int32; empty in flat mode
    blocks: Tensor  # (B, H_kv, N, blocks) int32, of the text, greatest mass first
    total: Tensor  # (B, H, T), log-sum-exp of P0 in base 2; infinite for a query that reads nothing


class Near(NamedTuple):
    """Attention to the local window: (B, H, T, D), and its log-sum-exp in base 2, (B, H, T)."""

    out: Tensor
    lse: Tensor


def landmark_attention_sparse(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    *,
    mode: Mode = "hierarchical",
    scale: float | None = None,
    q_far: Tensor | None = None,
    segments: int = 8,
    blocks: int = 16,
    threshold: float = 0.0,
    impl: SparseImpl | None = None,
) -> Tensor:
    """Landmark attention in which a query reads its local window and the best few blocks of earlier segments.

    As recall does for a store (Mohtashami & Jaggi 2023, section 3.2): the segments of greatest P0 are opened, and of
    their blocks those of greatest P0 P1 are read, P0 and P1 made anew among the chosen. In flat mode the landmarks of
    greatest P0. One choice serves a block of `block_size` queries and the query heads of one key-value head: a
    candidate counts by its greatest mass for any of them, so reading is by whole tiles. So what a query reads, though
    not what it may see, also depends on later queries of its own block. Forward only.

    Args:
        q, k, v, scale, q_far: as `landmark_attention` takes them, but one q_far, (B, H, T, D).
        segments: how many to open; has no meaning in flat mode.
        blocks: how many to read. Enough of both gives `landmark_attention`; queries of a first segment read none.
        threshold: mass on all gates (flat: landmarks) of other segments up to which a query reads nothing.
        impl: None chooses "fused" (Triton) on a GPU in half precision where it can take the tensors, else "reference",
            which holds several T x T arrays.

    Returns:
        (B, H, T, D) in q's dtype; zero where the query is padding.

    Raises:
        ValueError: gradients are asked for; or as `landmark_attention`; or q_far is several; or `segments` or `blocks`
            is not positive.
    """
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, q_far)):
        raise ValueError("sparse attention has no gradient: call it under torch.no_grad(), or train landmark_attention")
    if segments < 1 or blocks < 1:
        raise ValueError(f"expected to open and read at least one, got segments={segments!r}, blocks={blocks!r}")
    if q_far is not None and q_far.dim() != 4:
        raise ValueError(f"expected one q_far (B, H, T, D), got {tuple(q_far.shape)}")
    dtype = q.dtype
    with torch.no_grad(), torch.autocast(q.device.type, enabled=False):
        q, k, v, (q_far,), scale, pad = inputs_of(q, k, v, layout, scale, q_far)
        attend = _fused if (impl or ("fused" if preferred(v, layout) else "reference")) == "fused" else sparse_reference
        out = attend(
            q, k, v, layout,
            mode=mode, scale=scale, q_far=q_far, segments=segments, blocks=blocks, threshold=threshold,
        )  # fmt: skip
        return (out if pad is None else out.masked_fill(pad, 0.0)).to(dtype)


def _fused(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    *,
    mode: Mode,
    scale: float,
    q_far: Tensor,
    segments: int,
    blocks: int,
    threshold: float,
) -> Tensor:
    if (reason := why_not(q, layout)) is not None:
        raise ValueError(f"impl='fused' is not possible: {reason}; use impl='reference'")
    work = Sparse(layout, q_far, k, v, mode, scale)
    near = work.near(q)
    chosen = work.choose(near.lse, segments, blocks, threshold)
    return work.attend(near, chosen)


# fastest expected at a block size of 64 from how they compile for sm_90 (registers, spills)
LAUNCHES: dict[bool, Launches] = {
    False: {"candidates": Launch(64, 4, 2), "landmarks": Launch(1, 4, 2), "chosen": Launch(1, 4, 3)},
    True: {"candidates": Launch(64, 4, 2), "landmarks": Launch(1, 4, 2), "chosen": Launch(2, 8, 3)},
}
# tiles of twice the bytes, for tests
_SINGLE: Launches = {
    kernel: Launch(size, 4, 1) for kernel, size in (("candidates", 32), ("landmarks", 1), ("chosen", 1))
}


class Sparse:
    """One call's tensors, and its steps one by one, so that each can be timed: near, choose, attend.

    Args:
        q_far, k, v: padding zero; see `landmark_attention_sparse`.
        launches: by kernel; None takes those of `LAUNCHES` for the width.
    """

    def __init__(
        self,
        layout: Layout,
        q_far: Tensor,
        k: Tensor,
        v: Tensor,
        mode: Mode,
        scale: float,
        launches: Launches | None = None,
    ) -> None:
        self.layout, self.flat = layout, mode == "flat"
        self.q_far, self.k, self.v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q_far, k, v))
        self.tables: Tables = tables_of(layout, k.device)
        self.groups = _group_keys(k, self.tables)
        self.qk_scale = scale * math.log2(math.e)
        self.launches = launches or (_SINGLE if k.dtype == torch.float32 else LAUNCHES[k.shape[-1] > 64])

    def near(self, q: Tensor, tile: Tile | None = None) -> Near:
        """The local window: the dense kernel with nothing to read, compiled as for that unless `tile` is given."""
        q = q if q.stride(-1) == 1 else q.contiguous()
        nothing = torch.zeros_like(self.tables.counts)
        return Near(
            *run_forward(
                q, q.unsqueeze(0), self.k, self.v, self.groups, self.layout, nothing, self.flat, self.qk_scale, tile
            )
        )

    def choose(self, near_lse: Tensor, segments: int, blocks: int, threshold: float) -> Chosen:
        """Gates, opened segments, their landmarks, chosen blocks; flat: landmarks, chosen blocks."""
        score, total = self.candidates(near_lse, threshold)
        if self.flat:
            chosen, found = self._top(score, blocks)
            opened = chosen.new_empty(*chosen.shape[:3], 0)
            return Chosen(opened, _or_none(chosen, found), total)
        opened = _or_none(*self._top(score, segments))
        place, found = self._top(self.landmarks(opened, total), blocks)
        N = self.layout.config.blocks_per_segment
        # (B, H_kv, blocks of queries, blocks)
        chosen = opened.gather(-1, place // N) * N + place % N
        return Chosen(opened, _or_none(chosen, found), total)

    def candidates(self, near_lse: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
        """Greatest P0 of each gate (flat: landmark) in each block of queries, (B, H, N, C), and P0's log-sum-exp."""
        from hierlandmark.ops.sparse_triton import candidates_kernel

        q, tables, launch = self.q_far, self.tables, self.launches["candidates"]
        B, H, T, _ = q.shape
        sizes = self._sizes()
        per = sizes["N"] if self.flat else 1
        score = torch.zeros(B, H, T // sizes["BS"], sizes["S"] * per, dtype=torch.float32, device=q.device)
        total = torch.empty_like(near_lse)
        candidates_kernel[(T // sizes["BS"], B * H)](
            q, self.groups, near_lse, total, score, tables.kinds, tables.groups, tables.reads, tables.counts,
            self.qk_scale, threshold, *_strides(q), **sizes, BC=launch.size, PER=per,
            num_warps=launch.warps, num_stages=launch.stages,
        )  # fmt: skip
        return score, total

    def landmarks(self, opened: Tensor, total: Tensor) -> Tensor:
        """Greatest P0 P1 of each landmark of the opened segments: (B, H, N, segments * blocks_per_segment)."""
        from hierlandmark.ops.sparse_triton import landmarks_kernel

        q, launch, sizes = self.q_far, self.launches["landmarks"], self._sizes()
        B, H, T, _ = q.shape
        tiles, count = T // sizes["BS"], opened.shape[-1]
        score = torch.empty(B, H, tiles, count * sizes["N"], dtype=torch.float32, device=q.device)
        landmarks_kernel[(tiles, B * H)](
            q, self.groups, total, score, self.tables.groups, opened, self.qk_scale, *_strides(q), **sizes, G=count,
            num_warps=launch.warps, num_stages=launch.stages,
        )  # fmt: skip
        return score

    def attend(self, near: Near, chosen: Chosen) -> Tensor:
        """Add the chosen blocks to the near part, in place: (B, H, T, D)."""
        from hierlandmark.ops.sparse_triton import chosen_kernel

        q, k, v, launch, sizes = self.q_far, self.k, self.v, self.launches["chosen"], self._sizes()
        B, H, T, _ = q.shape
        count = chosen.blocks.shape[-1]
        parts = -(-sizes["REP"] // launch.size)
        chosen_kernel[(T // sizes["BS"], B * k.shape[1] * parts)](
            q, k, v, self.groups, near.out, near.lse, chosen.total, self.tables.kinds, chosen.segments, chosen.blocks,
            self.qk_scale, *_strides(q, k, v, near.out), **sizes, G=chosen.segments.shape[-1], C=count,
            # 16 columns are the fewest that a matrix product takes
            CP=max(16, 1 << (count - 1).bit_length()), HEADS=launch.size, FLAT=self.flat,
            num_warps=launch.warps, num_stages=launch.stages,
        )  # fmt: skip
        return near.out

    def _sizes(self) -> dict[str, int]:
        return _sizes(self.q_far, self.k, self.layout)

    def _top(self, score: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Places of the greatest for any head of a group, (B, H_kv, N, count), and whether they have any mass."""
        shared = score.unflatten(1, (self.k.shape[1], -1)).amax(2)
        best = shared.topk(min(count, shared.shape[-1]), dim=-1)
        return best.indices, best.values > 0


def _or_none(places: Tensor, found: Tensor) -> Tensor:
    return places.masked_fill(~found, -1).int()
