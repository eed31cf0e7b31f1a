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
class GateProbe:
    """Watches, for chosen queries and in every layer and head, how gates spread over what the query reads.

    It is held to the mass that a softmax over all landmarks of the same segments gives each, as in flat mode. That mass
    has no gradient: gates learn from landmarks, and landmarks learn nothing from gates.
    """

    # B texts, Q queries of each at most, M segments that any of them reads
    queries: Tensor  # (B, Q) position in the text
    reads: Tensor  # (B, Q, M) bool, segments that a query reads; none where a text has fewer queries
    known: Tensor  # (B, Q, M) bool, those of them that hold what it looks for, where that is known
    landmarks: Tensor  # (B, M, N) position in the text, -1 where there is none
    gates: Tensor  # (B, M) the same
    # for each layer (3,): the divergence of gates from landmarks in nats, and the mass on what is known by either
    found: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, layout: Layout, watched: np.ndarray, evidence: np.ndarray, device: torch.device) -> "GateProbe":
        """Queries grouped by text, so that no key is copied for a query.

        Args:
            watched: (n, 2) text and position in the text of each query; all of them read something.
            evidence: (n, S) bool, segments that hold what it looks for; none where that is not known.
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
        asked, may, holds = (torch.from_numpy(x).to(device) for x in (queries, reads, known))
        groups, N = tables_of(layout, device).groups[:, :M].long(), layout.config.blocks_per_segment
        return cls(asked, may, holds, groups[..., :N], groups[..., N])

    def look(self, q_far: Tensor, k: Tensor, scale: float) -> None:
        """Take one layer's divergence and masses: q_far (B, H, T, D), k (B, H_kv, T, D)."""
        H_kv, Q = k.shape[1], self.queries.shape[1]
        # heads of a group beside each other: (B, H_kv, rep * Q, D)
        q = _taken(q_far, self.queries).unflatten(1, (H_kv, -1)).flatten(2, 3)

        def logits(places: Tensor) -> Tensor:
            products = q @ _taken(k, places.flatten(1)).transpose(-1, -2) * scale
            products = products.unflatten(2, (-1, Q)).flatten(1, 2).unflatten(-1, places.shape[1:])  # (B, H, Q, M, ...)
            here = self.reads.unflatten(-1, (-1, *[1] * (places.dim() - 2))) & (places >= 0).unsqueeze(1)
            return products.masked_fill(~here.unsqueeze(1), MASKED)

        student = logits(self.gates).log_softmax(-1)
        with torch.no_grad():
            by_landmark = logits(self.landmarks)
            teacher = by_landmark.logsumexp(-1) - by_landmark.flatten(-2).logsumexp(-1, keepdim=True)
        apart = F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)  # (B, H, Q)
        mass = torch.stack((student.detach(), teacher)).exp().mul(self.known.unsqueeze(1)).sum(-1)  # (2, B, H, Q)
        kl = _mean(apart, self.reads.any(-1))
        self.found.append(torch.stack((kl, *_mean(mass, self.known.any(-1)))))


def _taken(x: Tensor, places: Tensor) -> Tensor:
    """Vectors at some places in fp32 at least: (B, H, T, D), (B, n) -> (B, H, n, D); any one where a place is -1."""
    index = places.clamp_min(0)[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[-1])
    taken = x.gather(2, index)
    return taken.to(torch.promote_types(x.dtype, torch.float32))


def _mean(x: Tensor, count: Tensor) -> Tensor:
    """Mean over heads and those queries that count, not a number where none does: (..., B, H, Q), (B, Q) -> (...)."""
    return (x * count.unsqueeze(1)).sum((-3, -2, -1)) / (count.sum() * x.shape[-2])
