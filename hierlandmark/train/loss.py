"""Next-token loss on the marked tokens of a batch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hierlandmark.config import Mode
from hierlandmark.model.core import LandmarkCore
from hierlandmark.train.episodes import NO_LABEL, Batch


def batch_loss(core: LandmarkCore, batch: Batch, mode: Mode) -> tuple[Tensor, dict[str, float]]:
    """Weighted mean of the cross-entropy, and the means over heavy (answer) and light (text) tokens for the log.

    Logits are made only where a label stands: the vocabulary is most of a small model's work.
    """
    device = core.rows.device
    ids, labels, weights = (torch.from_numpy(x).to(device, non_blocking=True) for x in (batch.ids, batch.labels, batch.weights))
    hidden = core.hidden_dense(ids, batch.layout, mode)
    chosen = labels != NO_LABEL
    logits = core.logits(hidden[chosen])
    each = F.cross_entropy(logits, labels[chosen], reduction="none")
    weight = weights[chosen]
    loss = (each * weight).sum() / weight.sum().clamp_min(1.0)
    with torch.no_grad():
        heavy = weight >= 0.5
        right = (logits.argmax(-1) == labels[chosen])[heavy].float().mean()
        parts = {"answers": each[heavy].mean(), "text": each[~heavy].mean(), "right": right}
    return loss, {name: float(value) for name, value in parts.items() if value == value}
