"""What recall noted, as a trace a person can read."""

from collections.abc import Sequence

import torch

from hierlandmark.memory.rank import Ranked, block_shares
from hierlandmark.recall import Recall
from hierlandmark.results import BlockTrace, HeadMass, SegmentTrace, Trace

# heads named for each segment and block
_HEADS = 3


def attended_trace(recall: Recall, decode: object, stored: int, top: int = 8) -> Trace:
    """Segments and blocks by the mass that all layers and heads gave them, as a share of what went to the past.

    Args:
        stored: how many of the first segments are named: what comes after them is the prompt and the answer itself.
    """
    if recall.attended is None:
        return Trace()
    gates, blocks, layers = recall.attended.gates, recall.attended.blocks, recall.spec.model_layers
    total = blocks.sum().clamp_min(1e-9)
    gate_total = gates.sum().clamp_min(1e-9)
    gates, blocks = gates[:, :, :stored], blocks[:, :, :stored]
    segments = []
    for s in _best(gates.sum((0, 1)), top):
        record, _ = recall.block_of(s, 0)
        heads = _heads(gates[:, :, s] / gate_total, layers)
        segments.append(SegmentTrace(segment=record.id, mass=float(gates[:, :, s].sum() / gate_total), heads=heads))
    per_block = blocks.sum((0, 1))  # (G, N)
    found = []
    for place in _best(per_block.flatten(), top):
        s, b = divmod(place, per_block.shape[1])
        mass = float(per_block[s, b] / total)
        found.append(_block(recall, s, b, mass, _heads(blocks[:, :, s, b] / total, layers), decode))
    return Trace(segments=segments, blocks=found)


def ranked_trace(recall: Recall, ranked: Ranked, decode: object, top: int = 8) -> Trace:
    """Segments and blocks by what the retrieval heads gave: shares of all of it, and of that on opened segments.

    Heads are named by their own softmaxes, whatever the rule makes of their logits.
    """
    rule = ranked.rule
    total = ranked.votes.sum().clamp_min(1e-9)
    gates = ranked.gates / ranked.gates.sum().clamp_min(1e-9)
    scores = ranked.segment_scores / ranked.segment_scores.sum().clamp_min(1e-9)

    def voters(mass: torch.Tensor) -> list[HeadMass]:
        return [
            HeadMass(layer=ranked.heads[h].layer, head=ranked.heads[h].head, mass=float(mass[h]))
            for h in _best(mass, _HEADS)
        ]

    segments = [
        SegmentTrace(
            segment=recall.block_of(s, 0)[0].id,
            mass=float(rule.mass(gates[:, s], scores[s])),
            heads=voters(gates[:, s]),
        )
        for s in _best(rule.mass(gates, scores), top)
    ]
    blocks = []
    for place in _best(ranked.block_scores.flatten(), top):
        at, b = divmod(place, ranked.block_scores.shape[1])
        votes = ranked.votes[:, at, b] / total
        mass = float(rule.mass(votes, ranked.block_scores[at, b]))
        blocks.append(_block(recall, ranked.segments[at], b, mass, voters(votes), decode))
    return Trace(segments=segments, blocks=blocks)


def _block(recall: Recall, s: int, b: int, mass: float, heads: list[HeadMass], decode: object) -> BlockTrace:
    record, block_id = recall.block_of(s, b)
    start = sum(record.block_content[:b])
    text = decode(record.tokens[start : start + record.block_content[b]].tolist())  # type: ignore[operator]
    ids = list(block_shares(record)[b])
    return BlockTrace(block=block_id, segment=record.id, mass=mass, text=text, message_ids=ids, heads=heads)


def _best(values: torch.Tensor, top: int) -> list[int]:
    order = values.sort(descending=True, stable=True).indices[:top]
    return [int(i) for i in order if values[i] > 0]


def _heads(mass: torch.Tensor, layers: Sequence[int]) -> list[HeadMass]:
    """(L, H) of these layers -> the heads that gave most."""
    H, each = mass.shape[1], mass.flatten()
    return [HeadMass(layer=layers[i // H], head=i % H, mass=float(each[i])) for i in _best(each, _HEADS)]
