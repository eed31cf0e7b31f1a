"""Memories of whole messages, and queries whose evidence among them is known.

Where a chat has questions with evidence or reply links, these are asked: a question, or the text of a message that
replies to another. Of other chats what a user said is asked for the assistant's reply, or a reply for what it answers.
Every chat is asked for messages by a sentence of them too (the inverse cloze task, Lee et al. 2019, arXiv 1906.00300),
taken out of the message in half of the cases, or by a question about what they say or about some words of them; or one
is made to say a fact, and asked for that. A message that became a query is not in the memory.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import pairwise
from typing import Literal

import numpy as np

from hierlandmark.config import LayoutConfig
from hierlandmark.model.prompts import DOCUMENT_ROLE, search_text
from hierlandmark.train.asking import ask_of, typed
from hierlandmark.train.corpus import Corpus, Talk, Turn, cut_text, heading, hide
from hierlandmark.train.facts import PASSKEY_FILLER, attribute, personal
from hierlandmark.train.readers import PASSAGE, PROMPT, Look
from hierlandmark.train.ruler import Span
from hierlandmark.train.synonyms import Synonyms, reworded
from hierlandmark.train.words import NAMES, PLAIN

QueryKind = Literal["question", "reply", "turn", "cloze", "asked", "about", "fact"]
# readers have room for about this many
MOST = 12
# of a chat with questions, links or turns, the share of queries that use them; the others are sentences
_KNOWN = 0.7
# of the messages of a run, the share that may become queries: a memory of answers alone is none that anybody has
_ASKED = 0.25
# words of a query, at least (real words, of a sentence) and at most, and tokens of the evidence that an answer repeats
_LEAST_WORDS, _LEAST_CLOZE, _QUERY_WORDS, _REPEATED = 3, 5, 48, (10, 28)
# share of memories that begin with a chat with an assistant where there is one, beside those that do by chance
_ASSISTANTS = 0.3
# tokens before and behind a message's content, for planning only
_AROUND = 8
# an answer that many messages hold is a guess
_GUESS = 0.2
SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
# share of the chats with an assistant where both are called by names, as in a chat among people
_NAMED = 0.25
# share of the questions and sentences that are put in other words, where any are known
_REWORDED = 0.4
# shares of messages asked for by what they say, and of the others by words of theirs, and how these are put
_ASKING, _ABOUT = 0.6, 0.12
_QUESTIONS = (
    "What did {who} say about {what}?",
    "What does {who} think of {what}?",
    "When did {who} mention {what}?",
    "Why did {who} bring up {what}?",
    "How did {who} describe {what}?",
    "What has {who} to do with {what}?",
    "Did {who} ever talk about {what}?",
    "Which {what} did {who} mean?",
    "Who talked about {what}?",
    "What was said about {what}?",
    "Where did {what} come up?",
    "What happened with {what}?",
    "How are {what} and {other} related?",
    "What about {what} and {other}?",
    "Remind me of {what}",
    "{who} {what} {other}",
    "{what}",
)
# who is spoken to, at the start of a line of a chat room
_ADDRESSED = re.compile(r"^\S{1,24}[:,] ")


@dataclass(frozen=True)
class Query:
    """What is asked, and the messages of the memory that hold what it looks for."""

    kind: QueryKind
    text: str
    where: tuple[int, ...]


@dataclass(frozen=True)
class Linked:
    """A memory of messages: its segments, where each message and its content stand in the text, and queries."""

    segments: list[np.ndarray]
    spans: list[Span]
    bodies: list[Span]
    queries: list[Query]


@dataclass(frozen=True)
class _Candidate:
    """What may be asked of a chat: a question's text, or a message that is taken out; and who answers."""

    kind: QueryKind
    where: tuple[int, ...]
    asked: int | None = None
    text: str = ""


@dataclass(frozen=True)
class _Plan:
    """Messages `first` up to `last` of a chat, those taken out, those said otherwise, and what is asked."""

    first: int
    last: int
    removed: set[int]
    changed: dict[int, np.ndarray]
    queries: list[Query]


def linked_memory(
    corpus: Corpus, lengths: list[int], rng: np.random.Generator, *, most: int = MOST, facts: float = 0.0
) -> Linked | None:
    """A memory of segments of these lengths: a run of messages of one chat, or of several one after another.

    Messages stand in the words in which a memory keeps them (`model.prompts.render`), with or without days. What the
    chats do not fill is text, which belongs to no message.

    Args:
        most: queries, at most.
        facts: share of the messages asked for that are made to say a fact first.

    Returns:
        None where no query could be made.
    """
    total = sum(lengths)
    longest = int(rng.choice([48, 120, 400, 2000]))
    day = date(2012, 1, 1) + timedelta(days=int(rng.integers(0, 6000))) if rng.random() < 0.5 else None
    pieces: list[np.ndarray] = []
    spans: list[Span] = []
    bodies: list[Span] = []
    queries: list[Query] = []
    have = 0
    for chat in (_named(one, rng) for one in _in_turn(corpus, rng)):
        room = total - have
        if rng.random() < 0.3:
            # several chats in a memory that one could fill
            room = min(room, max(total // 8, int(rng.integers(1, total + 1))))
        plan = _plan(corpus, chat, room, longest, most, facts, rng)
        places: dict[int, int] = {}
        for i in range(plan.first, plan.last):
            if i in plan.removed:
                continue
            said = plan.changed.get(i, chat[i].tokens)[:longest]
            piece, body = _rendered(corpus, Turn(chat.called(i), said), day)
            piece = piece[: total - have]
            first, last = have + body[0], min(have + body[1], total)
            # a message that the end of the memory cuts may lack what is asked for
            if 2 * (last - first) >= body[1] - body[0]:
                places[i] = len(spans)
            spans.append((have, have + len(piece)))
            bodies.append((min(first, total), last))
            pieces.append(piece)
            have += len(piece)
            if day and rng.random() < 0.15:
                day += timedelta(days=int(rng.integers(1, 6)))
            if have == total:
                break
        for query in plan.queries:
            if where := tuple(places[i] for i in query.where if i in places):
                queries.append(Query(query.kind, query.text, where))
        if have == total:
            break
    # facts alone are nothing of the chats
    if all(query.kind == "fact" for query in queries):
        return None
    if have < total:
        pieces.append(_filler(corpus, total - have, rng))
    chosen = [_worded(queries[i], corpus.synonyms, rng) for i in rng.permutation(len(queries))[:most]]
    text = np.concatenate(pieces).astype(np.int64)
    return Linked(np.split(text, np.cumsum(lengths)[:-1]), spans, bodies, chosen)


def linked_readers(
    corpus: Corpus, config: LayoutConfig, count: int, made: Linked, rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray, list[Look]]]:
    """Reader segments as `readers.make_readers` makes them; each looks at the last token of a prompt only.

    Most prompts are those of a search, whose last token is what `Memory.search` reads; the others are those of `ask`.
    """
    capacity, text = config.segment_capacity, np.concatenate(made.segments)
    out = []
    queue: list[Query] = []
    for _ in range(count):
        tokens: list[int] = []
        weights: list[float] = []
        looks: list[Look] = []
        while len(tokens) < capacity:
            # a reader knows nothing of what another was asked
            if not queue and not tokens:
                queue = [made.queries[i] for i in rng.permutation(len(made.queries))]
            if not queue:
                break
            query = queue[-1]
            searched = rng.random() < 0.7
            prompt = corpus.tokenize(search_text(query.text)) if searched else corpus.ask_prompt(query.text)
            if len(tokens) + len(prompt) > capacity and tokens:
                break
            # as a search cuts a query that is longer than a segment
            prompt = prompt[-capacity:]
            queue.pop()
            looks.append((len(tokens) + len(prompt) - 1, tuple(made.bodies[i] for i in query.where)))
            first, last = made.bodies[query.where[0]]
            end = min(last, first + int(rng.integers(*_REPEATED)))
            said = text[first:end]
            words = corpus.decode(said).strip().rstrip("\ufffd")
            answer = corpus.tokenize(f'{words}"' if searched else words)
            behind = corpus.tokenize("\n\n") if searched else corpus.answer_end
            weight = PASSAGE if len(query.where) == 1 else _GUESS
            tokens += prompt + answer + behind
            # no answer ends in the middle of what was said
            weights += [PROMPT] * len(prompt) + [weight] * len(answer) + [weight if end == last else 0.0] * len(behind)
        out.append((np.asarray(tokens[:capacity]), np.asarray(weights[:capacity]), looks))
    return out


def _filler(corpus: Corpus, count: int, rng: np.random.Generator) -> np.ndarray:
    """Text that is of no chat: what was taken out of one must not come back."""
    if corpus.texts:
        return cut_text(replace(corpus, chats=()), rng, count)
    return np.resize(np.asarray(corpus.tokenize(" " + PASSKEY_FILLER)), count)


def _in_turn(corpus: Corpus, rng: np.random.Generator) -> Iterator[Talk]:
    """Chats in a random order without repeating one: those of one kind, then others; kinds are as likely as each other,
    but for those with an assistant, which come first more often.

    A kind with long chats would have most of the tokens, one with many chats most of the memories.
    """
    kinds: dict[tuple[bool, bool], list[Talk]] = {}
    for chat in corpus.chats:
        kinds.setdefault((bool(chat.links), chat.assisted), []).append(chat)
    order = [list(kinds)[i] for i in rng.permutation(len(kinds))]
    if rng.random() < _ASSISTANTS:
        order.sort(key=lambda kind: not kind[1])
    for kind in order:
        chats = kinds[kind]
        for i in rng.permutation(len(chats)):
            yield chats[i]


def _plan(
    corpus: Corpus, chat: Talk, room: int, longest: int, most: int, facts: float, rng: np.random.Generator
) -> _Plan:
    """A run of messages around something to ask for, at least `room` tokens where the chat has them."""
    known = _known(chat)
    first, last = _run(chat, known, room, longest, rng)
    removable = min(most, 1 + int(_ASKED * (last - first)))
    # as many more as are taken out
    last = min(len(chat), last + removable)
    inside = [one for one in known if one.asked is None or first <= one.asked < last]
    plan = _Plan(first, last, set(), {}, [])
    wanted: set[int] = set()
    for i in rng.permutation(len(inside)):
        if len(plan.queries) >= _KNOWN * most:
            break
        one = inside[i]
        where = tuple(j for j in one.where if first <= j < last and j not in plan.removed)
        if not where or one.asked in wanted:
            continue
        text = one.text if one.asked is None else _said(corpus.decode(chat[one.asked].tokens).strip(), rng)
        if text is None:
            continue
        if one.asked is not None:
            if len(plan.removed) == removable:
                continue
            plan.removed.add(one.asked)
        wanted.update(where)
        plan.queries.append(Query(one.kind, text, where))
    for i in rng.permutation(np.arange(first, last)).tolist():
        if len(plan.queries) >= most:
            break
        if i in plan.removed:
            continue
        if facts and i not in wanted and rng.random() < facts:
            fact = (attribute if rng.random() < 0.5 else personal)(rng)
            plan.changed[i] = _saying(corpus, chat[i].tokens[:longest], fact.statement, longest, rng)
            plan.queries.append(Query("fact", fact.question, (i,)))
            continue
        said = corpus.decode(chat[i].tokens[:longest]).strip()
        role = chat.called(i)
        asked = ask_of(said, role, rng) if rng.random() < _ASKING else None
        if asked:
            gone = i + 1 >= last or i + 1 in plan.removed or i + 1 in plan.changed
            if not asked.reply:
                plan.queries.append(Query("asked", asked.text, (i,)))
            elif not gone and chat[i + 1].role != chat[i].role:
                # what answers stays as it is
                wanted.add(i + 1)
                plan.queries.append(Query("asked", asked.text, (i, i + 1)))
        elif rng.random() < _ABOUT:
            if about := _about(role, said, rng):
                plan.queries.append(Query("about", about, (i,)))
        elif made := _cloze(said, rng):
            text, rest = made
            if rest is not None and i not in wanted:
                plan.changed[i] = np.asarray(corpus.tokenize(f" {rest}"), dtype=np.int64)
            plan.queries.append(Query("cloze", text, (i,)))
    return plan


def _run(chat: Talk, known: list[_Candidate], room: int, longest: int, rng: np.random.Generator) -> tuple[int, int]:
    """The first message and the one behind the last of `room` tokens around something known, or around any message."""
    ends = np.cumsum(np.minimum(chat.lengths, longest) + _AROUND)
    near = known[rng.integers(0, len(known))].where if known else range(len(chat))
    before = int(ends[near[int(rng.integers(0, len(near)))]]) - int(rng.integers(0, room + 1))
    first = int(np.searchsorted(ends, max(0, min(before, int(ends[-1]) - room))))
    start = int(ends[first - 1]) if first else 0
    return first, int(np.searchsorted(ends, start + room)) + 1


def _worded(query: Query, known: Synonyms, rng: np.random.Generator) -> Query:
    """A query in other words, some of them, and then as people type: in small letters a name looks like a word."""
    text = query.text
    # what people wrote, and facts that are made up, have words of their own
    if known and query.kind not in ("reply", "turn", "fact") and rng.random() < _REWORDED:
        text = reworded(text, known, rng)
    return replace(query, text=typed(text, rng) if query.kind == "asked" else text)


def _named(chat: Talk, rng: np.random.Generator) -> Talk:
    """The chat; of some with an assistant one where both have names, so that rules ask for neither as "I" or "you"."""
    if not chat.assisted or rng.random() >= _NAMED:
        return chat
    user, assistant = map(str, rng.choice(NAMES, 2, replace=False))
    return chat.named({"user": user, "assistant": assistant})


def _saying(corpus: Corpus, tokens: np.ndarray, statement: str, longest: int, rng: np.random.Generator) -> np.ndarray:
    """A message that says this among other things, or, half of them, nothing else."""
    said = np.asarray(corpus.tokenize(f" {statement}"), dtype=np.int64)
    if rng.random() < 0.5 or len(said) >= longest:
        return said
    text, _ = hide(corpus, [], tokens[: longest - len(said)].astype(np.int64), [said], rng)
    return text


def _known(chat: Talk) -> list[_Candidate]:
    """What can be asked of a chat but sentences: questions, and replies, or turns where no links say what replies."""
    found = [_Candidate("question", where, text=text) for text, where in chat.questions]
    parents: dict[int, list[int]] = {}
    for message, parent in chat.links:
        parents.setdefault(message, []).append(parent)
    found += [_Candidate("reply", tuple(where), asked=message) for message, where in parents.items()]
    if parents:
        return found
    pairs = pairwise([turn.role for turn in chat])
    places = [i for i, pair in enumerate(pairs) if pair == ("user", "assistant")]
    # either of them says in other words what the other is about
    turns = [_Candidate("turn", (answer,), asked=asked) for i in places for asked, answer in ((i, i + 1), (i + 1, i))]
    return found + turns


def _rendered(corpus: Corpus, turn: Turn, day: date | None) -> tuple[np.ndarray, Span]:
    """Tokens of a message as `model.prompts.render` puts it, and where in them its content stands."""
    head = heading(corpus, turn.role, day)
    end = corpus.tokenize("\n\n")
    return np.concatenate((head, turn.tokens, end)).astype(np.int64), (len(head), len(head) + len(turn.tokens))


def _said(text: str, rng: np.random.Generator) -> str | None:
    """A message as a query: the whole of it or a sentence, at most 48 words; None for one too short to look for."""
    if rng.random() < 0.5:
        text = _ADDRESSED.sub("", text)
    sentences = [one for one in SENTENCE.split(text) if len(one.split()) >= _LEAST_WORDS]
    if len(sentences) > 1 and (rng.random() < 0.4 or len(text.split()) > _QUERY_WORDS):
        text = sentences[int(rng.integers(0, len(sentences)))]
    words = text.split()
    return " ".join(words[:_QUERY_WORDS]) if len(words) >= _LEAST_WORDS else None


def _cloze(text: str, rng: np.random.Generator) -> tuple[str, str | None] | None:
    """A sentence of a message with some words dropped or in another order, and in half of the cases the message
    without it; None where no sentence is long enough."""
    sentences = [one for one in SENTENCE.split(text) if sum(map(str.isalpha, one.split())) >= _LEAST_CLOZE]
    if not sentences:
        return None
    sentence = sentences[int(rng.integers(0, len(sentences)))]
    words = sentence.split()[:_QUERY_WORDS]
    style = rng.random()
    if style < 0.4:
        # as people type into a search box
        rare = [word for word in words if word.lower().strip(".,;:!?") not in PLAIN]
        words = rare if len(rare) >= _LEAST_WORDS else words
    kept = [word for word in words if rng.random() > 0.25]
    words = kept if len(kept) >= _LEAST_WORDS else words
    if style < 0.2:
        words = [words[i] for i in rng.permutation(len(words))]
    rest = text.replace(sentence, "", 1).strip()
    removed = rng.random() < 0.5 and len(rest.split()) > _LEAST_WORDS
    return " ".join(words), rest if removed else None


def _about(role: str, text: str, rng: np.random.Generator) -> str | None:
    """A question about one or two runs of words of a sentence, or these words; None where it has none worth it."""
    sentences = [one for one in SENTENCE.split(text) if sum(map(str.isalpha, one.split())) >= _LEAST_CLOZE]
    if not sentences:
        return None
    words = sentences[int(rng.integers(0, len(sentences)))].split()
    telling = [i for i, word in enumerate(words) if _telling(word)]
    if len(telling) < 2:
        return None
    runs = []
    for at in rng.choice(telling, 2, replace=False).tolist():
        last = at + int(rng.integers(1, 5))
        # to end with what tells something
        while last > at + 1 and not (last <= len(words) and _telling(words[last - 1])):
            last -= 1
        runs.append(" ".join(words[at:last]).strip(".,;:!?\"'()"))
    # nobody says what stands in a document
    forms = [form for form in _QUESTIONS if role != DOCUMENT_ROLE or "{who}" not in form]
    form = forms[int(rng.integers(0, len(forms)))]
    who = "I" if role == "user" and rng.random() < 0.7 else role
    return form.format(who=who, what=runs[0], other=runs[1])


def _telling(word: str) -> bool:
    bare = word.lower().strip(".,;:!?\"'()")
    return len(bare) > 3 and bare not in PLAIN and any(map(str.isalpha, bare))
