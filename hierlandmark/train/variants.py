"""What a step may do other than attend to every block: select in the loop, or train a peer under plain attention."""

from dataclasses import replace
from typing import Any

import numpy as np

from hierlandmark.config import LayoutConfig, RecallConfig
from hierlandmark.layout import Kind, Layout
from hierlandmark.train.config import TrainConfig
from hierlandmark.train.episodes import NO_LABEL, Batch


def selection_at(config: TrainConfig, step: int) -> RecallConfig | None:
    """What the segments of a step select, in `select_share` of all steps; it depends on the seed and the step only."""
    if config.attention != "landmark" or np.random.default_rng((config.seed, step, 1)).random() >= config.select_share:
        return None
    return RecallConfig(
        segments=config.select_segments,
        blocks=config.select_blocks,
        threshold=config.select_threshold,
        weigh_by=config.select_weigh_by,
    )


def without_landmarks(batch: Batch) -> Batch:
    """The same text, labels and weights as plain tokens in a row: one block a text, padding at its end."""
    content = batch.layout.kinds == Kind.CONTENT
    counts = content.sum((1, 2))
    T = max(4, int(counts.max()))
    ids, labels = np.zeros((len(counts), 1, T), np.int64), np.full((len(counts), 1, T), NO_LABEL, np.int64)
    weights = np.zeros(ids.shape, np.float32)
    kinds = np.full(ids.shape, Kind.PAD, np.int8)
    for b, n in enumerate(counts):
        for out, given in ((ids, batch.ids), (labels, batch.labels), (weights, batch.weights)):
            out[b, 0, :n] = given[b][content[b]]
        kinds[b, 0, :n] = Kind.CONTENT
    # a grid of one block without any mark: shapes and positions as everywhere, and nothing to look back to
    config = LayoutConfig(block_size=T, blocks_per_segment=1, sink=False)
    layout = Layout(config, kinds, np.zeros((len(counts), 1, 1), dtype=bool))
    none: dict[str, Any] = {"positions": None, "cached": 0, "asked": batch.asked[:0], "targets": batch.targets[:0]}
    none |= {"linked": None, "watched": None, "evidence": None}
    return replace(batch, ids=ids, layout=layout, labels=labels, weights=weights, **none)
