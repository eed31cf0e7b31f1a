"""Perplexity from known likelihoods."""

import math

import pytest
import torch

from hierlandmark.errors import InvalidArgument
from hierlandmark.eval.perplexity import PER_DOCUMENT, Setting, evaluate_perplexity, perplexity, windows


def test_windows_are_whole_and_do_not_overlap() -> None:
    assert list(windows([range(7), range(2), range(3)], 3)) == [range(3), range(3, 6), range(3)]
    assert len(list(windows([range(100)], 2))) == PER_DOCUMENT


def test_perplexity_of_a_uniform_guess_is_the_number_of_choices() -> None:
    assert math.isclose(perplexity([math.log(50)] * 9), 50)
    assert perplexity([1e9]) == math.inf


def test_rows() -> None:
    def score(window, setting, counts) -> list[float]:
        return [math.log(len(window) * (setting.blocks or 1))] * (len(window) - 1)

    settings = [Setting("flat"), Setting("flat", blocks=2), Setting("full")]
    rows = list(
        evaluate_perplexity(lambda: [range(10)], score, lengths=[2, 5], limit=3, settings=settings, longest_full=4)
    )
    # three windows under three settings, then two under two
    assert len(rows) == 9 + 4
    last = rows[-2]
    assert last.pop("cost")["ms"] >= 0
    assert math.isclose(last.pop("perplexity"), 5)
    own = {"window": None, "cache": None, "blocks": None, "segments": 4, "granularity": "head_token", "threshold": 0.0}
    own["weigh_by"] = "gates"
    assert last == {"length": 5, "windows": 2, "tokens": 8, "mode": "flat", **own}
    assert math.isclose(rows[-1]["perplexity"], 10)
    assert "full" not in {row["mode"] for row in rows if row["length"] == 5}


def test_rows_tell_what_was_skipped() -> None:
    def score(window, setting, counts) -> list[float]:
        amounts = {"queries": 8, "queries_skipped": 6, "tokens": 4, "tokens_skipped": 2, "windows": 2}
        counts.add(**{name: torch.tensor(n) for name, n in amounts.items()}, windows_skipped=torch.tensor(0))
        return [1.0] * (len(window) - 1)

    *_, last = evaluate_perplexity(
        lambda: [range(10)], score, lengths=[5], limit=2, settings=[Setting("flat", blocks=1)]
    )
    assert last["reads_skipped"] == {"head_token": 0.75, "token": 0.5, "window": 0.0}
    assert last["counts"]["queries"] == 16


@pytest.mark.parametrize(("length", "said"), [(1, "at least 2 tokens"), (11, "no document is 11 tokens long")])
def test_impossible_lengths(length: int, said: str) -> None:
    # before a row is asked for, and so before a window of another length is scored
    with pytest.raises(InvalidArgument, match=said):
        evaluate_perplexity(lambda: [range(10)], lambda *_: [0.0], lengths=[5, length], limit=1, settings=[Setting()])
