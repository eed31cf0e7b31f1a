"""Tokens to pieces of text while they are made."""

from collections.abc import Callable, Sequence


class Pieces:
    """Tells text as soon as it stands: a character made of several tokens is told when it is whole.

    Args:
        decode: token ids to text.
        tell: called with each piece; together they are the text of all tokens.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], tell: Callable[[str], None]) -> None:
        self._decode, self._tell = decode, tell
        # a few told tokens go with the new ones: some tokenizers drop the space before the first token they decode
        self._told: list[int] = []
        self._new: list[int] = []

    def add(self, token: int) -> None:
        """Take the next token."""
        self._new.append(token)
        self._flush(whole=True)

    def end(self) -> None:
        """Tell what is left, whole or not."""
        self._flush(whole=False)

    def _flush(self, *, whole: bool) -> None:
        text = self._decode([*self._told, *self._new])
        piece = text[len(self._decode(self._told)) if self._told else 0 :]
        # the mark of a broken character: its other tokens may still come
        if not piece or (whole and piece.endswith("\ufffd")):
            return
        self._told, self._new = self._new, []
        self._tell(piece)
