"""The two row-wise steps of `block_attention` as Triton kernels: one pass over the logits instead of six.

A row is one (query, block) pair: P logits, softmax within the block, times the block's weight.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS = 16


@triton.jit
def _row_softmax(logits, bias, scale, rows, n_rows, N, per_batch, P: tl.constexpr, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    inside = (rows[:, None] < n_rows) & (columns[None, :] < P)
    # row = (x * T + t) * N + n; its bias is that of (x, n)
    block = (rows // per_batch) * N + rows % N
    a = tl.load(logits + rows.to(tl.int64)[:, None] * P + columns[None, :], mask=inside, other=float("-inf"))
    b = tl.load(bias + block[:, None] * P + columns[None, :], mask=inside, other=0.0)
    a = a * scale + b
    e = tl.exp(a - tl.max(a, axis=1)[:, None])
    return e / tl.sum(e, axis=1)[:, None], inside


@triton.jit
def _forward_kernel(
    logits, bias, w, p, scale, n_rows, N, per_batch, P: tl.constexpr, BLOCK: tl.constexpr, R: tl.constexpr
):
    rows = tl.program_id(0) * R + tl.arange(0, R)
    p2, inside = _row_softmax(logits, bias, scale, rows, n_rows, N, per_batch, P, BLOCK)
    weight = tl.load(w + rows, mask=rows < n_rows, other=0.0)
    where = rows.to(tl.int64)[:, None] * P + tl.arange(0, BLOCK)[None, :]
    tl.store(p + where, (p2 * weight[:, None]).to(p.dtype.element_ty), mask=inside)


@triton.jit
def _backward_kernel(
    logits, bias, w, dp, p, da, dw, scale, n_rows, N, per_batch, P: tl.constexpr, BLOCK: tl.constexpr, R: tl.constexpr
):  # fmt: skip
    rows = tl.program_id(0) * R + tl.arange(0, R)
    p2, inside = _row_softmax(logits, bias, scale, rows, n_rows, N, per_batch, P, BLOCK)
    weight = tl.load(w + rows, mask=rows < n_rows, other=0.0)
    where = rows.to(tl.int64)[:, None] * P + tl.arange(0, BLOCK)[None, :]
    d = tl.load(dp + where, mask=inside, other=0.0)
    p2 = tl.where(inside, p2, 0.0)
    g = tl.sum(p2 * d, axis=1)
    weighted = p2 * weight[:, None]
    tl.store(dw + rows, g, mask=rows < n_rows)
    tl.store(p + where, weighted.to(p.dtype.element_ty), mask=inside)
    tl.store(da + where, (weighted * (d - g[:, None])).to(da.dtype.element_ty), mask=inside)


def forward_tile(logits: Tensor, bias: Tensor, w: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """See `weighted.forward_tile`."""
    X, T, N, P = logits.shape
    p = torch.empty(logits.shape, dtype=dtype, device=logits.device)
    n_rows = X * T * N
    _forward_kernel[(triton.cdiv(n_rows, _ROWS),)](
        logits, bias.contiguous(), w.contiguous(), p, scale, n_rows, N, T * N, P, triton.next_power_of_2(P), _ROWS
    )
    return p


def backward_tile(
    logits: Tensor, bias: Tensor, w: Tensor, dp: Tensor, scale: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """See `weighted.backward_tile`."""
    X, T, N, P = logits.shape
    p, da = (torch.empty(logits.shape, dtype=dtype, device=logits.device) for _ in range(2))
    dw = torch.empty(w.shape, dtype=w.dtype, device=w.device)
    n_rows = X * T * N
    _backward_kernel[(triton.cdiv(n_rows, _ROWS),)](
        logits, bias.contiguous(), w.contiguous(), dp, p, da, dw, scale, n_rows, N, T * N,
        P, triton.next_power_of_2(P), _ROWS,
    )  # fmt: skip
    return p, da, dw
