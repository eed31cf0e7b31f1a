"""What is shown of a long text."""

import pytest

from hierlandmark.cli.output import WIDTH, excerpt

LONG = " ".join(f"The {word} of the house is old." for word in "roof door wall gate yard shed lamp desk".split())
TEXT = f"{LONG} The code of the winch house is 58213. {LONG}"


@pytest.mark.parametrize("query", ["code of the winch house", "WINCH?", "what is the code"])
def test_of_a_long_text_what_is_like_the_query_is_shown(query: str) -> None:
    shown = excerpt(TEXT, query)
    assert "58213" in shown and len(shown) <= WIDTH
    assert shown.startswith("…") and shown.endswith("…")


@pytest.mark.parametrize("query", ["", "nothing like it", "\N{GREEK SMALL LETTER ALPHA}"])
def test_else_its_start(query: str) -> None:
    assert excerpt(TEXT, query) == f"{TEXT[: WIDTH - 1]}…"


def test_short_ones_are_shown_whole_and_on_one_line() -> None:
    assert excerpt("a\nroof  of tin", "tin") == "a roof of tin"


def test_the_end_of_a_text_is_shown_whole() -> None:
    shown = excerpt(f"{LONG} Her name is Ruth.", "name")
    assert shown.endswith("Her name is Ruth.") and shown.startswith("…")


def test_a_word_longer_than_a_line() -> None:
    assert len(excerpt("x" * 500 + " roof", "roof")) <= WIDTH
