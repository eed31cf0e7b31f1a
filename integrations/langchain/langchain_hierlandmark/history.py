"""A LangChain chat history kept in a memory, so that what was said long ago can be searched and asked."""

from collections.abc import Sequence
from pathlib import Path

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import BaseMessage

from hierlandmark.errors import NamespaceNotFound
from langchain_hierlandmark.memory import MemoryLike, opened
from langchain_hierlandmark.messages import all_stored, from_stored


class HierLandmarkChatMessageHistory(BaseChatMessageHistory):
    """All messages of one namespace, oldest first.

    Give `memory`, or the `path` of a database and a `namespace`. Messages return as they were added, with their ids,
    tool calls and additional kwargs. Messages that were added to the memory by other means appear too, by role.

        history = HierLandmarkChatMessageHistory(path="memory.db", namespace="ada")
        history.add_messages([HumanMessage("The spare key is under the blue pot.")])

    Raises:
        hierlandmark.InvalidArgument: neither memory nor path was given, or both.
        hierlandmark.InvalidMessage: on adding what is no LangChain message, or what JSON cannot say; nothing is added.
        hierlandmark.DuplicateMessageId: on adding a message whose id the namespace holds; nothing is added then.
    """

    def __init__(
        self,
        memory: MemoryLike | None = None,
        *,
        path: str | Path | None = None,
        namespace: str | None = None,
    ) -> None:
        super().__init__()
        self.memory = opened(memory, path, namespace)

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]
        """Every message of the namespace; none when nothing was ever added."""
        try:
            return [from_stored(one) for one in self.memory.messages()]
        except NamespaceNotFound:
            return []

    async def aget_messages(self) -> list[BaseMessage]:
        """Every message of the namespace; none when nothing was ever added."""
        try:
            return [from_stored(one) for one in await self.memory.amessages()]
        except NamespaceNotFound:
            return []

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Add messages in one transaction: all of them, or none when one is faulty."""
        if stored := all_stored(messages):
            self.memory.add(stored)

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Add messages in one transaction: all of them, or none when one is faulty."""
        if stored := all_stored(messages):
            await self.memory.aadd(stored)

    def clear(self) -> None:
        """Forget every message of the namespace, those added by other means included."""
        try:
            held = [one.id for one in self.memory.messages()]
        except NamespaceNotFound:
            return
        if held:
            self.memory.forget(held)

    async def aclear(self) -> None:
        """Forget every message of the namespace, those added by other means included."""
        try:
            held = [one.id for one in await self.memory.amessages()]
        except NamespaceNotFound:
            return
        if held:
            await self.memory.aforget(held)
