"""Token ids of plain text and of chats, and what is needed to cut passages and words out of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from functools import cached_property
from typing import overload

import numpy as np

from hierlandmark.model.prompts import DOCUMENT_ROLE, speaker
from hierlandmark.train.synonyms import Synonyms

Tokenize = Callable[[str], list[int]]

# a text is drawn again where of so many tokens in a row a greater share than of all text are parts of characters
_STRETCH, _FRAGMENTS = 256, 0.25
# where all text is so, the last draw is taken
_DRAWS = 8
# messages by which a chat with an assistant is told from others
_OPENING = 20


@dataclass(frozen=True)
class Turn:
    """A message: who speaks, and its content, a space before it."""

    role: str
    tokens: np.ndarray  # (n,) unsigned


@dataclass(frozen=True, eq=False)
class Talk(Sequence[Turn]):
    """A chat: its messages, and what is known of who answers whom. Messages are named by their places in it."""

    turns: Sequence[Turn]
    # a question, and the messages that answer it, in order
    questions: Sequence[tuple[str, tuple[int, ...]]] = ()
    # a message, and one that it replies to
    links: Sequence[tuple[int, int]] = ()
    # what speakers are called in place of their roles
    names: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Content tokens of each message: (n,)."""
        return np.array([len(turn.tokens) for turn in self.turns])

    @cached_property
    def assisted(self) -> bool:
        """Whether an assistant speaks in it."""
        return any(turn.role == "assistant" for turn in self.turns[:_OPENING])

    def named(self, names: Mapping[str, str]) -> "Talk":
        """The same chat between speakers of these names."""
        other = replace(self, names=names)
        # the turns are the same: counted once for all that are made of this chat
        vars(other)["lengths"] = self.lengths
        return other

    def called(self, place: int) -> str:
        """Who speaks a message, by name if they have one."""
        role = self.turns[place].role
        return self.names.get(role, role)

    def __len__(self) -> int:
        return len(self.turns)

    @overload
    def __getitem__(self, index: int) -> Turn: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Turn]: ...
    def __getitem__(self, index: int | slice) -> Turn | Sequence[Turn]:
        return self.turns[index]


@dataclass(frozen=True)
class Corpus:
    """Token ids of plain text and of chats, and what is needed to cut words out of them."""

    texts: dict[str, np.ndarray]  # name -> (n,) unsigned
    chats: Sequence[Talk]
    tokenize: Tokenize
    decode: Callable[[np.ndarray], str]
    # wraps a question into the prompt that `Memory.ask` uses, and what ends the answer
    ask_prompt: Callable[[str], list[int]]
    answer_end: list[int]
    word_start: np.ndarray  # (vocabulary,) bool: a space and a letter
    word_part: np.ndarray  # (vocabulary,) bool: letters only
    rarity: np.ndarray  # (vocabulary,) fp32, minus log frequency
    full_stop: int
    fragment: np.ndarray  # (vocabulary,) bool: bytes of a character that the tokenizer has no token for
    fragments: float  # their share of all texts
    # words that queries of the search may have in place of others
    synonyms: Synonyms = field(default_factory=dict)


def build_corpus(
    texts: dict[str, np.ndarray],
    tokenizer: object,
    ask_prompt: Callable[[str], list[int]],
    chats: Sequence[Sequence[Turn]] = (),
) -> Corpus:
    """Word tables from the tokenizer's vocabulary and token counts from texts and chats, one of them not empty."""
    size = len(tokenizer)  # type: ignore[arg-type]
    pieces = [tokenizer.decode([i]) for i in range(size)]  # type: ignore[attr-defined]
    start = np.array([len(p) > 2 and p[0] == " " and p[1:].isalpha() for p in pieces])
    part = np.array([p.isalpha() for p in pieces])
    counts = np.ones(size)
    for text in texts.values():
        counts += np.bincount(text[:1_000_000], minlength=size)[:size]
    for chat in chats:
        counts += np.bincount(np.concatenate([turn.tokens for turn in chat[:1000]]), minlength=size)[:size]
    fragment = np.array(["\ufffd" in p for p in pieces])
    # of the whole: a library may begin in one script and go on in another
    fragments = sum(int(fragment[text].sum()) for text in texts.values()) / max(1, sum(map(len, texts.values())))
    rarity = -np.log(counts / counts.sum()).astype(np.float32)

    def tokenize(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]  # type: ignore[operator]

    def decode(tokens: np.ndarray) -> str:
        # without it some tokenizers take spaces before full stops away
        return str(tokenizer.decode(tokens.tolist(), clean_up_tokenization_spaces=False))  # type: ignore[attr-defined]

    end = tokenizer.eos_token_id  # type: ignore[attr-defined]
    ends = [] if end is None else [end]
    talks = [chat if isinstance(chat, Talk) else Talk(chat) for chat in chats]
    ends = [*ends, *tokenize("\n")]
    stop = tokenize(".")[0]
    return Corpus(
        texts, talks, tokenize, decode, ask_prompt, ends, start, part, rarity, stop, fragment, fragments
    )  # fmt: skip


def cut_text(corpus: Corpus, rng: np.random.Generator, count: int) -> np.ndarray:
    """A random piece of a random text or chat, repeated where it is too short: (count,) int64.

    Texts in a script that the tokenizer knows only by bytes are drawn again: few and far between, each would
    have several times the gradient of any other, in the lowest layers.
    """
    if corpus.chats and (not corpus.texts or rng.random() < 0.5):
        return _cut_chat(corpus, rng, count)
    names = sorted(corpus.texts)
    for _ in range(_DRAWS):
        text = corpus.texts[names[rng.integers(0, len(names))]]
        start = int(rng.integers(0, max(1, len(text) - count)))
        piece = text[start : start + count]
        if not _in_fragments(corpus, piece):
            break
    return np.resize(piece, count).astype(np.int64)


def _in_fragments(corpus: Corpus, piece: np.ndarray) -> bool:
    """Whether a stretch of it has far more characters in bytes than its corpus."""
    each = corpus.fragment[piece]
    size = min(_STRETCH, max(1, len(each)))
    shares = each[: len(each) // size * size].reshape(-1, size).mean(1)
    return bool(shares.max(initial=0.0) > corpus.fragments + _FRAGMENTS)


def _cut_chat(corpus: Corpus, rng: np.random.Generator, count: int) -> np.ndarray:
    """Messages in order, in the words in which a memory keeps them (`model.prompts.render`)."""
    chat = corpus.chats[int(rng.integers(0, len(corpus.chats)))]
    at, longest = int(rng.integers(0, len(chat))), int(rng.choice([60, 120, 400]))
    dated, renamed = rng.random() < 0.6, rng.random() < 0.6
    day = date(2012, 1, 1) + timedelta(days=int(rng.integers(0, 6000)))
    end = corpus.tokenize("\n\n")
    out: list[np.ndarray] = []
    have = 0
    while have < count:
        turn = chat[at % len(chat)]
        role = ("user", "assistant")[at % 2] if renamed and turn.role != DOCUMENT_ROLE else turn.role
        head = heading(corpus, role, day if dated else None)
        piece = np.concatenate((head, turn.tokens[:longest], end)).astype(np.int64)
        out.append(piece)
        have, at = have + len(piece), at + 1
        if rng.random() < 0.15:
            day += timedelta(days=int(rng.integers(1, 6)))
    return np.concatenate(out)[:count]


def heading(corpus: Corpus, role: str, day: date | None) -> list[int]:
    """Tokens before a message's content, as `model.prompts.render` has them: nobody says what stands in a document."""
    return [] if role == DOCUMENT_ROLE else corpus.tokenize(speaker(role, day.isoformat() if day else None))


def hide(
    corpus: Corpus,
    head: list[int],
    filler: np.ndarray,
    items: Sequence[np.ndarray],
    rng: np.random.Generator,
    *,
    together: int = 1,
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Items put into a filler in their order, at random places, best between sentences; the head stands before all.

    Args:
        together: so many items stand at one place, one right behind the other.

    Returns:
        Text (n,) int64, and where in it each item stands (from, to).
    """
    room = len(filler)
    places = np.sort(rng.integers(0, room + 1, -(-len(items) // together)))
    cuts = np.repeat([_sentence_end(corpus, filler, int(cut), room) for cut in places], together)[: len(items)]
    pieces, last, at = [np.asarray(head, dtype=np.int64)], 0, len(head)
    spans = []
    for cut, item in zip(cuts.tolist(), items, strict=True):
        pieces += [filler[last:cut], item]
        at += cut - last
        spans.append((int(at), int(at) + len(item)))
        at += len(item)
        last = cut
    return np.concatenate([*pieces, filler[last:]]).astype(np.int64), spans


def _sentence_end(corpus: Corpus, filler: np.ndarray, cut: int, room: int) -> int:
    """The next place after a full stop, else before a word; the cut itself where neither is near.

    Never before that of an earlier cut.
    """
    last = min(cut + 60, room)
    words = cut + np.flatnonzero(corpus.word_start[filler[cut:last]])
    ends = [i for i in words if i and filler[i - 1] == corpus.full_stop]
    return int(ends[0] if ends else words[0] if len(words) else cut)
