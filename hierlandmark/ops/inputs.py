"""What every form of the attention does with its arguments before it starts."""

from typing import NamedTuple

import torch
from torch import Tensor

from hierlandmark.layout import Kind, Layout


class Inputs(NamedTuple):
    """Tensors of one dtype, zero at padding; `pad` (B, 1, T, 1) bool says where that is, None if nowhere."""

    q: Tensor
    k: Tensor
    v: Tensor
    q_far: Tensor  # (n, B, H, T, D)
    scale: float
    pad: Tensor | None


def inputs_of(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    scale: float | None,
    q_far: Tensor | None,
    *,
    finite: bool = False,
) -> Inputs:
    """Defaults, one dtype, clean padding; see `landmark_attention` for shapes.

    Raises:
        ValueError: T does not fit the layout, H is not a multiple of H_kv, or q_far is no turned q.
    """
    B, H, T, D = q.shape
    if (B, T) != (layout.kinds.shape[0], layout.kinds[0].size) or H % k.shape[1]:
        raise ValueError(f"q {tuple(q.shape)} and k {tuple(k.shape)} do not fit a layout of {layout.kinds.shape}")
    scale = D**-0.5 if scale is None else scale
    q_far = q if q_far is None else q_far
    if q_far.shape[-4:] != q.shape or q_far.dim() not in (4, 5):
        raise ValueError(f"expected q_far {tuple(q.shape)}, or several of them, got {tuple(q_far.shape)}")
    q_far = q_far if q_far.dim() == 5 else q_far.unsqueeze(0)
    # autocast leaves values in half precision and rotates queries and keys to single
    q, q_far, k = (x.to(v.dtype) for x in (q, q_far, k))
    padding = layout.kinds == Kind.PAD
    if finite or not padding.any():
        return Inputs(q, k, v, q_far, scale, None)
    pad = torch.from_numpy(padding).to(q.device).view(B, 1, T, 1)
    # padding may hold anything, NaN too
    q, q_far, k, v = (x.masked_fill(pad, 0.0) for x in (q, q_far, k, v))
    return Inputs(q, k, v, q_far, scale, pad)
