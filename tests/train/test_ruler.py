"""RULER's needles in training: each place of an answer is told which blocks hold what it needs."""

import re
from collections import Counter
from random import Random

import numpy as np
import pytest

from hierlandmark.config import LayoutConfig
from hierlandmark.layout import Kind
from hierlandmark.needles import SPECS, make_needles
from hierlandmark.testing import ByteTokenizer
from hierlandmark.train.corpus import build_corpus
from hierlandmark.train.episodes import Shape, build_batch, make_memory
from hierlandmark.train.readers import make_readers
from hierlandmark.train.ruler import PlacedNeedles, ask_needles, needle_text

LAYOUT = LayoutConfig(block_size=64, blocks_per_segment=16)


@pytest.fixture(scope="module")
def corpus():
    text = np.frombuffer(b"Some words of a long and winding tale about ships. " * 900, dtype=np.uint8)
    tokenizer = ByteTokenizer()
    return build_corpus({"tale": text}, tokenizer, lambda q: tokenizer(f"<q>{q}<a>")["input_ids"])


def text_of(tokens):
    return bytes(int(i) for i in tokens if i < 256).decode(errors="replace")


def test_statements_stand_where_they_are_said_to_in_all_haystacks(corpus):
    names, told_apart = Counter(), Counter()
    for seed in range(40):
        text, placed, passages = needle_text(corpus, 6_000, np.random.default_rng(seed))
        assert len(text) == 6_000
        told_apart[passages] += 1
        for one in placed:
            names[one.needles.name] += 1
            for (first, last), said in zip(one.where, one.needles.statements, strict=True):
                assert text_of(text[first:last]).strip().rstrip(".") == said.strip().rstrip(".")
            # links of a chain in their order
            assert list(one.where) == sorted(one.where)
            if not one.needles.spec.chained:
                # as many statements as were hidden, whatever else is made of needles there
                keys = Counter(re.findall(r"special magic \w+ for (\S+) is: ", text_of(text)))
                asked = Counter(key for said in one.needles.statements for key in re.findall(r" for (\S+) is: ", said))
                assert all(keys[key] == asked[key] for key in asked)
                assert all(text_of(text).count(f" {answer}.") == 1 for answer in one.needles.answers)
    assert names.keys() == SPECS.keys() and min(told_apart.values()) > 10


def test_a_text_too_short_for_a_task_has_none(corpus):
    assert needle_text(corpus, 60, np.random.default_rng(0)) is None
    small = LayoutConfig(block_size=16, blocks_per_segment=4)
    memory, placed, _ = make_memory(corpus, small, 1, np.random.default_rng(0), needles=1.0)
    assert sum(map(len, memory)) > 0 and not any(isinstance(one, PlacedNeedles) for one in placed)


@pytest.mark.parametrize("name", SPECS)
def test_each_part_of_an_answer_looks_at_its_own_statement(corpus, name):
    task = make_needles(name, Random(3))
    # a statement's number tells where it stands
    one = PlacedNeedles(task, tuple((i, i + 1) for i in range(len(task.statements))))
    forms = set()
    for seed in range(30):
        asked = ask_needles(corpus, one, np.random.default_rng(seed))
        assert len(asked.weights) == len(asked.answer)
        both = asked.prompt + asked.answer
        raw = text_of(asked.prompt) == task.prompt
        forms.add(raw)
        said = "".join(task.parts)
        assert text_of(asked.answer).lstrip().startswith((said if raw else task.prefix + said).lstrip())
        looks = list(asked.looks)
        if not raw:
            # the token that starts the answer
            assert looks.pop(0) == (len(asked.prompt) - 1, tuple((i, i + 1) for i in task.either(0)))
        ahead, inside = looks[::2], looks[1::2]
        assert len(ahead) == len(inside) == len(task.answers)
        for part, answer in enumerate(task.answers):
            at, spans = ahead[part]
            assert text_of(both[at + 1 :]).startswith(f" {answer}")
            assert spans == tuple((i, i + 1) for i in task.either(part))
            at, spans = inside[part]
            assert spans == ((task.sources[part], task.sources[part] + 1),)
            assert ahead[part][0] < at < ahead[part][0] + 1 + len(answer)
            # what is looked up weighs most
            assert asked.weights[ahead[part][0] + 1 - len(asked.prompt)] == 4.0
    assert forms == {True, False}


def test_targets_are_the_blocks_of_single_values(corpus):
    P, checked = LAYOUT.block_size, Counter()
    for seed in range(25):
        made = build_batch(corpus, LAYOUT, Shape(1, 8, 1), np.random.default_rng(seed), needles=1.0)
        kinds, ids = made.layout.kinds[0].reshape(-1), made.ids[0].reshape(-1)
        memory = 8 * LAYOUT.segment_size
        for (_, at), wanted in zip(made.asked, made.targets, strict=True):
            before = text_of(ids[memory : at + 1][kinds[memory : at + 1] == Kind.CONTENT])
            after = text_of(ids[at + 1 :][kinds[at + 1 :] == Kind.CONTENT])
            if not before.endswith((" text is", " text are", ",", ", and")) or not after[1:8].isdigit():
                continue
            held = text_of(ids[:memory][np.repeat(wanted, P) & (kinds[:memory] == Kind.CONTENT)])
            assert after[1:8] in held
            checked[before.endswith((",", ", and"))] += 1
    assert checked[True] > 10 and checked[False] > 10


def test_needles_may_be_asked_by_every_reader(corpus):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        _, placed, passages = needle_text(corpus, 6_000, rng)
        if passages:
            continue
        for tokens, _, looks in make_readers(corpus, LAYOUT, 3, None, placed, rng):
            assert looks and "Nothing is known" not in text_of(tokens)


def test_a_share_of_memories_has_needles(corpus):
    def share(needles):
        seen = [make_memory(corpus, LAYOUT, 8, np.random.default_rng(i), needles=needles)[1] for i in range(40)]
        return sum(bool(placed) and isinstance(placed[0], PlacedNeedles) for placed in seen) / 40

    assert share(0.0) == 0.0 and 0.2 < share(0.5) < 0.8 and share(1.0) == 1.0
