"""A LangChain retriever: the messages that a memory finds for a query."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from hierlandmark.config import SearchMode
from hierlandmark.errors import InvalidArgument
from hierlandmark.filters import Filter
from hierlandmark.results import Hit
from langchain_hierlandmark.memory import MemoryLike, opened
from langchain_hierlandmark.messages import own_metadata

# fields that a call may give anew
_OPTIONS = ("k", "mode", "where", "neighbours", "parse_time")


class HierLandmarkRetriever(BaseRetriever):
    """Finds messages of one memory, best first, one Document each.

    Give `memory`, or the `path` of a database and a `namespace`. A Document holds the text of one message; its metadata
    is the message's own (less what a chat history keeps there for itself), plus `message_ids`, `role`, `time`, `score`,
    `block` and `segment` of the hit, and, with `neighbours`, lists `before` and `after` of the messages that stand
    beside it. `k`, `mode`, `where`, `neighbours` and `parse_time` may also be given to one call, `invoke(query, k=3)`.

        retriever = HierLandmarkRetriever(path="memory.db", namespace="ada", k=4)
        documents = retriever.invoke("Where is the spare key?")

    Raises:
        pydantic.ValidationError: neither memory nor path was given, k is under 1, or an option that there is not.
        hierlandmark.InvalidArgument: on invoke, an option that there is not, or a value that no search takes.
        hierlandmark.NamespaceNotFound: on invoke, when nothing was ever added to the namespace, or no database is at
            `path`.
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
    """Documents to return."""
    mode: SearchMode | None = None
    """`hierarchical`, `flat`, `hybrid`, or `index` where one is built; the memory's own choice when absent."""
    where: Filter | None = None
    """Which messages may be found, by role, time and metadata."""
    neighbours: int = Field(default=0, ge=0)
    """Messages before and after each hit to put into its metadata."""
    parse_time: bool = False
    """Narrow the search by times in the query, such as "last week"; needs `hierlandmark[time]`."""

    @field_validator("memory", mode="before")
    @classmethod
    def _open(cls, memory: MemoryLike | None, given: ValidationInfo) -> MemoryLike:
        return opened(memory, given.data.get("path"), given.data.get("namespace"))

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **options: Any
    ) -> list[Document]:
        k, others = self._asked(options)
        return _documents(self.memory.search(query, k, **others).hits)[:k]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **options: Any
    ) -> list[Document]:
        k, others = self._asked(options)
        return _documents((await self.memory.asearch(query, k, **others)).hits)[:k]

    def _asked(self, options: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """Of one call: k, and what else the search is given; the retriever's own where an option is not given."""
        if unknown := [name for name in options if name not in _OPTIONS]:
            raise InvalidArgument(f"expected options of a call among {', '.join(_OPTIONS)}, got {unknown[0]!r}")
        asked = {name: getattr(self, name) if options.get(name) is None else options[name] for name in _OPTIONS}
        return asked.pop("k"), asked


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
