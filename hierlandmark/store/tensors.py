"""Arrays to bytes and back: raw, little-endian, C order, with a CRC-32; never pickled."""

import math
import zlib
from typing import Any

import numpy as np

from hierlandmark.errors import StoreCorrupt


def to_little_endian(array: np.ndarray) -> np.ndarray:
    """The array itself where it is contiguous and little-endian already, else a copy that is."""
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def checksum(data: Any) -> int:
    """CRC-32 of anything that offers a contiguous buffer."""
    return zlib.crc32(data)


def from_bytes(data: bytes, crc: int, dtype: np.dtype, shape: tuple[int, ...], what: str) -> np.ndarray:
    """A read-only view (`shape`) of `data`.

    Raises `StoreCorrupt` when length or checksum differ; `what` names the array in the message.
    """
    expected = dtype.itemsize * math.prod(shape)
    if len(data) != expected:
        raise StoreCorrupt(f"{what} has {len(data)} bytes where {expected} are expected", **RECOVER)
    if zlib.crc32(data) != crc:
        raise StoreCorrupt(f"{what} fails its checksum: expected {crc:#010x}, came {zlib.crc32(data):#010x}", **RECOVER)
    return np.frombuffer(data, dtype=dtype.newbyteorder("<")).reshape(shape)


# text is kept apart from keys
RECOVER = {
    "python": "`Memory.reencode` computes keys again from the text, or restore the file from a backup",
    "command": "`hierlandmark reencode` computes keys again from the text, or restore the file from a backup",
}


def wipeable(n_bytes: int, page_size: int) -> tuple[int, int]:
    """Zero bytes to store ahead of and behind a blob of `n_bytes`, so that it lies in overflow pages only.

    SQLite moves cells between b-tree pages and leaves stale copies in their gaps, which even `secure_delete` does
    not clear; overflow pages never move and are cleared when freed. https://sqlite.org/fileformat2.html, section 1.6.
    """
    ahead = (page_size - 12) * 32 // 255 - 23
    page = page_size - 4
    remainder = n_bytes % page
    # a few bytes left over stay in the cell: too few to tell anything, and a page for them would cost a third more
    return ahead, page - remainder if remainder > 32 else 0
