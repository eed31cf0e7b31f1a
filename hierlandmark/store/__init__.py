"""Durable blocks: the `BlockStore` protocol, `SQLiteStore` and `InMemoryStore`. Docs: docs/design.md, section 4."""

from typing import TYPE_CHECKING, Any

from hierlandmark.store.protocol import (
    BlockId,
    BlockStore,
    EncodedSegment,
    KVSpec,
    MessageRun,
    SegmentId,
    SegmentRecord,
    StoreStats,
)

if TYPE_CHECKING:
    from hierlandmark.store.in_memory import InMemoryStore
    from hierlandmark.store.sqlite import SQLiteStore

__all__ = [
    "BlockId",
    "BlockStore",
    "EncodedSegment",
    "InMemoryStore",
    "KVSpec",
    "MessageRun",
    "SQLiteStore",
    "SegmentId",
    "SegmentRecord",
    "StoreStats",
]

_LAZY = {"InMemoryStore": "in_memory", "SQLiteStore": "sqlite"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
