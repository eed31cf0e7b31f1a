"""Attention to chosen blocks beside torch's dense causal attention, forward; its kernels' settings by time."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from hierlandmark.bench.attention import SHAPES, Problem, Shape, causal, flash
from hierlandmark.bench.timing import Way, medians
from hierlandmark.config import Mode
from hierlandmark.ops.fused import Tile
from hierlandmark.ops.sparse import LAUNCHES, Chosen, Launch, Near, Sparse, landmark_attention_sparse

LENGTHS = (4096, 8192, 16_384, 32_768)
MODES: tuple[Mode, ...] = ("hierarchical", "flat")
# what `sweep` tries: queries of a program (near), candidates together, heads stacked (chosen); warps; stages
SETTINGS = {
    "near": ((64, 4, 3), (128, 4, 2), (128, 4, 3), (128, 8, 3)),
    "candidates": ((32, 4, 2), (64, 4, 1), (64, 4, 2), (64, 4, 3), (128, 4, 2), (128, 8, 2)),
    "landmarks": ((1, 2, 2), (1, 4, 1), (1, 4, 2), (1, 4, 3)),
    "chosen": ((1, 4, 2), (1, 4, 3), (1, 4, 5), (2, 4, 3), (2, 8, 2), (2, 8, 3), (2, 8, 5), (4, 8, 3)),
}


def bench_recall(
    shapes: Iterable[Shape] = SHAPES,
    lengths: Iterable[int] = LENGTHS,
    *,
    segments: int = 8,
    blocks: int = 16,
    repeats: int = 20,
) -> Iterator[dict[str, Any]]:
    """Forward in bf16, every segment full and able to read all before it: one result a shape, length and mode.

    Returns:
        Medians in milliseconds: the whole call; on a GPU its parts (attention to the window, selection, attention to
        what was chosen); torch's causal attention by its own choice, and on a GPU by its flash back end; and how many
        times faster the whole call is than each.
    """
    lengths = list(lengths)
    for shape in shapes:
        for length in lengths:
            for mode in MODES:
                yield _row(shape, length, mode, segments, blocks, repeats)


def _row(shape: Shape, length: int, mode: Mode, segments: int, blocks: int, repeats: int) -> dict[str, Any]:
    problem = Problem.of(shape, length)
    q, far, k, v = problem.tensors

    def recall() -> Tensor:
        return landmark_attention_sparse(
            q, k, v, problem.layout, mode=mode, q_far=far, segments=segments, blocks=blocks
        )

    ways = {"recall": Way([recall]), "sdpa": Way([lambda: causal(q, far, k, v)])}
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        ways["flash"] = Way([lambda: flash(*problem.tensors)])
        ways["parts"] = Way(_parts(problem, mode, segments, blocks))
    with torch.no_grad():
        taken = medians(ways, repeats)
    row: dict[str, Any] = {
        "what": "recall", "shape": shape.named(length), "mode": mode, "segments": segments, "blocks": blocks,
    }  # fmt: skip
    parts = taken.pop("parts", None)
    row |= {f"{name}_forward_ms": round(each[0], 3) for name, each in taken.items()}
    if parts:
        row |= {"recall_selection_ms": round(parts[1], 3), "recall_attention_ms": round(parts[0] + parts[2], 3)}
        row |= {"recall_near_ms": round(parts[0], 3), "recall_chosen_ms": round(parts[2], 3)}
    return row | {
        f"{name}_over_recall": round(taken[name][0] / taken["recall"][0], 3) for name in taken if name != "recall"
    }


def _parts(problem: Problem, mode: Mode, segments: int, blocks: int) -> list[Any]:
    """Three steps that hand each other their results."""
    q, far, k, v = problem.tensors
    work: list[Any] = []

    def near() -> None:
        work.clear()
        sparse = Sparse(problem.layout, far, k, v, mode, q.shape[-1] ** -0.5)
        work.extend((sparse, sparse.near(q)))

    return [
        near,
        lambda: work.append(work[0].choose(work[1].lse, segments, blocks, 0.0)),
        lambda: work[0].attend(work[1], work[2]),
    ]


def sweep(
    shapes: Iterable[Shape] = SHAPES,
    lengths: Iterable[int] = (32_768,),
    *,
    segments: int = 8,
    blocks: int = 16,
    repeats: int = 10,
) -> Iterator[dict[str, Any]]:
    """Milliseconds of each kernel by how it is compiled; one that does not fit the GPU says why. Needs a GPU.

    Returns:
        A result for each kernel and setting, the ones in use marked, then for each kernel the fastest.
    """
    lengths = list(lengths)
    for shape in shapes:
        for length in lengths:
            for mode in MODES:
                problem = Problem.of(shape, length)
                name = {"what": "sweep", "shape": shape.named(length), "mode": mode}
                for row in _sweep(problem, mode, segments, blocks, repeats):
                    yield name | row


def _sweep(problem: Problem, mode: Mode, segments: int, blocks: int, repeats: int) -> Iterator[dict[str, Any]]:
    q, far, k, v = problem.tensors
    scale, used = q.shape[-1] ** -0.5, LAUNCHES[q.shape[-1] > 64]
    work = Sparse(problem.layout, far, k, v, mode, scale)
    near = work.near(q)
    chosen = work.choose(near.lse, segments, blocks, 0.0)
    yield {"kernel": "choose", "ms": _time(lambda: work.choose(near.lse, segments, blocks, 0.0), repeats)}
    for kernel, settings in SETTINGS.items():
        if kernel == "landmarks" and mode == "flat":
            continue
        best, fastest = math.inf, settings[0]
        for setting in settings:
            other = Sparse(problem.layout, far, k, v, mode, scale, {**used, kernel: Launch(*setting)})
            row: dict[str, Any] = {"kernel": kernel, "setting": setting}
            if used.get(kernel) == setting:
                row["in_use"] = True
            try:
                row["ms"] = _time(lambda: _one(other, kernel, setting, q, near, chosen), repeats)  # noqa: B023
            except Exception as error:
                # triton names its own: registers or shared memory beyond what there is
                row["error"] = str(error)
            else:
                if row["ms"] < best:
                    best, fastest = row["ms"], setting
            yield row
        yield {"kernel": kernel, "fastest": fastest, "ms": best}


def _one(work: Sparse, kernel: str, setting: tuple[int, int, int], q: Tensor, near: Near, chosen: Chosen) -> None:
    """One kernel, with all that another left. Attention adds to the same output each time: its values mean nothing."""
    if kernel == "near":
        work.near(q, Tile(*setting))
    elif kernel == "candidates":
        work.candidates(near.lse, 0.0)
    elif kernel == "landmarks":
        work.landmarks(chosen.segments, chosen.total)
    else:
        work.attend(near, chosen)


def _time(run: Any, repeats: int) -> float:
    with torch.no_grad():
        return round(medians({"": Way([run])}, repeats)[""][0], 4)
