"""Text read whole: the untouched base model with fused attention, and the likelihood of text under each attention."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hierlandmark.config import LayoutConfig, Mode, RecallConfig
from hierlandmark.errors import ModelUnavailable
from hierlandmark.layout import Kind, Layout, split_segments
from hierlandmark.loading import without_bars
from hierlandmark.model.core import LandmarkCore
from hierlandmark.model.generate import Generation
from hierlandmark.ops.selected import Counts
from hierlandmark.results import Answer, Cost

if TYPE_CHECKING:
    from hierlandmark.model.landmark_model import LandmarkModel


def load_full(model: "LandmarkModel") -> Any:
    """The base model as it was before any adapter, with torch's fused attention, in the same dtype."""
    from transformers import AutoModelForCausalLM

    if model.load_base is not None:
        full = model.load_base()
        full.set_attn_implementation("sdpa")
        return full.eval().to(model.core.rows.device)
    if model.base_folder is None:
        raise ModelUnavailable("this model was not loaded from a folder, so its untouched base cannot be read again")
    with without_bars():
        full = AutoModelForCausalLM.from_pretrained(
            model.base_folder, dtype=model.core.dtype, attn_implementation="sdpa"
        )
    return full.eval().to(model.core.rows.device)


@torch.inference_mode()
def complete_full(full: Any, model: "LandmarkModel", prompt: str, max_new_tokens: int) -> Answer:
    """Greedy tokens after a prompt that is read whole, with transformers' own cache."""
    began = time.perf_counter()
    ids = torch.tensor([model.tokenize(prompt)], device=full.device)
    out = full(ids, use_cache=True, logits_to_keep=1)
    made = Generation()
    while True:
        token = int(out.logits[0, -1].argmax())
        made.times.append(time.perf_counter() - began)
        if token in model.stop_tokens:
            break
        made.tokens.append(token)
        if len(made.tokens) >= max_new_tokens:
            break
        step = torch.tensor([[token]], device=full.device)
        out = full(step, past_key_values=out.past_key_values, use_cache=True)
    return Answer(
        text=model.decode(made.tokens),
        tokens=made.tokens,
        cost=Cost(ms=(time.perf_counter() - began) * 1e3),
        finish_reason=made.finish_reason,
        first_token_s=made.times[0],
        per_token_s=made.per_token_s,
    )


@torch.inference_mode()
def nll_full(full: Any, tokens: Sequence[int]) -> list[float]:
    """Nats of each token but the first, plain causal attention."""
    ids = torch.tensor([list(tokens)], device=full.device)
    return _nats(full(ids, use_cache=False).logits[0, :-1].float(), ids[0, 1:])


@torch.inference_mode()
def nll_plain(
    model: "LandmarkModel", tokens: Sequence[int], window: int | None, cache: int | None = None
) -> list[float]:
    """Nats of each token but the first: the model with its adapter, plain attention to the last `window` tokens.

    With `cache` in steps of a window, as `ops.banded.banded_attention` says.
    """
    core = model.core
    ids = torch.tensor([list(tokens)], device=core.rows.device)
    return _nats_of_hidden(core, core.hidden_plain(ids, window, cache)[0, :-1], ids[0, 1:])


@torch.inference_mode()
def nll_landmark(
    model: "LandmarkModel",
    tokens: Sequence[int],
    mode: Mode,
    select: RecallConfig | None = None,
    layout: LayoutConfig | None = None,
    counts: Counts | None = None,
) -> list[float]:
    """Nats of each token but the first; every segment looks into all before it, into every block or what it selects."""
    core, device = model.core, model.core.rows.device
    config = layout or core.layout
    grid = Layout.of([list(split_segments(len(tokens), config))], config)
    ids = torch.from_numpy(grid.place([np.asarray(tokens)])).to(device)
    hidden = core.hidden_dense(ids, grid, mode, select=select, counts=counts, recency=model.recency)
    content = torch.from_numpy(grid.kinds == Kind.CONTENT).to(device)
    return _nats_of_hidden(core, hidden[content][:-1], torch.tensor(list(tokens[1:]), device=device))


# tokens whose logits are held at once: 4,096 over 49,152 words are 0.8 GB
_ROWS = 4096


def _nats_of_hidden(core: LandmarkCore, hidden: Tensor, wanted: Tensor) -> list[float]:
    """(n, hidden) and (n,): a long text's logits are made in parts."""
    pairs = zip(hidden.split(_ROWS), wanted.split(_ROWS), strict=True)
    return [x for rows, tokens in pairs for x in _nats(core.logits(rows), tokens)]


def _nats(logits: Tensor, wanted: Tensor) -> list[float]:
    return [float(x) for x in F.cross_entropy(logits, wanted, reduction="none").tolist()]
