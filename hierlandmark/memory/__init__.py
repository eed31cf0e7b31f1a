"""`Memory`: add, search, ask, forget. The only object that joins model and store."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hierlandmark.memory.memory import Memory

__all__ = ["Memory"]


def __getattr__(name: str) -> Any:
    # what is asked of it is checked (`memory.arguments`) before torch is loaded
    if name != "Memory":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hierlandmark.memory.memory import Memory

    return Memory
