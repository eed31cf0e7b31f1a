"""Where sinks, landmarks and gates stand among content tokens, and back. Integers only.

A segment is a grid of `segment_size` positions. Block 0 starts with the sink; every block is closed by a landmark
right after its last content token; the gate follows the last landmark. A short segment leaves the rest of its grid as
padding.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from hierlandmark.config import LayoutConfig


class Kind(IntEnum):
    """What stands at a position."""

    PAD = 0
    SINK = 1
    CONTENT = 2
    LANDMARK = 3
    GATE = 4


def split_blocks(n_content: int, config: LayoutConfig) -> tuple[int, ...]:
    """Content tokens of each block of one segment, 1 to `blocks_per_segment` entries, all positive.

    Raises:
        ValueError: `n_content` is not in 1..`segment_capacity`.
    """
    if not 1 <= n_content <= config.segment_capacity:
        raise ValueError(f"a segment holds 1..{config.segment_capacity} content tokens, got {n_content}")
    counts: list[int] = []
    left = n_content
    while left:
        room = config.block_size - 1 - (config.sink and not counts)
        if left < room:
            counts.append(left)
        elif left == room or len(counts) + 1 == config.blocks_per_segment:
            # the closing block keeps one position for the gate; what does not fit opens another block
            counts.append(min(left, room - 1))
        else:
            counts.append(room)
        left -= counts[-1]
    return tuple(counts)


def block_start(block: int, config: LayoutConfig) -> int:
    """First content slot of a block: 1 behind the sink, else 0."""
    return int(config.sink and block == 0)


def segment_kinds(block_content: tuple[int, ...], config: LayoutConfig) -> np.ndarray:
    """Kind of each position of a segment with these blocks: (segment_size,) int8."""
    kinds = np.full((config.blocks_per_segment, config.block_size), Kind.PAD, dtype=np.int8)
    for block, count in enumerate(block_content):
        start = block_start(block, config)
        kinds[block, :start] = Kind.SINK
        kinds[block, start : start + count] = Kind.CONTENT
        kinds[block, start + count] = Kind.LANDMARK
    last = len(block_content) - 1
    kinds[last, block_start(last, config) + block_content[-1] + 1] = Kind.GATE
    return kinds.reshape(-1)


def landmark_positions(block_content: tuple[int, ...], config: LayoutConfig) -> np.ndarray:
    """Position of each block's landmark in its segment: (N,) int64."""
    starts = [block * config.block_size + block_start(block, config) for block in range(len(block_content))]
    return np.asarray(starts) + np.asarray(block_content)


def gate_position(block_content: tuple[int, ...], config: LayoutConfig) -> int:
    """Position of the gate in its segment."""
    return int(landmark_positions(block_content, config)[-1]) + 1


def content_mask(block_content: tuple[int, ...], config: LayoutConfig) -> np.ndarray:
    """Which slots of each block hold content: (N, block_size) bool."""
    kinds = segment_kinds(block_content, config).reshape(config.blocks_per_segment, config.block_size)
    return kinds[: len(block_content)] == Kind.CONTENT


def split_segments(n_content: int, config: LayoutConfig) -> tuple[int, ...]:
    """Content tokens of each segment of a text that is read in order: full ones, then the rest.

    A memory cuts its text by `model.cuts.segment_sizes`.

    Raises:
        ValueError: `n_content` is negative.
    """
    if n_content < 0:
        raise ValueError(f"a text holds 0 or more content tokens, got {n_content}")
    full, tail = divmod(n_content, config.segment_capacity)
    return (config.segment_capacity,) * full + ((tail,) if tail else ())


@dataclass(frozen=True, eq=False)
class Layout:
    """A batch of texts on the grid. B texts, S segments, P positions a segment."""

    config: LayoutConfig
    kinds: np.ndarray  # (B, S, P) int8
    reads: np.ndarray  # (B, S, S) bool, [b, i, j]: queries of segment i may look into segment j

    def __post_init__(self) -> None:
        batch, segments, size = self.kinds.shape
        if size != self.config.segment_size or self.reads.shape != (batch, segments, segments):
            raise ValueError(f"kinds {self.kinds.shape} and reads {self.reads.shape} do not fit {self.config!r}")
        if np.triu(self.reads.any(0)).any():
            raise ValueError("a segment may only read segments before it")

    @classmethod
    def of(cls, lengths: list[list[int]], config: LayoutConfig, *, reads: np.ndarray | None = None) -> "Layout":
        """Layout of texts given as content tokens a segment; by default every segment reads all before it.

        Args:
            lengths: for each text, the content tokens of each of its segments; 0 leaves a segment of padding.
            reads: (S, S) or (B, S, S) bool.
        """
        batch, segments = len(lengths), max(len(row) for row in lengths)
        kinds = np.zeros((batch, segments, config.segment_size), dtype=np.int8)
        for b, row in enumerate(lengths):
            for s, n_content in enumerate(row):
                if n_content:
                    kinds[b, s] = segment_kinds(split_blocks(n_content, config), config)
        causal = np.tril(np.ones((segments, segments), dtype=bool), -1)
        wanted = causal if reads is None else reads
        return cls(config, kinds, np.broadcast_to(wanted, (batch, segments, segments)) & causal)

    def place(self, content: list[np.ndarray], fill: int = 0) -> np.ndarray:
        """Put each text's content tokens on the grid: (B, S, P) int64, `fill` where there is none.

        Raises:
            ValueError: a text, or a token of one, is missing or left over.
        """
        if len(content) != len(self.kinds):
            raise ValueError(f"the layout is of {len(self.kinds)} texts, got {len(content)}")
        grid = np.full(self.kinds.shape, fill, dtype=np.int64)
        for b, tokens in enumerate(content):
            where = self.kinds[b] == Kind.CONTENT
            # numpy would repeat a lone token over the whole text
            if len(tokens) != where.sum():
                raise ValueError(f"text {b} is laid out for {where.sum()} content tokens, got {len(tokens)}")
            grid[b][where] = tokens
        return grid
