"""Selection shared by a block of queries, and the attention over what it chose, in plain words: slow, obvious."""

import torch
from torch import Tensor

from hierlandmark.config import Mode
from hierlandmark.layout import Kind, Layout
from hierlandmark.ops.reference import landmark_attention_reference, masks_of

_NEG = float("-inf")


def sparse_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    *,
    mode: Mode,
    scale: float,
    q_far: Tensor,
    segments: int,
    blocks: int,
    threshold: float,
) -> Tensor:
    """The dense form with all but the chosen blocks out of sight; see `landmark_attention_sparse`."""
    chosen, active = choose_reference(
        q, k, layout, mode=mode, scale=scale, q_far=q_far, segments=segments, blocks=blocks, threshold=threshold
    )
    bs, rep = layout.config.block_size, q.shape[1] // k.shape[1]
    by_query = chosen.repeat_interleave(rep, 1).repeat_interleave(bs, 2) & active[..., None]
    return landmark_attention_reference(q, k, v, layout, mode=mode, scale=scale, q_far=q_far[None], chosen=by_query)


def choose_reference(
    q: Tensor,
    k: Tensor,
    layout: Layout,
    *,
    mode: Mode,
    scale: float,
    q_far: Tensor,
    segments: int,
    blocks: int,
    threshold: float,
) -> tuple[Tensor, Tensor]:
    """Which blocks each block of queries reads; N blocks in the text, H_kv groups of heads.

    Returns:
        (B, H_kv, N, N) bool, query blocks to chosen blocks, and (B, H, T) bool, which queries read at all.
    """
    B, H, T, D = q.shape
    S, P = layout.kinds.shape[1:]
    bs, H_kv = layout.config.block_size, k.shape[1]
    N = T // bs
    masks = masks_of(layout, q.device)
    wide = torch.promote_types(q.dtype, torch.float32)
    keys = k.repeat_interleave(H // H_kv, dim=1).to(wide).transpose(-1, -2)
    near = (q.to(wide) @ keys) * scale  # (B, H, T, T)
    far = (q_far.to(wide) @ keys) * scale
    landmarks = far.masked_fill(~masks.far_landmark, _NEG).unflatten(-1, (N, bs)).amax(-1)  # (B, H, T, N)
    gates = far.masked_fill(~masks.far_gate, _NEG).unflatten(-1, (S, P)).amax(-1)  # (B, H, T, S)
    first = gates if mode == "hierarchical" else landmarks

    # P0 of each gate, or landmark
    near_lse = near.masked_fill(~(masks.own | masks.sink | masks.near_landmark), _NEG).logsumexp(-1, keepdim=True)
    total = torch.logaddexp(near_lse, first.logsumexp(-1, keepdim=True))
    mass = (first - total).exp().nan_to_num(0.0)
    content = torch.from_numpy(layout.kinds.reshape(B, 1, T) != Kind.PAD).to(q.device)
    active = (mass.sum(-1) > threshold) & content
    mass = mass * active[..., None]

    def top(x: Tensor, count: int) -> Tensor:
        """The greatest by any query of a block and any head of a group: (B, H, T, X) -> (B, H_kv, N, X) bool."""
        shared = x.unflatten(1, (H_kv, -1)).unflatten(3, (N, bs)).amax((2, 4))
        best = shared.topk(min(count, shared.shape[-1]), dim=-1)
        return torch.zeros_like(shared, dtype=torch.bool).scatter_(-1, best.indices, best.values > 0)

    if mode == "flat":
        return top(mass, blocks), active
    opened = top(mass, segments).repeat_interleave(H // H_kv, 1).repeat_interleave(bs, 2)  # (B, H, T, S)
    p1 = landmarks.unflatten(-1, (S, N // S)).softmax(-1).nan_to_num(0.0)
    return top(((mass * opened)[..., None] * p1).flatten(-2), blocks), active
