"""Memories of chats with known evidence: what is asked, where its answer stands, and which token searches."""

import json
import re
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch

from hierlandmark import LayoutConfig, Memory, Message
from hierlandmark.layout import Kind
from hierlandmark.model import landmark_model as search_module
from hierlandmark.model.prompts import render, search_prompt
from hierlandmark.testing import ByteTokenizer, tiny_model
from hierlandmark.train import links
from hierlandmark.train.config import TrainConfig
from hierlandmark.train.corpus import Talk, Turn, build_corpus
from hierlandmark.train.episodes import Shape, build_batch
from hierlandmark.train.links import linked_memory, linked_readers
from hierlandmark.train.loop import BatchSource
from hierlandmark.train.loss import batch_loss
from hierlandmark.train.run import train_adapter
from hierlandmark.train.tokens import read_tokens
from hierlandmark.train.words import NAMES

LAYOUT = LayoutConfig(block_size=64, blocks_per_segment=8)
TOKENIZER = ByteTokenizer()


def turn(role, text):
    return Turn(role, np.asarray(TOKENIZER(f" {text}")["input_ids"], dtype=np.uint32))


def said(n):
    return f"Ship number {n} left port {n * 7} with grain. Its captain was called Person{n} by all."


def asked(n):
    return f"Tell me please what ship {n} did"


ROOM = Talk([turn(f"nick{n % 5}", said(n)) for n in range(40)], links=[(n, n - 3) for n in range(10, 40)])
MEETING = Talk(
    [turn(f"Person {n % 3}", said(n + 100)) for n in range(30)],
    questions=[(f"What did they say about {n}?", (n, n + 1)) for n in range(0, 28, 2)],
)
TURNS = Talk(
    [turn(role, f(n // 2 + 200)) for n in range(60) for role, f in [(("user", asked), ("assistant", said))[n % 2]]]
)

DOCUMENT = Talk([turn("document", said(n + 300)) for n in range(40)])
WISHES = (
    "I'm trying to repaint the garden fence with linseed oil, for the {}th time.",
    "I've finished {} watercolour portraits for the spring exhibition.",
    "My commute to the observatory takes {} minutes and my rent is $840.",
)
WISHED = Talk(
    [turn(*one) for n in range(30) for one in (("user", WISHES[n % 3].format(n)), ("assistant", said(n + 400)))]
)

ADVICE = "### Step {}: Sand the Fence Boards\n\nUse a natural bristle brush for your railings. You should wear gloves."
ADVISED = Talk(
    [turn(*one) for n in range(30) for one in (("user", WISHES[n % 3].format(n)), ("assistant", ADVICE.format(n)))]
)


def corpus_of(*chats):
    return build_corpus({}, TOKENIZER, lambda q: TOKENIZER(f"<q>{q}<a>")["input_ids"], chats)


def text_of(tokens):
    return bytes(int(i) for i in tokens if i < 256).decode(errors="replace")


def memories(*chats, seeds=range(12), segments=6, synonyms=None, **options):
    corpus = replace(corpus_of(*chats), synonyms=synonyms or {})
    for seed in seeds:
        made = linked_memory(corpus, [LAYOUT.segment_capacity] * segments, np.random.default_rng(seed), **options)
        assert made is not None and sum(map(len, made.segments)) == segments * LAYOUT.segment_capacity
        yield made, np.concatenate(made.segments)


def test_a_message_that_became_a_query_is_not_in_the_memory_and_its_parent_is():
    replies = 0
    for made, text in memories(ROOM):
        for query in made.queries:
            if query.kind == "reply":
                number = int(re.search(r"\d+|Person(\d+)", query.text)[0].removeprefix("Person"))
                assert said(number) not in text_of(text) and f"Person{number} " not in text_of(text)
                held = [text_of(text[slice(*made.bodies[i])]) for i in query.where]
                # a clozed parent lacks a sentence, never both; one at the end may be cut
                assert len(held) == 1 and re.search(rf"number {number - 3} |Person{number - 3}\b", held[0])
                replies += 1
    assert replies > 40


def test_a_question_is_asked_for_all_its_evidence_that_is_there():
    whole = 0
    for made, text in memories(MEETING):
        for query in made.queries:
            if query.kind == "question":
                n = int(re.search(r"\d+", query.text)[0])
                held = [text_of(text[slice(*made.bodies[i])]) for i in query.where]
                wanted = [f"{m + 100}" for m in (n, n + 1)]
                assert all(any(w in one for w in wanted) for one in held)
                whole += len(held) == 2
    assert whole > 30


def test_of_a_chat_without_either_what_was_said_is_asked_for_its_reply_and_a_reply_for_what_it_answers():
    kinds, answers = set(), 0
    for made, text in memories(TURNS):
        for query in made.queries:
            kinds.add(query.kind)
            (place,) = query.where
            body = text_of(text[slice(*made.bodies[place])])
            if query.kind == "turn":
                n = int(re.search(r"\d+", query.text)[0])
                assert query.text not in text_of(text)
                if query.text == asked(n):
                    assert f"number {n} " in body or f"Person{n} " in body
                else:
                    # the last one may be cut
                    assert body.strip() and asked(n).startswith(body.strip())
                    answers += 1
    assert answers
    assert {"turn", "cloze", "about"} <= kinds <= {"turn", "cloze", "about", "asked"}


def test_a_sentence_is_taken_out_of_its_message_in_about_half_of_the_cases():
    taken = clozes = 0
    for made, text in memories(DOCUMENT, seeds=range(20), segments=3):
        for query in made.queries:
            # the last one may be cut
            if query.kind == "cloze" and made.bodies[query.where[0]][1] < len(text):
                body = text_of(text[slice(*made.bodies[query.where[0]])])
                words = set(query.text.split())
                # what is left of the sentence is in the message, or all of it is gone
                assert words <= set(body.split()) or len(words & set(body.split())) <= 2
                taken += not words <= set(body.split())
                clozes += 1
    assert clozes > 60 and 0.25 < taken / clozes < 0.75


def test_messages_stand_as_a_memory_keeps_them():
    chats = {text_of(one.tokens)[1:]: one.role for chat in (ROOM, MEETING) for one in chat}
    days = set()
    for made, text in memories(ROOM, MEETING):
        for (first, last), (start, end) in zip(made.spans[:-1], made.bodies[:-1], strict=True):
            content = text_of(text[start:end])[1:]
            if content in chats and text[last - 1] == ord("\n"):
                day = re.search(r"\((\d{4}-\d\d-\d\d)\):", text_of(text[first:start]))
                days.add(day is not None)
                message = Message(id=1, role=chats[content], content=content, time=day[1] if day else None)
                assert text_of(text[first:last]) == render(message)
        assert [a for _, a in made.spans[:-1]] == [b for b, _ in made.spans[1:]]
    assert days == {True, False}


def test_documents_have_no_speaker():
    kinds = set()
    for made, text in memories(DOCUMENT):
        assert "document" not in text_of(text)
        kinds |= {query.kind for query in made.queries}
        assert not any("document" in query.text for query in made.queries)
    assert {"cloze", "about"} <= kinds <= {"cloze", "about", "asked"}


# of every word of these chats and of facts, one that nobody uses
OTHERWISE = {
    word: (f"{word}zzz",)
    for chat in (ROOM, MEETING, TURNS, WISHED)
    for text in (*(text_of(one.tokens) for one in chat), *(text for text, _ in chat.questions), "what the")
    for word in re.findall(r"\b[a-z]{3,}\b", text)
}


def test_questions_are_put_in_other_words_and_what_was_said_is_not():
    seen = defaultdict(list)
    for chat in (ROOM, MEETING, TURNS, WISHED):
        for made, text in memories(chat, synonyms=OTHERWISE, facts=0.2, seeds=range(24)):
            assert "zzz" not in text_of(text)
            for query in made.queries:
                seen[query.kind].append("zzz" in query.text)
                # what is asked for stays the same
                if query.kind == "question":
                    n = int(re.search(r"\d+", query.text)[0]) + 100
                    bodies = [text_of(text[slice(*made.bodies[i])]) for i in query.where]
                    assert all(f"{n}" in body or f"{n + 1}" in body for body in bodies)
    assert {kind for kind, found in seen.items() if any(found)} == {"question", "cloze", "asked", "about"}
    assert {kind for kind, found in seen.items() if not any(found)} == {"reply", "turn", "fact"}
    assert all(len(found) > 10 for found in seen.values())
    assert all(0.1 < np.mean(seen[kind]) < 0.45 for kind in ("question", "cloze"))


def test_names_stay_in_questions_that_are_typed_in_small_letters():
    keeps = "My cousin Beatrix keeps bees in Lisbon. I'm trying to repaint the fence with Beatrix, for the {}th time."
    chat = Talk([turn("user", keeps.format(n)) for n in range(30)])
    known = {"beatrix": ("zzz",), "lisbon": ("zzz",), "fence": ("paling",)}
    queries = [query for made, _ in memories(chat, synonyms=known, seeds=range(40)) for query in made.queries]
    small = [query.text for query in queries if query.text == query.text.lower()]
    assert not any("zzz" in query.text for query in queries)
    assert any("beatrix" in text for text in small) and any("paling" in text for text in small)


def test_without_synonyms_questions_stay_as_they_are(monkeypatch):
    whole = {text for text, _ in MEETING.questions}
    # and no draw is spent on them
    monkeypatch.setattr(links, "reworded", lambda *_: pytest.fail("nothing to put in other words"))
    queries = [query for made, _ in memories(MEETING) for query in made.queries]
    assert {query.text for query in queries if query.kind == "question"} <= whole
    words = {word for one in MEETING for word in text_of(one.tokens).split()}
    assert all({*query.text.split()} <= words for query in queries if query.kind == "cloze")


def test_some_users_and_assistants_have_names_and_are_asked_for_by_them():
    named, by_name, by_role = 0, [], []
    for made, text in memories(ADVISED, seeds=range(120), segments=3):
        who = speakers(made, text)
        # the last one may be cut
        names = {*who[:-1]} & {*NAMES}
        assert {*who[:-1]} == names if names else {*who[:-1]} <= {"user", "assistant"}
        assert len(names) in (0, 2)
        named += bool(names)
        for query in made.queries:
            if query.kind in ("asked", "about"):
                asked = query.text.lower()
                if names:
                    assert not re.search(r"\b(?:did|does|do|has|have|am) (?:i|user|the user)\b", asked)
                    # words of a message may say more
                    assert query.kind == "about" or not re.search(r"\b(?:i|my|user|assistant)\b", asked)
                    by_name.append(who[query.where[0]].lower() in asked)
                else:
                    by_role.append(bool(re.search(r"\b(?:i|my)\b", asked)))
    assert 0.15 < named / 120 < 0.35
    assert len(by_name) > 20 and np.mean(by_name) > 0.4 and np.mean(by_role) > 0.3


def test_a_chat_between_others_is_not_counted_anew():
    chat = Talk([Turn("user", np.arange(3)), Turn("assistant", np.arange(5))])
    other = chat.named({"user": "Ada"})
    assert other.lengths is chat.lengths and other.lengths.tolist() == [3, 5]
    assert [other.called(i) for i in range(2)] == ["Ada", "assistant"] and chat.called(0) == "user"


def test_without_an_assistant_nobody_is_given_a_name():
    room = Talk([turn(("user", "nick")[n % 2], said(n)) for n in range(40)])
    for made, text in memories(room, seeds=range(30), segments=3):
        assert {*speakers(made, text)[:-1]} <= {"user", "nick"}


def speakers(made, text):
    heads = [text_of(text[span[0] : body[0]]) for span, body in zip(made.spans, made.bodies, strict=True)]
    return [re.sub(r"(?: \(.*)?:$", "", head) for head in heads]


def test_several_chats_stand_in_a_memory_and_none_twice():
    several = 0
    for made, text in memories(ROOM, MEETING, TURNS, seeds=range(10), segments=20):
        assert made.spans[-1][1] <= len(text) and len(made.queries) <= 12
        heads = [text_of(text[a:b]) for a, b in made.spans]
        bodies = [text_of(text[a:b]) for a, b in made.bodies]
        assert len(set(bodies)) == len(bodies)
        several += any(h.startswith("nick") for h in heads) and any(h.startswith("Person ") for h in heads)
    assert several > 3


def test_a_memory_begins_with_an_assistant_more_often():
    quiet = Talk([turn("user", said(n + 500)) for n in range(30)])
    # one who comes in late makes no chat with an assistant
    late = Talk([turn("assistant" if n > 25 else "user", said(n + 600)) for n in range(40)])
    assert [chat.assisted for chat in (ROOM, MEETING, TURNS, quiet, late)] == [False, False, True, False, False]
    first = [text_of(text[: made.bodies[1][1]]) for made, text in memories(ROOM, MEETING, TURNS, seeds=range(150))]
    found = [re.search(r"\b(?:ship|number|Person)\s?2\d\d\b", one) is not None for one in first]
    # of three kinds, and 0.3 of the time before all others
    assert np.mean(found) == pytest.approx(0.3 + 0.7 / 3, abs=0.1)


def test_nothing_to_ask_for_is_no_memory():
    short = Talk([turn("system", "joined"), turn("system", "left")])
    assert linked_memory(corpus_of(short), [100, 50], np.random.default_rng(0)) is None
    batch = build_batch(corpus_of(short), LAYOUT, Shape(1, 2, 1), np.random.default_rng(0), linked=1.0)
    assert batch.linked is None or not batch.linked.any()


@pytest.fixture
def batch():
    return build_batch(corpus_of(ROOM, MEETING, TURNS), LAYOUT, Shape(3, 6, 2), np.random.default_rng(5), linked=1.0)


def test_marked_tokens_are_those_that_a_search_reads(batch, monkeypatch):
    model, pushed = tiny_model(layout=LAYOUT), []
    real = search_module.push

    def watched(core, window, tokens):
        pushed.append(list(tokens))
        return real(core, window, tokens)

    monkeypatch.setattr(search_module, "push", watched)
    searched = 0
    with Memory.open(":memory:", model=model) as memory:
        memory.add([Message(id=1, content="something")])
        for b, at in batch.asked.tolist():
            segment, place = divmod(at, LAYOUT.segment_size)
            kinds, ids = batch.layout.kinds[b, segment], batch.ids[b, segment]
            assert segment >= 6 and kinds[place] == Kind.CONTENT
            before = ids[: place + 1][kinds[: place + 1] == Kind.CONTENT]
            text = text_of(before)
            if text.endswith('\nFound: "'):
                query = text.rsplit("Search: ", 1)[1].removesuffix('\nFound: "')
                memory.search(query, 1)
                prompt = pushed[-1]
                assert prompt == search_prompt(TOKENIZER, query) and before[-len(prompt) :].tolist() == prompt
                searched += 1
            else:
                assert text.endswith("<a>")
            # and the answer follows, which the language model's loss counts
            assert batch.labels[b, segment, place] != -100 or place == np.flatnonzero(kinds == Kind.CONTENT)[-1]
    assert searched > 10 and batch.linked.all() and len(batch.linked) == len(batch.asked)


def test_targets_are_the_blocks_that_hold_the_evidence():
    corpus, size = corpus_of(MEETING), LAYOUT.block_size
    checked = 0
    for seed in range(6):
        batch = build_batch(corpus, LAYOUT, Shape(1, 6, 2), np.random.default_rng(seed), linked=1.0)
        kinds, ids = batch.layout.kinds[0, :6].reshape(-1), batch.ids[0, :6].reshape(-1)
        content = kinds == Kind.CONTENT
        for (_, at), wanted in zip(batch.asked, batch.targets, strict=True):
            whole = batch.ids[0].reshape(-1)[: at + 1][batch.layout.kinds[0].reshape(-1)[: at + 1] == Kind.CONTENT]
            found = re.search(r"did they say about (\d+)\?(?:\nFound: \"|<a>)$", text_of(whole))
            inside = np.repeat(wanted, size) & content
            assert wanted.any() and inside.any()
            if found:
                n = int(found[1]) + 100
                held, others = text_of(ids[inside]), text_of(ids[content & ~inside])
                # a message that the memory's end cuts is no evidence
                others = others[:-90]
                for m in (n, n + 1):
                    # messages are named by two words: both where the evidence is, neither elsewhere
                    assert f"number {m} " not in others and f"Person{m} " not in others
                assert f"number {n} " in held or f"number {n + 1} " in held or f"Person{n} " in held
                checked += 1
    assert checked > 10


def test_a_batch_depends_on_the_seed_only():
    config = TrainConfig(steps=4, tokens=4096, linked=0.7, longest=8)
    one, other = (BatchSource(corpus_of(ROOM, MEETING, TURNS), config, LAYOUT) for _ in range(2))
    shares = []
    for step in range(4):
        (a, _), (b, _) = one[step], other[step]
        assert np.array_equal(a.ids, b.ids) and np.array_equal(a.asked, b.asked)
        assert np.array_equal(a.targets, b.targets) and np.array_equal(a.labels, b.labels)
        shares += [] if a.linked is None else a.linked.tolist()
    assert set(shares) == {True, False}
    none = BatchSource(corpus_of(ROOM), replace(config, linked=0.0), LAYOUT)
    assert all(batch.linked is None or not batch.linked.any() for batch, _ in (none[step] for step in range(4)))


def test_linked_votes_have_a_loss_and_a_place_in_the_log():
    small = LayoutConfig(block_size=16, blocks_per_segment=8)
    batch = build_batch(corpus_of(MEETING, TURNS), small, Shape(1, 8, 2), np.random.default_rng(0), linked=1.0)
    core = tiny_model("qwen3", layout=small).core.requires_grad_()
    loss, parts = batch_loss(core, batch, "hierarchical", {0: [1, 2], 1: [0, 3]}, 1.0)
    # every query of this batch is linked
    assert len(batch.asked) and parts["votes_linked"] == pytest.approx(parts["votes_flat"], rel=1e-4)
    loss.backward()
    assert torch.isfinite(core.rows.grad).all() and (core.rows.grad != 0).any()


def test_a_reader_asks_within_its_capacity():
    small = LayoutConfig(block_size=16, blocks_per_segment=4)
    corpus = corpus_of(MEETING)
    made = linked_memory(corpus, [small.segment_capacity] * 8, np.random.default_rng(0))
    for tokens, weights, looks in linked_readers(corpus, small, 5, made, np.random.default_rng(1)):
        assert 0 < len(tokens) == len(weights) <= small.segment_capacity
        assert looks and all(at < len(tokens) for at, _ in looks)


def test_the_end_of_an_answer_that_was_cut_is_not_taught():
    corpus = corpus_of(ROOM)
    made = linked_memory(corpus, [LAYOUT.segment_capacity] * 8, np.random.default_rng(0))
    end, messages = corpus.answer_end, [corpus.decode(turn.tokens).strip() for turn in ROOM]
    cut = 0
    for seed in range(12):
        for tokens, weights, _ in linked_readers(corpus, LAYOUT, 4, made, np.random.default_rng(seed)):
            for at in range(len(tokens) - len(end) + 1):
                if tokens[at : at + len(end)].tolist() != list(end) or weights[at - 1] < 0.1:
                    continue
                # what stands before the end of an answer of `ask`
                answer = corpus.decode(tokens[:at]).rsplit("\n", 1)[-1]
                whole = any(answer.endswith(said) for said in messages)
                assert (weights[at : at + len(end)] > 0).all() == whole
                cut += not whole
    assert cut


def test_links_and_evidence_are_read_and_kept(tmp_path):
    messages = [{"id": i, "role": "user", "content": "" if i == 2 else said(i)} for i in range(1, 6)]
    record = {
        "id": "c", "messages": messages,
        "questions": [{"question": "Who?", "evidence": [5, 1, 2]}, {"question": "None?", "evidence": []}],
        "links": [[5, 3], [4, 4], [3, 2], [4, 99], [5, 1]],
    }  # fmt: skip
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps(record) + "\n" + json.dumps({"id": "d", "messages": messages}) + "\n")
    tokenizer = tiny_tokenizer()
    for _ in range(2):
        first, second = read_tokens(tokenizer, [], [path], keep=tmp_path / "keep")[1]
        # message 2 has no text; places are those among the others
        assert first.questions == [("Who?", (0, 3))] and first.links == [(3, 1), (3, 0)]
        assert len(first) == 4 and not second.questions and not second.links
    assert len(list((tmp_path / "keep").iterdir())) == 1


def tiny_tokenizer():
    from tests.train.test_tokens import word_tokenizer

    return word_tokenizer("Ship", "number", "left")


def test_a_run_without_chats_says_that_nothing_is_linked(base_folder, texts, tmp_path):
    config = TrainConfig(steps=2, tokens=512, rank=2, longest=4)
    small = LayoutConfig(block_size=16, blocks_per_segment=4)
    for chats, wanted in (([], 0.0), ([texts[1]], 0.25)):
        out = train_adapter(
            str(base_folder), texts=[texts[0]], chats=chats, folder=tmp_path / f"run{wanted}", config=config,
            layout=small, device="cpu",
        )  # fmt: skip
        assert json.loads((out / "hierlandmark.json").read_text())["training"]["config"]["linked"] == wanted
