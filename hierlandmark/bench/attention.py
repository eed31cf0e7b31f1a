"""The attention's kernels beside torch's fused causal attention and the reference, turn by turn in one process."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hierlandmark.config import LayoutConfig, Mode
from hierlandmark.layout import Layout
from hierlandmark.ops import Impl, landmark_attention

# batch, query heads, key-value heads, width: SmolLM2-135M's, and those of a 7B to 8B model
SHAPES = ((8, 9, 3, 64), (1, 32, 8, 128))
LENGTHS = (2048, 4096, 8192, 16_384, 32_768)
# the reference holds several T x T arrays
LONGEST_REFERENCE = 4096


def bench_attention(
    shapes: Iterable[Sequence[int]] = SHAPES, lengths: Iterable[int] = LENGTHS, *, repeats: int = 20
) -> Iterator[dict[str, Any]]:
    """Forward and backward in bf16, every segment full and reading all before it: one result a shape and length.

    Returns:
        Medians in milliseconds, peak memory in MB beyond what was there before, and ratios to torch's causal attention
        (over 1: slower, larger).
    """
    for batch, heads, kv_heads, width in shapes:
        for length in lengths:
            config = LayoutConfig()
            layout = Layout.of([[config.segment_capacity] * (length // config.segment_size)] * batch, config)
            tensors = [_random(batch, h, length, width) for h in (heads, heads, kv_heads, kv_heads)]
            grad = _random(batch, heads, length, width)
            ways: dict[str, Callable[..., Tensor]] = {
                "sdpa": lambda q, far, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True),
                "hierarchical": _landmarks(layout, "hierarchical", "fused"),
                "flat": _landmarks(layout, "flat", "fused"),
            }
            few = dict(ways)
            if length <= LONGEST_REFERENCE:
                # one text of the batch: its arrays are T x T for every head
                one = Layout.of([[config.segment_capacity] * (length // config.segment_size)], config)
                few["reference"] = _landmarks(one, "hierarchical", "reference")
            row: dict[str, Any] = {"shape": f"B{batch}-T{length}-H{heads}/{kv_heads}-D{width}"}
            times: dict[str, list[float]] = {name: [] for name in few}
            forward: dict[str, list[float]] = {name: [] for name in few}
            for turn in range(repeats + 3):
                for name, attend in few.items():
                    if name == "reference" and turn % 5:
                        continue
                    share = 1 if name != "reference" else batch
                    part = [x[: batch // share] for x in tensors]
                    taken = _once(attend, part, grad[: batch // share])
                    if turn >= 3 or (name == "reference" and turn):
                        forward[name].append(taken[0] * share)
                        times[name].append(taken[1] * share)
            for name in few:
                row[f"{name}_ms"] = round(median(times[name]), 3)
                row[f"{name}_forward_ms"] = round(median(forward[name]), 3)
            memory = {name: _peak(attend, tensors, grad) for name, attend in ways.items()}
            for name in ways:
                row[f"{name}_mb"] = round(memory[name], 1)
                if name != "sdpa":
                    row[f"{name}_over_sdpa"] = round(row[f"{name}_ms"] / row["sdpa_ms"], 3)
                    row[f"{name}_memory_over_sdpa"] = round(memory[name] / memory["sdpa"], 3)
            if "reference" in few:
                row["reference_over_hierarchical"] = round(row["reference_ms"] / row["hierarchical_ms"], 1)
            yield row


def _landmarks(layout: Layout, mode: Mode, impl: Impl) -> Callable[..., Tensor]:
    return lambda q, far, k, v: landmark_attention(q, k, v, layout, mode=mode, q_far=far, impl=impl)


def _random(batch: int, heads: int, length: int, width: int) -> Tensor:
    # heads beside each other in memory, as projections leave them
    return torch.randn(batch, length, heads, width, device="cuda", dtype=torch.bfloat16).transpose(1, 2)


def _once(attend: Callable[..., Tensor], tensors: Sequence[Tensor], grad: Tensor) -> tuple[float, float]:
    """Milliseconds of the forward pass, and of both."""
    leaves = [x.detach().requires_grad_() for x in tensors]
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
    marks[0].record()
    out = attend(*leaves)
    marks[1].record()
    torch.autograd.grad(out, leaves, grad, allow_unused=True)
    marks[2].record()
    torch.cuda.synchronize()
    return marks[0].elapsed_time(marks[1]), marks[0].elapsed_time(marks[2])


def _peak(attend: Callable[..., Tensor], tensors: Sequence[Tensor], grad: Tensor) -> float:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    _once(attend, tensors, grad)
    return (torch.cuda.max_memory_allocated() - before) / 2**20
