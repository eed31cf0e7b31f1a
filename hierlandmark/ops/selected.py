"""The training form of what recall does: each segment attends to itself and to the blocks it selects, no others.

The choice is `select`'s, as in `recall.Recall`: gates open segments, their landmarks pick blocks, weights are made anew
among what was picked. It has no gradient of its own; what was chosen has. On a GPU the fused kernels read what was
chosen (`ops.picks`). Elsewhere segments are taken one after another, and all blocks that any query of one chose are
multiplied densely, blocks not chosen by weights of 0: no T x T tensor.
"""

from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from hierlandmark.config import Mode, RecallConfig
from hierlandmark.layout import Kind, Layout
from hierlandmark.ops import Impl, landmark_attention
from hierlandmark.ops.blockwise import MASKED, own_tokens, pick
from hierlandmark.ops.fused import landmark_attention_fused, preferred, why_not
from hierlandmark.ops.inputs import inputs_of
from hierlandmark.ops.picks import MOST_BLOCKS, picks_of
from hierlandmark.ops.weighted import block_attention, logits_fp32
from hierlandmark.select import block_weights, flat_weights, gate_mass, opened_weights, top


@dataclass
class Counts:
    """Work of selecting, summed over calls (one a layer). A window is one segment of one text in one layer.

    `get` names: `queries` heads and tokens that have something to read, `queries_skipped` those of them that read
    nothing; `tokens` and `tokens_skipped` the same with all heads of a token together; `windows` and
    `windows_skipped` with all of a window together. Products of one query head with one key: `gate_products`,
    `landmark_products` (of the segments that this head and token opened) and `content_products`. Read by a window
    together, as `recall.Tally` counts it: `gate_keys` and `landmark_keys` (one a KV head), `blocks_read`. Chosen by
    each head and token for itself: `block_choices`.
    """

    sums: dict[str, Tensor] = field(default_factory=dict)

    def add(self, **amounts: Tensor) -> None:
        """Sums stay on their device: reading them would hold up the layers behind."""
        for name, amount in amounts.items():
            self.sums[name] = self.sums.get(name, 0) + amount.sum(dtype=torch.float64)

    def get(self) -> dict[str, int]:
        """All sums so far, as integers."""
        return {name: round(float(total)) for name, total in self.sums.items()}


def selected_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    select: RecallConfig,
    *,
    mode: Mode = "hierarchical",
    scale: float | None = None,
    q_far: Tensor | None = None,
    impl: Impl | None = None,
    counts: Counts | None = None,
    finite: bool = False,
) -> Tensor:
    """`landmark_attention` in which a query reads only what it selects of earlier segments.

    Args:
        select: `segments`, `blocks`, `granularity`, `weigh_by` and `threshold` are used; padding chooses nothing.
        impl: of the attention inside segments, and where it is "fused", or None chooses that, of all. Segments of more
            than 31 blocks, and all while counting, are read by plain torch.
        counts: added to.

    The rest is as in `landmark_attention`; `mode` is the argument, not `select.mode`.
    """
    if counts is None and _by_kernels(v, layout, impl):
        return _fused(q, k, v, layout, select, mode, scale, q_far, finite)
    dtype = q.dtype
    near = landmark_attention(q, k, v, alone(layout), mode=mode, scale=scale, impl=impl, finite=finite)
    readers = np.any(layout.reads, axis=(0, 2)).tolist()
    if not any(readers):
        return near
    with torch.autocast(q.device.type, enabled=False):
        q, k, v, q_far, scale, _ = inputs_of(q, k, v, layout, scale, q_far, finite=finite)
        grid = _Grid(k, v, layout)
        parts = []
        for s, inside in enumerate(near.split(layout.config.segment_size, dim=2)):
            if not readers[s]:
                parts.append(inside)
                continue
            rows = slice(s * layout.config.segment_size, (s + 1) * layout.config.segment_size)
            near_lse = grid.near_lse(s, q[:, :, rows], scale)
            past, lse = _read(grid, s, q_far[..., rows, :], near_lse, select, mode, scale, counts)
            total = torch.logaddexp(near_lse, lse)
            out = inside * (near_lse - total).exp().unsqueeze(-1) + past * (lse - total).exp().unsqueeze(-1)
            out = out if finite else out.masked_fill(~grid.real[:, s, None, :, None], 0.0)
            parts.append(out.to(dtype))
        return torch.cat(parts, dim=2)


def _by_kernels(v: Tensor, layout: Layout, impl: Impl | None) -> bool:
    wanted = why_not(v, layout) is None if impl == "fused" else impl is None and preferred(v, layout)
    return wanted and bool(layout.reads.any()) and layout.config.blocks_per_segment <= MOST_BLOCKS


def _fused(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    select: RecallConfig,
    mode: Mode,
    scale: float | None,
    q_far: Tensor | None,
    finite: bool,
) -> Tensor:
    """The choice first, then all in the kernels, which pass over what nobody picked."""
    dtype = q.dtype
    with torch.autocast(q.device.type, enabled=False):
        q, k, v, q_far, scale, pad = inputs_of(q, k, v, layout, scale, q_far, finite=finite)
        picks = picks_of(q, k, v, layout, select, mode=mode, scale=scale, q_far=q_far)
        weighed: Mode = "hierarchical" if _two_levels(mode, select) else "flat"
        out = landmark_attention_fused(q, k, v, layout, mode=weighed, scale=scale, q_far=q_far, picks=picks)
        return (out if pad is None else out.masked_fill(pad, 0.0)).to(dtype)


def _two_levels(mode: Mode, select: RecallConfig) -> bool:
    """Whether blocks weigh what their gates and landmarks say, not landmarks alone."""
    return mode == "hierarchical" and select.weigh_by == "gates"


_ALONE: WeakKeyDictionary[Layout, Layout] = WeakKeyDictionary()


def alone(layout: Layout) -> Layout:
    """The same texts, each segment by itself; made once, since kernels keep tables a layout."""
    if layout not in _ALONE:
        _ALONE[layout] = Layout(layout.config, layout.kinds, np.zeros_like(layout.reads))
    return _ALONE[layout]


class _Grid:
    """Keys and values by segment and block, and what stands where."""

    def __init__(self, k: Tensor, v: Tensor, layout: Layout) -> None:
        B, H_kv, _, D = k.shape
        self.layout, config = layout, layout.config
        shape = (B, H_kv, layout.kinds.shape[1], config.blocks_per_segment, config.block_size, D)
        self.keys, self.values = k.view(shape), v.view(shape)
        kind = torch.from_numpy(layout.kinds).to(k.device)  # (B, S, P)
        self.real, self.sink, gate = kind != Kind.PAD, kind[..., 0] == Kind.SINK, kind == Kind.GATE
        blocks = kind.unflatten(-1, shape[3:5])
        self.content, landmark = blocks == Kind.CONTENT, blocks == Kind.LANDMARK  # (B, S, nb, bs)
        self.has_block = landmark.any(-1)
        self.kind = kind
        self.reads = torch.from_numpy(layout.reads).to(k.device) & gate.any(-1)[:, None]  # (B, S, S)
        self.landmark_keys = pick(self.keys, landmark)  # (B, H_kv, S, nb, D)
        self.gate_keys = pick(self.keys.flatten(3, 4), gate)  # (B, H_kv, S, D)

    def near_lse(self, s: int, q: Tensor, scale: float) -> Tensor:
        """Log-sum-exp of what a segment's queries see of it in P0: (B, H, P, D) -> (B, H, P) fp32."""
        B, H, P, D = q.shape
        keys = self.keys[:, :, s]  # (B, H_kv, nb, bs, D)
        H_kv, nb, bs = keys.shape[1:4]
        if self.layout.config.own_segment:
            logits = _products(q.reshape(B, H_kv, -1, D), keys.flatten(2, 3)).view(B, H, P, P) * scale
            return logits.masked_fill(~own_tokens(self.kind[:, s]).unsqueeze(1), MASKED).logsumexp(-1)
        q = q.view(B, H_kv, H // H_kv, nb, bs, D)
        own = _products(q.transpose(2, 3).flatten(3, 4), keys).unflatten(3, (-1, bs)).transpose(2, 3)
        causal = torch.ones(bs, bs, dtype=torch.bool, device=q.device).tril()
        own = own.mul(scale).masked_fill(~(self.content[:, s, None, None, :, None] & causal), MASKED)
        others = torch.cat((self.landmark_keys[:, :, s], keys[:, :, 0, :1]), dim=2)  # (B, H_kv, nb + 1, D)
        rest = _products(q.flatten(2, 4), others).view(B, H_kv, -1, nb, bs, nb + 1) * scale
        earlier = torch.ones(nb, nb, dtype=torch.bool, device=q.device).tril(-1)
        seen = self.has_block[:, s, None] & earlier  # (B, nb, nb)
        seen = torch.cat((seen, self.sink[:, s, None, None].expand(B, nb, 1)), dim=-1)
        rest = rest.masked_fill(~seen[:, None, None, :, None], MASKED)
        return torch.cat((own, rest), dim=-1).logsumexp(-1).view(B, H, P)


def _products(a: Tensor, b: Tensor) -> Tensor:
    """a @ b^T in fp32 at least: (..., T, D), (..., S, D) -> (..., T, S)."""
    return logits_fp32(a.flatten(0, -3), b.flatten(0, -3)).unflatten(0, a.shape[:-2])


def _read(
    grid: _Grid,
    s: int,
    q_far: Tensor,
    near_lse: Tensor,
    select: RecallConfig,
    mode: Mode,
    scale: float,
    counts: Counts | None,
) -> tuple[Tensor, Tensor]:
    """What the past says to the queries (n, B, H, P, D) of segment s, as `Recall.read` gives it: (B, H, P, D), and
    (B, H, P).
    """
    n, B, H, P, D = q_far.shape
    M = int(np.flatnonzero(grid.layout.reads[:, s].any(0))[-1]) + 1
    H_kv, nb = grid.keys.shape[1], grid.keys.shape[3]
    # queries, and the first and one past the last of the segments that they look into
    spans = [
        (n - 1, 0, min(M, s - n + 1)),
        *((turn, s - turn - 1, min(M, s - turn)) for turn in reversed(range(n - 1))),
    ]
    asks = [(q_far[of].reshape(B, H_kv, -1, D), first, last) for of, first, last in spans if 0 <= first < last]

    def products(keys: Tensor) -> Tensor:
        return torch.cat([_products(of, keys[:, :, first:last].flatten(2, -2)) for of, first, last in asks], dim=-1)

    allowed = grid.reads[:, s, None, None, :M]  # (B, 1, 1, M)
    present = grid.has_block[:, None, None, :M]  # (B, 1, 1, M, nb)
    landmarks = products(grid.landmark_keys).view(B, H, P, M, nb) * scale
    landmarks = landmarks.masked_fill(~(present & allowed.unsqueeze(-1)), MASKED)
    real = grid.real[:, s, None].expand(B, H, P)
    if mode == "hierarchical":
        gates = (products(grid.gate_keys).view(B, H, P, M) * scale).masked_fill(~allowed, MASKED)
        chosen, opened = _choose(gates, landmarks, near_lse, real, select)
    else:
        chosen, opened = _choose_flat(landmarks, near_lse, real, select)
    if _two_levels(mode, select):
        weights, lse = block_weights(gates, landmarks, chosen)
    else:
        weights, lse = flat_weights(landmarks.flatten(-2), chosen.flatten(-2))
        weights = weights.view_as(chosen)
    if counts is not None:
        _count(counts, grid, s, chosen, opened, hierarchical=mode == "hierarchical")
    parts = []
    for of, first, last in asks:
        some = chosen if len(asks) == 1 else _only(chosen, first, last)
        parts.append(_attend(grid, of, (weights * some).flatten(-2), some.flatten(-2), select, scale))
    return sum(parts[1:], parts[0]).view(B, H, P, D), lse


def _only(chosen: Tensor, first: int, last: int) -> Tensor:
    """Of what was chosen, (B, H, P, M, nb), that in some segments."""
    out = torch.zeros_like(chosen)
    out[..., first:last, :] = chosen[..., first:last, :]
    return out


@torch.no_grad()
def _choose(
    gates: Tensor, landmarks: Tensor, near_lse: Tensor, real: Tensor, select: RecallConfig
) -> tuple[Tensor, Tensor]:
    """Blocks (B, H, P, M, nb) and the segments (B, H, P, M) whose landmarks were looked at."""
    mass = gate_mass(gates, near_lse)
    active = (mass.sum(-1) > select.threshold) & real
    opened = top(mass, select.segments, select.granularity, active)
    if select.weigh_by == "landmarks":
        landmarks = landmarks.masked_fill(~opened.unsqueeze(-1), MASKED)
    weight = opened_weights(mass * opened, landmarks, select.weigh_by)
    picked = top(weight.flatten(-2), select.blocks, select.granularity, active).view_as(weight)
    return picked & opened.unsqueeze(-1), opened


@torch.no_grad()
def _choose_flat(landmarks: Tensor, near_lse: Tensor, real: Tensor, select: RecallConfig) -> tuple[Tensor, Tensor]:
    mass = gate_mass(landmarks.flatten(-2), near_lse)
    active = (mass.sum(-1) > select.threshold) & real
    picked = top(mass, select.blocks, select.granularity, active).view_as(landmarks)
    # every landmark has to be scored to know that
    return picked, real.unsqueeze(-1).expand(*landmarks.shape[:-1])


def _attend(grid: _Grid, q: Tensor, weights: Tensor, chosen: Tensor, select: RecallConfig, scale: float) -> Tensor:
    """Weighted sum over blocks: q (B, H_kv, rep * P, D), weights and chosen (B, H, P, n) -> q's shape."""
    B, H_kv, rows, D = q.shape
    H, n, bs = chosen.shape[1], chosen.shape[-1], grid.keys.shape[4]
    if select.granularity == "head":
        # a head's queries have at most k blocks in common
        most = min(select.blocks, n)
        which = chosen.any(2).to(torch.int8).topk(most, dim=-1).indices  # (B, H, most)
        text = torch.arange(B, device=q.device)[:, None, None]
        group = (torch.arange(H, device=q.device) // (H // H_kv))[:, None]
        keys, values = (x.flatten(2, 3)[text, group, which] for x in (grid.keys, grid.values))  # (B, H, most, bs, D)
        content = grid.content.flatten(1, 2)[text, which]
        weights = weights.gather(-1, which.unsqueeze(2).expand(*weights.shape[:3], most))
        q = q.reshape(B, H, -1, D)
    else:
        used = chosen.flatten(0, 2).any(0).nonzero().flatten()
        if not len(used):
            return torch.zeros_like(q)
        keys, values = (x.flatten(2, 3)[:, :, used] for x in (grid.keys, grid.values))  # (B, H_kv, u, bs, D)
        content = grid.content.flatten(1, 2)[:, None, used].expand(B, H_kv, len(used), bs)
        weights = weights[..., used].reshape(B, H_kv, rows, -1)
    bias = torch.zeros(content.shape, dtype=weights.dtype, device=q.device).masked_fill(~content, MASKED)
    q, keys, values, bias, weights = (x.flatten(0, 1) for x in (q, keys, values, bias, weights))
    out = block_attention(q, keys, values, bias, weights, scale)
    return out.view(B, H_kv, rows, D)


@torch.no_grad()
def _count(counts: Counts, grid: _Grid, s: int, chosen: Tensor, opened: Tensor, *, hierarchical: bool) -> None:
    B, H, P, M, nb = chosen.shape
    H_kv = grid.keys.shape[1]
    readable = grid.reads[:, s, :M]  # (B, M)
    present = (grid.has_block[:, :M] & readable.unsqueeze(-1)).sum(-1)  # (B, M)
    able = grid.real[:, s] & readable.any(-1, keepdim=True)  # (B, P)
    reads = chosen.flatten(3).any(-1)  # (B, H, P)
    content = grid.content[:, :M].sum(-1)[:, None, None]  # (B, 1, 1, M, nb)
    tokens, window = able.sum(), able.any(-1)
    counts.add(
        queries=tokens * H,
        queries_skipped=tokens * H - reads.sum(),
        tokens=tokens,
        tokens_skipped=tokens - reads.any(1).sum(),
        windows=window,
        windows_skipped=window.sum() - reads.flatten(1).any(-1).sum(),
        gate_products=readable.sum(-1) * able.sum(-1) * H * int(hierarchical),
        gate_keys=readable.sum() * H_kv * int(hierarchical),
        landmark_products=opened * present[:, None, None],
        landmark_keys=opened.flatten(1, 2).any(1) * present * H_kv,
        content_products=chosen * content,
        blocks_read=chosen.flatten(1, 2).any(1),
        block_choices=chosen,
    )
