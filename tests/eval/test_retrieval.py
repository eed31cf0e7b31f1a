"""Retrieval over a memory whose rankings are known."""

from pathlib import Path

import pytest

from hierlandmark.chats import Conversation
from hierlandmark.errors import InvalidArgument
from hierlandmark.eval import retrieval
from hierlandmark.eval.retrieval import evaluate_retrieval, namespaces
from hierlandmark.eval.rows import rank
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
    seen: list[int] = []
    chats = [conversation("a"), conversation(1), conversation("1")]
    found = evaluate_retrieval(chats, open_memory, k=5, mode="flat", on_question=seen.append).as_json()
    assert set(found) == {"results", "cost", "questions", "rows", "unfindable"}
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
    assert seen == list(range(1, 10))


def test_rows_stand_beside_each_other(open_memory) -> None:
    pytest.importorskip("bm25s")
    chats = [conversation("a"), conversation("b")]
    report = evaluate_retrieval(chats, open_memory, mode="flat", rows=["hierarchical", "flat", "bm25"])
    found = report.as_json()
    assert list(found["rows"]) == ["flat", "hierarchical", "bm25"]
    assert [q["ranking"] for q in found["questions"]] == found["rows"]["flat"]["rankings"]
    row = found["rows"]["bm25"]
    assert set(row) == {
        "results", "intervals", "types", "keys_scored", "bytes_read", "p50_ms", "p95_ms", "index_bytes",
        "ingest_tokens_per_s", "rankings",
    }  # fmt: skip
    assert row["results"]["n"] == 4 and row["results"]["recall@5"] == row["results"]["hit@1"] == 1
    assert row["intervals"]["recall@5"] == [1, 1]
    low, high = row["intervals"]["recall@1"]
    assert low < row["results"]["recall@1"] == 0.75 < high
    assert {kind: one["n"] for kind, one in row["types"].items()} == {"fact": 2, "none": 2}
    assert row["ingest_tokens_per_s"] > 0 and row["index_bytes"] > 0
    assert found["rows"]["flat"]["keys_scored"] == 30
    # a second run finds the text there, and knows nothing of how long it took
    again = evaluate_retrieval(chats, open_memory, mode="flat").as_json()
    assert again["rows"]["flat"]["ingest_tokens_per_s"] is None


def test_what_the_first_search_loads_is_not_timed(open_memory, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, asked, loaded = [0.0], [], set()
    search = FakeMemory.search

    def slow_at_first(memory: FakeMemory, query: str, k: int = 10, *, mode: str | None = None) -> SearchResult:
        asked.append((memory.namespace, mode))
        clock[0] += 1.0 if (memory.namespace, mode) in loaded else 100.0
        loaded.add((memory.namespace, mode))
        return search(memory, query, k, mode=mode)

    monkeypatch.setattr(FakeMemory, "search", slow_at_first)
    monkeypatch.setattr(retrieval, "perf_counter", lambda: clock[0])
    chats = [conversation("a"), conversation("b")]
    report = evaluate_retrieval(chats, open_memory, mode="hierarchical", rows=["flat"])
    for row in report.rows.values():
        assert [one.ms for one in row.asked] == [1000.0] * 6
        assert [one.conversation for one in row.asked] == ["a"] * 3 + ["b"] * 3
    # each row comes first in turn
    assert list(dict.fromkeys(asked)) == [("a", "hierarchical"), ("a", "flat"), ("b", "flat"), ("b", "hierarchical")]


def test_no_questions_is_an_error(open_memory) -> None:
    chat = conversation("a").model_copy(update={"questions": []})
    with pytest.raises(InvalidArgument, match=r'none of the conversations given \(1\) has any; .* under "questions"'):
        evaluate_retrieval([chat], open_memory)


def test_namespaces_are_readable_and_apart() -> None:
    assert namespaces(["conv-1", 2, "x y"]) == ["conv-1", "2", "x y"]
    assert namespaces([1, "1", ""]) == ["1 (integer)", "1", "(empty)"]


def test_a_filled_database_is_used_as_it_is(open_memory, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> dict:
        return {k: v for k, v in evaluate_retrieval([conversation("a")], open_memory).as_json().items() if k != "rows"}

    first = found()
    monkeypatch.setattr(FakeMemory, "add", None)
    assert found() == first
    with pytest.raises(InvalidArgument, match="holds 30 messages that are not conversation 'a'"):
        evaluate_retrieval([conversation("a", 29)], open_memory)


def test_other_text_under_the_same_ids_is_not_the_conversation(open_memory) -> None:
    chat = conversation("a")
    evaluate_retrieval([chat], open_memory)
    first, *rest = chat.messages
    for change in ({"content": "other"}, {"role": "assistant"}, {"time": "2026-01-01"}, {"metadata": {"a": 1}}):
        other = chat.model_copy(update={"messages": [first.model_copy(update=change), *rest]})
        with pytest.raises(InvalidArgument, match="holds 30 messages that are not conversation 'a'"):
            evaluate_retrieval([other], open_memory)


def test_empty_turns_are_left_out(open_memory) -> None:
    chat = Conversation.model_validate(
        {
            "id": 1,
            "messages": [{"id": 1, "content": " "}, {"id": 2, "content": "x"}],
            "questions": [{"question": "y", "evidence": []}],
        }
    )
    report = evaluate_retrieval([chat], open_memory)
    assert report.results() == {"recall@1": 0, "recall@5": 0, "recall@10": 0, "recall@20": 0, "mrr": 0, "n": 0}
    assert [one.id for one in open_memory("1").messages()] == [2]


def test_evidence_that_cannot_be_found_does_not_count(open_memory) -> None:
    chat = Conversation.model_validate(
        {
            "id": 1,
            "messages": [{"id": 1, "content": " "}, {"id": 2, "content": "x"}],
            "questions": [
                {"question": "x", "evidence": [1, 2, 9, "2"]},
                {"question": "x", "evidence": [1]},
            ],
        }
    )
    report = evaluate_retrieval([chat], open_memory)
    assert [one.question.evidence for one in report.asked] == [[2], []]
    assert (report.results()["recall@1"], report.results()["n"], report.as_json()["unfindable"]) == (1, 1, 4)


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
