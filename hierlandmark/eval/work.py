"""Work of attention a token: keys scored, FLOPs and bytes, by formula and from what was counted.

Of one query head with one key: a score is 2 D FLOPs, a score and its value 4 D. Gates and landmarks are only scored.
Projections, rotation and softmaxes are left out, as they are alike for all. Bytes are keys and values read, each once
for those that read together: a decoding token's heads in `decoding`, a segment's queries in `measured`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hierlandmark.config import LayoutConfig, Mode, RecallConfig
from hierlandmark.layout import Kind, segment_kinds, split_blocks


@dataclass(frozen=True)
class Shape:
    """Of a model: layers, query heads, KV heads, head width, bytes of an element of keys and values.

    `memory_layers`: how many of the layers look into a memory, None for all.
    """

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    element: int = 2
    memory_layers: int | None = None


@dataclass(frozen=True)
class Work:
    """Of one token: keys scored by one head in one layer (mean), and FLOPs and bytes of all heads and layers."""

    keys: float
    flops: float
    bytes: float


def full(shape: Shape, length: float) -> Work:
    """A token that attends to `length` tokens, or with a sliding window to as many as it has."""
    return _work(shape, 0.0, length, shape.kv_heads * length * 2)


def local_keys(layout: LayoutConfig) -> tuple[float, float]:
    """Keys in a content token's own full segment, mean over its tokens: only scored, and scored with their values."""
    kinds = segment_kinds(split_blocks(layout.segment_capacity, layout), layout)
    index = np.arange(len(kinds))
    block = index // layout.block_size
    content = kinds == Kind.CONTENT
    before = index[:, None] >= index
    attended = before & (content | (kinds == Kind.SINK))
    # where the whole segment is the local window, nothing of it is read through landmarks
    landmarks = (kinds == Kind.LANDMARK) & (block[:, None] > block) & (not layout.own_segment)
    return float(landmarks[content].sum(-1).mean()), float(attended[content].sum(-1).mean())


def decoding(shape: Shape, layout: LayoutConfig, mode: Mode, length: int, select: RecallConfig) -> Work:
    """The next token over a memory of `length` tokens that it reads in full, every head its own blocks.

    Bytes are an upper bound: as if no two heads opened or read the same.
    """
    scored, attended = local_keys(layout)
    near = (scored + attended * 2) * shape.kv_heads
    G, N = length // layout.segment_capacity, layout.blocks_per_segment
    gates = G if mode == "hierarchical" else 0
    landmarks = min(select.segments, G) * N if mode == "hierarchical" else G * N
    blocks = min(select.blocks, landmarks)
    content = blocks * layout.segment_capacity / N
    # heads of a group share keys: no more can be read than there are
    marks = min(shape.heads * landmarks, shape.kv_heads * G * N)
    read = min(shape.heads * blocks, shape.kv_heads * G * N) * layout.segment_capacity / N * 2
    # of all layers, those that look into a memory
    share = 1.0 if shape.memory_layers is None else shape.memory_layers / shape.layers
    far = share * (shape.kv_heads * gates + marks + read)
    return _work(shape, scored + share * (gates + landmarks), attended + share * content, near + far)


def stream(shape: Shape, layout: LayoutConfig, mode: Mode, length: int, select: RecallConfig) -> float:
    """Keys scored by one head in one layer, mean over a text of `length` tokens each of whose segments selects."""
    starts = range(0, length, layout.segment_capacity)
    sizes = [min(layout.segment_capacity, length - start) for start in starts]
    keys = [decoding(shape, layout, mode, start, select).keys for start in starts]
    return float(np.average(keys, weights=sizes))


def measured(shape: Shape, layout: LayoutConfig, counts: Mapping[str, int], tokens: int) -> Work:
    """From `ops.selected.Counts` over texts of `tokens` content tokens in all.

    What landmarks, gates and sinks ask for is laid on content tokens. Bytes are those of a segment reading together.
    """
    scored, attended = local_keys(layout)
    each = tokens * shape.layers * shape.heads
    marks = (counts["gate_products"] + counts["landmark_products"]) / each
    content = counts["content_products"] / each
    elements = counts["gate_keys"] + counts["landmark_keys"]
    elements += counts["blocks_read"] * layout.block_size * 2 * shape.kv_heads
    near = (layout.segment_size * 2 * shape.kv_heads) / layout.segment_capacity
    return _work(shape, scored + marks, attended + content, near + elements / (tokens * shape.layers))


def _work(shape: Shape, scored: float, attended: float, elements: float) -> Work:
    """From keys of one head, and keys and values read in one layer by all heads."""
    D = shape.head_dim
    flops = shape.layers * shape.heads * D * (2 * scored + 4 * attended)
    return Work(scored + attended, flops, shape.layers * elements * D * shape.element)
