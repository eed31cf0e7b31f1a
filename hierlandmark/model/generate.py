"""Generation over a memory: token by token, through a local window and what recall reads."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hierlandmark.model.core import LandmarkCore
from hierlandmark.model.window import Window

Choose = Callable[[Tensor, Sequence[int]], int]


@dataclass
class Generation:
    """Tokens made, and seconds from the start to each of them."""

    tokens: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    @property
    def finish_reason(self) -> Literal["stop", "length"]:
        """As in `Answer`: a token that ends it has a time and is none of them."""
        return "stop" if len(self.times) > len(self.tokens) else "length"

    @property
    def per_token_s(self) -> float:
        """Mean seconds of each token after the first, 0 where there is none."""
        steps = np.diff(self.times)
        return float(steps.mean()) if len(steps) else 0.0


def greedy(logits: Tensor, tokens: Sequence[int]) -> int:
    """The best token, whatever was said so far."""
    return int(logits.argmax())


@torch.inference_mode()
def push(core: LandmarkCore, window: Window, tokens: Sequence[int]) -> Tensor:
    """Run content tokens through the window; next-token logits after the last one: (vocabulary,)."""
    step = window.plan(tokens)
    device = core.rows.device
    ids, kinds, positions = (torch.tensor([x], device=device) for x in (step.ids, step.kinds, step.positions))
    hidden = core.hidden(ids, kinds, positions, window)
    return core.logits(hidden[0, -1])


def prefill(core: LandmarkCore, window: Window, tokens: Sequence[int]) -> Tensor:
    """Run a prompt; its last token apart, so that it chooses blocks for itself. Logits as in `push`."""
    if len(tokens) > 1:
        push(core, window, tokens[:-1])
    return push(core, window, tokens[-1:])


def generate(
    core: LandmarkCore,
    make_window: Callable[[], Window],
    keep: Callable[[list[int]], None],
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    stop: set[int],
    choose: Choose = greedy,
    on_token: Callable[[int], None] | None = None,
) -> Generation:
    """Tokens after a prompt, until a stop token.

    A prompt longer than a window, and an answer that outgrows it, go on in a new window: `keep` takes the full one's
    content, and windows made later recall it.

    Args:
        choose: the next token, of logits (vocabulary,) and the tokens made so far.
    """
    began, out = time.perf_counter(), Generation()
    capacity = core.layout.segment_capacity
    # the smallest windows hold a token or two: one of them stays free to go on with
    again = min(core.layout.block_size // 2, capacity - 1)
    # what does not fit into one window is remembered, its last part stays near
    start = len(prompt) - max(1, capacity // 2) if len(prompt) > capacity else 0
    if start:
        keep(list(prompt[:start]))
    window = make_window()
    logits = prefill(core, window, prompt[start:])
    while True:
        token = choose(logits, out.tokens)
        out.times.append(time.perf_counter() - began)
        if token in stop:
            return out
        out.tokens.append(token)
        if on_token:
            on_token(token)
        if len(out.tokens) >= max_new_tokens:
            return out
        if window.room == 0:
            last = window.content
            keep(last)
            window = make_window()
            # a few tokens again, so that the sentence goes on
            if again:
                push(core, window, last[-again:])
        logits = push(core, window, [token])
