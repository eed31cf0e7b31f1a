"""The training loop: LoRA on every linear layer and the two rows, with a guard against spikes."""

import json
import math
import signal
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from hierlandmark.config import LayoutConfig, Mode
from hierlandmark.errors import TrainingDiverged
from hierlandmark.model.core import LandmarkCore
from hierlandmark.model.dense import PlainAttention
from hierlandmark.model.gates import GateQueue
from hierlandmark.train.checkpoint import load_checkpoint, save_checkpoint
from hierlandmark.train.config import TrainConfig, check_lengths
from hierlandmark.train.corpus import Corpus
from hierlandmark.train.episodes import Batch, Shape, build_batch
from hierlandmark.train.loss import batch_loss
from hierlandmark.train.norms import hidden_norms, layer_norms
from hierlandmark.train.pairs import Pairs, build_pairs
from hierlandmark.train.search_loss import SearchTraining, search_loss
from hierlandmark.train.variants import selection_at, without_landmarks

LOG = "log.jsonl"
# queries of a batch whose gates are held to landmarks
WATCHED = 64


def shape_of(config: TrainConfig, layout: LayoutConfig, progress: float, rng: np.random.Generator) -> Shape:
    """Shape of the next batch: short texts first, then all lengths; at least one memory segment and one reader.

    Raises:
        InvalidArgument: a given length is not one of two whole segments or more.
    """
    budget = max(2, config.tokens // layout.segment_size)
    if config.lengths:
        return _shape_of_length(config, layout, budget, progress, rng)
    # a text may take twice the budget, one a batch
    room = max(2, min(config.longest, 2 * budget))
    if rng.random() < config.stream_share:
        memory = min(int(rng.choice([4, 4, 8])), budget, room)
        return Shape(max(1, budget // memory), memory, 0)
    least = 2 if room > 3 else 1
    sizes = [size for size in (6, 14, 29, 60, 120) if size + _readers(size) <= room] or [room - least]
    memory = sizes[rng.integers(0, _open_to(len(sizes), progress))]
    readers = min(_readers(memory), room - memory)
    return Shape(max(1, budget // (memory + readers)), memory, readers)


def _shape_of_length(
    config: TrainConfig, layout: LayoutConfig, budget: int, progress: float, rng: np.random.Generator
) -> Shape:
    """Texts of one of the lengths given, stream episodes too; one that is over the budget stands alone in its batch."""
    check_lengths(config, layout)
    size = layout.segment_size
    lengths = sorted(config.lengths)
    segments = lengths[rng.integers(0, _open_to(len(lengths), progress))] // size
    readers = 0 if rng.random() < config.stream_share else min(_readers(segments), segments - 1)
    return Shape(max(1, budget // segments), segments - readers, readers)


def search_shape(config: TrainConfig, layout: LayoutConfig, rng: np.random.Generator) -> tuple[int, int]:
    """Memories of a step that trains the search, and segments of each: few messages to tell apart, or many."""
    budget = max(2, (config.search_tokens or config.tokens) // layout.segment_size)
    sizes = [size for size in (4, 8, 16, 32, 64, 120) if size <= budget] or [budget]
    segments = sizes[rng.integers(0, len(sizes))]
    return budget // segments, segments


def _open_to(count: int, progress: float) -> int:
    """How many sizes may be drawn: the first tenth sees only the shortest, the longest come in at three tenths."""
    return min(count, 1 + int(progress * 10)) if progress < 0.3 else count


def _readers(memory: int) -> int:
    return 2 if memory < 29 else 3


# kind of a step that trains the search alone, beside the modes
SEARCH: Literal["search"] = "search"
Step = Mode | Literal["search"]


class BatchSource(Dataset[tuple[Batch | Pairs, Step]]):
    """Batch of step n: it depends on the seed and n only, or with a budget of seconds on the time gone by too.

    Args:
        sink_id: token at the head of every segment.
        teacher: tokenizer of what teaches the search, where anything does.
    """

    def __init__(
        self,
        corpus: Corpus,
        config: TrainConfig,
        layout: LayoutConfig,
        *,
        sink_id: int = 0,
        teacher: Any | None = None,
    ) -> None:
        self.corpus, self.config, self.layout = corpus, config, layout
        self.sink_id, self.teacher = sink_id, teacher
        # share of the seconds gone by; shared with worker processes
        self.progress = torch.zeros(1).share_memory_()

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> tuple[Batch | Pairs, Step]:
        if step >= self.config.steps:
            raise IndexError(step)
        rng = np.random.default_rng((self.config.seed, step))
        if self.config.search_share and rng.random() < self.config.search_share:
            count, segments = search_shape(self.config, self.layout, rng)
            pairs = build_pairs(self.corpus, self.layout, count, segments, self.sink_id, rng, self.teacher)
            return pairs, SEARCH
        mode: Mode = "flat" if rng.random() < self.config.flat_share else "hierarchical"
        progress = float(self.progress) if self.config.seconds else step / self.config.steps
        shape = shape_of(self.config, self.layout, progress, rng)
        cached = bool(self.config.cached) and rng.random() < self.config.cached
        config = self.config
        batch = build_batch(
            self.corpus, self.layout, shape, rng,
            needles=config.needles, linked=config.linked, jump=config.jump, cached=cached,
            watched=WATCHED if config.gates else 0, queue=config.gate_queue, recency=config.recency or 0,
        )  # fmt: skip
        return batch if self.config.attention == "landmark" else without_landmarks(batch), mode

    def load(self, start: int, workers: int) -> Iterable[tuple[Batch | Pairs, Step]]:
        """Batches from step `start` on, made ahead by `workers` processes."""
        steps = range(start, self.config.steps)
        return DataLoader(
            self, batch_size=None, sampler=steps, num_workers=workers, prefetch_factor=2 if workers else None
        )


def learning_rate(config: TrainConfig, step: int, progress: float) -> float:
    """Linear warm-up, then a cosine down to a tenth."""
    cosine = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.learning_rate * min(1.0, (step + 1) / config.warmup) * cosine


def train(
    core: LandmarkCore,
    source: BatchSource,
    folder: Path,
    *,
    resume: bool = False,
    workers: int = 0,
    clock: Callable[[], float] = time.monotonic,
    on_step: Callable[[dict[str, Any]], None] | None = None,
    note: dict[str, Any] | None = None,
    searching: SearchTraining | None = None,
) -> list[dict[str, Any]]:
    """Train until the steps or the seconds are used up; return the rows of `log.jsonl`, one a step.

    Args:
        folder: takes `log.jsonl` and checkpoints.
        resume: go on from the folder's checkpoint: weights, moments, step, seconds spent, and norms seen; a queue of
            gates fills again from nothing.
        note: put into `state.json` as it is.
        searching: what steps that train the search need; without a `search_share` there are none.

    Raises:
        TrainingDiverged: eight spikes within a hundred steps.
        KeyboardInterrupt: the run was interrupted; a checkpoint of the last whole step is saved before.
        InvalidArgument: the checkpoint to resume cannot be read.
    """
    config = source.config
    folder.mkdir(parents=True, exist_ok=True)
    trained = [p for p in core.parameters() if p.requires_grad]
    device = core.rows.device
    optimizer = torch.optim.AdamW(
        trained, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=device.type == "cuda"
    )
    step = int(load_checkpoint(core, optimizer, folder)["step"]) if resume else 0
    rows = cut_log(folder, step)
    heads = retrieval_heads(core, config.retrieval_layers, config.retrieval_depth) if config.votes else None
    queue = GateQueue(config.gate_queue) if config.gate_queue else None
    seen: dict[Step | int, deque[float]] = defaultdict(lambda: deque(maxlen=100))
    for row in rows:
        if not row["spiked"]:
            seen[_alike(row["mode"], row["shape"])].append(row["norm"])
    spikes = deque((row["step"] for row in rows if row["spiked"]), maxlen=8)
    began = clock() - (rows[-1]["seconds"] if rows else 0.0)

    def progress_at(step: int) -> float:
        return (clock() - began) / config.seconds if config.seconds else step / config.steps

    def save() -> None:
        save_checkpoint(core, optimizer, folder, {"step": step, "config": asdict(config), **(note or {})})

    core.train()
    source.progress[0] = progress_at(step)
    with _asked_to_stop() as interrupted:
        for batch, mode in source.load(step, workers):
            source.progress[0] = progress = progress_at(step)
            if progress >= 1.0:
                break
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step, progress)
            tick = clock()
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
                select = plain = None
                if isinstance(batch, Pairs):
                    assert searching is not None
                    loss, parts = search_loss(core, batch, searching)
                else:
                    assert mode != SEARCH
                    select = selection_at(config, step)
                    plain = None if config.attention == "landmark" else PlainAttention(config.window)
                    loss, parts = batch_loss(
                        core, batch, mode, heads, config.votes,
                        gates_weight=config.gates, queue=queue, select=select, plain=plain,
                    )  # fmt: skip
            loss.backward()
            total = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
            norm, norms = float(total), seen[_alike(mode, batch.ids.shape)]
            spiked = not math.isfinite(norm) or (len(norms) >= 20 and norm > config.spike * median(norms))
            if queue is not None:
                queue.settle(keep=not spiked)
            # before they are clipped, so that a spike shows where it is
            layers = layer_norms(core) if spiked or step % 50 == 0 else {}
            if spiked:
                spikes.append(step)
            else:
                torch.nn.utils.clip_grads_with_norm_(trained, config.clip, total)
                optimizer.step()
                norms.append(norm)
            now = clock()
            row = {
                "step": step, "loss": float(loss.detach()), "norm": norm, "spiked": spiked, "mode": mode,
                "selects": select is not None,
                "shape": list(batch.ids.shape), "lr": optimizer.param_groups[0]["lr"], **parts,
                "tokens_per_s": batch.ids.size / max(now - tick, 1e-9), "seconds": now - began,
            }  # fmt: skip
            if layers:
                row |= {"layers": layers}
                if isinstance(batch, Batch) and mode != SEARCH and plain is None:
                    row |= {"hidden": hidden_norms(core, batch, mode)}
            optimizer.zero_grad(set_to_none=True)
            rows.append(row)
            with (folder / LOG).open("a") as log:
                log.write(json.dumps(row) + "\n")
            if on_step:
                on_step(row)
            if len(spikes) == 8 and spikes[-1] - spikes[0] < 100:
                raise TrainingDiverged(
                    f"gradient norm {norm!r} at step {step}, eighth spike within 100 steps; see log.jsonl"
                )
            step += 1
            if step % config.checkpoint_every == 0 or interrupted.is_set():
                save()
            if interrupted.is_set():
                raise KeyboardInterrupt
    save()
    return rows


def _alike(mode: Step, shape: Sequence[int]) -> Step | int:
    """Which steps have gradients of one size: those that train the search alone, and others by their segments a text.

    Among more segments there is more to choose wrongly: from texts of 4,096 on to mixed ones, those of 32,768 had norms
    ten times those of 4,096 (docs/log.md).
    """
    return SEARCH if mode == SEARCH else shape[1]


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """Set by the first interrupt from the keyboard, so that a step is ended first; a second one breaks off."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(number: int, frame: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def cut_log(folder: Path, step: int) -> list[dict[str, Any]]:
    """Rows of `log.jsonl` before a step; later ones, of a run cut after its checkpoint, are taken out of the file."""
    path = folder / LOG
    kept = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            # the run was cut while it wrote this row
            break
        if row["step"] < step:
            kept.append(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in kept))
    return kept


def middle_heads(core: LandmarkCore, layers: Iterable[int]) -> dict[int, list[int]]:
    """Layer -> the middle head of each key-value group."""
    group = core.heads // core.kv_heads
    return {layer: [kv * group + group // 2 for kv in range(core.kv_heads)] for layer in layers}


def retrieval_heads(
    core: LandmarkCore, layers: int, depth: tuple[float, float] = TrainConfig.retrieval_depth
) -> dict[int, list[int]]:
    """Layer -> heads that are trained to rank blocks: the middle head of each key-value group, in layers spread out.

    Args:
        layers: how many at most.
        depth: shares of the model's depth between which they lie.
    """
    spread = np.linspace(core.layers * depth[0], core.layers * depth[1], layers).astype(int)
    # the nearest that look into other segments
    near = [min(core.memory_layers, key=lambda layer: abs(layer - int(at))) for at in spread]
    return middle_heads(core, sorted(set(near)))
