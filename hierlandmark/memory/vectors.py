"""Landmarks as plain vectors, one a block and one a segment, so that any vector index can hold them.

A block's vector is the concatenation of its landmark keys in the layers and KV heads that search votes with
(`LandmarkModel.retrieval`), a segment's that of its gate keys; a query's is the concatenation of the voting heads'
queries. Their inner product is the sum of the heads' attention logits, up to a constant a query: the means of keys are
taken off, which changes no order and spares an index the direction that all keys share. `Memory.search` sums the heads'
softmaxes instead, so the two rankings are close, and not the same.

Shapes: N blocks, G segments, V = voting (layer, KV head) pairs * head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hierlandmark.layout import gate_position, landmark_positions
from hierlandmark.memory.rank import Ranked, message_shares, rank_messages
from hierlandmark.messages import MessageId
from hierlandmark.model import LandmarkModel, RetrievalHead
from hierlandmark.ops.rope import rotate
from hierlandmark.recall import to_tensor
from hierlandmark.results import Cost

if TYPE_CHECKING:
    from hierlandmark.memory.memory import Memory


@dataclass(frozen=True)
class QueryVector:
    """A question as a vector, and what tells the messages of a block apart."""

    vector: np.ndarray  # (V,) float32
    queries: list[Tensor]  # for each layer (H, T, D)
    scale: float


class LandmarkVectors:
    """The landmarks and gates of one namespace as they are when this is made; build it anew after `add` or `forget`.

    Attributes:
        blocks: (N, V) float32, in text order, mean taken off.
        gates: (G, V) float32, in text order, mean taken off.
        starts: (G + 1,) int64, the first block of each segment, and N.
    """

    def __init__(self, memory: "Memory") -> None:
        """Read every landmark of the namespace once.

        Raises:
            NamespaceNotFound: nothing was ever added here.
        """
        with memory._lock:
            self._read(memory)

    def _read(self, memory: "Memory") -> None:
        model, store = memory._ready()
        self._memory, self._model = memory, model
        self._heads = list(model.retrieval) or [
            RetrievalHead(layer=i, head=h) for i in range(model.core.layers) for h in range(model.core.heads)
        ]
        group = model.core.heads // model.core.kv_heads
        self.pairs = sorted({(head.layer, head.head // group) for head in self._heads})
        self._recall = memory._recall(model, store, "flat")
        # whatever others write meanwhile: places in one are places in the other
        (source,) = self._recall.sources
        self.records = records = source.records
        gates = to_tensor(source.gates, store.spec).float()  # (G, L, H_kv, D)
        where = torch.tensor([gate_position(record.block_content, model.layout) for record in records])
        # where in the stored arrays each layer is
        slots = {layer: slot for slot, layer in enumerate(store.spec.model_layers)}
        places = [(layer, slots[layer], h) for layer, h in self.pairs]
        self.gates = _centred(_rotated(model, gates, where, places))
        parts = []
        for segment, record in enumerate(records):
            keys = to_tensor(self._recall.landmark_keys(segment), store.spec).float()  # (n, L, H_kv, D)
            at = torch.from_numpy(landmark_positions(record.block_content, model.layout))
            parts.append(_rotated(model, keys, at, places))
        self.blocks = _centred(torch.cat(parts))
        self.starts = np.cumsum([0, *(len(record.block_content) for record in records)], dtype=np.int64)

    @property
    def keys_a_vector(self) -> int:
        """Keys of one head that one vector holds: what a comparison costs in the unit of `results.Cost`."""
        return len(self.pairs)

    @torch.inference_mode()
    def query(self, text: str) -> QueryVector:
        """The vector that a search for this text compares with; its last tokens where it is longer than a segment."""
        model = self._model
        queries, scale = model.search_queries(text)
        group = model.core.heads // model.core.kv_heads
        parts = {pair: torch.zeros(model.core.head_dim) for pair in self.pairs}
        for head in self._heads:
            parts[head.layer, head.head // group] += head.weight * queries[head.layer][head.head, -1].float()
        return QueryVector(torch.cat([parts[pair] for pair in self.pairs]).numpy(), queries, scale)

    def messages(
        self, query: QueryVector, blocks: Sequence[int], scores: Sequence[float], n_read: int = 40
    ) -> tuple[list[MessageId], Cost]:
        """Messages of found blocks, best first, told apart inside a block as `Memory.search` does it.

        Args:
            blocks: places in `self.blocks`.
            scores: their inner products with the query.
            n_read: blocks that may be read to tell their messages apart.

        Returns:
            The ranking, and what was read for it.
        """
        weights = np.asarray([head.weight for head in self._heads])
        logits = np.asarray(scores, dtype=np.float64) * query.scale / weights.sum()
        # the geometric mean of the heads' votes
        votes = np.exp(logits - logits.max())
        segments: dict[int, int] = {}
        N = self._model.layout.blocks_per_segment
        places = np.searchsorted(self.starts, blocks, side="right") - 1
        for segment in places.tolist():
            segments.setdefault(segment, len(segments))
        table = torch.zeros(len(segments), N)
        for block, segment, vote in zip(blocks, places.tolist(), votes.tolist(), strict=True):
            table[segments[segment], block - int(self.starts[segment])] = vote
        alike = torch.from_numpy(weights / weights.sum()).float()
        ranked = Ranked(
            segments=list(segments),
            segment_scores=torch.zeros(len(self.records)),
            block_scores=table,
            gates=torch.zeros(len(self._heads), len(self.records)),
            votes=alike[:, None, None] * table,
            heads=self._heads,
        )
        # the memory may look into the same blocks from another thread
        with self._memory._lock:
            self._recall.begin()
            shares = message_shares(self._recall, ranked, query.queries, query.scale, n_read)
            ranking = [one for one, score, _ in rank_messages(shares) if score > 0]
            return ranking, self._recall.tally.cost(0.0)


def _rotated(model: LandmarkModel, keys: Tensor, positions: Tensor, places: Sequence[tuple[int, int, int]]) -> Tensor:
    """Keys of the voting heads at their places in a segment: (n, L, H_kv, D), (n,) -> (n, V)."""
    rope = model.core.rope
    return torch.cat(
        [rotate(keys[:, slot, h], positions, rope.inv_freq[layer], rope.scaling[layer]) for layer, slot, h in places],
        dim=-1,
    )


def _centred(vectors: Tensor) -> np.ndarray:
    return np.ascontiguousarray((vectors - vectors.mean(0)).numpy(), dtype=np.float32)
