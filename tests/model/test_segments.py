"""The fast forward that encodes segments is landmark attention: full, partial and mixed batches."""

import pytest
import torch

from hierlandmark.config import LayoutConfig
from hierlandmark.layout import Kind, Layout
from hierlandmark.ops import landmark_attention
from hierlandmark.ops.segments import segment_attention

CONFIGS = {
    "4x8": LayoutConfig(block_size=8, blocks_per_segment=4),
    "4x8-no-sink": LayoutConfig(block_size=8, blocks_per_segment=4, sink=False),
    "1x8": LayoutConfig(block_size=8, blocks_per_segment=1),
    "4x8-plain": LayoutConfig(block_size=8, blocks_per_segment=4, local_window="segment"),
    "2x5-plain-no-sink": LayoutConfig(block_size=5, blocks_per_segment=2, sink=False, local_window="segment"),
    "2x5": LayoutConfig(block_size=5, blocks_per_segment=2),
}


def batches(config):
    capacity, block = config.segment_capacity, config.block_size
    some = [1, 2, block - 2, block - 1, block, capacity - 1, capacity]
    return {
        "full": [capacity, capacity],
        "partial": [max(1, capacity // 2)] * 2,
        "mixed": sorted({n for n in some if 1 <= n <= capacity}, reverse=True),
        **{f"one-{n}": [n] for n in range(1, capacity + 1)},
    }


@pytest.mark.parametrize("heads", [(4, 2), (3, 3), (4, 1)], ids=["H4-2", "H3-3", "H4-1"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_fast_forward_is_landmark_attention(config, heads):
    made = torch.Generator().manual_seed(0)
    for name, lengths in batches(config).items():
        layout = Layout.of([[n] for n in lengths], config)
        B, P = len(lengths), config.segment_size
        q = torch.randn(B, heads[0], P, 8, generator=made)
        k, v = (torch.randn(B, heads[1], P, 8, generator=made) for _ in range(2))
        wanted = landmark_attention(q, k, v, layout, impl="reference", scale=0.5)
        found = segment_attention(q, k, v, layout, scale=0.5)
        # what stands at padding is nobody's business
        real = torch.from_numpy(layout.kinds[:, 0] != Kind.PAD)[:, None, :, None]
        torch.testing.assert_close(
            found.masked_fill(~real, 0.0),
            wanted.masked_fill(~real, 0.0),
            rtol=1e-5,
            atol=1e-5,
            msg=name,
        )


def test_several_segments_are_refused():
    config = CONFIGS["4x8"]
    layout = Layout.of([[3, 3]], config)
    q = torch.zeros(1, 2, 2 * config.segment_size, 8)
    with pytest.raises(ValueError, match="one segment"):
        segment_attention(q[:, :, : config.segment_size], q, q, layout, scale=1.0)
