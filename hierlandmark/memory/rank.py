"""Blocks to messages: which heads rank, how much each block gets by their rule, and whose tokens it holds.

H heads, G segments, N blocks a segment.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor

from hierlandmark.config import Mode
from hierlandmark.memory.rules import VOTES, Rule, Share
from hierlandmark.messages import MessageId
from hierlandmark.model import RetrievalHead
from hierlandmark.recall import Recall
from hierlandmark.store.protocol import SegmentRecord

# of each block of a segment, the share of its content tokens that each message holds
BlockShares = list[dict[MessageId, float]]
# of a long memory a share of the segments is opened: among more of them the right one's gate stands further down
_SHARE = 16


class Holders:
    """Whose tokens segments of a recall hold, for one look at it: each segment is counted once."""

    def __init__(self, recall: Recall, words: Sequence[MessageId] = (), places: Iterable[int] = ()) -> None:
        """Look for what words found, best first, in the segments at these places, once."""
        self._recall = recall
        self._shares: dict[int, BlockShares] = {}
        self._words = words
        # in text order
        self.matching = candidates(recall, set(words), places) if words else []

    def best_matching(self, n: int) -> list[int]:
        """Those that hold any of the n best."""
        return candidates(self._recall, set(self._words[:n]), self.matching)

    def standing(self) -> dict[MessageId, tuple[int, float]]:
        """Of messages that words found and that have blocks: the first of them, and how many each would fill."""
        out: dict[MessageId, tuple[int, float]] = {}
        wanted = set(self._words)
        for segment in self.matching:
            _, first = self._recall.block_of(segment, 0)
            for block, parts in enumerate(self.shares(segment)):
                for message_id in wanted & parts.keys():
                    at, extent = out.get(message_id, (first + block, 0.0))
                    out[message_id] = (at, extent + parts[message_id])
        return out

    def shares(self, segment: int) -> BlockShares:
        """`block_shares` of the segment at a place."""
        if segment not in self._shares:
            self._shares[segment] = block_shares(self._recall.block_of(segment, 0)[0])
        return self._shares[segment]


@dataclass(frozen=True)
class Ranked:
    """Scores of opened segments' blocks by a rule, and how each head by itself would vote."""

    segments: list[int]  # places in the recall, best first
    segment_scores: Tensor  # (G,), 0 where a segment is no candidate
    block_scores: Tensor  # (len(segments), N), 0 where a segment is shorter
    gates: Tensor  # (heads, G), each head's mass of 1 over all segments, times its weight
    votes: Tensor  # (heads, len(segments), N), each head's mass of 1 over the opened segments' blocks, times its weight
    heads: list[RetrievalHead]
    rule: Rule
    holders: Holders
    # (len(segments), N), blocks that a filter lets through; None for all
    eligible: Tensor | None = None
    # no segment is left that could be opened
    whole: bool = True
    # blocks that messages fill beside the opened segments, where the recall does not hold those; None where it does
    beyond: Mapping[MessageId, float] | None = None


def rank_blocks(
    recall: Recall,
    queries: Sequence[Tensor],
    heads: Sequence[RetrievalHead],
    scale: float,
    mode: Mode,
    n_open: int,
    allowed: Set[MessageId] | None = None,
    rule: Rule = VOTES,
    words: Sequence[MessageId] = (),
) -> Ranked:
    """Let heads rank the blocks of the opened segments by their landmarks.

    Under "votes" each head spreads a mass of 1, and the masses are summed; under "sum" all spread one by their summed
    logits.

    Gates choose what is opened, by the same rule among them, and rank nothing: landmarks know better (docs/log.md).

    Args:
        queries: for each layer (H, T, D), rotated as `Recall.read` takes them; the last position votes.
        heads: which vote, and with what weight; empty for all of the layers that are kept, alike.
        n_open: segments to open in hierarchical mode, or a sixteenth of the candidates where that is more; flat opens
            all.
        allowed: messages that may be found: segments and blocks that hold none of them get no vote, and are not
            opened. None for all.
        rule: of the adapter.
        words: messages that words found, best first, all of them allowed; segments of the first `n_open` are opened,
            too, whatever the gates say.
    """
    if not heads:
        layers = recall.spec.model_layers
        heads = [RetrievalHead(layer=layer, head=h) for layer in layers for h in range(queries[layer].shape[0])]
    by_layer: dict[int, list[int]] = {}
    for at, head in enumerate(heads):
        by_layer.setdefault(head.layer, []).append(at)
    weight = torch.tensor([head.weight for head in heads])
    G = recall.n_segments
    last = [q[:, -1:].contiguous() for q in queries]
    gates: Tensor | None = None
    gate_scores: Tensor | None = None
    # a range is read in place, a list is gathered
    places: Sequence[int] = range(G) if allowed is None else candidates(recall, allowed, range(G))
    holders = Holders(recall, words, places)
    opened = places
    if mode == "hierarchical":
        of_gates: list[Tensor] = [torch.empty(0)] * len(heads)
        for layer, members in by_layer.items():
            gate_logits = recall.gate_logits(layer, last[layer], scale, None if allowed is None else places)[:, 0]
            for at in members:
                of_gates[at] = gate_logits[heads[at].head]
        stacked = torch.stack(of_gates)  # (heads, candidates)
        gates = stacked.softmax(-1)
        gate_scores = rule.scores(stacked, weight[:, None] * gates, weight)
        best = gate_scores.sort(descending=True, stable=True).indices[: max(n_open, len(places) // _SHARE)]
        opened = [places[i] for i in best.tolist()]
        seen = set(opened)
        opened += [s for s in holders.best_matching(n_open) if s not in seen]
    logits = torch.stack(_pick(recall, heads, by_layer, last, opened, scale))  # (heads, len(opened), N)
    eligible = None
    if allowed is not None:
        eligible = eligible_blocks(holders, opened, allowed, logits.shape[-1])
        logits = logits.masked_fill(~eligible, float("-inf"))
    votes = logits.flatten(1).softmax(-1).view_as(logits)
    mass = torch.zeros(len(heads), G)
    mass[:, list(places)] = votes.sum(-1) if gates is None else gates
    gates, votes = weight[:, None] * mass, weight[:, None, None] * votes
    block_scores = rule.scores(logits, votes, weight)
    segment_scores = block_scores.new_zeros(G)
    segment_scores[list(places)] = block_scores.sum(-1) if gate_scores is None else gate_scores
    return Ranked(
        list(opened),
        segment_scores,
        block_scores,
        gates,
        votes,
        list(heads),
        rule,
        holders,
        eligible,
        whole=len(opened) == len(places),
    )


def candidates(recall: Recall, allowed: Set[MessageId], places: Iterable[int]) -> list[int]:
    """Those of the segments at some places that hold tokens of any of these messages."""
    found = []
    for s in places:
        # written out: `any` takes twice as long, and this may go through a million messages
        for run in recall.block_of(s, 0)[0].runs:
            if run.message_id in allowed:
                found.append(s)
                break
    return found


def eligible_blocks(holders: Holders, segments: Sequence[int], allowed: Set[MessageId], N: int) -> Tensor:
    """(len(segments), N): blocks that hold tokens of any of these messages."""
    out = torch.zeros(len(segments), N, dtype=torch.bool)
    for at, s in enumerate(segments):
        for b, parts in enumerate(holders.shares(s)):
            out[at, b] = not allowed.isdisjoint(parts)
    return out


def _pick(
    recall: Recall,
    heads: Sequence[RetrievalHead],
    by_layer: dict[int, list[int]],
    queries: Sequence[Tensor],
    segments: Sequence[int],
    scale: float,
) -> list[Tensor]:
    """Landmark logits of every voting head: (S, N) each."""
    out: list[Tensor] = [torch.empty(0)] * len(heads)
    for layer, members in by_layer.items():
        logits = recall.landmark_logits(layer, queries[layer], segments, scale)[:, 0]  # (H, S, N)
        for at in members:
            out[at] = logits[heads[at].head]
    return out


def block_shares(record: SegmentRecord) -> BlockShares:
    """For each block, the share of its content tokens that each message holds, in text order."""
    shares: BlockShares = [{} for _ in record.block_content]
    block, left = 0, record.block_content[0]
    for run in record.runs:
        count = run.n_tokens
        while count:
            taken = min(count, left)
            share = taken / record.block_content[block]
            shares[block][run.message_id] = shares[block].get(run.message_id, 0.0) + share
            count, left = count - taken, left - taken
            if not left and block + 1 < len(record.block_content):
                block += 1
                left = record.block_content[block]
    return shares


def judged(recall: Recall, ranked: Ranked, shares: Sequence[Share]) -> Sequence[Share]:
    """`Rule.judged`, told how much of the text messages are where the rule looks at it."""
    return ranked.rule.judged(shares, extents(recall, ranked) if ranked.rule.damps else {})


def extents(recall: Recall, ranked: Ranked) -> dict[MessageId, float]:
    """How many blocks each message of the opened segments would fill: its shares of blocks by tokens, summed."""
    shares = ranked.holders.shares
    beyond = blocks_beyond(recall, ranked.segments, shares) if ranked.beyond is None else ranked.beyond
    return filled(map(shares, ranked.segments), dict(beyond))


def filled(shares: Iterable[BlockShares], known: dict[MessageId, float]) -> dict[MessageId, float]:
    """What is known and, of every message, its shares of the blocks of some segments by tokens."""
    for blocks in shares:
        for parts in blocks:
            for message_id, share in parts.items():
                known[message_id] = known.get(message_id, 0.0) + share
    return known


def blocks_beyond(
    recall: Recall, segments: Sequence[int], shares: Callable[[int], BlockShares]
) -> dict[MessageId, float]:
    """Of messages that stand partly in these segments, how many blocks of other ones of the recall they fill.

    Args:
        shares: `Holders.shares` of the recall.
    """
    return going_on(
        {s: recall.block_of(s, 0)[0] for s in segments},
        recall.n_segments,
        lambda places: [shares(at) for at in places],
    )


def going_on(
    opened: Mapping[int, SegmentRecord], n_segments: int, read: Callable[[list[int]], Sequence[BlockShares]]
) -> dict[MessageId, float]:
    """Of messages that stand partly in opened segments, how many blocks of others they fill.

    Args:
        opened: by their places among all, in text order.
        read: `block_shares` of segments at some places; called once for each segment further that any message goes on.
    """
    ends = [(runs[0], -1, at) for at, record in opened.items() if (runs := record.runs)]
    ends += [(runs[-1], 1, at) for at, record in opened.items() if (runs := record.runs)]
    wanted = {(run.message_id, at + step, step) for run, step, at in ends}
    seen: dict[tuple[MessageId, int], float] = {}
    while wanted := {
        one for one in wanted if 0 <= one[1] < n_segments and one[1] not in opened and one[:2] not in seen
    }:
        places = sorted({at for _, at, _ in wanted})
        found = dict(zip(places, read(places), strict=True))
        for message_id, at, _ in wanted:
            seen[message_id, at] = sum(parts.get(message_id, 0.0) for parts in found[at])
        wanted = {(message_id, at + step, step) for message_id, at, step in wanted if seen[message_id, at]}
    out: dict[MessageId, float] = {}
    # in text order: that of a set of strings is another in each process, and would change the last digit of a sum
    for (message_id, _), share in sorted(seen.items(), key=lambda item: item[0][1]):
        if share:
            out[message_id] = out.get(message_id, 0.0) + share
    return out


@torch.inference_mode()
def message_shares(recall: Recall, ranked: Ranked, queries: Sequence[Tensor], scale: float, n_read: int) -> list[Share]:
    """Score, block id, and the messages' shares of every opened block that is there and may be found.

    A share is that of the block's tokens; in the `n_read` best blocks that hold several messages it is that of the
    heads' attention inside the block (P2), put together by the rule, for which their keys are read. Dropped ones are
    not made again: that takes a forward pass over the segment.
    """
    N = ranked.block_scores.shape[1]
    out: dict[int, Share] = {}
    shared: list[tuple[float, int, int]] = []
    for at, s in enumerate(ranked.segments):
        record, first = recall.block_of(s, 0)
        for b, parts in enumerate(ranked.holders.shares(s)):
            if ranked.eligible is not None and not bool(ranked.eligible[at, b]):
                continue
            out[at * N + b] = (float(ranked.block_scores[at, b]), first + b, parts)
            if len(parts) > 1 and record.has_kv:
                shared.append((-float(ranked.block_scores[at, b]), at, b))
    places = [(at, b) for _, at, b in sorted(shared)[:n_read]]
    if places:
        for (at, b), attended in zip(places, _attended(recall, ranked, queries, scale, places), strict=True):
            record, _ = recall.block_of(ranked.segments[at], 0)
            score, block, parts = out[at * N + b]
            owners = _owners(record, b)
            out[at * N + b] = (
                score,
                block,
                {m: sum(x for x, o in zip(attended, owners, strict=True) if o == m) for m in parts},
            )
    return list(out.values())


def _attended(
    recall: Recall, ranked: Ranked, queries: Sequence[Tensor], scale: float, places: Sequence[tuple[int, int]]
) -> list[list[float]]:
    """For each block, the share of the voting heads' attention that each of its content tokens gets."""
    blocks = [(ranked.segments[at], b) for at, b in places]
    index = torch.tensor(places)
    weight = torch.tensor([head.weight for head in ranked.heads])

    def parts() -> Iterator[tuple[int, Tensor]]:
        for layer in sorted({head.layer for head in ranked.heads}):
            logits = recall.content_logits(layer, queries[layer][:, -1:], blocks, scale)[:, 0]  # (H, n, P)
            yield from ((i, logits[head.head]) for i, head in enumerate(ranked.heads) if head.layer == layer)

    total = ranked.rule.inside(parts(), ranked.votes[:, index[:, 0], index[:, 1]], weight)
    return [total[i, recall.content(s)[b]].tolist() for i, (s, b) in enumerate(blocks)]


def _owners(record: SegmentRecord, block: int) -> list[MessageId]:
    """Whose each content token of a block is."""
    owners = [run.message_id for run in record.runs for _ in range(run.n_tokens)]
    start = sum(record.block_content[:block])
    return owners[start : start + record.block_content[block]]


def rank_messages(
    shares: Sequence[Share],
) -> list[tuple[MessageId, float, int]]:
    """Messages by the best block they have a part in, the score damped by the root of their share of it.

    Args:
        shares: score, block id and shares of each block, as `Rule.judged` leaves them.

    Returns:
        Message, score, and the block that gave it, best first; equal scores keep text order.
    """
    best: dict[MessageId, tuple[float, int]] = {}
    # in text order, and a message counts its first best block: so equal ones stay as the text has them
    for score, block, parts in sorted(shares, key=lambda row: row[1]):
        for message_id, share in parts.items():
            value = score * share**0.5
            if message_id not in best or value > best[message_id][0]:
                best[message_id] = (value, block)
    return sorted(((m, s, b) for m, (s, b) in best.items()), key=lambda row: (-row[1], row[2]))
