"""How an answer is decoded: greedily, but for two faults of small models.

They end an answer that only repeats its question, such as "Your cat." to "What does my cat eat?"; and they say the same
again and again until there is no room.
"""

import re
from collections.abc import Sequence

from torch import Tensor

from hierlandmark.model.landmark_model import LandmarkModel

_WORD = re.compile(r"[^\W_]+(?:['’.-][^\W_]+)*")
_END = re.compile(r"[.!?\n]")
# what such a question wants is not in it; one that can be answered with yes or no may well be answered in its own words
_WANTS = frozenset("how what when where who whom whose why".split())
# a question that offers its answers holds them
_OFFERS = frozenset("between either or whether which".split())
# words that answers have and questions lack without saying anything: a question's "my" is an answer's "your"
_FORM = frozenset(
    "a am an and are at be been by can could did do does for from had has have he her his i in is it its me my of on "
    "our she should that the their they this to us was we were will with would you your".split()
)
# a question's "park" is an answer's "parked"
_SUFFIXES = ("", "s", "es", "d", "ed", "ing")
# ends that are passed over in one answer, and best tokens looked at for one that is no end
_ENDS, _BEST = 3, 64
# an answer goes round where it says a part so often in a row, the longest part, and tokens of all at least
_ROUNDS, _LONGEST_ROUND, _SAID = 3, 32, 16


class AnswerDecoding:
    """Decodes greedily, but passes over the first few ends of a sentence that says no word but the question's.

    Only of questions in English that want something: not where all of one may be its own answer ("Is it Tom?", "tea or
    coffee?"). Of inflected words it knows regular ones. An answer that has said the same three times in a row ends.
    """

    def __init__(self, model: LandmarkModel, question: str) -> None:
        words = _words(question)
        self._model, self._stop = model, model.stop_tokens
        self._known = _FORM | {word + suffix for word in words for suffix in _SUFFIXES}
        self._left = _ENDS if words & _WANTS and not words & _OFFERS else 0

    def __call__(self, logits: Tensor, tokens: Sequence[int]) -> int:
        """The next token: the best, or the best of 64 that does not end the sentence, if there is one.

        Args:
            logits: (vocabulary,).
            tokens: of the answer so far.
        """
        if self._stop and goes_round(tokens):
            return min(self._stop)
        best = int(logits.argmax())
        if not (self._left and self._ends(best)):
            return best
        if not _words(self._model.decode(tokens)) <= self._known:
            self._left = 0
            return best
        self._left -= 1
        others = logits.topk(min(_BEST, len(logits))).indices.tolist()
        return next((token for token in others if not self._ends(token)), best)

    def _ends(self, token: int) -> bool:
        if token in self._stop:
            return True
        text = self._model.decode([token])
        return bool(_END.search(text)) and not _WORD.search(text)


def goes_round(tokens: Sequence[int]) -> bool:
    """Whether the last tokens are one part of at most 32, said three times and at least 16 tokens long in all."""
    for part in range(1, min(_LONGEST_ROUND, len(tokens) // _ROUNDS) + 1):
        said = max(_ROUNDS * part, _SAID)
        if said <= len(tokens) and tokens[-said:-part] == tokens[part - said :]:
            return True
    return False


def _words(text: str) -> set[str]:
    """In lower case, of "Anna's" only "anna"."""
    return {re.sub(r"['’]s$", "", word.lower()) for word in _WORD.findall(text)}
