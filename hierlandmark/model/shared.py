"""A tokenizer that threads share: one call at a time."""

import threading
from collections.abc import Sequence
from typing import Any


class SharedTokenizer:
    """Stands before a tokenizer and lets one thread in at a time; the rest of its attributes are the tokenizer's own.

    A fast tokenizer of transformers is told with every call whether special tokens are split, texts cut and padded. It
    keeps that as state and tokenises afterwards: between the two, another thread's call could change it, and a mark of
    a turn that stands in user text would become the mark itself.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._inner = tokenizer
        self._lock = threading.Lock()

    def __call__(self, *args: Any, **options: Any) -> Any:
        with self._lock:
            return self._inner(*args, **options)

    def decode(self, *args: Any, **options: Any) -> str | Sequence[str]:
        """The tokenizer's own; older ones refuse to be set while they decode."""
        with self._lock:
            return self._inner.decode(*args, **options)  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return len(self._inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_inner"], name)


def shared(tokenizer: Any) -> SharedTokenizer:
    """The tokenizer behind a lock, the same lock if it has one."""
    return tokenizer if isinstance(tokenizer, SharedTokenizer) else SharedTokenizer(tokenizer)
