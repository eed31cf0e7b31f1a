"""What Documents carry, and which errors a caller sees."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_hierlandmark import HierLandmarkChatMessageHistory, HierLandmarkRetriever
from pydantic import ValidationError

from hierlandmark import Filter, InvalidArgument, Memory, MissingExtra, NamespaceNotFound


def test_documents_are_messages(filled: Memory) -> None:
    documents = HierLandmarkRetriever(memory=filled).invoke("spare key")
    held = {one.id: one for one in filled.messages()}
    assert len(documents) == len(held)
    for document in documents:
        (key,) = document.metadata["message_ids"]
        message = held.pop(key)
        assert document.page_content == message.content
        assert document.metadata["role"] == message.role
        assert document.metadata["time"] == message.time
        assert document.metadata["source"] == "chat"
        assert document.id == str(message.id)


def test_order_and_scores_are_those_of_the_search(filled: Memory) -> None:
    documents = HierLandmarkRetriever(memory=filled, k=4).invoke("walnuts")
    hits = filled.search("walnuts", 4).hits
    ranked = [(one.id, hit.score, hit.block, hit.segment) for hit in hits for one in hit.messages]
    found = [
        (*one.metadata["message_ids"], one.metadata["score"], one.metadata["block"], one.metadata["segment"])
        for one in documents
    ]
    assert found == ranked[:4]
    assert [score for _, score, *_ in found] == sorted((score for _, score, *_ in found), reverse=True)


async def test_filters_reach_the_search(filled: Memory) -> None:
    retriever = HierLandmarkRetriever(memory=filled, where=Filter(roles=["assistant"]))
    assert {one.id for one in retriever.invoke("walnuts")} == {"m2", "m4"}
    assert {one.id for one in await retriever.ainvoke("walnuts")} == {"m2", "m4"}
    assert len(retriever.invoke("walnuts", where=Filter(roles=["user"]))) == 4
    assert len(await retriever.ainvoke("walnuts", where=Filter(until="2026-02-28"))) == 0


def test_neighbours_are_in_the_metadata(filled: Memory) -> None:
    retriever = HierLandmarkRetriever(memory=filled, where=Filter(roles=["assistant"]), k=1, neighbours=1)
    (document,) = retriever.invoke("walnuts")
    ids = [one.id for one in filled.messages()]
    at = ids.index(*document.metadata["message_ids"])
    assert [one["id"] for one in document.metadata["before"] + document.metadata["after"]] == [ids[at - 1], ids[at + 1]]
    (plain,) = HierLandmarkRetriever(memory=filled, k=1).invoke("walnuts")
    assert "before" not in plain.metadata


def test_times_in_a_query_narrow_it(filled: Memory) -> None:
    pytest.importorskip("dateparser")
    assert HierLandmarkRetriever(memory=filled).invoke("in March 2025")
    assert HierLandmarkRetriever(memory=filled, parse_time=True).invoke("in March 2025") == []
    assert len(HierLandmarkRetriever(memory=filled, parse_time=True).invoke("in March 2026")) == 6


@pytest.mark.parametrize("k", range(1, 8))
def test_k_messages_while_there_are_any(filled: Memory, k: int) -> None:
    found = HierLandmarkRetriever(memory=filled, k=k).invoke("June")
    assert len(found) == len({one.id for one in found}) == min(k, 6)


def test_metadata_of_a_message_cannot_hide_the_hit(memory: Memory) -> None:
    memory.add([{"id": 1, "content": "a", "metadata": {"score": "high", "message_ids": None, "kept": True}}])
    (document,) = HierLandmarkRetriever(memory=memory).invoke("a")
    assert document.metadata["message_ids"] == [1]
    assert isinstance(document.metadata["score"], float)
    assert document.metadata["kept"] is True


def test_what_a_history_keeps_for_itself_is_no_metadata_of_a_document(memory: Memory) -> None:
    HierLandmarkChatMessageHistory(memory).add_messages([HumanMessage("a", id="1"), HumanMessage("b", id="2")])
    memory.add([{"id": "3", "content": "c", "metadata": {"langchain_message": "mine"}}])
    documents = {one.id: one.metadata for one in HierLandmarkRetriever(memory=memory).invoke("a")}
    assert set(documents["1"]) == {"message_ids", "role", "time", "score", "block", "segment"}
    assert documents["3"]["langchain_message"] == "mine"
    (first,) = HierLandmarkRetriever(memory=memory, k=1, neighbours=2).invoke("a")
    beside = [*first.metadata.get("before", ()), *first.metadata.get("after", ())]
    kept = {"1": {}, "2": {}, "3": {"langchain_message": "mine"}}
    assert len(beside) == 2 and all(one["metadata"] == kept[one["id"]] for one in beside)


def test_what_cannot_be_closed_is_no_memory(filled: Memory) -> None:
    names = ("search", "asearch", "add", "aadd", "messages", "amessages", "forget", "aforget")
    with pytest.raises(ValidationError, match="MemoryLike"):
        HierLandmarkRetriever(memory=SimpleNamespace(**{name: getattr(filled, name) for name in names}))


def test_mode_index(filled: Memory) -> None:
    filled.build_index()
    assert len(HierLandmarkRetriever(memory=filled, mode="index").invoke("spare key")) == 6


def test_in_a_chain_and_in_batches(filled: Memory) -> None:
    chain = HierLandmarkRetriever(memory=filled, k=2) | RunnableLambda(len)
    assert chain.batch(["spare key", "walnuts"]) == [2, 2]


@pytest.mark.parametrize(
    "fields", [{}, {"path": "a.db", "memory": True}, {"memory": True, "namespace": "ada"}, {"memory": True, "k": 0}]
)
def test_fields_that_contradict_are_refused(fields: dict, filled: Memory, tmp_path: Path) -> None:
    given = {name: filled if name == "memory" else value for name, value in fields.items()}
    with pytest.raises(ValidationError):
        HierLandmarkRetriever(**given)


def test_what_is_no_memory_is_refused() -> None:
    with pytest.raises(ValidationError, match="MemoryLike"):
        HierLandmarkRetriever(memory=object())


@pytest.mark.parametrize("k", [0, -1])
async def test_k_under_one(filled: Memory, k: int) -> None:
    retriever = HierLandmarkRetriever(memory=filled)
    with pytest.raises(InvalidArgument):
        retriever.invoke("spare key", k=k)
    with pytest.raises(InvalidArgument):
        await retriever.ainvoke("spare key", k=k)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "deep"}, "expected mode to be one of hierarchical, flat, hybrid, index, got 'deep'"),
        ({"top_k": 3}, "expected options of a call among k, mode, where, neighbours, parse_time, got 'top_k'"),
        ({"path": "b.db"}, "expected options of a call among k, mode, where, neighbours, parse_time, got 'path'"),
    ],
    ids=str,
)
async def test_options_of_a_call_that_there_are_not(filled: Memory, options: dict, said: str) -> None:
    retriever = HierLandmarkRetriever(memory=filled)
    with pytest.raises(InvalidArgument, match=said):
        retriever.invoke("spare key", **options)
    with pytest.raises(InvalidArgument, match=said):
        await retriever.ainvoke("spare key", **options)


async def test_options_of_a_call_are_those_of_the_retriever(filled: Memory) -> None:
    given = {"mode": "flat", "neighbours": 1, "k": 1, "where": {"roles": ["assistant"]}}
    wanted = HierLandmarkRetriever(memory=filled, **given).invoke("walnuts")
    assert wanted and wanted != HierLandmarkRetriever(memory=filled, k=1).invoke("walnuts")
    other = HierLandmarkRetriever(memory=filled)
    assert other.invoke("walnuts", **given) == await other.ainvoke("walnuts", **given) == wanted


async def test_nothing_was_ever_added(memory: Memory) -> None:
    retriever = HierLandmarkRetriever(memory=memory)
    with pytest.raises(NamespaceNotFound):
        retriever.invoke("spare key")
    with pytest.raises(NamespaceNotFound):
        await retriever.ainvoke("spare key")


async def test_a_database_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "mistyped.db"
    retriever = HierLandmarkRetriever(path=path, namespace="ada")
    said = f"no database at {str(path)!r}"
    with pytest.raises(NamespaceNotFound, match=re.escape(said)):
        retriever.invoke("spare key")
    with pytest.raises(NamespaceNotFound, match=re.escape(said)):
        await retriever.ainvoke("spare key")
    assert not path.exists()
    # one that a history makes later is found by the retriever that was there before
    with HierLandmarkChatMessageHistory(path=path, namespace="ada").memory as memory:
        memory.add([{"content": "The spare key is under the blue flower pot.", "id": 1}])
    assert len(retriever.invoke("spare key")) == 1
    retriever.memory.close()


def test_an_error_of_the_memory_keeps_its_name(filled: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    def search(*_: object, **__: object) -> None:
        raise MissingExtra("pip install 'hierlandmark[smollm2]'")

    monkeypatch.setattr(filled, "search", search)
    with pytest.raises(MissingExtra, match="smollm2"):
        HierLandmarkRetriever(memory=filled).invoke("spare key")


def test_the_memory_stays_out_of_logs(filled: Memory) -> None:
    retriever = HierLandmarkRetriever(memory=filled)
    assert "memory" not in repr(retriever)
    assert "memory" not in retriever.model_dump()
