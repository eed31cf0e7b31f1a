"""The fast forward for encoding: segments on their own, no gradients.

Within a segment hierarchical and flat mode are the same, and nothing outside it is read. Where the segment is the local
window, that is causal softmax over its content and sink. Else P2 over each earlier block is
ordinary attention to that block alone, so each is a product of few keys with all later queries; P0 is small. Logits and
softmaxes are in fp32, weights times values in the dtype of the values. On a processor without matrix units this was a
fifth faster than a call of torch's fused attention for each earlier block, in bfloat16 and in fp32.
"""

import torch
from torch import Tensor

from hierlandmark.layout import Kind, Layout
from hierlandmark.ops.blockwise import MASKED, own_tokens, pick


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

    # heads of a group behind positions: later queries of a block are then one matrix, without a copy
    queries = q.unflatten(1, (H_kv, rep)).transpose(2, 3).float().mul(scale).reshape(B * H_kv, P * rep, D)
    keys = k.float().contiguous().view(B * H_kv, P, D)
    values = v.contiguous().view(B * H_kv, P, D)
    if config.own_segment:
        hidden = ~own_tokens(kind.flatten(1))  # (1 or B, P, P)
        logits = (queries @ keys.transpose(1, 2)).view(B, H_kv, P, rep, P)
        p = logits.masked_fill_(hidden[:, None, :, None], MASKED).softmax(-1).view(B * H_kv, P * rep, P)
        return _by_head(p.to(v.dtype) @ values, q)
    landmark_k = pick(keys.view(B, H_kv, nb, bs, D), landmark.expand(B, nb, bs))  # (B, H_kv, nb, D)
    others = torch.cat((landmark_k, keys.view(B, H_kv, P, D)[:, :, :1]), dim=2).view(B * H_kv, nb + 1, D)

    # P0: own block, landmarks of earlier blocks, sink
    p0 = torch.empty(B * H_kv * nb, bs * rep, bs + nb + 1, dtype=keys.dtype, device=q.device)
    own = queries.view(-1, bs * rep, D) @ keys.view(-1, bs, D).transpose(1, 2)
    rest = queries @ others.transpose(1, 2)
    torch.cat((own, rest.view(-1, bs * rep, nb + 1)), dim=-1, out=p0)
    p0.view(B, H_kv, nb, bs, rep, -1).add_(_bias(kind, layout))
    p0 = p0.softmax(-1)
    near = p0[..., bs : bs + nb].reshape(B * H_kv, P * rep, nb)
    out = (p0[..., :bs].to(v.dtype) @ values.view(-1, bs, D)).view(B * H_kv, P * rep, D)
    if config.sink:
        out += p0[..., -1:].reshape(B * H_kv, P * rep, 1).to(v.dtype) * values[:, :1]

    whole = bool((content[:, 1:-1, : bs - 1]).all()) and bool(content[:, 0, int(config.sink) : bs - 1].all())
    for b in range(nb - 1):
        first, last = b * bs + int(config.sink and b == 0), (b + 1) * bs - 1
        later = (b + 1) * bs * rep
        logits = queries[:, later:] @ keys[:, first:last].transpose(1, 2)
        if not whole:
            # a block that is not there gets weight 0; its own softmax only has to stay finite
            absent = ~content[:, b, first - b * bs : bs - 1].unsqueeze(1)
            logits.view(B, -1, last - first).masked_fill_(absent, MASKED)
        p2 = logits.softmax(-1).mul_(near[:, later:, b : b + 1])
        out[:, later:].baddbmm_(p2.to(v.dtype), values[:, first:last])
    return _by_head(out, q)


def _by_head(out: Tensor, q: Tensor) -> Tensor:
    """(B * H_kv, P * rep, D) -> (B, H, P, D), as q."""
    B, H, P, D = q.shape
    return out.view(B, -1, P, H * B // len(out), D).transpose(2, 3).reshape(B, H, P, D)


def _bias(kind: Tensor, layout: Layout) -> Tensor:
    """What each query's P0 leaves out: (1 or B, 1, nb, bs, 1, bs + nb + 1), 0 or `MASKED`."""
    B, nb, bs = kind.shape
    slot, block = torch.arange(bs, device=kind.device), torch.arange(nb, device=kind.device)
    own = (kind == Kind.CONTENT)[:, :, None] & (slot[:, None] >= slot)  # (B, nb, bs, bs)
    has = (kind == Kind.LANDMARK).any(-1)[:, None] & (block[:, None] > block)  # (B, nb, nb)
    sink = (kind == Kind.SINK).any(-1).any(-1)  # (B,)
    parts = (own, has[:, :, None].expand(B, nb, bs, nb), sink[:, None, None, None].expand(B, nb, bs, 1))
    allowed = torch.cat(parts, dim=-1)
    bias = torch.zeros(allowed.shape, device=kind.device).masked_fill(~allowed, MASKED)
    return bias[:, None, :, :, None]
