"""Which segments a query opens and which blocks it reads. Tensors in, masks out.

H query heads, T query positions, G segments, N candidate blocks; any axes before H are texts apart from each other.
"""

import torch
from torch import Tensor

from hierlandmark.config import Granularity, WeighBy

NEG = float("-inf")
# of those who choose together, the axes: heads are third from the end, tokens second
_TOGETHER = {"head_token": (), "head": (-2,), "token": (-3,), "shared": (-3, -2)}
# finite, so that a row without any choice has a gradient of 0 and not NaN
MASKED = -1e30


def top(mass: Tensor, k: int, granularity: Granularity, active: Tensor) -> Tensor:
    """The k candidates of greatest mass, by each head and token, each head, each token (the paper's Table 2), or all.

    Args:
        mass: (..., H, T, N), not negative; a candidate of mass 0 is never chosen.
        active: (..., H, T) bool, which heads and tokens recall at all.

    Returns:
        (..., H, T, N) bool, False where not active. Heads or tokens that choose together take the greatest mass of any.
    """
    best = _best(mass, k, granularity, active)
    shape = (*best.indices.shape[:-1], mass.shape[-1])
    chosen = torch.zeros(shape, dtype=torch.bool, device=mass.device).scatter_(-1, best.indices, best.values > 0)
    return chosen & active.unsqueeze(-1)


def top_places(mass: Tensor, k: int, granularity: Granularity, active: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same as places: (..., H, T, min(k, N)) int64, the same for all who choose together, and which are chosen.

    Where all are active, None saves a pass over the mass.
    """
    best = _best(mass, k, granularity, active)
    shape = (*mass.shape[:-1], best.indices.shape[-1])
    chosen = (best.values > 0).expand(shape)
    return best.indices.expand(shape), chosen if active is None else chosen & active.unsqueeze(-1)


def _best(mass: Tensor, k: int, granularity: Granularity, active: Tensor | None) -> torch.return_types.topk:
    """Axes of those who choose together are of length 1."""
    shared = mass if active is None else mass * active.unsqueeze(-1)
    if axes := _TOGETHER[granularity]:
        shared = shared.amax(axes, keepdim=True)
    return shared.topk(min(k, shared.shape[-1]), dim=-1)


def gate_mass(gate_logits: Tensor, near_lse: Tensor) -> Tensor:
    """P0 mass on each gate, beside the local window: (H, T, G) logits, (H, T) log-sum-exp -> (H, T, G)."""
    return torch.cat((gate_logits, near_lse.unsqueeze(-1)), dim=-1).softmax(-1)[..., :-1]


def opened_weights(mass: Tensor, landmark_logits: Tensor, weigh_by: WeighBy) -> Tensor:
    """By what blocks of opened segments are ranked: (H, T, G, N), not negative.

    Args:
        mass: (H, T, G) of each gate, 0 where a segment is not opened.
        landmark_logits: (H, T, G, N), very small where a segment is not opened or has no such block.
    """
    if weigh_by == "landmarks":
        return landmark_logits.flatten(-2).softmax(-1).view_as(landmark_logits)
    return mass.unsqueeze(-1) * landmark_logits.softmax(-1)


def block_weights(gate_logits: Tensor, landmark_logits: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the chosen blocks among themselves: softmax over their gates times softmax over their landmarks.

    Args:
        gate_logits: (H, T, G).
        landmark_logits: (H, T, G, N), -inf or very small where a segment has no such block.
        chosen: (H, T, G, N) bool.

    Returns:
        Weights (H, T, G, N) that sum to 1 where anything was chosen and are 0 elsewhere, and the log-sum-exp (H, T) of
        the gates that have a chosen block, -inf where there is none.
    """
    opened = chosen.any(-1)
    gates = gate_logits.where(opened, MASKED)
    p0 = gates.softmax(-1) * opened
    # of a segment without a chosen block it is anything, and p0 is 0
    p1 = landmark_logits.where(chosen, MASKED).softmax(-1)
    lse = gates.logsumexp(-1).where(opened.any(-1), NEG)
    return p0.unsqueeze(-1) * p1, lse


def flat_weights(landmark_logits: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The same for flat mode, one softmax over the chosen landmarks: (H, T, N) both -> (H, T, N), (H, T)."""
    logits = landmark_logits.where(chosen, MASKED)
    lse = logits.logsumexp(-1).where(chosen.any(-1), NEG)
    return logits.softmax(-1) * chosen, lse
