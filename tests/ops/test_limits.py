"""Limit cases: no reference needed, so nothing that could drift with the code."""

import pytest
import torch
from torch import Tensor

from hierlandmark.config import Mode
from hierlandmark.layout import Kind
from hierlandmark.ops import Impl, landmark_attention
from tests.ops.cases import CASES, ON_CPU, Case, Tensors, at, padding, random_tensors, run
from tests.ops.compare import assert_all_near, assert_near

modes = pytest.mark.parametrize("mode", ["hierarchical", "flat"])
impls = pytest.mark.parametrize("impl", ON_CPU)
everywhere = pytest.mark.parametrize("case", CASES, ids=str)


@impls
@modes
@everywhere
def test_rows_sum_to_one(case: Case, mode: Mode, impl: Impl) -> None:
    (q, q_far, k, v), _ = random_tensors(case)
    out = landmark_attention(q, k, torch.ones_like(v), case.layout, mode=mode, q_far=q_far, impl=impl)
    expected = torch.ones_like(out).masked_fill(padding(case.layout), 0.0)
    assert_near("out", out, expected)


@impls
@modes
@pytest.mark.parametrize("sink", [True, False], ids=["sink", "nosink"])
@pytest.mark.parametrize("n_content", [1, 6, 11])
def test_one_block_is_causal_softmax(n_content: int, sink: bool, mode: Mode, impl: Impl) -> None:
    case = Case(lengths=((n_content,),), block_size=15, blocks=3, sink=sink, heads=6, kv_heads=2)
    tensors, grad = random_tensors(case)
    actual = run(tensors, case.layout, grad, mode=mode, impl=impl)

    # landmark and gate are queries of all that stands before them, and keys of none
    positions = int(sink) + n_content + 2
    leaves = Tensors(*(tensor[:, :, :positions].clone().requires_grad_() for tensor in tensors))
    logits = leaves.q @ leaves.k.repeat_interleave(3, 1).transpose(2, 3) * case.width**-0.5
    seen = torch.ones(positions, positions, dtype=torch.bool).tril()
    seen[:, positions - 2 :] = False
    out = logits.masked_fill(~seen, float("-inf")).softmax(-1) @ leaves.v.repeat_interleave(3, 1)
    grads = torch.autograd.grad(out, (leaves.q, leaves.k, leaves.v), grad[:, :, :positions])
    expected = dict(zip(("out", "dq", "dk", "dv"), (out, *grads), strict=True))
    for name, tensor in expected.items():
        assert_near(name, actual[name][:, :, :positions], tensor)
        assert not actual[name][:, :, positions:].any()
    assert not actual["dq_far"].any()


@pytest.mark.parametrize("sink", [True, False], ids=["sink", "nosink"])
@pytest.mark.parametrize("n_content", [26, 15, 7])
def test_one_segment_hierarchical_is_flat(n_content: int, sink: bool) -> None:
    case = Case(lengths=((n_content,), (3,)), sink=sink)
    tensors, grad = random_tensors(case)
    flat = run(tensors, case.layout, grad, mode="flat")
    assert_all_near(run(tensors, case.layout, grad), flat, torch.float64)


def test_a_block_a_segment_hierarchical_is_flat_when_gates_are_landmarks() -> None:
    # P1 over one landmark is 1, so the gate alone decides
    case = Case(lengths=((5, 5, 2, 4),), blocks=1)
    (q, q_far, k, v), _ = random_tensors(case)
    gate, landmark = (at(case.layout, kind)[0, 0, :, 0] for kind in (Kind.GATE, Kind.LANDMARK))
    k[:, :, gate] = k[:, :, landmark]
    flat = landmark_attention(q, k, v, case.layout, mode="flat", q_far=q_far)
    assert_near("out", landmark_attention(q, k, v, case.layout, q_far=q_far), flat)


@modes
def test_equal_keys_share_the_mass_equally(mode: Mode) -> None:
    # all logits 0: the third segment's third token sees three tokens, the sink, and two gates or eight landmarks
    case = Case(lengths=((26, 26, 13),))
    (q, _, k, v), _ = random_tensors(case)
    position = 2 * 32 + 3
    v = at(case.layout, Kind.CONTENT)[..., :32, :].double().expand_as(v[..., :32, :])
    v = torch.cat((v, torch.zeros_like(k[..., 32:, :])), dim=-2)
    out = landmark_attention(torch.zeros_like(q), k, v, case.layout, mode=mode)[:, :, position]
    share = 1 / (4 + 2) if mode == "hierarchical" else 4 / (4 + 8)
    assert_near("mass of the first segment", out, torch.full_like(out, share))


@impls
@modes
def test_an_isolated_segment_is_the_segment_alone(mode: Mode, impl: Impl) -> None:
    case = Case(lengths=((26, 13, 26),), reads=((0, 0, 0), (0, 0, 0), (1, 0, 0)))
    tensors, grad = random_tensors(case)
    together = run(tensors, case.layout, grad, mode=mode, impl=impl)
    alone = Case(lengths=((13,),))
    cut = slice(32, 64)
    expected = run(_rows(tensors, cut), alone.layout, grad[:, :, cut], mode=mode, impl=impl)
    for name in expected:
        assert_near(name, together[name][:, :, cut], expected[name])


@impls
@modes
def test_a_segment_reads_what_it_may_and_no_more(mode: Mode, impl: Impl) -> None:
    # the third segment reads the first only: as if the second were not there
    case = Case(lengths=((26, 13, 9),), reads=((0, 0, 0), (0, 0, 0), (1, 0, 0)))
    tensors, grad = random_tensors(case)
    grad[:, :, 32:64] = 0
    actual = run(tensors, case.layout, grad, mode=mode, impl=impl)
    kept = torch.cat((torch.arange(32), torch.arange(64, 96)))
    pair = Case(lengths=((26, 9),))
    expected = run(_rows(tensors, kept), pair.layout, grad[:, :, kept], mode=mode, impl=impl)
    for name in expected:
        assert_near(name, actual[name][:, :, kept], expected[name])
    for name in ("dq", "dq_far", "dk", "dv"):
        assert not actual[name][:, :, 32:64].any(), name


@impls
@modes
def test_a_hole_is_as_good_as_nothing(mode: Mode, impl: Impl) -> None:
    case, dense = Case(lengths=((9, 0, 17),)), Case(lengths=((9, 17),))
    tensors, grad = random_tensors(case)
    kept = torch.cat((torch.arange(32), torch.arange(64, 96)))
    actual = run(tensors, case.layout, grad, mode=mode, impl=impl)
    expected = run(_rows(tensors, kept), dense.layout, grad[:, :, kept], mode=mode, impl=impl)
    for name in expected:
        assert_near(name, actual[name][:, :, kept], expected[name])
        assert not actual[name][:, :, 32:64].any(), name


@impls
@modes
def test_a_padded_batch_is_each_row_alone(mode: Mode, impl: Impl) -> None:
    case = Case(lengths=((26, 26, 13), (26, 5, 0), (0, 0, 4)))
    tensors, grad = random_tensors(case)
    together = run(tensors, case.layout, grad, mode=mode, impl=impl)
    for b, row in enumerate(case.lengths):
        used = [n for n in row if n] if b < 2 else row
        cut = 32 * len(used)
        one = Tensors(*(tensor[b : b + 1, :, :cut] for tensor in tensors))
        layout = Case(lengths=(tuple(used),)).layout
        alone = run(one, layout, grad[b : b + 1, :, :cut], mode=mode, impl=impl)
        for name in alone:
            assert_near(f"{name} of row {b}", together[name][b : b + 1, :, :cut], alone[name])
            assert not together[name][b, :, cut:].any(), name


@modes
def test_a_longer_context_changes_no_earlier_segment(mode: Mode) -> None:
    case, prefix = Case(lengths=((26, 26, 13),)), Case(lengths=((26, 26),))
    tensors, _ = random_tensors(case)
    whole = _out(tensors, case, mode)[:, :, :64]
    assert_near("out", whole, _out(_rows(tensors, slice(64)), prefix, mode))


def _rows(tensors: Tensors, rows: slice | Tensor) -> Tensors:
    return Tensors(*(tensor[:, :, rows] for tensor in tensors))


def _out(tensors: Tensors, case: Case, mode: Mode) -> Tensor:
    return landmark_attention(tensors.q, tensors.k, tensors.v, case.layout, mode=mode, q_far=tensors.q_far)
