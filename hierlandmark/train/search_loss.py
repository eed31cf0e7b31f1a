"""The loss that trains the search: which message a query looks for, by landmarks and by what stands in their blocks.

The heads that search are taken as one retriever (`AdapterMeta.ranking` "sum"): a block's logit is the sum of theirs,
and a message gets the mass of its tokens, softmax over all blocks times softmax inside each block, as in flat landmark
attention. Its probability is that mass over one more than the blocks it would fill, as a search ranks it, with a sum
of 1. Gates learn to choose the segments that this finds.

n queries, B memories, T positions of a memory, N blocks of it, p positions of a block, M messages.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hierlandmark.layout import Kind
from hierlandmark.minilm import pooled
from hierlandmark.model.binding import Attend, Enough
from hierlandmark.model.core import LandmarkCore
from hierlandmark.model.dense import DenseAttention, PlainAttention
from hierlandmark.ops.rope import turn
from hierlandmark.train.pairs import Padded, Pairs

_NEVER = -1e30
_LEAST = 1e-30
# queries are padded to so many tokens, sink included, and longer ones to the longest
_QUERY_LENGTHS = (16, 24)
# texts that a teacher reads at once: of like lengths, for padding is work
_TEACHER_BATCH = 2048


@dataclass
class SearchTraining:
    """What a step that trains the search needs beside its batch."""

    # layer -> query heads, one for each group
    heads: dict[int, list[int]]
    # of each head's logit in the sum
    weight: float
    # a sentence embedder (`minilm.load`), on the model's device
    teacher: Any | None = None
    # how much of the target is the teacher's, and the temperature of its cosines
    taught: float = 0.5
    temperature: float = 0.05


@dataclass
class _Together:
    """Memories and queries one after another in a single row of tokens, each attending to its own kind only.

    All else in a layer is done a token at a time, so that one pass does for both; it ends in the highest layer wanted.
    """

    memory: Attend
    shape: tuple[int, int]  # memories and positions of each, B * T tokens in front
    groups: Sequence[tuple[int, int]]  # queries and tokens of each, padding behind; n * Q tokens a group
    heads: dict[int, list[int]]
    last: Tensor  # (n,), where in the row each query's last token stands
    keys: dict[int, Tensor] = field(default_factory=dict)  # of memories: (B, H_kv, T, D)
    queries: dict[int, Tensor] = field(default_factory=dict)  # (n, h, D)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """See `Attend.attend`."""
        sizes = [a * b for a, b in (self.shape, *self.groups)]
        if layer in self.heads:
            self.keys[layer] = _apart(k[:, :, : sizes[0]], *self.shape)
            self.queries[layer] = q[0, self.heads[layer]][:, self.last].transpose(0, 1)
            if layer == max(self.heads):
                raise Enough
        out = []
        hows = (self.memory, *(PlainAttention() for _ in self.groups))
        shapes, parts = (self.shape, *self.groups), zip(*(x.split(sizes, dim=2) for x in (q, k, v)), strict=True)
        for how, shape, part in zip(hows, shapes, parts, strict=True):
            some_q, some_k, some_v = (_apart(x, *shape) for x in part)
            found = how.attend(layer, some_q, some_k, some_v, scale)
            out.append(found.transpose(0, 1).flatten(1, 2).unsqueeze(0))
        return torch.cat(out, dim=2)


def _apart(x: Tensor, count: int, size: int) -> Tensor:
    """(1, H, count * size, D) -> (count, H, size, D)."""
    return x[0].unflatten(1, (count, size)).transpose(0, 1)


@dataclass
class Found:
    """What the searching heads make of each query's memory: messages, and for gates the places of their tokens.

    Messages are kept as logarithms: summed logits lie so far apart that one which is hardly found has a probability of
    0 in fp32, and no gradient.
    """

    log_messages: Tensor  # (n, M), of probabilities that sum to 1
    tokens: Tensor  # (n, T), the same by tokens
    blocks: Tensor  # (n, N)
    log_gates: Tensor  # (n, S), of segments, by gates alone
    owners: Tensor  # (n, T), the message of each token, M where there is none

    @property
    def messages(self) -> Tensor:
        """Probabilities of messages: (n, M), rows that sum to 1."""
        return self.log_messages.exp()


def search_loss(core: LandmarkCore, pairs: Pairs, training: SearchTraining) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of messages, plus that of segments by gates, and parts for the log.

    Gates aim at where the wanted message stands and at where landmarks look, half and half. `found` is the share of
    queries whose best message is wanted, `found_gates` that whose best segment holds one.
    """
    device = core.rows.device
    rows, targets = torch.from_numpy(pairs.rows).to(device), torch.from_numpy(pairs.targets).to(device)
    found = find(core, pairs, training)
    loss = -found.log_messages.masked_fill(~targets, _NEVER).logsumexp(1)
    if training.teacher is not None:
        said = _taught(pairs, training, rows, targets.shape[1])  # (n, M)
        loss = (1 - training.taught) * loss - training.taught * (said * found.log_messages).sum(1)
    n, S = found.log_gates.shape
    with torch.no_grad():
        # a last column for tokens of no message
        wanted = torch.cat((targets, targets.new_zeros(n, 1)), 1)
        held = (found.tokens * wanted.gather(1, found.owners)).view(n, S, -1).sum(-1)
        held = held / held.sum(1, keepdim=True).clamp_min(_LEAST)
        aim = (held + found.blocks.view(n, S, -1).sum(-1)) / 2
    loss_gates = -(aim * found.log_gates).sum(1)
    with torch.no_grad():
        best, opened = found.log_messages.argmax(1), found.log_gates.argmax(1)
        parts = {
            "search": loss.mean(),
            "search_gates": loss_gates.mean(),
            "found": targets.gather(1, best[:, None]).float().mean(),
            "found_gates": (held.gather(1, opened[:, None]) > 0).float().mean(),
        }
    return loss.mean() + loss_gates.mean() / 2, {name: float(value) for name, value in parts.items()}


def find(core: LandmarkCore, pairs: Pairs, training: SearchTraining) -> Found:
    """What a flat search finds, message by message, and what gates alone make of segments."""
    device = core.rows.device
    logits = _logits(core, pairs, training)  # (n, T)
    kinds = torch.from_numpy(pairs.layout.kinds).to(device)
    rows = torch.from_numpy(pairs.rows).to(device)
    owners = torch.from_numpy(pairs.owners).to(device).flatten(1)[rows]
    B, S, P = kinds.shape
    n, M = pairs.targets.shape
    N = S * pairs.layout.config.blocks_per_segment
    blocks = kinds.view(B, N, -1)
    by_block = logits.view(n, N, -1)
    log_blocks = _marked(by_block, blocks == Kind.LANDMARK, rows).log_softmax(-1)  # (n, N)
    content = (blocks == Kind.CONTENT)[rows]
    inside = by_block.masked_fill(~content, _NEVER).log_softmax(-1)  # (n, N, p)
    log_mass = torch.where(content, log_blocks.unsqueeze(-1) + inside, _NEVER).flatten(1)  # (n, T)
    # those of no message go into a last column
    top = log_mass.new_full((n, M + 1), _NEVER).scatter_reduce(1, owners, log_mass.detach(), "amax")
    parts = (log_mass - top.gather(1, owners)).exp()
    total = logits.new_zeros(n, M + 1).scatter_add(1, owners, parts).clamp_min(_LEAST).log() + top
    log_messages = (total[:, :M] - _extents(pairs).to(device)[rows].log1p()).log_softmax(-1)
    log_gates = _marked(logits.view(n, S, P), kinds == Kind.GATE, rows).log_softmax(-1)  # (n, S)
    return Found(log_messages, log_mass.detach().exp(), log_blocks.detach().exp(), log_gates, owners)


def _logits(core: LandmarkCore, pairs: Pairs, training: SearchTraining) -> Tensor:
    """What each query's last token makes of every position of its memory, heads summed: (n, T) fp32."""
    device, layers = core.rows.device, sorted(training.heads)
    B, S, P = pairs.ids.shape
    ids = [torch.from_numpy(pairs.ids).flatten()]
    kinds = [torch.from_numpy(pairs.layout.kinds).flatten()]
    positions = [torch.arange(P).repeat(B * S)]
    groups, order, last = [], [], []
    start = ids[0].numel()
    for some, most in _by_length(pairs.queries.lengths):
        prompts = torch.from_numpy(pairs.queries.ids[some, :most])
        ids.append(prompts.flatten())
        kinds.append(torch.full_like(ids[-1], int(Kind.CONTENT), dtype=kinds[0].dtype))
        positions.append(torch.arange(most).repeat(len(some)))
        last.append(start + np.arange(len(some)) * most + pairs.queries.lengths[some] - 1)
        groups.append((len(some), most))
        order.append(some)
        start += prompts.numel()
    places = np.concatenate(last)[np.argsort(np.concatenate(order))]
    dense = DenseAttention(pairs.layout, core.rope)
    both = _Together(dense, (B, S * P), groups, training.heads, torch.from_numpy(places).to(device))
    row = [torch.cat(x).unsqueeze(0).to(device) for x in (ids, kinds, positions)]
    with suppress(Enough):
        core.hidden(row[0], row[1], row[2], both)
    # queries of a memory together: one product a memory
    counts = np.bincount(pairs.rows, minlength=B).tolist()
    total: list[Tensor] = []
    with torch.autocast(device.type, enabled=False):
        scale = training.weight * core.head_dim**-0.5
        turned = [
            turn(both.queries[layer].float(), *core.rope.angles(layer, (P,), device)).flatten(1) for layer in layers
        ]
        for b, some in enumerate(torch.cat(turned, 1).split(counts)):
            key = torch.cat([both.keys[layer][b].transpose(0, 1).flatten(1) for layer in layers], 1).float()  # (T, V)
            total.append(some @ key.T * scale)
    return torch.cat(total)


def _by_length(lengths: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Which queries are encoded side by side, and how many tokens each of them gets: most are short, a few long."""
    longest = int(lengths.max())
    least = 0
    for most in (*(size for size in _QUERY_LENGTHS if size < longest), longest):
        some = np.flatnonzero((lengths > least) & (lengths <= most))
        least = most
        if len(some):
            yield some, most


def _extents(pairs: Pairs) -> Tensor:
    """How many blocks each message would fill, by its shares of their tokens: (B, M) fp32."""
    B, M = len(pairs.owners), pairs.targets.shape[1]
    content = (pairs.layout.kinds == Kind.CONTENT).reshape(B, -1, pairs.layout.config.block_size)
    share = np.broadcast_to(1 / content.sum(-1, keepdims=True).clip(min=1), content.shape)
    # a last column for tokens of no message, in a row for each memory
    columns = pairs.owners.reshape(content.shape) + (M + 1) * np.arange(B)[:, None, None]
    filled = np.bincount(columns[content], weights=share[content], minlength=B * (M + 1))
    return torch.from_numpy(filled.reshape(B, M + 1)[:, :M]).float()


def _marked(logits: Tensor, marks: Tensor, rows: Tensor) -> Tensor:
    """Logits where each group's mark stands: (n, G, p) and (B, G, p) bool -> (n, G), never where there is none."""
    at = marks.int().argmax(-1)[rows]
    there = marks.any(-1)[rows]
    return logits.gather(-1, at.unsqueeze(-1)).squeeze(-1).masked_fill(~there, _NEVER)


@torch.no_grad()
def _taught(pairs: Pairs, training: SearchTraining, rows: Tensor, M: int) -> Tensor:
    """What the teacher makes of each query's messages: (n, M), rows summing to 1."""
    assert pairs.messages is not None and pairs.asked is not None
    # in the teacher's own precision
    with torch.autocast(rows.device.type, enabled=False):
        messages, asked = (_embedded(training.teacher, x, rows.device) for x in (pairs.messages, pairs.asked))
        table = messages.new_zeros(len(pairs.counts), M, messages.shape[1])
        there = torch.zeros(table.shape[:2], dtype=torch.bool, device=rows.device)
        for b, some in enumerate(messages.split(pairs.counts.tolist())):
            table[b, : len(some)] = some
            there[b, : len(some)] = True
        cosines = (table[rows] @ asked.unsqueeze(-1)).squeeze(-1) / training.temperature
    return cosines.masked_fill(~there[rows], _NEVER).softmax(-1)


def _embedded(teacher: Any, texts: Padded, device: torch.device) -> Tensor:
    """(n, 384) fp32."""
    out: Tensor | None = None
    lengths = torch.from_numpy(texts.lengths)
    ids, order = torch.from_numpy(texts.ids), lengths.argsort(descending=True)
    for some in order.split(_TEACHER_BATCH):
        T = int(lengths[some[0]])
        part = ids[some, :T].to(device, non_blocking=True)
        mask = (torch.arange(T) < lengths[some, None]).long().to(device, non_blocking=True)
        vectors = pooled(teacher, part, mask).float()
        out = vectors.new_zeros(len(ids), vectors.shape[1]) if out is None else out
        out[some.to(device)] = vectors
    assert out is not None
    return out
