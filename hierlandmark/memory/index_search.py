"""Ranking over segments that an index finds, and over those that came since it was built.

The heads rank as in `rank.rank_blocks`, by the adapter's rule: gates choose what is opened, landmarks rank. Only, the
gates that are looked at are those of a few cells of the index and of all segments beside it, and landmarks of segments
in it come from its file. A vector holds the keys of the voting heads one behind the other, so that its parts give each
head's logits.

Shapes: G segments in the index, V width of a vector, S segments opened, N blocks a segment.
"""

from collections.abc import Sequence, Set
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from hierlandmark.config import RecallConfig
from hierlandmark.errors import StoreCorrupt
from hierlandmark.memory.index_build import Built
from hierlandmark.memory.rank import BlockShares, Holders, Ranked, block_shares, eligible_blocks, going_on
from hierlandmark.memory.vectors import Voters
from hierlandmark.messages import MessageId
from hierlandmark.model import LandmarkModel
from hierlandmark.recall import Recall, Source, Tally
from hierlandmark.store.protocol import BlockStore, SegmentRecord


class _Changed(Exception):
    """Somebody wrote since segments were listed."""


class IndexSearch:
    """One namespace through its index, kept up with what is written.

    In memory: gates of all segments, as vectors; no landmark. Not for several threads at once.
    """

    def __init__(self, model: LandmarkModel, store: BlockStore, namespace: str, voters: Voters, built: Built) -> None:
        self.built = built
        self._model, self._store, self._namespace, self._voters = model, store, namespace, voters
        self._seen: int | None = None
        # of segments beside the index
        self._ids = self._versions = np.empty(0, np.int64)
        self._gates = np.empty((0, voters.width), np.float32)
        self._stands = np.zeros(len(built.ids), bool)
        # of all segments that stand, in text order
        self._every = np.empty(0, np.int64)
        self._tally, self._opening = Tally(), built.vectors.resident_bytes

    def begin(self) -> None:
        """Another query: count its work from nothing. The first one counts what was read to open the index."""
        self._tally, self._opening = Tally(bytes_read=self._opening), 0

    def forget(self) -> None:
        """Look again at what of the index stands."""
        self._seen = None

    def look(
        self,
        config: RecallConfig,
        queries: Sequence[Tensor],
        scale: float,
        n_open: int,
        allowed: Set[MessageId] | None,
        words: Sequence[MessageId],
    ) -> tuple[Recall, Ranked]:
        """See `search.Look`. The recall holds the opened segments alone; none are opened for words."""
        while True:
            self._keep_up()
            try:
                return self._look(config, queries, scale, n_open, allowed)
            except _Changed:
                if self._store.changes() == self._seen:
                    raise StoreCorrupt(
                        f"segments of namespace {self._namespace!r} are listed and not there; restore the file from a "
                        "backup"
                    ) from None
                self._seen = None

    def _keep_up(self) -> None:
        """List segments anew where anybody wrote: which of the index stand, and which are beside it."""
        while (seen := self._store.changes()) != self._seen:
            # a segment that is gone again is not in the next listing
            with suppress(KeyError):
                self._list(seen)

    def _list(self, seen: int) -> None:
        listing = self._store.listing(self._namespace)
        stands = self.built.standing(listing)
        beside = ~np.isin(listing.ids, self.built.ids[stands])
        ids, versions = listing.ids[beside], listing.versions[beside]
        held = {pair: row for row, pair in enumerate(zip(self._ids.tolist(), self._versions.tolist(), strict=True))}
        rows = [held.get(pair, -1) for pair in zip(ids.tolist(), versions.tolist(), strict=True)]
        gates = np.empty((len(ids), self._voters.width), np.float32)
        known = [at for at, row in enumerate(rows) if row >= 0]
        gates[known] = self._gates[[rows[at] for at in known]]
        fresh = [at for at, row in enumerate(rows) if row < 0]
        if fresh:
            records, keys = self._store.index(self._namespace, ids[fresh].tolist())
            versions[fresh] = [record.version for record in records]
            gates[fresh] = self._voters.gates(records, keys).numpy()
            self._tally.bytes_read += keys.nbytes
        self._stands, self._ids, self._versions, self._gates = stands, ids, versions, gates
        self._every = np.sort(np.concatenate([self.built.ids[stands], ids]))
        self._seen = seen

    def _look(
        self,
        config: RecallConfig,
        queries: Sequence[Tensor],
        scale: float,
        n_open: int,
        allowed: Set[MessageId] | None,
    ) -> tuple[Recall, Ranked]:
        voters, vectors = self._voters, self.built.vectors
        by = voters.columns(queries)
        stands, beside = self._stands, np.arange(len(self._ids))
        if allowed is not None:
            holding = self._store.holding(self._namespace, allowed)
            stands = stands & np.isin(self.built.ids, holding)
            beside = np.flatnonzero(np.isin(self._ids, holding))
        near, found, compared = vectors.near(by @ voters.weights, by, config.index_cells, stands, least=n_open)
        self._tally.gate_keys += (compared + len(beside)) * len(voters.pairs)
        ids = np.concatenate([self.built.ids[near], self._ids[beside]])
        # in text order, and so are equal ones
        order = np.argsort(ids)
        logits = torch.from_numpy(np.concatenate([found, self._gates[beside] @ by])[order]).T * scale
        weight = torch.from_numpy(voters.weights)
        gates = weight[:, None] * logits.softmax(-1)  # (heads, looked at)
        gate_scores = voters.rule.scores(logits, gates, weight)
        best = gate_scores.sort(descending=True, stable=True).indices[:n_open]
        opened = order[best.numpy()]
        # places in the index; -1 for those beside it
        places = np.concatenate([near, np.full(len(beside), -1)])[opened]
        versions = np.concatenate([self.built.versions[near], self._versions[beside]])[opened]
        recall, landmarks = self._open(config, ids[opened].tolist(), versions.tolist(), places)
        N = self._model.layout.blocks_per_segment
        block_logits = torch.full((len(voters.heads), len(opened), N), float("-inf"))
        for at, part in enumerate(landmarks):
            block_logits[:, at, : len(part)] = torch.from_numpy(part @ by).T * scale
        eligible, holders = None, Holders(recall)
        if allowed is not None:
            eligible = eligible_blocks(holders, range(len(opened)), allowed, N)
            block_logits = block_logits.masked_fill(~eligible, float("-inf"))
        votes = weight[:, None, None] * block_logits.flatten(1).softmax(-1).view_as(block_logits)
        block_scores = voters.rule.scores(block_logits, votes, weight)
        return recall, Ranked(
            list(range(len(opened))),
            gate_scores[best],
            block_scores,
            gates[:, best],
            votes,
            list(voters.heads),
            voters.rule,
            holders,
            eligible,
            whole=len(opened) == int(stands.sum()) + len(beside),
            beyond=self._beyond(ids[opened], recall) if voters.rule.damps else None,
        )

    def _beyond(self, opened: np.ndarray, recall: Recall) -> dict[MessageId, float]:
        """Blocks that messages fill beside opened segments, whose neighbours in the text no cell need hold."""
        every = self._every

        def read(places: list[int]) -> list[BlockShares]:
            try:
                records, keys = self._store.index(self._namespace, every[places].tolist())
            except KeyError:
                raise _Changed from None
            self._tally.bytes_read += keys.nbytes
            return [block_shares(record) for record in records]

        places = np.searchsorted(every, opened).tolist()
        return going_on({at: recall.block_of(i, 0)[0] for i, at in enumerate(places)}, len(every), read)

    def _open(
        self, config: RecallConfig, ids: list[int], versions: list[int], places: np.ndarray
    ) -> tuple[Recall, list[np.ndarray]]:
        """A recall of these segments, and their landmarks as vectors: (n, V) each."""
        try:
            records, gates = self._store.index(self._namespace, ids)
        except KeyError:
            raise _Changed from None
        if [record.version for record in records] != versions:
            raise _Changed
        in_index = iter(self.built.vectors.landmarks(places[places >= 0]))
        landmarks = []
        for record, place in zip(records, places.tolist(), strict=True):
            part = next(in_index) if place >= 0 else None
            # beside the index, or damaged there
            landmarks.append(self._stored(record) if part is None else part)
            self._tally.bytes_read += 0 if part is None else part.nbytes
            self._tally.landmark_keys += len(landmarks[-1]) * len(self._voters.pairs)
        recall = self._model.recall([Source(self._store, records, gates)], config, "search")
        # what its making read is counted, and its other work here
        self._tally.bytes_read += recall.tally.bytes_read
        recall.tally = self._tally
        return recall, landmarks

    def _stored(self, record: SegmentRecord) -> np.ndarray:
        try:
            (keys,) = self._store.landmark_keys([record.id], [record.version])
        except KeyError:
            raise _Changed from None
        self._tally.bytes_read += keys.nbytes
        return self._voters.landmarks(record, keys).numpy()
