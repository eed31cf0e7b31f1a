"""Readers: questions about what a memory holds, their answers, and where each looks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hierlandmark.config import LayoutConfig
from hierlandmark.model.prompts import question_text, search_text
from hierlandmark.train import facts
from hierlandmark.train.corpus import Corpus
from hierlandmark.train.facts import Fact
from hierlandmark.train.ruler import PlacedNeedles, Span, ask_needles
from hierlandmark.train.words import PLAIN


@dataclass(frozen=True)
class Placed:
    """A fact, and the content tokens (from, to) that state it."""

    fact: Fact
    where: Span


# weight of each token of an answer: a fact is short and exact, a passage long and soon copied by rote, and words that
# the question holds already need no memory
_FACT, PASSAGE, _SAID, PROMPT = 4.0, 0.6, 1.0, 0.02
# a place, and the tokens of the memory that hold what is needed there
Look = tuple[int, tuple[Span, ...]]


def make_readers(
    corpus: Corpus,
    config: LayoutConfig,
    count: int,
    text: np.ndarray | None,
    asked: Sequence[Placed | PlacedNeedles],
    rng: np.random.Generator,
) -> list[tuple[np.ndarray, np.ndarray, list[Look]]]:
    """Reader segments, each questions and answers one after another.

    Returns:
        For each reader its tokens, the weight of every token, and where it looks: the place of each prompt's last
        token and of one in the answer, or of two for each part of it, and the content tokens of the memory that hold
        what is told next.
    """
    passkeys = [isinstance(one, Placed) and one.fact.question == facts.PASSKEY_QUESTION for one in asked]
    first = [one for one, passkey in zip(asked, passkeys, strict=True) if passkey]
    rest = [one for one, passkey in zip(asked, passkeys, strict=True) if not passkey]
    rng.shuffle(rest)  # type: ignore[arg-type]
    out = []
    again = [one for one in rest if isinstance(one, PlacedNeedles)] if text is None else []
    for _ in range(count):
        # a reader knows nothing of what another was asked
        rest = rest or list(again)
        tokens: list[int] = []
        weights: list[float] = []
        looks: list[Look] = []
        queue = list(first)
        while len(tokens) < config.segment_capacity:
            if queue or (rest and (text is None or rng.random() < 0.8)):
                one = queue.pop() if queue else rest.pop()
                if isinstance(one, PlacedNeedles):
                    turn = ask_needles(corpus, one, rng)
                    looks += [(len(tokens) + at, where) for at, where in turn.looks]
                    tokens += turn.prompt + turn.answer
                    weights += [PROMPT] * len(turn.prompt) + turn.weights
                    continue
                where = one.where
                prompt, answer = _ask_fact(corpus, one.fact, rng)
                weight = _answer_weights(corpus, prompt, answer)
            elif text is not None:
                prompt, answer, where = _ask_passage(corpus, text, rng)
                weight = [PASSAGE] * len(answer)
            elif tokens:
                break
            else:
                prompt, answer, where = [], corpus.tokenize("Nothing is known.\n"), (0, 0)
                weight = [PASSAGE] * len(answer)
            if where[1]:
                # the token that asks, and one on the way through the answer
                looks.append((len(tokens) + len(prompt) - 1, (where,)))
                looks.append((len(tokens) + len(prompt) + int(rng.integers(0, max(1, len(answer) - 1))), (where,)))
            tokens += prompt + answer
            weights += [PROMPT] * len(prompt) + weight
        cut = config.segment_capacity
        out.append((np.asarray(tokens[:cut]), np.asarray(weights[:cut]), looks))
    return out


def _answer_weights(corpus: Corpus, prompt: list[int], answer: list[int]) -> list[float]:
    said = {token for token in prompt if corpus.word_start[token] or corpus.word_part[token]}
    return [_SAID if token in said else _FACT for token in answer]


def _ask_fact(corpus: Corpus, fact: Fact, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    if rng.random() < 0.3:
        # as a search is put: the query, then the line that holds it
        query = fact.question.split("?")[0]
        if rng.random() < 0.4:
            query = " ".join(word for word in query.split() if word.lower() not in PLAIN)
        else:
            query += "?"
        return corpus.tokenize(search_text(query)), corpus.tokenize(f'{fact.statement}"\n\n')
    if fact.raw:
        return corpus.tokenize(fact.question), corpus.tokenize(fact.answer + "\n\n")
    return _turn(corpus, fact.question, fact.answer, rng)


def _turn(corpus: Corpus, question: str, answer: str, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    if rng.random() < 0.25:
        return corpus.tokenize(question_text(question)), corpus.tokenize(f" {answer}\n\n")
    return corpus.ask_prompt(question), [*corpus.tokenize(answer), *corpus.answer_end]


def _ask_passage(corpus: Corpus, text: np.ndarray, rng: np.random.Generator) -> tuple[list[int], list[int], Span]:
    """Find a passage by its first words, or by a few rare words of it in any order; the answer repeats it."""
    length = int(rng.integers(24, 56))
    start = int(rng.integers(0, max(1, len(text) - length)))
    # begin at a word
    while start < len(text) - length and not corpus.word_start[text[start]]:
        start += 1
    passage, where = text[start : start + length], (start, start + length)
    if rng.random() < 0.35:
        known = int(rng.integers(6, 14))
        prompt = [*corpus.tokenize('Continue the passage: "'), *passage[:known].tolist()]
        return prompt, [*passage[known:].tolist(), *corpus.tokenize('"\n\n')], where
    words = _keywords(corpus, passage, int(rng.integers(2, 7)), rng)
    if rng.random() < 0.35:
        prompt = [*corpus.tokenize("Which passage mentions"), *words, *corpus.tokenize('? It says: "')]
        return prompt, [*passage.tolist(), *corpus.tokenize('"\n\n')], where
    # the words alone, as people type them into a search box
    prompt = [*corpus.tokenize("Search:"), *words, *corpus.tokenize('\nFound: "')]
    return prompt, [*passage.tolist(), *corpus.tokenize('"\n\n')], where


def _keywords(corpus: Corpus, passage: np.ndarray, count: int, rng: np.random.Generator) -> list[int]:
    """Rare words of a passage, shuffled, comma between them."""
    words, i = [], 0
    while i < len(passage):
        if not corpus.word_start[passage[i]]:
            i += 1
            continue
        end = i + 1
        while end < len(passage) and corpus.word_part[passage[end]]:
            end += 1
        words.append(passage[i:end])
        i = end
    score = [float(corpus.rarity[w].sum()) + 2 * float(rng.random()) for w in words]
    chosen = [words[j] for j in np.argsort(score)[::-1][:count]]
    rng.shuffle(chosen)  # type: ignore[arg-type]
    comma = corpus.tokenize(",")
    out: list[int] = []
    for n, word in enumerate(chosen):
        out += ([] if n == 0 else comma) + word.tolist()
    return out
