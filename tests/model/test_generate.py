"""Answers outgrow their window in every layout that a configuration allows."""

import pytest

from hierlandmark import LandmarkModel, LayoutConfig, Memory
from hierlandmark.testing import tiny_model

SMALLEST = [(4, 1, True), (5, 1, True), (6, 1, True), (7, 1, True), (4, 2, True), (4, 1, False), (5, 1, False)]


@pytest.mark.parametrize(("size", "blocks", "sink"), SMALLEST)
def test_the_smallest_windows_are_outgrown(size, blocks, sink, monkeypatch):
    # a random model may end its answer at once
    monkeypatch.setattr(LandmarkModel, "stop_tokens", set())
    model = tiny_model(layout=LayoutConfig(block_size=size, blocks_per_segment=blocks, sink=sink))
    with Memory.open(":memory:", model=model) as memory:
        memory.add([{"id": 1, "content": "a word"}])
        assert len(memory.ask("what is it?", max_new_tokens=9).tokens) == 9
        assert memory.search("a word", 1).hits[0].message_ids == [1]
