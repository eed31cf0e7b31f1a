"""One process's part of `eval.needles`: make a haystack, encode some of it, run a trial."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from hierlandmark.errors import InvalidArgument
from hierlandmark.eval.fillers import open_filler
from hierlandmark.eval.haystack import Haystack, filler_text, make_haystack
from hierlandmark.eval.needles import OUT_OF_MEMORY, AnyMode, Key, Plan, Record, check_model
from hierlandmark.eval.segments import SharedSegments, cut, distinct, write_segments
from hierlandmark.eval.tasks import CLOSING, GRASS, Trial, draw_trial, needles_task, needles_text, tokenize_trial
from hierlandmark.memory.answer import answer
from hierlandmark.model import LandmarkModel
from hierlandmark.recall import Source
from hierlandmark.results import Answer

# segments that a file holds at least: a query reads the files one after another
SMALLEST = 16


class Trials:
    """What a process does for a plan."""

    def __init__(self, model: LandmarkModel, plan: Plan) -> None:
        self.model, self.plan = model, plan
        self._warm: set[AnyMode] = set()

    def check(self, keys: Sequence[Key]) -> None:
        """Raises as `check_model`, of what is to be run."""
        check_model(self.plan, self.model, keys)

    def prepare(self, folder: Path, filler: str, number: int, length: int, workers: int) -> int:
        """Put a haystack into a folder, and say how many files its segments make; 0 workers: none, nothing is read."""
        seed, task = f"{self.plan.seed}/{filler}/{number}", needles_task(filler)
        text: Callable[[int], str]
        if task is not None:
            text = partial(needles_text, task, seed)
        else:
            text = filler_text(open_filler(GRASS if filler == GRASS else str(self.plan.text)), Random(seed))
        hay = make_haystack(self.model.tokenize, self.model.decode, self.model.cut, text, length)
        np.savez(folder / "haystack.npz", tokens=hay.tokens, cuts=hay.cuts, ends=hay.ends)
        if not workers:
            return 0
        # the first holds an opening, and the last is where the text ends
        pieces = distinct(cut(hay.tokens, np.diff(hay.ends, prepend=0).tolist())[1:-1])
        size = max(SMALLEST, -(-len(pieces) // workers))
        shards = [pieces[start : start + size] for start in range(0, len(pieces), size)]
        for shard, part in enumerate(shards):
            np.savez(folder / f"{shard:03}.npz", tokens=np.concatenate(part), sizes=[len(piece) for piece in part])
        return len(shards)

    def encode(self, folder: Path, shard: int) -> None:
        """Encode one file's segments."""
        with np.load(folder / f"{shard:03}.npz") as held:
            write_segments(folder / f"{shard:03}.db", self.model, cut(held["tokens"], held["sizes"].tolist()))

    def run(
        self, folder: Path, filler: str, task: str, length: int, number: int, modes: Sequence[AnyMode]
    ) -> list[Record]:
        """A trial in some modes, over one memory: a record each.

        A record holds task, filler, length, trial and mode, the share of answers found (`score`, None where the model
        could not be run, `why` saying it), the answer, and what it cost: `steps` forward passes, keys and blocks as in
        `results.Cost`, `keys` scored in all beside `full_keys`, and bytes of keys and values beside `full_bytes`, which
        plain attention would have read of the document in as many steps.

        Trials take turns in which mode comes first, and a process has run each once, untimed, before its first trial:
        what is opened, compiled or cached by whoever comes first is spread over all.
        """
        with np.load(folder / "haystack.npz") as held:
            hay = Haystack(held["tokens"], held["cuts"], held["ends"])
        trial = self.trial(hay, filler, task, length, number)
        document, sizes, room = self.document(hay, trial, length)
        base = {"task": task, "filler": filler, "length": length, "trial": number, "document": len(document)}
        records: list[Record] = []
        shared = SharedSegments(self.model, sorted(folder.glob("*.db")))
        try:
            sources, encoded = None, 0
            first = number % len(modes)
            for mode in (*modes[first:], *modes[:first]):
                record: Record = base | {"mode": mode}
                try:
                    self._warm_up(mode, trial.prompt, length)
                    if mode == "full":
                        record |= self._full(document, trial, length, room)
                    else:
                        if sources is None:
                            sources, encoded = shared.document(document, sizes)
                        record |= self._recalled(sources, trial, mode, room, len(document)) | {"encoded": encoded}
                except torch.OutOfMemoryError:
                    record |= {"score": None, "why": OUT_OF_MEMORY}
                records.append(record)
        finally:
            shared.close()
        return records

    def trial(self, hay: Haystack, filler: str, task: str, length: int, number: int) -> Trial:
        """Drawn from seed, task, length and number; the haystack beyond that length plays no part."""
        among = needles_task(filler) is not None
        text = self.model.decode(hay.tokens[:length].tolist()) if among else None
        return draw_trial(self.plan.seed, task, length, number, text)

    def document(self, hay: Haystack, trial: Trial, length: int) -> tuple[np.ndarray, list[int], int]:
        """Tokens of a trial's document, how many are each segment's, and how many may be made.

        With the question and what may be made they are `length`.
        """
        tokens = tokenize_trial(trial, self.model.tokenize, self.plan.max_new_tokens)
        if length < tokens.length:
            raise InvalidArgument(f"expected a length of at least {tokens.length} tokens, got {length}")
        size = length - len(tokens.prompt) - tokens.room
        return *hay.document(size, tokens.opening, tokens.statements, tokens.closing), tokens.room

    def _warm_up(self, mode: AnyMode, prompt: str, length: int) -> None:
        """A question about nothing, once a process and mode: the weights' and kernels' first use is no trial's."""
        if mode in self._warm or (mode == "full" and self._too_long(length)):
            return
        self._warm.add(mode)
        if mode == "full":
            self.model.complete_full(prompt, max_new_tokens=2)
        else:
            recall = self.model.recall([], self.plan.recall.model_copy(update={"mode": mode}))
            answer(self.model, recall, self.model.tokenize(prompt), max_new_tokens=2)

    def _recalled(self, sources: Sequence[Source], trial: Trial, mode: Any, room: int, document: int) -> Record:
        model, core = self.model, self.model.core
        began = time.perf_counter()
        recall = model.recall(sources, self.plan.recall.model_copy(update={"mode": mode}))
        prompt = model.tokenize(trial.prompt)
        said = answer(model, recall, prompt, max_new_tokens=room, began=began)
        cost, spec = said.cost, model.kv_spec
        # a prompt's last token goes by itself, and a last answer token goes nowhere
        steps = 1 + (len(prompt) > 1) + len(said.tokens) - (len(said.tokens) == room)
        keys = cost.gate_keys + cost.landmark_keys + cost.blocks_read * spec.block_size * spec.kv_heads
        full_keys = steps * core.layers * core.kv_heads * document
        return _said(said, trial) | {
            "steps": steps,
            "gate_keys": cost.gate_keys,
            "landmark_keys": cost.landmark_keys,
            "blocks_read": cost.blocks_read,
            "bytes_read": cost.bytes_read,
            "keys": keys,
            "full_keys": full_keys,
            "full_bytes": full_keys * 2 * spec.head_dim * spec.numpy_dtype.itemsize,
        }

    def _full(self, document: np.ndarray, trial: Trial, length: int, room: int) -> Record:
        if why := self._too_long(length):
            return {"score": None, "why": why}
        text = self.model.decode(document[: len(document) - len(self.model.tokenize(CLOSING))].tolist())
        return _said(self.model.complete_full(f"{text}\n{trial.prompt}", max_new_tokens=room), trial)

    def _too_long(self, length: int) -> str | None:
        """Why the base model is not run on so many tokens."""
        limit = self.model.longest_text
        if limit is None or length <= limit or self.plan.beyond:
            return None
        return f"the base model has {limit} positions"


def _said(said: Answer, trial: Trial) -> Record:
    return {
        "score": trial.score(said.text),
        "text": said.text,
        "answers": list(trial.answers),
        "tokens": len(said.tokens),
        "first_token_ms": said.first_token_s * 1e3,
        "per_token_ms": said.per_token_s * 1e3,
    }
