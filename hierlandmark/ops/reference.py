"""The attention of docs/design.md, section 3, in plain words: slow, obvious, what all else is tested against."""

from typing import NamedTuple

import torch
from torch import Tensor

from hierlandmark.config import Mode
from hierlandmark.layout import Kind, Layout

_NEG = float("-inf")


class Masks(NamedTuple):
    """Which key each query may look at, and as what: (B, 1, T, T) bool, where nothing else is said."""

    # content of the query's own block or segment, the sink of its segment, landmarks of earlier blocks there
    own: Tensor
    sink: Tensor
    near_landmark: Tensor
    # of the segments that its own one reads
    far_landmark: Tensor
    far_gate: Tensor
    # the two stand in one segment
    same_segment: Tensor
    # how many segments stand between the two: (T, T) integers, negative where the key's is not an earlier one
    between: Tensor


def masks_of(layout: Layout, device: torch.device) -> Masks:
    """The layout as dense masks."""
    B, S, P = layout.kinds.shape
    kind = torch.from_numpy(layout.kinds.reshape(B, 1, 1, S * P)).to(device)
    index = torch.arange(S * P, device=device)
    segment, block = index // P, index // layout.config.block_size
    same_segment = (segment[:, None] == segment[None, :])[None, None]
    reads = torch.from_numpy(layout.reads).to(device)[:, None, segment][..., segment]
    causal = index[:, None] >= index[None, :]
    plain = layout.config.own_segment
    together = same_segment if plain else block[:, None] == block[None, :]
    return Masks(
        own=(kind == Kind.CONTENT) & together & causal,
        sink=(kind == Kind.SINK) & same_segment & causal,
        near_landmark=(kind == Kind.LANDMARK) & (same_segment & ~together) & (block[:, None] > block[None, :]),
        far_landmark=(kind == Kind.LANDMARK) & reads,
        far_gate=(kind == Kind.GATE) & reads,
        same_segment=same_segment,
        between=segment[:, None] - segment[None, :] - 1,
    )


def landmark_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    *,
    mode: Mode,
    scale: float,
    q_far: Tensor,
    chosen: Tensor | None = None,
) -> Tensor:
    """Grouped softmax over blocks and segments by dense masks; see `landmark_attention` for shapes.

    Args:
        chosen: (B, H, T, T / block_size) bool, which blocks of the segments before its own a query reads; all if None.
    """
    B, H, T, D = q.shape
    S, P = layout.kinds.shape[1:]
    bs = layout.config.block_size
    k = k.repeat_interleave(H // k.shape[1], dim=1)
    v = v.repeat_interleave(H // v.shape[1], dim=1)
    own, sink, near_landmark, far_landmark, far_gate, same_segment, between = masks_of(layout, q.device)
    if chosen is not None:
        far_landmark = far_landmark & chosen.repeat_interleave(bs, -1)
        far_gate = far_gate & far_landmark.unflatten(-1, (S, P)).any(-1).repeat_interleave(P, -1)
    far_group = far_gate if mode == "hierarchical" else far_landmark
    content = torch.from_numpy(layout.kinds.reshape(B, 1, 1, T) == Kind.CONTENT).to(q.device)

    wide = torch.promote_types(q.dtype, torch.float32)
    near = (q.to(wide) @ k.to(wide).transpose(-1, -2)) * scale  # (B, H, T, T)
    *nearest, far = (q_far.to(wide) @ k.to(wide).transpose(-1, -2)) * scale  # n times the same
    for turn, logits in enumerate(nearest):
        far = torch.where(between == turn, logits, far)
    logits = torch.where(same_segment, near, far)
    p0 = _softmax(logits, own | sink | near_landmark | far_group)  # (B, H, T, T)

    # weight of each block: (B, H, T, S, P // bs)
    def by_block(x: Tensor) -> Tensor:
        return x.unflatten(-1, (S, P // bs, bs))

    near_weight = by_block(p0 * near_landmark).sum(-1)
    if mode == "hierarchical":
        gate_weight = (p0 * far_group).unflatten(-1, (S, P)).sum(-1)  # (B, H, T, S)
        p1 = _softmax(far.unflatten(-1, (S, P)), far_landmark.unflatten(-1, (S, P))).flatten(-2)
        far_weight = gate_weight[..., None] * by_block(p1).sum(-1)
    else:
        far_weight = by_block(p0 * far_landmark).sum(-1)
    p2 = _softmax(by_block(logits), by_block(content.expand(B, 1, T, T)))
    recalled = (p2 * (near_weight + far_weight)[..., None]).flatten(-3)
    weights = p0 * (own | sink) + recalled
    return weights @ v.to(wide)


def _softmax(logits: Tensor, allowed: Tensor) -> Tensor:
    """Softmax over the last axis among allowed places; a row without any is zero, not NaN."""
    masked = logits.masked_fill(~allowed, _NEG)
    top = masked.amax(-1, keepdim=True).clamp_min(torch.finfo(logits.dtype).min)
    weights = (masked - top.detach()).exp()
    return weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(logits.dtype).tiny)
