"""Landmark attention as three Triton kernels: forward, gradient of queries, gradient of keys and values.

Every past block is one tile: its softmax is complete within the tile, and its weight depends on gates and landmarks
only. So there is no running maximum over content, only one over P0's groups, and nothing of size T x T / block_size is
ever written. Logits are kept in base 2.

A program of the first two kernels owns BM queries of one head, all in one segment; one of the third owns a block of
keys of one key-value head. LG is, for each text and segment, the places of its landmarks (N) and its gate, -1 if none;
GROUP holds the keys that stand there. RANGE says that the segments in every row of READS follow one another.

With SELECT, bit j of PICK[b, h, g, t] says that query t of head h reads block j of segment g, and weights are made anew
among what was picked. A program of the first two kernels passes over blocks that none of its queries picked; to the
third READERS says, for each key-value head and block, which tiles of BM queries read it, as tile * REP + head of the
group. Without SELECT nobody looks at PICK.
"""

import triton
import triton.language as tl

# finite, so that rows and blocks with nothing in them stay finite
_OFF = tl.constexpr(-1.0e30)
_CONTENT, _LANDMARK, _GATE, _SINK = tl.constexpr(2), tl.constexpr(3), tl.constexpr(4), tl.constexpr(1)


@triton.jit
def _dot(a, b):
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _rows(base, rows, stride, D: tl.constexpr):
    """Pointers to whole rows of D numbers."""
    return base + rows.to(tl.int64)[:, None] * stride + tl.arange(0, D)[None, :]


@triton.jit
def _nth(LIST, n, RANGE: tl.constexpr):
    """The n-th segment of a list; of a range, whose first is at hand, without waiting for it."""
    if RANGE:
        return tl.load(LIST) + n
    return tl.load(LIST + n)


@triton.jit
def _far_groups(qf, keys, there, qk_scale, N: tl.constexpr, NP: tl.constexpr):
    """Logits of one segment's landmarks (BM, NP), _OFF where there is none, and of its gate (BM,)."""
    index = tl.arange(0, NP)
    x = _dot(qf, tl.trans(keys)) * qk_scale
    gate = tl.sum(tl.where(index[None, :] == N, x, 0.0), axis=1)
    return tl.where((there & (index < N))[None, :], x, _OFF), gate


@triton.jit
def _shares(landmarks):
    """P1: softmax over a segment's landmarks; zero where there is none."""
    e = tl.where(landmarks > _OFF / 2, tl.exp2(landmarks - tl.max(landmarks, axis=1)[:, None]), 0.0)
    return e / tl.maximum(tl.sum(e, axis=1), 1e-30)[:, None]


@triton.jit
def _column(x, j, NP: tl.constexpr):
    return tl.sum(tl.where(tl.arange(0, NP)[None, :] == j, x, 0.0), axis=1)


@triton.jit
def _lowest(bits):
    """Place of the lowest bit that is set, below 31: the exponent of that power of two."""
    return ((bits & -bits).to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 127


@triton.jit
def _bits(PICK, segment, rows, T):
    """What each row picked of a segment: (BM,)."""
    return tl.load(PICK + segment.to(tl.int64) * T + rows).to(tl.int32)


@triton.jit
def _picked(bits, NP: tl.constexpr):
    """The same by block: (BM, NP)."""
    return ((bits[:, None] >> tl.arange(0, NP)[None, :]) & 1) > 0


@triton.jit
def _used(picked, NP: tl.constexpr):
    """Blocks that any row picked: their bits, and how many."""
    used = tl.max(picked.to(tl.int32), axis=0)
    return tl.sum(used << tl.arange(0, NP)), tl.sum(used)


@triton.jit
def _near(s, kind, rows, cols, block, BS: tl.constexpr):
    """A block of the queries' own segment: unnormalised P2 (or own part of P0), its maximum and sum, and the masks."""
    own = rows // BS == block
    earlier = rows // BS > block
    content = kind == _CONTENT
    allowed = content[None, :] & (earlier[:, None] | (own[:, None] & (rows[:, None] >= cols[None, :])))
    top = tl.max(tl.where(allowed, s, _OFF), axis=1)
    p = tl.where(allowed, tl.exp2(s - top[:, None]), 0.0)
    total = tl.maximum(tl.sum(p, axis=1), 1e-30)
    mark = tl.sum(tl.where((kind == _LANDMARK)[None, :], s, 0.0), axis=1)
    marked = earlier & (tl.max((kind == _LANDMARK).to(tl.int32)) > 0)
    return p, top, total, mark, marked, own


@triton.jit
def forward_kernel(
    Q, QF, K, V, GROUP, OUT, LSE, KIND, LG, READS, COUNT, PICK, qk_scale,
    sqb, sqh, sqt, sfb, sfh, sft, skb, skh, skt, svb, svh, svt, sob, soh, sot, H, T, S, REP,
    N: tl.constexpr, NP: tl.constexpr, BS: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, FLAT: tl.constexpr,
    RANGE: tl.constexpr, SELECT: tl.constexpr,
):  # fmt: skip
    # the last tiles have most to read: they start first
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    b, h = (tl.program_id(1) // H).to(tl.int64), tl.program_id(1) % H
    rows, segment = tile * BM + tl.arange(0, BM), tile * BM // (N * BS)
    K += b * skb + (h // REP) * skh
    V += b * svb + (h // REP) * svh
    KIND += b * T
    slot, index = tl.arange(0, BS), tl.arange(0, NP)
    m, mass = tl.full([BM], _OFF, tl.float32), tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)

    q = tl.load(_rows(Q + b * sqb + h * sqh, rows, sqt, D))
    for j in range((tile * BM + BM + BS - 1) // BS - segment * N):
        cols = (segment * N + j) * BS + slot
        k, v, kind = tl.load(_rows(K, cols, skt, D)), tl.load(_rows(V, cols, svt, D)), tl.load(KIND + cols)
        s = _dot(q, tl.trans(k)) * qk_scale
        p, top, total, mark, marked, own = _near(s, kind, rows, cols, segment * N + j, BS)
        group = tl.where(own, top + tl.log2(total), tl.where(marked, mark, _OFF))
        is_sink = kind == _SINK
        sink = tl.sum(tl.where(is_sink[None, :], s, 0.0), axis=1)
        sink = tl.where(tl.max(is_sink.to(tl.int32)) > 0, sink, _OFF)
        m_new = tl.maximum(tl.maximum(m, group), sink)
        weight = tl.where(group > _OFF / 2, tl.exp2(group - m_new), 0.0)
        from_sink = tl.where(sink > _OFF / 2, tl.exp2(sink - m_new), 0.0)
        p = p * (weight / total)[:, None] + tl.where(is_sink[None, :], from_sink[:, None], 0.0)
        alpha = tl.exp2(m - m_new)
        mass = mass * alpha + weight + from_sink
        acc = acc * alpha[:, None] + _dot(p.to(v.dtype), v)
        m = m_new

    qf = tl.load(_rows(QF + b * sfb + h * sfh, rows, sft, D))
    count = tl.load(COUNT + b * S + segment)
    READS += (b * S + segment) * S
    GROUP += (b * (H // REP) + h // REP) * S * NP * D
    for n in range(count):
        past = _nth(READS, n, RANGE)
        if SELECT:
            bits = _bits(PICK + tl.program_id(1).to(tl.int64) * S * T, past, rows, T)
        if not SELECT or tl.max(bits, axis=0) > 0:
            there = tl.load(LG + (b * S + past) * NP + index) >= 0
            group_keys = tl.load(_rows(GROUP, past * NP + index, D, D))
            landmarks, gate = _far_groups(qf, group_keys, there, qk_scale, N, NP)
            if SELECT:
                picked = _picked(bits, NP)
                left, blocks = _used(picked, NP)
                landmarks = tl.where(picked, landmarks, _OFF)
                gate = tl.where(tl.max(landmarks, axis=1) > _OFF / 2, gate, _OFF)
            if FLAT:
                m_new = tl.maximum(m, tl.max(landmarks, axis=1))
                w = tl.where(landmarks > _OFF / 2, tl.exp2(landmarks - m_new[:, None]), 0.0)
                total_w = tl.sum(w, axis=1)
            else:
                m_new = tl.maximum(m, gate)
                total_w = tl.exp2(gate - m_new)
                w = _shares(landmarks) * total_w[:, None]
            alpha = tl.exp2(m - m_new)
            mass = mass * alpha + total_w
            acc = acc * alpha[:, None]
            m = m_new
            for i in range(blocks if SELECT else N):
                place = _lowest(left) if SELECT else i
                if SELECT:
                    left &= left - 1
                cols = (past * N + place) * BS + slot
                k, v, kind = tl.load(_rows(K, cols, skt, D)), tl.load(_rows(V, cols, svt, D)), tl.load(KIND + cols)
                s = _dot(qf, tl.trans(k)) * qk_scale + tl.where(kind == _CONTENT, 0.0, _OFF)[None, :]
                p = tl.exp2(s - tl.max(s, axis=1)[:, None])
                p = p * (_column(w, place, NP) / tl.sum(p, axis=1))[:, None]
                acc += _dot(p.to(v.dtype), v)

    mass = tl.maximum(mass, 1e-30)
    tl.store(_rows(OUT + b * sob + h * soh, rows, sot, D), (acc / mass[:, None]).to(OUT.dtype.element_ty))
    tl.store(LSE + tl.program_id(1).to(tl.int64) * T + rows, m + tl.log2(mass))


@triton.jit
def _near_grads(s, p, total, mark, marked, own, kind, lse, dp, delta):
    """Weights of a near block's tokens, and gradients of its logits, landmark and sink among them."""
    is_sink = (kind == _SINK)[None, :]
    weight = tl.where(marked, tl.exp2(tl.where(marked, mark, 0.0) - lse), 0.0)
    p2 = p / total[:, None]
    got = tl.sum(p2 * dp, axis=1)
    inside = own[:, None] & (p > 0) | is_sink
    p0 = tl.where(inside, tl.exp2(tl.where(inside, s, 0.0) - lse[:, None]), 0.0)
    w = tl.where(own[:, None] | is_sink, p0, p2 * weight[:, None])
    ds = w * (dp - tl.where(own[:, None] | is_sink, delta[:, None], got[:, None]))
    ds += tl.where((kind == _LANDMARK)[None, :], (weight * (got - delta))[:, None], 0.0)
    return w, ds


@triton.jit
def query_grad_kernel(
    Q, QF, K, V, GROUP, OUT, GRAD, LSE, DELTA, DQ, DQF, DLG, KIND, LG, READS, COUNT, PICK, qk_scale, scale,
    sqb, sqh, sqt, sfb, sfh, sft, skb, skh, skt, svb, svh, svt, sob, soh, sot, sgb, sgh, sgt, H, T, S, REP,
    N: tl.constexpr, NP: tl.constexpr, BS: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, FLAT: tl.constexpr,
    RANGE: tl.constexpr, SELECT: tl.constexpr,
):  # fmt: skip
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    b, h = (tl.program_id(1) // H).to(tl.int64), tl.program_id(1) % H
    rows, segment = tile * BM + tl.arange(0, BM), tile * BM // (N * BS)
    K += b * skb + (h // REP) * skh
    V += b * svb + (h // REP) * svh
    KIND += b * T
    # gradients of queries are contiguous, (B, H, T, D)
    here = tl.program_id(1).to(tl.int64) * T
    slot, index = tl.arange(0, BS), tl.arange(0, NP)
    do = tl.load(_rows(GRAD + b * sgb + h * sgh, rows, sgt, D))
    out = tl.load(_rows(OUT + b * sob + h * soh, rows, sot, D))
    delta = tl.sum(out.to(tl.float32) * do.to(tl.float32), axis=1)
    tl.store(DELTA + here + rows, delta)
    lse = tl.load(LSE + here + rows)

    q = tl.load(_rows(Q + b * sqb + h * sqh, rows, sqt, D))
    acc = tl.zeros([BM, D], tl.float32)
    for j in range((tile * BM + BM + BS - 1) // BS - segment * N):
        cols = (segment * N + j) * BS + slot
        k, v, kind = tl.load(_rows(K, cols, skt, D)), tl.load(_rows(V, cols, svt, D)), tl.load(KIND + cols)
        s = _dot(q, tl.trans(k)) * qk_scale
        p, top, total, mark, marked, own = _near(s, kind, rows, cols, segment * N + j, BS)
        dp = _dot(do, tl.trans(v))
        _, ds = _near_grads(s, p, total, mark, marked, own, kind, lse, dp, delta)
        acc += _dot(ds.to(k.dtype), k)
    tl.store(_rows(DQ + here * D, rows, D, D), (acc * scale).to(DQ.dtype.element_ty))

    qf = tl.load(_rows(QF + b * sfb + h * sfh, rows, sft, D))
    acc = tl.zeros([BM, D], tl.float32)
    count = tl.load(COUNT + b * S + segment)
    READS += (b * S + segment) * S
    groups = (b * (H // REP) + h // REP) * S * NP
    for n in range(count):
        past = _nth(READS, n, RANGE)
        if SELECT:
            bits = _bits(PICK + here * S, past, rows, T)
        if not SELECT or tl.max(bits, axis=0) > 0:
            there = tl.load(LG + (b * S + past) * NP + index) >= 0
            group_keys = tl.load(_rows(GROUP, groups + past * NP + index, D, D))
            landmarks, gate = _far_groups(qf, group_keys, there, qk_scale, N, NP)
            if SELECT:
                picked = _picked(bits, NP)
                left, blocks = _used(picked, NP)
                landmarks = tl.where(picked, landmarks, _OFF)
                gate = tl.where(tl.max(landmarks, axis=1) > _OFF / 2, gate, _OFF)
            if FLAT:
                w = tl.where(landmarks > _OFF / 2, tl.exp2(landmarks - lse[:, None]), 0.0)
            else:
                p1 = _shares(landmarks)
                p0 = tl.exp2(gate - lse)
                w = p1 * p0[:, None]
            got = tl.zeros([BM, NP], tl.float32)
            for i in range(blocks if SELECT else N):
                place = _lowest(left) if SELECT else i
                if SELECT:
                    left &= left - 1
                cols = (past * N + place) * BS + slot
                k, v, kind = tl.load(_rows(K, cols, skt, D)), tl.load(_rows(V, cols, svt, D)), tl.load(KIND + cols)
                s = _dot(qf, tl.trans(k)) * qk_scale + tl.where(kind == _CONTENT, 0.0, _OFF)[None, :]
                p = tl.exp2(s - tl.max(s, axis=1)[:, None])
                over = 1.0 / tl.sum(p, axis=1)
                dp = _dot(do, tl.trans(v))
                mean = tl.sum(p * dp, axis=1) * over
                ds = p * (dp - mean[:, None]) * (_column(w, place, NP) * over)[:, None]
                acc += _dot(ds.to(k.dtype), k)
                got = tl.where(index[None, :] == place, mean[:, None], got)
            if FLAT:
                dx = w * (got - delta[:, None])
            else:
                mean_got = tl.sum(p1 * got, axis=1)
                dx = w * (got - mean_got[:, None])
                dx = tl.where(index[None, :] == N, (p0 * (mean_got - delta))[:, None], dx)
            dx = dx.to(qf.dtype)
            acc += _dot(dx, group_keys)
            of_groups = _dot(tl.trans(dx), qf) * scale
            tl.atomic_add(_rows(DLG, groups + past * NP + index, D, D), of_groups, mask=there[:, None])
    tl.store(_rows(DQF + here * D, rows, D, D), (acc * scale).to(DQF.dtype.element_ty))


@triton.jit
def key_grad_kernel(
    Q, QF, K, V, GROUP, GRAD, LSE, DELTA, DK, DV, DLG, KIND, LG, READERS, READER_COUNT, PICK, qk_scale, scale,
    sqb, sqh, sqt, sfb, sfh, sft, skb, skh, skt, svb, svh, svt, sgb, sgh, sgt, H, T, S, REP,
    N: tl.constexpr, NP: tl.constexpr, BS: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, FLAT: tl.constexpr,
    RANGE: tl.constexpr, SELECT: tl.constexpr,
):  # fmt: skip
    block, h_kv = tl.program_id(0), tl.program_id(1) % (H // REP)
    b = (tl.program_id(1) // (H // REP)).to(tl.int64)
    segment, j = block // N, block % N
    cols = block * BS + tl.arange(0, BS)
    K += b * skb + h_kv * skh
    k = tl.load(_rows(K, cols, skt, D))
    v = tl.load(_rows(V + b * svb + h_kv * svh, cols, svt, D))
    kind = tl.load(KIND + b * T + cols)
    dk, dv = tl.zeros([BS, D], tl.float32), tl.zeros([BS, D], tl.float32)
    tiles: tl.constexpr = N * BS // BM

    first = block * BS // BM
    count = (segment + 1) * tiles - first
    for n in range(count * REP):
        h = h_kv * REP + n // count
        rows = (first + n % count) * BM + tl.arange(0, BM)
        here = (b * H + h) * T
        q = tl.load(_rows(Q + b * sqb + h * sqh, rows, sqt, D))
        do = tl.load(_rows(GRAD + b * sgb + h * sgh, rows, sgt, D))
        lse, delta = tl.load(LSE + here + rows), tl.load(DELTA + here + rows)
        s = _dot(q, tl.trans(k)) * qk_scale
        p, top, total, mark, marked, own = _near(s, kind, rows, cols, block, BS)
        w, ds = _near_grads(s, p, total, mark, marked, own, kind, lse, _dot(do, tl.trans(v)), delta)
        dv += _dot(tl.trans(w.to(do.dtype)), do)
        dk += _dot(tl.trans(ds.to(q.dtype)), q)

    index = tl.arange(0, NP)
    there = tl.load(LG + (b * S + segment) * NP + index) >= 0
    group_keys = tl.load(_rows(GROUP, (tl.program_id(1).to(tl.int64) * S + segment) * NP + index, D, D))
    bias = tl.where(kind == _CONTENT, 0.0, _OFF)
    per_reader = tiles * REP
    if SELECT:
        READERS += (tl.program_id(1).to(tl.int64) * (T // BS) + block) * (T // BM * REP)
        reads = tl.load(READER_COUNT + tl.program_id(1) * (T // BS) + block)
    else:
        READERS += (b * S + segment) * S
        reads = tl.load(READER_COUNT + b * S + segment) * per_reader
    for n in range(reads):
        if SELECT:
            entry = tl.load(READERS + n)
            h = h_kv * REP + entry % REP
            rows = entry // REP * BM + tl.arange(0, BM)
        else:
            reader = _nth(READERS, n // per_reader, RANGE)
            h = h_kv * REP + n % REP
            rows = reader * (N * BS) + (n % per_reader) // REP * BM + tl.arange(0, BM)
        here = (b * H + h) * T
        qf = tl.load(_rows(QF + b * sfb + h * sfh, rows, sft, D))
        do = tl.load(_rows(GRAD + b * sgb + h * sgh, rows, sgt, D))
        lse = tl.load(LSE + here + rows)
        landmarks, gate = _far_groups(qf, group_keys, there, qk_scale, N, NP)
        if SELECT:
            landmarks = tl.where(_picked(_bits(PICK + here * S, segment, rows, T), NP), landmarks, _OFF)
        mark = _column(landmarks, j, NP)
        if FLAT:
            weight = tl.exp2(mark - lse)
        else:
            top = tl.max(landmarks, axis=1)
            weight = tl.exp2(mark - top + gate - lse) / tl.sum(tl.exp2(landmarks - top[:, None]), axis=1)
        # a block that is not there: its softmax is of nothing
        weight = tl.where(mark > _OFF / 2, weight, 0.0)
        s = _dot(qf, tl.trans(k)) * qk_scale + bias[None, :]
        p = tl.exp2(s - tl.max(s, axis=1)[:, None])
        over = 1.0 / tl.sum(p, axis=1)
        dp = _dot(do, tl.trans(v))
        mean = tl.sum(p * dp, axis=1) * over
        w = p * (weight * over)[:, None]
        dv += _dot(tl.trans(w.to(do.dtype)), do)
        dk += _dot(tl.trans((w * (dp - mean[:, None])).to(qf.dtype)), qf)

    # what the queries' kernel found for this block's landmark and gate
    groups = (tl.program_id(1).to(tl.int64) * S + segment) * NP
    of_landmark = tl.load(DLG + (groups + j) * D + tl.arange(0, D))
    of_gate = tl.load(DLG + (groups + N) * D + tl.arange(0, D))
    dk = dk * scale + tl.where(kind == _LANDMARK, 1.0, 0.0)[:, None] * of_landmark[None, :]
    dk += tl.where(kind == _GATE, 1.0, 0.0)[:, None] * of_gate[None, :]
    # contiguous, (B, H_kv, T, D)
    here = tl.program_id(1).to(tl.int64) * T * D
    tl.store(_rows(DK + here, cols, D, D), dk.to(DK.dtype.element_ty))
    tl.store(_rows(DV + here, cols, D, D), dv.to(DV.dtype.element_ty))
