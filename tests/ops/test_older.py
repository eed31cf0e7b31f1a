"""Older segments asked by queries of their own: plain torch beside the reference. The kernels: `tests.ops.older`."""

import pytest
import torch

from hierlandmark.config import Mode
from tests.ops.cases import CASES, Case
from tests.ops.compare import assert_all_near
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
def test_both_queries_are_used(mode: Mode) -> None:
    found = expected(OLDER_CASES[0], mode)
    # the second segment has only one before it, the third has an older one
    assert float(found["dq_far"][:, :, 32:64].nan_to_num().abs().sum()) > 0
    assert float(found["dq_older"][:, :, :64].nan_to_num().abs().sum()) == 0
    assert float(found["dq_older"][:, :, 64:96].nan_to_num().abs().sum()) > 0
