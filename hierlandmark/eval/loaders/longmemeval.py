"""LongMemEval (Wu et al. 2024, arXiv 2410.10813): a list of questions, each with a chat history of its own."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from hierlandmark.chats import Conversation, Question
from hierlandmark.eval.loaders.checked import conversation, fail, may, need
from hierlandmark.messages import Message


def read_longmemeval(path: Path, records: list[Any]) -> Iterator[Conversation]:
    """One conversation a question, named by `question_id`; message ids are `session:turn`, turns from 0.

    Evidence is the turns marked `has_answer`, as in the paper's turn-level retrieval. Questions whose id ends in `_abs`
    are of type "abstention" and have none.
    """
    for index, record in enumerate(records):
        place = f"record {index}"
        name = str(need(path, place, record, "question_id", str))
        sessions = need(path, place, record, "haystack_sessions", list)
        ids = may(path, place, record, "haystack_session_ids", list) or list(range(len(sessions)))
        dates = may(path, place, record, "haystack_dates", list) or [None] * len(sessions)
        if not len(ids) == len(dates) == len(sessions):
            fail(path, place, f"{len(sessions)} sessions, {len(ids)} of their ids and {len(dates)} of their dates")
        messages: list[Message] = []
        marked: list[str] = []
        seen: dict[str, int] = {}
        for session, one, date in zip(sessions, ids, dates, strict=True):
            # a filler session may stand in a history twice
            again = seen[str(one)] = seen.get(str(one), 0) + 1
            label = str(one) if again == 1 else f"{one}#{again}"
            if not isinstance(session, list):
                fail(path, f"{place}, session {one!r}", f"expected a list of turns, got {session!r:.80}")
            for at, turn in enumerate(session):
                where = f"{place}, session {one!r}, turn {at}"
                message = Message(
                    id=f"{label}:{at}",
                    role=str(need(path, where, turn, "role", str)),
                    content=str(need(path, where, turn, "content", str)),
                    time=_time(date),
                )
                messages.append(message)
                if turn.get("has_answer"):
                    marked.append(str(message.id))
        absent = name.endswith("_abs")
        question = Question(
            type="abstention" if absent else may(path, place, record, "question_type", str),
            question=str(need(path, place, record, "question", str)),
            evidence=[] if absent else list(marked),
        )
        yield conversation(path, place, name, messages, [question])


def _time(text: Any) -> str | None:
    """ISO 8601 of "2023/05/20 (Sat) 02:21"."""
    parts = str(text).split()
    try:
        return datetime.strptime(f"{parts[0]} {parts[-1]}", "%Y/%m/%d %H:%M").isoformat()
    except (ValueError, IndexError):
        return None
