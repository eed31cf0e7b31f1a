"""Gates beside landmarks: how far what opens segments is from what all landmarks at once would say."""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hierlandmark.layout import Kind, Layout
from hierlandmark.ops.blockwise import MASKED
from hierlandmark.ops.fused import tables_of


@dataclass
class GateQueue:
    """Keys of segments of earlier steps, newest last: a memory has more segments than a step has room for.

    As the queue of keys in He et al. 2020 (Momentum Contrast), but of the network as it was a few steps ago. A segment
    that is encoded on its own has the same keys in any memory, so those of one text may stand in another's. They have
    no gradient. A run that is resumed fills it again from nothing.
    """

    size: int  # segments
    # for each layer (R, 1 + N, H_kv, D), up to `size` full segments: the gate, then the landmarks
    keys: dict[int, Tensor] = field(default_factory=dict)
    # those of the step that is being taken
    fresh: dict[int, Tensor] = field(default_factory=dict)

    def newest(self, layer: int, count: int) -> Tensor | None:
        """The last `count` segments of a layer, or as many as there are; None where that is none."""
        held = self.keys.get(layer)
        return held[-count:] if count and held is not None and len(held) else None

    def offer(self, layer: int, keys: Tensor) -> None:
        """Segments (n, 1 + N, H_kv, D) of a layer, which `settle` adds."""
        self.fresh[layer] = keys.detach()

    def settle(self, *, keep: bool) -> None:
        """Add what the step offered, for which the oldest make room; or drop it, as a step that is not taken."""
        if keep:
            for layer, keys in self.fresh.items():
                before = [self.keys[layer]] if layer in self.keys else []
                self.keys[layer] = torch.cat((*before, keys))[-self.size :]
        self.fresh.clear()


@dataclass
class GateProbe:
    """Watches, for chosen queries and in every layer that looks into other segments and every head, how gates
    spread over what the query reads.

    It is held to the mass that a softmax over all landmarks of the same segments gives each, as in flat mode. That mass
    has no gradient: gates learn from landmarks, and landmarks learn nothing from gates.

    With a queue, queries read its newest `among` segments too, and those of their own text are offered to it that are
    full and were encoded on their own.
    """

    # B texts, Q queries of each at most, M segments that any of them reads
    queries: Tensor  # (B, Q) position in the text
    reads: Tensor  # (B, Q, M) bool, segments that a query reads; none where a text has fewer queries
    known: Tensor  # (B, Q, M) bool, those of them that hold what it looks for, where that is known
    landmarks: Tensor  # (B, M, N) position in the text, -1 where there is none
    gates: Tensor  # (B, M) the same
    between: Tensor  # (B, Q, M) how many segments stand between it and a query's own
    # what a queue takes: (n, 1) text, (n, 1 + N) places of the gate and the landmarks
    whole: tuple[Tensor, Tensor]
    queue: GateQueue | None = None
    among: int = 0
    # for each layer (3,): the divergence of gates from landmarks in nats, and the mass on what is known by either
    found: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        layout: Layout,
        watched: np.ndarray,
        evidence: np.ndarray,
        device: torch.device,
        queue: GateQueue | None = None,
        among: int = 0,
    ) -> "GateProbe":
        """Queries grouped by text, so that no key is copied for a query.

        Args:
            watched: (n, 2) text and position in the text of each query; all of them read something.
            evidence: (n, S) bool, segments that hold what it looks for; none where that is not known.
            queue: segments of earlier steps; None takes and adds none.
            among: how many of them queries read.
        """
        B, S, P = layout.kinds.shape
        rows, places = watched.T
        slots = np.zeros(len(rows), dtype=np.int64)
        for b in range(B):
            slots[rows == b] = np.arange(np.sum(rows == b))
        Q = int(slots.max()) + 1
        # a segment of padding has no gate, and nobody reads it
        seen = layout.reads[rows, places // P] & (layout.kinds == Kind.GATE).any(-1)[rows]  # (n, S)
        M = int(np.flatnonzero(seen.any(0))[-1]) + 1
        queries, reads, known = np.zeros((B, Q), np.int64), np.zeros((B, Q, M), bool), np.zeros((B, Q, M), bool)
        queries[rows, slots] = places
        reads[rows, slots], known[rows, slots] = seen[:, :M], (seen & evidence)[:, :M]
        between = queries[..., None] // P - np.arange(M) - 1
        asked, may, holds, apart = (torch.from_numpy(x).to(device) for x in (queries, reads, known, between))
        groups, N = tables_of(layout, device).groups[:, :M].long(), layout.config.blocks_per_segment
        alone = reads.any(1) & ~np.any(layout.reads[:, :M], -1)
        full = np.argwhere(alone & (np.sum(layout.kinds[:, :M] == Kind.LANDMARK, -1) == N))
        b, m = torch.from_numpy(full.T).to(device)
        whole = b[:, None], torch.cat((groups[b, m, N : N + 1], groups[b, m, :N]), -1)
        return cls(asked, may, holds, groups[..., :N], groups[..., N], apart, whole, queue, among)

    def look(self, layer: int, q_far: Tensor, k: Tensor, scale: float) -> None:
        """Take one layer's divergence and masses: k (B, H_kv, T, D), q_far as `landmark_attention` takes it.

        A queue's segments are asked as the oldest of a text.
        """
        M = self.reads.shape[-1]
        *nearest, far = (self._asking(q, k.shape[1]) for q in (q_far if q_far.dim() == 5 else [q_far]))

        def logits(places: Tensor) -> Tensor:
            keys, dims = _taken(k, places.flatten(1)), [1] * (places.dim() - 2)
            found = self._products(far, keys, scale).unflatten(-1, places.shape[1:])  # (B, H, Q, M, ...)
            for turn, q in enumerate(nearest):
                asked = (self.between == turn).unflatten(-1, (-1, *dims)).unsqueeze(1)
                found = torch.where(asked, self._products(q, keys, scale).view_as(found), found)
            here = self.reads.unflatten(-1, (-1, *dims)) & (places >= 0).unsqueeze(1)
            return found.masked_fill(~here.unsqueeze(1), MASKED)

        student, queued = logits(self.gates), None
        if self.queue is not None and (newest := self.queue.newest(layer, self.among)) is not None:
            queued = newest.to(far.dtype).permute(2, 0, 1, 3)  # (H_kv, R, 1 + N, D)
            student = torch.cat((student, self._products(far, queued[:, :, 0], scale)), -1)  # (B, H, Q, M + R)
        student = student.log_softmax(-1)
        with torch.no_grad():
            teacher = logits(self.landmarks).logsumexp(-1)
            if queued is not None:
                others = self._products(far, queued[:, :, 1:].flatten(1, 2), scale)
                teacher = torch.cat((teacher, others.unflatten(-1, (queued.shape[1], -1)).logsumexp(-1)), -1)
            teacher = teacher.log_softmax(-1)
        apart = F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)  # (B, H, Q)
        mass = torch.stack((student.detach(), teacher))[..., :M].exp().mul(self.known.unsqueeze(1)).sum(-1)
        kl = _mean(apart, self.reads.any(-1))
        self.found.append(torch.stack((kl, *_mean(mass, self.known.any(-1)))))
        if self.queue is not None:
            texts, places = self.whole
            self.queue.offer(layer, k[texts, :, places])

    def _asking(self, q: Tensor, groups: int) -> Tensor:
        """Watched queries, heads of a group beside each other: (B, H, T, D) -> (B, H_kv, rep * Q, D)."""
        return _taken(q, self.queries).unflatten(1, (groups, -1)).flatten(2, 3)

    def _products(self, q: Tensor, k: Tensor, scale: float) -> Tensor:
        """Logits of watched queries on keys ((B,) H_kv, n, D): (B, H_kv, rep * Q, D) -> (B, H, Q, n)."""
        return (q @ k.transpose(-1, -2) * scale).unflatten(2, (-1, self.queries.shape[1])).flatten(1, 2)


def _taken(x: Tensor, places: Tensor) -> Tensor:
    """Vectors at some places in fp32 at least: (B, H, T, D), (B, n) -> (B, H, n, D); any one where a place is -1."""
    index = places.clamp_min(0)[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[-1])
    taken = x.gather(2, index)
    return taken.to(torch.promote_types(x.dtype, torch.float32))


def _mean(x: Tensor, count: Tensor) -> Tensor:
    """Mean over heads and those queries that count, not a number where none does: (..., B, H, Q), (B, Q) -> (...)."""
    return (x * count.unsqueeze(1)).sum((-3, -2, -1)) / (count.sum() * x.shape[-2])
