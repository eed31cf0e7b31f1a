"""Blockwise equals the reference, and the reference equals the definition in docs/design.md, section 3."""

import math

import pytest
import torch
from torch import Tensor

from hierlandmark.config import Mode
from hierlandmark.layout import Kind, Layout
from hierlandmark.ops import landmark_attention
from tests.ops.cases import CASES, DEFAULT_GRID, Case, Tensors, random_tensors, reference, run
from tests.ops.compare import assert_all_near, assert_near

modes = pytest.mark.parametrize("mode", ["hierarchical", "flat"])


@modes
@pytest.mark.parametrize("case", CASES, ids=str)
def test_blockwise_is_the_reference_fp64(case: Case, mode: Mode) -> None:
    tensors, grad = random_tensors(case)
    actual = run(tensors, case.layout, grad, mode=mode, impl="blockwise")
    assert_all_near(actual, reference(case, mode), torch.float64)


@modes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("case", [*CASES[:3], CASES[5], DEFAULT_GRID], ids=str)
def test_blockwise_is_the_fp64_reference_within_the_table(case: Case, dtype: torch.dtype, mode: Mode) -> None:
    tensors, grad = random_tensors(case, dtype)
    actual = run(tensors, case.layout, grad, mode=mode, impl="blockwise")
    assert_all_near(actual, reference(case, mode), dtype)


@modes
@pytest.mark.parametrize(
    "case",
    [
        Case(lengths=((9, 5, 3),), block_size=5, blocks=3, heads=2, kv_heads=1, width=4),
        Case(lengths=((5, 0, 4),), block_size=5, blocks=2, sink=False, heads=1, kv_heads=1, width=4),
        Case(lengths=((5, 5, 5),), block_size=5, blocks=2, heads=1, kv_heads=1, reads=((0,) * 3, (1, 0, 0), (0, 1, 0))),
        Case(lengths=((9, 5, 3),), block_size=5, blocks=3, heads=2, kv_heads=1, width=4, local_window="segment"),
    ],
    ids=str,
)
def test_the_reference_is_the_definition(case: Case, mode: Mode) -> None:
    tensors, _ = random_tensors(case, at_padding=0.0)
    q, q_far, k, v = tensors
    out = landmark_attention(q, k, v, case.layout, mode=mode, q_far=q_far, impl="reference")
    weights = torch.stack([_weights(case, tensors, head, mode) for head in range(case.heads)])
    assert_near("out", out[0], weights @ v[0].repeat_interleave(case.heads // case.kv_heads, 0))


@modes
def test_gradcheck(mode: Mode) -> None:
    case = Case(lengths=((5, 4),), block_size=5, blocks=2, heads=2, kv_heads=1, width=2)
    leaves = [tensor.requires_grad_() for tensor in random_tensors(case, at_padding=0.0)[0]]

    def attend(q: Tensor, q_far: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return landmark_attention(q, k, v, case.layout, mode=mode, q_far=q_far)

    assert torch.autograd.gradcheck(attend, leaves)


def test_by_default_blockwise_true_positions_and_one_over_root_width() -> None:
    case = CASES[0]
    (q, _, k, v), _ = random_tensors(case)
    expected = landmark_attention(q, k, v, case.layout, scale=case.width**-0.5, q_far=q, impl="blockwise")
    assert torch.equal(landmark_attention(q, k, v, case.layout), expected)


@pytest.mark.parametrize("impl", ["reference", "blockwise"])
def test_scale_is_a_factor_on_the_logits(impl: str) -> None:
    case = CASES[0]
    (q, q_far, k, v), _ = random_tensors(case)
    scaled = landmark_attention(q, k, v, case.layout, scale=0.7, q_far=q_far, impl=impl)  # type: ignore[arg-type]
    assert_near("out", landmark_attention(0.7 * q, k, v, case.layout, scale=1.0, q_far=0.7 * q_far), scaled)


@pytest.mark.parametrize(
    ("q", "k"),
    [((1, 4, 15, 8), (1, 2, 15, 8)), ((2, 4, 16, 8), (2, 2, 16, 8)), ((1, 4, 16, 8), (1, 3, 16, 8))],
    ids=["T", "B", "H"],
)
def test_shapes_that_do_not_fit_are_named(q: tuple[int, ...], k: tuple[int, ...]) -> None:
    layout = Case(lengths=((5,),), blocks=2).layout
    with pytest.raises(ValueError, match="do not fit a layout"):
        landmark_attention(torch.zeros(q), torch.zeros(k), torch.zeros(k), layout)


def _weights(case: Case, tensors: Tensors, head: int, mode: Mode) -> Tensor:
    """Weight of every token for every query of the first text, one sum at a time: (T, T)."""
    layout: Layout = case.layout
    kinds = layout.kinds[0].reshape(-1).tolist()
    keys = tensors.k[0, head // (case.heads // case.kv_heads)]
    place = {i: (i // layout.kinds.shape[2], i // case.block_size) for i in range(len(kinds))}
    members: dict[int, list[int]] = {}
    for j, kind in enumerate(kinds):
        if kind == Kind.CONTENT:
            members.setdefault(place[j][1], []).append(j)

    weights = torch.zeros(len(kinds), len(kinds), dtype=torch.float64)
    for i, query_kind in enumerate(kinds):
        if query_kind == Kind.PAD:
            continue
        segment, block = place[i]

        def softmax(group: list[int], i: int = i, segment: int = segment, of: int = head) -> dict[int, float]:
            near, far = tensors.q[0, of, i], tensors.q_far[0, of, i]
            logit = {
                j: float((near if place[j][0] == segment else far) @ keys[j]) / math.sqrt(case.width) for j in group
            }
            total = sum(math.exp(a) for a in logit.values())
            return {j: math.exp(a) / total for j, a in logit.items()}

        read = [s for s in range(segment) if layout.reads[0, segment, s]]
        plain = case.local_window == "segment"
        blocks = [b for b in members if b // case.blocks == segment] if plain else [block]
        own = [j for b in blocks for j in members.get(b, []) if j <= i]
        own += [j for j, kind in enumerate(kinds) if kind == Kind.SINK and place[j][0] == segment]
        landmarks = [j for j, kind in enumerate(kinds) if kind == Kind.LANDMARK]
        near = [] if plain else [j for j in landmarks if place[j][0] == segment and place[j][1] < block]
        far = [j for j in landmarks if place[j][0] in read]
        gates = [j for j, kind in enumerate(kinds) if kind == Kind.GATE and place[j][0] in read]

        p0 = softmax(own + near + (gates if mode == "hierarchical" else far))
        block_weight = {place[j][1]: p0[j] for j in near + (far if mode == "flat" else [])}
        for gate in gates if mode == "hierarchical" else []:
            p1 = softmax([j for j in far if place[j][0] == place[gate][0]])
            block_weight |= {place[j][1]: p0[gate] * p for j, p in p1.items()}
        for j in own:
            weights[i, j] = p0[j]
        for recalled, weight in block_weight.items():
            for j, p2 in softmax(members[recalled]).items():
                weights[i, j] = weight * p2
    return weights
