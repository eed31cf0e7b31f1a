"""One layer's query -> select -> read blocks -> attention over what was read.

Recalled keys get stingy positions: every segment is put into one slot of `segment_size` positions right before the
query's own segment, each block at its own offset there. Blocks share the slot safely, since P2 is a softmax per block.

Shapes: H query heads in H_kv groups, T query positions, G segments, N blocks a segment, P positions a block, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hierlandmark.config import LayoutConfig, RecallConfig
from hierlandmark.layout import content_mask, gate_position, landmark_positions
from hierlandmark.ops.rope import rotate, turn, turn_in_place, turns
from hierlandmark.recall.held import Buffers, Cache, Restored
from hierlandmark.recall.tensors import to_tensor
from hierlandmark.results import Cost
from hierlandmark.select import block_weights, flat_weights, gate_mass, top
from hierlandmark.store.protocol import BlockStore, EncodedSegment, KVSpec, SegmentRecord

NEG = float("-inf")
# segments whose landmarks are scored together
_AT_ONCE = 256
# bytes of each buffer that tokens share: what one token reads of the default model, and not what a long prompt does
_HELD = 3 * 2**20
Restore = Callable[[SegmentRecord], EncodedSegment]


@dataclass
class Tally:
    """Work done so far; see `results.Cost`."""

    gate_keys: int = 0
    landmark_keys: int = 0
    blocks_read: int = 0
    bytes_read: int = 0

    def cost(self, ms: float) -> Cost:
        """As a result."""
        return Cost(
            gate_keys=self.gate_keys,
            landmark_keys=self.landmark_keys,
            blocks_read=self.blocks_read,
            bytes_read=self.bytes_read,
            ms=ms,
        )


@dataclass
class Attended:
    """Mass given so far, summed over queries: (L, H, G) to gates and (L, H, G, N) to blocks."""

    gates: Tensor
    blocks: Tensor


@dataclass
class Source:
    """Segments of one store that a query may look into, in text order."""

    store: BlockStore
    records: list[SegmentRecord]
    gates: np.ndarray  # (G, L + S, H_kv, D), as the store gives them
    # a window of the answer itself: what is read of it was never fetched from the database
    scratch: bool = False


class Recall:
    """Looks into the segments of some sources as they were listed, whatever others write meanwhile.

    In memory: all gates; the landmarks of every segment that was ever opened (L * H_kv * N * D elements each, 0.2 GB
    for the shipped model and a million tokens, all of them in flat mode); the blocks last read, `cached_blocks` a
    layer; segments encoded again, up to `restored_bytes`; for answers seven buffers of at most 3 MiB each.

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
        self._restore = restore
        self._restored = Restored(config.restored_bytes)
        # places of segments that the stores do not have as they were listed
        self._gone: set[int] = set()
        self._where: list[tuple[Source, SegmentRecord]] = []
        self._gates: list[Tensor] = []  # per layer (H_kv, G, D) fp32, rotated
        self._opened: set[int] = set()
        self._contents: dict[tuple[int, ...], Tensor] = {}
        self._caches = [Cache() for _ in range(spec.layers)]
        self._pool: Tensor | None = None
        # a search asks each layer once: nothing would be used again
        self._buffers = Buffers(_HELD if spec.keep == "all" else 0)
        # of each place in a segment: (N, 1, P, D / 2) twice a layer
        places = torch.arange(layout.segment_size).view(layout.blocks_per_segment, 1, layout.block_size)
        self._turns = [turns(places, freq, scale) for freq, scale in zip(self.inv_freq, self.scaling, strict=True)]
        self._index()

    def _index(self) -> None:
        self._where = [(source, record) for source in self.sources for record in source.records]
        N = self.layout.blocks_per_segment
        spec, G = self.spec, len(self._where)
        self.present = torch.zeros(G, N, dtype=torch.bool)
        self._masks = torch.zeros(G, N, self.layout.block_size, dtype=torch.bool)
        for s, (_, record) in enumerate(self._where):
            self.present[s, : len(record.block_content)] = True
            self._masks[s, : len(record.block_content)] = self.content(s)
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
        # keys come as stored, (G, L, H_kv, D)
        self._gates = [
            rotate(raw[:, layer].float().transpose(0, 1), where, self.inv_freq[layer], self.scaling[layer])
            for layer in range(self.spec.layers)
        ]

    @property
    def n_segments(self) -> int:
        """Segments that can be opened."""
        return len(self._where)

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
        self.tally = Tally()
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

    def read(self, layer: int, q: Tensor, near_lse: Tensor, scale: float) -> tuple[Tensor, Tensor] | None:
        """What the past says to these queries.

        Args:
            q: (H, T, D), rotated to positions one segment behind the slot.
            near_lse: (H, T) fp32, log-sum-exp of the logits of the local window.

        Returns:
            Attention output over the chosen blocks (H, T, D) fp32, its weights summing to 1, and the log-sum-exp (H, T)
            of their gates (landmarks in flat mode), -inf where a head and token read nothing. None if none reads.
        """
        if not self._where:
            return None
        q = q.float().contiguous()
        choose = self._choose_flat if self.config.mode == "flat" else self._choose
        chosen = choose(layer, q, near_lse, scale)
        if chosen is None:
            return None
        weights, lse, segments = chosen  # (H, T, S, N), (H, T), segments opened
        used = (weights > 0).any(0).any(0)  # (S, N)
        places = used.nonzero()
        blocks = [(segments[s], b) for s, b in places.tolist()]
        held, index = self._hold(layer, blocks)
        self.tally.blocks_read += len(blocks)
        H, T, D = q.shape
        H_kv, P = self.spec.kv_heads, self.spec.block_size
        w = weights[:, :, used].view(H_kv, -1, len(blocks))  # (H_kv, rep * T, n)
        # each group of heads takes the blocks that it chose, m at most, and not those of all
        mine = (w > 0).any(1)
        pick = mine.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : int(mine.sum(1).max())]
        # block, part and group of heads are one axis of rows, P * D numbers each
        rows = ((index[pick] * self.spec.parts * H_kv) + torch.arange(H_kv).unsqueeze(1)).flatten()
        table = held.view(-1, P * D)
        keys, values = (
            self._buffers.picked(name, table, rows + part * H_kv).view(H_kv, -1, D)  # (H_kv, m * P, D)
            for part, name in enumerate(("keys", "values"))
        )
        content = self._masks[places[:, 0].new_tensor(segments)[places[:, 0]], places[:, 1]][pick].unsqueeze(1)
        logits = q.view(H_kv, -1, D) @ keys.transpose(1, 2) * scale  # (H_kv, rep * T, m * P)
        p2 = logits.unflatten(-1, (-1, P)).masked_fill(~content, NEG).softmax(-1)
        p = p2 * w.gather(2, pick.unsqueeze(1).expand(-1, w.shape[1], -1)).unsqueeze(-1)
        return (p.flatten(-2) @ values).view(H, T, D), lse

    def _choose(self, layer: int, q: Tensor, near_lse: Tensor, scale: float) -> tuple[Tensor, Tensor, list[int]] | None:
        H, T, _ = q.shape
        gates = self.gate_logits(layer, q, scale)
        mass = gate_mass(gates, near_lse)
        active = mass.sum(-1) > self.config.threshold  # (H, T)
        if not bool(active.any()):
            return None
        opened = top(mass, self.config.segments, self.config.granularity, active)
        segments = opened.any(0).any(0).nonzero().flatten().tolist()
        logits = self.landmark_logits(layer, q, segments, scale)  # (H, T, S, N)
        p1 = logits.softmax(-1)
        open_here = opened[:, :, segments]
        weight = (mass[:, :, segments] * open_here).unsqueeze(-1) * p1
        picked = top(weight.flatten(2), self.config.blocks, self.config.granularity, active).view_as(weight)
        picked = picked & open_here.unsqueeze(-1)
        weights, lse = block_weights(gates[:, :, segments], logits, picked)
        self._note(layer, mass, weights, lse, near_lse, segments)
        return weights, lse, segments

    def _choose_flat(
        self, layer: int, q: Tensor, near_lse: Tensor, scale: float
    ) -> tuple[Tensor, Tensor, list[int]] | None:
        logits = self.landmark_logits(layer, q, range(self.n_segments), scale)
        shape = logits.shape
        flat = logits.flatten(2)
        mass = gate_mass(flat, near_lse)
        active = mass.sum(-1) > self.config.threshold
        if not bool(active.any()):
            return None
        picked = top(mass, self.config.blocks, self.config.granularity, active)
        weights, lse = flat_weights(flat, picked)
        weights = weights.view(shape)
        kept = (weights > 0).any(-1).flatten(0, 1).any(0).nonzero().flatten().tolist()
        self._note(layer, mass.view(shape).sum(-1), weights[:, :, kept], lse, near_lse, kept)
        return weights[:, :, kept], lse, kept

    def gate_logits(self, layer: int, q: Tensor, scale: float, segments: Sequence[int] | None = None) -> Tensor:
        """(H, T, D) -> (H, T, G) fp32; of `segments` only where they are given."""
        gates = self._gates[self._slots[layer]]
        gates = gates if segments is None else gates[:, list(segments)]
        self.tally.gate_keys += gates.shape[0] * gates.shape[1]
        H, T, D = q.shape
        return (q.reshape(gates.shape[0], -1, D) @ gates.transpose(1, 2)).view(H, T, -1) * scale

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
        for part in keys.split(_AT_ONCE, dim=1):
            wide = self._buffers.get("wide", torch.float32, *part.shape).copy_(part)
            parts.append(grouped @ wide.flatten(1, 2).transpose(1, 2))
        return (torch.cat(parts, dim=-1).view(H, T, S, N) * scale).masked_fill(~present, NEG)

    def content_logits(self, layer: int, q: Tensor, blocks: Sequence[tuple[int, int]], scale: float) -> Tensor:
        """(H, T, D) and n blocks as (segment, block) -> (H, T, n, P) fp32, -inf where no content stands."""
        held, index = self._hold(self._slots[layer], blocks)
        keys = held[index, 0]  # (n, H_kv, P, D)
        content = torch.stack([self._masks[s, b] for s, b in blocks])  # (n, P)
        self.tally.blocks_read += len(blocks)
        n, H_kv, P, D = keys.shape
        H, T, _ = q.shape
        logits = q.reshape(H_kv, -1, D) @ keys.float().permute(1, 3, 0, 2).reshape(H_kv, D, n * P)
        return (logits.view(H, T, n, P) * scale).masked_fill(~content, NEG)

    def _load_landmarks(self, segments: Sequence[int]) -> None:
        absent = [s for s in segments if s not in self._opened]
        for s in absent:
            record = self._where[s][1]
            raw = to_tensor(self.landmark_keys(s), self.spec).float().permute(1, 2, 0, 3)  # (L, H_kv, n, D)
            where = torch.from_numpy(landmark_positions(record.block_content, self.layout))
            angles = [turns(where, freq, scale) for freq, scale in zip(self.inv_freq, self.scaling, strict=True)]
            cos, sin = (torch.stack(part).unsqueeze(1) for part in zip(*angles, strict=True))  # (L, 1, n, D / 2)
            self._landmarks[:, :, s] = 0
            self._landmarks[:, :, s, : raw.shape[2]] = turn(raw, cos, sin).to(self._landmarks.dtype)
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
        self._count(source, array)
        return array

    def _count(self, source: Source, array: np.ndarray) -> None:
        if not source.scratch:
            self.tally.bytes_read += array.nbytes

    def _hold(self, layer: int, blocks: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Memory (m, C, H_kv, P, D) that holds these blocks, keys rotated, and where in it each is: (n,)."""
        N, limit = self.layout.blocks_per_segment, self.config.cached_blocks
        pool, cache = self._pooled(), self._caches[layer].slots
        names = [s * N + b for s, b in blocks]
        absent = [i for i, name in enumerate(names) if name not in cache]
        for name in names:
            if name in cache:
                cache.move_to_end(name)
        fresh = self._read(layer, [blocks[i] for i in absent]) if absent else pool[layer, :0]
        if len(names) > limit:
            # more than the cache holds: pass through, leave the cache as it is
            out = torch.empty(len(names), *fresh.shape[1:], dtype=fresh.dtype)
            held = [i for i, name in enumerate(names) if name in cache]
            if held:
                out[held] = pool[layer, [cache[names[i]] for i in held]]
            out[absent] = fresh
            return out, torch.arange(len(names))
        for i in absent:
            cache[names[i]] = len(cache) if len(cache) < limit else cache.popitem(last=False)[1]
        index = torch.tensor([cache[name] for name in names], dtype=torch.long)
        if absent:
            pool[layer, index[absent]] = fresh
        return pool[layer], index

    def _pooled(self) -> Tensor:
        if self._pool is None:
            spec = self.spec
            shape = (spec.layers, self.config.cached_blocks, spec.parts, spec.kv_heads, spec.block_size, spec.head_dim)
            self._pool = torch.zeros(shape, dtype=getattr(torch, spec.dtype))
        return self._pool

    def content(self, segment: int) -> Tensor:
        """Which positions of a segment's blocks hold content: (n, P) bool. Nearly all segments are full, and alike."""
        shape = self._where[segment][1].block_content
        if shape not in self._contents:
            self._contents[shape] = torch.from_numpy(content_mask(shape, self.layout))
        return self._contents[shape]

    def _read(self, layer: int, blocks: Sequence[tuple[int, int]]) -> Tensor:
        """From the stores: (n, C, H_kv, P, D), keys rotated. It is to be copied before any other are read."""
        spec = self.spec
        shape = (len(blocks), spec.parts, spec.kv_heads, spec.block_size, spec.head_dim)
        out = self._buffers.get("read", getattr(torch, spec.dtype), *shape)
        by_source: dict[int, list[int]] = {}
        again = [i for i, (s, _) in enumerate(blocks) if s in self._gone]
        for i, (s, _) in enumerate(blocks):
            if s not in self._gone:
                by_source.setdefault(id(self._where[s][0]), []).append(i)
        for members in by_source.values():
            again += self._read_stored(layer, blocks, members, out)
        # a segment's blocks together: one that cannot be held is encoded once for all of them
        for s in dict.fromkeys(blocks[i][0] for i in again):
            kv = self._encoded_again(s).kv
            assert kv is not None
            for i in again:
                if blocks[i][0] == s:
                    out[i] = to_tensor(kv[blocks[i][1], layer], spec)
        cos, sin = self._turns[layer]
        which = [b for _, b in blocks]
        keys = out[:, 0]
        wide = self._buffers.get("turned", torch.float32, 4, *keys.shape[:-1], spec.head_dim // 2)
        turn_in_place(keys, cos[which], sin[which], wide)
        return out

    def _read_stored(self, layer: int, blocks: Sequence[tuple[int, int]], members: list[int], out: Tensor) -> list[int]:
        """Fill in those members of one source that its store has as listed; the others."""
        segments = [blocks[i][0] for i in members]
        source = self._where[segments[0]][0]
        records = [self._where[s][1] for s in segments]
        ids = [
            record.id * self.layout.blocks_per_segment + blocks[i][1]
            for i, record in zip(members, records, strict=True)
        ]
        try:
            array = source.store.read_blocks(self._first + layer, ids, [record.version for record in records])
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
                for i in self._read_stored(layer, blocks, [m for m in members if blocks[m][0] == s], out)
            ]
        self._count(source, array)
        if len(members) == len(out):
            out.copy_(to_tensor(array, self.spec))
        else:
            out[members] = to_tensor(array, self.spec)
        return []

    def _encoded_again(self, segment: int) -> EncodedSegment:
        """A segment made again from its text: exact, since its keys and values are a function of that."""
        restore, record = self._restore, self._where[segment][1]
        assert restore is not None
        return self._restored.get(segment, lambda: restore(record))

    def _note(
        self, layer: int, mass: Tensor, weights: Tensor, lse: Tensor, near_lse: Tensor, segments: list[int]
    ) -> None:
        if self.attended is None:
            return
        share = (lse - torch.logaddexp(lse, near_lse)).exp()  # (H, T)
        self.attended.gates[layer] += mass.sum(1)
        self.attended.blocks[layer][:, segments] += (weights * share[..., None, None]).sum(1)
