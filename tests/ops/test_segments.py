"""The fast forward for encoding equals the reference on single segments."""

import pytest
import torch

from hierlandmark.layout import Kind
from hierlandmark.ops import landmark_attention
from hierlandmark.ops.segments import segment_attention
from tests.ops.cases import Case, at, padding, random_tensors
from tests.ops.compare import assert_near

SINGLE = [
    # all full; none full; one short among full ones; a text of one token
    Case(lengths=((26,), (26,)), heads=9, kv_heads=3),
    Case(lengths=((13,), (9,), (20,)), heads=6, kv_heads=2),
    Case(lengths=((26,), (7,), (25,))),
    Case(lengths=((1,), (26,))),
    Case(lengths=((27,), (12,)), sink=False, heads=4, kv_heads=4),
    Case(lengths=((5,), (2,)), blocks=1),
    Case(lengths=((2,), (1,)), block_size=5, blocks=2, heads=1, kv_heads=1),
    Case(lengths=((502,),), block_size=64, blocks=8, heads=3, kv_heads=1, width=64),
    Case(lengths=((26,), (9,)), local_window="segment"),
    Case(lengths=((131,),), block_size=64, blocks=8, heads=3, kv_heads=1, width=64),
]
everywhere = pytest.mark.parametrize(
    "case", SINGLE, ids=lambda case: f"{case}-{'-'.join(str(n) for (n,) in case.lengths)}"
)


@everywhere
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_it_is_the_reference(case: Case, dtype: torch.dtype) -> None:
    # encoding embeds padding like any token, so what stands there is a number
    (q, _, k, v), _ = random_tensors(case, dtype, at_padding=1.0)
    expected = landmark_attention(q.double(), k.double(), v.double(), case.layout, impl="reference")
    out = segment_attention(q, k, v, case.layout, scale=case.width**-0.5)
    assert out.dtype == dtype
    pad = padding(case.layout)
    assert out.isfinite().all()
    assert_near("out", out.masked_fill(pad, 0.0), expected, dtype)


@everywhere
def test_rows_sum_to_one(case: Case) -> None:
    (q, _, k, v), _ = random_tensors(case, torch.float32, at_padding=1.0)
    out = segment_attention(q, k, torch.ones_like(v), case.layout, scale=case.width**-0.5)
    ones = torch.ones_like(out)
    assert_near("out", out.masked_fill(padding(case.layout), 1.0), ones)


@everywhere
def test_values_of_landmarks_and_gates_and_padding_are_never_read(case: Case) -> None:
    (q, _, k, v), _ = random_tensors(case, torch.float32, at_padding=1.0)
    pad = padding(case.layout)
    before = segment_attention(q, k, v, case.layout, scale=1.0).masked_fill(pad, 0.0)
    v = v.masked_fill(at(case.layout, Kind.LANDMARK, Kind.GATE, Kind.PAD), 1e6)
    after = segment_attention(q, k, v, case.layout, scale=1.0).masked_fill(pad, 0.0)
    assert torch.equal(after, before)


def test_a_changed_token_changes_nothing_before_it() -> None:
    case = SINGLE[0]
    (q, _, k, v), _ = random_tensors(case, torch.float32)
    before = segment_attention(q, k, v, case.layout, scale=1.0)
    for position in (1, 6, 7, 8, 20, 30, 31):
        changed = [tensor.clone() for tensor in (q, k, v)]
        for tensor in changed:
            tensor[:, :, position] += 3.0
        after = segment_attention(changed[0], changed[1], changed[2], case.layout, scale=1.0)
        assert torch.equal(after[:, :, :position], before[:, :, :position])
        assert not torch.equal(after, before)


def test_two_segments_are_refused() -> None:
    case = Case(lengths=((5, 5),))
    (q, _, k, v), _ = random_tensors(case, torch.float32)
    with pytest.raises(ValueError, match="one segment a text, got 2"):
        segment_attention(q, k, v, case.layout, scale=1.0)
