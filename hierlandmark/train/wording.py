"""Which messages of a chat can be asked for, how a question about one begins, and which questions are kept."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hierlandmark.model.prompts import DOCUMENT_ROLE
from hierlandmark.train.links import SENTENCE
from hierlandmark.train.words import EMPTY

TYPE = "generated"
# how a question begins, by who speaks; the model goes on from there
_STARTS = {
    "user": (
        ("What did the user say about", 3), ("What did I say about", 4), ("Why does the user want to", 2),
        ("What did I ask you about", 2), ("How does the user plan to", 1), ("What did I want to know about", 2),
        ("What problem does the user have with", 1), ("What did I tell you about", 2), ("Why do I want to", 1),
        ("What does the user ask about", 1),
    ),
    "assistant": (
        ("What did you tell me about", 4), ("What did the assistant suggest for", 3), ("How do I", 2),
        ("What should I do to", 2), ("What did you recommend for", 2), ("What did the assistant say about", 3),
        ("What is", 1), ("How did the assistant explain", 1), ("Why did you suggest", 1),
    ),
    DOCUMENT_ROLE: (("What is", 2), ("How does", 1), ("Why does", 1), ("Who is", 1), ("What does it say about", 2)),
    "": (
        ("What did {role} say about", 4), ("Why did {role}", 1), ("What does {role} want to", 1), ("How do I", 1),
        ("What did {role} suggest about", 2), ("What did {role} ask about", 1), ("Why does {role} think that", 1),
        ("What problem does {role} have with", 1), ("What is", 1),
    ),
}  # fmt: skip
# where a day or an hour is told
_STARTS_OF_TIMES = {"user": ("When did I", "When do I", "When does the user plan to")}
_MONTH = r"(?:Jan|Feb|March|April|May|Ju[nl]|Aug|Sep|Oct|Nov|Dec)\w*"
_TIME = re.compile(rf"\b(?:\d{{4}}-\d\d|\d{{1,2}}(?::\d\d)? ?[AP]M|{_MONTH} \d)")
# words of a message that are shown, and that a message must have: all, and such as say something
_SHOWN, _LEAST_WORDS, _LEAST_TELLING = (30, 90), 8, 3
# letters and spaces among its characters, at least, and backslashes: code and formulas make poor questions
_LEAST_LETTERS, _MOST_COMMANDS = 0.7, 4
_QUESTION_WORDS = (4, 30)
# letters of the words that a question shares with its message
_LEAST_SHARED = 6
# messages of a chat that hold all that a question shares with its own, at most, and as a share
_FEW, _RARE = 2, 0.015
# a transcriber's marks, and spaces that a tokenizer of the source left
_MARK, _GAP = re.compile(r"\{\w+\}"), re.compile(r"\s+(?=[.,;:?!]|'(?:s|re|ve|ll|m|d|t)\b)")
_WORD = re.compile(r"[^\W_]+(?:['.-][^\W_]+)*")
# words of a question about a text, which nobody who searches has before them
OF_TEXT = frozenset(
    "message messages text passage topic topics question questions sentence following answer response conversation "
    "assist".split()
)


@dataclass(frozen=True)
class Draw:
    """A message to be asked for: the part of it that is shown, and how its question begins."""

    chat: int
    message: int | str
    role: str
    shown: str
    start: str


class Found(dict[str, frozenset[int]]):
    """Words of a chat, each with the places of the messages that hold it."""

    def __init__(self, record: dict[str, Any]) -> None:
        places: dict[str, set[int]] = {}
        for i, message in enumerate(record["messages"]):
            for word in _words(message["content"]):
                places.setdefault(word, set()).add(i)
        super().__init__((word, frozenset(at)) for word, at in places.items())
        self.messages = len(record["messages"])


def draw_messages(records: Sequence[dict[str, Any]], count: int, rng: np.random.Generator) -> Iterator[Draw]:
    """At most `count` messages at random of those that say enough; long ones as a run of sentences.

    None twice, and none that a generated question of the records was made of, so that runs add up.
    """
    places = [(c, m) for c, record in enumerate(records) for m in range(len(record["messages"]))]
    made = [[q for q in record.get("questions") or () if q.get("type") == TYPE] for record in records]
    taken = {(c, evidence) for c, questions in enumerate(made) for q in questions for evidence in q["evidence"]}
    for i in rng.permutation(len(places)):
        if count <= 0:
            return
        chat, at = places[i]
        message = records[chat]["messages"][at]
        role, shown = message["role"] or "user", _cut(_clean(message["content"]), rng)
        if role == "system" or (chat, message["id"]) in taken or not _says_enough(shown):
            continue
        count -= 1
        yield Draw(chat, message["id"], role, shown, _start(role, shown, rng))


def keep(draw: Draw, text: str, found: Found) -> str | None:
    """The question in what was written, or None where it is none, is not about the message, or about many others.

    Args:
        found: a word of the chat to the places of the messages that hold it.
    """
    question, mark, _ = text.strip().partition("?")
    question = f"{' '.join(question.split())}?"
    if draw.role == "user":
        # the model answers the user, who asks here
        question = re.sub(r"\byour\b", "my" if " I " in draw.start else "their", question)
    words, told, begun = _words(question), _words(draw.shown), _words(draw.start)
    new = words[len(begun) :]
    if not mark or not question.startswith(draw.start) or OF_TEXT & {*new}:
        return None
    if not _QUESTION_WORDS[0] <= len(words) <= _QUESTION_WORDS[1] or max(Counter(new).values(), default=3) > 2:
        return None
    # a name or a number that the message does not hold is made up
    known = {*told, *_words(draw.role), *begun, "i"}
    if any(word.lower() not in known for word in _WORD.findall(question)[1:] if word[0].isupper() or word[0].isdigit()):
        return None
    shared = {word for word in {*new} & {*told} - EMPTY if len(word) > 2 and word in found}
    if sum(map(len, shared)) < _LEAST_SHARED or " ".join(words) in " ".join(told):
        return None
    held = frozenset.intersection(*(found[word] for word in shared))
    return question if len(held) <= max(_FEW, _RARE * found.messages) else None


def _clean(text: str) -> str:
    return _GAP.sub("", _MARK.sub(" ", text))


def _cut(text: str, rng: np.random.Generator) -> str:
    """The text, or a run of its sentences from a random one on, within a random number of words."""
    most = int(rng.integers(_SHOWN[0], _SHOWN[1] + 1))
    sentences = [words for sentence in SENTENCE.split(text) if (words := sentence.split())]
    if sum(map(len, sentences)) > most:
        sentences = sentences[int(rng.integers(0, len(sentences))) :]
    out: list[str] = []
    for words in sentences:
        if out and len(out) + len(words) > most:
            break
        out += words[:most]
    return " ".join(out)


def _says_enough(shown: str) -> bool:
    telling = {word for word in _words(shown) if len(word) > 2 and word.isalpha() and word not in EMPTY}
    letters = sum(char.isalpha() or char.isspace() for char in shown)
    enough = len(shown.split()) >= _LEAST_WORDS and len(telling) >= _LEAST_TELLING
    return enough and shown.count("\\") < _MOST_COMMANDS and letters >= _LEAST_LETTERS * len(shown)


def _start(role: str, shown: str, rng: np.random.Generator) -> str:
    if (times := _STARTS_OF_TIMES.get(role)) and _TIME.search(shown) and rng.random() < 0.3:
        return str(rng.choice(times))
    starts, weights = zip(*_STARTS.get(role, _STARTS[""]), strict=True)
    return starts[int(rng.choice(len(starts), p=np.array(weights) / sum(weights)))].replace("{role}", role)


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]
