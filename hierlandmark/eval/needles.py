"""Needles through recall at many lengths: hierarchical, flat and the base model side by side on each document.

A haystack is encoded once, by all processes together; a trial encodes the few segments that its needles stand in
(`eval.segments`). Trials are dealt to processes, each with a model of its own.
"""

import multiprocessing
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING, Any, Literal

from hierlandmark.allocator import keep_freed_memory
from hierlandmark.config import RecallConfig
from hierlandmark.errors import InvalidArgument
from hierlandmark.eval.fillers import check_memory, open_filler
from hierlandmark.eval.haystack import SPARE, Tokenize
from hierlandmark.eval.passkey import holds_words, most_tokens, words_of
from hierlandmark.eval.tasks import GRASS, draw_trial, fillers_of, tokenize_trial

if TYPE_CHECKING:
    from hierlandmark.eval.trial import Trials
    from hierlandmark.model import LandmarkModel

AnyMode = Literal["hierarchical", "flat", "full"]
MODES: tuple[AnyMode, ...] = ("hierarchical", "flat", "full")
# task, filler, length, number of the trial, mode
KEY = ("task", "filler", "length", "trial", "mode")
Key = tuple[str, str, int, int, str]
Record = dict[str, Any]
# why a trial has no score
OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True)
class Plan:
    """What is measured. A trial is drawn from seed, task, length and its number, haystacks from seed and theirs."""

    tasks: Sequence[str]
    lengths: Sequence[int]
    # file that stands for RULER's essays; its name is the filler's
    text: Path | None = None
    trials: int = 50
    # different haystacks of each filler; trial i is hidden in number i modulo these
    haystacks: int = 5
    modes: Sequence[AnyMode] = MODES
    seed: int = 0
    # None: 10 for passkeys, else a right answer's, half as many again and 8
    max_new_tokens: int | None = None
    # the base model also where its positions end
    beyond: bool = False
    recall: RecallConfig = field(default_factory=RecallConfig)

    def __post_init__(self) -> None:
        if not self.tasks or not self.lengths or not self.modes or self.trials < 1 or self.haystacks < 1:
            raise InvalidArgument(
                f"expected at least one task, length, mode, trial and haystack, got tasks {self.tasks!r}, lengths "
                f"{self.lengths!r}, modes {self.modes!r}, trials {self.trials!r}, haystacks {self.haystacks!r}"
            )
        if min(self.lengths) < 1:
            raise InvalidArgument(f"expected lengths of at least 1 token, got {min(self.lengths)!r}")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise InvalidArgument(f"expected max_new_tokens of at least 1, got {self.max_new_tokens!r}")
        if unknown := set(self.modes) - set(MODES):
            raise InvalidArgument(f"expected modes of {', '.join(MODES)}, got {', '.join(sorted(unknown))}")
        for task in self.tasks:
            self.fillers(task)

    def fillers(self, task: str) -> tuple[str, ...]:
        """Haystacks that a task is run in."""
        return fillers_of(task, self.text.name if self.text else None)

    @property
    def keys(self) -> list[Key]:
        """Everything to be measured, each once, short documents first."""
        return [
            (task, filler, length, trial, mode)
            for length in sorted(set(self.lengths))
            for task in dict.fromkeys(self.tasks)
            for filler in dict.fromkeys(self.fillers(task))
            for trial in range(self.trials)
            for mode in dict.fromkeys(self.modes)
        ]


def key_of(record: Record) -> Key:
    """Which trial and mode a record is of."""
    return tuple(record[name] for name in KEY)  # type: ignore[return-value]


def is_final(record: Record) -> bool:
    """Whether a trial would come out alike again; one that ran out of memory may do better on another day."""
    return bool(record.get("why") != OUT_OF_MEMORY)


def check_lengths(plan: Plan, keys: Collection[Key]) -> None:
    """What can be told before a model is loaded of the lengths of what is to be measured.

    Raises:
        InvalidArgument: one is longer than the text or than this machine has memory for, or too short for words.
    """
    if not keys:
        return
    check_memory(max(length for _, _, length, _, _ in keys))
    in_text = [length for _, filler, length, _, _ in keys if plan.text and filler == plan.text.name]
    if in_text:
        open_filler(str(plan.text)).take(0, max(in_text) + SPARE)
    trials, shortest = _shortest_trials(keys)
    words, task = _largest(plan, trials, words_of, shortest)
    if not holds_words(shortest, words):
        raise InvalidArgument(
            f"expected lengths that hold the {words} words of {task} and its answer, got {shortest}; "
            f"{_enough(plan, trials, most_tokens, shortest)} tokens do with any tokenizer"
        )


def check_model(plan: Plan, model: "LandmarkModel", keys: Collection[Key]) -> None:
    """As `check_lengths`, of what a model must be known for.

    Raises:
        InvalidArgument: a length is too short for a trial, or what is kept of a haystack too large for the disk.
    """
    if not keys:
        return
    trials, shortest = _shortest_trials(keys)
    needed, task = _largest(plan, trials, model.tokenize, shortest)
    if shortest < needed:
        raise InvalidArgument(
            f"expected lengths of at least {_enough(plan, trials, model.tokenize, shortest)} tokens, got {shortest}: "
            f"{task} does not fit into less"
        )
    # grass repeats itself, and its segments are kept once
    kept = [length for _, filler, length, _, mode in keys if mode != "full" and filler != GRASS]
    if not kept:
        return
    spec = model.kv_spec
    size = max(kept) * spec.layers * spec.parts * spec.kv_heads * spec.head_dim * spec.numpy_dtype.itemsize
    folder = gettempdir()
    if size > (free := shutil.disk_usage(folder).free):
        raise InvalidArgument(
            f"expected lengths whose keys and values fit on the disk, got {max(kept):,}: {size:,} bytes are "
            f"needed and {free:,} free in {folder!r}; set TMPDIR to a folder with more"
        )


def _shortest_trials(keys: Collection[Key]) -> tuple[set[tuple[str, int]], int]:
    """Tasks and numbers of the trials of the shortest length, and that."""
    shortest = min(length for _, _, length, _, _ in keys)
    return {(task, number) for task, _, length, number, _ in keys if length == shortest}, shortest


def _largest(plan: Plan, trials: Collection[tuple[str, int]], tokenize: Tokenize, length: int) -> tuple[int, str]:
    """Tokens of a length's largest trial without a haystack, and its task."""
    return max(
        (tokenize_trial(draw_trial(plan.seed, task, length, number), tokenize, plan.max_new_tokens).length, task)
        for task, number in trials
    )


def _enough(plan: Plan, trials: Collection[tuple[str, int]], tokenize: Tokenize, length: int) -> int:
    """A length that each of its trials fits into, reached from a shorter one: trials are drawn by length."""
    while length < (needed := _largest(plan, trials, tokenize, length)[0]):
        length = needed
    return length


def evaluate_needles(
    make_model: Callable[[], "LandmarkModel"], plan: Plan, *, workers: int = 1, done: Collection[Key] = ()
) -> Iterator[Record]:
    """One record a trial and mode, as they end: see `eval.trial.Trials.run`.

    Args:
        make_model: called in each process, so it can be pickled; not before the first record is asked for, and not
            where everything is done.
        workers: processes; 1 stays in this one.
        done: what need not be measured again, and is not checked.

    Raises:
        InvalidArgument: workers < 1, a length too short for its task, or too long for the text or the machine: at once
            where no model is needed to tell, else with the first record.
    """
    if workers < 1:
        raise InvalidArgument(f"expected at least one worker, got {workers!r}")
    known = set(done)
    left = [key for key in plan.keys if key not in known]
    check_lengths(plan, left)
    return _records(make_model, plan, workers, left)


def _records(
    make_model: Callable[[], "LandmarkModel"], plan: Plan, workers: int, left: Sequence[Key]
) -> Iterator[Record]:
    # a haystack at a time, so that the disk holds one
    groups: dict[tuple[str, int], dict[tuple[str, int, int], list[AnyMode]]] = {}
    for task, filler, length, trial, mode in left:
        group = groups.setdefault((filler, trial % plan.haystacks), {})
        group.setdefault((task, length, trial), []).append(mode)  # type: ignore[arg-type]
    if not groups:
        return
    with _Pool(make_model, plan, workers) as pool:
        list(pool.map("check", [(left,)]))
        for (filler, number), cells in groups.items():
            with TemporaryDirectory(prefix="needles") as name:
                folder = Path(name)
                longest = max(length for _, length, _ in cells)
                encoded = any(mode != "full" for modes in cells.values() for mode in modes)
                (shards,) = pool.map("prepare", [(folder, filler, number, longest, workers if encoded else 0)])
                list(pool.map("encode", [(folder, shard) for shard in range(shards)]))
                # the longest first: no process is left with one at the end
                jobs = sorted(cells.items(), key=lambda item: -item[0][1])
                for records in pool.map("run", [(folder, filler, *cell, modes) for cell, modes in jobs]):
                    yield from records


class _Pool:
    """Calls methods of `Trials` in this process or in several."""

    def __init__(self, make_model: Callable[[], "LandmarkModel"], plan: Plan, workers: int) -> None:
        self._here: Trials | None = None
        self._pool: ProcessPoolExecutor | None = None
        if workers == 1:
            self._here = _make(make_model, plan)
        else:
            threads = max(1, (os.cpu_count() or 1) // workers)
            # CUDA does not survive a fork
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(workers, context, _start, (make_model, plan, threads))

    def map(self, method: str, calls: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        """Results in the order in which they come."""
        if self._here is not None:
            for call in calls:
                yield getattr(self._here, method)(*call)
        elif self._pool is not None:
            for future in as_completed([self._pool.submit(_call, method, call) for call in calls]):
                yield future.result()

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _make(make_model: Callable[[], "LandmarkModel"], plan: Plan) -> "Trials":
    from hierlandmark.eval.trial import Trials

    return Trials(make_model(), plan)


# this process's own, made when it starts
_TRIALS: "list[Trials]" = []


def _start(make_model: Callable[[], "LandmarkModel"], plan: Plan, threads: int) -> None:
    import torch

    keep_freed_memory()
    # no more than OMP_NUM_THREADS says
    torch.set_num_threads(min(threads, torch.get_num_threads()))
    _TRIALS[:] = [_make(make_model, plan)]


def _call(method: str, arguments: tuple[Any, ...]) -> Any:
    return getattr(_TRIALS[0], method)(*arguments)
