"""The dense form: a batch of texts on the grid, every block attended. Training, encoding and perplexity use it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hierlandmark.config import Mode
from hierlandmark.layout import Layout
from hierlandmark.model.binding import Rope
from hierlandmark.ops import Impl, landmark_attention
from hierlandmark.ops.rope import rotate


@dataclass
class DenseAttention:
    """Landmark attention over a layout; recalled blocks stand one segment before the query's own (stingy positions)."""

    layout: Layout
    rope: Rope
    mode: Mode = "hierarchical"
    impl: Impl | None = None

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """See `Attend.attend`; T covers the whole layout."""
        q_far = None
        if self.layout.reads.any():
            # R(p + size) q = R(size) R(p) q: rotate what is rotated already by one segment more
            offset = torch.tensor([self.layout.config.segment_size], device=q.device)
            q_far = rotate(q, offset, self.rope.inv_freq[layer])
        return landmark_attention(q, k, v, self.layout, mode=self.mode, scale=scale, q_far=q_far, impl=self.impl)
