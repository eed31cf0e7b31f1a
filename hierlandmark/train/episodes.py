"""Training texts: segments to remember, and readers that ask about them.

Memory segments are encoded on their own, as in `encode="segment"`; readers look into all of them. Stream episodes are
plain text in which every segment looks into all earlier ones.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from hierlandmark.config import LayoutConfig
from hierlandmark.layout import Kind, Layout, segment_kinds, split_blocks
from hierlandmark.train import facts
from hierlandmark.train.facts import Fact

Tokenize = Callable[[str], list[int]]
NO_LABEL = -100


@dataclass(frozen=True)
class Corpus:
    """Token ids of plain text, and what is needed to cut words out of them."""

    texts: dict[str, np.ndarray]  # name -> (n,) unsigned
    tokenize: Tokenize
    # wraps a question into the prompt that `Memory.ask` uses, and what ends the answer
    ask_prompt: Callable[[str], list[int]]
    answer_end: list[int]
    word_start: np.ndarray  # (vocabulary,) bool: a space and a letter
    word_part: np.ndarray  # (vocabulary,) bool: letters only
    rarity: np.ndarray  # (vocabulary,) fp32, minus log frequency


@dataclass(frozen=True)
class Placed:
    """A fact, and the content tokens (from, to) that state it."""

    fact: Fact
    where: tuple[int, int]


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


def build_corpus(texts: dict[str, np.ndarray], tokenizer: object, ask_prompt: Callable[[str], list[int]]) -> Corpus:
    """Word tables from the tokenizer's vocabulary and token counts from the texts."""
    size = len(tokenizer)  # type: ignore[arg-type]
    pieces = [tokenizer.decode([i]) for i in range(size)]  # type: ignore[attr-defined]
    start = np.array([len(p) > 2 and p[0] == " " and p[1:].isalpha() for p in pieces])
    part = np.array([p.isalpha() for p in pieces])
    counts = np.ones(size)
    for text in texts.values():
        counts += np.bincount(text[:1_000_000], minlength=size)[:size]
    rarity = -np.log(counts / counts.sum()).astype(np.float32)

    def tokenize(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]  # type: ignore[operator]

    end = tokenizer.eos_token_id  # type: ignore[attr-defined]
    return Corpus(texts, tokenize, ask_prompt, [end, *tokenize("\n")], start, part, rarity)


def build_batch(corpus: Corpus, config: LayoutConfig, shape: Shape, rng: np.random.Generator) -> Batch:
    """A random batch of one shape."""
    if not shape.readers:
        return _stream_batch(corpus, config, shape, rng)
    segments = shape.memory + shape.readers
    reads = np.zeros((segments, segments), dtype=bool)
    reads[shape.memory :, : shape.memory] = True
    contents, lengths, marks = [], [], []
    asked_at: list[tuple[int, int]] = []
    targets: list[np.ndarray] = []
    for b in range(shape.batch):
        memory, asked, passages = _memory(corpus, config, shape.memory, rng)
        text = np.concatenate(memory) if passages else None
        homes = _homes([len(segment) for segment in memory], config)
        row_tokens, row_lengths, row_weights = [], [], []
        for segment in memory:
            row_tokens.append(segment)
            row_lengths.append(len(segment))
            row_weights.append((rng.random(len(segment)) < 0.1) * 0.25)
        for r, (tokens, weight, looks) in enumerate(_readers(corpus, config, shape.readers, text, asked, rng)):
            row_tokens.append(tokens)
            row_lengths.append(len(tokens))
            row_weights.append(weight)
            places = np.flatnonzero(segment_kinds(split_blocks(len(tokens), config), config) == Kind.CONTENT)
            for at, (first, last) in looks:
                if at < len(tokens):
                    asked_at.append((b, (shape.memory + r) * config.segment_size + int(places[at])))
                    wanted = np.zeros(shape.memory * config.blocks_per_segment, dtype=bool)
                    wanted[np.unique(homes[first:last])] = True
                    targets.append(wanted)
        contents.append(row_tokens)
        lengths.append(row_lengths)
        marks.append(row_weights)
    layout = Layout.of(lengths, config, reads=reads)
    batch = _finish(layout, contents, marks, joined=False)
    if not asked_at:
        return batch
    return replace(batch, asked=np.asarray(asked_at), targets=np.stack(targets))


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
        text = _slice(corpus, rng, config.segment_capacity * shape.memory)
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


def _slice(corpus: Corpus, rng: np.random.Generator, count: int) -> np.ndarray:
    names = sorted(corpus.texts)
    text = corpus.texts[names[rng.integers(0, len(names))]]
    start = int(rng.integers(0, max(1, len(text) - count)))
    return np.resize(text[start : start + count], count).astype(np.int64)


def _memory(
    corpus: Corpus, config: LayoutConfig, segments: int, rng: np.random.Generator
) -> tuple[list[np.ndarray], list[Placed], bool]:
    """Segments of filler with facts in it, the facts, and whether passages of the filler can be told apart."""
    capacity = config.segment_capacity
    lengths = [capacity] * segments
    if rng.random() < 0.5:
        # the open tail of a memory, and segments shortened by forgetting
        lengths[-1] = int(rng.integers(8, capacity + 1))
        if rng.random() < 0.3:
            lengths[rng.integers(0, segments)] = int(rng.integers(8, capacity + 1))
    total = sum(lengths)
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
            parts.append(_slice(corpus, rng, size))
            left -= size
        filler = np.concatenate(parts)
    statements = [np.asarray(corpus.tokenize(f"\n{fact.statement}\n")) for fact in hidden]
    room = total - len(head) - sum(map(len, statements))
    while room < 1 and statements:
        room += len(statements.pop())
        hidden.pop()
    cuts = np.sort(rng.integers(0, room + 1, len(statements)))
    rng.shuffle(order := np.arange(len(statements)))
    pieces, last, at = [np.asarray(head, dtype=np.int64)], 0, len(head)
    placed = []
    for cut, index in zip(cuts, order, strict=True):
        pieces += [filler[last:cut], statements[index]]
        at += cut - last
        placed.append(Placed(hidden[index], (int(at), int(at) + len(statements[index]))))
        at += len(statements[index])
        last = cut
    pieces.append(filler[last:room])
    text = np.concatenate(pieces).astype(np.int64)
    return np.split(text, np.cumsum(lengths)[:-1]), placed, not repeated


def _facts(rng: np.random.Generator, count: int) -> list[Fact]:
    makers = (facts.attribute, facts.attribute, facts.needle, facts.personal)
    # mostly one kind in a text, so that its other facts are hard to tell apart
    chosen = makers if rng.random() < 0.4 else (makers[rng.integers(0, len(makers))],)
    made: dict[str, Fact] = {}
    for _ in range(count):
        fact = chosen[rng.integers(0, len(chosen))](rng)
        made[fact.question] = fact
    return list(made.values())


# weight of each token of an answer: a fact is short and exact, a passage long and soon copied by rote
_FACT, _PASSAGE, _PROMPT = 4.0, 0.6, 0.02
Look = tuple[int, tuple[int, int]]


def _readers(
    corpus: Corpus,
    config: LayoutConfig,
    count: int,
    text: np.ndarray | None,
    asked: list[Placed],
    rng: np.random.Generator,
) -> list[tuple[np.ndarray, np.ndarray, list[Look]]]:
    """Reader segments, each questions and answers one after another.

    Returns:
        For each reader its tokens, the weight of every token, and where it looks: the place of each prompt's last
        token, and the content tokens of the memory that hold the answer.
    """
    first = [one for one in asked if one.fact.question == facts.PASSKEY_QUESTION]
    rest = [one for one in asked if one.fact.question != facts.PASSKEY_QUESTION]
    rng.shuffle(rest)  # type: ignore[arg-type]
    out = []
    for _ in range(count):
        tokens: list[int] = []
        weights: list[float] = []
        looks: list[Look] = []
        queue = list(first)
        while len(tokens) < config.segment_capacity:
            if queue or (rest and (text is None or rng.random() < 0.8)):
                one = queue.pop() if queue else rest.pop()
                where, weight = one.where, _FACT
                prompt, answer = _ask_fact(corpus, one.fact, rng)
            elif text is not None:
                prompt, answer, where = _ask_passage(corpus, text, rng)
                weight = _PASSAGE
            elif tokens:
                break
            else:
                prompt, answer, where, weight = [], corpus.tokenize("Nothing is known.\n"), (0, 0), _PASSAGE
            if where[1]:
                looks.append((len(tokens) + len(prompt) - 1, where))
            tokens += prompt + answer
            weights += [_PROMPT] * len(prompt) + [weight] * len(answer)
        cut = config.segment_capacity
        out.append((np.asarray(tokens[:cut]), np.asarray(weights[:cut]), looks))
    return out


def _ask_fact(corpus: Corpus, fact: Fact, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    if rng.random() < 0.2:
        # as a search is put: the query, then the line that holds it
        return _search(corpus, fact.question), corpus.tokenize(f'{fact.statement}"\n\n')
    if fact.raw:
        return corpus.tokenize(fact.question), corpus.tokenize(fact.answer + "\n\n")
    return _turn(corpus, fact.question, fact.answer, rng)


def _turn(corpus: Corpus, question: str, answer: str, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    if rng.random() < 0.25:
        return corpus.tokenize(f"Question: {question}\nAnswer:"), corpus.tokenize(f" {answer}\n\n")
    return corpus.ask_prompt(question), [*corpus.tokenize(answer), *corpus.answer_end]


def _search(corpus: Corpus, query: str) -> list[int]:
    return corpus.tokenize(f'Search: {query}\nFound: "')


def _ask_passage(
    corpus: Corpus, text: np.ndarray, rng: np.random.Generator
) -> tuple[list[int], list[int], tuple[int, int]]:
    """Find a passage by its first words, or by a few rare words of it in any order; the answer repeats it."""
    length = int(rng.integers(24, 56))
    start = int(rng.integers(0, max(1, len(text) - length)))
    # begin at a word
    while start < len(text) - length and not corpus.word_start[text[start]]:
        start += 1
    passage, where = text[start : start + length], (start, start + length)
    if rng.random() < 0.35:
        known = int(rng.integers(6, 14))
        prompt = [*corpus.tokenize('Continue the passage: "'), *passage[:known].tolist()]
        return prompt, [*passage[known:].tolist(), *corpus.tokenize('"\n\n')], where
    words = _keywords(corpus, passage, int(rng.integers(2, 7)), rng)
    if rng.random() < 0.35:
        prompt = [*corpus.tokenize("Which passage mentions"), *words, *corpus.tokenize('? It says: "')]
        return prompt, [*passage.tolist(), *corpus.tokenize('"\n\n')], where
    # the words alone, as people type them into a search box
    prompt = [*corpus.tokenize("Search:"), *words, *corpus.tokenize('\nFound: "')]
    return prompt, [*passage.tolist(), *corpus.tokenize('"\n\n')], where


def _keywords(corpus: Corpus, passage: np.ndarray, count: int, rng: np.random.Generator) -> list[int]:
    """Rare words of a passage, shuffled, comma between them."""
    words, i = [], 0
    while i < len(passage):
        if not corpus.word_start[passage[i]]:
            i += 1
            continue
        end = i + 1
        while end < len(passage) and corpus.word_part[passage[end]]:
            end += 1
        words.append(passage[i:end])
        i = end
    score = [float(corpus.rarity[w].sum()) + 2 * float(rng.random()) for w in words]
    chosen = [words[j] for j in np.argsort(score)[::-1][:count]]
    rng.shuffle(chosen)  # type: ignore[arg-type]
    comma = corpus.tokenize(",")
    out: list[int] = []
    for n, word in enumerate(chosen):
        out += ([] if n == 0 else comma) + word.tolist()
    return out
