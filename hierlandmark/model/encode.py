"""Text to blocks: one forward pass over segments, cut into gates, landmarks and block KV."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hierlandmark.layout import Layout, content_mask, gate_position, landmark_positions, split_blocks
from hierlandmark.model.binding import Enough
from hierlandmark.model.core import LandmarkCore
from hierlandmark.ops.segments import segment_attention
from hierlandmark.recall import to_array
from hierlandmark.store.protocol import EncodedSegment, KVSpec, MessageRun

# segments in one forward pass: four make a window of 2,048 positions
BATCH = 4


class _Taking:
    """Dense attention over segments on their own that keeps the values of some layers; behind them the pass ends."""

    def __init__(self, layout: Layout, layers: Sequence[int]) -> None:
        self.layout, self.layers = layout, layers
        self.values: list[Tensor] = []

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """See `Attend.attend`."""
        if layer in self.layers:
            self.values.append(v)
            if layer == self.layers[-1]:
                raise Enough
        return segment_attention(q, k, v, self.layout, scale=scale)


class Arrays(NamedTuple):
    """Of one segment, as `EncodedSegment` holds them."""

    gate_key: np.ndarray
    landmark_keys: np.ndarray
    kv: np.ndarray
    search_kv: np.ndarray | None = None


@torch.inference_mode()
def encode_segments(
    core: LandmarkCore, contents: Sequence[np.ndarray], spec: KVSpec, searcher: LandmarkCore | None = None
) -> list[Arrays]:
    """Gate key, landmark keys and block KV of segments, each encoded on its own.

    Keys alone where `spec` says so. Nothing above the highest layer that is kept is run.

    Args:
        searcher: makes the keys of search where it has weights of its own.
    """
    if not spec.search:
        return _encoded(core if spec.keep == "all" else searcher or core, contents, spec)
    assert searcher is not None
    both = (_encoded(core, contents, spec.reading()), _encoded(searcher, contents, spec.searching()))
    return [
        Arrays(
            np.concatenate((read.gate_key, own.gate_key)),
            np.concatenate((read.landmark_keys, own.landmark_keys), axis=1),
            read.kv,
            own.kv,
        )
        for read, own in zip(*both, strict=True)
    ]


def _encoded(core: LandmarkCore, contents: Sequence[np.ndarray], spec: KVSpec) -> list[Arrays]:
    config, kv_dtype = core.layout, getattr(torch, spec.dtype)
    layout = Layout.of([[len(tokens)] for tokens in contents], config)
    device = core.rows.device
    ids = torch.from_numpy(layout.place([np.asarray(tokens) for tokens in contents])).to(device)
    kinds = torch.from_numpy(layout.kinds).to(device)
    B, _, P = layout.kinds.shape
    positions = torch.arange(P, device=device).expand(B, -1)
    taking = _Taking(layout, spec.model_layers if spec.parts == 2 else ())
    if spec.keep == "search":
        each = core.keys(ids[:, 0], kinds[:, 0], positions, taking, spec.model_layers)
    else:
        with core.tap.taking() as taken, suppress(Enough):
            core.hidden(ids[:, 0], kinds[:, 0], positions, taking)
        each = [taken[layer].view(B, P, -1, core.head_dim) for layer in spec.model_layers]
    # (L, B, P, H_kv, D), keys before rotation; then values, where they are kept
    keys = torch.stack(each).to(kv_dtype)
    parts = [keys, torch.stack([v.transpose(1, 2) for v in taking.values]).to(kv_dtype)] if taking.values else [keys]
    out = []
    for b, tokens in enumerate(contents):
        counts = split_blocks(len(tokens), config)
        n = len(counts)
        landmarks = keys[:, b, torch.from_numpy(landmark_positions(counts, config))].transpose(0, 1)
        gate = keys[:, b, gate_position(counts, config)]
        kv = torch.stack([part[:, b] for part in parts], dim=1)  # (L, C, P, H_kv, D)
        kv = kv.unflatten(2, (-1, config.block_size))[:, :, :n]  # (L, C, n, p, H_kv, D)
        kv = kv.permute(2, 0, 1, 4, 3, 5)  # (n, L, C, H_kv, p, D)
        content = torch.from_numpy(content_mask(counts, config)).to(device).view(n, 1, 1, 1, -1, 1)
        # one pass over the largest array: mask and copy together
        kv = torch.where(content, kv, torch.zeros((), dtype=kv_dtype, device=device))
        out.append(Arrays(to_array(gate), to_array(landmarks), to_array(kv)))
    return out


def encode_runs(
    core: LandmarkCore,
    tokens: np.ndarray,
    runs: Sequence[MessageRun],
    spec: KVSpec,
    sizes: Sequence[int],
    progress: Callable[[int], None] | None = None,
    searcher: LandmarkCore | None = None,
) -> Iterator[EncodedSegment]:
    """Encode a text's segments, lazily. The last is open unless it is full: what is added later goes on in it.

    Args:
        tokens: (n,) content tokens.
        runs: which messages they come from, in order; the counts sum to n.
        sizes: content tokens of each segment (`cuts.segment_sizes`); they sum to n.
        spec: what is kept of them.
        progress: called with the tokens encoded since the last call.
        searcher: see `encode_segments`.
    """
    pieces = np.split(tokens, np.cumsum(sizes)[:-1]) if len(sizes) else []
    shares = _split_runs(runs, sizes)
    for first in range(0, len(pieces), BATCH):
        batch = pieces[first : first + BATCH]
        for i, arrays in enumerate(encode_segments(core, batch, spec, searcher)):
            piece = batch[i]
            yield EncodedSegment(
                tokens=piece.astype(np.int32),
                runs=shares[first + i],
                block_content=split_blocks(len(piece), core.layout),
                closed=first + i + 1 < len(pieces) or len(piece) == core.layout.segment_capacity,
                **arrays._asdict(),
            )
            if progress:
                progress(len(piece))


def _split_runs(runs: Iterable[MessageRun], sizes: Sequence[int]) -> list[tuple[MessageRun, ...]]:
    """Deal runs out to segments of these sizes."""
    out: list[tuple[MessageRun, ...]] = []
    queue = iter(runs)
    left: MessageRun | None = next(queue, None)
    for size in sizes:
        mine = []
        while size and left is not None:
            count = min(size, left.n_tokens)
            if count:
                mine.append(MessageRun(left.message_id, count))
            size -= count
            rest = left.n_tokens - count
            left = MessageRun(left.message_id, rest) if rest else next(queue, None)
        out.append(tuple(mine))
    return out
