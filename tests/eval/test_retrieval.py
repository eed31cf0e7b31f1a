"""Retrieval over a memory whose rankings are known."""

from pathlib import Path

import pytest

from hierlandmark.chats import Conversation
from hierlandmark.errors import InvalidArgument
from hierlandmark.eval.retrieval import RetrievalReport, evaluate_retrieval, rank
from hierlandmark.results import Cost, Hit, SearchResult
from tests.fake_memory import FakeMemory


def conversation(name: int | str, n: int = 30) -> Conversation:
    messages = [{"id": i, "role": "user", "content": f"word{i} is here"} for i in range(n)]
    questions = [
        {"type": "fact", "question": "word3 ?", "evidence": [3]},
        {"question": "word4 word5", "evidence": [4, 5]},
        {"type": "none", "question": "nothing", "evidence": []},
    ]
    return Conversation.model_validate({"id": name, "messages": messages, "questions": questions})


@pytest.fixture
def open_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(FakeMemory, "files", {})
    return lambda namespace: FakeMemory.open(tmp_path / "m.db", namespace)


def test_shape_and_means(open_memory) -> None:
    seen: list[RetrievalReport] = []
    chats = [conversation("a"), conversation(1), conversation("1")]
    found = evaluate_retrieval(chats, open_memory, k=5, mode="flat", on_question=seen.append).as_json()
    assert set(found) == {"results", "cost", "questions"}
    assert set(found["results"]) == {"recall@1", "recall@5", "recall@10", "recall@20", "mrr", "n"}
    assert found["results"]["n"] == 6
    assert found["results"]["recall@1"] == 0.75
    assert found["results"]["recall@5"] == found["results"]["mrr"] == 1.0
    assert set(found["cost"]) == set(Cost.model_fields)
    assert found["cost"]["gate_keys"] == 0
    assert [q["conversation"] for q in found["questions"]] == ["a"] * 3 + [1] * 3 + ["1"] * 3
    assert set(found["questions"][0]) == {"conversation", "type", "question", "ranking"}
    assert found["questions"][0]["ranking"][0] == 3
    assert len(found["questions"][2]["ranking"]) == 20
    assert len(seen) == 9


def test_a_filled_database_is_used_as_it_is(open_memory, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluate_retrieval([conversation("a")], open_memory).as_json()
    monkeypatch.setattr(FakeMemory, "add", None)
    assert evaluate_retrieval([conversation("a")], open_memory).as_json() == first
    with pytest.raises(InvalidArgument, match="holds 30 messages that are not conversation 'a'"):
        evaluate_retrieval([conversation("a", 29)], open_memory)


def test_empty_turns_are_left_out(open_memory) -> None:
    chat = Conversation.model_validate(
        {"id": 1, "messages": [{"id": 1, "content": " "}, {"id": 2, "content": "x"}], "questions": []}
    )
    report = evaluate_retrieval([chat], open_memory)
    assert report.results() == {"recall@1": 0, "recall@5": 0, "recall@10": 0, "recall@20": 0, "mrr": 0, "n": 0}
    assert [one.id for one in open_memory("1").messages()] == [2]


def test_k_zero(open_memory) -> None:
    with pytest.raises(InvalidArgument, match="k of at least 1, got 0"):
        evaluate_retrieval([], open_memory, k=0)


def test_rank_asks_for_more_until_messages_are_distinct() -> None:
    class Repeats:
        """Two hits a message, forty messages."""

        def search(self, query: str, k: int, *, mode: object) -> SearchResult:
            ids = [i // 2 for i in range(80)][:k]
            hits = [Hit(message_ids=[i], text="", score=0.0, block=i, segment=0) for i in ids]
            return SearchResult(hits=hits, cost=Cost(ms=float(k)))

    ranking, cost = rank(Repeats(), "q", 20, None)
    assert ranking == list(range(20))
    assert cost.ms == 40
    assert rank(Repeats(), "q", 50, None)[0] == list(range(40))
