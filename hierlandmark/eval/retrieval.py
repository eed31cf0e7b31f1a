"""Retrieval: each conversation in a namespace of its own, its questions asked of every row, its evidence looked for."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from hierlandmark.chats import Conversation, Question
from hierlandmark.config import SearchMode
from hierlandmark.errors import InvalidArgument, NamespaceNotFound
from hierlandmark.eval.metrics import CUTOFFS, bootstrap, mean_cost, question_scores
from hierlandmark.eval.rows import Chat, build
from hierlandmark.messages import MessageId
from hierlandmark.results import AddReport, Cost

if TYPE_CHECKING:
    from hierlandmark.memory import Memory

# figures of the contract that `eval retrieval --json` had first
RESULTS = (*(f"recall@{k}" for k in CUTOFFS), "mrr")
# the row of a memory searched in its configured mode
DEFAULT = "default"


@dataclass(frozen=True)
class Asked:
    """One question, the message ids found for it, best first, and what finding them cost."""

    conversation: MessageId
    question: Question
    ranking: list[MessageId]
    cost: Cost = field(default_factory=Cost)
    # wall time of the whole search, the query's encoding included, loading left out
    ms: float = 0.0
    keys_scored: int = 0
    bytes_read: int = 0

    def scores(self) -> dict[str, float]:
        """`metrics.question_scores` of a question with evidence."""
        return question_scores(self.ranking, self.question.evidence)


@dataclass
class Row:
    """What one retriever found, and what it took, over all conversations."""

    name: str
    asked: list[Asked] = field(default_factory=list)
    index_bytes: int = 0
    # the model's tokens in the text that was indexed, and seconds it took; None where some of it was there already
    tokens: int = 0
    seconds: float | None = 0.0

    def scored(self, kind: str | None = None) -> list[dict[str, float]]:
        """Figures of each question with evidence, of one type or of all."""
        return [
            one.scores()
            for one in self.asked
            if one.question.evidence and (kind is None or (one.question.type or "none") == kind)
        ]

    def types(self) -> list[str]:
        """Types of the questions with evidence, in alphabetical order."""
        return sorted({one.question.type or "none" for one in self.asked if one.question.evidence})

    def results(self) -> dict[str, float]:
        """Means over questions with evidence, and `n`, their number."""
        scores = self.scored()
        return means(scores) | {"n": len(scores)}

    def intervals(self) -> dict[str, list[float]]:
        """95% interval of each of `results`, empty without evidence."""
        scores = self.scored()
        return {name: list(bootstrap([one[name] for one in scores])) for name in scores[0]} if scores else {}

    def by_type(self) -> dict[str, dict[str, float]]:
        """`results` of each type."""
        return {kind: means(found := self.scored(kind)) | {"n": len(found)} for kind in self.types()}

    def costs(self) -> dict[str, Any]:
        """What a question took, and what the index is and took."""
        times = [one.ms for one in self.asked] or [0.0]
        return {
            "keys_scored": fmean(one.keys_scored for one in self.asked) if self.asked else 0.0,
            "bytes_read": fmean(one.bytes_read for one in self.asked) if self.asked else 0.0,
            "p50_ms": float(np.percentile(times, 50)),
            "p95_ms": float(np.percentile(times, 95)),
            "index_bytes": self.index_bytes,
            "ingest_tokens_per_s": self.tokens / self.seconds if self.seconds else None,
        }

    def as_json(self) -> dict[str, Any]:
        """All of it, and the ranking of each question."""
        found = {"results": self.results(), "intervals": self.intervals(), "types": self.by_type()}
        return found | self.costs() | {"rankings": [one.ranking for one in self.asked]}


@dataclass
class RetrievalReport:
    """Every question asked of every row; figures are means over those with evidence."""

    main: str = DEFAULT
    rows: dict[str, Row] = field(default_factory=dict)
    conversations: int = 0
    # ids given as evidence that name no message with text
    unfindable: int = 0

    @property
    def asked(self) -> list[Asked]:
        """Of the main row."""
        return self.rows[self.main].asked if self.main in self.rows else []

    def results(self) -> dict[str, float]:
        """`recall@1`, `@5`, `@10`, `@20` and `mrr` of the main row, 0 to 1, and `n`, the questions they average."""
        known = [one.scores() for one in self.asked if one.question.evidence]
        found = means(known)
        return {name: found.get(name, 0.0) for name in RESULTS} | {"n": len(known)}

    def as_json(self) -> dict[str, Any]:
        """The shape `hierlandmark eval retrieval --json` writes: the main row as ever, and all of them in `rows`."""
        return {
            "results": self.results(),
            "cost": mean_cost([one.cost for one in self.asked]),
            "questions": [
                {
                    "conversation": one.conversation,
                    "type": one.question.type,
                    "question": one.question.question,
                    "ranking": one.ranking,
                }
                for one in self.asked
            ],
            "rows": {name: row.as_json() for name, row in self.rows.items()},
            "unfindable": self.unfindable,
        }


def means(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure; empty without questions."""
    return {name: fmean(one[name] for one in scores) for name in scores[0]} if scores else {}


def evaluate_retrieval(
    conversations: Iterable[Conversation],
    open_memory: Callable[[str], "Memory"],
    *,
    k: int = 10,
    mode: SearchMode | None = None,
    rows: Sequence[str] = (),
    on_add: Callable[[int, int], None] | None = None,
    on_question: Callable[[int], None] | None = None,
    on_done: Callable[[str], None] | None = None,
) -> RetrievalReport:
    """Add each conversation to a namespace named like it, ask its questions of each row, and collect the rankings.

    A conversation's first question is asked twice of each row and timed the second time, and conversations take turns
    in which row comes first. Rankings hold `max(k, 20)` messages, fewer when the conversation has fewer. A namespace
    that holds the conversation already is used as it is, so that two runs can be compared over one database. Of a
    conversation that is what is `findable`.

    Args:
        mode: of the main row; None for the memory's own.
        rows: others, as `eval.rows.check_rows` gives them.
        on_question: called with the questions asked so far, of all rows.
        on_done: called with a namespace whose questions are all answered and whose memory is closed.

    Raises:
        InvalidArgument: k < 1, no question in any conversation, or a namespace that holds something else.
    """
    if k < 1:
        raise InvalidArgument(f"expected k of at least 1, got {k!r}")
    given = list(conversations)
    chats = [findable(chat) for chat in given]
    if not any(chat.questions for chat in chats):
        raise InvalidArgument(
            f"expected questions to ask, none of the conversations given ({len(chats)}) has any; a chat file has them "
            'under "questions", each with "question" and "evidence" (ids of the messages that answer it)'
        )
    main = mode or DEFAULT
    names = dict.fromkeys((main, *rows))
    unfindable = sum(map(_evidence, given)) - sum(map(_evidence, chats))
    report = RetrievalReport(main, {name: Row(name) for name in names}, len(chats), unfindable)
    depth, done = max(k, CUTOFFS[-1]), 0
    for turn, (chat, namespace) in enumerate(zip(chats, namespaces([chat.id for chat in chats]), strict=True)):
        with open_memory(namespace) as memory:
            added = _fill(memory, chat, on_add)
            here = Chat(memory, chat.messages, added.seconds if added else None)
            tokens = memory.stats().tokens
            # files that one row has read are in memory for the next
            first = turn % len(report.rows)
            for row in (*list(report.rows.values())[first:], *list(report.rows.values())[:first]):
                retriever, seconds = build(row.name, here)
                row.index_bytes += retriever.index_bytes
                row.tokens += tokens
                row.seconds = None if row.seconds is None or seconds is None else row.seconds + seconds
                for at, question in enumerate(chat.questions):
                    began = perf_counter()
                    found = retriever.rank(question.question, depth)
                    if not at:
                        # what the first search loads counts as read; whose row comes first is not a matter of speed
                        began = perf_counter()
                        retriever.rank(question.question, depth)
                    ms = (perf_counter() - began) * 1e3
                    row.asked.append(
                        Asked(chat.id, question, found.ids, found.cost, ms, found.keys_scored, found.bytes_read)
                    )
                    done += 1
                    if on_question:
                        on_question(done)
        if on_done:
            on_done(namespace)
    return report


def findable(chat: Conversation) -> Conversation:
    """A conversation without blank messages, and without evidence that names none of the rest.

    Public chat sets hold turns that were nothing but a transcriber's mark, and judgements of what is not there. A
    memory refuses empty text, and recall of what cannot be found would stay below 1 whatever searches.
    """
    messages = [one for one in chat.messages if one.content.strip()]
    known = {one.id for one in messages}
    questions = [
        one.model_copy(update={"evidence": [name for name in one.evidence if name in known]}) for one in chat.questions
    ]
    return chat.model_copy(update={"messages": messages, "questions": questions})


def _evidence(chat: Conversation) -> int:
    return sum(len(one.evidence) for one in chat.questions)


def namespaces(ids: Sequence[MessageId]) -> list[str]:
    """Readable names of conversations, one each: the id as text, an integer marked where a string looks like it.

    >>> namespaces(["a", 1, "1", 2])
    ['a', '1 (integer)', '1', '2']
    """
    strings = {one for one in ids if isinstance(one, str)}
    return [
        one or "(empty)" if isinstance(one, str) else f"{one} (integer)" if str(one) in strings else str(one)
        for one in ids
    ]


def _fill(memory: "Memory", chat: Conversation, on_add: Callable[[int, int], None] | None) -> AddReport | None:
    try:
        present = memory.messages()
    except NamespaceNotFound:
        return memory.add(chat.messages, progress=on_add)
    # whole messages: files often number theirs alike
    if present != chat.messages:
        raise InvalidArgument(
            f"namespace {memory.namespace!r} of {memory.path} holds {len(present)} messages that are not conversation "
            f"{chat.id!r}; give a database of its own"
        )
    return None
