"""What a token of an answer chose to read, kept for the tokens after it: `RecallConfig.stride`.

Shapes as in `recall.view`; m is how many blocks a head reads at most.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from hierlandmark.config import RecallConfig
from hierlandmark.recall.held import Pieces
from hierlandmark.recall.sources import Tally
from hierlandmark.select import MASKED, flat_weights


@dataclass(frozen=True)
class Kept:
    """Blocks that each head chose, and what weighs and reads them for another query."""

    names: Tensor  # (H, m) of pieces
    places: Tensor  # (H, m)
    segments: Tensor  # (H, m)
    used: Tensor | None  # (H, 1, m), None for all
    # (H, m, m) fp32, added to landmarks' logits: 0 where the second is read and of the first's segment, else MASKED;
    # None where landmarks alone weigh
    apart: Tensor | None
    # (H, D, m) fp32 of landmarks, behind as many of their segments' gates unless landmarks alone weigh
    keys: Tensor
    pieces: Pieces
    # of a token that reads them; no byte comes from the store while they are held
    work: Tally

    def weigh(self, q: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Weights (H, 1, m) by another query (H, 1, D), and the log-sum-exp (H, 1); as of a choice of these blocks."""
        logits = q @ self.keys * scale
        if self.apart is not None:
            gates, landmarks = logits.chunk(2, dim=-1)
            # a block's share in its segment, times its gate's: one softmax over the products is that of both levels
            own = (landmarks + self.apart).log_softmax(-1).diagonal(dim1=1, dim2=2)  # (H, m)
            logits = gates + own.unsqueeze(1)
        if self.used is None:
            return logits.softmax(-1), logits.logsumexp(-1)
        return flat_weights(logits, self.used)


def keep(names: Tensor, used: Tensor | None, gates: Tensor | None, landmarks: Tensor, pieces: Pieces) -> Kept:
    """What a token read in one layer.

    Args:
        names: (H, m) of pieces; what is not used has the name of one that is.
        used: (H, m) bool, None for all.
        gates: (H_kv, D, G) fp32, None where landmarks alone weigh.
        landmarks: (H_kv, G, N, D), of the segments that are named.
        pieces: where they are held.
    """
    (H, m), (H_kv, G, N, D) = names.shape, landmarks.shape
    places, groups = names // H_kv, names % H_kv
    segments = places // N
    keys = landmarks.view(-1, D).index_select(0, (groups * (G * N) + places).flatten())
    keys = keys.float().view(H, m, D).transpose(1, 2)
    different = set(names.flatten().tolist())
    work = Tally(landmark_keys=len(different), blocks_read=len({name // H_kv for name in different}))
    among = None if used is None else used.unsqueeze(1)
    if gates is None:
        return Kept(names, places, segments, among, None, keys, pieces, work)
    there = segments.view(H_kv, 1, -1).expand(-1, D, -1)
    opened = gates.gather(2, there).view(H_kv, D, -1, m).transpose(1, 2).reshape(H, D, m)
    same = segments.unsqueeze(2) == segments.unsqueeze(1)
    if among is not None:
        same &= among
    apart = torch.where(same, 0.0, MASKED)
    work.gate_keys = len({(name // H_kv // N, name % H_kv) for name in different})
    keys = torch.cat((opened, keys), dim=-1)
    return Kept(names, places, segments, among, apart, keys, pieces, work)


@dataclass(frozen=True)
class Choice:
    """What a layer chose, for which query and by which rules; no blocks where none was heard."""

    query: object
    config: RecallConfig
    kept: Kept | None


class Strides:
    """When the layers of one text choose anew, and what each reads on until then.

    Layers take turns: at token i, the first that comes by itself being 0, the layer l of those that look into a memory
    chooses where i + l is a multiple of the stride, and where it has nothing to read on. Many tokens at once leave
    nothing.
    """

    def __init__(self) -> None:
        self._tokens: dict[int, int] = {}
        self._choices: dict[int, Choice] = {}

    def drop(self, layer: int) -> None:
        """Many tokens at once."""
        self._tokens.pop(layer, None)
        self._choices.pop(layer, None)

    def next(self, layer: int, query: object, config: RecallConfig) -> Choice | None:
        """What the layer reads on at another token; None where it is to choose, and then nothing is left of before."""
        token = self._tokens.get(layer, -1) + 1
        self._tokens[layer] = token
        last = self._choices.pop(layer, None)
        if last is None or last.query is not query or last.config is not config or (token + layer) % config.stride == 0:
            return None
        self._choices[layer] = last
        return last

    def take(self, layer: int, choice: Choice) -> None:
        """What the layer chose."""
        self._choices[layer] = choice
