"""Work by formula beside work that was counted."""

import pytest

from hierlandmark.config import LayoutConfig, RecallConfig
from hierlandmark.eval.work import Shape, decoding, full, local_keys, measured, stream
from hierlandmark.ops.selected import Counts
from hierlandmark.testing import SMALL, tiny_model

TINY = Shape(layers=2, heads=4, kv_heads=2, head_dim=8)
SMOL = Shape(layers=30, heads=9, kv_heads=3, head_dim=64)
DEFAULT = LayoutConfig()


def test_full_attention_by_hand() -> None:
    found = full(SMOL, 1000)
    assert found.keys == 1000
    assert found.flops == 30 * 9 * 1000 * 4 * 64
    # keys and values of a token: the 23 KB of a stored token, without landmarks
    assert found.bytes == 1000 * 30 * 3 * 2 * 64 * 2


def test_keys_of_a_small_segment_by_hand() -> None:
    # sink, 6 content; 7 content; 7 content; 6 content: 26 content tokens, each block closed by a landmark
    scored, attended = local_keys(SMALL)
    assert scored == pytest.approx((0 * 6 + 1 * 7 + 2 * 7 + 3 * 6) / 26)
    # a token, those before it, and the sink
    assert attended == pytest.approx(sum(range(1, 27)) / 26 + 1)


def test_a_local_window_of_a_segment_scores_no_landmark_there() -> None:
    scored, attended = local_keys(SMALL.model_copy(update={"local_window": "segment"}))
    assert (scored, attended) == (0.0, local_keys(SMALL)[1])


def test_a_token_more_by_hand() -> None:
    select = RecallConfig(segments=4, blocks=4)
    near = sum(local_keys(DEFAULT))
    G = 131_072 // 502
    gates, flat = (decoding(SMOL, DEFAULT, mode, 131_072, select) for mode in ("hierarchical", "flat"))
    assert gates.keys == pytest.approx(near + G + 4 * 8 + 4 * 62.75)
    assert flat.keys == pytest.approx(near + G * 8 + 4 * 62.75)
    assert gates.flops < flat.flops < full(SMOL, 131_072).flops / 30
    assert gates.bytes < flat.bytes < full(SMOL, 131_072).bytes


def test_no_more_is_read_than_there_is() -> None:
    select = RecallConfig(segments=99, blocks=99)
    one = decoding(TINY, SMALL, "hierarchical", 30, select)
    assert one.keys == pytest.approx(sum(local_keys(SMALL)) + 1 + 4 + 26)
    assert decoding(TINY, SMALL, "hierarchical", 7, select).keys == pytest.approx(sum(local_keys(SMALL)))


@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
def test_what_is_counted_is_what_the_formula_says(mode) -> None:
    model, counts = tiny_model(), Counts()
    length = 8 * SMALL.segment_capacity
    select = RecallConfig(segments=2, blocks=3, threshold=0.0)
    model.nll([i * 37 % 256 for i in range(length)], mode=mode, recall=select, counts=counts)
    found = measured(TINY, SMALL, counts.get(), length)
    wanted = stream(TINY, SMALL, mode, length, select)
    # landmarks, gates and sinks ask too: 32 positions for 26 tokens; blocks hold six or seven tokens
    near = sum(local_keys(SMALL))
    assert (wanted - near) * 32 / 26 == pytest.approx(found.keys - near, rel=0.08)
    assert found.flops > 0 and found.bytes > 0
