"""The attention itself, on tensors: one signature, several implementations."""

from typing import Literal

import torch
from torch import Tensor

from hierlandmark.config import Mode
from hierlandmark.layout import Layout
from hierlandmark.ops.blockwise import landmark_attention_blockwise
from hierlandmark.ops.fused import landmark_attention_fused, preferred
from hierlandmark.ops.inputs import inputs_of
from hierlandmark.ops.reference import landmark_attention_reference

Impl = Literal["reference", "blockwise", "fused"]
_IMPLS = {
    "reference": landmark_attention_reference,
    "blockwise": landmark_attention_blockwise,
    "fused": landmark_attention_fused,
}


def landmark_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    *,
    mode: Mode = "hierarchical",
    scale: float | None = None,
    q_far: Tensor | None = None,
    impl: Impl | None = None,
    finite: bool = False,
) -> Tensor:
    """Hierarchical or flat landmark attention over texts laid out in segments (docs/design.md, section 3).

    Weight of content token j for query i: P0(j) in i's own block; P0(landmark) P2(j | block) in an earlier block of
    its segment; P0(gate) P1(landmark | segment) P2(j | block) in an earlier segment, or in flat mode
    P0(landmark) P2(j | block) as in Mohtashami & Jaggi 2023, section 3.1. Landmarks and gates have weight 0. Where
    the local window is the segment, j in i's own segment has P0(j).

    Args:
        q: (B, H, T, D), T = S * P of the layout, rotated to positions in the segment.
        k, v: (B, H_kv, T, D); H is a multiple of H_kv. Values at padding are ignored, NaN among them. All is computed
            in v's dtype, sums and softmaxes in fp32 at least.
        scale: factor on the logits, by default 1 / sqrt(D).
        q_far: (B, H, T, D), the queries rotated for looking into other segments; by default q. Or (n, B, H, T, D), the
            first for the segment right before a query's own, the second for the one before that, and so on, the last
            for all others.
        impl: None chooses "fused" (Triton) on a GPU in half precision where it can take the tensors, else "blockwise".
        finite: padding holds finite numbers, and what comes out there does not matter: saves a copy of everything.

    Returns:
        (B, H, T, D) in q's dtype; zero where the query is padding, unless `finite`.

    Raises:
        ValueError: T does not fit the layout, H is not a multiple of H_kv, q_far is no turned q, or "fused" cannot
            take the tensors.
    """
    out_dtype = q.dtype
    with torch.autocast(q.device.type, enabled=False):
        q, k, v, q_far, scale, pad = inputs_of(q, k, v, layout, scale, q_far, finite=finite)
        attend = _IMPLS[impl or ("fused" if preferred(v, layout) else "blockwise")]
        out = attend(q, k, v, layout, mode=mode, scale=scale, q_far=q_far)
        return (out if pad is None else out.masked_fill(pad, 0.0)).to(out_dtype)
