"""`python -m hierlandmark.train.calibrate`: choose which heads vote in a search, and write them into an adapter.

Every head of the network is tried as a retriever of messages on chats with known evidence (`train.links`). Heads are
added one by one, each time the one that helps most beside those chosen (ensemble selection with replacement, Caruana et
al. 2004: a head that is taken twice votes with a weight of two). The choice is made on two thirds of the chats; what it
is worth is told on the others.

H heads of all layers together, G segments, N blocks.
"""

import argparse
import json
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hierlandmark.errors import HierLandmarkError, InvalidArgument
from hierlandmark.layout import Layout, gate_position, landmark_positions, split_blocks
from hierlandmark.model import LandmarkModel, RetrievalHead
from hierlandmark.model.adapter import META_FILE, Adapter
from hierlandmark.model.core import LandmarkCore
from hierlandmark.model.encode import BATCH
from hierlandmark.model.generate import push
from hierlandmark.model.prompts import search_prompt
from hierlandmark.ops.segments import segment_attention
from hierlandmark.train.corpus import Corpus, build_corpus
from hierlandmark.train.links import Linked, QueryKind, linked_memory
from hierlandmark.train.tokens import read_tokens

# messages that a ranking is judged by
_TOP = 10
# heads that are tried beside those chosen: the best ones alone
_POOL = 64
# the share of segments that gates open in the hierarchical ranking, as a search does in a memory of eighty
_OPENED = 4


@dataclass(frozen=True)
class Case:
    """A query, every head's votes, and the messages that answer it."""

    kind: QueryKind
    votes: np.ndarray  # (H, N), each head's mass of 1 over all landmarks
    gates: np.ndarray  # (H, G), over all gates
    segment: np.ndarray  # (N,) of each block
    # a message's parts in blocks, message by message: the block, and the root of the share of its tokens
    block: np.ndarray
    root: np.ndarray
    starts: np.ndarray  # (messages,) first part of each
    relevant: np.ndarray


Score = tuple[np.ndarray, np.ndarray]


def judge(case: Case, votes: np.ndarray, gates: np.ndarray) -> Score:
    """Recall@10 and reciprocal rank of C rankings, each the mean of the flat and the hierarchical one: (C,), (C,).

    Recall is of as many messages as could be found: evidence of thirty messages may fill all ten places.

    Args:
        votes: (C, N) summed votes of C choices of heads.
        gates: (C, G) of the same.
    """
    n_open = -(-gates.shape[1] // _OPENED)
    least = -np.partition(-gates, n_open - 1, axis=1)[:, n_open - 1 : n_open]
    both = []
    for blocks in (votes, np.where((gates >= least)[:, case.segment], votes, 0.0)):
        scores = np.maximum.reduceat(blocks[:, case.block] * case.root, case.starts, axis=1)  # (C, messages)
        found = scores[:, case.relevant]
        top = min(_TOP, scores.shape[1])
        bar = -np.partition(-scores, top - 1, axis=1)[:, top - 1 : top]
        recall = ((found >= bar) & (found > 0)).sum(1) / min(top, len(case.relevant))
        best = found.max(1, keepdims=True)
        # what no opened block holds stands behind everything
        rank = np.where(best[:, 0] > 0, 1 + (scores > best).sum(1), scores.shape[1])
        both.append((np.minimum(recall, 1.0), 1.0 / rank))
    return (both[0][0] + both[1][0]) / 2, (both[0][1] + both[1][1]) / 2


def choose_heads(cases: Sequence[Case], count: int, allowed: Sequence[int]) -> dict[int, float]:
    """Heads (of H) and their weights: `count` picks from those allowed, kinds of queries counting alike.

    Raises:
        InvalidArgument: no case.
    """
    if not cases:
        raise InvalidArgument("expected queries to choose heads by; the chats hold none")
    heads = np.asarray(allowed)
    alone = _worth(cases, [(case.votes[heads], case.gates[heads]) for case in cases])
    heads = heads[np.argsort(-alone, kind="stable")[:_POOL]]
    votes = [np.zeros_like(case.votes[:1]) for case in cases]
    gates = [np.zeros_like(case.gates[:1]) for case in cases]
    picks: list[int] = []
    for _ in range(count):
        tried = [(v + c.votes[heads], g + c.gates[heads]) for c, v, g in zip(cases, votes, gates, strict=True)]
        best = int(heads[int(np.argmax(_worth(cases, tried)))])
        picks.append(best)
        for case, vote, gate in zip(cases, votes, gates, strict=True):
            vote += case.votes[best]
            gate += case.gates[best]
    return {head: float(times) for head, times in sorted(Counter(picks).items())}


def report(cases: Sequence[Case], weights: dict[int, float]) -> dict[str, dict[str, float]]:
    """Recall@10, MRR and number of queries of each kind for some heads, and their means over kinds."""
    heads, weight = list(weights), np.asarray(list(weights.values()))[:, None]
    rows: dict[str, list[tuple[float, float]]] = {}
    for case in cases:
        sums = ((weight * x[heads]).sum(0, keepdims=True) for x in (case.votes, case.gates))
        recall, reciprocal = judge(case, *sums)
        rows.setdefault(case.kind, []).append((float(recall[0]), float(reciprocal[0])))
    out = {
        kind: {"recall@10": fmean(r for r, _ in row), "mrr": fmean(m for _, m in row), "queries": float(len(row))}
        for kind, row in sorted(rows.items())
    }
    out["mean"] = {name: fmean(row[name] for row in out.values()) for name in ("recall@10", "mrr")}
    return out


def _worth(cases: Sequence[Case], tried: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Mean of recall@10 and reciprocal rank, over queries of a kind, then over kinds: (C,)."""
    kinds: dict[str, list[np.ndarray]] = {}
    for case, (votes, gates) in zip(cases, tried, strict=True):
        kinds.setdefault(case.kind, []).append(np.add(*judge(case, votes, gates)) / 2)
    return np.mean([np.mean(row, axis=0) for row in kinds.values()], axis=0)  # type: ignore[no-any-return]


def make_cases(
    model: LandmarkModel,
    corpus: Corpus,
    *,
    memories: int,
    segments: int,
    queries: int,
    rng: np.random.Generator,
    progress: Callable[[int], None] | None = None,
) -> list[Case]:
    """Encode memories of chats with known evidence, and let every head vote on their queries.

    Args:
        segments: of each memory.
        queries: of each memory, at most.
        progress: called after each memory with the number of cases so far.
    """
    cases: list[Case] = []
    for _ in range(memories):
        made = linked_memory(corpus, [model.layout.segment_capacity] * segments, rng, most=queries)
        if made is not None:
            cases += _cases(model, made)
        if progress:
            progress(len(cases))
    return cases


@torch.inference_mode()
def _cases(model: LandmarkModel, made: Linked) -> list[Case]:
    core, layout = model.core, model.layout
    landmarks, gates = _past_keys(core, made.segments)
    counts = [split_blocks(len(segment), layout) for segment in made.segments]
    content = np.concatenate(counts)
    home = np.repeat(np.arange(len(content)), content)
    parts = [np.unique(home[first:last], return_counts=True) for first, last in made.spans]
    shared: dict[str, Any] = {
        "segment": np.repeat(np.arange(len(counts)), [len(one) for one in counts]),
        "block": np.concatenate([blocks for blocks, _ in parts]),
        "root": np.concatenate([(taken / content[blocks]) ** 0.5 for blocks, taken in parts]).astype(np.float32),
        "starts": np.cumsum([0, *(len(blocks) for blocks, _ in parts)])[:-1],
    }
    out = []
    for query in made.queries:
        window = model.window(None, collect=True)
        push(core, window, search_prompt(model.tokenizer, query.text)[-layout.segment_capacity :])
        # what `Memory.search` votes with: the last token's queries, turned to look into other segments
        q = torch.stack([one[:, -1] for one in window.queries or []])  # (L, H, D)
        votes, gate_votes = (_votes(q, keys, window.scale) for keys in (landmarks, gates))
        out.append(Case(query.kind, votes, gate_votes, relevant=np.asarray(query.where), **shared))
    return out


def _votes(q: Tensor, keys: Tensor, scale: float) -> np.ndarray:
    """(L, H, D) and (L, H_kv, n, D) -> each head's softmax (L * H, n)."""
    L, H_kv, _, D = keys.shape
    logits = q.view(L, H_kv, -1, D) @ keys.transpose(-1, -2) * scale
    return logits.softmax(-1).flatten(0, 2).numpy()  # type: ignore[no-any-return]


class _Past:
    """Attention over segments on their own that keeps the keys of landmarks and gates."""

    def __init__(self, layout: Layout, landmarks: Tensor, gates: Tensor) -> None:
        self.layout, self.landmarks, self.gates = layout, landmarks, gates
        self.kept: list[tuple[Tensor, Tensor]] = []

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """See `Attend.attend`."""
        flat = k.transpose(1, 2).flatten(0, 1)  # (B * P, H_kv, D)
        self.kept.append((flat[self.landmarks].float().cpu(), flat[self.gates].float().cpu()))
        return segment_attention(q, k, v, self.layout, scale=scale)


def _past_keys(core: LandmarkCore, segments: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Landmark and gate keys of segments encoded on their own, rotated: (L, H_kv, N, D) and (L, H_kv, G, D) fp32."""
    found: list[list[tuple[Tensor, Tensor]]] = []
    device, size = core.rows.device, core.layout.segment_size
    for first in range(0, len(segments), BATCH):
        some = segments[first : first + BATCH]
        layout = Layout.of([[len(tokens)] for tokens in some], core.layout)
        counts = [split_blocks(len(tokens), core.layout) for tokens in some]
        at = [landmark_positions(one, core.layout) + b * size for b, one in enumerate(counts)]
        ends = [gate_position(one, core.layout) + b * size for b, one in enumerate(counts)]
        past = _Past(layout, torch.from_numpy(np.concatenate(at)).to(device), torch.tensor(ends, device=device))
        ids = torch.from_numpy(layout.place(list(some))[:, 0]).to(device)
        positions = torch.arange(size, device=device).expand_as(ids)
        core.hidden(ids, torch.from_numpy(layout.kinds[:, 0]).to(device), positions, past)
        found.append(past.kept)
    landmarks, gates = (
        torch.stack([torch.cat([kept[layer][i] for kept in found]) for layer in range(core.layers)]).transpose(1, 2)
        for i in (0, 1)
    )
    return landmarks, gates


def split_chats(corpus: Corpus, rng: np.random.Generator) -> tuple[Corpus, Corpus]:
    """Two thirds of the chats of every kind, and the others; a kind with a single chat has it in the first part."""
    kinds: dict[tuple[bool, bool], list[Any]] = {}
    for i in rng.permutation(len(corpus.chats)):
        chat = corpus.chats[i]
        kinds.setdefault((bool(chat.questions), bool(chat.links)), []).append(chat)
    chosen = [chat for chats in kinds.values() for chat in chats[: -(-2 * len(chats) // 3)]]
    others = [chat for chats in kinds.values() for chat in chats[-(-2 * len(chats) // 3) :]]
    return replace(corpus, chats=chosen), replace(corpus, chats=others)


def calibrate(
    adapter: Path,
    chats: Sequence[Path],
    *,
    base: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    count: int = 18,
    memories: int = 36,
    segments: int = 40,
    queries: int = 24,
    deepest: int | None = None,
    seed: int = 0,
    write: bool = True,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Choose the heads of an adapter that vote, and write them into it where they beat its own on chats held out.

    Args:
        adapter: its folder. Weights stay as they are, so memories made with it stay valid.
        chats: chat files to choose by; never those that results are reported on.
        count: picks; a head may be picked more than once.
        memories: encoded for the choice, and half as many to judge it.
        deepest: the last layer whose heads may be chosen, of those that look into a memory; by default all of these.
        write: False leaves the adapter as it is.

    Returns:
        Heads before and after, figures of both on chats held out, and whether they were written.

    Raises:
        InvalidArgument: chats too few to hold some out, or without anything to ask for; search has its own weights;
            or no layer that looks into a memory is so low.
    """
    model = LandmarkModel.from_pretrained(base, adapter=adapter, device=device, dtype=dtype)
    if model.searcher is not None:
        searched, init = model.search_layers, shlex.quote(str(adapter))
        words = f"--init {init} --search-share 1 --search-layers {','.join(map(str, searched))}"
        raise InvalidArgument(
            f"the adapter at {str(adapter)!r} has weights of search, trained with the heads that it names",
            python=f"train these on instead (`train_adapter` with init, search_share=1, search_layers={searched})",
            command=f"train these on instead (`hierlandmark train {words}`)",
        )
    # a memory keeps keys of these
    known = model.core.memory_layers
    if deepest is not None and deepest < known[0]:
        raise InvalidArgument(f"expected deepest to be {known[0]} or more, the lowest that is kept, got {deepest!r}")
    _, talks = read_tokens(model.tokenizer, [], chats)
    corpus = build_corpus({}, model.tokenizer, model.ask_prompt, talks)
    rng = np.random.default_rng(seed)
    chosen_by, held_out = split_chats(corpus, rng)
    if not held_out.chats:
        raise InvalidArgument(f"expected at least two chats of a kind, so that one can be held out, got {len(talks)}")
    options: dict[str, Any] = {"segments": segments, "queries": queries, "rng": rng, "progress": progress}
    fit = make_cases(model, chosen_by, memories=memories, **options)
    test = make_cases(model, held_out, memories=-(-memories // 2), **options)
    if not test:
        raise InvalidArgument("expected queries on the chats that are held out; they have none")
    H = model.core.heads
    layers = model.core.layers if deepest is None else min(deepest + 1, model.core.layers)
    weights = choose_heads(fit, count, [layer * H + h for layer in known if layer < layers for h in range(H)])
    own = {head.layer * H + head.head: head.weight for head in model.retrieval}
    before = own or dict.fromkeys([layer * H + h for layer in known for h in range(H)], 1.0)
    heads = [RetrievalHead(layer=head // H, head=head % H, weight=weight) for head, weight in weights.items()]
    told = {"before": report(test, before), "after": report(test, weights)}
    better = sum(told["after"]["mean"].values()) > sum(told["before"]["mean"].values())
    found: dict[str, Any] = {
        "heads": [head.model_dump() for head in heads],
        "heads_before": [head.model_dump() for head in model.retrieval],
        "held_out": told,
        "chosen_on": report(fit, weights),
        "written": better and write,
    }
    if found["written"]:
        _write(adapter, heads, {"chats": [path.name for path in chats], "seed": seed, "held_out": told})
    return found


def _write(folder: Path, heads: Sequence[RetrievalHead], note: dict[str, Any]) -> None:
    meta = Adapter.load(folder).meta
    training = {**meta.training, "calibration": note}
    meta = meta.model_copy(update={"retrieval": tuple(heads), "training": training})
    scratch = folder / f"{META_FILE}.new"
    scratch.write_text(meta.model_dump_json(indent=2) + "\n")
    scratch.replace(folder / META_FILE)


def main(argv: Sequence[str] | None = None) -> None:
    """Choose the heads that vote in a search on chats with known evidence; one line of JSON on standard output."""
    parser = argparse.ArgumentParser(prog="python -m hierlandmark.train.calibrate", description=main.__doc__)
    parser.add_argument("--adapter", type=Path, required=True, help="folder whose hierlandmark.json is written")
    parser.add_argument("--chats", type=Path, action="append", required=True, help="chat file; may be repeated")
    parser.add_argument("--model", help="base model; the default one if not given")
    parser.add_argument("--device", help="cpu or cuda; cpu if not given")
    parser.add_argument("--dtype", help="of the weights")
    parser.add_argument("--heads", type=int, default=18, help="picks; a head may be picked more than once")
    parser.add_argument("--memories", type=int, default=36, help="memories to choose by, half as many to judge")
    parser.add_argument("--segments", type=int, default=40, help="segments of a memory")
    parser.add_argument("--queries", type=int, default=24, help="queries of a memory")
    parser.add_argument("--deepest", type=int, help="last layer whose heads may be chosen")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="leave the adapter as it is")
    given = parser.parse_args(argv)

    begun = False

    def show(cases: int) -> None:
        nonlocal begun
        begun = True
        sys.stderr.write(f"\r{cases} queries")
        sys.stderr.flush()

    try:
        try:
            found = calibrate(
                given.adapter, given.chats, base=given.model, device=given.device, dtype=given.dtype, count=given.heads,
                memories=given.memories, segments=given.segments, queries=given.queries, deepest=given.deepest,
                seed=given.seed, write=not given.keep, progress=show,
            )  # fmt: skip
        finally:
            # what is told stands on a line of its own
            if begun:
                sys.stderr.write("\n")
    except HierLandmarkError as error:
        parser.exit(2, f"{type(error).__name__}: {error.on_command_line}\n")
    json.dump(found, sys.stdout)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
