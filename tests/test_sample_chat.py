"""The sample chat keeps the shape that its README and the demo rely on."""

import json
import re
from collections import Counter
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

SAMPLE = Path(__file__).parents[1] / "examples" / "sample_chat.jsonl"
COUNTS = {"fact": 15, "update": 5, "preference": 4, "temporal": 4, "multi": 2}


@pytest.fixture(scope="module")
def chat():
    lines = SAMPLE.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1
    return json.loads(lines[0])


@pytest.fixture(scope="module")
def contents(chat):
    return {message["id"]: message["content"] for message in chat["messages"]}


def test_messages(chat):
    messages = chat["messages"]
    assert chat["id"] == "sample"
    assert len(messages) >= 500
    assert [message["id"] for message in messages] == list(range(1, len(messages) + 1))
    assert {message["role"] for message in messages} == {"user", "assistant"}
    assert all(set(message) == {"id", "role", "content", "time"} for message in messages)


def test_no_two_messages_are_the_same(chat):
    seen = Counter(" ".join(message["content"].lower().split()) for message in chat["messages"])
    assert [text for text, count in seen.items() if count > 1 or not text] == []


def test_times_increase_over_months(chat):
    times = [datetime.fromisoformat(message["time"]) for message in chat["messages"]]
    assert all(before < after for before, after in pairwise(times))
    assert {time.year for time in times} == {2025}
    assert times[-1] - times[0] >= timedelta(days=5 * 30.5)


def test_questions(chat, contents):
    questions = chat["questions"]
    assert Counter(question["type"] for question in questions) == COUNTS
    assert len({question["question"] for question in questions}) == sum(COUNTS.values())
    for question in questions:
        assert set(question) == {"type", "question", "answer", "evidence"}
        assert question["answer"]
        assert 1 <= len(question["evidence"]) <= 3
        assert set(question["evidence"]) <= set(contents)


def test_fact_answers_stand_in_their_evidence_and_nowhere_earlier(chat, contents):
    for question in chat["questions"]:
        if question["type"] == "fact":
            whole = re.compile(rf"(?<!\w){re.escape(question['answer'])}(?!\w)")
            holders = [number for number, text in contents.items() if whole.search(text)]
            assert holders, question
            assert question["evidence"] == holders[:1], question


def test_updates_cite_the_newest_message_first(chat, contents):
    for question in chat["questions"]:
        if question["type"] == "update":
            newest, *earlier = question["evidence"]
            assert earlier, question
            assert newest > max(earlier), question
            assert question["answer"] in contents[newest], question
            # the old message must not already hold the new value
            assert all(question["answer"] not in contents[number] for number in earlier), question


def test_evidence_is_spread_over_the_chat(chat):
    size = len(chat["messages"])
    cited = {number for question in chat["questions"] for number in question["evidence"]}
    assert min(cited) <= 0.05 * size
    assert {(number - 1) * 10 // size for number in cited} == set(range(10))
