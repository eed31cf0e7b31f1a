"""What this package asks of a memory, and how it opens one."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from hierlandmark.config import SearchMode
from hierlandmark.errors import InvalidArgument
from hierlandmark.filters import Filter
from hierlandmark.messages import Message, MessageId
from hierlandmark.results import SearchResult


@runtime_checkable
class MemoryLike(Protocol):
    """The methods of `hierlandmark.Memory` that LangChain needs; a fake that has them will do in tests."""

    def search(
        self,
        query: str,
        k: int = 10,
        *,
        mode: SearchMode | None = None,
        where: Filter | None = None,
        neighbours: int = 0,
        parse_time: bool = False,
    ) -> SearchResult: ...
    async def asearch(
        self,
        query: str,
        k: int = 10,
        *,
        mode: SearchMode | None = None,
        where: Filter | None = None,
        neighbours: int = 0,
        parse_time: bool = False,
    ) -> SearchResult: ...
    def add(self, messages: Iterable[Message | Mapping[str, Any]]) -> object: ...
    async def aadd(self, messages: Iterable[Message | Mapping[str, Any]]) -> object: ...
    def messages(self, ids: Sequence[MessageId] | None = None) -> list[Message]: ...
    async def amessages(self, ids: Sequence[MessageId] | None = None) -> list[Message]: ...
    def forget(self, message_ids: Sequence[MessageId]) -> None: ...
    async def aforget(self, message_ids: Sequence[MessageId]) -> None: ...
    def close(self) -> None: ...


def opened(memory: MemoryLike | None, path: str | Path | None, namespace: str | None) -> MemoryLike:
    """The memory given, or the one at `path`, whose model loads on first need.

    Raises:
        InvalidArgument: neither or both were given, or a namespace beside a memory, which has its own.
    """
    if memory is not None and path is None:
        if namespace is not None:
            raise InvalidArgument(f"expected a namespace beside path only, got {namespace!r}; a memory has its own")
        return memory
    if memory is not None or path is None:
        raise InvalidArgument(f"expected either memory or path, got memory={memory!r} and path={path!r}")
    # imported here, so that a caller with a memory of its own does not pay for torch
    from hierlandmark import Memory

    return Memory.open(path, "default" if namespace is None else namespace)
