"""A thread that works alone: itself only, until it is done, and all threads for what is large."""

import threading
from collections.abc import Iterator

import pytest
import torch

from hierlandmark.ops import threads
from hierlandmark.ops.threads import SHARED, alone, together


@pytest.fixture(autouse=True)
def three() -> Iterator[None]:
    if threads._setting() is None:
        pytest.skip("torch runs on another OpenMP, or on none")
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_one_thread_until_the_end() -> None:
    with alone():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    with pytest.raises(KeyError), alone():
        raise KeyError
    assert torch.get_num_threads() == 3


def test_all_of_them_for_a_large_table() -> None:
    with alone():
        with together(SHARED):
            assert torch.get_num_threads() == 1
        with together(SHARED + 1):
            assert torch.get_num_threads() == 3
        assert torch.get_num_threads() == 1
    with together(SHARED + 1):
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == 3


def test_inside_of_itself() -> None:
    with alone():
        with together(SHARED + 1), alone():
            assert torch.get_num_threads() == 1
        with alone():
            assert torch.get_num_threads() == 1
        with together(SHARED + 1):
            assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == 3


def test_a_thread_that_begins_meanwhile_has_all() -> None:
    found: list[int] = []
    with alone():
        other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        other.start()
        other.join()
    assert found == [3]


def test_nothing_changes_without_openmp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_setting", lambda: None)
    with alone(), together(SHARED + 1):
        assert torch.get_num_threads() == 3
