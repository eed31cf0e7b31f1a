"""The local window of a reader: an open segment that grows token by token, beside what `Recall` finds in the past."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hierlandmark.config import LayoutConfig
from hierlandmark.layout import Kind, block_start
from hierlandmark.model.binding import Enough, Rope
from hierlandmark.ops.rope import turn
from hierlandmark.ops.threads import alone
from hierlandmark.recall import NEG, Recall, Strides


@dataclass
class Step:
    """Positions to run next: content with the sink or landmarks that belong before it."""

    ids: list[int]
    kinds: list[int]
    positions: list[int]


class Window:
    """Keys and values of an open segment, and the attention of new positions over it; one text.

    Args:
        shape: layers, key-value heads and head width.
        recall: what the past offers; None to attend to the window only.
        collect: keep each layer's queries, for search.
        until: with `collect`, the highest layer whose queries are wanted: there the pass ends with `Enough`.
    """

    def __init__(
        self,
        layout: LayoutConfig,
        rope: Rope,
        shape: tuple[int, int, int],
        dtype: torch.dtype,
        recall: Recall | None,
        *,
        collect: bool = False,
        until: int | None = None,
    ) -> None:
        layers, kv_heads, width = shape
        self.layout, self.rope, self.recall = layout, rope, recall
        # of this text: another one, and one that goes on over more, has a window of its own
        self._strides = Strides()
        size = layout.segment_size
        self.keys = torch.zeros(layers, kv_heads, size, width, dtype=dtype)
        self.values = torch.zeros(layers, kv_heads, size, width, dtype=dtype)
        self.kinds = torch.zeros(size, dtype=torch.int8)
        self.content: list[int] = []
        self.queries: list[Tensor] | None = [] if collect else None
        self.until = until
        self.scale = shape[2] ** -0.5
        self._length = 0
        self._new = 0
        self._in_block = 0

    @property
    def room(self) -> int:
        """Content tokens that still fit."""
        return self.layout.segment_capacity - len(self.content)

    def plan(self, tokens: Sequence[int]) -> Step:
        """Place content tokens at the end, a landmark before the token that starts a new block."""
        if len(tokens) > self.room:
            raise ValueError(f"{len(tokens)} tokens do not fit into a window with room for {self.room}")
        step = Step([], [], [])
        at, size = self._length, self.layout.block_size

        def put(token: int, kind: Kind) -> None:
            nonlocal at
            step.ids.append(token)
            step.kinds.append(kind)
            step.positions.append(at)
            at += 1

        for token in tokens:
            if at == 0 and self.layout.sink:
                put(0, Kind.SINK)
            if self._in_block == size - 1 - block_start(at // size, self.layout):
                put(0, Kind.LANDMARK)
                self._in_block = 0
            put(token, Kind.CONTENT)
            self._in_block += 1
        self.content.extend(tokens)
        self.kinds[self._length : at] = torch.tensor(step.kinds, dtype=torch.int8)
        self._new = at - self._length
        self._length = at
        self._masks()
        if self.queries is not None:
            self.queries.clear()
        return step

    def _masks(self) -> None:
        """Which of the window's keys each new position takes into P0, once for all layers."""
        W, size = self._length, self.layout.block_size
        index = torch.arange(W)
        q, kind = index[-self._new :, None], self.kinds[:W]
        plain = self.layout.own_segment
        own = (kind == Kind.CONTENT) & (plain | (q // size == index // size)) & (index <= q)
        if self.layout.sink:
            own |= (kind == Kind.SINK) & (index <= q)
        near = (kind == Kind.LANDMARK) & (index // size < q // size) & (not plain)
        self._own, self._group = own, own | near  # (T, W)
        self._blocks = -(-W // size)
        # landmark of each block but the last: (blocks - 1,), none where blocks are attended token by token
        self._near = (kind == Kind.LANDMARK).nonzero().flatten()[: 0 if plain else self._blocks - 1]
        self._earlier = (self._near // size < q // size)[None]  # (1, T, blocks - 1)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """See `Attend.attend`, B = 1, T the positions of the last plan."""
        if self._new > 1:
            return self._attend(layer, q, k, v, scale)
        # dozens of small operations a layer
        with alone():
            return self._attend(layer, q, k, v, scale)

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        T, W = self._new, self._length
        self.scale, device = scale, q.device
        # windows and recalled blocks stay in main memory, wherever the layers run
        q, k, v = q.cpu(), k.cpu(), v.cpu()
        self.keys[layer, :, W - T : W] = k[0]
        self.values[layer, :, W - T : W] = v[0]
        keys, values = self.keys[layer, :, :W].float(), self.values[layer, :, :W].float()
        H, D = q.shape[1], q.shape[3]
        H_kv = keys.shape[0]
        query = q[0].float().contiguous()
        logits = (query.view(H_kv, -1, D) @ keys.transpose(1, 2)).view(H, T, W) * scale
        total = near_lse = logits.masked_fill(~self._group, NEG).logsumexp(-1)  # (H, T)
        past = None
        recall = self.recall if self.recall is not None and self.recall.holds(layer) else None
        if recall is not None or self.queries is not None:
            far = turn(query, *self.rope.angles(layer, (self.layout.segment_size,), query.device))
            if self.queries is not None:
                self.queries.append(far)
                if layer == self.until:
                    raise Enough
            if recall is not None:
                past = recall.read(layer, far, near_lse, scale, self._strides)
        if past is not None:
            total = torch.logaddexp(near_lse, past[1])
        p0 = (logits - total.unsqueeze(-1)).exp()
        p = p0.masked_fill(~self._own, 0.0)
        if len(self._near):
            p = p + self._recalled_here(logits, p0)
        out = (p.view(H_kv, -1, W) @ values).view(H, T, D)
        if past is not None:
            out = out + past[0] * (past[1] - total).exp().unsqueeze(-1)
        return out.unsqueeze(0).to(device, q.dtype)

    def _recalled_here(self, logits: Tensor, p0: Tensor) -> Tensor:
        """Weights of content in earlier blocks of the window: (H, T, W)."""
        H, T, W = logits.shape
        n, size = len(self._near), self.layout.block_size
        content = (self.kinds[: n * size] == Kind.CONTENT).view(n, size)
        p2 = logits[..., : n * size].view(H, T, n, size).masked_fill(~content, NEG).softmax(-1)
        weight = p0[..., self._near] * self._earlier
        out = torch.zeros_like(logits)
        out[..., : n * size] = (p2 * weight.unsqueeze(-1)).flatten(-2)
        return out
