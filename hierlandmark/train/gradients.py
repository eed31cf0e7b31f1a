"""`python -m hierlandmark.train.gradients`: gradients of one real batch on this device beside exact ones.

A run that blows up may have a wrong kernel, or rounding that grows from layer to layer. The first is looked for in each
layer's attention, with the activations and the output gradients of a real batch, against the reference in fp64; the
second in the gradients of all trained tensors, against the same network in fp32.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hierlandmark.config import LayoutConfig, Mode
from hierlandmark.model.adapter import Adapter
from hierlandmark.model.base import default_base
from hierlandmark.model.core import LandmarkCore
from hierlandmark.model.dense import far_queries
from hierlandmark.model.prompts import ask_prompt
from hierlandmark.ops import Impl, landmark_attention
from hierlandmark.train.checkpoint import trained_tensors
from hierlandmark.train.corpus import build_corpus
from hierlandmark.train.episodes import Batch, Shape, build_batch
from hierlandmark.train.loop import retrieval_heads
from hierlandmark.train.loss import batch_loss
from hierlandmark.train.run import load_trainable, start_from
from hierlandmark.train.tokens import read_tokens


def check_attention(core: LandmarkCore, batch: Batch, mode: Mode, impls: Sequence[Impl]) -> Iterator[dict[str, Any]]:
    """Each layer's attention, with what the network gives it: errors against the fp64 reference.

    Returns:
        One row a layer and implementation: `rms`, the root mean square of the error over that of the exact tensor, for
        the output and the gradients of q, q_far, k and v.
    """
    calls: list[dict[str, Any]] = []
    hidden = core.hidden
    # this network's forward pass alone is listened to
    core.hidden = lambda ids, kinds, places, attend: hidden(ids, kinds, places, _Recorder(attend, calls))  # type: ignore[method-assign,assignment]
    try:
        gradients(core, batch, mode)
    finally:
        del core.hidden
    for layer, call in enumerate(calls):
        exact = _attend(call, batch, mode, "reference", torch.float64)
        for impl in impls:
            actual = _attend(call, batch, mode, impl, None)
            errors = {
                name: float((a.double() - e).square().mean().sqrt() / e.square().mean().sqrt().clamp_min(1e-30))
                for name, a, e in zip(("out", "dq", "dq_far", "dk", "dv"), actual, exact, strict=True)
            }
            yield {"layer": layer, "impl": impl, "mode": mode, "rms": {n: round(x, 6) for n, x in errors.items()}}


@dataclass
class _Recorder:
    """Attends as `inner` does, and keeps what it was given and the gradient of what it gave."""

    inner: Any
    calls: list[dict[str, Any]]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """See `Attend.attend`."""
        with torch.no_grad():
            near, far, keys = far_queries(q, k, v, *self.inner.angles(layer, q.device))
        call: dict[str, Any] = {"tensors": [near, far, keys, v.detach()], "scale": scale}
        out: Tensor = self.inner.attend(layer, q, k, v, scale)
        out.register_hook(lambda grad: call.update(grad=grad.detach()))
        self.calls.append(call)
        return out


def gradients(core: LandmarkCore, batch: Batch, mode: Mode) -> dict[str, Tensor]:
    """Gradient of the loss for every trained tensor, fp32 on the CPU, computed as in a training step."""
    core.zero_grad(set_to_none=True)
    device = core.rows.device.type
    with (
        torch.compiler.set_stance("force_eager"),
        torch.autocast(device, dtype=torch.bfloat16, enabled=core.dtype == torch.bfloat16),
    ):
        loss, _ = batch_loss(core, batch, mode, retrieval_heads(core, 6), 1.0)
        loss.backward()
    return {name: p.grad.float().cpu() for name, p in trained_tensors(core).items() if p.grad is not None}


def compare(actual: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """Cosines and norm ratios over tensors, those left out whose exact gradient is 0, as B's is before any step."""
    # no gradient at all counts as zeros
    found = {name: actual.get(name, torch.zeros_like(grad)) for name, grad in exact.items()}
    known = [name for name, grad in exact.items() if bool(grad.any())]
    cosines = {name: float(F.cosine_similarity(found[name].flatten(), exact[name].flatten(), 0)) for name in known}
    ratios: list[float] = [float(found[name].norm() / exact[name].norm()) for name in known]
    return {
        "cosine_median": round(median(cosines.values()), 5),
        "cosine_worst": round(min(cosines.values()), 5),
        "norm_ratio_median": round(median(ratios), 4),
        "norm_ratio_worst": round(float(max(ratios, key=_off_one)), 4),
    }


def _off_one(ratio: float) -> float:
    return max(ratio, 1 / max(ratio, 1e-9))


def _attend(call: dict[str, Any], batch: Batch, mode: Mode, impl: Impl, dtype: torch.dtype | None) -> list[Tensor]:
    leaves = [x.detach().to(dtype or x.dtype).requires_grad_() for x in call["tensors"]]
    q, q_far, k, v = leaves
    out = landmark_attention(q, k, v, batch.layout, mode=mode, scale=call["scale"], q_far=q_far, impl=impl, finite=True)
    return [out.detach(), *torch.autograd.grad(out, leaves, call["grad"].to(out.dtype))]


def main() -> None:
    """Print one line of JSON for each layer's attention, and one for each way of computing the whole network."""
    parser = argparse.ArgumentParser(prog="python -m hierlandmark.train.gradients", description=main.__doc__)
    parser.add_argument("--text", type=Path, nargs="*", default=[])
    parser.add_argument("--chats", type=Path, nargs="*", default=[])
    parser.add_argument("--init", type=Path, help="adapter to start from; else a fresh one")
    parser.add_argument("--segments", type=int, default=8, help="of the one text, two readers among them")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    start = Adapter.load(given.init) if given.init else None
    layout = start.meta.layout if start else LayoutConfig()
    where = str(default_base())

    def load(device: str) -> tuple[LandmarkCore, Any]:
        # a fresh adapter is the same in both networks
        torch.manual_seed(0)
        core, tokenizer, _ = load_trainable(where, layout, 16, device)
        if start:
            start_from(core, start.weights)
        return core.train(), tokenizer

    core, tokenizer = load(given.device)
    read, talks = read_tokens(tokenizer, given.text, given.chats)
    corpus = build_corpus(read, tokenizer, lambda question: ask_prompt(tokenizer, question), talks)
    # only a text in order knows recency
    recency = start.meta.recency if start is not None else 0
    shape = Shape(1, given.segments, 0) if recency else Shape(1, given.segments - 2, 2)
    batch = build_batch(corpus, layout, shape, np.random.default_rng(0), recency=recency)
    ways: list[Impl] = ["fused", "blockwise"] if given.device.startswith("cuda") else ["blockwise"]
    modes: list[Mode] = ["hierarchical", "flat"]
    for mode in modes:
        for row in check_attention(core, batch, mode, ways):
            _print(row)
    # fp32 in all of it: what `load` makes for a CPU
    exact = gradients(load("cpu")[0].to(given.device), batch, "hierarchical")
    _print({"network": "as trained", **compare(gradients(core, batch, "hierarchical"), exact)})
    core.residual_dtype = core.dtype
    _print({"network": "hidden states in the weights' dtype", **compare(gradients(core, batch, "hierarchical"), exact)})


def _print(row: dict[str, Any]) -> None:
    json.dump(row, sys.stdout)
    sys.stdout.write("\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
