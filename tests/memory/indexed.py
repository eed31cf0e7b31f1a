"""What tests of a memory with an index share: a chat, a model whose heads vote, and what a search finds either way."""

from pathlib import Path

import torch

from hierlandmark import Memory, MemoryConfig
from hierlandmark.config import RecallConfig
from hierlandmark.memory.index_build import current_build, index_folder
from hierlandmark.model import LandmarkModel, RetrievalHead
from hierlandmark.testing import tiny_model

N = 40
CHAT = [
    {
        "id": i,
        "role": "user" if i % 2 else "assistant",
        "content": f"message {i} says word{i * 37 % 101} of {i * 7}",
        "time": f"2026-03-{i % 28 + 1:02}",
        "metadata": {"even": i % 2 == 0},
    }
    for i in range(N)
]
QUERIES = ("word37", "message 12", "of 70")


def few(cells: int, segments: int = 20) -> MemoryConfig:
    return MemoryConfig(recall=RecallConfig(index_cells=cells, search_segments=segments))


def voting_model() -> LandmarkModel:
    """A tiny model that searches by two heads."""
    found = tiny_model()
    heads = (RetrievalHead(layer=0, head=3), RetrievalHead(layer=1, head=1, weight=0.5))
    return LandmarkModel(found.core, found.tokenizer, "indexed", kv_dtype=torch.float32, retrieval=heads)


def hits(memory: Memory, query: str, k: int = 5, mode: str = "index", **options: object) -> list[tuple]:
    found = memory.search(query, k, mode=mode, **options).hits
    return [(hit.message_ids[0], round(hit.score, 5), hit.block, hit.segment) for hit in found]


def same(memory: Memory, **options: object) -> None:
    """Through the index and without it, hits and scores are the same: all is opened, or all gates are scored."""
    for query in QUERIES:
        for k in (1, 5, 2 * N):
            found = hits(memory, query, k, **options)
            assert found == hits(memory, query, k, "hierarchical", **options)
            assert len(found) <= k and len({one[0] for one in found}) == len(found)


def folder_of(memory: Memory) -> Path:
    folder = index_folder(memory.path, memory.namespace)
    return folder / str(current_build(folder))
