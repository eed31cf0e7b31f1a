import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierlandmark.config import LayoutConfig
from hierlandmark.errors import InvalidArgument
from hierlandmark.layout import (
    Kind,
    Layout,
    block_start,
    content_mask,
    gate_position,
    landmark_positions,
    segment_kinds,
    split_blocks,
    split_segments,
)

LETTERS = {Kind.PAD: ".", Kind.SINK: "S", Kind.CONTENT: "c", Kind.LANDMARK: "L", Kind.GATE: "G"}

configs = st.builds(
    LayoutConfig,
    block_size=st.integers(4, 20),
    blocks_per_segment=st.integers(1, 6),
    sink=st.booleans(),
)


@st.composite
def segments(draw: st.DrawFn) -> tuple[LayoutConfig, int]:
    """A config, and content tokens that one of its segments holds; the edges more often than chance would."""
    config = draw(configs)
    edges = st.sampled_from(sorted({1, max(1, config.segment_capacity - 1), config.segment_capacity}))
    return config, draw(edges | st.integers(1, config.segment_capacity))


@st.composite
def batches(draw: st.DrawFn) -> tuple[LayoutConfig, list[list[int]]]:
    """A config, and content tokens a segment for a ragged batch; 0 is a hole."""
    config = draw(configs)
    row = st.lists(st.integers(0, config.segment_capacity), min_size=1, max_size=4)
    return config, draw(st.lists(row, min_size=1, max_size=3))


def drawn(config: LayoutConfig, n_content: int) -> list[str]:
    """A segment as one word a block, a letter a position."""
    kinds = segment_kinds(split_blocks(n_content, config), config)
    return ["".join(LETTERS[Kind(kind)] for kind in row) for row in kinds.reshape(-1, config.block_size)]


@pytest.mark.parametrize(
    ("config", "n_content", "expected"),
    [
        (LayoutConfig(block_size=4, blocks_per_segment=1), 1, "ScLG"),
        (LayoutConfig(block_size=6, blocks_per_segment=3), 1, "ScLG.. ...... ......"),
        (LayoutConfig(block_size=6, blocks_per_segment=3), 3, "ScccLG"),
        # the fourth token fills the block but for the gate, which then needs a block, and a block needs a token
        (LayoutConfig(block_size=6, blocks_per_segment=3), 4, "ScccL. cLG... ......"),
        (LayoutConfig(block_size=6, blocks_per_segment=3), 13, "SccccL cccccL ccccLG"),
        (LayoutConfig(block_size=6, blocks_per_segment=2, sink=False), 9, "cccccL ccccLG"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_segment_as_drawn(config: LayoutConfig, n_content: int, expected: str) -> None:
    words = expected.split()
    words += ["." * config.block_size] * (config.blocks_per_segment - len(words))
    assert drawn(config, n_content) == words


def test_the_default_is_64_by_8() -> None:
    config = LayoutConfig()
    assert (config.segment_size, config.segment_capacity) == (512, 502)
    assert split_blocks(502, config) == (62, 63, 63, 63, 63, 63, 63, 62)
    assert split_blocks(503, LayoutConfig(sink=False)) == (63,) * 7 + (62,)


@given(segments())
def test_blocks_hold_all_content_in_the_fewest_blocks(case: tuple[LayoutConfig, int]) -> None:
    config, n_content = case
    blocks = split_blocks(n_content, config)
    assert sum(blocks) == n_content
    assert min(blocks) >= 1
    assert len(blocks) <= config.blocks_per_segment
    if len(blocks) > 1:
        fewer = config.model_copy(update={"blocks_per_segment": len(blocks) - 1})
        assert n_content > fewer.segment_capacity


@given(segments())
def test_sink_first_a_landmark_closes_each_block_and_one_gate_the_segment(case: tuple[LayoutConfig, int]) -> None:
    config, n_content = case
    used = len(split_blocks(n_content, config))
    words = drawn(config, n_content)
    for block, word in enumerate(words):
        head = "S" if config.sink and block == 0 else ""
        # an inner block gives up at most one place, for the gate's block to have a token
        pattern = "[.]+" if block >= used else f"{head}c+L" + (r"G\.*" if block == used - 1 else r"\.?")
        assert re.fullmatch(pattern, word), (block, words)
    text = "".join(words)
    counts = {letter: text.count(letter) for letter in "ScLG"}
    assert counts == {"S": int(config.sink), "c": n_content, "L": used, "G": 1}


@given(configs)
def test_a_full_segment_wastes_no_position(config: LayoutConfig) -> None:
    assert "." not in "".join(drawn(config, config.segment_capacity))


@given(segments())
def test_positions_and_masks_agree_with_the_kinds(case: tuple[LayoutConfig, int]) -> None:
    config, n_content = case
    blocks = split_blocks(n_content, config)
    kinds = segment_kinds(blocks, config)
    assert kinds.shape == (config.segment_size,)
    assert kinds.dtype == np.int8
    np.testing.assert_array_equal(landmark_positions(blocks, config), np.flatnonzero(kinds == Kind.LANDMARK))
    assert [gate_position(blocks, config)] == np.flatnonzero(kinds == Kind.GATE).tolist()
    mask = content_mask(blocks, config)
    assert mask.shape == (len(blocks), config.block_size)
    assert mask.sum(1).tolist() == list(blocks)
    np.testing.assert_array_equal(mask.reshape(-1), kinds[: mask.size] == Kind.CONTENT)
    assert mask.argmax(1).tolist() == [block_start(block, config) for block in range(len(blocks))]


@given(configs, st.integers(max_value=0) | st.integers(min_value=1))
def test_a_segment_refuses_nothing_and_too_much(config: LayoutConfig, by: int) -> None:
    n_content = by if by <= 0 else config.segment_capacity + by
    with pytest.raises(ValueError, match=rf"1\.\.{config.segment_capacity} content tokens, got {n_content}"):
        split_blocks(n_content, config)


@given(configs, st.integers(0, 1000))
def test_a_text_is_full_segments_and_an_open_tail(config: LayoutConfig, n_content: int) -> None:
    counts = split_segments(n_content, config)
    assert sum(counts) == n_content
    assert all(count == config.segment_capacity for count in counts[:-1])
    assert all(1 <= count <= config.segment_capacity for count in counts)


def test_a_text_of_less_than_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        split_segments(-1, LayoutConfig())


@pytest.mark.parametrize("fields", [{"block_size": 3}, {"block_size": 0}, {"blocks_per_segment": 0}, {"gate": 1}])
def test_config_refuses_grids_without_room(fields: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(fields))):
        LayoutConfig(**fields)


@given(batches(), st.integers(-100, -1))
def test_placed_tokens_come_back_in_order(case: tuple[LayoutConfig, list[list[int]]], fill: int) -> None:
    config, lengths = case
    layout = Layout.of(lengths, config)
    content = [np.arange(sum(row)) + 1000 * b for b, row in enumerate(lengths)]
    grid = layout.place(content, fill)
    assert grid.shape == layout.kinds.shape == (len(lengths), max(map(len, lengths)), config.segment_size)
    for row, kinds, tokens in zip(grid, layout.kinds, content, strict=True):
        np.testing.assert_array_equal(row[kinds == Kind.CONTENT], tokens)
        assert (row[kinds != Kind.CONTENT] == fill).all()


@given(batches())
def test_a_segment_of_a_batch_is_laid_out_as_alone(case: tuple[LayoutConfig, list[list[int]]]) -> None:
    config, lengths = case
    layout = Layout.of(lengths, config)
    for b, s in np.ndindex(layout.kinds.shape[:2]):
        n_content = lengths[b][s] if s < len(lengths[b]) else 0
        alone = segment_kinds(split_blocks(n_content, config), config) if n_content else np.zeros(config.segment_size)
        np.testing.assert_array_equal(layout.kinds[b, s], alone)


@pytest.mark.parametrize("tokens", [[], [7], [7, 7], [7, 7, 7, 7]], ids=len)
def test_place_refuses_a_wrong_count(tokens: list[int]) -> None:
    layout = Layout.of([[3]], LayoutConfig(block_size=8))
    with pytest.raises(ValueError, match=f"3 content tokens, got {len(tokens)}"):
        layout.place([np.array(tokens, dtype=np.int64)])


def test_place_refuses_a_wrong_number_of_texts() -> None:
    with pytest.raises(ValueError, match="2 texts, got 1"):
        Layout.of([[1], [1]], LayoutConfig(block_size=8)).place([np.array([7])])


def test_by_default_every_segment_reads_all_before_it() -> None:
    layout = Layout.of([[1, 1, 1], [1, 0]], LayoutConfig(block_size=8))
    expected = [[False, False, False], [True, False, False], [True, True, False]]
    assert layout.reads.tolist() == [expected, expected]


@pytest.mark.parametrize("per_text", [False, True])
def test_reads_are_kept_but_never_look_ahead(per_text: bool) -> None:
    wanted = np.ones((3, 3), dtype=bool)
    wanted[2, 0] = False
    lengths = [[1, 1, 1], [1, 1, 1]]
    reads = np.stack((wanted, np.zeros_like(wanted))) if per_text else wanted
    layout = Layout.of(lengths, LayoutConfig(block_size=8), reads=reads)
    kept = [[False, False, False], [True, False, False], [False, True, False]]
    nothing = [[False] * 3] * 3
    assert layout.reads.tolist() == [kept, nothing if per_text else kept]


@pytest.mark.parametrize(("kinds", "reads"), [((1, 2, 8), (1, 2, 2)), ((1, 2, 16), (1, 2, 3)), ((1, 2, 16), (2, 2, 2))])
def test_a_layout_refuses_arrays_that_do_not_fit(kinds: tuple[int, ...], reads: tuple[int, ...]) -> None:
    config = LayoutConfig(block_size=8, blocks_per_segment=2)
    with pytest.raises(ValueError, match="do not fit"):
        Layout(config, np.zeros(kinds, dtype=np.int8), np.zeros(reads, dtype=bool))


@pytest.mark.parametrize(("reader", "read"), [(0, 0), (0, 1)])
def test_a_layout_refuses_to_read_ahead(reader: int, read: int) -> None:
    config = LayoutConfig(block_size=8, blocks_per_segment=2)
    reads = np.zeros((1, 2, 2), dtype=bool)
    reads[0, reader, read] = True
    with pytest.raises(ValueError, match="segments before it"):
        Layout(config, np.zeros((1, 2, 16), dtype=np.int8), reads)
