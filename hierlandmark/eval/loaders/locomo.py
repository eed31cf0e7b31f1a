"""LoCoMo (Maharana et al. 2024, arXiv 2402.17753): `locomo10.json`, a list of two-person chats of many sessions."""

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from hierlandmark.chats import Conversation, Question
from hierlandmark.eval.loaders.checked import conversation, may, need
from hierlandmark.messages import Message

# the numbers of the published file, by the counts of the paper's Table 5
CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}
# the published file also writes "D8:6; D9:17", "D30:05" and "D:11:26"
_EVIDENCE = re.compile(r"D:?(\d+):(\d+)")
_DATE = "%I:%M %p on %d %B, %Y"


def read_locomo(path: Path, records: list[Any]) -> Iterator[Conversation]:
    """One conversation a record. Message ids are `dia_id`s.

    A photo is part of its turn, as its caption: questions ask about them. Adversarial questions keep the turns that
    they twist as evidence.
    """
    for index, record in enumerate(records):
        place = f"record {index}"
        chat = need(path, place, record, "conversation", dict)
        messages = list(_messages(path, place, chat))
        questions = [
            _question(path, f"{place}, question {at}", one)
            for at, one in enumerate(need(path, place, record, "qa", list))
        ]
        yield conversation(path, place, record.get("sample_id", index), messages, questions)


def _question(path: Path, place: str, record: Any) -> Question:
    text = need(path, place, record, "question", str)
    category = may(path, place, record, "category", (int, str))
    evidence = may(path, place, record, "evidence", (list, str)) or ""
    given = evidence if isinstance(evidence, str) else " ".join(map(str, evidence))
    named = (f"D{int(session)}:{int(turn)}" for session, turn in _EVIDENCE.findall(given))
    return Question(
        type=CATEGORIES.get(category, str(category)),
        question=text,
        evidence=list(dict.fromkeys(named)),
    )


def _messages(path: Path, place: str, chat: dict[str, Any]) -> Iterator[Message]:
    numbers = sorted(int(key.removeprefix("session_")) for key in chat if re.fullmatch(r"session_\d+", key))
    for number in numbers:
        time = _time(chat.get(f"session_{number}_date_time"))
        for turn in need(path, place, chat, f"session_{number}", list):
            where = f"{place}, session {number}"
            text = str(turn.get("text") or "") if isinstance(turn, dict) else ""
            if caption := isinstance(turn, dict) and turn.get("blip_caption"):
                text = f"{text} [photo: {caption}]".lstrip()
            yield Message(
                id=_canonical(str(need(path, where, turn, "dia_id", str))),
                role=str(need(path, where, turn, "speaker", str)),
                content=text,
                time=time,
            )


def _time(text: Any) -> str | None:
    """ISO 8601 of "1:56 pm on 8 May, 2023"."""
    try:
        return datetime.strptime(str(text), _DATE).isoformat()
    except ValueError:
        return None


def _canonical(text: str) -> str:
    match = _EVIDENCE.fullmatch(text)
    return f"D{int(match[1])}:{int(match[2])}" if match else text
