"""Async twins: each verb in a worker thread, so that an event loop is never held up."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Self

from hierlandmark.config import Mode, SearchMode
from hierlandmark.filters import Filter
from hierlandmark.messages import Message, MessageId
from hierlandmark.results import AddReport, Answer, IndexReport, MemoryStats, SearchResult


class AsyncVerbs:
    """Of `Memory`: the same verbs with an `a` before the name, same arguments, same errors."""

    async def aadd(
        self: Any,
        messages: Iterable[Message | Mapping[str, Any]],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> AddReport:
        """See `Memory.add`."""
        return await asyncio.to_thread(self.add, messages, progress=progress)

    async def asearch(
        self: Any,
        query: str,
        k: int = 10,
        *,
        mode: SearchMode | None = None,
        where: Filter | Mapping[str, Any] | None = None,
        neighbours: int = 0,
        parse_time: bool = False,
        now: datetime | None = None,
    ) -> SearchResult:
        """See `Memory.search`."""
        options = {"mode": mode, "where": where, "neighbours": neighbours, "parse_time": parse_time, "now": now}
        return await asyncio.to_thread(self.search, query, k, **options)

    async def aask(
        self: Any,
        question: str,
        *,
        max_new_tokens: int = 128,
        mode: Mode | None = None,
        among: int | None = None,
        on_token: Callable[[str], None] | None = None,
    ) -> Answer:
        """See `Memory.ask`."""
        options = {"max_new_tokens": max_new_tokens, "mode": mode, "among": among, "on_token": on_token}
        return await asyncio.to_thread(self.ask, question, **options)

    async def aforget(self: Any, message_ids: Sequence[MessageId]) -> None:
        """See `Memory.forget`."""
        await asyncio.to_thread(self.forget, message_ids)

    async def abuild_index(self: Any, *, progress: Callable[[int, int], None] | None = None) -> IndexReport:
        """See `Memory.build_index`."""
        return await asyncio.to_thread(self.build_index, progress=progress)

    async def adrop_index(self: Any) -> None:
        """See `Memory.drop_index`."""
        await asyncio.to_thread(self.drop_index)

    async def amessages(self: Any, ids: Sequence[MessageId] | None = None) -> list[Message]:
        """See `Memory.messages`."""
        return await asyncio.to_thread(self.messages, ids)

    async def astats(self: Any) -> MemoryStats:
        """See `Memory.stats`."""
        return await asyncio.to_thread(self.stats)

    async def aclose(self: Any) -> None:
        """See `Memory.close`."""
        await asyncio.to_thread(self.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await AsyncVerbs.aclose(self)
