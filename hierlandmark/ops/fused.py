"""The same attention in fused kernels, forward and backward: memory linear in the text, for GPUs."""

import math
from importlib.util import find_spec
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from hierlandmark.config import Mode
from hierlandmark.layout import Kind, Layout, segment_kinds, split_blocks

WIDTHS, DTYPES = (16, 32, 64, 128), (torch.bfloat16, torch.float16, torch.float32)


class Tables(NamedTuple):
    """A layout on the device, as the kernels read it. B texts, S segments, N blocks."""

    kinds: Tensor  # (B, S * P) int8
    groups: Tensor  # (B, S, NP) int32, place of each landmark, of the gate and of the sink, -1 if none
    whole: Tensor  # (B, S) int32, whether a segment is full
    reads: Tensor  # (B, S, S) int32, segments that each one reads, in order
    counts: Tensor  # (B, S) int32, how many
    readers: Tensor  # the reverse
    reader_counts: Tensor
    allowed: Tensor  # (B, S, S) bool, the same as a mask
    # whether the segments in every list follow one another
    ranges: bool
    # whether all segments that anybody reads are full
    all_whole: bool


class Tile(NamedTuple):
    """Queries a program owns, and how it is compiled."""

    queries: int
    warps: int
    stages: int


def why_not(q: Tensor, layout: Layout) -> str | None:
    """Why the kernels cannot take these tensors; None when they can."""
    config, D = layout.config, q.shape[-1]
    if find_spec("triton") is None:
        return "triton is not installed"
    if D not in WIDTHS or q.dtype not in DTYPES:
        return f"heads of width {D} in {q.dtype}: expected a width in {WIDTHS} and single or half precision"
    if config.block_size < 16 or config.block_size & (config.block_size - 1):
        return f"block_size {config.block_size}: expected a power of two of at least 16"
    return None


def preferred(v: Tensor, layout: Layout) -> bool:
    """Whether the kernels are the better choice: in single precision they could not use the matrix units."""
    return v.is_cuda and v.dtype in (torch.bfloat16, torch.float16) and why_not(v, layout) is None


def landmark_attention_fused(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    *,
    mode: Mode,
    scale: float,
    q_far: Tensor,
    picks: Tensor | None = None,
) -> Tensor:
    """Grouped softmax in one pass over the keys; see `landmark_attention` for shapes. Padding must be finite.

    Args:
        picks: (B, H, S, T) integers, contiguous; bit j says that a query reads block j of a segment before its own.
            None for all blocks. See `ops.picks`.

    Raises:
        ValueError: the kernels do not take this width, dtype or block size, or triton is not installed.
    """
    if (reason := why_not(q, layout)) is not None:
        raise ValueError(f"impl='fused' is not possible: {reason}; use impl='blockwise'")
    q, q_far, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, q_far, k, v))
    return _Fused.apply(q, q_far, k, v, picks, layout, mode == "flat", scale)  # type: ignore[no-untyped-call,no-any-return]


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        q_far: Tensor,
        k: Tensor,
        v: Tensor,
        picks: Tensor | None,
        layout: Layout,
        flat: bool,
        scale: float,
    ) -> Tensor:
        tables, qk_scale = tables_of(layout, q.device), scale * math.log2(math.e)
        groups = _group_keys(k, tables)
        out, lse = run_forward(q, q_far, k, v, groups, layout, tables.counts, flat, qk_scale, picks=picks)
        ctx.save_for_backward(q, q_far, k, v, picks, groups, out, lse)
        ctx.layout, ctx.flat, ctx.scale = layout, flat, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        from hierlandmark.ops.fused_triton import key_grad_kernel, query_grad_kernel

        q, q_far, k, v, picks, groups, out, lse = ctx.saved_tensors
        layout, qk_scale = ctx.layout, ctx.scale * math.log2(math.e)
        grad = grads[0] if grads[0].stride(-1) == 1 else grads[0].contiguous()
        B, H, T, _ = q.shape
        tables = tables_of(layout, q.device)
        dq, dq_far, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, q_far, k, v))
        delta = torch.empty_like(lse)
        dgroups = torch.zeros(groups.shape, dtype=torch.float32, device=q.device)
        tile = _tile("query", layout, q.shape[-1], q.dtype)
        query_grad_kernel[(T // tile.queries, B * H)](
            q, q_far, k, v, groups, out, grad, lse, delta, dq, dq_far, dgroups,
            tables.kinds, tables.groups, tables.whole, tables.reads, tables.counts,
            tables.kinds if picks is None else picks, qk_scale, ctx.scale,
            *_strides(q, q_far, k, v, out, grad), **_sizes(q, k, layout), BM=tile.queries,
            FLAT=ctx.flat, RANGE=tables.ranges, SELECT=picks is not None, FULL=tables.all_whole,
            TURNS=len(q_far), PLAIN=layout.config.own_segment, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
        tile = _tile("key", layout, q.shape[-1], q.dtype)
        readers = tables.readers, tables.reader_counts
        if picks is not None:
            readers = _reading_tiles(picks, layout.config.blocks_per_segment, tile.queries, H // k.shape[1])
        key_grad_kernel[(T // layout.config.block_size, B * k.shape[1])](
            q, q_far, k, v, groups, grad, lse, delta, dk, dv, dgroups,
            tables.kinds, tables.groups, *readers, tables.kinds if picks is None else picks, qk_scale, ctx.scale,
            *_strides(q, q_far, k, v, grad), **_sizes(q, k, layout), BM=tile.queries,
            FLAT=ctx.flat, RANGE=tables.ranges, SELECT=picks is not None, TURNS=len(q_far),
            PLAIN=layout.config.own_segment, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
        return dq, dq_far, dk, dv, None, None, None, None


def run_forward(
    q: Tensor,
    q_far: Tensor,
    k: Tensor,
    v: Tensor,
    groups: Tensor,
    layout: Layout,
    counts: Tensor,
    flat: bool,
    qk_scale: float,
    tile: Tile | None = None,
    picks: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """With `counts` segments to read: the output (B, H, T, D), and P0's log-sum-exp in base 2, (B, H, T)."""
    from hierlandmark.ops.fused_triton import forward_kernel

    B, H, T, D = q.shape
    # heads beside each other, as the projection that follows takes them
    out = torch.empty(B, T, H, D, dtype=q.dtype, device=q.device).transpose(1, 2)
    lse = torch.empty(B, H, T, dtype=torch.float32, device=q.device)
    tables, tile = tables_of(layout, q.device), tile or _tile("forward", layout, D, q.dtype)
    forward_kernel[(T // tile.queries, B * H)](
        q, q_far, k, v, groups, out, lse,
        tables.kinds, tables.groups, tables.whole, tables.reads, counts,
        tables.kinds if picks is None else picks, qk_scale, *_strides(q, q_far, k, v, out),
        **_sizes(q, k, layout), BM=tile.queries, FLAT=flat, RANGE=tables.ranges, SELECT=picks is not None,
        FULL=tables.all_whole, TURNS=len(q_far), PLAIN=layout.config.own_segment,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out, lse


def _group_keys(k: Tensor, tables: Tables) -> Tensor:
    """Keys of landmarks, gates and sinks: (B, H_kv, S * NP, D), contiguous; what stands for none is never looked at."""
    where = tables.groups.clamp_min(0).flatten(1)[:, None, :, None].long()
    return k.gather(2, where.expand(-1, k.shape[1], -1, k.shape[-1]))


def _reading_tiles(picks: Tensor, blocks: int, queries: int, rep: int) -> tuple[Tensor, Tensor]:
    """For each block the tiles of `queries`, those that read it first, as tile * rep + head of the group; how many do.

    (B, H, S, T) -> (B, H_kv, S * N, T / queries * rep), (B, H_kv, S * N), both int32.
    """
    B, H, S, T = picks.shape
    bits = picks.view(B, H, S, T // queries, queries)
    while bits.shape[-1] > 1:
        half = bits.shape[-1] // 2
        bits = bits[..., :half] | bits[..., half:]
    read = (bits >> torch.arange(blocks, dtype=picks.dtype, device=picks.device)) & 1  # (B, H, S, tiles, N)
    read = read.view(B, H // rep, rep, S, -1, blocks).permute(0, 1, 3, 5, 4, 2).reshape(B, H // rep, S * blocks, -1)
    ends = read.cumsum(-1, dtype=torch.int32)
    counts, tiles = ends[..., -1:], torch.arange(read.shape[-1], dtype=torch.int32, device=picks.device)
    places = torch.where(read > 0, ends - 1, counts + tiles - ends)
    lists = torch.empty_like(places).scatter_(-1, places.long(), tiles.expand(read.shape))
    return lists, counts.squeeze(-1).contiguous()


def _strides(*tensors: Tensor) -> tuple[int, ...]:
    return tuple(stride for x in tensors for stride in x.stride()[:-1])


def _sizes(q: Tensor, k: Tensor, layout: Layout) -> dict[str, int]:
    N, bs = layout.config.blocks_per_segment, layout.config.block_size
    return {
        "H": q.shape[1], "T": q.shape[2], "S": layout.kinds.shape[1], "REP": q.shape[1] // k.shape[1],
        "N": N, "NP": group_slots(N), "BS": bs, "D": q.shape[3],
    }  # fmt: skip


def group_slots(blocks: int) -> int:
    """Landmarks, the gate and the sink of a segment, up to a power of two that a matrix product takes."""
    return max(16, 1 << (blocks + 1).bit_length())


# fastest of those tried on an H100 and an H200 at a block size of 64 (docs/log.md): kernel, and whether heads are wider
# than 64
_TILES = {
    ("forward", False): Tile(64, 4, 2), ("query", False): Tile(64, 4, 3), ("key", False): Tile(64, 4, 3),
    ("forward", True): Tile(128, 8, 3), ("query", True): Tile(128, 8, 3), ("key", True): Tile(128, 8, 2),
}  # fmt: skip


def _tile(kernel: str, layout: Layout, width: int, dtype: torch.dtype) -> Tile:
    config = layout.config
    best = Tile(64, 4, 1) if dtype == torch.float32 else _TILES[kernel, width > 64]
    queries = config.block_size
    # a tile lies within one segment
    while queries < best.queries and config.segment_size % (2 * queries) == 0:
        queries *= 2
    return best._replace(queries=queries)


_TABLES: WeakKeyDictionary[Layout, dict[torch.device, Tables]] = WeakKeyDictionary()


def tables_of(layout: Layout, device: torch.device) -> Tables:
    """The layout's tables, made once a layout and device: every layer reads them."""
    made = _TABLES.setdefault(layout, {})
    if device not in made:
        made[device] = _make_tables(layout, device)
    return made[device]


def _make_tables(layout: Layout, device: torch.device) -> Tables:
    B, S, P = layout.kinds.shape
    N = layout.config.blocks_per_segment
    blocks = layout.kinds.reshape(B, S, N, P // N) == Kind.LANDMARK
    starts = np.arange(S)[:, None] * P + np.arange(N) * (P // N)
    groups = np.full((B, S, group_slots(N)), -1, dtype=np.int32)
    groups[..., :N] = np.where(blocks.any(-1), starts + blocks.argmax(-1), -1)
    gates = layout.kinds == Kind.GATE
    groups[..., N] = np.where(gates.any(-1), np.arange(S) * P + gates.argmax(-1), -1)
    groups[..., N + 1] = np.where(layout.kinds[..., 0] == Kind.SINK, np.arange(S) * P, -1)
    full = segment_kinds(split_blocks(layout.config.segment_capacity, layout.config), layout.config)
    whole = (layout.kinds == full).all(-1)
    # a segment of padding is read by nobody
    reads = layout.reads & gates.any(-1)[:, None]
    lists = (*_lists(reads), *_lists(reads.swapaxes(1, 2)))
    arrays = (layout.kinds.reshape(B, S * P), groups, whole.astype(np.int32), *lists, reads)
    all_whole = bool((whole | ~reads.any(1)).all())
    ranges = _are_ranges(*lists[:2]) and _are_ranges(*lists[2:])
    kinds, slots, full_ones, read, counts, readers, reader_counts, allowed = (
        torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in arrays
    )
    return Tables(kinds, slots, full_ones, read, counts, readers, reader_counts, allowed, ranges, all_whole)


def _lists(reads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row the places that are true, first ones first, and their number."""
    return np.argsort(~reads, axis=-1, kind="stable").astype(np.int32), reads.sum(-1).astype(np.int32)


def _are_ranges(lists: np.ndarray, counts: np.ndarray) -> bool:
    inside = np.arange(lists.shape[-1]) < counts[..., None]
    return bool((~inside | (lists == lists[..., :1] + np.arange(lists.shape[-1]))).all())
