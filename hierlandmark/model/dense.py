"""A batch of texts on the grid: every block attended, or those that queries select; or plain attention beside it."""

from collections.abc import Callable, Container
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hierlandmark.config import Mode, RecallConfig
from hierlandmark.layout import Kind, Layout
from hierlandmark.model.binding import Rope
from hierlandmark.model.gates import GateProbe
from hierlandmark.ops import Impl, landmark_attention
from hierlandmark.ops.banded import banded_attention
from hierlandmark.ops.blockwise import MASKED, pick
from hierlandmark.ops.rope import turn
from hierlandmark.ops.selected import Counts, alone, selected_attention


@dataclass
class Probe:
    """Watches how chosen heads vote on chosen queries' past, in the way a search ranks (`memory.rank.rank_blocks`)."""

    heads: dict[int, list[int]]  # layer -> query heads
    rows: Tensor  # (n,) text of each query
    places: Tensor  # (n,) its position in the text
    targets: Tensor  # (n, M * N) bool, blocks of the first M segments that hold what it looks for
    # for each watched layer (2, n, heads): mass on the targets by gates and landmarks, and by all landmarks at once
    found: list[Tensor] = field(default_factory=list)

    def look(self, q_far: Tensor, k: Tensor, layout: Layout, heads: list[int], scale: float) -> None:
        """Take one layer's votes: q_far (B, H, T, D), k (B, H_kv, T, D)."""
        N, size = layout.config.blocks_per_segment, layout.config.block_size
        M = self.targets.shape[1] // N
        kinds = torch.from_numpy(layout.kinds[:, :M]).to(k.device)
        landmark = kinds.unflatten(-1, (N, size)) == Kind.LANDMARK  # (B, M, N, P)
        gate = kinds == Kind.GATE
        group = [head * k.shape[1] // q_far.shape[1] for head in heads]
        past = k[:, :, : kinds[0].numel()].unflatten(2, (M, N, size))
        # (n, h, M * N, D) and (n, h, M, D): few keys are picked first, and heads and texts chosen among those
        landmark_k = pick(past, landmark).flatten(2, 3)[:, group][self.rows].float()
        gate_k = pick(past.flatten(3, 4), gate)[:, group][self.rows].float()
        q = q_far[self.rows[:, None], torch.tensor(heads, device=k.device), self.places[:, None]].float()  # (n, h, D)
        logits = torch.einsum("nhd,nhmd->nhm", q, landmark_k) * scale
        logits = logits.masked_fill(~landmark.any(-1).flatten(1)[self.rows].unsqueeze(1), MASKED)
        gates = torch.einsum("nhd,nhmd->nhm", q, gate_k) * scale
        gates = gates.masked_fill(~gate.any(-1)[self.rows].unsqueeze(1), MASKED).softmax(-1)
        votes = gates.unsqueeze(-1) * logits.unflatten(-1, (M, N)).softmax(-1)
        both = torch.stack((votes.flatten(-2), logits.softmax(-1)))  # (2, n, h, M * N)
        self.found.append((both * self.targets.unsqueeze(1)).sum(-1))


@dataclass
class DenseAttention:
    """Landmark attention over a layout; recalled blocks stand one segment before the query's own (stingy positions).

    `reach`: positions that a query moves on by to look into other segments, by default those of a segment.
    """

    layout: Layout
    rope: Rope
    mode: Mode = "hierarchical"
    impl: Impl | None = None
    probe: Probe | None = None
    # far_queries, or the same compiled
    prepare: "Prepare | None" = None
    reach: int | None = None
    # so many segments right before a query's own stand at their true distance, older ones one segment further
    recency: int = 0
    # what queries select of earlier segments; None for all of them. `select.mode` is not used
    select: RecallConfig | None = None
    counts: Counts | None = None
    gates: GateProbe | None = None
    # layers that look into other segments; in the others each segment stands alone. None for all
    memory_layers: Container[int] | None = None

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """See `Attend.attend`; T covers the whole layout."""
        looks = self.memory_layers is None or layer in self.memory_layers
        layout, q_far = self.layout if looks else alone(self.layout), None
        if layout.reads.any():
            q, q_far, k = (self.prepare or far_queries)(q, k, v, *self.angles(layer, q.device))
            if self.probe is not None and layer in self.probe.heads:
                with torch.autocast(q.device.type, enabled=False):
                    self.probe.look(q_far[0] if self.recency else q_far, k, self.layout, self.probe.heads[layer], scale)
            if self.gates is not None:
                with torch.autocast(q.device.type, enabled=False):
                    self.gates.look(layer, q_far, k, scale)
        # hidden states at padding are those of some token: finite, and nobody looks at them
        if self.select is None or not looks:
            q, k = q.to(v.dtype), k.to(v.dtype)
            return landmark_attention(
                q, k, v, layout, mode=self.mode, scale=scale, q_far=q_far, impl=self.impl, finite=True,
            )  # fmt: skip
        return selected_attention(
            q, k, v, self.layout, self.select, mode=self.mode, scale=scale, q_far=q_far,
            impl=self.impl, counts=self.counts, finite=True,
        )  # fmt: skip

    def angles(self, layer: int, device: torch.device) -> tuple[Tensor, ...]:
        """Cosine and sine of the turns that `far_queries` takes: (1, D / 2), with recency (n, 1, 1, 1, D / 2)."""
        size = self.layout.config.segment_size
        reach = self.reach or size
        reaches = tuple(reach + further * size for further in range(self.recency + 1))
        turns = self.rope.angles(layer, reaches, device)
        return tuple(each[:, None, None, None] for each in turns) if self.recency else turns


Prepare = Callable[..., tuple[Tensor, Tensor, Tensor]]


def far_queries(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, queries turned for other segments, once or for each of some turns, and keys, all in the values' dtype.

    R(p + reach) q = R(reach) R(p) q: what is rotated already is rotated by one segment more.
    """
    return q.to(v.dtype), turn(q, cos, sin).to(v.dtype), k.to(v.dtype)


@dataclass
class PlainAttention:
    """Causal attention without landmarks, what landmarks are measured against; positions are those of the text.

    Args:
        window: tokens that a token sees, itself among them; None for all before it.
        cache: tokens before each step of `window` tokens that are seen too (`banded_attention`); None: it slides.
    """

    window: int | None = None
    cache: int | None = None

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """See `Attend.attend`."""
        return banded_attention(q, k, v, self.window, cache=self.cache, scale=scale)
