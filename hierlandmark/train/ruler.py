"""Memories that hide RULER's needles (`hierlandmark.needles`), and how readers ask for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from hierlandmark.model.prompts import question_text
from hierlandmark.needles import SPECS, Needles, ValueType, Words, distractor, make_needles
from hierlandmark.train import facts
from hierlandmark.train.corpus import Corpus, cut_text, hide
from hierlandmark.train.words import ADJECTIVES, NOUNS

# content tokens (from, to)
Span = tuple[int, int]

_WORDS: Words = (ADJECTIVES, NOUNS)
# what has several answers comes twice as often
_NAMES = [name for name, spec in SPECS.items() for _ in range(2 if spec.values * spec.queries > 1 else 1)]
# weights of an answer's tokens: the first of a value must be looked up, more of a uuid follows from those before it
_VALUE, _REST, _LED, _END, _SURE = 4.0, 1.0, 0.4, 1.0, 8
# more than readers get to ask about
_MOST = 48


@dataclass(frozen=True)
class PlacedNeedles:
    """A task, and the content tokens of each of its statements."""

    needles: Needles
    where: tuple[Span, ...]


@dataclass(frozen=True)
class Asked:
    """A question and its answer. `looks`: places in both together, and which tokens of the memory are needed there."""

    prompt: list[int]
    answer: list[int]
    weights: list[float]  # of the answer's tokens
    looks: list[tuple[int, tuple[Span, ...]]]


def needle_text(
    corpus: Corpus, total: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[PlacedNeedles], bool] | None:
    """Text of `total` tokens with tasks, distractors to each other; the tasks; whether passages can be told apart.

    None where not even one task fits.
    """
    draw = Random(int(rng.integers(0, 2**63)))
    name = draw.choice(_NAMES)
    haystack = SPECS[name].haystack
    if haystack != "needle":
        haystack = draw.choice(("noise", "essay", "essay"))
    inline = haystack == "essay" and draw.random() < 0.7
    made = _make(corpus, name, total, haystack == "needle", inline, draw)
    if not made:
        return None
    tasks = [task for task, _ in made]
    # each task's statements in their own order, the tasks' mixed
    turns = [i for i, (_, said) in enumerate(made) for _ in said]
    draw.shuffle(turns)
    waiting = [iter(said) for _, said in made]
    items = [next(waiting[i]) for i in turns]
    head = corpus.tokenize(tasks[0].opening + "\n") if draw.random() < 0.7 else []
    room = total - len(head) - sum(map(len, items))
    if room < 1:
        head, room = [], room + len(head)
    if haystack == "needle":
        text, spans = _among_needles(corpus, head, tasks, items, room, draw)
    else:
        if haystack == "noise":
            filler = np.resize(np.asarray(corpus.tokenize(" " + facts.PASSKEY_FILLER)), room)
        else:
            filler = cut_text(corpus, rng, room)
        text, spans = hide(corpus, head, filler, items, rng)
    where: list[list[Span]] = [[] for _ in tasks]
    for i, span in zip(turns, spans, strict=True):
        where[i].append(span)
    placed = [PlacedNeedles(task, tuple(spans)) for task, spans in zip(tasks, where, strict=True)]
    return text, placed, haystack == "essay"


def _make(
    corpus: Corpus, name: str, total: int, alone: bool, inline: bool, draw: Random
) -> list[tuple[Needles, list[np.ndarray]]]:
    """Tasks with tokens for each statement, at most half of the text between them."""
    count = 1 if draw.random() < 0.25 and not alone else draw.randint(2, _MOST)
    mixed = not alone and draw.random() < 0.25
    others = [other for other, spec in SPECS.items() if spec.haystack != "needle"]
    form = " {}" if inline else "\n{}" if alone else "\n{}\n"
    left = total // 2
    used: set[str] = set()
    made: list[tuple[Needles, list[np.ndarray]]] = []
    for _ in range(count):
        chosen = draw.choice(others) if mixed else name
        # RULER's own numbers mostly, so that they are known best
        value_type: ValueType | None = "uuids" if draw.random() < 0.15 else None
        task = make_needles(chosen, draw, words=_WORDS, value_type=value_type)
        if task.taken & used:
            continue
        stop = "." if inline and task.spec.chained else ""
        said = [np.asarray(corpus.tokenize(form.format(one + stop)), dtype=np.int64) for one in task.statements]
        left -= sum(map(len, said))
        if left < 0:
            break
        used |= task.taken
        made.append((task, said))
    return made


def _among_needles(
    corpus: Corpus, head: list[int], tasks: Sequence[Needles], items: list[np.ndarray], room: int, draw: Random
) -> tuple[np.ndarray, list[Span]]:
    """Needles among others of their kind, each on its line."""
    others: list[np.ndarray] = []
    # a key that is asked for has one value
    taken = {name for task in tasks for name in task.taken}
    while room > 0:
        one = np.asarray(corpus.tokenize("\n" + distractor(tasks[0], draw, _WORDS, taken=taken))[:room], dtype=np.int64)
        others.append(one)
        room -= len(one)
    # the last one may be cut short, so nothing follows it
    cuts = sorted(draw.randrange(len(others)) for _ in items)
    pieces: list[np.ndarray] = [np.asarray(head, dtype=np.int64)]
    spans: list[Span] = []
    last, at = 0, len(head)
    for cut, item in zip(cuts, items, strict=True):
        pieces += [*others[last:cut], item]
        at += sum(map(len, others[last:cut]))
        spans.append((at, at + len(item)))
        at += len(item)
        last = cut
    return np.concatenate([*pieces, *others[last:]]), spans


def ask_needles(corpus: Corpus, one: PlacedNeedles, rng: np.random.Generator) -> Asked:
    """As text to continue behind the answer's prefix, or as a turn of a chat whose answer begins with it.

    At the token before each value the statements that may hold it are looked for; within it, the one that does.
    """
    task = one.needles
    style = rng.random()
    if style < 0.6:
        prompt, lead, end = corpus.tokenize(task.prompt), [], corpus.tokenize(".\n\n")
    elif style < 0.7 and not task.spec.chained:
        prompt, lead = corpus.tokenize(question_text(task.question)), corpus.tokenize(task.prefix)
        end = corpus.tokenize(".\n\n")
    else:
        prompt, lead = corpus.ask_prompt(task.question), corpus.tokenize(task.prefix.strip())
        end = [*corpus.tokenize("."), *corpus.answer_end]
    answer = list(lead)
    weights = [_LED] * len(lead)
    looks = [(len(prompt) - 1, tuple(one.where[i] for i in task.either(0)))] if lead else []
    for part, (text, value) in enumerate(zip(task.parts, task.answers, strict=True)):
        join = corpus.tokenize(text[: -len(value) - 1])
        tokens = corpus.tokenize(f" {value}")
        start = len(prompt) + len(answer) + len(join)
        looks.append((start - 1, tuple(one.where[i] for i in task.either(part))))
        if len(tokens) > 1:
            looks.append((start + int(rng.integers(0, len(tokens) - 1)), (one.where[task.sources[part]],)))
        answer += join + tokens
        weights += [_LED] * len(join) + [_VALUE] * min(len(tokens), _SURE) + [_REST] * max(0, len(tokens) - _SURE)
    return Asked(prompt, answer + end, weights + [_END] * len(end), looks)
