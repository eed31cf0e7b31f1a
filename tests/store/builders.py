"""Small messages and segments for store tests; also imported by the processes that tests start."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from hierlandmark.messages import Message, MessageId
from hierlandmark.store import EncodedSegment, KVSpec, MessageRun

SPEC = KVSpec(
    layers=3, kv_heads=2, head_dim=8, block_size=6, blocks_per_segment=4, dtype="bfloat16", fingerprint="f" * 64
)
OTHER = KVSpec(
    layers=2, kv_heads=1, head_dim=4, block_size=6, blocks_per_segment=4, dtype="float32", fingerprint="0" * 64
)
# of the same model, made for search only
SEARCH = replace(SPEC, layers=2, keep="search", kept=(1, 4))
# of a model whose search has keys of its own
BOTH = replace(SPEC, search=(1, 4))


def message(id: MessageId, content: str = "the quick brown fox", **fields: object) -> Message:
    return Message(id=id, content=content, **fields)


def segment(
    *ids: MessageId, blocks: int = 2, seed: int = 0, closed: bool = True, kv: bool = True, spec: KVSpec = SPEC
) -> EncodedSegment:
    """Random arrays; each of `ids` has as many tokens as there are blocks."""
    rng = np.random.default_rng(seed)

    def random(*shape: int) -> np.ndarray:
        if spec.dtype == "bfloat16":
            return rng.integers(0, 2**16, shape, dtype=np.uint16)
        return rng.standard_normal(shape).astype(spec.numpy_dtype)

    heads, block = (spec.kv_heads, spec.head_dim), (spec.kv_heads, spec.block_size, spec.head_dim)
    return EncodedSegment(
        tokens=rng.integers(0, 2**31, len(ids) * blocks, dtype=np.int32),
        runs=tuple(MessageRun(i, blocks) for i in ids),
        block_content=(len(ids),) * blocks,
        closed=closed,
        gate_key=random(spec.slots, *heads),
        landmark_keys=random(blocks, spec.slots, *heads),
        kv=random(blocks, spec.layers, spec.parts, *block) if kv else None,
        search_kv=random(blocks, len(spec.search), 1, *block) if kv and spec.search else None,
    )


def content_of(path: Path) -> bytes:
    """Every byte of a database that is open in this process only: the file and its log."""
    log = path.with_name(path.name + "-wal")
    return path.read_bytes() + (log.read_bytes() if log.exists() else b"")
