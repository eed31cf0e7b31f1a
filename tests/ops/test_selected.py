"""Limit cases of selecting in the training form: everything, nothing; and beside what recall reads from a store."""

import pytest
import torch

from hierlandmark.config import Granularity, Mode, RecallConfig
from hierlandmark.layout import Kind
from hierlandmark.ops import landmark_attention
from hierlandmark.ops.fused import _reading_tiles
from hierlandmark.ops.selected import Counts, _by_kernels, selected_attention
from tests.ops.cases import CASES, Case, Tensors, at, padding, random_tensors, run, selecting
from tests.ops.compare import assert_all_near, assert_near

GRANULARITIES: tuple[Granularity, ...] = ("head_token", "head", "token", "shared")
modes = pytest.mark.parametrize("mode", ["hierarchical", "flat"])
granularities = pytest.mark.parametrize("granularity", GRANULARITIES)
# six segments, the last three of which look back
LONG = Case(lengths=((26, 26, 13, 26, 9, 26), (26, 5, 26, 0, 26, 26)))


@modes
@granularities
@pytest.mark.parametrize("case", [*CASES, LONG], ids=str)
def test_everything_selected_is_the_dense_form(case: Case, granularity: Granularity, mode: Mode) -> None:
    tensors, grad = random_tensors(case)
    actual = selecting(tensors, case, grad, mode=mode, granularity=granularity, segments=99, blocks=999)
    expected = run(tensors, case.layout, grad, mode=mode)
    assert_all_near(actual, expected, torch.float64)


@modes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_everything_selected_in_the_precisions_that_train(dtype: torch.dtype, mode: Mode) -> None:
    tensors, grad = random_tensors(LONG, dtype)
    exact, exact_grad = random_tensors(LONG)
    expected = run(exact, LONG.layout, exact_grad, mode=mode)
    actual = selecting(tensors, LONG, grad, mode=mode, segments=99, blocks=999)
    assert_all_near(actual, expected, dtype)


@modes
@granularities
def test_nothing_over_the_threshold_is_the_local_window(granularity: Granularity, mode: Mode) -> None:
    tensors, grad = random_tensors(LONG)
    counts = Counts()
    options = {"threshold": 1 - 1e-12, "granularity": granularity, "counts": counts}
    actual = selecting(tensors, LONG, grad, mode=mode, **options)
    alone = Case(lengths=LONG.lengths, reads=((0,) * 6,) * 6)
    assert_all_near(actual, run(tensors, alone.layout, grad, mode=mode), torch.float64)
    found = counts.get()
    assert found["queries_skipped"] == found["queries"] > 0
    assert found["windows_skipped"] == found["windows"] == 5 + 4
    assert found["blocks_read"] == found["content_products"] == 0


@modes
@granularities
def test_rows_sum_to_one_and_gradients_are_finite(granularity: Granularity, mode: Mode) -> None:
    (q, q_far, k, v), grad = random_tensors(LONG)
    options = {"threshold": 0.3, "granularity": granularity, "segments": 2, "blocks": 3}
    ones = Tensors(q, q_far, k, torch.ones_like(v))
    out = selecting(ones, LONG, grad, mode=mode, **options)["out"]
    assert_near("out", out, torch.ones_like(out).masked_fill(padding(LONG.layout), 0.0))
    found = selecting(Tensors(q, q_far, k, v), LONG, grad, mode=mode, **options)
    assert all(tensor.isfinite().all() for tensor in found.values())


@modes
@granularities
def test_gradients_are_those_of_a_fixed_choice(granularity: Granularity, mode: Mode) -> None:
    # a small step changes no choice, so differences of values are the gradient's to predict
    case = Case(lengths=((26, 13, 9),))
    tensors, grad = random_tensors(case, at_padding=0.0)
    options = {"mode": mode, "granularity": granularity, "segments": 1, "blocks": 2, "threshold": 0.2}
    grads = selecting(tensors, case, grad, **options)
    generator = torch.Generator().manual_seed(1)
    for i, name in enumerate(Tensors._fields):
        step = 1e-6 * torch.randn(tensors[i].shape, generator=generator, dtype=torch.float64)
        up, down = (
            selecting(tensors._replace(**{name: tensors[i] + sign * step}), case, grad, **options)["out"]
            for sign in (1, -1)
        )
        expected = ((up - down) * grad).sum() / 2
        assert abs(float((grads[f"d{name}"] * step).sum() - expected)) < 1e-6 * abs(float(expected)) + 1e-13, name


@modes
def test_few_selected_differ_from_many(mode: Mode) -> None:
    tensors, grad = random_tensors(LONG)
    few, many = (selecting(tensors, LONG, grad, mode=mode, segments=1, blocks=n)["out"] for n in (1, 4))
    assert (few - many)[:, :, 32:].abs().max() > 0.01
    assert_near("first segment", few[:, :, :32], many[:, :, :32])


def test_work_is_counted() -> None:
    case = Case(lengths=((26, 26, 26),), heads=4, kv_heads=2)
    (q, q_far, k, v), _ = random_tensors(case)
    work = {}
    for mode in ("hierarchical", "flat"):
        counts = Counts()
        config = RecallConfig(segments=1, blocks=2, threshold=0.0)
        selected_attention(q, k, v, case.layout, config, mode=mode, q_far=q_far, counts=counts)
        work[mode] = counts.get()
    queries = 2 * 32 * 4
    for found in work.values():
        assert (found["queries"], found["tokens"], found["windows"]) == (queries, 64, 2)
        assert found["queries_skipped"] == found["tokens_skipped"] == found["windows_skipped"] == 0
        assert found["block_choices"] == 2 * queries
        # blocks hold 6 (behind the sink), 7, 7 and 6 content tokens
        assert 6 * 2 * queries <= found["content_products"] <= 7 * 2 * queries
        assert 2 * 2 <= found["blocks_read"] <= 4 + 8
    gates, flat = work["hierarchical"], work["flat"]
    assert (gates["gate_products"], gates["landmark_products"]) == (32 * 4 * (1 + 2), 4 * queries)
    assert gates["gate_keys"] == 2 * (1 + 2)
    assert (flat["gate_products"], flat["landmark_products"]) == (0, 32 * 4 * (4 + 8))
    assert flat["landmark_keys"] == 2 * (4 + 8)


def test_dense_form_is_not_touched_by_padding() -> None:
    clean, dirty = (random_tensors(LONG, at_padding=value)[0] for value in (0.0, float("nan")))
    config = RecallConfig(granularity="shared", blocks=2, segments=2)
    outs = [selected_attention(t.q, t.k, t.v, LONG.layout, config, q_far=t.q_far) for t in (clean, dirty)]
    assert_near("out", outs[1], outs[0])
    assert not outs[1].masked_select(at(LONG.layout, Kind.PAD)).any()


def test_without_a_reader_it_is_the_dense_form() -> None:
    case = Case(lengths=((26, 13), (7, 26)), reads=((0, 0), (0, 0)))
    (q, q_far, k, v), _ = random_tensors(case)
    out = selected_attention(q, k, v, case.layout, RecallConfig(), q_far=q_far)
    assert_near("out", out, landmark_attention(q, k, v, case.layout, q_far=q_far))


@pytest.mark.parametrize(
    ("case", "by_kernels"),
    [
        (Case(lengths=((28, 28),), block_size=16, blocks=2, width=16), True),
        # a width, a block size and a number of blocks that they do not take, and nothing to read
        (Case(lengths=((28, 28),), block_size=16, blocks=2, width=8), False),
        (Case(lengths=((26, 26),), width=16), False),
        (Case(lengths=((478, 28),), block_size=16, blocks=32, width=16), False),
        (Case(lengths=((28, 28),), block_size=16, blocks=2, width=16, reads=((0, 0), (0, 0))), False),
    ],
    ids=["taken", "width", "block", "blocks", "alone"],
)
def test_what_the_kernels_take_they_get(case: Case, by_kernels: bool) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    v = random_tensors(case, torch.float32)[0].v
    assert _by_kernels(v, case.layout, "fused") == by_kernels
    assert not _by_kernels(v, case.layout, "blockwise") and not _by_kernels(v, case.layout, None)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_tiles_that_read_a_block_are_listed_for_its_keys(dtype: torch.dtype) -> None:
    B, H, rep, S, T, N, queries = 2, 6, 3, 2, 64, 5, 16
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(0, 2**N, (B, H, S, T), generator=generator)
    picks *= torch.rand(B, H, S, T, generator=generator) < 0.05
    lists, counts = _reading_tiles(picks.to(dtype), N, queries, rep)
    tiles = picks.view(B, H // rep, rep, S, T // queries, queries)
    for b in range(B):
        for group in range(H // rep):
            for block in range(S * N):
                of_block = (tiles[b, group, :, block // N] >> block % N) & 1  # (rep, tiles, queries)
                expected = of_block.any(-1).T.flatten().nonzero().flatten()
                found = lists[b, group, block, : counts[b, group, block]]
                assert torch.equal(found.long(), expected)
