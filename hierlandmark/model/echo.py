"""Answers that only repeat their question, such as "Your cat." to "What does my cat eat?": small models end there."""

import re
from collections.abc import Sequence

from torch import Tensor

from hierlandmark.model.landmark_model import LandmarkModel

_WORD = re.compile(r"[^\W_]+(?:['’.-][^\W_]+)*")
_END = re.compile(r"[.!?\n]")
# words that answers have and questions lack without saying anything: a question's "my" is an answer's "your"
_FORM = frozenset(
    "a am an and are at be been by did do does for from had has have he her his i in is it its me my of on our she "
    "that the their they this to us was we were with you your".split()
)
# a question that offers its answers holds them
_OFFERS = frozenset(("or", "whether", "which"))
# so many of the best tokens are looked at for one that does not end the answer
_BEST = 64


class NoEcho:
    """Chooses greedily, but does not end a sentence of which all words are the question's: then the best other token.

    Only the first such end is passed over, and none of a question with "or", "whether" or "which".
    """

    def __init__(self, model: LandmarkModel, question: str) -> None:
        words = _words(question)
        self._model, self._stop = model, model.stop_tokens
        self._known = words | _FORM
        self._waits = not words & _OFFERS

    def __call__(self, logits: Tensor, tokens: Sequence[int]) -> int:
        """The next token.

        Args:
            logits: (vocabulary,).
            tokens: of the answer so far.
        """
        best = int(logits.argmax())
        if not (self._waits and self._ends(best)):
            return best
        self._waits = False
        if not _words(self._model.decode(tokens)) <= self._known:
            return best
        others = logits.topk(min(_BEST, len(logits))).indices.tolist()
        return next((token for token in others if not self._ends(token)), best)

    def _ends(self, token: int) -> bool:
        if token in self._stop:
            return True
        text = self._model.decode([token])
        return bool(_END.search(text)) and not _WORD.search(text)


def _words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}
