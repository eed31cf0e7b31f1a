"""Next-token loss on the marked tokens of a batch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hierlandmark.config import Mode, RecallConfig
from hierlandmark.model.core import LandmarkCore
from hierlandmark.model.dense import PlainAttention, Probe
from hierlandmark.model.gates import GateProbe, GateQueue
from hierlandmark.train.episodes import NO_LABEL, TOLD, Batch


def batch_loss(
    core: LandmarkCore,
    batch: Batch,
    mode: Mode,
    heads: dict[int, list[int]] | None,
    votes_weight: float,
    *,
    gates_weight: float = 0.0,
    queue: GateQueue | None = None,
    select: RecallConfig | None = None,
    plain: PlainAttention | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Weighted mean of the cross-entropy, plus the losses of votes and gates, and their parts for the log.

    The votes' loss is the negative log of the mass that the retrieval heads, at the token that asks and at one in the
    answer, put on the blocks that hold the answer: by gates and landmarks, and by landmarks alone; each head by itself,
    and all together. That of the gates is how far their mass is from that of the landmarks, on the queries that the
    batch has watched, in all memory layers and heads (`GateProbe`), among as many segments of `queue` as it says.

    With `select`, segments attend only to what they select, while votes and gates are taken on everything; with
    `plain`, the batch is one of `train.variants.without_landmarks`.

    Logits are made only where a label stands: the vocabulary is most of a small model's work.
    """
    device = core.rows.device
    ids, labels, weights = (
        torch.from_numpy(x).to(device, non_blocking=True) for x in (batch.ids, batch.labels, batch.weights)
    )
    probe = None
    if heads and len(batch.asked):
        asked, targets = torch.from_numpy(batch.asked).to(device), torch.from_numpy(batch.targets).to(device)
        probe = Probe(heads, asked[:, 0], asked[:, 1], targets)
    gates = None
    if gates_weight and batch.watched is not None and batch.evidence is not None and len(batch.watched):
        gates = GateProbe.of(batch.layout, batch.watched, batch.evidence, device, queue, batch.queued)
    if plain is not None:
        hidden = core.hidden_plain(ids.flatten(1), plain.window).view(*ids.shape, -1)
    else:
        hidden = core.hidden_dense(
            ids, batch.layout, mode, probe=probe, positions=batch.positions, cached=batch.cached, select=select,
            recency=batch.recency, gates=gates,
        )  # fmt: skip
        # (B, S - cached, P, hidden)
        labels, weights = labels[:, batch.cached :], weights[:, batch.cached :]
    chosen = labels != NO_LABEL
    logits = core.logits(hidden[chosen])
    each = F.cross_entropy(logits, labels[chosen], reduction="none")
    weight = weights[chosen]
    loss = (each * weight).sum() / weight.sum().clamp_min(1.0)
    votes = loss.new_zeros(())
    share = loss.new_zeros(2)
    if probe is not None:
        found = torch.cat(probe.found, dim=-1)  # (2, n, heads)
        together = found.mean(-1)
        votes = -(found.clamp_min(1e-6).log().mean() + together.clamp_min(1e-6).log().mean()) / 2
        share = together.detach().mean(1)
        linked = torch.zeros(0) if batch.linked is None else together.detach()[1, torch.from_numpy(batch.linked)]
        loss = loss + votes_weight * votes
    if gates is not None:
        watched = torch.stack(gates.found).mean(0)
        loss = loss + gates_weight * watched[0]
    with torch.no_grad():
        hit = (logits.argmax(-1) == labels[chosen]).float()
        fact, passage, text = weight >= 2, (weight >= TOLD) & (weight < 2), weight < TOLD
        parts = {"facts": each[fact].mean(), "passages": each[passage].mean(), "text": each[text].mean()}
        parts |= {"right": hit[fact].mean(), "right_passages": hit[passage].mean()}
        if probe is not None:
            parts |= {"votes": votes.detach(), "votes_gates": share[0], "votes_flat": share[1]}
            parts["votes_linked"] = linked.mean()
        if gates is not None:
            parts |= dict(zip(("gates", "gate_mass", "landmark_mass"), watched.detach(), strict=True))
    return loss, {name: float(value) for name, value in parts.items() if value == value}
