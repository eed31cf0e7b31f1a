"""`Memory`: add, search, ask, forget. The only object that joins model and store."""

from hierlandmark.memory.memory import Memory

__all__ = ["Memory"]
