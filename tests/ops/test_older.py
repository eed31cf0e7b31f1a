"""Older segments asked by queries of their own: plain torch beside the reference. The kernels: `tests.ops.older`."""

from collections.abc import Callable
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


@modes
@everywhere
def test_blockwise_is_the_reference(case: Case, mode: Mode) -> None:
    assert_all_near(attend(case, mode, impl="blockwise"), expected(case, mode), torch.float64)


@modes
@everywhere
@pytest.mark.parametrize("granularity", ["head_token", "head", "token", "shared"])
def test_everything_selected_is_the_reference(case: Case, mode: Mode, granularity: str) -> None:
    select = EVERYTHING.model_copy(update={"granularity": granularity})
    assert_all_near(attend(case, mode, select=select), expected(case, mode), torch.float64)


@modes
@pytest.mark.parametrize("impl", ["reference", "blockwise"])
@pytest.mark.parametrize("local_window", ["block", "segment"])
def test_the_segment_right_before_is_asked_by_one_and_the_others_by_the_other(
    mode: Mode, impl: Impl, local_window: LocalWindow
) -> None:
    """Texts that read the segment right before only, and those that read all others: the other query is not used."""
    case = replace(OLDER_CASES[0], local_window=local_window)
    q, q_far, k, v = random_tensors(case)[0]
    S, nothing = len(case.lengths[0]), torch.zeros_like(q)

    def attend_to(reads: Callable[[int, int], bool], **far: Tensor) -> Tensor:
        rows = tuple(tuple(int(reads(s, past)) for past in range(S)) for s in range(S))
        return landmark_attention(q, k, v, replace(case, reads=rows).layout, mode=mode, impl=impl, **far)  # type: ignore[arg-type]

    for reads, used in ((lambda s, past: past == s - 1, "q_far"), (lambda s, past: past < s - 1, "q_older")):
        far = {"q_far": nothing, "q_older": nothing, used: q_far}
        assert_near(used, attend_to(reads, **far), attend_to(reads, q_far=q_far))
        assert (attend_to(reads, **far) - attend_to(reads, q_far=nothing)).abs().max() > 0.01


@modes
def test_both_queries_are_used(mode: Mode) -> None:
    found = expected(OLDER_CASES[0], mode)
    # the second segment has only one before it, the third has an older one
    assert float(found["dq_far"][:, :, 32:64].nan_to_num().abs().sum()) > 0
    assert float(found["dq_older"][:, :, :64].nan_to_num().abs().sum()) == 0
    assert float(found["dq_older"][:, :, 64:96].nan_to_num().abs().sum()) > 0
