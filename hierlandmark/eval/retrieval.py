"""Retrieval: each conversation in a namespace of its own, its questions asked, its evidence looked for."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hierlandmark.chats import Conversation, Question
from hierlandmark.config import SearchMode
from hierlandmark.errors import InvalidArgument, NamespaceNotFound
from hierlandmark.eval.metrics import CUTOFFS, mean_cost, ranked_ids, recall_at, reciprocal_rank
from hierlandmark.messages import Message, MessageId
from hierlandmark.results import Cost

if TYPE_CHECKING:
    from hierlandmark.memory import Memory


@dataclass(frozen=True)
class Asked:
    """One question, the message ids found for it, best first, and what finding them cost."""

    conversation: MessageId
    question: Question
    ranking: list[MessageId]
    cost: Cost


@dataclass
class RetrievalReport:
    """Every question asked; figures are means over those with evidence."""

    asked: list[Asked] = field(default_factory=list)

    def results(self) -> dict[str, float]:
        """`recall@1`, `recall@5`, `recall@10`, `recall@20` and `mrr`, 0 to 1, and `n`, the questions they average."""
        known = [(one.ranking, one.question.evidence) for one in self.asked if one.question.evidence]
        scores = {f"recall@{k}": fmean(recall_at(*pair, k) for pair in known) if known else 0.0 for k in CUTOFFS}
        return scores | {"mrr": fmean(reciprocal_rank(*pair) for pair in known) if known else 0.0, "n": len(known)}

    def as_json(self) -> dict[str, Any]:
        """The shape `hierlandmark eval retrieval --json` writes."""
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
        }


def evaluate_retrieval(
    conversations: Iterable[Conversation],
    open_memory: Callable[[str], "Memory"],
    *,
    k: int = 10,
    mode: SearchMode | None = None,
    on_add: Callable[[int, int], None] | None = None,
    on_question: Callable[[RetrievalReport], None] | None = None,
) -> RetrievalReport:
    """Add each conversation to the namespace `json.dumps(its id)`, ask its questions, and collect the rankings.

    Rankings hold `max(k, 20)` messages, fewer when the conversation has fewer. A namespace that holds the conversation
    already is used as it is, so that two modes can be compared over one database.
    Raises `InvalidArgument` for k < 1, or when a namespace holds something else.
    """
    if k < 1:
        raise InvalidArgument(f"expected k of at least 1, got {k!r}")
    report = RetrievalReport()
    for chat in conversations:
        with open_memory(json.dumps(chat.id, ensure_ascii=False)) as memory:
            _fill(memory, chat, on_add)
            for question in chat.questions:
                ranking, cost = rank(memory, question.question, max(k, CUTOFFS[-1]), mode)
                report.asked.append(Asked(chat.id, question, ranking, cost))
                if on_question:
                    on_question(report)
    return report


def rank(memory: "Memory", query: str, depth: int, mode: SearchMode | None) -> tuple[list[MessageId], Cost]:
    """The first `depth` distinct messages for a query, best first, and the cost of the search that gave them."""
    wanted = depth
    while True:
        found = memory.search(query, wanted, mode=mode)
        ranking = ranked_ids(found.hits)
        # several hits may point at one message: ask for more until there are enough, or no more come
        if len(ranking) >= depth or len(found.hits) < wanted:
            return ranking[:depth], found.cost
        wanted *= 2


def _fill(memory: "Memory", chat: Conversation, on_add: Callable[[int, int], None] | None) -> None:
    # public chat sets hold turns that were nothing but a transcriber's mark; a memory refuses empty text
    messages: list[Message] = [one for one in chat.messages if one.content.strip()]
    try:
        present = [one.id for one in memory.messages()]
    except NamespaceNotFound:
        memory.add(messages, progress=on_add)
        return
    if present != [one.id for one in messages]:
        raise InvalidArgument(
            f"namespace {memory.namespace!r} of {memory.path} holds {len(present)} messages that are not conversation "
            f"{chat.id!r}; give a database of its own"
        )
