"""A LangChain retriever: the messages that a memory finds for a query."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from hierlandmark.config import SearchMode
from hierlandmark.filters import Filter
from hierlandmark.results import Hit
from langchain_hierlandmark.memory import MemoryLike, opened
from langchain_hierlandmark.messages import own_metadata


class HierLandmarkRetriever(BaseRetriever):
    """Finds messages of one memory, best first, one Document each.

    Give `memory`, or the `path` of a database and a `namespace`. A Document holds the text of one message; its metadata
    is the message's own (less what a chat history keeps there for itself), plus `message_ids`, `role`, `time`, `score`,
    `block` and `segment` of the hit, and, with `neighbours`, lists `before` and `after` of the messages that stand
    beside it.

        retriever = HierLandmarkRetriever(path="memory.db", namespace="ada", k=4)
        documents = retriever.invoke("Where is the spare key?")

    Raises:
        pydantic.ValidationError: neither memory nor path was given, k is under 1, or an option that there is not.
        hierlandmark.NamespaceNotFound: on invoke, when nothing was ever added to the namespace.
    """

    # a misspelt option would be lost without a word
    model_config = ConfigDict(extra="forbid")

    path: str | Path | None = None
    """Database to open, when no memory is given."""
    namespace: str | None = None
    """Owner scope within `path`; `default` when absent."""
    memory: MemoryLike = Field(default=cast(Any, None), validate_default=True, exclude=True, repr=False)
    """Memory to search; whoever passes it closes it. One opened from `path` is closed by `retriever.memory.close()`."""
    k: int = Field(default=10, ge=1)
    """Documents to return; `invoke(query, k=...)` overrides it."""
    mode: SearchMode | None = None
    """`hierarchical`, `flat`, `hybrid`, or `index` where one is built; the memory's own choice when absent."""
    where: Filter | None = None
    """Which messages may be found, by role, time and metadata; `invoke(query, where=...)` overrides it."""
    neighbours: int = Field(default=0, ge=0)
    """Messages before and after each hit to put into its metadata."""
    parse_time: bool = False
    """Narrow the search by times in the query, such as "last week"; needs `hierlandmark[time]`."""

    @field_validator("memory", mode="before")
    @classmethod
    def _open(cls, memory: MemoryLike | None, given: ValidationInfo) -> MemoryLike:
        return opened(memory, given.data.get("path"), given.data.get("namespace"))

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        where: Filter | None = None,
    ) -> list[Document]:
        wanted = self.k if k is None else k
        result = self.memory.search(query, wanted, **self._options(where))
        return _documents(result.hits)[:wanted]

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        where: Filter | None = None,
    ) -> list[Document]:
        wanted = self.k if k is None else k
        result = await self.memory.asearch(query, wanted, **self._options(where))
        return _documents(result.hits)[:wanted]

    def _options(self, where: Filter | None) -> dict[str, Any]:
        return {
            "mode": self.mode,
            "where": self.where if where is None else where,
            "neighbours": self.neighbours,
            "parse_time": self.parse_time,
        }


def _beside(hit: Hit) -> dict[str, Any]:
    """Neighbours as JSON, where the hit has some."""
    sides = {"before": hit.before, "after": hit.after}
    return {
        name: [one.model_dump(mode="json") | {"metadata": own_metadata(one)} for one in side]
        for name, side in sides.items()
        if side
    }


def _documents(hits: Iterable[Hit]) -> list[Document]:
    """One Document a message; messages that share a hit share its score and keep their order."""
    return [
        Document(
            id=str(message.id),
            page_content=message.content,
            metadata={
                **own_metadata(message),
                "message_ids": [message.id],
                "role": message.role,
                "time": message.time,
                "score": hit.score,
                "block": hit.block,
                "segment": hit.segment,
                **_beside(hit),
            },
        )
        for hit in hits
        for message in hit.messages
    ]
