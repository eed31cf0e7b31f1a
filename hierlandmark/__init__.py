"""Hierarchical landmark memory: the model's own attention finds what it wrote to disk.

Names below load on first use, so that `import hierlandmark` loads neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hierlandmark.allocator import keep_freed_memory as keep_freed_memory
    from hierlandmark.config import LayoutConfig as LayoutConfig
    from hierlandmark.config import MemoryConfig as MemoryConfig
    from hierlandmark.config import RecallConfig as RecallConfig
    from hierlandmark.errors import AdapterInvalid as AdapterInvalid
    from hierlandmark.errors import DuplicateMessageId as DuplicateMessageId
    from hierlandmark.errors import HierLandmarkError as HierLandmarkError
    from hierlandmark.errors import IndexNotFound as IndexNotFound
    from hierlandmark.errors import InvalidArgument as InvalidArgument
    from hierlandmark.errors import InvalidChatFile as InvalidChatFile
    from hierlandmark.errors import InvalidMessage as InvalidMessage
    from hierlandmark.errors import KeepMismatch as KeepMismatch
    from hierlandmark.errors import MessageNotFound as MessageNotFound
    from hierlandmark.errors import MissingExtra as MissingExtra
    from hierlandmark.errors import ModelMismatch as ModelMismatch
    from hierlandmark.errors import ModelUnavailable as ModelUnavailable
    from hierlandmark.errors import NamespaceNotFound as NamespaceNotFound
    from hierlandmark.errors import StoreCorrupt as StoreCorrupt
    from hierlandmark.errors import StoreNotWritable as StoreNotWritable
    from hierlandmark.errors import StoreTooNew as StoreTooNew
    from hierlandmark.errors import TrainingDiverged as TrainingDiverged
    from hierlandmark.errors import UnsupportedModel as UnsupportedModel
    from hierlandmark.filters import Filter as Filter
    from hierlandmark.memory import Memory as Memory
    from hierlandmark.messages import Message as Message
    from hierlandmark.model import LandmarkModel as LandmarkModel

__version__ = "0.1.0"

_HOME = {
    "AdapterInvalid": "errors",
    "DuplicateMessageId": "errors",
    "Filter": "filters",
    "HierLandmarkError": "errors",
    "IndexNotFound": "errors",
    "InvalidArgument": "errors",
    "InvalidChatFile": "errors",
    "InvalidMessage": "errors",
    "KeepMismatch": "errors",
    "LandmarkModel": "model",
    "LayoutConfig": "config",
    "Memory": "memory",
    "MemoryConfig": "config",
    "Message": "messages",
    "MessageNotFound": "errors",
    "MissingExtra": "errors",
    "ModelMismatch": "errors",
    "ModelUnavailable": "errors",
    "NamespaceNotFound": "errors",
    "RecallConfig": "config",
    "StoreCorrupt": "errors",
    "StoreNotWritable": "errors",
    "StoreTooNew": "errors",
    "TrainingDiverged": "errors",
    "UnsupportedModel": "errors",
    "keep_freed_memory": "allocator",
}

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    # found once, found for good
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
