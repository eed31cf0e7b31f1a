"""One layer's query -> select -> read blocks -> attention over what was read.

Recalled keys get stingy positions: every segment is put into one slot of `segment_size` positions right before the
query's own segment, each block at its own offset there. Blocks share the slot safely, since P2 is a softmax per block.

Shapes: H query heads in H_kv groups, T query positions, G segments, N blocks a segment, P positions a block, D width.
A block's place is that of its segment times N plus its own there. A piece is what one group of heads reads of a block,
(C, P, D): keys and values, or keys alone; its name is the block's place times H_kv plus the group.
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from hierlandmark.config import LayoutConfig, RecallConfig
from hierlandmark.layout import content_mask, gate_position, landmark_positions
from hierlandmark.ops.rope import doubled_alike, rotate, turn_into
from hierlandmark.ops.threads import together
from hierlandmark.recall.choose import Picked, Spread, pick_apart, pick_flat, pick_together, spread
from hierlandmark.recall.held import Buffers, Cache, Pieces, Restored
from hierlandmark.recall.sources import Attended, Source, Tally
from hierlandmark.recall.strides import Choice, Kept, Strides, keep
from hierlandmark.recall.tensors import to_array, to_tensor, whole
from hierlandmark.store.protocol import EncodedSegment, KVSpec, SegmentRecord

NEG = float("-inf")
# segments whose landmarks are scored together
_AT_ONCE = 256
# bytes of each buffer that tokens share: what one token reads of the default model, and not what a long prompt does
_HELD = 3 * 2**20
Restore = Callable[[SegmentRecord], EncodedSegment]
Read = tuple[Tensor, Tensor] | None
_Place = tuple[int, int, int]  # segment, block in it, group


class Recall:
    """Looks into the segments of some sources as they were listed, whatever others write meanwhile.

    In memory: all gates; landmarks of every segment ever opened (L * H_kv * N * D elements each, 0.1 GB for the shipped
    model and a million tokens); pieces of blocks last read, of each layer those of `cached_blocks` blocks; segments
    encoded again, up to `restored_bytes`; for answers six buffers of 3 MiB at most; angles (0.1 MB).

    Args:
        sources: stores and the segments of each that may be read.
        spec: shape of their arrays.
        inv_freq: for each layer of the model (D / 2,).
        scaling: for each layer of the model the factor on rotated keys.
        restore: encodes a segment again whose keys and values were dropped, or that was removed or rewritten since it
            was listed; no more than `spec` says.
        first: slot in the stores' arrays from which those of `spec` stand.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        spec: KVSpec,
        layout: LayoutConfig,
        inv_freq: Sequence[Tensor],
        scaling: Sequence[float],
        config: RecallConfig,
        restore: Restore | None = None,
        first: int = 0,
    ) -> None:
        self.spec, self.layout, self.config = spec, layout, config
        self._first = first
        # layers are named as the model counts them; where only some are kept, arrays hold these
        self._slots = {layer: slot for slot, layer in enumerate(spec.model_layers)}
        self.inv_freq = [inv_freq[layer] for layer in spec.model_layers]
        self.scaling = [scaling[layer] for layer in spec.model_layers]
        self.tally = Tally()
        self.attended: Attended | None = None
        self.sources = list(sources)
        # stands for the query
        self._query = object()
        self._restore = restore
        self._restored = Restored(config.restored_bytes)
        # places of segments that the stores do not have as they were listed
        self._gone: set[int] = set()
        self._where: list[tuple[Source, SegmentRecord]] = []
        self._gates: list[Tensor] = []  # per layer (H_kv, D, G) fp32, rotated
        self._opened: set[int] = set()
        self._contents: dict[tuple[int, ...], Tensor] = {}
        self._caches = [Cache() for _ in range(spec.layers)]
        self._groups = torch.arange(spec.kv_heads).unsqueeze(1)  # (H_kv, 1)
        self._pool: Tensor | None = None
        # a search asks each layer once: nothing would be used again
        self._buffers = Buffers(_HELD if spec.keep == "all" else 0)
        # of each place in a segment: (2, N, P, D) a layer
        places = torch.arange(layout.segment_size).view(layout.blocks_per_segment, layout.block_size)
        self._turns = doubled_alike(places, self.inv_freq, self.scaling)
        # of the landmarks of segments of one shape, which nearly all have: (2, L, 1, n, D)
        self._mark_turns: dict[tuple[int, ...], Tensor] = {}
        self._index()

    def _index(self) -> None:
        self._where = [(source, record) for source in self.sources for record in source.records]
        N = self.layout.blocks_per_segment
        spec, G = self.spec, len(self._where)
        self.present = torch.zeros(G, N, dtype=torch.bool)
        self._blocks = [len(record.block_content) for _, record in self._where]
        self._first_ids = [record.id * N for _, record in self._where]
        self._versions = [record.version for _, record in self._where]
        # where no content stands
        self._hidden = torch.ones(G, N, self.layout.block_size, dtype=torch.bool)
        for s, (_, record) in enumerate(self._where):
            self.present[s, : len(record.block_content)] = True
            self._hidden[s, : len(record.block_content)] = ~self.content(s)
        self._absent = ~self.present
        # rotated; of segments never opened, memory that is never touched
        self._landmarks = torch.empty(spec.layers, spec.kv_heads, G, N, spec.head_dim, dtype=getattr(torch, spec.dtype))
        if self._restore is not None:
            self._gone = {s for s, (_, record) in enumerate(self._where) if not record.has_kv}
        if not self._where:
            return
        # read for this recall, and so a cost of the query that it is made for
        self.tally.bytes_read = sum(source.gates.nbytes for source in self.sources if not source.scratch)
        raw = torch.cat([to_tensor(self.of(source.gates), self.spec) for source in self.sources if len(source.gates)])
        where = torch.tensor([gate_position(record.block_content, self.layout) for _, record in self._where])
        # keys come as stored, (G, L, H_kv, D); a product with few queries takes less time with the width first
        self._gates = [
            rotate(raw[:, layer].float().transpose(0, 1), where, freq, scale).transpose(1, 2).contiguous()
            for layer, (freq, scale) in enumerate(zip(self.inv_freq, self.scaling, strict=True))
        ]

    @property
    def n_segments(self) -> int:
        """Segments that can be opened."""
        return len(self._where)

    def holds(self, layer: int) -> bool:
        """Whether there is anything to read in a layer of the model."""
        return bool(self._where) and layer in self._slots

    def of(self, keys: np.ndarray) -> np.ndarray:
        """The layers of `spec` among a store's: (n, L + S, H_kv, D) -> (n, L, H_kv, D)."""
        return keys[:, self._first : self._first + self.spec.layers]

    def block_of(self, segment: int, block: int) -> tuple[SegmentRecord, int]:
        """Record and block id for places in `attended`."""
        record = self._where[segment][1]
        return record, record.id * self.layout.blocks_per_segment + block

    def watch(self, heads: int) -> Attended:
        """Start to sum up the mass that queries give."""
        shape = (self.spec.layers, heads, self.n_segments)
        self.attended = Attended(torch.zeros(shape), torch.zeros(*shape, self.layout.blocks_per_segment))
        return self.attended

    def begin(self) -> None:
        """Another query: count its work from nothing. A recall just made has counted the gates it was given."""
        self.tally, self._query = Tally(), object()
        self._restored.begin()

    def go_on_from(self, other: "Recall") -> None:
        """Take over what a recall has counted, noted and made whose sources are the first of these."""
        self.tally = other.tally
        # only segments of those first sources are ever restored: a scratch has all it holds
        self._restored = other._restored
        self._gone |= other._gone
        opened = sorted(other._opened)
        self._landmarks[:, :, opened] = other._landmarks[:, :, opened]
        self._opened = set(opened)
        if other.attended is not None:
            watched = self.watch(other.attended.gates.shape[1])
            watched.gates[:, :, : other.n_segments] = other.attended.gates
            watched.blocks[:, :, : other.n_segments] = other.attended.blocks

    def read(self, layer: int, q: Tensor, near_lse: Tensor, scale: float, strides: Strides | None = None) -> Read:
        """What the past says to these queries.

        Args:
            q: (H, T, D), rotated to positions one segment behind the slot.
            near_lse: (H, T) fp32, log-sum-exp of the logits of the local window.
            strides: what the tokens before in the same text chose; None to choose at every token.

        Returns:
            Attention output over the chosen blocks (H, T, D) fp32, its weights summing to 1, and the log-sum-exp (H, T)
            of their gates (landmarks where they alone weigh), -inf where a head and token read nothing. None if none
            reads, as in a layer that `spec` does not name.

            Of blocks of exactly equal weight any may be chosen, and by another number of tokens others: layer 0 has
            many, whose landmarks are all the same but for their positions.
        """
        if not self.holds(layer):
            return None
        q, at = q.float().contiguous(), self._slots[layer]
        if q.shape[1] == 1:
            return self._read_one(layer, q, near_lse, scale, None if self.config.stride == 1 else strides)
        if strides is not None:
            strides.drop(at)
        found = self._choose(layer, q, near_lse, scale)
        if found is None:
            return None
        segments, weights, lse, mass = found
        used = (weights > 0).any(0).any(0)  # (S, N)
        s, b = used.nonzero().unbind(1)
        places = torch.tensor(segments)[s] * used.shape[1] + b  # (n,)
        # masses so small that every one times another is 0
        if not len(places):
            return None
        if self.attended is not None:
            self.attended.note(at, mass, weights, lse, near_lse, segments)
        self.tally.blocks_read += len(places)
        H_kv, n = self.spec.kv_heads, len(places)
        w = weights[:, :, used].view(H_kv, -1, n)  # (H_kv, rep * T, n)
        # each group of heads takes the blocks that it chose, m at most, and not those of all
        mine = (w > 0).any(1)
        pick = mine.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : int(mine.sum(1).max())]
        w = w.gather(2, pick.unsqueeze(1).expand(-1, w.shape[1], -1))
        names = self._names(places[pick], mine.gather(1, pick))
        return self._attend(q, self._pieces(at, names), w, scale), lse

    def _read_one(self, layer: int, q: Tensor, near_lse: Tensor, scale: float, strides: Strides | None) -> Read:
        """`read` of one token: the few blocks of each head, not masks over those of all. Most of an answer's time."""
        at = self._slots[layer]
        if strides is not None and (last := strides.next(at, self._query, self.config)) is not None:
            return None if last.kept is None else self._read_on(at, q, near_lse, scale, last.kept)
        found = self._choose_one(layer, q, near_lse, scale)
        used = None if found is None else found.weights[:, 0] > 0
        # nearly always
        every = used is not None and bool(used.all())
        if found is None or used is None or not (every or bool(used.any())):
            if strides is not None:
                strides.take(at, Choice(self._query, self.config, None))
            return None
        places, weights, lse = found.places[:, 0], found.weights[:, 0], found.lse  # (H, m) twice, (H, 1)
        if self.attended is not None:
            self.attended.note_one(at, found.mass, places, weights, lse, near_lse)
        self.tally.blocks_read += len(set((places.flatten() if every else places[used]).tolist()))
        used = None if every else used
        names = self._names(places, used)
        if strides is None:
            return self._attend(q, self._pieces(at, names), weights.unsqueeze(1), scale), lse
        pieces = self._pieces(at, names)
        alone = self.config.mode == "flat" or self.config.weigh_by == "landmarks"
        kept = keep(names, used, None if alone else self._gates[at], self._landmarks[at], pieces)
        strides.take(at, Choice(self._query, self.config, kept))
        return self._attend(q, pieces, weights.unsqueeze(1), scale), lse

    def _read_on(self, at: int, q: Tensor, near_lse: Tensor, scale: float, kept: Kept) -> tuple[Tensor, Tensor]:
        """`read` of one token of the blocks that another one chose, weighed anew."""
        weights, lse = kept.weigh(q, scale)
        if self.attended is not None:
            self.attended.note_kept(at, kept.segments, kept.places, weights[:, 0], lse, near_lse)
        self.tally.add(kept.work)
        # another text may have pushed some out
        same = kept.pieces.changes == self._caches[at].changes
        return self._attend(q, kept.pieces if same else self._pieces(at, kept.names), weights, scale), lse

    def _names(self, places: Tensor, used: Tensor | None) -> Tensor:
        """Of pieces, (A, m) as places and `used` are, None for all; what is not used has the name of one that is."""
        names = (places.reshape(self.spec.kv_heads, -1) * self.spec.kv_heads + self._groups).view(places.shape)
        return names if used is None or bool(used.all()) else names.where(used, names[used][0])

    def _pieces(self, slot: int, names: Tensor) -> Pieces:
        (A, m), P = names.shape, self.spec.block_size
        held, rows = self._hold(slot, names.flatten().tolist())
        hidden = self._hidden.view(-1, P).index_select(0, names.flatten() // self.spec.kv_heads).view(A, 1, m, P)
        return Pieces(held, rows, hidden, self._caches[slot].changes)

    def _attend(self, q: Tensor, pieces: Pieces, weights: Tensor, scale: float) -> Tensor:
        """Attention to pieces, a softmax in each (P2): (H, T, D) fp32; weights (A, H / A * T, m), 0 if not used."""
        (A, _, m, P), D = pieces.hidden.shape, q.shape[2]
        rows = self._buffers.rows("pieces", pieces.held, pieces.rows)
        keys, values = self._buffers.apart("pieces", rows).view(2, A, m * P, D)
        logits = q.view(A, -1, D) @ keys.transpose(1, 2) * scale  # (A, H / A * T, m * P)
        p2 = logits.unflatten(-1, (m, P)).masked_fill(pieces.hidden, NEG).softmax(-1)
        return ((p2 * weights.unsqueeze(-1)).flatten(-2) @ values).view(q.shape)

    def _choose(self, layer: int, q: Tensor, near_lse: Tensor, scale: float) -> Spread | None:
        if self.config.mode == "flat":
            found = self._choose_flat(layer, q, near_lse, scale)
            return None if found is None else spread(found, self.layout.blocks_per_segment)
        gates = self.gate_logits(layer, q, scale)
        return pick_together(
            self.config, gates, near_lse, lambda segments: self.landmark_logits(layer, q, segments, scale)
        )

    def _choose_one(self, layer: int, q: Tensor, near_lse: Tensor, scale: float) -> Picked | None:
        if self.config.mode == "flat":
            return self._choose_flat(layer, q, near_lse, scale)
        gates = self.gate_logits(layer, q, scale)
        return pick_apart(
            self.config, gates, near_lse, lambda opened, taken: self._own_logits(layer, q, opened, taken, scale)
        )

    def _choose_flat(self, layer: int, q: Tensor, near_lse: Tensor, scale: float) -> Picked | None:
        landmarks = self.landmark_logits(layer, q, range(self.n_segments), scale)
        return pick_flat(self.config, landmarks.flatten(2), near_lse)

    def _own_logits(self, layer: int, q: Tensor, opened: Tensor, taken: Tensor | None, scale: float) -> Tensor:
        """Of one token, landmarks of the segments (H, 1, S) that each head opened, where taken: (H, 1, S, N) fp32."""
        (H, _, D), H_kv, S = q.shape, self.spec.kv_heads, opened.shape[-1]
        N, G = self.layout.blocks_per_segment, self.n_segments
        rows = (opened.reshape(H_kv, -1) + self._groups * G).flatten()
        # a segment counts once for each group of heads that opens it
        distinct = set((rows if taken is None else rows[taken.flatten()]).tolist())
        segments = [row % G for row in distinct]
        self._load_landmarks(segments)
        present = sum([self._blocks[s] for s in segments])
        self.tally.landmark_keys += present
        marks = self._landmarks[self._slots[layer]]
        keys = self._buffers.apart("marks", self._buffers.rows("marks", marks.view(H_kv * G, 1, N, D), rows))
        logits = (q @ keys.view(H, S * N, D).transpose(1, 2) * scale).view(H, 1, S, N)
        # nearly all segments have all their blocks
        if present == N * len(segments):
            return logits
        return logits.masked_fill(self._absent[opened], NEG)

    def gate_logits(self, layer: int, q: Tensor, scale: float, segments: Sequence[int] | None = None) -> Tensor:
        """(H, T, D) -> (H, T, G) fp32; of `segments` only where they are given."""
        gates = self._gates[self._slots[layer]]
        gates = gates if segments is None else gates[..., list(segments)]
        self.tally.gate_keys += gates.shape[0] * gates.shape[2]
        H, T, D = q.shape
        with together(gates.numel()):
            return ((q * scale).reshape(gates.shape[0], -1, D) @ gates).view(H, T, -1)

    def landmark_logits(self, layer: int, q: Tensor, segments: Sequence[int], scale: float) -> Tensor:
        """(H, T, D) and S segments -> (H, T, S, N) fp32, -inf where a segment is shorter."""
        self._load_landmarks(segments)
        keys, present = self._landmarks[self._slots[layer]], self.present  # (H_kv, S, N, D), (S, N)
        # a range is all of them, in place
        if not isinstance(segments, range):
            which = torch.tensor(segments, dtype=torch.long)
            H_kv, _, N, D = keys.shape
            chosen = self._buffers.get("landmarks", keys.dtype, H_kv, len(which), N, D)
            keys, present = torch.index_select(keys, 1, which, out=chosen), present[which]
        H_kv, S, N, D = keys.shape
        self.tally.landmark_keys += H_kv * int(present.sum())
        H, T, _ = q.shape
        grouped = q.reshape(H_kv, -1, D)
        parts = []
        # in parts that a processor's cache holds in fp32
        with together(keys.numel()):
            for part in keys.split(_AT_ONCE, dim=1):
                wide = self._buffers.get("wide", torch.float32, *part.shape).copy_(part)
                parts.append(grouped @ wide.flatten(1, 2).transpose(1, 2))
        return (torch.cat(parts, dim=-1).view(H, T, S, N) * scale).masked_fill(~present, NEG)

    def content_logits(self, layer: int, q: Tensor, blocks: Sequence[tuple[int, int]], scale: float) -> Tensor:
        """(H, T, D) and n blocks as (segment, block) -> (H, T, n, P) fp32, -inf where no content stands."""
        N, H_kv = self.layout.blocks_per_segment, self.spec.kv_heads
        places = torch.tensor([s * N + b for s, b in blocks])
        self.tally.blocks_read += len(blocks)
        held, index = self._hold(self._slots[layer], (places * H_kv + self._groups).flatten().tolist())
        keys = held[index, 0].float()  # (H_kv * n, P, D)
        H, T, D = q.shape
        hidden = self._hidden.view(-1, self.spec.block_size)[places]  # (n, P)
        logits = q.reshape(H_kv, -1, D) @ keys.view(H_kv, -1, D).transpose(1, 2)
        return (logits.view(H, T, *hidden.shape) * scale).masked_fill(hidden, NEG)

    def _load_landmarks(self, segments: Collection[int]) -> None:
        absent = set(segments) - self._opened
        if not absent:
            return
        for s in absent:
            shape = self._where[s][1].block_content
            n = len(shape)
            keys = to_tensor(self.landmark_keys(s), self.spec).permute(1, 2, 0, 3)  # (L, H_kv, n, D)
            if shape not in self._mark_turns:
                places = torch.from_numpy(landmark_positions(shape, self.layout))
                angles = doubled_alike(places, self.inv_freq, self.scaling)
                self._mark_turns[shape] = torch.stack(angles, 1).unsqueeze(2)
            turn_into(self._landmarks[:, :, s, :n], keys, self._mark_turns[shape])
            self._landmarks[:, :, s, n:] = 0
        self._opened.update(absent)

    def landmark_keys(self, segment: int) -> np.ndarray:
        """Of a segment as it was listed, unrotated: (n, L, H_kv, D)."""
        array = self._stored_landmarks(segment)
        return self._encoded_again(segment).landmark_keys if array is None else self.of(array)

    def _stored_landmarks(self, segment: int) -> np.ndarray | None:
        """None when the segment was removed or rewritten since it was listed."""
        source, record = self._where[segment]
        try:
            (array,) = source.store.landmark_keys([record.id], [record.version])
        except KeyError:
            if self._restore is None:
                raise
            return None
        self._count(source, array.nbytes)
        return array

    def _count(self, source: Source, n_bytes: int) -> None:
        if not source.scratch:
            self.tally.bytes_read += n_bytes

    def _hold(self, slot: int, names: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Memory (m, C, P, D) that holds these pieces, keys rotated, and where in it each is: (n,)."""
        pool, cache = self._pooled()[slot], self._caches[slot].slots
        different, absent, room = dict.fromkeys(names), [], len(pool)
        for name in different:
            if name in cache:
                cache.move_to_end(name)
            else:
                absent.append(name)
        fresh = self._read(slot, absent) if absent else pool[:0]
        if len(different) > room:
            # more than the cache holds: pass through, leave the cache as it is
            kept = [name for name in different if name in cache]
            where = {name: i for i, name in enumerate([*kept, *absent])}
            held = torch.cat((pool[[cache[name] for name in kept]], fresh))
            return held, whole([where[name] for name in names])
        if absent:
            self._caches[slot].changes += 1
            # numpy copies rows whole, and one by one faster than many by their numbers
            slots = to_array(pool)
            for name, piece in zip(absent, to_array(fresh), strict=True):
                cache[name] = len(cache) if len(cache) < room else cache.popitem(last=False)[1]
                slots[cache[name]] = piece
        return pool, whole([cache[name] for name in names])

    def _pooled(self) -> Tensor:
        if self._pool is None:
            spec = self.spec
            # of no more blocks than there are, which may be few while many are allowed
            blocks = min(self.config.cached_blocks, max(1, self.n_segments) * self.layout.blocks_per_segment)
            pieces = blocks * spec.kv_heads
            shape = (spec.layers, pieces, spec.parts, spec.block_size, spec.head_dim)
            self._pool = torch.zeros(shape, dtype=getattr(torch, spec.dtype))
        return self._pool

    def content(self, segment: int) -> Tensor:
        """Which positions of a segment's blocks hold content: (n, P) bool. There are few shapes of segments."""
        shape = self._where[segment][1].block_content
        if shape not in self._contents:
            self._contents[shape] = torch.from_numpy(content_mask(shape, self.layout))
        return self._contents[shape]

    def _read(self, slot: int, names: Sequence[int]) -> Tensor:
        """Pieces from the stores: (n, C, P, D), keys rotated."""
        spec, N = self.spec, self.layout.blocks_per_segment
        split = [divmod(name, spec.kv_heads) for name in names]
        out = self._read_pieces(slot, [(*divmod(place, N), group) for place, group in split])
        which = whole([place % N for place, _ in split])
        keys = out[:, 0]
        turn_into(keys, keys, self._turns[slot].index_select(1, which))
        return out

    def _read_pieces(self, slot: int, pieces: Sequence[_Place]) -> Tensor:
        """From the stores, of segment, block and group: (n, C, P, D), as they are there."""
        by_source: dict[int, list[int]] = {}
        again = [i for i, (s, _, _) in enumerate(pieces) if s in self._gone]
        for i, (s, _, _) in enumerate(pieces):
            if s not in self._gone:
                by_source.setdefault(id(self._where[s][0]), []).append(i)
        read: list[tuple[list[int], Tensor]] = []
        for members in by_source.values():
            again += self._read_stored(slot, pieces, members, read)
        # a segment's blocks together: one that cannot be held is encoded once for all of them
        for s in dict.fromkeys(pieces[i][0] for i in again):
            kv = self._encoded_again(s).kv
            assert kv is not None
            members = [i for i in again if pieces[i][0] == s]
            of = np.array([pieces[i][1:] for i in members])
            read.append((members, to_tensor(kv[of[:, 0], slot, :, of[:, 1]], self.spec)))
        if len(read) == 1 and read[0][0] == list(range(len(pieces))):
            return read[0][1]
        out = torch.empty(len(pieces), *read[0][1].shape[1:], dtype=read[0][1].dtype)
        for members, part in read:
            out[members] = part
        return out

    def _read_stored(
        self, slot: int, pieces: Sequence[_Place], members: list[int], read: list[tuple[list[int], Tensor]]
    ) -> list[int]:
        """Append to `read` those members of one source that its store has as listed; the others."""
        segments = [pieces[i][0] for i in members]
        source = self._where[segments[0]][0]
        ids = [self._first_ids[s] + pieces[i][1] for i, s in zip(members, segments, strict=True)]
        versions = [self._versions[s] for s in segments]
        try:
            array = source.store.read_blocks(self._first + slot, ids, versions, [pieces[i][2] for i in members])
        except KeyError:
            # removed, rewritten or dropped since they were listed: the list still has their text
            if self._restore is None:
                raise
            different = dict.fromkeys(segments)
            if len(different) == 1:
                self._gone.add(segments[0])
                return members
            return [
                i
                for s in different
                for i in self._read_stored(slot, pieces, [m for m in members if pieces[m][0] == s], read)
            ]
        # rows are read whole, for their checksums
        self._count(source, len(set(ids)) * self.spec.kv_heads * array[0].nbytes)
        read.append((members, to_tensor(array, self.spec)))
        return []

    def _encoded_again(self, segment: int) -> EncodedSegment:
        """A segment made again from its text: exact, since its keys and values are a function of that."""
        restore, record = self._restore, self._where[segment][1]
        assert restore is not None
        return self._restored.get(segment, lambda: restore(record))
