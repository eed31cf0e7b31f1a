"""Token ids of plain text, and what is needed to cut passages and words out of them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Tokenize = Callable[[str], list[int]]


@dataclass(frozen=True)
class Corpus:
    """Token ids of plain text, and what is needed to cut words out of them."""

    texts: dict[str, np.ndarray]  # name -> (n,) unsigned
    tokenize: Tokenize
    # wraps a question into the prompt that `Memory.ask` uses, and what ends the answer
    ask_prompt: Callable[[str], list[int]]
    answer_end: list[int]
    word_start: np.ndarray  # (vocabulary,) bool: a space and a letter
    word_part: np.ndarray  # (vocabulary,) bool: letters only
    rarity: np.ndarray  # (vocabulary,) fp32, minus log frequency


def build_corpus(texts: dict[str, np.ndarray], tokenizer: object, ask_prompt: Callable[[str], list[int]]) -> Corpus:
    """Word tables from the tokenizer's vocabulary and token counts from the texts."""
    size = len(tokenizer)  # type: ignore[arg-type]
    pieces = [tokenizer.decode([i]) for i in range(size)]  # type: ignore[attr-defined]
    start = np.array([len(p) > 2 and p[0] == " " and p[1:].isalpha() for p in pieces])
    part = np.array([p.isalpha() for p in pieces])
    counts = np.ones(size)
    for text in texts.values():
        counts += np.bincount(text[:1_000_000], minlength=size)[:size]
    rarity = -np.log(counts / counts.sum()).astype(np.float32)

    def tokenize(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]  # type: ignore[operator]

    end = tokenizer.eos_token_id  # type: ignore[attr-defined]
    ends = [] if end is None else [end]
    return Corpus(texts, tokenize, ask_prompt, [*ends, *tokenize("\n")], start, part, rarity)


def cut_text(corpus: Corpus, rng: np.random.Generator, count: int) -> np.ndarray:
    """A random piece of a random text, repeated where it is too short: (count,) int64."""
    names = sorted(corpus.texts)
    text = corpus.texts[names[rng.integers(0, len(names))]]
    start = int(rng.integers(0, max(1, len(text) - count)))
    return np.resize(text[start : start + count], count).astype(np.int64)
