"""Decoding over memories of many sizes beside decoding over an empty one, turn by turn in one process, all warm."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from hierlandmark.bench.speed import text_of
from hierlandmark.config import Granularity, Mode, RecallConfig
from hierlandmark.messages import Message
from hierlandmark.model import LandmarkModel
from hierlandmark.model.generate import generate
from hierlandmark.recall import Recall, Source, Tally, to_array, to_tensor
from hierlandmark.store import SQLiteStore
from hierlandmark.store.protocol import EncodedSegment, MessageRun, SegmentRecord

LENGTHS = (0, 32_768, 131_072, 1_048_576)
MODES: tuple[Mode, ...] = ("hierarchical", "flat")
# segments that are encoded where the rest are copies: 32,768 positions
ENCODED = 64
# segments written in one transaction: 190 MB of the default model
AT_ONCE = 16
# share of an array's standard deviation that a copy's gate and landmarks are moved by
NOISE = 0.05


def bench_decode(
    model: LandmarkModel,
    *,
    lengths: Sequence[int] = LENGTHS,
    modes: Sequence[Mode] = MODES,
    db: Path | None = None,
    text: Path | None = None,
    encode_all: bool = False,
    encoded: int = ENCODED,
    repeats: int = 5,
    new_tokens: int = 32,
    cached_blocks: int = RecallConfig().cached_blocks,
    threshold: float = RecallConfig().threshold,
    granularity: Granularity = "head_token",
    stride: int = RecallConfig().stride,
) -> Iterator[dict[str, Any]]:
    """Greedy tokens/s after a prompt, one result a mode and length.

    A database takes 5 MB a segment of the default model, 11 GB for a million tokens. Each turn has a prompt of its
    own, so that blocks are read and not only found in the cache; the turn before has opened the files.

    Args:
        lengths: of the memories, in positions; each is the start of the next longer one.
        db: kept and used again, and made longer if need be; by default one in a temporary folder.
        text: a file to encode; sentences of plain words by default.
        encode_all: encode every segment, 26 minutes for a million tokens on two cores; else only the first `encoded`
            are, the others are copies of them with noise on gates and landmarks, and the same blocks.
        cached_blocks, threshold, granularity, stride: as in `RecallConfig`.

    Returns:
        Tokens/s of every turn over the memory and over an empty one, the median of the pairwise ratios (memory over
        empty), and what the recall of one token after the first took on average.
    """
    size = model.layout.segment_size
    wanted = [-(-length // size) for length in lengths]
    with ExitStack() as stack:
        path = db or Path(stack.enter_context(TemporaryDirectory())) / "decode.db"
        store = stack.enter_context(SQLiteStore(path, model.kv_spec))
        # two ways to fill a database do not mix
        name = "encoded" if encode_all else "copies"
        fill(store, name, model, max(wanted), max(wanted) if encode_all else encoded, text)
        records, gates = store.index(name) if name in store.namespaces() else ([], np.empty(0))
        prompts = prompts_of(model, repeats + 1, text)
        for mode in modes:
            config = RecallConfig(
                mode=mode, cached_blocks=cached_blocks, threshold=threshold, granularity=granularity, stride=stride
            )
            recalls = {n: model.recall([Source(store, records[:n], gates[:n])] if n else [], config) for n in wanted}
            times: dict[int, list[float]] = {n: [] for n in wanted}
            empty: dict[int, list[float]] = {n: [] for n in wanted}
            work: dict[int, Tally] = {}
            nothing = model.recall([], config)
            for turn, prompt in enumerate(prompts):
                for n, recall in recalls.items():
                    pair = [decode(model, each, prompt, new_tokens) for each in (nothing, recall)]
                    if turn:
                        empty[n].append(pair[0])
                        times[n].append(pair[1])
                        work[n] = recall.tally
            for n, length in zip(wanted, lengths, strict=True):
                # passes behind the prompt's, whose work is left out as its time is
                tally, steps = work[n], new_tokens - 1
                yield {
                    "mode": mode, "tokens": length, "segments": n, "filled": name, "cached_blocks": cached_blocks,
                    "threshold": threshold, "granularity": granularity, "stride": stride,
                    "dtype": str(model.core.dtype),
                    "empty_tokens_per_s": [round(1 / t, 2) for t in empty[n]],
                    "tokens_per_s": [round(1 / t, 2) for t in times[n]],
                    "ratio": round(median(e / t for e, t in zip(empty[n], times[n], strict=True)), 3),
                    "keys_a_token": round((tally.gate_keys + tally.landmark_keys) / steps),
                    "blocks_a_token": round(tally.blocks_read / steps, 1),
                    "kb_a_token": round(tally.bytes_read / steps / 1000, 1),
                    "threads": torch.get_num_threads(), "load": round(os.getloadavg()[0], 1),
                }  # fmt: skip


def decode(model: LandmarkModel, recall: Recall, prompt: Sequence[int], new_tokens: int) -> float:
    """Seconds a token, the first apart, which waits for the prompt; `recall.tally` counts the same passes."""
    recall.begin()
    first = True

    def made_one(_: int) -> None:
        nonlocal first
        if first:
            recall.tally, first = Tally(), False

    # an answer tells where it looked, which is part of its work
    recall.watch(model.core.heads)
    made = generate(
        model.core,
        lambda: model.window(recall),
        lambda tokens: None,
        prompt,
        max_new_tokens=new_tokens,
        stop=set(),
        on_token=made_one,
    )
    return made.per_token_s


def prompts_of(model: LandmarkModel, count: int, text: Path | None) -> list[list[int]]:
    """Pieces of the text, 16 tokens each."""
    ids = model.tokenize(text_of(model, 64 * count, text))
    return [ids[i * 64 : i * 64 + 16] for i in range(count)]


def fill(store: SQLiteStore, name: str, model: LandmarkModel, segments: int, encoded: int, text: Path | None) -> None:
    """Make a namespace at least so many segments long: the first `encoded` from text, the others copies of them."""
    have = store.stats(name).segments if name in store.namespaces() else 0
    capacity = model.layout.segment_capacity
    real = min(encoded, segments)
    ids = np.empty(0, dtype=np.int32)
    if have < real:
        ids = np.resize(np.asarray(model.tokenize(text_of(model, real * capacity, text)), np.int32), real * capacity)
    for start in range(have, real, AT_ONCE):
        new = range(start, min(start + AT_ONCE, real))
        part = ids[start * capacity : (new[-1] + 1) * capacity]
        _append(store, name, model, list(model.encode(part, [MessageRun(i, capacity) for i in new])))
    if segments <= real:
        return
    records, gates = store.index(name)
    for start in range(max(have, real), segments, AT_ONCE):
        more = range(start, min(start + AT_ONCE, segments))
        _append(store, name, model, [copied(store, records[i % encoded], gates[i % encoded], i) for i in more])


def _append(store: SQLiteStore, name: str, model: LandmarkModel, made: Sequence[EncodedSegment]) -> None:
    messages = [
        Message(id=each.runs[0].message_id, role="document", content=model.decode(each.tokens.tolist()))
        for each in made
    ]
    store.append(name, messages, made)


def copied(store: SQLiteStore, record: SegmentRecord, gate: np.ndarray, index: int) -> EncodedSegment:
    """A segment of the store again as message `index`, its gate and landmarks moved a little, its blocks the same."""
    spec = store.spec
    blocks = [record.id * spec.blocks_per_segment + b for b in range(len(record.block_content))]
    (landmarks,) = store.landmark_keys([record.id])
    rng = torch.Generator().manual_seed(index)

    def moved(array: np.ndarray) -> np.ndarray:
        keys = to_tensor(array.copy(), spec)
        noise = torch.randn(keys.shape, generator=rng) * keys.float().std() * NOISE
        return to_array((keys.float() + noise).to(keys.dtype))

    return EncodedSegment(
        tokens=record.tokens,
        runs=(MessageRun(index, len(record.tokens)),),
        block_content=record.block_content,
        closed=True,
        gate_key=moved(gate),
        landmark_keys=moved(landmarks),
        kv=np.stack([store.read_blocks(layer, blocks) for layer in range(spec.layers)], axis=1),
    )
