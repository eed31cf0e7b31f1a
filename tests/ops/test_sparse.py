"""Attention to chosen blocks: its limits first, then who is chosen, against `hierlandmark.select`."""

import pytest
import torch

from hierlandmark.config import Mode
from hierlandmark.layout import Kind, Layout
from hierlandmark.ops import landmark_attention
from hierlandmark.ops.sparse import landmark_attention_sparse
from hierlandmark.select import gate_mass, top
from tests.ops.cases import CASES, Case, Tensors, at, random_tensors
from tests.ops.compare import assert_near

sparse = pytest.importorskip("tests.ops.sparse", reason="triton is not installed")
Choice, EVERYTHING = sparse.Choice, sparse.EVERYTHING

modes = pytest.mark.parametrize("mode", ["hierarchical", "flat"])
cases = pytest.mark.parametrize("case", CASES, ids=str)
FEW = CASES[0]


@modes
@cases
def test_everything_chosen_is_the_dense_form(case: Case, mode: Mode) -> None:
    tensors, _ = random_tensors(case)
    dense = landmark_attention(tensors.q, tensors.k, tensors.v, case.layout, mode=mode, q_far=tensors.q_far)
    assert_near("out", sparse.sparse(tensors, case, mode, Choice(EVERYTHING, EVERYTHING)), dense)


@modes
def test_nothing_earlier_is_the_local_window(mode: Mode) -> None:
    """A query that finds no mass enough reads as if its segment stood alone."""
    tensors, _ = random_tensors(FEW)
    alone = Layout(FEW.layout.config, FEW.layout.kinds, FEW.layout.reads & False)
    window = landmark_attention(tensors.q, tensors.k, tensors.v, alone, mode=mode, q_far=tensors.q_far)
    assert_near("out", sparse.sparse(tensors, FEW, mode, Choice(2, 2, threshold=1.0)), window)
    assert (sparse.sparse(tensors, FEW, mode, Choice(2, 2)) - window).abs().amax() > 0.1


@modes
@cases
def test_rows_sum_to_one(case: Case, mode: Mode) -> None:
    tensors, _ = random_tensors(case)
    ones = tensors._replace(v=torch.ones_like(tensors.v))
    out = sparse.sparse(ones, case, mode, Choice(1, 2))
    real = ~at(case.layout, Kind.PAD).expand_as(out)
    torch.testing.assert_close(out[real], torch.ones_like(out[real]))


@modes
def test_what_comes_later_changes_no_earlier_block(mode: Mode) -> None:
    tensors, _ = random_tensors(FEW)
    bs = FEW.block_size
    cut = 5 * bs
    changed = Tensors(*(torch.cat((x[:, :, :cut], -x[:, :, cut:]), 2) for x in tensors))
    before, after = (sparse.sparse(x, FEW, mode, Choice(1, 2)) for x in (tensors, changed))
    torch.testing.assert_close(before[:, :, :cut], after[:, :, :cut])
    assert (before - after)[:, :, cut:].abs().amax() > 0.1


def test_blocks_are_those_of_greatest_mass_as_recall_selects_them() -> None:
    """One block of queries of the last segment, heads of one group; chosen as a reader of a store would."""
    case, choice = Case(lengths=((26, 26, 26, 26),), heads=3, kv_heads=1), Choice(2, 3)
    tensors, _ = random_tensors(case)
    layout, bs, N = case.layout, case.block_size, case.blocks
    first = 3 * case.layout.config.segment_size
    rows = slice(first, first + bs)
    kinds = torch.from_numpy(layout.kinds[0].reshape(-1))
    near, far = tensors.q[0, :, rows] @ tensors.k[0].mT * 8**-0.5, tensors.q_far[0, :, rows] @ tensors.k[0].mT * 8**-0.5
    index = torch.arange(len(kinds))
    # the first block of its segment: sink and content so far, no landmark yet
    own = (index >= first) & (index <= index[rows, None]) & ((kinds == Kind.CONTENT) | (kinds == Kind.SINK))
    gates = far[..., (kinds == Kind.GATE) & (index < first)]
    landmarks = far[..., (kinds == Kind.LANDMARK) & (index < first)].unflatten(-1, (3, N))

    mass = gate_mass(gates, near.masked_fill(~own, float("-inf")).logsumexp(-1)).flatten(0, 1)[:, None]
    everyone = torch.ones(mass.shape[:2], dtype=torch.bool)
    # queries and heads choose together, as heads of one token do there
    opened = top(mass, choice.segments, "token", everyone)
    weight = (mass * opened)[..., None] * landmarks.softmax(-1).flatten(0, 1)[:, None]
    expected = top(weight.flatten(2), choice.blocks, "token", everyone)[0, 0]
    chosen, active = sparse.chosen_by_reference(tensors, case, "hierarchical", choice)
    assert torch.equal(chosen[0, 0, first // bs, : 3 * N], expected)
    assert not chosen[0, 0, first // bs, 3 * N :].any()
    assert active[0, :, rows].all() and not active[0, :, : first // 3].any()


@modes
def test_no_more_is_opened_and_read_than_asked_for(mode: Mode) -> None:
    tensors, _ = random_tensors(FEW)
    chosen, _ = sparse.chosen_by_reference(tensors, FEW, mode, Choice(1, 3))
    assert chosen.sum(-1).amax() == 3
    segments = chosen.unflatten(-1, (3, FEW.blocks)).any(-1).sum(-1)
    assert segments.amax() == (1 if mode == "hierarchical" else 2)


def test_gradients_and_counts_below_one_are_refused() -> None:
    tensors, _ = random_tensors(FEW)
    leaves = Tensors(*(x.detach().requires_grad_() for x in tensors))
    with pytest.raises(ValueError, match="no gradient"):
        sparse.sparse(leaves, FEW, "flat", Choice(1, 1))
    with torch.no_grad():
        assert not sparse.sparse(leaves, FEW, "flat", Choice(1, 1)).requires_grad
    with pytest.raises(ValueError, match="blocks=0"):
        sparse.sparse(tensors, FEW, "flat", Choice(1, 0))


def test_kernels_that_cannot_take_the_tensors_say_so() -> None:
    tensors, _ = random_tensors(FEW)
    with pytest.raises(ValueError, match="impl='reference'"):
        landmark_attention_sparse(tensors.q, tensors.k, tensors.v, FEW.layout, impl="fused")
