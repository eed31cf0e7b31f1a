"""Words put for others of like meaning, as people ask months later in words of their own.

Rules make questions out of a message's own words, so a search that is trained on them alone learns to look for words.
Which words are alike is read off a sentence embedder (`hierlandmark.minilm`): those of its vocabulary whose vectors lie
close together.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache

import numpy as np

from hierlandmark.train.words import APART, COMMON, CONTRACTED, OPPOSITES

# cosine from which words are alike (by eye: below it they only share a subject), among how many of its like each is of
# the other (a word of many subjects is close to many that are closer to others), and the most of them that are kept
_ALIKE, _MUTUAL, _MOST = 0.55, 10, 6
# cosines are taken for so many words at once
_AT_ONCE = 2048
# share of a text's words that are replaced, of those that can be
_REPLACED = 0.4
_WORD = re.compile(r"\b[a-z]{3,}\b")
_ENDING = re.compile(r"(?:ing|ed|ly|(?<![isu])s|)$")
# what is taken off three letters or more before words are compared, and what makes a word the opposite of itself
_SUFFIX = re.compile(r"(?<=\w{3})(?:ing|ed|e?s|er|ers|est|ly|ment|ations?|ions?|al|able|e)$")
_NEGATED = re.compile(r"^(?:un|in|im|dis|non|mis|ir|il|de)(?=\w{3})")
# letters of which words are compared, and of those behind such a prefix
_ROOT, _BARE = 5, 4

Synonyms = Mapping[str, Sequence[str]]


def synonyms(vocabulary: Iterable[str], embed: Callable[[Sequence[str]], np.ndarray]) -> dict[str, tuple[str, ...]]:
    """For each word those that may stand for it, the closest first; words without any are left out.

    Each is among the other's ten closest and ends as it does (-ing, -ed, -ly, -s), so that a sentence stays one. None
    has the word's first five letters, or all there are before an ending, for that is another form of it mostly; and
    none says its opposite by a prefix (un-, dis-...) or by the list of `words.OPPOSITES`. Words that any message has
    are left alone, and so are halves of contractions and kinds whose members lie close together but each say something
    else (`words.APART`): numbers, times, units, kin, directions, colours, peoples, and some names.

    Args:
        vocabulary: words; what is not lower case and of three letters or more is passed over.
        embed: n texts to (n, d), each of length 1.
    """
    words = sorted({word for word in vocabulary if _WORD.fullmatch(word)} - COMMON - APART - CONTRACTED)
    if not words:
        return {}
    vectors = np.asarray(embed(words), dtype=np.float32)
    ends = [_ENDING.search(word)[0] for word in words]  # type: ignore[index]
    near: list[list[int]] = []
    for start in range(0, len(words), _AT_ONCE):
        for cosines in vectors[start : start + _AT_ONCE] @ vectors.T:
            like = np.flatnonzero(cosines >= _ALIKE)
            # itself too
            near.append(like[np.argsort(-cosines[like], kind="stable")][: _MUTUAL + 1].tolist())
    out = {}
    for i, word in enumerate(words):
        mutual = [j for j in near[i] if i in near[j] and ends[j] == ends[i]]
        if found := [words[j] for j in mutual if not _clash(word, words[j])]:
            out[word] = tuple(found[:_MOST])
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


def _clash(word: str, other: str) -> bool:
    """Whether one is a form of the other, or its opposite."""
    root, like = _root(word), _root(other)
    if root.startswith(like) or like.startswith(root) or like in _opposed().get(root, ()):
        return True
    return any(one[:_BARE] == _NEGATED.sub("", two)[:_BARE] for one, two in ((word, other), (other, word)))


@cache
def _root(word: str) -> str:
    return _SUFFIX.sub("", word)[:_ROOT]


@cache
def _opposed() -> dict[str, set[str]]:
    """Roots of what says the opposite, by root."""
    out: dict[str, set[str]] = {}
    for sides in OPPOSITES:
        for ones, others in (sides, sides[::-1]):
            for one in ones:
                out.setdefault(_root(one), set()).update(map(_root, others))
    return out
