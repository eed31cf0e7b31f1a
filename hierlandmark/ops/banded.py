"""Plain causal attention over the last `window` tokens, what landmark attention is measured against.

Through many layers a token hears of what stood further back, as with the cached states of Transformer-XL (Dai et al.
2019, arXiv 1901.02860), of which this is the form with positions in the text and gradients into the cache.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def banded_attention(q: Tensor, k: Tensor, v: Tensor, window: int | None, *, scale: float | None = None) -> Tensor:
    """Causal attention in which a token sees itself and the `window` - 1 before it, by torch's fused attention.

    Work and memory are linear in the text: chunks of `window` tokens see themselves and the chunk before.

    Args:
        q: (B, H, T, D).
        k, v: (B, H_kv, T, D); H is a multiple of H_kv. All is computed in v's dtype.
        window: None for all before.

    Returns:
        (B, H, T, D) in q's dtype.

    Raises:
        ValueError: a window under 1.
    """
    if window is not None and window < 1:
        raise ValueError(f"expected a window of at least 1 token, got {window!r}")
    B, H, T, _ = q.shape
    dtype = q.dtype
    q, k = q.to(v.dtype), k.to(v.dtype)
    with torch.autocast(q.device.type, enabled=False):
        if window is None or window >= T:
            gqa = k.shape[1] != H
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=gqa)
            return out.to(dtype)
        # with a mask, heads that share keys have no fused kernel on a GPU
        k, v = (x.repeat_interleave(H // x.shape[1], dim=1) for x in (k, v))
        n = -(-T // window)
        q, k, v = (F.pad(x, (0, 0, 0, n * window - T)).unflatten(2, (n, window)).transpose(1, 2) for x in (q, k, v))
        first = F.scaled_dot_product_attention(q[:, 0], k[:, 0], v[:, 0], is_causal=True, scale=scale)
        # (B * (n - 1), H, 2 W, D)
        keys, values = (torch.cat((x[:, :-1], x[:, 1:]), dim=3).flatten(0, 1) for x in (k, v))
        place = torch.arange(2 * window, device=q.device)
        behind = place[window:, None] - place
        mask = (behind >= 0) & (behind < window)
        rest = F.scaled_dot_product_attention(q[:, 1:].flatten(0, 1), keys, values, attn_mask=mask, scale=scale)
        out = torch.cat((first.unsqueeze(1), rest.unflatten(0, (B, n - 1))), dim=1)
        return out.transpose(1, 2).flatten(2, 3)[:, :, :T].to(dtype)
