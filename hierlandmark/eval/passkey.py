"""Passkey retrieval in the format of the paper's `run_test.py` (Mohtashami & Jaggi 2023, section 4.2, appendix F)."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from hierlandmark.errors import InvalidArgument
from hierlandmark.eval.fillers import Filler
from hierlandmark.eval.metrics import mean_cost
from hierlandmark.messages import Message
from hierlandmark.results import Answer

if TYPE_CHECKING:
    from hierlandmark.config import Mode
    from hierlandmark.memory import Memory
    from hierlandmark.model import LandmarkModel

TASK = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
    "I will quiz you about the important information there."
)
QUESTION = "What is the pass key? The pass key is"
HIDDEN = "The pass key is {key}. Remember it. {key} is the pass key."
LARGEST = 50_000
# a case counts this many tokens fewer than its length at most
SLACK = 16
# a key has five digits at most, and a tokenizer may spend a token on each and on a space
MAX_NEW_TOKENS = 10

Tokenize = Callable[[str], Sequence[int]]
# reads a document and completes a prompt after it
Reader = Callable[[str, str], Answer]


@dataclass(frozen=True)
class Case:
    """The first four lines, which are to be remembered, and the key they hide."""

    document: str
    key: int


def words_of(text: str) -> Sequence[int]:
    """One for each word, in place of tokens: most tokenizers make no fewer."""
    return [0] * len(text.split())


def holds_words(length: int, words: int) -> bool:
    """Whether so many tokens may hold so many words, before a tokenizer is there: one that merges over spaces makes
    fewer tokens than words, and is given twice the room."""
    return 2 * length >= words


def most_tokens(text: str) -> Sequence[int]:
    """One for each byte, in place of tokens, and one more: a tokenizer may begin each text with a space."""
    return [0] * (len(text.encode()) + 1)


def check_lengths(lengths: Sequence[int], tokenize: Tokenize | None = None) -> None:
    """Raises `InvalidArgument` for a length too short for the lines around the filler; without a tokenizer, by any."""
    lines = "\n".join([TASK, "", HIDDEN.format(key=LARGEST), "", QUESTION])
    shortest = min(lengths)
    if tokenize is not None:
        if shortest < (least := len(tokenize(lines))):
            raise InvalidArgument(f"expected lengths of at least {least} tokens, got {shortest!r}")
    elif not holds_words(shortest, words := len(words_of(lines))):
        raise InvalidArgument(
            f"expected lengths that hold the {words} words around the filler, got {shortest!r}; "
            f"{len(most_tokens(lines))} tokens do with any tokenizer"
        )


def make_case(tokenize: Tokenize, filler: Filler, length: int, rng: Random) -> Case:
    """A case whose five lines are `length` tokens long, or up to `SLACK` fewer; key, cut and filler come from `rng`.

    Raises `InvalidArgument` when the four lines around the filler are longer than `length`.
    """
    key, share = rng.randint(1, LARGEST), rng.random()
    starts = filler.start(rng), filler.start(rng)

    def lines(chars: int) -> list[str]:
        before = int(share * chars)
        return [TASK, filler.take(starts[0], before), HIDDEN.format(key=key), filler.take(starts[1], chars - before)]

    def tokens(chars: int) -> int:
        return len(tokenize("\n".join([*lines(chars), QUESTION])))

    bare = tokens(0)
    if bare > length:
        raise InvalidArgument(
            f"expected a length of at least {bare} tokens, which the other lines take, got {length!r}"
        )
    chars, count, per_token = 0, bare, 4.0
    # tokens are nearly linear in characters: a few steps of the secant land within the slack
    for _ in range(12):
        if length - SLACK <= count <= length:
            break
        chars = max(0, chars + int((length - SLACK // 2 - count) * per_token))
        count = tokens(chars)
        per_token = chars / max(1, count - bare) or 1.0
    while count > length:
        chars, count = chars - 1, tokens(chars - 1)
    return Case("\n".join(lines(chars)), key)


def first_number(text: str) -> int | None:
    """The first run of digits of an answer.

    >>> first_number(" 4711. Remember it. 4712")
    4711
    """
    # ten digits are more than any key has, and a huge run of them is no number to convert
    found = re.search(r"[0-9]+", text)
    return int(found[0]) if found and len(found[0]) <= 10 else None


def memory_reader(open_memory: Callable[[Path], "Memory"], mode: "Mode") -> Reader:
    """Reads through a database: the document is one message, and the question is completed from what is recalled."""

    def read(document: str, question: str) -> Answer:
        with TemporaryDirectory() as folder, open_memory(Path(folder) / "passkey.db") as memory:
            memory.add([Message(id=0, role="document", content=document)])
            return memory.complete(question, max_new_tokens=MAX_NEW_TOKENS, mode=mode)

    return read


def full_reader(model: "LandmarkModel") -> Reader:
    """Reads all five lines with plain causal attention: what recall is compared with."""

    def read(document: str, question: str) -> Answer:
        return model.complete_full(f"{document}\n{question}", max_new_tokens=MAX_NEW_TOKENS)

    return read


def evaluate_passkey(
    read: Reader,
    tokenize: Tokenize,
    filler: Filler,
    *,
    lengths: Sequence[int],
    trials: int,
    mode: str,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """One result a trial, the last of a length being final: `{"length", "trials", "accuracy", "mode", "cost"}`.

    A trial depends on seed, length and its number only, so that a longer run contains a shorter one.
    Raises `InvalidArgument` for no length, one that is too short for the lines around the filler, or trials < 1.
    """
    if trials < 1 or not lengths:
        raise InvalidArgument(f"expected at least one length and one trial, got lengths {lengths!r}, trials {trials!r}")
    check_lengths(lengths, tokenize)
    for length in lengths:
        right, costs = 0, []
        for trial in range(trials):
            case = make_case(tokenize, filler, length, Random(f"{seed}/{length}/{trial}"))
            answer = read(case.document, QUESTION)
            right += first_number(answer.text) == case.key
            costs.append(answer.cost)
            yield {
                "length": length,
                "trials": trial + 1,
                "accuracy": right / (trial + 1),
                "mode": mode,
                "cost": mean_cost(costs),
            }
