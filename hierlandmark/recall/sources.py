"""What a recall looks into, and what it notes while it does."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hierlandmark.results import Cost
from hierlandmark.store.protocol import BlockStore, SegmentRecord


@dataclass
class Tally:
    """Work done so far; see `results.Cost`."""

    gate_keys: int = 0
    landmark_keys: int = 0
    blocks_read: int = 0
    bytes_read: int = 0

    def add(self, other: "Tally") -> None:
        """As much work again as another counted."""
        self.gate_keys += other.gate_keys
        self.landmark_keys += other.landmark_keys
        self.blocks_read += other.blocks_read
        self.bytes_read += other.bytes_read

    def cost(self, ms: float) -> Cost:
        """As a result."""
        return Cost(
            gate_keys=self.gate_keys,
            landmark_keys=self.landmark_keys,
            blocks_read=self.blocks_read,
            bytes_read=self.bytes_read,
            ms=ms,
        )


@dataclass
class Attended:
    """Mass given so far, summed over queries: (L, H, G) to gates and (L, H, G, N) to blocks.

    `layer` is a place among the L layers that are kept.
    """

    gates: Tensor
    blocks: Tensor

    def note(
        self, layer: int, mass: Tensor, weights: Tensor, lse: Tensor, near_lse: Tensor, segments: list[int]
    ) -> None:
        """Add what many tokens gave: (H, T, G) to gates or (H, T, G * N) to landmarks, (H, T, S, N) to the blocks of
        `segments`.
        """
        self._note_mass(layer, mass.sum(1))
        self.blocks[layer][:, segments] += (weights * _share(lse, near_lse)[..., None, None]).sum(1)

    def note_one(
        self, layer: int, mass: Tensor, places: Tensor, weights: Tensor, lse: Tensor, near_lse: Tensor
    ) -> None:
        """Add what one token gave: mass likewise, (H, m) to the blocks at (H, m) places."""
        self._note_mass(layer, mass[:, 0])
        self.blocks[layer].flatten(1).scatter_add_(1, places, weights * _share(lse, near_lse))

    def note_kept(
        self, layer: int, segments: Tensor, places: Tensor, weights: Tensor, lse: Tensor, near_lse: Tensor
    ) -> None:
        """Add what one token gave to blocks that another chose, (H, m) each: no other gate was looked at."""
        mass = weights * _share(lse, near_lse)
        self.gates[layer].scatter_add_(1, segments, mass)
        self.blocks[layer].flatten(1).scatter_add_(1, places, mass)

    def _note_mass(self, layer: int, mass: Tensor) -> None:
        # that of a segment is its landmarks' together
        gates = self.gates[layer]
        gates += mass if mass.shape == gates.shape else mass.view(*gates.shape, -1).sum(-1)


def _share(lse: Tensor, near_lse: Tensor) -> Tensor:
    """Of a token's attention, what goes to the past: (H, T)."""
    return (lse - torch.logaddexp(lse, near_lse)).exp()


@dataclass
class Source:
    """Segments of one store that a query may look into, in text order."""

    store: BlockStore
    records: list[SegmentRecord]
    gates: np.ndarray  # (G, L + S, H_kv, D), as the store gives them
    # a window of the answer itself: what is read of it was never fetched from the database
    scratch: bool = False
