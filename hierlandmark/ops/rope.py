"""Rotary positions (Su et al. 2021, arXiv 2104.09864) in the half-split form that transformers uses."""

import torch
from torch import Tensor


def rotate(x: Tensor, positions: Tensor, inv_freq: Tensor, scaling: float = 1.0) -> Tensor:
    """Rotate in fp32, return in the dtype that came.

    Args:
        x: (..., T, D).
        positions: (T,) or broadcastable to x's leading shape; negative ones rotate back.
        inv_freq: (D / 2,).
        scaling: factor on the result (YaRN's attention factor).
    """
    return turn(x, *turns(positions, inv_freq.to(x.device), scaling))


def turns(positions: Tensor, inv_freq: Tensor, scaling: float = 1.0) -> tuple[Tensor, Tensor]:
    """Cosine and sine for `turn`, fp32: (T,) positions, (D / 2,) frequencies -> (T, D / 2) twice."""
    angle = positions.to(torch.float32).unsqueeze(-1) * inv_freq.to(torch.float32)
    return angle.cos() * scaling, angle.sin() * scaling


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`rotate` by angles made before: (..., T, D) and (T, D / 2) twice, or broadcastable."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def turn_in_place(x: Tensor, cos: Tensor, sin: Tensor, wide: Tensor) -> None:
    """`turn` that writes into x, to the bit what that returns; `wide` is fp32 of (4, ..., T, D / 2), and is used up."""
    first, second, whole, part = wide
    half = x.shape[-1] // 2
    first.copy_(x[..., :half])
    second.copy_(x[..., half:])
    for a, b, write, to in ((first, second, torch.sub, slice(half)), (second, first, torch.add, slice(half, None))):
        torch.mul(a, cos, out=whole)
        torch.mul(b, sin, out=part)
        x[..., to].copy_(write(whole, part, out=whole))
