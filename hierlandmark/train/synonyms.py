"""Words put for others of like meaning, as people ask months later in words of their own.

Rules make questions out of a message's own words, so a search that is trained on them alone learns to look for words.
Which words are alike is read off a sentence embedder (`hierlandmark.minilm`): those of its vocabulary whose vectors lie
close together.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from hierlandmark.train.words import COMMON, MONTHS, WEEKDAYS

# cosine from which words are alike (by eye: below it they only share a subject), and the most of them that are kept
_ALIKE, _MOST = 0.55, 6
# cosines are taken for so many words at once
_AT_ONCE = 2048
# share of a text's words that are replaced, of those that can be
_REPLACED = 0.4
# "couldn" of "couldn't" is none
_WORD = re.compile(r"\b[a-z]{3,}\b(?!['’]t\b)")
_ENDING = re.compile(r"(?:ing|ed|ly|s|)$")
# what is taken off before beginnings are compared, and the letters of these
_SUFFIX, _ROOT = re.compile(r"(?:ing|ed|e?s|er|ers|ly|ment|ations?|ions?|al|able)$"), 5
# one does not stand for another
_APART = frozenset(
    "first second third fourth fifth sixth last next one two three four five six seven eight nine ten eleven twelve "
    "twenty thirty forty fifty hundred thousand million half once twice today tomorrow yesterday tonight".split()
) | {word.lower() for word in (*MONTHS, *WEEKDAYS)}

Synonyms = Mapping[str, Sequence[str]]


def synonyms(vocabulary: Iterable[str], embed: Callable[[Sequence[str]], np.ndarray]) -> dict[str, tuple[str, ...]]:
    """For each word those that may stand for it, the closest first; words without any are left out.

    None is another form of the same word, and each ends as the word does (-ing, -ed, -ly, -s) so that a sentence stays
    one. Words that any message has, numbers, days and months are left alone.

    Args:
        vocabulary: words; what is not lower case and of three letters or more is passed over.
        embed: n texts to (n, d), each of length 1.
    """
    words = sorted({word for word in vocabulary if _WORD.fullmatch(word)} - COMMON - _APART)
    if not words:
        return {}
    vectors = np.asarray(embed(words), dtype=np.float32)
    ends = [_ENDING.search(word)[0] for word in words]  # type: ignore[index]
    roots = [_SUFFIX.sub("", word)[:_ROOT] for word in words]
    out = {}
    for start in range(0, len(words), _AT_ONCE):
        for i, cosines in enumerate(vectors[start : start + _AT_ONCE] @ vectors.T, start):
            near = np.flatnonzero(cosines >= _ALIKE)
            near = near[np.argsort(-cosines[near], kind="stable")].tolist()
            if found := [words[j] for j in near if roots[j] != roots[i] and ends[j] == ends[i]]:
                out[words[i]] = tuple(found[:_MOST])
    return out


def reworded(text: str, known: Synonyms, rng: np.random.Generator) -> str:
    """A text with four in ten of the words that have any replaced by synonyms, closer ones more often; names stay."""

    def instead(match: re.Match[str]) -> str:
        choices = known.get(match[0])
        if not choices or rng.random() >= _REPLACED:
            return match[0]
        weights = 1 / np.arange(1, len(choices) + 1)
        return str(choices[int(rng.choice(len(choices), p=weights / weights.sum()))])

    return _WORD.sub(instead, text)
