"""Banded attention beside a mask written out."""

import pytest
import torch

from hierlandmark.ops.banded import banded_attention
from tests.ops.compare import assert_near


def tensors(T: int, heads: int = 4, kv_heads: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, h, T, 8) for h in (heads, kv_heads, kv_heads, heads)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize(("T", "window"), [(1, 1), (5, 1), (13, 4), (12, 4), (13, 12), (13, 13), (13, 50), (13, None)])
def test_a_token_sees_the_last_tokens(T: int, window: int | None, kv_heads: int) -> None:
    q, k, v, grad = tensors(T, kv_heads=kv_heads)
    found, wanted = {}, {}
    for out, fill in ((found, banded_attention), (wanted, written_out)):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        out["out"] = fill(*leaves, window, scale=0.3)
        out |= dict(zip(("dq", "dk", "dv"), torch.autograd.grad(out["out"], leaves, grad), strict=True))
    for name, tensor in wanted.items():
        assert_near(name, found[name], tensor)


@pytest.mark.parametrize("kv_heads", [4, 1])
@pytest.mark.parametrize(("T", "window", "cache"), [(13, 4, 2), (12, 4, 4), (13, 4, 9), (13, 5, 0), (3, 5, 2)])
def test_steps_see_themselves_and_a_cache(T: int, window: int, cache: int, kv_heads: int) -> None:
    q, k, v, grad = tensors(T, kv_heads=kv_heads)
    found, wanted = {}, {}
    for out, fill in ((found, banded_attention), (wanted, written_out)):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        out["out"] = fill(*leaves, window, cache=cache, scale=0.3)
        out |= dict(zip(("dq", "dk", "dv"), torch.autograd.grad(out["out"], leaves, grad), strict=True))
    for name, tensor in wanted.items():
        assert_near(name, found[name], tensor)


def written_out(q, k, v, window, scale, cache=None):
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    i = torch.arange(q.shape[2])
    behind = i[:, None] - i
    seen = (behind >= 0) & (behind < (window or len(i)))
    if cache is not None:
        seen = (behind >= 0) & (i >= (i // window * window - cache)[:, None])
    return (q @ k.transpose(2, 3) * scale).masked_fill(~seen, float("-inf")).softmax(-1) @ v


def test_a_window_of_no_token_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 1 token"):
        banded_attention(*tensors(3)[:3], 0)
    with pytest.raises(ValueError, match="a cache of 0 tokens or more beside a window"):
        banded_attention(*tensors(3)[:3], 2, cache=-1)
    with pytest.raises(ValueError, match="beside a window"):
        banded_attention(*tensors(3)[:3], None, cache=1)
