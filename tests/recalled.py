"""What a recall reads, written out one head and one token at a time: the same choice and the same three softmaxes."""

import math

import numpy as np
import torch

from hierlandmark.config import RecallConfig
from hierlandmark.layout import content_mask, gate_position, landmark_positions
from hierlandmark.messages import Message
from hierlandmark.ops.rope import rotate
from hierlandmark.recall import Source
from hierlandmark.store import InMemoryStore, MessageRun

GRANULARITIES = ("head_token", "head", "token", "shared")
MODES = ("hierarchical", "flat")
H, T, D, LAYER, SCALE = 4, 5, 8, 1, 8**-0.5
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def six_segments(model):
    """Some of them short."""
    rng, made = np.random.default_rng(0), InMemoryStore(model.kv_spec)
    capacity = model.layout.segment_capacity
    for i, n in enumerate((capacity, 9, capacity, 3, 17, capacity)):
        segments = model.encode(rng.integers(0, 256, n).astype(np.int32), [MessageRun(i, n)])
        made.append("n", [Message(id=i, content="x")], segments)
    return made


def recalling(model, store, **options):
    config = RecallConfig(**{"threshold": 0.0, **options})
    return model.recall([Source(store, store.segments("n"), store.gate_keys("n")[1])], config)


def questions(seed=0, tokens=T):
    generator = torch.Generator().manual_seed(seed)
    # far from even, so that choosing matters
    return 2 * torch.randn(H, tokens, D, generator=generator), torch.randn(H, tokens, generator=generator)


def softmax(values):
    most = max(values)
    parts = [math.exp(v - most) for v in values]
    return [p / sum(parts) for p in parts]


def lse(values):
    return max(values) + math.log(sum(math.exp(v - max(values)) for v in values)) if values else -math.inf


class Reference:
    """Logits of gates, landmarks and content for one layer, and the choice among them."""

    def __init__(self, model, store, q, near, config):
        self.config, self.near = config, near.tolist()
        rope, layout = model.core.rope, model.layout
        group = H // model.kv_spec.kv_heads
        self.gates, self.landmarks, self.content, self.values = {}, {}, {}, {}
        _, raw = store.gate_keys("n")
        for s, record in enumerate(store.segments("n")):
            counts = record.block_content
            (marks,) = store.landmark_keys([record.id])
            ids = [record.id * layout.blocks_per_segment + b for b in range(len(counts))]
            kv = torch.from_numpy(store.read_blocks(LAYER, ids))
            mask = content_mask(counts, layout)

            def turned(keys, where):
                return rotate(keys.float(), torch.as_tensor(where), rope.inv_freq[LAYER], rope.scaling[LAYER])

            gate = turned(torch.from_numpy(raw[s, LAYER])[:, None], [gate_position(counts, layout)])
            mark = turned(torch.from_numpy(marks[:, LAYER]).transpose(0, 1), landmark_positions(counts, layout))
            for h in range(H):
                for t in range(q.shape[1]):
                    ask = q[h, t]
                    self.gates[h, t, s] = float(ask @ gate[h // group, 0]) * SCALE
                    for b in range(len(counts)):
                        self.landmarks[h, t, s, b] = float(ask @ mark[h // group, b]) * SCALE
                        where = b * layout.block_size + np.arange(layout.block_size)
                        keys = turned(kv[b, 0, h // group], where)[mask[b]]
                        self.content[h, t, s, b] = (keys @ ask * SCALE).tolist()
                        self.values[h, s, b] = kv[b, 1, h // group][mask[b]]
        self.G = len(raw)
        self.places = sorted({(s, b) for _, _, s, b in self.landmarks})

    def together(self, h, t):
        """Who shares a choice with this head and token."""
        heads = range(H) if self.config.granularity in ("token", "shared") else [h]
        tokens = range(len(self.near[0])) if self.config.granularity in ("head", "shared") else [t]
        return [(g, u) for g in heads for u in tokens if self.active(g, u)]

    def first(self, h, t):
        """Logits of what stands beside the local window: gates, or every landmark."""
        if self.config.mode == "flat":
            return {place: self.landmarks[h, t, *place] for place in self.places}
        return {s: self.gates[h, t, s] for s in range(self.G)}

    def mass(self, h, t):
        logits = self.first(h, t)
        total = lse([*logits.values(), self.near[h][t]])
        return {at: math.exp(a - total) for at, a in logits.items()}

    def active(self, h, t):
        return sum(self.mass(h, t).values()) > self.config.threshold

    def best(self, h, t, k, masses):
        """The k of greatest mass, given by any who chooses together."""
        shared = {}
        for g, u in self.together(h, t):
            for at, value in masses(g, u).items():
                shared[at] = max(shared.get(at, 0.0), value)
        return sorted(shared, key=lambda at: -shared[at])[:k]

    def weighed(self, h, t):
        """Mass of the blocks in opened segments: P0 times P1."""
        mass, out = self.mass(h, t), {}
        for s in self.best(h, t, self.config.segments, self.mass):
            blocks = [b for r, b in self.places if r == s]
            for b, p1 in zip(blocks, softmax([self.landmarks[h, t, s, b] for b in blocks]), strict=True):
                out[s, b] = mass[s] * p1
        return out

    def chosen(self, h, t):
        """Blocks as (segment, block)."""
        if not self.active(h, t):
            return []
        return self.best(h, t, self.config.blocks, self.mass if self.config.mode == "flat" else self.weighed)

    def weights(self, h, t, chosen):
        """Of these blocks, and the log-sum-exp that they are a softmax of."""
        if not chosen:
            return {}, -math.inf
        if self.config.mode == "flat":
            weights = dict(zip(chosen, softmax([self.landmarks[h, t, *at] for at in chosen]), strict=True))
            total = lse([self.landmarks[h, t, *at] for at in chosen])
        else:
            opened = sorted({s for s, _ in chosen})
            weights, total = {}, lse([self.gates[h, t, s] for s in opened])
            for s, p0 in zip(opened, softmax([self.gates[h, t, s] for s in opened]), strict=True):
                blocks = [b for r, b in chosen if r == s]
                for b, p1 in zip(blocks, softmax([self.landmarks[h, t, s, b] for b in blocks]), strict=True):
                    weights[s, b] = p0 * p1
        return weights, total

    def read(self, h, t, chosen=None):
        """Output (D,) and log-sum-exp; of what it chooses itself, or of these blocks."""
        weights, total = self.weights(h, t, self.chosen(h, t) if chosen is None else chosen)
        out = torch.zeros(D)
        for (s, b), weight in weights.items():
            out += weight * (torch.tensor(softmax(self.content[h, t, s, b])) @ self.values[h, s, b])
        return out, total
