"""Rotary positions (Su et al. 2021, arXiv 2104.09864) in the half-split form that transformers uses."""

from collections.abc import Sequence

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


def doubled(cos: Tensor, sin: Tensor) -> Tensor:
    """Angles for `turn_into`: (..., D / 2) twice -> (2, ..., D), cosines for both halves, and the sines, each signed by
    the half that it is taken from.
    """
    return torch.stack((torch.cat((cos, cos), dim=-1), torch.cat((sin, -sin), dim=-1)))


def doubled_alike(places: Tensor, inv_freq: Sequence[Tensor], scaling: Sequence[float]) -> list[Tensor]:
    """Angles of each layer for `turn_into`.

    Layers that turn alike, mostly all, have the same memory, which a processor's cache then holds.
    """
    made: dict[tuple[bytes, float], Tensor] = {}
    keys = [(freq.numpy().tobytes(), scale) for freq, scale in zip(inv_freq, scaling, strict=True)]
    for key, freq in zip(keys, inv_freq, strict=True):
        if key not in made:
            made[key] = doubled(*turns(places, freq, key[1]))
    return [made[key] for key in keys]


def turn_into(out: Tensor, x: Tensor, angles: Tensor) -> None:
    """`turn`, to the bit, in fewer operations.

    Args:
        out: (..., T, D), which may be x itself.
        x: (..., T, D).
        angles: (2, ..., T, D) of `doubled`, with as many axes as x behind the first, which broadcast.
    """
    wide, half = x * angles, x.shape[-1] // 2
    turned, other = wide[0], wide[1]
    turned[..., :half] += other[..., half:]
    turned[..., half:] += other[..., :half]
    out.copy_(turned)
