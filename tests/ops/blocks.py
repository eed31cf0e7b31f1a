"""Inputs of `block_attention`, one run of it, and the same from autograd."""

from typing import NamedTuple

import torch
from torch import Tensor

from hierlandmark.ops.weighted import block_attention

# q, k, v, bias, w
Blocks = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
MASKED = -1e30


class BlockCase(NamedTuple):
    """X groups, T queries, N blocks of P keys, D wide."""

    X: int
    T: int
    N: int
    P: int
    D: int

    def __str__(self) -> str:
        return "-".join(f"{name}{size}" for name, size in zip(self._fields, self, strict=True))


# P of 1, a power of two, and neither; the first past one chunk's least rows, twice
BLOCK_CASES = [
    BlockCase(1, 130, 3, 7, 5),
    BlockCase(2, 9, 1, 16, 8),
    BlockCase(3, 5, 5, 1, 4),
    BlockCase(2, 1, 4, 64, 64),
]


def random_blocks(
    case: BlockCase, dtype: torch.dtype = torch.float64, device: str = "cpu"
) -> tuple[Blocks, Tensor, float]:
    """q, k, v, bias, w; the gradient of the output; the scale. The same numbers in every dtype."""
    generator = torch.Generator().manual_seed(0)
    X, T, N, P, D = case
    wide = torch.promote_types(dtype, torch.float32)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).bfloat16().to(device, dtype)

    q, k, v, grad = draw(X, T, D) * 2, draw(X, N, P, D), draw(X, N, P, D), draw(X, T, D)
    bias = torch.zeros(X, N, P, dtype=wide, device=device)
    # some keys count for nothing, and in the last block of the first group none counts if its weight is 0
    bias[:, 0, P // 2 + 1 :] = MASKED
    w = torch.rand(X, T, N, generator=generator).to(device, wide)
    w[:, T // 2 :, N // 2] = 0
    if N > 1:
        bias[0, -1] = MASKED
        w[0, :, -1] = 0
        v[0, -1] = 0
    return (q, k, v, bias, w), grad, D**-0.5


def by_block_attention(blocks: Blocks, grad: Tensor, scale: float) -> dict[str, Tensor]:
    """The output and its gradients, by name."""
    q, k, v, bias, w = blocks
    leaves = [tensor.detach().clone(memory_format=torch.preserve_format).requires_grad_() for tensor in (q, k, v, w)]
    out = block_attention(leaves[0], leaves[1], leaves[2], bias, leaves[3], scale)
    assert out.dtype == q.dtype
    return _named(out, leaves, grad)


def by_autograd(blocks: Blocks, grad: Tensor, scale: float) -> dict[str, Tensor]:
    """The same from plain softmaxes, one block after another."""
    q, k, v, bias, w = blocks
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (q, k, v, w)]
    q, k, v, w = leaves
    out = torch.zeros_like(q)
    for n in range(k.shape[1]):
        p = (q @ k[:, n].transpose(1, 2) * scale + bias[:, None, n]).softmax(-1)
        out = out + w[..., n, None] * (p @ v[:, n])
    return _named(out, leaves, grad)


def _named(out: Tensor, leaves: list[Tensor], grad: Tensor) -> dict[str, Tensor]:
    grads = torch.autograd.grad(out, leaves, grad)
    return {"out": out.detach(), **dict(zip(("dq", "dk", "dv", "dw"), grads, strict=True))}
