"""Arguments of `Memory`'s verbs, checked before any work; each raises `InvalidArgument`, a text `InvalidMessage`.

No torch: the command line checks them before that is loaded.
"""

import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from hierlandmark.config import Keep, MemoryConfig, Mode, SearchMode
from hierlandmark.errors import InvalidArgument, InvalidMessage, KeepMismatch
from hierlandmark.filters import Filter
from hierlandmark.messages import MessageId
from hierlandmark.store.records import reencode_command

# bytes of a text, where nothing else is configured
_LARGEST = MemoryConfig().max_message_bytes
_TIME = "an ISO 8601 date or time, such as 2026-03-31 or 2026-03-31T09:30:00+02:00"
# what each condition of a filter is
_CONDITIONS = {
    "roles": "a list of roles, at least one",
    "since": _TIME,
    "until": _TIME,
    "metadata": "a mapping of keys to texts, finite numbers, true, false or None",
}


def check_opening(path: Any, model: Any, config: Any) -> None:
    """A file's name or ":memory:"; no name in place of a model, no mapping in place of a configuration."""
    if not isinstance(path, str | os.PathLike) or "\0" in str(path):
        raise InvalidArgument(f"expected path to name a file, or ':memory:', got {path!r}")
    if isinstance(model, str | os.PathLike):
        raise InvalidArgument(f"expected a loaded model, got {model!r}; give LandmarkModel.from_pretrained({model!r})")
    if config is not None and not isinstance(config, MemoryConfig):
        raise InvalidArgument(f"expected a MemoryConfig, got {config!r}")


def checked_search(
    query: Any, k: Any, mode: Any, where: Any, neighbours: Any, now: Any = None, max_bytes: int = _LARGEST
) -> Filter | None:
    """Arguments of `Memory.search`; gives its filter."""
    check_count("k", k)
    check_count("neighbours", neighbours, least=0)
    check_mode(mode, SearchMode)
    check_now(now)
    check_text(query, "the query", max_bytes)
    return checked_filter(where)


def check_asked(
    text: Any, max_new_tokens: Any, mode: Any, among: Any = None, what: str = "the question", max_bytes: int = _LARGEST
) -> None:
    """Arguments of `Memory.ask` and of `Memory.complete`."""
    check_text(text, what, max_bytes)
    if among is not None:
        check_count("among", among, least=0)
    check_count("max_new_tokens", max_new_tokens)
    check_mode(mode)


def check_kept(keep: Keep, path: str | Path) -> None:
    """Raises `KeepMismatch` where a database at a path keeps no values, as one made for search only."""
    if keep != "all":
        raise KeepMismatch(
            f"the database at {str(path)!r} was made with keep={keep!r}: it can be searched, but holds no values to "
            "answer from",
            python="encode its text again with `Memory.reencode` and `MemoryConfig(keep='all')`, or add it to a "
            "database made so",
            command=f"encode its text again with {reencode_command(path, 'all')}, or add it to a database made so",
        )


def check_text(text: Any, what: str, max_bytes: int) -> None:
    """Raises `InvalidMessage` for text that is empty, holds lone surrogates, or is too long."""
    if not isinstance(text, str) or not text.strip():
        raise InvalidMessage(f"expected some text, {what} is {short(text)}")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidMessage(f"{what} is not UTF-8: {error}; decode it with errors='replace' first") from error
    if size > max_bytes:
        raise InvalidMessage(
            f"{what} has {size:,} bytes, {max_bytes:,} are allowed; cut it into several messages, "
            "or raise MemoryConfig.max_message_bytes"
        )


def short(value: object) -> str:
    """What came, in at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def check_count(name: str, value: Any, least: int = 1) -> None:
    """A whole number of at least `least`; a bool is none."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least:
        raise InvalidArgument(
            f"expected {name} of at least {least}{'' if whole else ', a whole number'}, got {value!r}"
        )


def check_now(now: Any) -> None:
    """A moment, or None for the current one."""
    if now is not None and not isinstance(now, datetime):
        raise InvalidArgument(f"expected now to be a datetime, got {now!r}")


def checked_filter(where: Any) -> Filter | None:
    """A filter, or what says the same as a mapping; None for none."""
    if where is None or isinstance(where, Filter):
        return where
    try:
        return Filter.model_validate(dict(where))
    except ValidationError as error:
        raise InvalidArgument(_wrong(error, where)) from error
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"expected a Filter of {', '.join(Filter.model_fields)}, got {where!r}") from error


def _wrong(error: ValidationError, where: Any) -> str:
    """What the first condition that is none should have been, and what came."""
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if "no next day" in first["msg"]:
        return f"expected until to be a day before the last of all, got {first['input']!r}"
    if name in _CONDITIONS:
        return f"expected {name} to be {_CONDITIONS[name]}, got {first['input']!r}"
    if name:
        return f"expected a Filter of {', '.join(Filter.model_fields)}, got {name!r} in {where!r}"
    # both are times, and in the wrong order
    return f"expected since to be before until: {first['msg'].removeprefix('Value error, ')}"


def check_mode(mode: Any, known: Any = Mode) -> None:
    """A mode, or None for the configured one."""
    if mode is not None and mode not in get_args(known):
        raise InvalidArgument(f"expected mode to be one of {', '.join(get_args(known))}, got {mode!r}")


def checked_ids(ids: Any) -> list[MessageId]:
    """Ids in the order given. One string is no list of ids, though Python would take it for one."""
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise InvalidArgument(f"expected a list of message ids, got {ids!r}; put one id into a list")
    found = list(ids)
    for one in found:
        if not isinstance(one, int | str) or isinstance(one, bool):
            raise InvalidArgument(f"expected message ids to be integers or strings, got {one!r}")
    return found
