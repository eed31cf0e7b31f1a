"""Plain causal attention over the last `window` tokens, what landmark attention is measured against.

Through many layers a token hears of what stood further back, as with the cached states of Transformer-XL (Dai et al.
2019, arXiv 1901.02860), of which this is the form with positions in the text and gradients into the cache: sliding, or
with `cache` in steps of a window, as Transformer-XL reads and as Mohtashami & Jaggi 2023 count its attention size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def banded_attention(
    q: Tensor, k: Tensor, v: Tensor, window: int | None, *, cache: int | None = None, scale: float | None = None
) -> Tensor:
    """Causal attention in which a token sees itself and the `window` - 1 before it, by torch's fused attention.

    Work and memory are linear in the text: chunks of `window` tokens see themselves and the chunk before.

    Args:
        q: (B, H, T, D).
        k, v: (B, H_kv, T, D); H is a multiple of H_kv. All is computed in v's dtype.
        window: None for all before.
        cache: the text goes in steps of `window` tokens, and a token sees those of its own step before it and the
            `cache` tokens before the step; None for a window that slides.

    Returns:
        (B, H, T, D) in q's dtype.

    Raises:
        ValueError: a window under 1, or a cache under 0 or without a window.
    """
    if cache is not None and (cache < 0 or window is None):
        raise ValueError(f"expected a cache of 0 tokens or more beside a window, got {cache!r} and window {window!r}")
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
        if cache is not None:
            return _stepped(q, k, v, cache, T, scale).to(dtype)
        first = F.scaled_dot_product_attention(q[:, 0], k[:, 0], v[:, 0], is_causal=True, scale=scale)
        # (B * (n - 1), H, 2 W, D)
        keys, values = (torch.cat((x[:, :-1], x[:, 1:]), dim=3).flatten(0, 1) for x in (k, v))
        place = torch.arange(2 * window, device=q.device)
        behind = place[window:, None] - place
        mask = (behind >= 0) & (behind < window)
        rest = F.scaled_dot_product_attention(q[:, 1:].flatten(0, 1), keys, values, attn_mask=mask, scale=scale)
        out = torch.cat((first.unsqueeze(1), rest.unflatten(0, (B, n - 1))), dim=1)
        return out.transpose(1, 2).flatten(2, 3)[:, :, :T].to(dtype)


def _stepped(q: Tensor, k: Tensor, v: Tensor, cache: int, T: int, scale: float | None) -> Tensor:
    """Steps of W tokens that see themselves and `cache` tokens before: (B, n, H, W, D) each -> (B, H, T, D)."""
    n, W = q.shape[1], q.shape[3]
    # (B, H, cache + n * W, D) to (B, n, H, cache + W, D): what each step sees, empty before the text
    keys, values = (
        F.pad(x.transpose(1, 2).flatten(2, 3), (0, 0, cache, 0)).unfold(2, cache + W, W).permute(0, 2, 1, 4, 3)
        for x in (k, v)
    )
    query, place = (torch.arange(count, device=q.device) for count in (W, cache + W))
    step = torch.arange(n, device=q.device)
    exists = step[:, None] * W - cache + place >= 0  # (n, cache + W)
    mask = exists[:, None, None] & (place <= query[:, None] + cache)
    out = F.scaled_dot_product_attention(
        q.flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1), scale=scale,
        attn_mask=mask.expand(q.shape[0], n, 1, W, cache + W).flatten(0, 1),
    )  # fmt: skip
    return out.unflatten(0, (-1, n)).transpose(1, 2).flatten(2, 3)[:, :, :T]
