"""Older segments asked by queries of their own: plain torch beside the reference. The kernels: `tests.ops.older`."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hierlandmark.config import LocalWindow, Mode
from hierlandmark.ops import Impl, landmark_attention
from tests.ops.cases import CASES, Case, random_tensors
from tests.ops.compare import assert_all_near, assert_near
from tests.ops.older import EVERYTHING, OLDER_CASES, attend, expected

modes = pytest.mark.parametrize("mode", ["hierarchical", "flat"])
everywhere = pytest.mark.parametrize("case", [*CASES, *OLDER_CASES], ids=str)
several = pytest.mark.parametrize("turns", [2, 3, 9])


@modes
@everywhere
@several
def test_blockwise_is_the_reference(case: Case, mode: Mode, turns: int) -> None:
    found = attend(case, mode, impl="blockwise", turns=turns)
    assert_all_near(found, expected(case, mode, turns), torch.float64)


@modes
@everywhere
@several
@pytest.mark.parametrize("granularity", ["head_token", "head", "token", "shared"])
def test_everything_selected_is_the_reference(case: Case, mode: Mode, granularity: str, turns: int) -> None:
    select = EVERYTHING.model_copy(update={"granularity": granularity})
    assert_all_near(attend(case, mode, select=select, turns=turns), expected(case, mode, turns), torch.float64)


@modes
@pytest.mark.parametrize("impl", ["reference", "blockwise"])
@pytest.mark.parametrize("local_window", ["block", "segment"])
@pytest.mark.parametrize("turn", [0, 1, 2])
def test_each_query_asks_the_segments_that_are_its_own(
    mode: Mode, impl: Impl, local_window: LocalWindow, turn: int
) -> None:
    """Texts that read the segment right before only, the one before that, or all older: no other query is used."""
    case = replace(OLDER_CASES[0], local_window=local_window)
    q, q_far, k, v = random_tensors(case)[0]
    S, nothing = len(case.lengths[0]), torch.zeros_like(q)
    reads = tuple(tuple(int(past < s and min(s - past - 1, 2) == turn) for past in range(S)) for s in range(S))
    layout = replace(case, reads=reads).layout

    def attend_to(far: Tensor) -> Tensor:
        return landmark_attention(q, k, v, layout, mode=mode, impl=impl, q_far=far)

    own = attend_to(torch.stack([q_far if one == turn else nothing for one in range(3)]))
    assert_near("its own", own, attend_to(q_far))
    others = attend_to(torch.stack([nothing if one == turn else q_far for one in range(3)]))
    assert_near("the others", others, attend_to(nothing))
    assert (own - others).abs().max() > 0.01


@modes
def test_all_queries_are_used(mode: Mode) -> None:
    gradient = expected(OLDER_CASES[0], mode, 3)["dq_far"].nan_to_num()
    # segments of 32; the second has one before it, the third two, the fourth one that is older still
    for turn, first in enumerate((32, 64, 96)):
        assert float(gradient[turn, :, :, :first].abs().sum()) == 0
        assert float(gradient[turn, :, :, first : first + 32].abs().sum()) > 0


def test_queries_that_are_no_turns_are_refused() -> None:
    case = OLDER_CASES[0]
    q, q_far, k, v = random_tensors(case)[0]
    for wrong in (q_far[:, :1], q_far[None, None], q_far.transpose(1, 2)):
        with pytest.raises(ValueError, match="q_far"):
            landmark_attention(q, k, v, case.layout, q_far=wrong)
