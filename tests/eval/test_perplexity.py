"""Perplexity from known likelihoods."""

import math

import pytest

from hierlandmark.errors import InvalidArgument
from hierlandmark.eval.perplexity import PER_DOCUMENT, evaluate_perplexity, perplexity, windows


def test_windows_are_whole_and_do_not_overlap() -> None:
    assert list(windows([range(7), range(2), range(3)], 3)) == [range(3), range(3, 6), range(3)]
    assert len(list(windows([range(100)], 2))) == PER_DOCUMENT


def test_perplexity_of_a_uniform_guess_is_the_number_of_choices() -> None:
    assert math.isclose(perplexity([math.log(50)] * 9), 50)
    assert perplexity([1e9]) == math.inf


def test_rows() -> None:
    def score(window) -> list[float]:
        return [math.log(len(window))] * (len(window) - 1)

    rows = list(evaluate_perplexity(lambda: [range(10)], score, lengths=[2, 5], limit=3, mode="flat"))
    assert len(rows) == 5
    last = rows[-1]
    assert last.pop("cost")["ms"] >= 0
    assert math.isclose(last.pop("perplexity"), 5)
    assert last == {"length": 5, "windows": 2, "tokens": 8, "mode": "flat"}


@pytest.mark.parametrize(("length", "said"), [(1, "at least 2 tokens"), (11, "no document is 11 tokens long")])
def test_impossible_lengths(length: int, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        list(evaluate_perplexity(lambda: [range(10)], lambda w: [0.0], lengths=[length], limit=1, mode="flat"))
