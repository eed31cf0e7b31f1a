"""The attention's kernels beside torch's fused causal attention and the reference, turn by turn in one process."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hierlandmark.bench.timing import Way, medians, timed
from hierlandmark.config import LayoutConfig, Mode
from hierlandmark.layout import Layout
from hierlandmark.ops import Impl, landmark_attention

LENGTHS = (2048, 4096, 8192, 16_384, 32_768)
# the reference holds several T x T arrays
LONGEST_REFERENCE = 4096
Attention = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Shape(NamedTuple):
    """Texts, query heads, key-value heads, head width."""

    batch: int
    heads: int
    kv_heads: int
    width: int

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """Of a text like B8-H9/3-D64.

        Raises:
            ValueError: it is not such a text, or 3 does not divide 9.
        """
        found = re.fullmatch(r"B(\d+)-H(\d+)/(\d+)-D(\d+)", text)
        if not found or not int(found[3]) or int(found[2]) % int(found[3]):
            raise ValueError(f"expected a shape like B8-H9/3-D64, got {text!r}")
        return cls(*map(int, found.groups()))

    def named(self, length: int) -> str:
        """With the number of positions, as rows name it."""
        return f"B{self.batch}-T{length}-H{self.heads}/{self.kv_heads}-D{self.width}"


# SmolLM2-135M's, and those of a 7B to 8B model
SHAPES = (Shape(8, 9, 3, 64), Shape(1, 32, 8, 128))


class Problem(NamedTuple):
    """Full segments, each reading all before it: q, q_far, k, v, and the gradient of the output."""

    layout: Layout
    tensors: Sequence[Tensor]
    grad: Tensor

    @classmethod
    def of(cls, shape: Shape, length: int) -> "Problem":
        """Random bf16.

        Raises:
            ValueError: the length is no multiple of a segment's.
        """
        heads = (shape.heads, shape.heads, shape.kv_heads, shape.kv_heads, shape.heads)
        *tensors, grad = (_random(shape.batch, each, length, shape.width) for each in heads)
        return cls(full_layout(shape.batch, length), tensors, grad)

    def first(self) -> "Problem":
        """Its first text alone."""
        length = self.grad.shape[2]
        return Problem(full_layout(1, length), [x[:1] for x in self.tensors], self.grad[:1])


def full_layout(batch: int, length: int) -> Layout:
    """Texts of full segments.

    Raises:
        ValueError: the length is no multiple of a segment's.
    """
    config = LayoutConfig()
    if length < 1 or length % config.segment_size:
        raise ValueError(f"expected a length that is a multiple of {config.segment_size}, got {length}")
    return Layout.of([[config.segment_capacity] * (length // config.segment_size)] * batch, config)


def bench_attention(
    shapes: Iterable[Shape] = SHAPES, lengths: Iterable[int] = LENGTHS, *, repeats: int = 20
) -> Iterator[dict[str, Any]]:
    """Forward and backward in bf16, every segment full and reading all before it: one result a shape and length.

    Returns:
        Medians in milliseconds, peak memory in MB beyond what was there before (on a GPU), and ratios to torch's causal
        attention (over 1: slower, larger).
    """
    lengths = list(lengths)
    for shape in shapes:
        for length in lengths:
            yield _row(shape, length, repeats)


def _row(shape: Shape, length: int, repeats: int) -> dict[str, Any]:
    problem = Problem.of(shape, length)
    # without a GPU, what stands in for the kernels there
    impl: Impl = "fused" if torch.cuda.is_available() else "blockwise"
    attentions: dict[str, Attention] = {
        "sdpa": causal,
        **({"flash": flash} if torch.cuda.is_available() else {}),
        "hierarchical": _landmarks(problem.layout, "hierarchical", impl),
        "flat": _landmarks(problem.layout, "flat", impl),
    }
    ways = {name: Way(_steps(attend, problem)) for name, attend in attentions.items()}
    texts = dict.fromkeys(ways, 1)
    if length <= LONGEST_REFERENCE:
        # one text of the batch: its arrays are T x T for every head
        one = problem.first()
        ways["reference"] = Way(_steps(_landmarks(one.layout, "hierarchical", "reference"), one), rests=4)
        texts["reference"] = shape.batch
    row: dict[str, Any] = {"shape": shape.named(length)}
    for name, (forward, backward) in medians(ways, repeats).items():
        row[f"{name}_ms"] = round((forward + backward) * texts[name], 3)
        row[f"{name}_forward_ms"] = round(forward * texts[name], 3)
    if torch.cuda.is_available():
        row |= {f"{name}_mb": round(_peak(_steps(attend, problem)), 1) for name, attend in attentions.items()}
    return row | _ratios(row)


def _ratios(row: dict[str, Any]) -> dict[str, float]:
    ratios = {}
    for name in ("hierarchical", "flat"):
        ratios[f"{name}_over_sdpa"] = round(row[f"{name}_ms"] / row["sdpa_ms"], 3)
        if "sdpa_mb" in row:
            ratios[f"{name}_memory_over_sdpa"] = round(row[f"{name}_mb"] / row["sdpa_mb"], 3)
        if "flash_ms" in row:
            ratios[f"{name}_over_flash"] = round(row[f"{name}_ms"] / row["flash_ms"], 3)
    if "reference_ms" in row:
        ratios["reference_over_hierarchical"] = round(row["reference_ms"] / row["hierarchical_ms"], 1)
    return ratios


def causal(q: Tensor, far: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Torch's causal attention, by the back end it prefers."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def flash(q: Tensor, far: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Torch's causal attention by flash attention, which cuDNN's outruns on newer GPUs."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return causal(q, far, k, v)


def _landmarks(layout: Layout, mode: Mode, impl: Impl) -> Attention:
    return lambda q, far, k, v: landmark_attention(q, k, v, layout, mode=mode, q_far=far, impl=impl)


def _random(batch: int, heads: int, length: int, width: int) -> Tensor:
    # heads beside each other in memory, as projections leave them
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.randn(batch, length, heads, width, device=device, dtype=torch.bfloat16).transpose(1, 2)


def _steps(attend: Attention, problem: Problem) -> list[Callable[[], Any]]:
    """Forward, backward."""
    leaves = [x.detach().requires_grad_() for x in problem.tensors]
    held: list[Tensor] = []
    return [
        lambda: held.append(attend(*leaves)),
        lambda: torch.autograd.grad(held.pop(), leaves, problem.grad, allow_unused=True),
    ]


def _peak(steps: Sequence[Callable[[], Any]]) -> float:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    timed(steps)
    return (torch.cuda.max_memory_allocated() - before) / 2**20
