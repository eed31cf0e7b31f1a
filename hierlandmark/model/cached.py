"""The dense form in two passes: keys and values of the first segments are made once, and what follows reads them."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import pad

from hierlandmark.model.binding import Attend


@dataclass
class KeptKeys:
    """Attends as `inner` does, and keeps each layer's keys and values."""

    inner: Attend
    # layer -> keys and values (B, H_kv, T, D)
    taken: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """See `Attend.attend`."""
        self.taken[layer] = k, v
        return self.inner.attend(layer, q, k, v, scale)


@dataclass
class BehindKept:
    """Attends to kept keys and values and to new ones behind them; `inner` is laid out for both together."""

    inner: Attend
    kept: dict[int, tuple[Tensor, Tensor]]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """See `Attend.attend`; T covers what is new."""
        past_k, past_v = self.kept.pop(layer)
        past = past_k.shape[2]
        # what is kept asks nothing more: its queries are zeros, and what they would read is dropped
        q = pad(q, (0, 0, past, 0))
        out = self.inner.attend(layer, q, torch.cat((past_k, k), 2), torch.cat((past_v, v), 2), scale)
        return out[:, :, past:]
