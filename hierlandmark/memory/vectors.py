"""Landmarks as plain vectors, one a block and one a segment, so that any vector index can hold them.

A block's vector is the concatenation of its landmark keys in the layers and KV heads that search votes with
(`LandmarkModel.retrieval`), a segment's that of its gate keys; a query's is the concatenation of the voting heads'
queries. Their inner product is the sum of the heads' attention logits, up to a constant a query: the means of keys are
taken off, which changes no order and spares an index the direction that all keys share. Where the adapter ranks by
"sum" (`memory.rules`) that product is, scaled and up to a constant, the logarithm of a block's score in a search. Where
its heads vote, `Memory.search` sums their softmaxes instead, so the two rankings are close, and not the same.

Shapes: N blocks, G segments, V = voting (layer, KV head) pairs * head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hierlandmark.layout import gate_position, landmark_positions
from hierlandmark.memory.rank import Holders, Ranked, judged, message_shares, rank_messages
from hierlandmark.memory.rules import RULES
from hierlandmark.messages import MessageId
from hierlandmark.model import LandmarkModel, RetrievalHead
from hierlandmark.ops.rope import rotate
from hierlandmark.recall import to_tensor
from hierlandmark.results import Cost
from hierlandmark.store.protocol import KVSpec, SegmentRecord

if TYPE_CHECKING:
    from hierlandmark.memory.memory import Memory


class Voters:
    """Which heads rank in a search, by which rule, and where the keys that they look at stand in a vector."""

    def __init__(self, model: LandmarkModel, spec: KVSpec) -> None:
        """`spec` is that of the store the keys come from."""
        core = model.core
        self._model, self._spec, self.rule = model, spec, RULES[model.ranking]
        self.heads = list(model.retrieval) or [
            RetrievalHead(layer=i, head=h) for i in core.memory_layers for h in range(core.heads)
        ]
        self.weights = np.array([head.weight for head in self.heads], np.float32)
        self._group = core.heads // core.kv_heads
        self.pairs = sorted({self._pair(head) for head in self.heads})
        self.width = len(self.pairs) * core.head_dim
        # where in the stored arrays each layer is
        slots = spec.search_slots()
        self._places = [(layer, slots[layer], h) for layer, h in self.pairs]

    def _pair(self, head: RetrievalHead) -> tuple[int, int]:
        return head.layer, head.head // self._group

    def gates(self, records: Sequence[SegmentRecord], keys: np.ndarray) -> Tensor:
        """Gate keys as vectors, of the layers of `spec`: (G, L + S, H_kv, D) -> (G, V)."""
        where = torch.tensor([gate_position(record.block_content, self._model.layout) for record in records])
        return self._rotated(keys, where)

    def landmarks(self, record: SegmentRecord, keys: np.ndarray) -> Tensor:
        """Landmark keys of one segment as vectors, likewise: (n, L + S, H_kv, D) -> (n, V)."""
        return self._rotated(keys, torch.from_numpy(landmark_positions(record.block_content, self._model.layout)))

    def _rotated(self, keys: np.ndarray, positions: Tensor) -> Tensor:
        rope, found = self._model.core.rope, to_tensor(keys, self._spec).float()
        return torch.cat(
            [
                rotate(found[:, slot, h], positions, rope.inv_freq[layer], rope.scaling[layer])
                for layer, slot, h in self._places
            ],
            dim=-1,
        )

    def columns(self, queries: Sequence[Tensor]) -> np.ndarray:
        """A query as one column a head, whose product with a vector is that head's logit, unscaled: (V, heads)."""
        D = self._model.core.head_dim
        out = np.zeros((self.width, len(self.heads)), np.float32)
        for at, head in enumerate(self.heads):
            start = self.pairs.index(self._pair(head)) * D
            out[start : start + D, at] = queries[head.layer][head.head, -1].float().cpu().numpy()
        return out


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
        self._recall = memory._recall(model, store, "flat", "search")
        # the recall's arrays hold the layers that search reads, wherever the store's do
        self._voters = Voters(model, self._recall.spec)
        self._heads, self.pairs = self._voters.heads, self._voters.pairs
        # whatever others write meanwhile: places in one are places in the other
        (source,) = self._recall.sources
        self.records = records = source.records
        self.gates = _centred(self._voters.gates(records, self._recall.of(source.gates)))
        keys = (self._recall.landmark_keys(segment) for segment in range(len(records)))
        self.blocks = _centred(torch.cat([self._voters.landmarks(*pair) for pair in zip(records, keys, strict=True)]))
        self.starts = np.cumsum([0, *(len(record.block_content) for record in records)], dtype=np.int64)

    @property
    def keys_a_vector(self) -> int:
        """Keys of one head that one vector holds: what a comparison costs in the unit of `results.Cost`."""
        return len(self.pairs)

    @torch.inference_mode()
    def query(self, text: str) -> QueryVector:
        """The vector that a search for this text compares with; its last tokens where it is longer than a segment."""
        queries, scale = self._model.search_queries(text)
        return QueryVector(self._voters.columns(queries) @ self._voters.weights, queries, scale)

    def messages(
        self, query: QueryVector, blocks: Sequence[int], scores: Sequence[float], n_read: int = 40
    ) -> tuple[list[MessageId], Cost]:
        """Messages of found blocks, best first, told apart inside a block as `Memory.search` does it.

        Args:
            blocks: places in `self.blocks`.
            scores: their inner products with the query.
            n_read: blocks that may be read to tell their messages apart.

        Returns:
            The ranking, and what was read for it; nothing of no blocks.
        """
        if not len(blocks):
            return [], Cost()
        weights = np.asarray([head.weight for head in self._heads])
        rule = self._voters.rule
        found = rule.of_products(np.asarray(scores, dtype=np.float64) * query.scale, self._heads)
        segments: dict[int, int] = {}
        N = self._model.layout.blocks_per_segment
        places = np.searchsorted(self.starts, blocks, side="right") - 1
        for segment in places.tolist():
            segments.setdefault(segment, len(segments))
        table = found.new_zeros(len(segments), N)
        for block, segment, score in zip(blocks, places.tolist(), found, strict=True):
            table[segments[segment], block - int(self.starts[segment])] = score
        alike = torch.from_numpy(weights / weights.sum()).float()
        ranked = Ranked(
            segments=list(segments),
            segment_scores=torch.zeros(len(self.records)),
            block_scores=table,
            gates=torch.zeros(len(self._heads), len(self.records)),
            votes=alike[:, None, None] * table,
            heads=self._heads,
            rule=rule,
            holders=Holders(self._recall),
        )
        # the memory may look into the same blocks from another thread
        with self._memory._lock:
            self._recall.begin()
            shares = message_shares(self._recall, ranked, query.queries, query.scale, n_read)
            found_there = rank_messages(judged(self._recall, ranked, shares))
            ranking = [one for one, score, _ in found_there if score > 0]
            return ranking, self._recall.tally.cost(0.0)


def _centred(vectors: Tensor) -> np.ndarray:
    return np.ascontiguousarray((vectors - vectors.mean(0)).numpy(), dtype=np.float32)
