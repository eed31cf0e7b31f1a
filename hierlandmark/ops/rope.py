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
    angle = positions.to(torch.float32).unsqueeze(-1) * inv_freq.to(device=x.device, dtype=torch.float32)
    cos, sin = angle.cos() * scaling, angle.sin() * scaling
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
