"""Milliseconds of steps that follow one another, on the device that torch runs them on."""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

import torch

Steps = Sequence[Callable[[], Any]]
# launches of the first turns compile
WARM_UP = 3
# cycles, about 6 ms
_HEAD_START = 10_000_000


class Way(NamedTuple):
    """One way to do the same work: its steps, and how many turns of the others it sits out between two of its own."""

    steps: Steps
    rests: int = 0


def timed(steps: Steps) -> list[float]:
    """Milliseconds of each step, in the order they run."""
    if not torch.cuda.is_available():
        marks = [time.perf_counter()]
        for step in steps:
            step()
            marks.append(time.perf_counter())
        return [(after - before) * 1e3 for before, after in pairwise(marks)]
    # the device waits a little, so that launches are queued before it needs them: its work is timed, not the host's
    torch.cuda._sleep(_HEAD_START)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(len(steps) + 1)]
    events[0].record()
    for step, event in zip(steps, events[1:], strict=True):
        step()
        event.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in pairwise(events)]


def medians(ways: Mapping[str, Way], repeats: int) -> dict[str, list[float]]:
    """Medians of each way's steps, all ways in turn, so that a slow moment of the machine falls on all."""
    times: dict[str, list[list[float]]] = {name: [] for name in ways}
    for turn in range(repeats + WARM_UP):
        for name, way in ways.items():
            if turn % (way.rests + 1):
                continue
            times[name].append(timed(way.steps))
    # one that rests runs so seldom that only its first turn is left out, if there are others
    kept = {name: times[name][1 if way.rests else WARM_UP :] or times[name] for name, way in ways.items()}
    return {name: [median(step) for step in zip(*taken, strict=True)] for name, taken in kept.items()}
