"""Attention inside many blocks at once, each block's result scaled by a weight of its own.

out_i = sum_b w_ib sum_{j in b} softmax_j(q_i . k_j * scale) v_j. This is P2 with its weights (docs/design.md, section
3): the identity softmax_j(a_ij + log w_ib - lse_ib), with the logits recomputed in the backward pass, so that memory is
linear in queries and in keys.
"""

import sys
from typing import Any

import torch
from torch import Tensor

# elements of one chunk of logits: 2^26 fp32 are 256 MiB
CHUNK_ELEMENTS = 1 << 26


def block_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, w: Tensor, scale: float) -> Tensor:
    """Weighted sum over blocks of softmax attention inside each block.

    Args:
        q: (X, T, D).
        k, v: (X, N, P, D).
        bias: (X, N, P) fp32, added to the logits: 0 where the key counts, a large negative number where not. Finite,
            and without a gradient.
        w: (X, T, N) fp32, weight of each block; 0 leaves a block out.

    Returns:
        (X, T, D) in q's dtype.
    """
    return _BlockAttention.apply(q, k, v, bias, w, scale)  # type: ignore[no-untyped-call]


def logits_fp32(a: Tensor, b: Tensor) -> Tensor:
    """Batched a @ b^T accumulated and returned in fp32 (fp64 stays fp64): (X, T, D), (X, S, D) -> (X, T, S)."""
    if a.dtype == b.dtype and a.dtype in (torch.bfloat16, torch.float16) and a.is_cuda:
        return _WideProduct.apply(a, b)  # type: ignore[no-untyped-call, no-any-return]
    wide = torch.promote_types(a.dtype, torch.float32)
    return torch.bmm(a.to(wide), b.to(wide).transpose(1, 2))


class _WideProduct(torch.autograd.Function):
    """Half-precision operands, fp32 result: the fused product has no derivative of its own."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return torch.bmm(a, b.transpose(1, 2), out_dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        grad = grads[0].to(a.dtype)
        return torch.bmm(grad, b), torch.bmm(grad.transpose(1, 2), a)


def forward_tile(logits: Tensor, bias: Tensor, w: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """P2 times block weight: unscaled logits (X, T, N, P), bias (X, N, P), w (X, T, N) -> (X, T, N, P) in `dtype`."""
    p2 = torch.softmax(logits * scale + bias.unsqueeze(1), dim=-1)
    return (p2 * w.unsqueeze(-1)).to(dtype)


def backward_tile(
    logits: Tensor, bias: Tensor, w: Tensor, dp: Tensor, scale: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """With dp (X, T, N, P): the weighted P2 and the gradient of the scaled logits in `dtype`, and w's gradient."""
    p2 = torch.softmax(logits * scale + bias.unsqueeze(1), dim=-1)
    dw = (p2 * dp).sum(-1)
    p = p2 * w.unsqueeze(-1)
    da = p * (dp - dw.unsqueeze(-1))
    return p.to(dtype), da.to(dtype), dw


class _BlockAttention(torch.autograd.Function):
    """Chunks over queries; nothing quadratic is saved."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, w: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v, bias, w)
        ctx.scale = scale
        out = torch.empty_like(q)
        keys, values, n, size = _flat(k), _flat(v), k.shape[1], k.shape[2]
        for rows in _chunks(q, n * size):
            logits = logits_fp32(q[:, rows], keys).unflatten(-1, (n, size))
            p = _tiles(q).forward_tile(logits, bias, w[:, rows], scale, v.dtype)
            out[:, rows] = torch.bmm(p.flatten(-2), values)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, w = ctx.saved_tensors
        grad = grads[0].contiguous()
        keys, values, n, size = _flat(k), _flat(v), k.shape[1], k.shape[2]
        dq, dw = torch.empty_like(q), torch.empty_like(w)
        wide = torch.promote_types(q.dtype, torch.float32)
        dk = torch.zeros(keys.shape, dtype=wide, device=q.device)
        dv = torch.zeros(values.shape, dtype=wide, device=q.device)
        for rows in _chunks(q, n * size):
            logits = logits_fp32(q[:, rows], keys).unflatten(-1, (n, size))
            dp = logits_fp32(grad[:, rows], values).unflatten(-1, (n, size))
            p, da, dw[:, rows] = _tiles(q).backward_tile(logits, bias, w[:, rows], dp, ctx.scale, q.dtype)
            p, da = p.flatten(-2), da.flatten(-2)
            dv += torch.bmm(p.transpose(1, 2), grad[:, rows])
            dk += torch.bmm(da.transpose(1, 2), q[:, rows])
            dq[:, rows] = torch.bmm(da, keys) * ctx.scale
        dk *= ctx.scale
        return dq, dk.view_as(k).to(k.dtype), dv.view_as(v).to(v.dtype), None, dw, None


def _flat(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], -1, x.shape[-1])


def _chunks(q: Tensor, keys: int) -> list[slice]:
    size = max(64, CHUNK_ELEMENTS // max(1, q.shape[0] * keys))
    return [slice(start, start + size) for start in range(0, q.shape[1], size)]


def _tiles(like: Tensor) -> Any:
    """Where the row-wise steps are: Triton on a GPU in single or half precision, plain torch elsewhere."""
    if like.is_cuda and like.dtype != torch.float64:
        from hierlandmark.ops import tiles_triton

        return tiles_triton
    return sys.modules[__name__]
