import math

import pytest
import torch
from torch import Tensor

from hierlandmark.ops import weighted
from hierlandmark.ops.weighted import block_attention, logits_fp32
from tests.ops.blocks import BLOCK_CASES, BlockCase, by_autograd, by_block_attention, random_blocks
from tests.ops.compare import assert_all_near, assert_near

everywhere = pytest.mark.parametrize("case", BLOCK_CASES, ids=str)


@everywhere
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=["fp64", "fp32", "bf16"])
def test_values_and_gradients_are_autograd_s(case: BlockCase, dtype: torch.dtype) -> None:
    actual = by_block_attention(*random_blocks(case, dtype))
    assert_all_near(actual, by_autograd(*random_blocks(case)), dtype)


@everywhere
def test_it_is_one_softmax_with_a_bias_a_block(case: BlockCase) -> None:
    """The identity of docs/design.md, section 3: softmax_j(a_ij + log w_ib - lse_ib), for weights that sum to 1."""
    (q, k, v, bias, w), _, scale = random_blocks(case)
    w = w.masked_fill(w.sum(-1, keepdim=True) == 0, 1.0)
    w = w / w.sum(-1, keepdim=True)
    logits = torch.einsum("xtd,xnpd->xtnp", q, k) * scale + bias.unsqueeze(1)
    shifted = logits + (w.log() - logits.logsumexp(-1)).unsqueeze(-1)
    expected = shifted.flatten(-2).softmax(-1) @ v.flatten(1, 2)
    assert_near("out", block_attention(q, k, v, bias, w, scale), expected)


def test_gradcheck() -> None:
    (q, k, v, bias, w), _, scale = random_blocks(BlockCase(X=2, T=3, N=2, P=3, D=2))
    leaves = [tensor.requires_grad_() for tensor in (q, k, v, w)]

    def attend(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
        return block_attention(q, k, v, bias, w, scale)

    assert torch.autograd.gradcheck(attend, leaves)


@pytest.mark.parametrize("rows", [64, 100, 129])
def test_chunks_change_nothing(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = BlockCase(X=2, T=130, N=3, P=7, D=5)
    inputs = random_blocks(case)
    whole = by_block_attention(*inputs)
    monkeypatch.setattr(weighted, "CHUNK_ELEMENTS", rows * case.X * case.N * case.P)
    assert_all_near(by_block_attention(*inputs), whole, torch.float64)


def test_chunks_cover_every_query_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weighted, "CHUNK_ELEMENTS", 100 * 2 * 15)
    chunks = weighted._chunks(torch.empty(2, 230, 1), 15)
    assert [range(230)[rows] for rows in chunks] == [range(100), range(100, 200), range(200, 230)]
    # never fewer than 64 rows, however many keys there are
    assert len(weighted._chunks(torch.empty(2, 230, 1), 10**9)) == math.ceil(230 / 64)
    assert weighted._chunks(torch.empty(2, 0, 1), 15) == []


def test_a_block_of_weight_zero_is_left_out_but_feels_its_weight() -> None:
    (q, k, v, bias, w), grad, scale = random_blocks(BlockCase(X=1, T=5, N=3, P=4, D=4))
    w[..., 1] = 0
    result = by_block_attention((q, k, v, bias, w), grad, scale)
    others = [0, 2]
    without = by_block_attention((q, k[:, others], v[:, others], bias[:, others], w[..., others]), grad, scale)
    assert_near("out", result["out"], without["out"])
    assert not result["dk"][:, 1].any()
    assert not result["dv"][:, 1].any()
    # d out / d w of the block is what the block would have said
    logits = q @ k[:, 1].transpose(1, 2) * scale + bias[:, 1, None]
    assert_near("dw", result["dw"][..., 1], ((logits.softmax(-1) @ v[:, 1]) * grad).sum(-1))


def test_no_weight_at_all_gives_zero() -> None:
    (q, k, v, bias, w), grad, scale = random_blocks(BlockCase(X=2, T=5, N=3, P=4, D=4))
    result = by_block_attention((q, k, v, bias, torch.zeros_like(w)), grad, scale)
    assert not any(result[name].any() for name in ("out", "dq", "dk", "dv"))


def test_a_masked_key_is_never_seen() -> None:
    (q, k, v, bias, w), grad, scale = random_blocks(BlockCase(X=2, T=5, N=2, P=4, D=4))
    # the second group: in the first this whole block is masked
    bias[1, 1, 2] = -1e30
    before = by_block_attention((q, k, v, bias, w), grad, scale)
    k[1, 1, 2], v[1, 1, 2] = 50.0, 50.0
    after = by_block_attention((q, k, v, bias, w), grad, scale)
    for name in before:
        assert torch.equal(before[name], after[name]), name
    assert not after["dk"][1, 1, 2].any()
    assert not after["dv"][1, 1, 2].any()


def test_strided_inputs_are_welcome() -> None:
    (q, k, v, bias, w), grad, scale = random_blocks(BlockCase(X=3, T=70, N=2, P=5, D=4))
    expected = by_block_attention((q, k, v, bias, w), grad, scale)
    strided = tuple(tensor.transpose(0, -1).contiguous().transpose(0, -1) for tensor in (q, k, v, bias, w))
    assert_all_near(by_block_attention(strided, grad, scale), expected, torch.float64)  # type: ignore[arg-type]
    # a sum hands back a gradient that is one number, expanded
    ones = by_block_attention((q, k, v, bias, w), torch.ones(()).double().expand_as(q), scale)
    assert_all_near(ones, by_block_attention((q, k, v, bias, w), torch.ones_like(q), scale), torch.float64)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
    ids=str,
)
def test_logits_are_at_least_fp32(dtype: torch.dtype, expected: torch.dtype) -> None:
    a, b = torch.randn(2, 3, 8).to(dtype), torch.randn(2, 5, 8).to(dtype)
    logits = logits_fp32(a, b)
    assert logits.dtype == expected
    assert_near("logits", logits, a.double() @ b.double().transpose(1, 2))
