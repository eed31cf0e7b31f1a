"""Documents of needles: whole, of the length asked for, and the text's own wherever no needle stands."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierlandmark.config import LayoutConfig
from hierlandmark.errors import InvalidArgument
from hierlandmark.eval.fillers import Grass
from hierlandmark.eval.haystack import Haystack, filler_text, make_haystack
from hierlandmark.eval.segments import cut
from hierlandmark.model.cuts import segment_sizes
from hierlandmark.testing import ByteTokenizer

BYTES = ByteTokenizer()


def tokenize(text: str) -> list[int]:
    return BYTES(text)["input_ids"]


LAYOUT = LayoutConfig(block_size=16, blocks_per_segment=4)


def grass(length: int, layout: LayoutConfig = LAYOUT) -> Haystack:
    def sizes(tokens: np.ndarray) -> list[int]:
        return segment_sizes(tokens.tolist(), layout, BYTES.decode)

    return make_haystack(tokenize, BYTES.decode, sizes, filler_text(Grass(), Random(0)), length)


def test_a_longer_haystack_starts_alike() -> None:
    short, long = grass(500), grass(3000)
    assert np.array_equal(short.tokens, long.tokens[:500])
    assert np.array_equal(short.cuts, long.cuts[: len(short.cuts)])
    text = BYTES.decode(long.tokens.tolist())
    assert all(text[at - 1] == "." and text[at] == " " for at in long.cuts[1:])
    assert np.array_equal(short.ends[:-1], long.ends[: len(short.ends) - 1])


@settings(deadline=None)
@given(st.integers(150, 900), st.integers(8, 30), st.lists(st.floats(0, 1), max_size=6), st.integers(1, 20))
def test_documents(length: int, block: int, depths: list[float], size: int) -> None:
    hay = grass(1000, LayoutConfig(block_size=block, blocks_per_segment=4))
    # no two alike, none of the text's bytes
    statements = [(depth, [128 + i] * size) for i, depth in enumerate(sorted(depths))]
    made, sizes = hay.document(length, [1] * 7, statements, [10, 10])
    assert len(made) == length == sum(sizes)
    assert made[:7].tolist() == [1] * 7 and made[-2:].tolist() == [10, 10]
    starts = [np.flatnonzero(made == tokens[0]) for _, tokens in statements]
    # whole, and in their order
    assert all(len(at) == size and at[-1] - at[0] == size - 1 for at in starts)
    assert [at[0] for at in starts] == sorted(at[0] for at in starts)
    for piece, plain in zip(cut(made, sizes), cut(hay.tokens[:length], sizes), strict=True):
        if not (set(piece.tolist()) & {1, 10, *(128 + i for i in range(6))}):
            # what a needle pushed out of its own segment never gets into the next one
            assert np.array_equal(piece, plain)


@settings(deadline=None)
@given(st.integers(300, 900), st.lists(st.floats(0, 1), max_size=3), st.integers(1, 9))
def test_no_statement_is_cut(length: int, depths: list[float], size: int) -> None:
    statements = [(depth, [128 + i] * size) for i, depth in enumerate(sorted(depths))]
    # room for all of them behind the last place: without it the last may be cut, as the next segment has none
    made, sizes = grass(1000).document(length, [1], statements, [10] * 60)
    for piece in cut(made, sizes):
        assert all(np.sum(piece == tokens[0]) in (0, size) for _, tokens in statements)


def test_depth_says_where_it_stands() -> None:
    hay = grass(1000)
    for depth, low, high in ((0.0, 0, 8), (0.5, 450, 500), (1.0, 960, 1000)):
        made, _ = hay.document(1000, [1], [(depth, [200] * 3)], [10])
        assert low <= int(np.flatnonzero(made == 200)[0]) <= high


def test_too_short_and_too_long() -> None:
    hay = grass(100)
    for length in (5, 101):
        with pytest.raises(InvalidArgument, match=f"expected a document of 8 to 100 tokens, got {length}"):
            hay.document(length, [1] * 4, [(0.5, [200] * 3)], [10])
