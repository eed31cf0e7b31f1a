"""Which segments a query opens and which blocks it reads. Tensors in, masks out.

H query heads, T query positions, G segments, N candidate blocks.
"""

import torch
from torch import Tensor

from hierlandmark.config import Granularity


def top(mass: Tensor, k: int, granularity: Granularity, active: Tensor) -> Tensor:
    """The k candidates of greatest mass, chosen by each head and token, each head, or each token (the paper's Table 2).

    Args:
        mass: (H, T, N), not negative; a candidate of mass 0 is never chosen.
        active: (H, T) bool, which heads and tokens recall at all.

    Returns:
        (H, T, N) bool, False where not active. Heads or tokens that choose together take the greatest mass of any.
    """
    shared = mass * active.unsqueeze(-1)
    if granularity == "head":
        shared = shared.amax(1, keepdim=True)
    elif granularity == "token":
        shared = shared.amax(0, keepdim=True)
    best = shared.topk(min(k, shared.shape[-1]), dim=-1)
    chosen = torch.zeros_like(shared, dtype=torch.bool).scatter_(-1, best.indices, best.values > 0)
    return chosen & active.unsqueeze(-1)


def gate_mass(gate_logits: Tensor, near_lse: Tensor) -> Tensor:
    """P0 mass on each gate, beside the local window: (H, T, G) logits, (H, T) log-sum-exp -> (H, T, G)."""
    total = torch.logaddexp(near_lse, gate_logits.logsumexp(-1))
    return (gate_logits - total.unsqueeze(-1)).exp()


def block_weights(gate_logits: Tensor, landmark_logits: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the chosen blocks among themselves: softmax over their gates times softmax over their landmarks.

    Args:
        gate_logits: (H, T, G).
        landmark_logits: (H, T, G, N), -inf where a segment has no such block.
        chosen: (H, T, G, N) bool.

    Returns:
        Weights (H, T, G, N) that sum to 1 where anything was chosen and are 0 elsewhere, and the log-sum-exp (H, T) of
        the gates that have a chosen block, -inf where there is none.
    """
    opened = chosen.any(-1)
    gates = gate_logits.masked_fill(~opened, float("-inf"))
    lse = gates.logsumexp(-1)
    p0 = (gates - lse.unsqueeze(-1)).exp().nan_to_num(0.0)
    p1 = landmark_logits.masked_fill(~chosen, float("-inf")).softmax(-1).nan_to_num(0.0)
    return p0.unsqueeze(-1) * p1, lse


def flat_weights(landmark_logits: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The same for flat mode, one softmax over the chosen landmarks: (H, T, N) both -> (H, T, N), (H, T)."""
    logits = landmark_logits.masked_fill(~chosen, float("-inf"))
    lse = logits.logsumexp(-1)
    return (logits - lse.unsqueeze(-1)).exp().nan_to_num(0.0), lse
