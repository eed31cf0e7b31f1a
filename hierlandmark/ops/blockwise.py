"""The same attention block by block: no T x T mask, P0 and P1 on small tensors, P2 in `block_attention`."""

import numpy as np
import torch
from torch import Tensor

from hierlandmark.config import Mode
from hierlandmark.layout import Kind, Layout
from hierlandmark.ops.weighted import block_attention, logits_fp32

# finite, so that a block without any content gives weights that a zero block weight can cancel
MASKED = -1e30


def landmark_attention_blockwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    *,
    mode: Mode,
    scale: float,
    q_far: Tensor,
) -> Tensor:
    """Grouped softmax on the segment grid; see `landmark_attention` for shapes."""
    B, H, T, D = q.shape
    H_kv, (S, P) = k.shape[1], layout.kinds.shape[1:]
    bs, nb, rep = layout.config.block_size, layout.config.blocks_per_segment, H // k.shape[1]
    kind = torch.from_numpy(layout.kinds).to(q.device).view(B, S, nb, bs)
    keys, values = k.view(B, H_kv, S, nb, bs, D), v.view(B, H_kv, S, nb, bs, D)
    content, landmark = kind == Kind.CONTENT, kind == Kind.LANDMARK
    has_block, has_gate = landmark.any(-1), (kind == Kind.GATE).flatten(2).any(-1)  # (B, S, nb), (B, S)
    landmark_k = pick(keys, landmark)  # (B, H_kv, S, nb, D)
    gate_k = pick(keys.flatten(3, 4), (kind == Kind.GATE).flatten(2))  # (B, H_kv, S, D)

    # queries of one segment, heads of one group beside each other: (B, H_kv, S, rep, P, D)
    near_q, *far_q = (x.reshape(B, H_kv, rep, S, P, D).transpose(2, 3) for x in (q, *q_far))
    plain = layout.config.own_segment
    if plain:
        parts = [_whole_segment(near_q, keys, kind, scale)]
    else:
        parts = _own_blocks(near_q, keys, landmark_k, kind, layout, scale)

    reads = torch.from_numpy(layout.reads).to(q.device) & has_gate[:, None]  # (B, S, S)
    readers, memory = _used(layout)
    far_landmarks = None
    if memory:
        lm = _past(far_q, landmark_k[:, :, :memory]) * scale
        far_landmarks = lm.masked_fill(~has_block[:, None, None, None, None, :memory], MASKED)
        allowed = reads[:, None, :, None, None, :memory]
        if mode == "hierarchical":
            gates = _past(far_q, gate_k[:, :, :memory, None]).squeeze(-1) * scale
            parts.append(gates.masked_fill(~allowed, MASKED))
        else:
            flat = far_landmarks.masked_fill(~allowed.unsqueeze(-1), MASKED)
            parts.append(flat.flatten(-2))

    logits = torch.cat(parts, dim=-1)
    p0 = torch.softmax(logits, dim=-1) * (logits > MASKED / 2)
    split = p0.split([part.shape[-1] for part in parts], dim=-1)

    if plain:
        p = split[0].flatten(3, 4).to(v.dtype)  # (B, H_kv, S, rep * P, P)
        out = (p @ values.flatten(3, 4)).unflatten(-2, (rep, P))
    else:
        # own block and sink: (B, H_kv, S, nb, rep * bs, bs)
        p = split[0].unflatten(-2, (nb, bs)).transpose(3, 4).flatten(4, 5).to(v.dtype)
        out = (p @ values).unflatten(-2, (rep, bs)).transpose(3, 4).flatten(4, 5)  # (B, H_kv, S, rep, P, D)
        if layout.config.sink:
            out = out + split[2].to(v.dtype) * values[:, :, :, None, 0, :1]

    bias = torch.zeros(content.shape, device=q.device, dtype=logits.dtype).masked_fill(~content, MASKED)
    bias = bias[:, None].expand(B, H_kv, S, nb, bs)
    if nb > 1 and not plain:
        # earlier blocks of the same segment; the last one is never earlier
        recalled = block_attention(
            near_q[..., bs:, :].flatten(3, 4).flatten(0, 2),
            keys[:, :, :, :-1].flatten(0, 2),
            values[:, :, :, :-1].flatten(0, 2),
            bias[:, :, :, :-1].flatten(0, 2),
            split[1][..., bs:, :-1].flatten(3, 4).flatten(0, 2),
            scale,
        )
        recalled = recalled.view(B, H_kv, S, rep, P - bs, D)
        out = torch.cat((out[..., :bs, :], out[..., bs:, :] + recalled), dim=-2)
    if far_landmarks is not None:
        if mode == "hierarchical":
            p1 = torch.softmax(far_landmarks, dim=-1) * has_block[:, None, None, None, None, :memory]
            weight = (split[-1].unsqueeze(-1) * p1).flatten(-2)
        else:
            weight = split[-1]
        shares = [weight]
        if len(far_q) > 1:
            shares = [weight * asked.repeat_interleave(nb, -1) for asked in _asked(S, memory, len(far_q), q.device)]
        each = [
            block_attention(
                asking[:, :, readers:].flatten(2, 4).flatten(0, 1),
                keys[:, :, :memory].flatten(2, 3).flatten(0, 1),
                values[:, :, :memory].flatten(2, 3).flatten(0, 1),
                bias[:, :, :memory].flatten(2, 3).flatten(0, 1),
                share[:, :, readers:].flatten(2, 4).flatten(0, 1),
                scale,
            )
            for asking, share in zip(far_q, shares, strict=True)
        ]
        recalled = sum(each[1:], each[0])
        out = torch.cat(
            (out[:, :, :readers], out[:, :, readers:] + recalled.view(B, H_kv, S - readers, rep, P, D)), dim=2
        )
    return out.transpose(2, 3).reshape(B, H, T, D)


def _whole_segment(q: Tensor, keys: Tensor, kind: Tensor, scale: float) -> Tensor:
    """Logits of each segment's tokens up to a query: (B, H_kv, S, rep, P, D) -> (B, H_kv, S, rep, P, P)."""
    logits = _mm(q.flatten(3, 4), keys.flatten(3, 4)).unflatten(-2, q.shape[3:5]) * scale
    return logits.masked_fill(~own_tokens(kind.flatten(2))[:, None, :, None], MASKED)


def own_tokens(kind: Tensor) -> Tensor:
    """What each position sees of a segment that is its local window, content and sink: (..., P) -> (..., P, P) bool."""
    P = kind.shape[-1]
    seen = (kind == Kind.CONTENT) | (kind == Kind.SINK)
    return seen.unsqueeze(-2) & torch.ones(P, P, dtype=torch.bool, device=kind.device).tril()


def _own_blocks(
    near_q: Tensor, keys: Tensor, landmark_k: Tensor, kind: Tensor, layout: Layout, scale: float
) -> list[Tensor]:
    """Logits of each block's tokens, of earlier landmarks there, and of the sink: (B, H_kv, S, rep, P, any)."""
    bs, nb = layout.config.block_size, layout.config.blocks_per_segment
    rep, P = near_q.shape[3:5]
    content, has_block = kind == Kind.CONTENT, (kind == Kind.LANDMARK).any(-1)
    q_blocks = near_q.unflatten(-2, (nb, bs))  # (B, H_kv, S, rep, nb, bs, D)
    own = _mm(q_blocks.transpose(3, 4).flatten(4, 5), keys) * scale  # (B, H_kv, S, nb, rep * bs, bs)
    own = own.unflatten(-2, (rep, bs)).transpose(3, 4)  # (B, H_kv, S, rep, nb, bs, bs)
    causal = torch.ones(bs, bs, dtype=torch.bool, device=near_q.device).tril()
    own = own.masked_fill(~(content[:, None, :, None, :, None, :] & causal), MASKED).flatten(4, 5)
    near = _mm(near_q.flatten(3, 4), landmark_k).unflatten(-2, (rep, P)) * scale  # (B, H_kv, S, rep, P, nb)
    query_block = torch.arange(P, device=near_q.device) // bs
    earlier = query_block[:, None] > torch.arange(nb, device=near_q.device)
    near = near.masked_fill(~(has_block[:, None, :, None, None] & earlier), MASKED)
    parts = [own, near]
    if layout.config.sink:
        sink_k = keys[:, :, :, 0, :1]
        has_sink = (kind == Kind.SINK).flatten(2).any(-1)[:, None, :, None, None, None]
        parts.append((_mm(near_q.flatten(3, 4), sink_k).unflatten(-2, (rep, P)) * scale).masked_fill(~has_sink, MASKED))
    return parts


def _past(far_q: list[Tensor], keys: Tensor) -> Tensor:
    """(B, H_kv, S, rep, P, D) each on keys of the first M segments (B, H_kv, M, n, D) -> (B, H_kv, S, rep, P, M, n)."""

    def products(q: Tensor) -> Tensor:
        flat = _mm(q.flatten(2, 4), keys.flatten(2, 3))
        return flat.unflatten(2, q.shape[2:5]).unflatten(-1, keys.shape[2:4])

    *nearest, out = map(products, far_q)
    for asked, found in zip(_asked(far_q[0].shape[2], keys.shape[2], len(far_q), keys.device), nearest, strict=False):
        out = torch.where(asked.unsqueeze(-1), found, out)
    return out


def _asked(S: int, M: int, turns: int, device: torch.device) -> list[Tensor]:
    """Which of the first M segments each one asks by its first turn, by its second, ...: (S, 1, 1, M) bool each."""
    between = torch.arange(S, device=device)[:, None, None, None] - torch.arange(M, device=device) - 1
    return [between == turn for turn in range(turns - 1)] + [between >= turns - 1]


def _used(layout: Layout) -> tuple[int, int]:
    """First segment that reads any other, and one past the last segment that is read."""
    readers, memory = (np.flatnonzero(np.any(layout.reads, axis=axes)) for axes in ((0, 2), (0, 1)))
    return (int(readers[0]), int(memory[-1]) + 1) if len(readers) else (0, 0)


def pick(keys: Tensor, where: Tensor) -> Tensor:
    """The key at the one place marked in each group: (B, H_kv, *G, P, D), (B, *G, P) -> (B, H_kv, *G, D)."""
    index = where.to(torch.int8).argmax(-1)[:, None, ..., None, None]
    index = index.expand(*keys.shape[:-2], 1, keys.shape[-1])
    return keys.gather(-2, index).squeeze(-2)


def _mm(a: Tensor, b: Tensor) -> Tensor:
    """a @ b^T in fp32 over any leading shape: (..., T, D), (..., S, D) -> (..., T, S)."""
    lead = a.shape[:-2]
    out = logits_fp32(a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *b.shape[-2:]))
    return out.view(*lead, *out.shape[-2:])
