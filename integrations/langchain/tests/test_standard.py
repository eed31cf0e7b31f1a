"""LangChain's own suite for retrievers, over one memory in RAM and one opened by path."""

from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_hierlandmark import HierLandmarkRetriever
from langchain_tests.integration_tests import RetrieversIntegrationTests

from hierlandmark import Memory


class _Standard(RetrieversIntegrationTests):
    params: dict[str, Any]

    @property
    def retriever_constructor(self) -> type[HierLandmarkRetriever]:
        return HierLandmarkRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return self.params

    @property
    def retriever_query_example(self) -> str:
        return "Where is the spare key?"

    # the suite asks for k synchronously only
    @pytest.mark.parametrize("k", [1, 3])
    async def test_ainvoke_with_k(self, retriever: BaseRetriever, k: int) -> None:
        by_kwarg = await retriever.ainvoke(self.retriever_query_example, None, k=k)
        by_constructor = await HierLandmarkRetriever(**self.params, k=k).ainvoke(self.retriever_query_example)
        assert len(by_kwarg) == len(by_constructor) == k
        assert by_kwarg == by_constructor == retriever.invoke(self.retriever_query_example, None, k=k)
        assert all(isinstance(one, Document) for one in by_kwarg)


class TestInMemory(_Standard):
    @pytest.fixture(autouse=True)
    def _params(self, filled: Memory) -> None:
        self.params = {"memory": filled}


class TestByPath(_Standard):
    @pytest.fixture(autouse=True)
    def _params(self, database: Path) -> None:
        self.params = {"path": database, "namespace": "ada"}


class TestFlat(_Standard):
    @pytest.fixture(autouse=True)
    def _params(self, filled: Memory) -> None:
        self.params = {"memory": filled, "mode": "flat"}
