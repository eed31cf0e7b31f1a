"""What a recall holds: blocks last read, segments encoded again, memory that is used over and over."""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from hierlandmark.store.protocol import EncodedSegment


@dataclass
class Cache:
    """Pieces of blocks of one layer, least recently used first: name -> slot."""

    slots: OrderedDict[int, int] = field(default_factory=OrderedDict)
    # how often others came in: slots that were told before it are good while it is the same
    changes: int = 0


class Pieces(NamedTuple):
    """Of m blocks for each of A heads, or groups of heads, where they are held."""

    held: Tensor  # (n, C, P, D), keys rotated
    rows: Tensor  # (A * m,)
    hidden: Tensor  # (A, 1, m, P), where no content stands
    # of the cache when they were looked up
    changes: int


class Restored:
    """Segments encoded again because the store no longer has them as they were listed, up to a number of bytes.

    What a query has used stays until it ends: every layer looks again, and would find the first ones pushed out.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        # place of the segment -> itself, least recently used first
        self._held: OrderedDict[int, EncodedSegment] = OrderedDict()
        self._bytes = 0
        self._used: set[int] = set()

    def begin(self) -> None:
        """Another query."""
        self._used.clear()

    def get(self, segment: int, make: Callable[[], EncodedSegment]) -> EncodedSegment:
        """The one held, or a new one, which is held if it fits beside those that this query used."""
        found = self._held.get(segment)
        if found is None:
            found = make()
            size = _bytes(found)
            for other in [s for s in self._held if s not in self._used]:
                if self._bytes + size <= self.limit:
                    break
                self._bytes -= _bytes(self._held.pop(other))
            if self._bytes + size > self.limit:
                return found
            self._held[segment] = found
            self._bytes += size
        self._held.move_to_end(segment)
        self._used.add(segment)
        return found


def _bytes(segment: EncodedSegment) -> int:
    return segment.landmark_keys.nbytes + segment.kv_bytes


class Buffers:
    """Memory that every layer and token uses again, by name: fresh pages cost more than what is done in them.

    Args:
        limit: bytes that are held of each name; what is larger is made anew each time.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held: dict[str, Tensor] = {}
        # what was asked for last by each name, which most often is what is asked for next
        self._last: dict[str, tuple[tuple[int, ...], torch.dtype, Tensor]] = {}

    def get(self, name: str, dtype: torch.dtype, *shape: int) -> Tensor:
        """Of any content, and another's as soon as this name is asked for again."""
        if (last := self._last.get(name)) is not None and last[0] == shape and last[1] == dtype:
            return last[2]
        size = math.prod(shape)
        if size * dtype.itemsize > self.limit:
            return torch.empty(shape, dtype=dtype)
        if (held := self._held.get(name)) is None or held.numel() < size or held.dtype != dtype:
            # the one before goes first
            self._held.pop(name, None)
            self._last.pop(name, None)
            del held, last
            # what is made in inference mode cannot be written to outside of it
            with torch.inference_mode(False):
                held = self._held[name] = torch.empty(size, dtype=dtype)
        part = held[:size].view(shape)
        self._last[name] = shape, dtype, part
        return part

    def rows(self, name: str, table: Tensor, rows: Tensor) -> Tensor:
        """Rows of a table: (n, C, P, D) and (m,) -> (m, C, P, D)."""
        narrow = self.get(f"rows {name}", table.dtype, len(rows), *table.shape[1:])
        return torch.index_select(table, 0, rows, out=narrow)

    def apart(self, name: str, rows: Tensor) -> Tensor:
        """Rows in fp32, their parts apart: (m, C, P, D) -> (C, m, P, D)."""
        m, C, *rest = rows.shape
        return self.get(f"apart {name}", torch.float32, C, m, *rest).copy_(rows.transpose(0, 1))
