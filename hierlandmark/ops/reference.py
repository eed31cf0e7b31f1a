"""The attention of docs/design.md, section 3, in plain words: slow, obvious, what all else is tested against."""

import torch
from torch import Tensor

from hierlandmark.config import Mode
from hierlandmark.layout import Kind, Layout

_NEG = float("-inf")


def landmark_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, *, mode: Mode, scale: float, q_far: Tensor
) -> Tensor:
    """Grouped softmax over blocks and segments by dense masks; see `landmark_attention` for shapes."""
    B, H, T, D = q.shape
    S, P = layout.kinds.shape[1:]
    bs = layout.config.block_size
    k = k.repeat_interleave(H // k.shape[1], dim=1)
    v = v.repeat_interleave(H // v.shape[1], dim=1)

    kind = torch.from_numpy(layout.kinds.reshape(B, T)).to(q.device)
    index = torch.arange(T, device=q.device)
    segment, block = index // P, index // bs
    same_segment = segment[:, None] == segment[None, :]
    reads = torch.from_numpy(layout.reads).to(q.device)[:, segment][:, :, segment]  # (B, T, T)
    content, landmark = kind == Kind.CONTENT, kind == Kind.LANDMARK

    own = content[:, None] & (block[:, None] == block[None, :]) & (index[:, None] >= index[None, :])
    sink = (kind == Kind.SINK)[:, None] & same_segment & (index[:, None] >= index[None, :])
    near_landmark = landmark[:, None] & same_segment & (block[:, None] > block[None, :])
    far_landmark = landmark[:, None] & reads
    far_group = (kind == Kind.GATE)[:, None] & reads if mode == "hierarchical" else far_landmark

    wide = torch.promote_types(q.dtype, torch.float32)
    near = (q.to(wide) @ k.to(wide).transpose(-1, -2)) * scale  # (B, H, T, T)
    far = (q_far.to(wide) @ k.to(wide).transpose(-1, -2)) * scale
    logits = torch.where(same_segment, near, far)
    p0 = _softmax(logits, (own | sink | near_landmark | far_group)[:, None])  # (B, H, T, T)

    # weight of each block: (B, H, T, S, P // bs)
    def by_block(x: Tensor) -> Tensor:
        return x.unflatten(-1, (S, P // bs, bs))

    near_weight = by_block(p0 * near_landmark[:, None]).sum(-1)
    if mode == "hierarchical":
        gate_weight = (p0 * far_group[:, None]).unflatten(-1, (S, P)).sum(-1)  # (B, H, T, S)
        p1 = _softmax(far.unflatten(-1, (S, P)), far_landmark[:, None].unflatten(-1, (S, P))).flatten(-2)
        far_weight = gate_weight[..., None] * by_block(p1).sum(-1)
    else:
        far_weight = by_block(p0 * far_landmark[:, None]).sum(-1)
    p2 = _softmax(by_block(logits), by_block(content[:, None, None].expand(B, 1, T, T)))
    recalled = (p2 * (near_weight + far_weight)[..., None]).flatten(-3)
    weights = p0 * (own | sink)[:, None] + recalled
    return weights @ v.to(wide)


def _softmax(logits: Tensor, allowed: Tensor) -> Tensor:
    """Softmax over the last axis among allowed places; a row without any is zero, not NaN."""
    masked = logits.masked_fill(~allowed, _NEG)
    top = masked.amax(-1, keepdim=True).clamp_min(torch.finfo(logits.dtype).min)
    weights = (masked - top.detach()).exp()
    return weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(logits.dtype).tiny)
