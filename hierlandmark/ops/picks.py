"""What queries select of earlier segments, as bits that the fused kernels read.

The choice is that of `ops.selected`, but many segments choose in one step, and landmarks are weighed in opened segments
only. Nothing of it has a gradient.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hierlandmark.config import Mode, RecallConfig
from hierlandmark.layout import Kind, Layout
from hierlandmark.ops.blockwise import MASKED
from hierlandmark.ops.fused import Tables, _group_keys, run_forward, tables_of
from hierlandmark.ops.weighted import CHUNK_ELEMENTS, logits_fp32
from hierlandmark.select import gate_mass, opened_weights, top, top_places

# bits of one number that is never negative
MOST_BLOCKS = 31


class Readers(NamedTuple):
    """Segments side by side, `first` to before `last`, that read no other than the first `past` of their texts."""

    first: int
    last: int
    past: int


@torch.no_grad()
def picks_of(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    select: RecallConfig,
    *,
    mode: Mode,
    scale: float,
    q_far: Tensor,
) -> Tensor:
    """Blocks that each query reads: (B, H, S, T), bit j for block j of a segment; see `landmark_attention` for shapes.

    The kernels must take the tensors, and `blocks_per_segment` is at most `MOST_BLOCKS`. Padding must be finite.
    """
    q, q_far, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, q_far, k, v))
    B, H, T, _ = q.shape
    S, P = layout.kinds.shape[1:]
    N = layout.config.blocks_per_segment
    tables = tables_of(layout, q.device)
    groups, nothing = _group_keys(k, tables), torch.zeros_like(tables.counts)
    _, lse = run_forward(q, q_far[:1], k, v, groups, layout, nothing, mode == "flat", scale * math.log2(math.e))
    near_lse = (lse * math.log(2)).view(B, H, S, P).transpose(1, 2)  # (B, S, H, P)
    chooser = _Chooser(
        q_far.reshape(-1, B, H, S, P, q.shape[-1]), groups.unflatten(2, (S, -1)), near_lse, tables, N, select, scale
    )
    choose = chooser.in_opened if mode == "hierarchical" else chooser.in_all
    picks = torch.zeros(B, H, S, S, P, dtype=torch.uint8 if N <= 8 else torch.int32, device=q.device)
    for readers in _readers(layout, B * H * P * N):
        # (B, n, H, P, M) -> (B, H, M, n, P)
        picks[:, :, : readers.past, readers.first : readers.last] = choose(readers).permute(0, 2, 4, 1, 3)
    return picks.view(B, H, S, T)


def _readers(layout: Layout, per_pair: int) -> Iterator[Readers]:
    """All that have something to read, as many together as `CHUNK_ELEMENTS` lets: `per_pair` logits a segment read."""
    reads = np.any(layout.reads, axis=0)
    run: Readers | None = None
    for s in np.flatnonzero(np.any(reads, axis=1)).tolist():
        past = int(np.flatnonzero(reads[s])[-1]) + 1
        longer = Readers(s, s + 1, past) if run is None else Readers(run.first, s + 1, max(run.past, past))
        if run is not None and (s > run.last or (s + 1 - run.first) * longer.past * per_pair > CHUNK_ELEMENTS):
            yield run
            longer = Readers(s, s + 1, past)
        run = longer
    if run is not None:
        yield run


@dataclass(frozen=True)
class _Chooser:
    """What choosing takes. K places chosen from, N blocks a segment, n segments that choose, of the first M."""

    q_far: Tensor  # (turns, B, H, S, P, D)
    groups: Tensor  # (B, H_kv, S, NP, D), landmarks, then the gate
    near_lse: Tensor  # (B, S, H, P)
    tables: Tables
    blocks: int
    select: RecallConfig
    scale: float

    def in_opened(self, readers: Readers) -> Tensor:
        """Gates open segments, whose landmarks pick blocks: bits (B, n, H, P, M)."""
        N, select = self.blocks, self.select
        allowed, present = self._may_read(readers)
        gates = self._logits(readers, slice(N, N + 1)).squeeze(-1).masked_fill(~allowed, MASKED)
        landmarks = self._logits(readers, slice(N))  # (B, n, H, P, M, N)
        mass, active = self._mass(gates, readers)
        places, opened = top_places(mass, select.segments, select.granularity, active)  # (B, n, H, P, K)
        by_block = places.unsqueeze(-1).expand(*places.shape, N)
        absent = ~(present.expand(landmarks.shape).gather(-2, by_block) & opened.unsqueeze(-1))
        logits = landmarks.gather(-2, by_block).masked_fill(absent, MASKED)
        weight = opened_weights(mass.gather(-1, places) * opened, logits, select.weigh_by)
        picked = top(weight.flatten(-2), select.blocks, select.granularity, active).view_as(weight)
        bits = (picked & opened.unsqueeze(-1)).int() << torch.arange(N, dtype=torch.int32, device=mass.device)
        none = mass.new_zeros(mass.shape, dtype=torch.int32)
        return none.scatter_(-1, places, bits.sum(-1, dtype=torch.int32))

    def in_all(self, readers: Readers) -> Tensor:
        """Flat mode, among all landmarks: bits (B, n, H, P, M)."""
        N, select = self.blocks, self.select
        allowed, present = self._may_read(readers)
        landmarks = self._logits(readers, slice(N)).masked_fill(~(present & allowed.unsqueeze(-1)), MASKED)
        mass, active = self._mass(landmarks.flatten(-2), readers)
        places, picked = top_places(mass, select.blocks, select.granularity, active)  # (B, n, H, P, K)
        none = mass.new_zeros(landmarks.shape[:-1], dtype=torch.int32)
        return none.scatter_add_(-1, places // N, picked.int() << (places % N).int())

    def _logits(self, readers: Readers, of: slice) -> Tensor:
        """Queries on some keys of each segment: (B, n, H, P, M, keys) fp32."""
        queries, keys = self.q_far[-1, :, :, readers.first : readers.last], self.groups[:, :, : readers.past, of]
        B, H, n, P, D = queries.shape
        H_kv, M, each = keys.shape[1:4]
        flat = (x.reshape(B * H_kv, -1, D) for x in (queries, keys))
        logits = logits_fp32(*flat).mul_(self.scale).view(B, H, n, P, M, each)
        for turn, nearest in enumerate(self.q_far[:-1]):
            # each on the one segment that it asks so, where that may be among those that are read
            start = max(readers.first, turn + 1)
            many = min(readers.last - start, M - start + turn + 1)
            if many < 1:
                continue
            asked = keys[:, :, start - turn - 1 :][:, :, :many]
            # (B, H_kv, many, rep, P, D)
            near = nearest[:, :, start : start + many].unflatten(1, (H_kv, -1)).transpose(2, 3)
            found = logits_fp32(near.reshape(-1, near.shape[3] * P, D), asked.reshape(-1, each, D))
            found = found.mul_(self.scale).view(*near.shape[:-1], each).transpose(2, 3).flatten(1, 2)
            at = torch.arange(start, start + many, device=keys.device)
            logits[:, :, at - readers.first, :, at - turn - 1] = found.permute(2, 0, 1, 3, 4)
        # segments before heads: they choose apart from each other
        return logits.transpose(1, 2)

    def _may_read(self, readers: Readers) -> tuple[Tensor, Tensor]:
        """Segments (B, n, 1, 1, M), and blocks that are there (B, 1, 1, 1, M, N)."""
        allowed = self.tables.allowed[:, readers.first : readers.last, None, None, : readers.past]
        return allowed, (self.tables.groups[:, : readers.past, : self.blocks] >= 0)[:, None, None, None]

    def _mass(self, logits: Tensor, readers: Readers) -> tuple[Tensor, Tensor]:
        """P0 beside the local window, and who reads at all (B, n, H, P)."""
        here = slice(readers.first, readers.last)
        mass = gate_mass(logits, self.near_lse[:, here])
        real = self.tables.kinds.view(*self.tables.allowed.shape[:2], 1, -1)[:, here] != Kind.PAD
        return mass, (mass.sum(-1) > self.select.threshold) & real
