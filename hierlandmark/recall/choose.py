"""Which blocks queries read and how much each weighs, from logits of gates and landmarks.

Shapes as in `recall.view`: H heads, T query positions, G segments, N blocks a segment; S of the segments are opened,
m blocks are read. Logits of blocks that are not there are -inf. None is returned where no head and token reads.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from hierlandmark.config import RecallConfig
from hierlandmark.select import MASKED, block_weights, flat_weights, gate_mass, opened_weights, top, top_places


class Picked(NamedTuple):
    """Few blocks of each head and token."""

    places: Tensor  # (H, T, m), a segment's times N plus the block's own in it
    weights: Tensor  # (H, T, m), 0 where a head and token reads fewer
    lse: Tensor  # (H, T), log-sum-exp of what the weights are a softmax of
    mass: Tensor  # (H, T, G) of each gate, or (H, T, G * N) of each landmark


class Spread(NamedTuple):
    """The same over all blocks of some segments."""

    segments: list[int]
    weights: Tensor  # (H, T, S, N)
    lse: Tensor
    mass: Tensor


def pick_flat(config: RecallConfig, landmarks: Tensor, near_lse: Tensor) -> Picked | None:
    """The best of all blocks, whose landmarks' logits are (H, T, G * N)."""
    mass, active = _heard(config, landmarks, near_lse)
    if not bool(active.any()):
        return None
    places, picked = top_places(mass, config.blocks, config.granularity, active)
    weights, lse = flat_weights(landmarks.gather(-1, places), picked)
    return Picked(places, weights, lse, mass)


def pick_apart(
    config: RecallConfig, gates: Tensor, near_lse: Tensor, score: Callable[[Tensor, Tensor | None], Tensor]
) -> Picked | None:
    """The best blocks in the best segments, where each head and token looks into its own only.

    Args:
        gates: logits (H, T, G).
        score: for segments (H, T, S), and which of them this head and token opened, None for all, logits of landmarks
            (H, T, S, N).
    """
    mass, heard = _heard(config, gates, near_lse)
    # nearly always
    active = None if bool(heard.all()) else heard
    if active is not None and not bool(active.any()):
        return None
    opened, opens = top_places(mass, config.segments, config.granularity, active)
    # all of them but in short memories, or where a head is not heard
    taken = None if bool(opens.all()) else opens
    if taken is not None:
        # in place of those that nobody opens, whose landmarks may not be there
        opened = opened.where(taken, opened[taken][0])
    logits = score(opened, taken)
    N = logits.shape[-1]
    share = mass.gather(-1, opened)
    share = share if taken is None else share * taken
    alone = config.weigh_by == "landmarks"
    if alone and taken is not None:
        logits = logits.masked_fill(~taken.unsqueeze(-1), MASKED)
    weight = opened_weights(share, logits, config.weigh_by).flatten(2)
    picks, picked = top_places(weight, config.blocks, config.granularity, active)
    which = picks // N
    picked = picked if taken is None else picked & taken.gather(-1, which)
    places = opened.gather(-1, which) * N + picks % N
    if alone:
        weights, lse = flat_weights(logits.flatten(2).gather(-1, picks), picked)
        return Picked(places, weights, lse, mass)
    chosen = torch.zeros_like(weight, dtype=torch.bool).scatter_(-1, picks, picked).view_as(logits)
    weights, lse = block_weights(gates.gather(-1, opened), logits, chosen)
    return Picked(places, weights.flatten(2).gather(-1, picks), lse, mass)


def pick_together(
    config: RecallConfig, gates: Tensor, near_lse: Tensor, score: Callable[[list[int]], Tensor]
) -> Spread | None:
    """The same, where all look into whatever any opened: `score` gives (H, T, S, N) for S segments."""
    mass, active = _heard(config, gates, near_lse)
    if not bool(active.any()):
        return None
    opened = top(mass, config.segments, config.granularity, active)
    segments = opened.any(0).any(0).nonzero().flatten().tolist()
    logits = score(segments)
    open_here = opened[:, :, segments]
    alone = config.weigh_by == "landmarks"
    if alone:
        logits = logits.masked_fill(~open_here.unsqueeze(-1), MASKED)
    weight = opened_weights(mass[:, :, segments] * open_here, logits, config.weigh_by)
    picked = top(weight.flatten(2), config.blocks, config.granularity, active).view_as(weight)
    picked = picked & open_here.unsqueeze(-1)
    if alone:
        weights, lse = flat_weights(logits.flatten(2), picked.flatten(2))
        return Spread(segments, weights.view_as(logits), lse, mass)
    weights, lse = block_weights(gates[:, :, segments], logits, picked)
    return Spread(segments, weights, lse, mass)


def spread(picked: Picked, blocks_per_segment: int) -> Spread:
    """Of flat mode, over the segments that anything is read of."""
    weights = torch.zeros_like(picked.mass).scatter_(-1, picked.places, picked.weights)
    weights = weights.unflatten(-1, (-1, blocks_per_segment))
    segments = (weights > 0).any(-1).flatten(0, 1).any(0).nonzero().flatten().tolist()
    return Spread(segments, weights[:, :, segments], picked.lse, picked.mass)


def _heard(config: RecallConfig, logits: Tensor, near_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Mass beside the local window, and which heads and tokens give enough of it to read: (H, T)."""
    mass = gate_mass(logits, near_lse)
    return mass, mass.sum(-1) > config.threshold
