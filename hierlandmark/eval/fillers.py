"""What a needle is hidden in: the paper's sentences, which never run out, or text of one's own."""

import math
import os
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Protocol

from hierlandmark.chats import read_texts
from hierlandmark.errors import InvalidArgument

GRASS = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
# characters of a file kept at hand: over ten times the longest haystack anyone asks for
ENOUGH = 32_000_000
# bytes of memory that making a haystack takes for a token: a sixth under what was measured, 480 over a million tokens
# and 690 over four
_TOKEN_BYTES = 400


def check_memory(length: int) -> None:
    """Raises `InvalidArgument` where a haystack of so many tokens is more than this machine has memory for."""
    # not told on every system: no such function, or -1
    told = [os.sysconf(name) for name in ("SC_PAGE_SIZE", "SC_PHYS_PAGES")] if hasattr(os, "sysconf") else [0]
    memory = math.prod(told)
    if min(told) > 0 and length * _TOKEN_BYTES > memory:
        raise InvalidArgument(
            f"expected lengths of at most {memory // _TOKEN_BYTES:,} tokens, which this machine has memory for, got "
            f"{length:,}"
        )


class Filler(Protocol):
    """Gives text of any length, on one line."""

    def start(self, rng: Random) -> int:
        """Where a piece begins, drawn once so that the piece can grow and shrink from there."""

    def take(self, start: int, chars: int) -> str:
        """`chars` characters from `start` on."""


class Grass:
    """The filler of the paper's `run_test.py`, repeated without end."""

    def start(self, rng: Random) -> int:
        return 0

    def take(self, start: int, chars: int) -> str:
        unit = f"{GRASS} "
        return (unit * (chars // len(unit) + 1))[:chars]


class Text:
    """Text of files, line breaks turned into spaces because a filler is one line of five."""

    def __init__(self, texts: Iterable[str], name: str) -> None:
        parts: list[str] = []
        size = 0
        for text in texts:
            parts.append(" ".join(text.split()))
            size += len(parts[-1])
            if size >= ENOUGH:
                break
        self.text = " ".join(parts)
        self.name = name

    def start(self, rng: Random) -> int:
        # at a word; the end of the text goes on at its beginning
        return self.text.find(" ", rng.randrange(max(1, len(self.text)))) + 1

    def take(self, start: int, chars: int) -> str:
        if chars > len(self.text):
            raise InvalidArgument(
                f"filler {self.name} runs out: {chars} characters are needed, it has {len(self.text)}"
            )
        piece = self.text[start : start + chars]
        return piece + self.text[: chars - len(piece)]


def open_filler(name: str) -> Filler:
    """`grass`, or the path of a `.txt`, `.md`, or `.jsonl`/`.jsonl.xz` with one `{"text"}` a line."""
    return Grass() if name == "grass" else Text(read_texts(Path(name)), name)
