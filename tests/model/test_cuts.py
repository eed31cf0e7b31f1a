"""Where a text is cut into segments: what belongs together stays together."""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierlandmark import LayoutConfig, Memory, Message
from hierlandmark.layout import split_blocks
from hierlandmark.model.cuts import segment_sizes
from hierlandmark.model.prompts import render
from hierlandmark.testing import SMALL, ByteTokenizer, tiny_model

BYTES = ByteTokenizer()
GRID = LayoutConfig(block_size=16, blocks_per_segment=4)
CAPACITY = GRID.segment_capacity
LOOK = split_blocks(CAPACITY, GRID)[-1]


def tokenize(text: str) -> list[int]:
    return BYTES(text)["input_ids"]


def cut(text: str, ends: list[int] | None = None) -> list[str]:
    tokens = tokenize(text)
    sizes = segment_sizes(tokens, GRID, BYTES.decode, ends or ())
    assert sum(sizes) == len(tokens)
    return [BYTES.decode(tokens[end - size : end]) for end, size in zip(accumulate(sizes), sizes, strict=True)]


def filled(end: str) -> str:
    """A word as long as it takes for `end` to begin as early as a segment may end."""
    return "x" * (CAPACITY - LOOK) + end


@pytest.mark.parametrize(
    ("end", "kept"),
    [
        # the last sentence that ends there, and not the last word
        ("A b. C d. E f g h i j", "A b. C d."),
        ('A b! C "d?" E f g h i j', 'A b! C "d?"'),
        ("a\nb c d e f g h i j k l", "a\n"),
        # a number and a name hold dots, too
        ("Pi 3.14159 2.71828 www.a.org", "Pi 3.14159"),
        ("no end of anything in here", "no end of"),
        # nothing ends
        ("y" * 30, "y" * LOOK),
        ("日本。語のぶん", "日本。"),
        ("「日。」語のぶん", "「日。」"),
        ("日，語語語語", "日，"),
        ("是735918273591", "是"),
        # a dot that ends nothing, and a number behind one
        ("A b. Mr. Smithson", "A b."),
        ("A b. No. 123456789", "A b."),
        # the line break belongs to what it ends
        ("A b. C d efgh.\n\n", "A b."),
    ],
)
def test_a_segment_ends_with_the_best_that_ends_in_its_last_block(end: str, kept: str) -> None:
    text = filled(end)
    first, *rest = cut(text)
    assert first.rstrip(" ") == filled(kept)
    assert first + "".join(rest) == text


def bytes_of_runs(tokens: list[int]) -> str:
    """As tokenizers with byte fallback decode (Llama 2, Gemma): a run of bytes that is no text is none at all."""
    try:
        return bytes(tokens).decode()
    except UnicodeDecodeError:
        return "\ufffd" * len(tokens)


@pytest.mark.parametrize("text", ["語" * 60, "日本。語" * 40, "é" * 100, "😀" * 50, "a語😀é" * 30])
@pytest.mark.parametrize("decode", [BYTES.decode, bytes_of_runs])
def test_no_character_is_cut(text: str, decode: Callable[[Sequence[int]], str]) -> None:
    tokens = list(text.encode())
    sizes = segment_sizes(tokens, GRID, decode)
    pieces = [bytes(tokens[end - size : end]).decode() for end, size in zip(accumulate(sizes), sizes, strict=True)]
    assert "".join(pieces) == text and len(pieces) > 2
    if "。" in text:
        assert all(piece.endswith("。") for piece in pieces[:-1])


def test_messages_come_before_sentences() -> None:
    text = filled("A b. c d. e f g h i j k l m n")
    behind = len(filled("A b."))
    assert cut(text, [behind + 4, len(text)])[0] == filled("A b. c d")
    # one that ends before the last block is no help, one behind the segment neither
    assert cut(text, [40, len(text)])[0].rstrip() == filled("A b. c d.")


def test_what_fits_is_not_cut() -> None:
    assert cut("") == []
    for length in (1, CAPACITY - 1, CAPACITY):
        text = ("a. " * CAPACITY)[:length]
        assert cut(text) == [text]


@settings(deadline=None)
@given(st.text(alphabet="ab1. \n😀é語", max_size=400), st.lists(st.integers(1, 90), max_size=12))
def test_any_text_is_cut_in_order_late_and_between_characters(text: str, messages: list[int]) -> None:
    ends = [end for end in accumulate(messages) if end <= len(tokenize(text))]
    pieces = cut(text, ends)
    sizes = [len(tokenize(piece)) for piece in pieces]
    assert "".join(pieces) == text
    for size, at in zip(sizes[:-1], accumulate(sizes), strict=False):
        assert CAPACITY - LOOK < size <= CAPACITY
        # a character is cut where messages end inside of one, which they never do, and not elsewhere
        assert at in ends or "\ufffd" not in BYTES.decode(tokenize(text)[:at])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text(alphabet="ab. ", min_size=1, max_size=60), min_size=2, max_size=8), st.data())
def test_a_text_that_grows_is_cut_as_at_once(texts: list[str], data: st.DataObject) -> None:
    tokens, counts = [tokenize(text) for text in texts], [len(text) for text in texts]
    whole = segment_sizes([i for part in tokens for i in part], GRID, BYTES.decode, list(accumulate(counts)))
    done: list[int] = []
    tail: list[int] = []
    left: list[int] = []
    for part in tokens:
        left.append(len(part))
        tail += part
        *closed, last = segment_sizes(tail, GRID, BYTES.decode, list(accumulate(left)))
        for size in closed:
            done.append(size)
            tail = tail[size:]
            while size:
                step = min(size, left[0])
                size, left[0] = size - step, left[0] - step
                if not left[0]:
                    left.pop(0)
        assert len(tail) == last
    assert [*done, len(tail)] == whole


def test_a_memory_cuts_behind_messages_and_says_so_however_it_is_filled() -> None:
    model, rng = tiny_model(), np.random.default_rng(0)
    words = "the cat sat on a mat and saw that it was good".split()
    messages = [
        Message(id=i, role="user", content=" ".join(rng.choice(words, rng.integers(1, 9))) + ".") for i in range(60)
    ]
    found = []
    for step in (60, 1, 7):
        with Memory.open(":memory:", model=model) as memory:
            for start in range(0, 60, step):
                memory.add(messages[start : start + step])
            found.append([(r.tokens.tolist(), r.runs, r.closed) for r in memory._open_store().segments("default")])
    assert found[0] == found[1] == found[2]
    closed = [runs for _, runs, is_closed in found[0] if is_closed]
    assert len(closed) > 3
    lengths = {message.id: len(model.tokenize(render(message))) for message in messages}
    whole = sum(runs[-1].n_tokens == lengths[runs[-1].message_id] for runs in closed)
    look = split_blocks(SMALL.segment_capacity, SMALL)[-1]
    # a message that is longer than a block may end nowhere in the last one
    assert whole >= sum(lengths[b[0].message_id] <= look for _, b in pairwise(closed))
