"""The fast forward for encoding: segments on their own, no gradients, stock fused attention inside blocks.

Within a segment hierarchical and flat mode are the same, and nothing outside it is read. P2 over each earlier block is
ordinary attention to that block alone, so each is one fused call; P0 is small and done in plain fp32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from hierlandmark.layout import Kind, Layout
from hierlandmark.ops.blockwise import MASKED, pick


def segment_attention(q: Tensor, k: Tensor, v: Tensor, layout: Layout, *, scale: float) -> Tensor:
    """Landmark attention over single segments; see `landmark_attention` for shapes and meaning.

    Unlike there, padding must be finite, and what comes out at padding means nothing.

    Raises:
        ValueError: the layout holds more than one segment a text.
    """
    B, H, P, D = q.shape
    if layout.kinds.shape[1] != 1:
        raise ValueError(f"expected one segment a text, got {layout.kinds.shape[1]}")
    H_kv, config = k.shape[1], layout.config
    nb, bs, rep = config.blocks_per_segment, config.block_size, H // k.shape[1]
    # texts of one length, as all but the last of a long one are, share their masks
    rows = layout.kinds[:1] if (layout.kinds == layout.kinds[:1]).all() else layout.kinds
    kind = torch.from_numpy(rows[:, 0]).to(q.device).view(-1, nb, bs)
    content, landmark = kind == Kind.CONTENT, kind == Kind.LANDMARK
    keys = k.view(B, H_kv, nb, bs, D)
    landmark_k = pick(keys, landmark.expand(B, nb, bs))  # (B, H_kv, nb, D)
    sink_k, sink_v = keys[:, :, 0, :1], v[:, :, :1]

    # P0: own block, landmarks of earlier blocks, sink
    grouped = q.float().view(B, H_kv, rep, nb, bs, D).transpose(2, 3).reshape(B, H_kv, nb, rep * bs, D)
    others = torch.cat((landmark_k, sink_k), dim=2).float()  # (B, H_kv, nb + 1, D)
    own = grouped @ keys.float().transpose(-1, -2)  # (B, H_kv, nb, rep * bs, bs)
    rest = grouped @ others.transpose(-1, -2).unsqueeze(2)  # (B, H_kv, nb, rep * bs, nb + 1)
    p0 = torch.cat((own, rest), dim=-1).mul_(scale).view(B, H_kv, nb, rep, bs, bs + nb + 1)
    p0 = p0.add_(_bias(kind, layout)).softmax(-1)
    near = p0[..., bs : bs + nb].transpose(2, 3).reshape(B, H, P, nb).to(q.dtype)
    own_p = p0[..., :bs].to(v.dtype).view(B, H_kv, nb, rep * bs, bs)
    out = (own_p @ v.view(B, H_kv, nb, bs, D)).view(B, H_kv, nb, rep, bs, D)
    if config.sink:
        out = out + p0[..., -1:].to(v.dtype) * sink_v[:, :, :, None, None]
    out = out.transpose(2, 3).reshape(B, H, P, D)

    whole = bool((content[:, 1:-1, : bs - 1]).all()) and bool(content[:, 0, int(config.sink) : bs - 1].all())
    for b in range(nb - 1):
        first, last = b * bs + int(config.sink and b == 0), (b + 1) * bs - 1
        mask = None
        if not whole:
            # a block that is not there gets weight 0; its own softmax only has to stay finite
            some = content[:, b, first - b * bs : bs - 1]
            mask = (some | ~some.any(-1, keepdim=True))[:, None, None].expand(B, 1, 1, -1)
        later = (b + 1) * bs
        p2 = F.scaled_dot_product_attention(
            q[:, :, later:], k[:, :, first:last], v[:, :, first:last], attn_mask=mask, scale=scale, enable_gqa=rep > 1
        )
        out[:, :, later:].addcmul_(p2, near[:, :, later:, b : b + 1])
    return out


def _bias(kind: Tensor, layout: Layout) -> Tensor:
    """What each query's P0 leaves out: (1 or B, 1, nb, 1, bs, bs + nb + 1), 0 or `MASKED`."""
    B, nb, bs = kind.shape
    slot, block = torch.arange(bs, device=kind.device), torch.arange(nb, device=kind.device)
    own = (kind == Kind.CONTENT)[:, :, None] & (slot[:, None] >= slot)  # (B, nb, bs, bs)
    has = (kind == Kind.LANDMARK).any(-1)[:, None] & (block[:, None] > block)  # (B, nb, nb)
    sink = (kind == Kind.SINK).any(-1).any(-1)  # (B,)
    parts = (own, has[:, :, None].expand(B, nb, bs, nb), sink[:, None, None, None].expand(B, nb, bs, 1))
    allowed = torch.cat(parts, dim=-1)
    bias = torch.zeros(allowed.shape, device=kind.device).masked_fill(~allowed, MASKED)
    return bias[:, None, :, None]
