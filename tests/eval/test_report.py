"""The page and the words: they follow from the figures, and need no network."""

import re

import pytest

from hierlandmark.chats import Question
from hierlandmark.eval.report import html
from hierlandmark.eval.retrieval import Asked, RetrievalReport, Row
from hierlandmark.eval.scale import measure_scale
from hierlandmark.eval.table import columns, difference, lines, verdicts


def row(name: str, found: list[bool], *, ms: float = 5.0, keys: int = 100) -> Row:
    """Questions whose evidence is first in the ranking, or nowhere."""
    asked = [
        Asked(
            "c",
            Question(type="a" if i % 2 else "b", question="q", evidence=[1]),
            [1 if hit else 2],
            ms=ms,
            keys_scored=keys,
        )
        for i, hit in enumerate(found)
    ]
    return Row(name, asked, index_bytes=1000, tokens=500, seconds=2.0)


def report(**rows: Row) -> RetrievalReport:
    return RetrievalReport("hierarchical", {one.name: one for one in rows.values()}, 1)


WORDS = row("bm25", [True] * 38 + [False] * 2, ms=0.1)
GATES = row("hierarchical", [True] * 20 + [False] * 20, keys=30)
FLAT = row("flat", [True] * 21 + [False] * 19, keys=100)


def test_a_peer_that_wins_is_said_to_win() -> None:
    said = verdicts(report(a=GATES, b=FLAT, c=WORDS))
    assert said[0] == "bm25 has the highest recall@10, 0.950, over 40 questions, clear of all others."
    assert said[1].startswith("bm25 wins over hierarchical (+0.450, ") and "flat (+0.425, " in said[1]
    assert "hierarchical keeps 95.2% of flat's recall@10" in said[2] and "scores 30% of flat's keys" in said[2]
    assert said[3].startswith("On text like this, use bm25")
    assert "flat is best (0.525)" in said[4]


def test_a_peer_that_loses_and_one_that_cannot_be_told() -> None:
    said = verdicts(report(a=GATES, b=row("bm25", [False] * 40), c=row("minilm", [True] * 19 + [False] * 21)))
    assert any(one.startswith("bm25 is behind hierarchical (-0.500") for one in said)
    assert "minilm cannot be told from any of this project's rows by these questions." in said


def test_no_evidence_no_verdict() -> None:
    empty = Row("flat", [Asked("c", Question(question="q", evidence=[]), [1])])
    assert verdicts(report(a=empty)) == ["No question names its evidence, so nothing is compared."]


def test_a_difference_is_paired() -> None:
    one, other = row("a", [True, False] * 20), row("b", [False, True] * 20)
    mean, low, high = difference(one, other)
    assert mean == 0 and low < 0 < high
    assert difference(one, one) == (0, 0, 0)


def test_lines_are_a_table() -> None:
    found = lines(report(a=GATES, b=WORDS))
    assert found[0].split()[:3] == ["row", "recall@1", "recall@5"]
    assert found[2].split()[:4] == ["bm25", "0.950", "0.950", "0.950"]
    assert found[4].split() == ["recall@10", "of", "a", "(20)", "b", "(20)"]
    assert len({len(line) for line in found[:3]}) == 1
    assert columns([["a", "b"], ["cc", "dd"]]) == ["a    b", "cc  dd"]


def test_the_page_holds_all_it_shows() -> None:
    pytest.importorskip("matplotlib")
    records = list(measure_scale([200, 400], ["index", "flat"], width=8))
    page = html(
        report(a=GATES, b=FLAT, c=WORDS), records, title="A <title>", setting={"text": "a & b"}, source="made up"
    )
    assert "<h1>A &lt;title&gt;</h1>" in page and "a &amp; b" in page
    assert page.count("<svg") == 5
    assert "bm25 wins over hierarchical" in page and "Which row when" in page and "made up" in page
    # nothing is fetched: no script, no link, no picture by address; names of XML forms are no addresses
    assert not re.search(r"<script|<link|<img|@import|src=|href=\"(?!#)", page)
    assert re.findall(r"https?://(?!www\.w3\.org/)", page) == []
    assert page == html(
        report(a=GATES, b=FLAT, c=WORDS), records, title="A <title>", setting={"text": "a & b"}, source="made up"
    )
