"""Training texts: segments to remember, and readers that ask about them.

Memory segments are encoded on their own, as in `encode="segment"`; readers look into all of them. Stream episodes are
plain text in which every segment looks into all earlier ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

import numpy as np

from hierlandmark.config import LayoutConfig
from hierlandmark.layout import Kind, Layout, segment_kinds, split_blocks
from hierlandmark.model.prompts import speaker
from hierlandmark.train import facts
from hierlandmark.train.corpus import Corpus, cut_text, hide
from hierlandmark.train.doings import doing
from hierlandmark.train.facts import Fact
from hierlandmark.train.links import linked_memory, linked_readers
from hierlandmark.train.readers import Placed, make_readers
from hierlandmark.train.ruler import PlacedNeedles, needle_text

NO_LABEL = -100
# share of memories whose facts stand side by side
_TOGETHER = 0.35
# least weight of a token of an answer that its words alone do not tell
TOLD = 0.5


@dataclass(frozen=True)
class Shape:
    """Size of a batch: texts, memory segments, readers behind them. No readers: a stream episode."""

    batch: int
    memory: int
    readers: int


@dataclass(frozen=True, eq=False)
class Batch:
    """What one training step takes. B texts, S segments, P positions."""

    ids: np.ndarray  # (B, S, P) int64
    layout: Layout
    labels: np.ndarray  # (B, S, P) int64, the next content token or NO_LABEL
    weights: np.ndarray  # (B, S, P) fp32
    # queries that look for something known: text, position in the text (n, 2); blocks that hold it (n, M * N) bool
    asked: np.ndarray
    targets: np.ndarray
    # which of them ask for the evidence of a chat: (n,) bool
    linked: np.ndarray | None = None
    # (B, S, P) int64, positions that are not those of the grid (`jumped`)
    positions: np.ndarray | None = None
    # leading segments whose keys and values are made without gradient, as recall finds them
    cached: int = 0
    # of a text read in order: so many segments right before each one stand at their true distance
    recency: int = 0
    # queries whose gates are held to landmarks (`watch`): text, position in the text (n, 2); segments that hold what
    # they look for, none where that is not known (n, S) bool
    watched: np.ndarray | None = None
    evidence: np.ndarray | None = None
    # segments of earlier steps that they read too (`GateQueue`); none in a text read in order, which adds its first one
    queued: int = 0


def build_batch(
    corpus: Corpus,
    config: LayoutConfig,
    shape: Shape,
    rng: np.random.Generator,
    *,
    needles: float = 0.0,
    linked: float = 0.0,
    jump: int = 0,
    cached: bool = False,
    watched: int = 0,
    queue: int = 0,
    recency: int = 0,
) -> Batch:
    """A random batch of one shape.

    Args:
        needles: share of memories that hide RULER's needles, of those that are not linked.
        linked: share of memories that are chats with known evidence (`train.links`), where there are chats.
        jump: the furthest that positions jump ahead behind a landmark.
        cached: memory segments are made without gradient; stream episodes have none.
        watched: most queries whose gates are watched (`watch`).
        queue: most segments of earlier steps that they read too: none, a sixteenth, a quarter or all of so many.
        recency: so many segments right before each one stream episodes have at their true distance; others have none
            there.
    """
    batch = (
        _memory_batch(corpus, config, shape, rng, needles, linked)
        if shape.readers
        else _stream_batch(corpus, config, shape, rng)
    )
    if jump:
        batch = replace(batch, positions=jumped(batch.layout, jump, rng))
    if watched:
        # drawn last: a batch is the same whether it is watched or not; the first who can choose reads two segments
        batch = watch(batch, shape.memory if shape.readers else 2, watched, rng)
        if queue and shape.readers:
            batch = replace(batch, queued=int(rng.choice([0, queue // 16, queue // 4, queue])))
    if not shape.readers:
        return replace(batch, recency=recency)
    return replace(batch, cached=shape.memory) if cached else batch


def watch(batch: Batch, memory: int, most: int, rng: np.random.Generator) -> Batch:
    """Draw queries to watch: half look for something known, half tell an answer; more of one if few of other.

    Args:
        memory: segments before the readers, or before those that are watched of a text read in order.
        most: how many at most.
    """
    B, S, P = batch.weights.shape
    told = batch.weights >= TOLD
    told[:, :memory] = False
    told.reshape(B, -1)[batch.asked[:, 0], batch.asked[:, 1]] = False
    rest = np.argwhere(told.reshape(B, -1))
    first = min(len(batch.asked), max(most - most // 2, most - len(rest)))
    which = rng.permutation(len(batch.asked))[:first]
    rest = rest[rng.permutation(len(rest))[: most - first]]
    evidence = np.zeros((first + len(rest), S), dtype=bool)
    if first:
        evidence[:first, :memory] = batch.targets[which].reshape(first, memory, -1).any(-1)
    return replace(batch, watched=np.concatenate((batch.asked[which], rest)), evidence=evidence)


def jumped(layout: Layout, jump: int, rng: np.random.Generator) -> np.ndarray:
    """Positions that go ahead by 0 to `jump` behind each landmark (Mohtashami & Jaggi 2023, appendix E): (B, S, P).

    Each segment starts at 0 as ever, so that what is read from another one is still told apart by its place in it.
    """
    far = np.where(layout.kinds == Kind.LANDMARK, rng.integers(0, jump + 1, layout.kinds.shape), 0)
    # a landmark stays where its block is: what follows it has jumped
    return np.arange(layout.config.segment_size) + np.cumsum(far, axis=-1) - far


def _memory_batch(
    corpus: Corpus, config: LayoutConfig, shape: Shape, rng: np.random.Generator, needles: float, linked: float
) -> Batch:
    segments = shape.memory + shape.readers
    reads = np.zeros((segments, segments), dtype=bool)
    reads[shape.memory :, : shape.memory] = True
    contents, lengths, marks = [], [], []
    asked_at: list[tuple[int, int]] = []
    targets: list[np.ndarray] = []
    of_links: list[bool] = []
    for b in range(shape.batch):
        links = None
        if linked and corpus.chats and rng.random() < linked:
            links = linked_memory(corpus, _segment_lengths(config, shape.memory, rng), rng)
        if links:
            memory = links.segments
        else:
            memory, asked, passages = make_memory(corpus, config, shape.memory, rng, needles=needles)
            text = np.concatenate(memory) if passages else None
        homes = _homes([len(segment) for segment in memory], config)
        row_tokens, row_lengths, row_weights = [], [], []
        for segment in memory:
            row_tokens.append(segment)
            row_lengths.append(len(segment))
            row_weights.append((rng.random(len(segment)) < 0.1) * 0.25)
        if links:
            readers = linked_readers(corpus, config, shape.readers, links, rng)
        else:
            readers = make_readers(corpus, config, shape.readers, text, asked, rng)
        for r, (tokens, weight, looks) in enumerate(readers):
            row_tokens.append(tokens)
            row_lengths.append(len(tokens))
            row_weights.append(weight)
            places = np.flatnonzero(segment_kinds(split_blocks(len(tokens), config), config) == Kind.CONTENT)
            for at, spans in looks:
                if at < len(tokens):
                    asked_at.append((b, (shape.memory + r) * config.segment_size + int(places[at])))
                    wanted = np.zeros(shape.memory * config.blocks_per_segment, dtype=bool)
                    for first, last in spans:
                        wanted[homes[first:last]] = True
                    targets.append(wanted)
                    of_links.append(links is not None)
        contents.append(row_tokens)
        lengths.append(row_lengths)
        marks.append(row_weights)
    layout = Layout.of(lengths, config, reads=reads)
    batch = _finish(layout, contents, marks, joined=False)
    if not asked_at:
        return batch
    return replace(batch, asked=np.asarray(asked_at), targets=np.stack(targets), linked=np.asarray(of_links))


def _homes(lengths: list[int], config: LayoutConfig) -> np.ndarray:
    """Block of each content token of a text, counted through all segments: (n,)."""
    N = config.blocks_per_segment
    homes = [np.repeat(np.arange(len(c)) + s * N, c) for s, n in enumerate(lengths) for c in [split_blocks(n, config)]]
    return np.concatenate(homes)


def _stream_batch(corpus: Corpus, config: LayoutConfig, shape: Shape, rng: np.random.Generator) -> Batch:
    lengths = [[config.segment_capacity] * shape.memory] * shape.batch
    layout = Layout.of(lengths, config)
    contents, marks = [], []
    for _ in range(shape.batch):
        text = cut_text(corpus, rng, config.segment_capacity * shape.memory)
        contents.append(np.split(text.astype(np.int64), shape.memory))
        marks.append([(rng.random(config.segment_capacity) < 0.35) * 1.0 for _ in range(shape.memory)])
    return _finish(layout, contents, marks, joined=True)


def _finish(layout: Layout, contents: list[list[np.ndarray]], marks: list[list[np.ndarray]], *, joined: bool) -> Batch:
    """Labels: each content token predicts the next one of its segment, or when `joined` of the text."""
    content = layout.kinds == Kind.CONTENT
    ids = layout.place([np.concatenate(row) for row in contents])
    labels = np.full(ids.shape, NO_LABEL, dtype=np.int64)
    weights = np.zeros(ids.shape, dtype=np.float32)
    for b, row in enumerate(contents):
        following, weight = [], []
        for s, tokens in enumerate(row):
            after = row[s + 1][:1] if joined and s + 1 < len(row) else np.array([NO_LABEL])
            following.append(np.concatenate((tokens[1:], after)))
            # the mark of a token says how much its prediction counts, so it moves one place ahead too
            weight.append(np.append(marks[b][s][1:], 0.0 if after[0] == NO_LABEL else 1.0))
        labels[b][content[b]] = np.concatenate(following)
        weights[b][content[b]] = np.concatenate(weight)
    labels[weights == 0] = NO_LABEL
    return Batch(ids, layout, labels, weights, np.zeros((0, 2), dtype=np.int64), np.zeros((0, 0), dtype=bool))


def make_memory(
    corpus: Corpus, config: LayoutConfig, segments: int, rng: np.random.Generator, *, needles: float = 0.0
) -> tuple[list[np.ndarray], Sequence[Placed | PlacedNeedles], bool]:
    """Segments of filler with facts in it, the facts, and whether passages of the filler can be told apart."""
    capacity = config.segment_capacity
    lengths = _segment_lengths(config, segments, rng)
    total = sum(lengths)
    if needles and rng.random() < needles and (made := needle_text(corpus, total, rng)):
        hiding, tasks, told_apart = made
        return np.split(hiding, np.cumsum(lengths)[:-1]), tasks, told_apart
    style = rng.random()
    hidden: list[Fact] = []
    head: list[int] = []
    if style < 0.3:
        hidden = [facts.passkey(rng)]
        head = corpus.tokenize(facts.PASSKEY_HEAD + "\n")
        if rng.random() < 0.3:
            hidden += _facts(rng, int(rng.integers(1, 8)))
    elif style < 0.85:
        hidden = _facts(rng, int(rng.integers(1, 4 + 2 * min(segments, 24))))
    repeated = rng.random() < (0.5 if style < 0.3 else 0.12)
    if repeated:
        unit = corpus.tokenize(" " + facts.PASSKEY_FILLER)
        filler = np.resize(np.asarray(unit), total)
    else:
        parts, left = [], total
        while left > 0:
            size = min(left, int(rng.integers(capacity // 2, 8 * capacity)))
            parts.append(cut_text(corpus, rng, size))
            left -= size
        filler = np.concatenate(parts)
    items = _statements(corpus, hidden, _said_in(rng, repeated=repeated))
    room = total - len(head) - sum(len(tokens) for _, tokens, _ in items)
    while room < 1 and items:
        # an older value goes with the fact that replaces it
        gone = hidden.pop()
        items = [item for item in items if item[0] is not gone]
        room = total - len(head) - sum(len(tokens) for _, tokens, _ in items)
    if room < 1:
        # a memory too small for the passkey's opening
        head, room = [], total
    order_of = rng.permutation(len(items))
    order = _in_time([items[i] for i in order_of])
    # what people tell in a row lies in one block, and is told apart there
    together = int(rng.integers(2, 13)) if rng.random() < _TOGETHER else 1
    text, spans = hide(corpus, head, filler[:room], [statement for _, statement, _ in order], rng, together=together)
    # an older statement is told over by the newer one behind it
    said = {fact.question: Placed(fact, span) for (fact, _, _), span in zip(order, spans, strict=True)}
    return np.split(text, np.cumsum(lengths)[:-1]), list(said.values()), not repeated


def _segment_lengths(config: LayoutConfig, segments: int, rng: np.random.Generator) -> list[int]:
    """Content tokens of each segment: full ones, or with the open tail of a memory and those that forgetting left."""
    capacity = config.segment_capacity
    lengths = [capacity] * segments
    if rng.random() < 0.5:
        least = min(8, capacity)
        lengths[-1] = int(rng.integers(least, capacity + 1))
        if rng.random() < 0.3:
            lengths[rng.integers(0, segments)] = int(rng.integers(least, capacity + 1))
    return lengths


# a fact, the tokens that state it, and whether they state its older value
Item = tuple[Fact, np.ndarray, bool]


def _said_in(rng: np.random.Generator, *, repeated: bool) -> str:
    """How a memory's facts are said: within a text, on lines of their own, or as messages."""
    if repeated or rng.random() < 0.4:
        return "\n{}\n"
    if rng.random() < 0.6:
        return " {}"
    day = date(2012, 1, 1) + timedelta(days=int(rng.integers(0, 6000)))
    return f"\n\n{speaker('user', day.isoformat() if rng.random() < 0.7 else None)} {{}}\n\n"


def _statements(corpus: Corpus, hidden: list[Fact], form: str) -> list[Item]:
    """Tokens of what is said about each fact, in that form."""
    return [
        (fact, np.asarray(corpus.tokenize(form.format(said))), older)
        for fact in hidden
        for said, older in ((fact.older, True), (fact.statement, False))
        if said is not None
    ]


def _in_time(items: list[Item]) -> list[Item]:
    """The same items, an older value before the one that replaces it."""
    out = list(items)
    places: dict[str, int] = {}
    for i, (fact, _, older) in enumerate(items):
        j = places.setdefault(fact.question, i)
        if j != i and older:
            out[i], out[j] = out[j], out[i]
    return out


def _facts(rng: np.random.Generator, count: int) -> list[Fact]:
    makers = (
        facts.attribute, facts.attribute, facts.needle, facts.personal, facts.own, facts.own, facts.updated,
        doing, doing, doing,
    )  # fmt: skip
    # mostly one kind in a text, so that its other facts are hard to tell apart
    chosen = makers if rng.random() < 0.4 else (makers[rng.integers(0, len(makers))],)
    made: dict[str, Fact] = {}
    for _ in range(count):
        fact = chosen[rng.integers(0, len(chosen))](rng)
        made[fact.about or fact.question] = fact
    # makers share some questions, and say what these are about or not
    return list({fact.question: fact for fact in made.values()}.values())
