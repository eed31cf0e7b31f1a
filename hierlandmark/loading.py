"""Models read without transformers' progress bars: a library leaves its user's terminal alone."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

# whether what runs here shows no bars
_quiet: ContextVar[bool] = ContextVar("quiet", default=False)
_lock = threading.Lock()
_loading = 0
# the hook that was there before ours
_before: Callable[..., Any] | None = None


@contextmanager
def without_bars() -> Iterator[None]:
    """No bar of transformers from this thread, such as "Loading weights"; other threads, and downloads, show theirs.

    transformers has one hook for all bars of a process. It is put back when the last thread leaves, unless another has
    taken its place.
    """
    from transformers.utils import logging

    global _before, _loading
    with _lock:
        # whoever took our place may have put us back since
        if not _loading and (found := logging.set_tqdm_hook(_hook)) is not _hook:
            _before = found
        _loading += 1
    token = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(token)
        with _lock:
            _loading -= 1
            if not _loading and (now := logging.set_tqdm_hook(_before)) is not _hook:
                logging.set_tqdm_hook(now)


def _hook(make: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    if _quiet.get():
        options = {**options, "disable": True}
    return _before(make, args, options) if _before else make(*args, **options)
