"""Selecting in the fused kernels, on any device: in Triton's interpreter on a CPU, compiled on a GPU."""

import sys
from dataclasses import asdict, dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from hierlandmark.config import Granularity, Mode, RecallConfig, WeighBy
from hierlandmark.ops import picks, selected
from hierlandmark.ops.inputs import inputs_of
from hierlandmark.ops.picks import picks_of
from hierlandmark.ops.reference import landmark_attention_reference
from tests.ops.cases import Case, Tensors, named_grads, random_tensors, reference, selecting
from tests.ops.compare import FUSED, assert_all_near, assert_near


@dataclass(frozen=True)
class Choice:
    """Who chooses, and how much."""

    granularity: Granularity = "head_token"
    segments: int = 2
    blocks: int = 3
    threshold: float = 0.0
    weigh_by: WeighBy = "gates"


CHOICES = [Choice(), Choice("head", 1, 2, 0.3), Choice("token", 2, 3, 0.3), Choice("shared", 2, 4)]
EVERYTHING = Choice(segments=99, blocks=999)
# full, a tail, holes in the middle and at the end; groups of three heads
HOLES = Case(lengths=((58, 58, 58, 13), (40, 0, 58, 0)), block_size=16, blocks=4, heads=3, kv_heads=1, width=16)
# an odd number of blocks: a program's queries are one block
ODD = Case(lengths=((44, 44, 21),), block_size=16, blocks=3, sink=False, heads=2, kv_heads=2, width=32)
# readers side by side behind shared memory, one of nothing between them; each text its own
SHARED = Case(
    lengths=((28, 28, 11, 28, 28), (28, 9, 28, 28, 28)), block_size=16, blocks=2, width=16,
    reads=(
        ((0,) * 5, (0,) * 5, (1, 1, 0, 0, 0), (0,) * 5, (1, 1, 1, 0, 0)),
        ((0,) * 5, (0,) * 5, (1, 1, 0, 0, 0), (0,) * 5, (0, 1, 0, 0, 0)),
    ),
)  # fmt: skip
# more blocks a segment than a byte has bits
LARGE = Case(lengths=((148, 60),), block_size=16, blocks=10, heads=2, kv_heads=1, width=16)
SMALL = [
    *((HOLES, choice) for choice in CHOICES),
    (ODD, Choice(segments=1, blocks=2)),
    (SHARED, Choice(segments=1, blocks=2)),
    (SHARED, Choice("token", 1, 2, 0.2)),
    (LARGE, Choice(segments=1, blocks=7)),
    (replace(ODD, local_window="segment"), Choice(segments=1, blocks=2)),
    (HOLES, Choice(weigh_by="landmarks")),
    (HOLES, Choice("token", 2, 3, 0.3, "landmarks")),
]
# the shipped model's grid and the width of larger models; half precision only
WIDE = [
    Case(lengths=((502, 502, 502, 131), (502, 40, 0, 502)), block_size=64, blocks=8, heads=6, kv_heads=2, width=64),
    Case(lengths=((502, 502, 502, 131),), block_size=64, blocks=8, heads=8, kv_heads=2, width=128),
]
WIDE_CHOICES = [
    Choice(blocks=4), Choice("head", blocks=6), Choice("token", blocks=4, threshold=0.5), Choice("shared", blocks=8),
    EVERYTHING, Choice(weigh_by="landmarks"),
]  # fmt: skip


def picked(tensors: Tensors, case: Case, mode: Mode, choice: Choice) -> Tensor:
    """What the kernels are told to read: (B, H, T, S * N) bool."""
    q, k, v, q_far, scale, _ = inputs_of(tensors.q, tensors.k, tensors.v, case.layout, None, tensors.q_far)
    bits = picks_of(q, k, v, case.layout, RecallConfig(**asdict(choice)), mode=mode, scale=scale, q_far=q_far)
    by_block = (bits.int().unsqueeze(-1) >> torch.arange(case.blocks, dtype=torch.int32, device=bits.device)) & 1
    return by_block.bool().permute(0, 1, 3, 2, 4).flatten(-2)


def chosen_by_plain(tensors: Tensors, case: Case, mode: Mode, choice: Choice) -> tuple[Tensor, Tensor]:
    """What plain torch chooses (B, H, T, S * N), and its output."""
    name = "_choose" if mode == "hierarchical" else "_choose_flat"
    choose, parts = getattr(selected, name), []

    def kept(*args: Any) -> tuple[Tensor, Tensor]:
        parts.append(choose(*args))
        return parts[-1]

    with mock.patch.object(selected, name, kept):
        out = selecting(tensors, case, torch.ones_like(tensors.q), mode=mode, impl="blockwise", **asdict(choice))["out"]
    B, S, P = case.layout.kinds.shape
    mask = torch.zeros(B, case.heads, S, P, S, case.blocks, dtype=torch.bool, device=out.device)
    readers = [s for s in range(S) if case.layout.reads[:, s].any()]
    for s, (chosen, _) in zip(readers, parts, strict=True):
        mask[:, :, s, :, : chosen.shape[3]] = chosen
    return mask.view(B, case.heads, S * P, -1), out


def by_mask(
    tensors: Tensors, case: Case, grad: Tensor, mode: Mode, mask: Tensor, weigh_by: WeighBy = "gates"
) -> dict[str, Tensor]:
    """Output and gradients of the reference that reads what a mask says; by landmarks alone it is flat mode's."""
    mode = "flat" if weigh_by == "landmarks" else mode
    leaves = Tensors(*(tensor.detach().clone().requires_grad_() for tensor in tensors))
    q, k, v, q_far, scale, pad = inputs_of(leaves.q, leaves.k, leaves.v, case.layout, None, leaves.q_far)
    out = landmark_attention_reference(q, k, v, case.layout, mode=mode, scale=scale, q_far=q_far, chosen=mask)
    return named_grads(out if pad is None else out.masked_fill(pad, 0.0), leaves, grad)


def compare_picked(case: Case, mode: Mode, choice: Choice, dtype: torch.dtype, device: str) -> None:
    """What the kernels read, their output and gradients, against plain torch in fp64.

    In half precision a choice between near equals may fall otherwise, so that values are compared with those of the
    reference that reads the same.
    """
    exact, grad = (
        Tensors(*(x.to(device) for x in given)) if isinstance(given, Tensors) else given.to(device)
        for given in random_tensors(case)
    )
    there = Tensors(*(tensor.to(dtype) for tensor in exact))
    mask, plain = picked(there, case, mode, choice), chosen_by_plain(exact, case, mode, choice)[0]
    assert plain.any()
    actual = selecting(there, case, grad.to(dtype), mode=mode, impl="fused", **asdict(choice))
    if dtype == torch.float32:
        assert torch.equal(mask, plain)
        expected = selecting(exact, case, grad, mode=mode, impl="blockwise", **asdict(choice))
    else:
        assert (mask != plain).sum() <= 1e-3 * plain.sum()
        expected = by_mask(exact, case, grad, mode, mask, choice.weigh_by)
    assert_all_near(actual, expected, dtype, FUSED)


def compare_everything(case: Case, mode: Mode, device: str) -> None:
    """Everything selected is the dense form."""
    tensors, grad = random_tensors(case, torch.float32)
    there = Tensors(*(tensor.to(device) for tensor in tensors))
    actual = selecting(there, case, grad.to(device), mode=mode, impl="fused", **asdict(EVERYTHING))
    assert_all_near(actual, reference(case, mode), torch.float32, FUSED)


def compare_chunks(case: Case, mode: Mode, choice: Choice, device: str) -> None:
    """However many segments choose in one step, and what the reference makes of it."""
    tensors, grad = random_tensors(case, torch.float32)
    there = Tensors(*(tensor.to(device) for tensor in tensors))
    whole = picked(there, case, mode, choice)
    with mock.patch.object(picks, "CHUNK_ELEMENTS", 1):
        assert torch.equal(picked(there, case, mode, choice), whole)
    exact, exact_grad = random_tensors(case)
    expected = by_mask(exact, case, exact_grad, mode, whole.cpu())["out"]
    assert_near("out", chosen_by_plain(exact, case, mode, choice)[1], expected)


if __name__ == "__main__":
    modes: tuple[Mode, ...] = ("hierarchical", "flat")
    for way in modes:
        for each, wanted in SMALL:
            compare_picked(each, way, wanted, torch.float32, sys.argv[1])
            print(each, way, wanted)
        compare_everything(HOLES, way, sys.argv[1])
        print(HOLES, way, "everything")
        compare_chunks(SHARED, way, CHOICES[0], sys.argv[1])
        print(SHARED, way, "in chunks")
