"""Layouts and tensors for the attention's tests, and one run of it forward and backward."""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hierlandmark.config import LayoutConfig, LocalWindow, Mode, RecallConfig
from hierlandmark.layout import Kind, Layout
from hierlandmark.ops import Impl, landmark_attention
from hierlandmark.ops.selected import Counts, selected_attention

NAN = float("nan")
# the kernels run in tests.ops.fused
ON_CPU: tuple[Impl, ...] = ("reference", "blockwise")


@dataclass(frozen=True)
class Case:
    """One shape: content tokens a segment for each text of a batch, the grid, the heads."""

    lengths: tuple[tuple[int, ...], ...]
    block_size: int = 8
    blocks: int = 4
    sink: bool = True
    heads: int = 4
    kv_heads: int = 2
    width: int = 8
    local_window: LocalWindow = "block"
    # (S, S), or (B, S, S): each text its own
    reads: tuple[tuple[int, ...], ...] | tuple[tuple[tuple[int, ...], ...], ...] | None = None

    @property
    def layout(self) -> Layout:
        config = LayoutConfig(
            block_size=self.block_size, blocks_per_segment=self.blocks, sink=self.sink, local_window=self.local_window
        )
        reads = None if self.reads is None else np.array(self.reads, dtype=bool)
        return Layout.of([list(row) for row in self.lengths], config, reads=reads)

    def __str__(self) -> str:
        B, S, P = self.layout.kinds.shape
        heads = f"H{self.heads}" if self.heads == self.kv_heads else f"H{self.heads}/{self.kv_heads}"
        marks = (
            ("" if self.sink else "-nosink")
            + ("-reads" if self.reads else "")
            + ("-plain" if self.local_window == "segment" else "")
        )
        return f"B{B}-T{S * P}-{heads}-D{self.width}-{self.block_size}x{self.blocks}{marks}"


CASES = [
    # 26 tokens fill a segment; then a tail, a hole at the end, a hole in the middle
    Case(lengths=((26, 26, 13), (26, 5, 0), (9, 0, 17)), heads=9, kv_heads=3),
    Case(lengths=((27, 19),), sink=False, heads=4, kv_heads=4),
    Case(lengths=((19, 19, 7, 3), (1, 18, 19, 19)), blocks=3, heads=6, kv_heads=2, width=5),
    # a block a segment: no landmark is ever looked at in the query's own segment
    Case(lengths=((5, 5, 2),), blocks=1),
    Case(lengths=((2,), (3,)), block_size=5, blocks=2, heads=1, kv_heads=1),
    # readers side by side behind shared memory, as in training; the second memory segment is read by one only
    Case(
        lengths=((26, 26, 26, 11, 26),), reads=((0,) * 5, (0,) * 5, (1,) + (0,) * 4, (1, 1, 0, 0, 0), (0, 0, 1, 0, 0))
    ),
    Case(lengths=((26, 13), (7, 26)), reads=((0, 0), (0, 0))),
    # the local window is the whole segment
    Case(lengths=((26, 26, 13), (26, 5, 0), (9, 0, 17)), heads=6, kv_heads=3, local_window="segment"),
    Case(
        lengths=((19, 7, 19),),
        blocks=3,
        sink=False,
        width=5,
        reads=((0,) * 3, (0,) * 3, (1, 1, 0)),
        local_window="segment",
    ),
    # what one text may read, another may not
    Case(lengths=((26, 13, 9), (7, 26, 26)), reads=(((0,) * 3, (1, 0, 0), (0, 1, 0)), ((0,) * 3, (0,) * 3, (1, 1, 0)))),
]
# the shipped model's grid and head width
DEFAULT_GRID = Case(lengths=((502, 131),), block_size=64, blocks=8, heads=3, kv_heads=1, width=64)


class Tensors(NamedTuple):
    """q, q_far: (B, H, T, D); k, v: (B, H_kv, T, D)."""

    q: Tensor
    q_far: Tensor
    k: Tensor
    v: Tensor


def padding(layout: Layout) -> Tensor:
    """Where nothing stands: (B, 1, T, 1) bool."""
    return at(layout, Kind.PAD)


def at(layout: Layout, *kinds: Kind) -> Tensor:
    """Where one of these kinds stands: (B, 1, T, 1) bool."""
    return torch.from_numpy(np.isin(layout.kinds, kinds)).view(len(layout.kinds), 1, -1, 1)


def random_tensors(
    case: Case, dtype: torch.dtype = torch.float64, *, seed: int = 0, at_padding: float = NAN
) -> tuple[Tensors, Tensor]:
    """Inputs and the gradient of the output, with `at_padding` at padding; the same numbers in every dtype."""
    generator = torch.Generator().manual_seed(seed)
    layout = case.layout
    batch, positions = len(layout.kinds), layout.kinds[0].size
    drawn = [
        # rounded to bf16, so that every dtype starts from the same numbers; heads last in memory, as models give them
        torch.randn(batch, positions, heads, case.width, generator=generator).bfloat16().to(dtype).transpose(1, 2)
        for heads in (case.heads, case.heads, case.kv_heads, case.kv_heads, case.heads)
    ]
    # logits of a few units: soft enough to reach every block, sharp enough to tell them apart
    drawn[0] = drawn[0] * 2
    drawn[1] = drawn[1] * 2
    *inputs, grad = (tensor.masked_fill(padding(layout), at_padding) for tensor in drawn)
    return Tensors(*inputs), grad


def run(
    tensors: Tensors, layout: Layout, grad: Tensor, *, mode: Mode = "hierarchical", impl: Impl | None = None
) -> dict[str, Tensor]:
    """The output and the gradients of the four inputs, by name."""
    leaves = Tensors(*(tensor.detach().clone().requires_grad_() for tensor in tensors))
    out = landmark_attention(leaves.q, leaves.k, leaves.v, layout, mode=mode, q_far=leaves.q_far, impl=impl)
    assert out.dtype == tensors.q.dtype
    return named_grads(out, leaves, grad)


def named_grads(out: Tensor, leaves: Tensors, grad: Tensor) -> dict[str, Tensor]:
    """An output and the gradients of what it was made of, by name."""
    grads = torch.autograd.grad(out, leaves, grad, allow_unused=True)
    named = {
        f"d{name}": torch.zeros_like(leaf) if gradient is None else gradient
        for name, leaf, gradient in zip(Tensors._fields, leaves, grads, strict=True)
    }
    return {"out": out.detach(), **named}


def selecting(
    tensors: Tensors,
    case: Case,
    grad: Tensor,
    *,
    mode: Mode,
    impl: Impl | None = None,
    counts: Counts | None = None,
    **options: Any,
) -> dict[str, Tensor]:
    """As `run`, of what `RecallConfig(**options)` selects."""
    leaves = Tensors(*(tensor.detach().clone().requires_grad_() for tensor in tensors))
    config = RecallConfig(**{"threshold": 0.0, **options})
    out = selected_attention(
        leaves.q, leaves.k, leaves.v, case.layout, config, mode=mode, q_far=leaves.q_far, impl=impl, counts=counts
    )
    return named_grads(out, leaves, grad)


@functools.cache
def reference(case: Case, mode: Mode) -> dict[str, Tensor]:
    """What the reference makes of `random_tensors(case)` in fp64."""
    tensors, grad = random_tensors(case)
    return run(tensors, case.layout, grad, mode=mode, impl="reference")
