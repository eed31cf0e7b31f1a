"""Sparse landmark attention as Triton kernels: who is greatest among gates and landmarks, and attention to the chosen.

The near part is `forward_kernel` with nothing to read, which leaves its output and log-sum-exp. A tile is a block of
queries; C candidates are what P0 holds of other segments: their gates, or in flat mode their landmarks. LG and GROUP
are those of `fused_triton`; TOTAL is P0's log-sum-exp, infinite where a query reads nothing. Logits are kept in base 2.
"""

import triton
import triton.language as tl

from hierlandmark.ops.fused_triton import _CONTENT, _OFF, _column, _dot, _far_groups, _rows, _shares

_PAD = tl.constexpr(0)


@triton.jit
def _candidates(qf, GROUP, LG, READS, first, count, qk_scale, PER, N, NP, BC: tl.constexpr, D: tl.constexpr):
    """Logits of BC candidates from `first` on, _OFF where there is none, and their places among all of the text."""
    index = first + tl.arange(0, BC)
    inside = index < count * PER
    segment = tl.load(READS + index // PER, mask=inside, other=0)
    # a segment's gate follows its landmarks
    row = segment * NP + tl.where(PER == 1, N, index % PER)
    there = inside & (tl.load(LG + row) >= 0)
    x = _dot(qf, tl.trans(tl.load(_rows(GROUP, row, D, D)))) * qk_scale
    return tl.where(there[None, :], x, _OFF), segment * PER + index % PER, there


@triton.jit
def candidates_kernel(
    QF, GROUP, LSE, TOTAL, SCORE, KIND, LG, READS, COUNT, qk_scale, threshold, sfb, sfh, sft, H, T, S, REP,
    N: tl.constexpr, NP: tl.constexpr, BS: tl.constexpr, D: tl.constexpr, BC: tl.constexpr, PER: tl.constexpr,
):  # fmt: skip
    """P0 of a tile's candidates, each at its greatest: SCORE (B, H, tiles, C), not written where none; TOTAL."""
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    b, h = (tl.program_id(1) // H).to(tl.int64), tl.program_id(1) % H
    rows, segment = tile * BS + tl.arange(0, BS), tile // N
    here = tl.program_id(1).to(tl.int64) * T
    GROUP += (b * (H // REP) + h // REP) * S * NP * D
    LG += b * S * NP
    READS += (b * S + segment) * S
    count = tl.load(COUNT + b * S + segment)
    SCORE += (tl.program_id(1).to(tl.int64) * (T // BS) + tile) * S * PER

    qf = tl.load(_rows(QF + b * sfb + h * sfh, rows, sft, D))
    m, mass = tl.full([BS], _OFF, tl.float32), tl.zeros([BS], tl.float32)
    for first in range(0, count * PER, BC):
        x, _, _ = _candidates(qf, GROUP, LG, READS, first, count, qk_scale, PER, N, NP, BC, D)
        m_new = tl.maximum(m, tl.max(x, axis=1))
        mass = mass * tl.exp2(m - m_new) + tl.sum(tl.where(x > _OFF / 2, tl.exp2(x - m_new[:, None]), 0.0), axis=1)
        m = m_new
    lse = tl.load(LSE + here + rows)
    top = tl.maximum(m, lse)
    far = mass * tl.exp2(m - top)
    total = tl.exp2(lse - top) + far
    reads = (far > threshold * total) & (tl.load(KIND + b * T + rows) != _PAD)
    total = tl.where(reads, top + tl.log2(total), float("inf"))
    tl.store(TOTAL + here + rows, total)
    for first in range(0, count * PER, BC):
        x, place, there = _candidates(qf, GROUP, LG, READS, first, count, qk_scale, PER, N, NP, BC, D)
        tl.store(SCORE + place, tl.max(tl.exp2(x - total[:, None]), axis=0), mask=there)


@triton.jit
def landmarks_kernel(
    QF, GROUP, TOTAL, SCORE, LG, OPENED, qk_scale, sfb, sfh, sft, H, T, S, REP,
    N: tl.constexpr, NP: tl.constexpr, BS: tl.constexpr, D: tl.constexpr, G: tl.constexpr,
):  # fmt: skip
    """P0 P1 of the landmarks of a tile's G opened segments, each at its greatest: SCORE (B, H, tiles, G, N)."""
    tile = tl.program_id(0)
    b, h = (tl.program_id(1) // H).to(tl.int64), tl.program_id(1) % H
    h_kv = tl.program_id(1) // REP
    rows, index = tile * BS + tl.arange(0, BS), tl.arange(0, NP)
    GROUP += h_kv.to(tl.int64) * S * NP * D
    OPENED += (h_kv.to(tl.int64) * (T // BS) + tile) * G
    SCORE += (tl.program_id(1).to(tl.int64) * (T // BS) + tile) * G * N
    qf = tl.load(_rows(QF + b * sfb + h * sfh, rows, sft, D))
    total = tl.load(TOTAL + tl.program_id(1).to(tl.int64) * T + rows)
    for n in range(G):
        segment = tl.load(OPENED + n)
        place = tl.maximum(segment, 0)
        there = (tl.load(LG + (b * S + place) * NP + index) >= 0) & (segment >= 0)
        landmarks, gate = _far_groups(qf, tl.load(_rows(GROUP, place * NP + index, D, D)), there, qk_scale, N, NP)
        w = _shares(landmarks) * tl.exp2(gate - total)[:, None]
        tl.store(SCORE + n * N + index, tl.max(w, axis=0), mask=index < N)


@triton.jit
def chosen_kernel(
    QF, K, V, GROUP, OUT, LSE, TOTAL, KIND, OPENED, CHOSEN, qk_scale,
    sfb, sfh, sft, skb, skh, skt, svb, svh, svt, sob, soh, sot, H, T, S, REP,
    N: tl.constexpr, NP: tl.constexpr, BS: tl.constexpr, D: tl.constexpr, G: tl.constexpr, C: tl.constexpr,
    CP: tl.constexpr, HEADS: tl.constexpr, FLAT: tl.constexpr,
):  # fmt: skip
    """Add what a tile's chosen blocks say to the near part in OUT. A program owns HEADS heads of one group, stacked."""
    tile = tl.program_id(0)
    parts = (REP + HEADS - 1) // HEADS
    h_kv = tl.program_id(1) // parts % (H // REP)
    b = (tl.program_id(1) // parts // (H // REP)).to(tl.int64)
    lane = tl.arange(0, HEADS * BS)
    member = tl.program_id(1) % parts * HEADS + lane // BS
    # a group's last program may have heads to spare: they repeat the last one, and are not stored
    h, rows = h_kv * REP + tl.minimum(member, REP - 1), tile * BS + lane % BS
    here = (b * H + h) * T + rows
    K += b * skb + h_kv * skh
    V += b * svb + h_kv * svh
    KIND += b * T
    GROUP += (b * (H // REP) + h_kv) * S * NP * D
    OPENED += ((b * (H // REP) + h_kv) * (T // BS) + tile) * G
    CHOSEN += ((b * (H // REP) + h_kv) * (T // BS) + tile) * C

    slots = tl.arange(0, CP)
    blocks = tl.load(CHOSEN + slots, mask=slots < C, other=-1)
    valid = blocks >= 0
    count = tl.sum(valid.to(tl.int32))
    segments = tl.where(valid, blocks, 0) // N
    qf = tl.load((QF + b * sfb + h * sfh + rows.to(tl.int64) * sft)[:, None] + tl.arange(0, D)[None, :])
    lse = tl.load(LSE + here)
    reads = tl.load(TOTAL + here) < float("inf")
    keep = valid[None, :] & reads[:, None]
    x = _dot(qf, tl.trans(tl.load(_rows(GROUP, segments * NP + tl.where(valid, blocks, 0) % N, D, D)))) * qk_scale
    group = x
    if not FLAT:
        group = _dot(qf, tl.trans(tl.load(_rows(GROUP, segments * NP + N, D, D)))) * qk_scale
    m = tl.maximum(lse, tl.max(tl.where(keep, group, _OFF), axis=1))
    w = tl.where(keep, tl.exp2(tl.where(keep, group, _OFF) - m[:, None]), 0.0)
    if not FLAT:
        # P1 among the chosen of each opened segment
        p1 = tl.zeros([HEADS * BS, CP], tl.float32)
        for n in range(G):
            same = valid & (segments == tl.load(OPENED + n))
            p1 += _shares(tl.where(same[None, :], x, _OFF))
        w *= p1
    near = tl.exp2(lse - m)
    mass = tl.maximum(near + tl.sum(w, axis=1), 1e-30)
    w = w / mass[:, None]

    acc = tl.zeros([HEADS * BS, D], tl.float32)
    for i in range(count):
        cols = tl.load(CHOSEN + i) * BS + tl.arange(0, BS)
        k, v, kind = tl.load(_rows(K, cols, skt, D)), tl.load(_rows(V, cols, svt, D)), tl.load(KIND + cols)
        s = _dot(qf, tl.trans(k)) * qk_scale + tl.where(kind == _CONTENT, 0.0, _OFF)[None, :]
        p = tl.exp2(s - tl.max(s, axis=1)[:, None])
        p = p * (_column(w, i, CP) / tl.sum(p, axis=1))[:, None]
        acc += _dot(p.to(v.dtype), v)

    out = (OUT + b * sob + h * soh + rows.to(tl.int64) * sot)[:, None] + tl.arange(0, D)[None, :]
    acc += tl.load(out).to(tl.float32) * (near / mass)[:, None]
    tl.store(out, acc.to(OUT.dtype.element_ty), mask=(member < REP)[:, None])
