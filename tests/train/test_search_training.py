"""Steps that train the search: their batches, and that they train what `Memory.search` does."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from hierlandmark import LayoutConfig, Memory, MemoryConfig, Message
from hierlandmark.config import RecallConfig
from hierlandmark.errors import InvalidArgument
from hierlandmark.layout import Kind, Layout
from hierlandmark.model import LandmarkModel, RetrievalHead
from hierlandmark.model.prompts import render, search_prompt
from hierlandmark.testing import ByteTokenizer, tiny_model
from hierlandmark.train import run as runs
from hierlandmark.train import search_loss as losses
from hierlandmark.train.config import TrainConfig
from hierlandmark.train.corpus import Talk, Turn, build_corpus
from hierlandmark.train.episodes import build_batch
from hierlandmark.train.links import linked_memory
from hierlandmark.train.loop import BatchSource, shape_of
from hierlandmark.train.pairs import Padded, Pairs, build_pairs
from hierlandmark.train.run import train_adapter
from hierlandmark.train.search_loss import SearchTraining, find, search_loss

TOKENIZER = ByteTokenizer()
LAYOUT = LayoutConfig(block_size=128, blocks_per_segment=4)
HEADS = {0: [1, 3], 1: [0, 2]}
WEIGHT = 0.7


def turn(role, text):
    return Turn(role, np.asarray(TOKENIZER(f" {text}")["input_ids"], dtype=np.uint32))


ROOM = Talk(
    [
        turn(f"nick{n % 5}", f"Ship number {n} left port {n * 7} with grain. Its captain was Person{n}.")
        for n in range(60)
    ],
    links=[(n, n - 3) for n in range(10, 60)],
)


def corpus_of(*chats):
    return build_corpus({}, TOKENIZER, lambda q: TOKENIZER(f"<q>{q}<a>")["input_ids"], chats)


def pairs_of(seed=0, batch=2, segments=3, teacher=None):
    return build_pairs(corpus_of(ROOM), LAYOUT, batch, segments, 256, np.random.default_rng(seed), teacher)


def test_messages_own_their_tokens_and_queries_want_messages_of_their_own_memory():
    pairs = pairs_of()
    B, S, P = pairs.ids.shape
    n, M = pairs.targets.shape
    assert (B, S, P) == (2, 3, LAYOUT.segment_size) and not pairs.layout.reads.any()
    assert pairs.targets.any(1).all() and (np.diff(pairs.rows) >= 0).all() and set(pairs.rows) == {0, 1}
    assert ((pairs.owners < M) <= (pairs.layout.kinds == Kind.CONTENT)).all()
    for b in range(B):
        for m in range(pairs.counts[b]):
            text = bytes(pairs.ids[b][pairs.owners[b] == m].tolist()).decode()
            # the last one may be cut
            assert text.startswith("nick") and (text.endswith("\n\n") or m == pairs.counts[b] - 1)
    for at in range(n):
        prompt = pairs.queries.ids[at, : pairs.queries.lengths[at]]
        assert prompt[0] == 256 and len(prompt) <= LAYOUT.block_size - 1
        assert bytes(prompt[1:].tolist()).decode().endswith('\nFound: "')
        assert not pairs.targets[at, pairs.counts[pairs.rows[at]] :].any()


def test_a_teacher_reads_messages_and_queries_as_they_are():
    def teacher(texts, truncation, max_length):
        return {"input_ids": [list(text.encode())[:max_length] for text in texts]}

    pairs = pairs_of(teacher=teacher)
    assert len(pairs.messages.ids) == pairs.counts.sum() and len(pairs.asked.ids) == len(pairs.rows)
    first = bytes(pairs.messages.ids[0, : pairs.messages.lengths[0]].tolist()).decode()
    assert first == bytes(pairs.ids[0][pairs.owners[0] == 0].tolist()).decode().strip()[:128]


@pytest.mark.parametrize("chat", [ROOM, Talk(ROOM.turns)], ids=["links", "sentences"])
def test_a_question_asks_about_words_of_its_message(chat):
    seen = 0
    for seed in range(12):
        made = linked_memory(corpus_of(chat), [400] * 6, np.random.default_rng(seed), most=30)
        text = np.concatenate(made.segments)
        for query in made.queries:
            if query.kind == "about":
                seen += 1
                (where,) = query.where
                said = bytes(text[slice(*made.spans[where])].tolist()).decode().lower()
                words = [word.strip("?.,").lower() for word in query.text.split()]
                assert any(word in said for word in words if len(word) > 3 and word not in {"about", "ever", "what"})
    assert seen > 20


def test_a_message_says_the_fact_it_is_asked_for():
    seen = alone = 0
    for seed in range(8):
        made = linked_memory(corpus_of(ROOM), [400] * 6, np.random.default_rng(seed), most=30, facts=0.4)
        text = np.concatenate(made.segments)
        for query in made.queries:
            if query.kind == "fact":
                seen += 1
                (where,) = query.where
                if made.bodies[where][1] == len(text):
                    # the end of the memory may have cut the fact
                    continue
                said = bytes(text[slice(*made.bodies[where])].tolist()).decode()
                alone += "Ship" not in said
                words = {word.strip("?.,").lower() for word in query.text.split()}
                telling = {word for word in words if len(word) > 3} - {"what", "remind", "remember", "does", "with"}
                assert any(word in said.lower() for word in telling)
    assert seen > 20 and 0 < alone < seen
    made = [linked_memory(corpus_of(ROOM), [400] * 6, np.random.default_rng(seed), most=30) for seed in range(4)]
    assert not any(query.kind == "fact" for one in made for query in one.queries)


def test_most_messages_stay_however_much_is_asked():
    for seed in range(6):
        made = linked_memory(corpus_of(ROOM), [400] * 3, np.random.default_rng(seed), most=400)
        replies = sum(query.kind == "reply" for query in made.queries)
        assert 0 < replies <= 0.35 * (len(made.spans) + replies)


# one message a block or several, and messages longer than a segment
CHATS = {
    "short": [f"{'abcdefg'[i % 7] * (1 + i * 5 % 11)} {i}" for i in range(20)],
    "long": [f"{'abcdefg'[i % 7] * (20 + i * 17 % 60)} {i}" for i in range(9)],
}


@pytest.mark.parametrize("sizes", [(), (19, 21)], ids=["one group", "three groups of queries"])
@pytest.mark.parametrize("kind", CHATS)
def test_what_is_trained_is_what_a_search_finds(kind, sizes, monkeypatch):
    monkeypatch.setattr(losses, "_QUERY_LENGTHS", sizes)
    layout = LayoutConfig(block_size=32, blocks_per_segment=4)
    plain = tiny_model(layout=layout)
    heads = [RetrievalHead(layer=layer, head=head, weight=WEIGHT) for layer, some in HEADS.items() for head in some]
    model = LandmarkModel(
        plain.core, plain.tokenizer, "searched", kv_dtype=torch.float32, retrieval=heads, ranking="sum"
    )
    messages = [Message(id=i, role="user", content=text) for i, text in enumerate(CHATS[kind])]
    rendered = [model.tokenize(render(message)) for message in messages]
    tokens = np.concatenate(rendered)
    owner = np.repeat(np.arange(len(messages)), [len(one) for one in rendered])
    lengths = model.cut(tokens, [len(one) for one in rendered])
    S = len(lengths)
    grid = Layout.of([lengths], layout, reads=np.zeros((S, S), dtype=bool))
    # long and short in turn
    queries = ["ddd 3", "7", "abc", "eee 4", "9"]
    prompts = [[256, *search_prompt(model.tokenizer, query)] for query in queries]
    pairs = Pairs(
        grid.place([tokens]), grid, grid.place([owner], fill=len(messages)), Padded.of(prompts),
        np.zeros(len(queries), dtype=np.int64), np.eye(len(messages), dtype=bool)[: len(queries)],
    )  # fmt: skip
    with torch.inference_mode():
        found = find(model.core, pairs, SearchTraining(HEADS, WEIGHT)).messages
    config = MemoryConfig(recall=RecallConfig(search_segments=500))
    with Memory.open(":memory:", model=model, config=config) as memory:
        memory.add(messages)
        for row, query in zip(found, queries, strict=True):
            hits = memory.search(query, len(messages), mode="flat").hits
            total = sum(hit.score for hit in hits)
            scores = {hit.message_ids[0]: hit.score / total for hit in hits}
            assert scores == pytest.approx({i: float(p) for i, p in enumerate(row)}, rel=1e-3, abs=1e-7)


def test_gradients_reach_rows_and_both_sides_but_nothing_above_the_highest_layer():
    core = tiny_model(layout=LAYOUT).core.requires_grad_(True).train()
    loss, parts = search_loss(core, pairs_of(), SearchTraining({0: [1, 3]}, WEIGHT))
    loss.backward()
    touched = {name for name, p in core.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {"rows"} < touched and any("layers.0.self_attn.q_proj" in name for name in touched)
    assert not any("layers.1" in name or "layers.0.mlp" in name for name in touched)
    assert 0 <= parts["found"] <= 1 and np.isfinite(float(loss.detach()))


def test_what_is_hardly_found_still_has_a_gradient():
    core = tiny_model(layout=LAYOUT).core.requires_grad_(True).train()
    pairs, training = pairs_of(), SearchTraining(HEADS, 100.0)
    found = find(core, pairs, training)
    losses_ = -found.log_messages.masked_fill(~torch.from_numpy(pairs.targets), -1e30).logsumexp(1)
    # summed logits so far apart that such a probability is 0 in fp32
    (worst,) = losses_.topk(1).indices.tolist()
    assert losses_[worst] > 100 and found.messages.sum(1).allclose(torch.ones(len(losses_)))
    (gradient,) = torch.autograd.grad(losses_[worst], [core.rows])
    assert torch.isfinite(gradient).all() and gradient.abs().sum() > 1e-3


def test_queries_have_a_sink_where_the_layout_has_one():
    layout = LAYOUT.model_copy(update={"sink": False})
    pairs = build_pairs(corpus_of(ROOM), layout, 1, 2, 256, np.random.default_rng(0))
    assert not (pairs.queries.ids == 256).any() and not (pairs.ids == 256).any()


def test_a_few_steps_learn_which_message_is_meant():
    core = tiny_model(layout=LAYOUT).core.requires_grad_(True).train()
    pairs, training = pairs_of(batch=1), SearchTraining(HEADS, 0.1)
    optimizer = torch.optim.AdamW(core.parameters(), lr=3e-3)
    first = None
    for _ in range(40):
        loss, parts = search_loss(core, pairs, training)
        first = first or parts
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert parts["search"] < first["search"] / 2 and parts["found"] > 0.6
    assert parts["search_gates"] < first["search_gates"] and parts["found_gates"] > 0.6


def test_the_teacher_is_a_copy_of_its_own(monkeypatch):
    loaded = torch.nn.Linear(2, 2)
    monkeypatch.setattr(runs.minilm, "load", lambda: (None, loaded))
    core = tiny_model(layout=LAYOUT).core
    _, searching = runs._searching(core, TrainConfig(search_share=0.5, search_layers=(1,), taught=0.5))
    assert searching.teacher is not loaded and torch.equal(searching.teacher.weight, loaded.weight)


def test_a_teacher_moves_the_target(monkeypatch):
    pairs = pairs_of(batch=1)
    core = tiny_model(layout=LAYOUT).core
    n, M = pairs.targets.shape
    said = torch.zeros(n, M)
    said[:, 1] = 1.0
    monkeypatch.setattr(losses, "_taught", lambda *_: said)
    with torch.inference_mode():
        found = find(core, pairs, SearchTraining(HEADS, 0.1)).messages
        parts = search_loss(core, pairs, SearchTraining(HEADS, 0.1, teacher=object(), taught=1.0))[1]
    assert parts["search"] == pytest.approx(float(-found[:, 1].log().mean()), rel=1e-5)


def test_taught_probabilities_are_the_teachers_and_only_of_messages_that_are_there(monkeypatch):
    pairs = replace(
        pairs_of(),
        messages=Padded.of([[1]] * 5),
        asked=Padded.of([[1], [2]]),
        rows=np.array([0, 1]),
        counts=np.array([2, 3]),
    )
    vectors = torch.eye(4)
    told = iter((vectors[[0, 1, 0, 1, 2]], vectors[[0, 2]]))
    monkeypatch.setattr(losses, "_embedded", lambda *_: next(told))
    said = losses._taught(pairs, SearchTraining(HEADS, 1.0, temperature=0.05), torch.tensor([0, 1]), 4)
    assert torch.allclose(said.sum(1), torch.ones(2)) and said[0, 0] > 0.99 and said[1, 2] > 0.99
    assert said[0, 2:].sum() == 0 and said[1, 3] == 0


def test_an_adapter_of_such_a_run_ranks_by_sums(tmp_path, base_folder, texts):
    book, chats = texts[0], tmp_path / "chats.jsonl"
    messages = [{"id": i, "role": t.role, "content": TOKENIZER.decode(t.tokens)} for i, t in enumerate(ROOM)]
    chats.write_text(json.dumps({"id": 1, "messages": messages}) + "\n")
    config = TrainConfig(
        steps=6, tokens=256, longest=3, rank=2, search_share=0.5, search_layers=(1,), search_weight=0.5, votes=0.0
    )
    layout = LayoutConfig(block_size=64, blocks_per_segment=4)
    out = train_adapter(
        str(base_folder), texts=[book], chats=[chats], folder=tmp_path / "run", config=config, layout=layout
    )
    meta = json.loads((out / "hierlandmark.json").read_text())
    assert meta["ranking"] == "sum" and {head["layer"] for head in meta["retrieval"]} == {1}
    assert {head["weight"] for head in meta["retrieval"]} == {0.5}
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {row["mode"] == "search" for row in rows} == {True, False}
    assert all("found" in row and "facts" not in row for row in rows if row["mode"] == "search")
    model = LandmarkModel.from_pretrained(base_folder, adapter=out)
    assert model.ranking == "sum" and model.search_layers == (1,)


def test_search_steps_need_layers_and_chats(tmp_path, base_folder, texts):
    with pytest.raises(InvalidArgument, match="search_layers"):
        TrainConfig(search_share=0.5)
    with pytest.raises(InvalidArgument, match="search_layers"):
        TrainConfig(search_layers=(1,))
    with pytest.raises(InvalidArgument, match="search_share"):
        TrainConfig(search_share=0.5, search_layers=(1,), attention="full")
    config = TrainConfig(steps=1, tokens=256, rank=2, search_share=1.0, search_layers=(7,))
    with pytest.raises(InvalidArgument, match="under 2"):
        train_adapter(str(base_folder), texts=[texts[0]], chats=[texts[1]], folder=tmp_path / "run", config=config)
    for useless in ({"taught": 0.5}, {"search_tokens": 64}, {"search_weight": 0.5}):
        with pytest.raises(InvalidArgument, match="with a search_share only"):
            TrainConfig(**useless)
    with pytest.raises(InvalidArgument, match="0 or more"):
        TrainConfig(search_share=0.5, search_layers=(-1,))
    with pytest.raises(InvalidArgument, match="give chats, or search_share=0"):
        train_adapter(
            str(base_folder), texts=[texts[0]], chats=[], folder=tmp_path / "run",
            config=replace(config, search_layers=(1,)),
        )  # fmt: skip
    silent, rng = corpus_of(Talk([turn("user", "Hm.")])), np.random.default_rng(0)
    with pytest.raises(InvalidArgument, match="give chats, or search_share=0"):
        build_pairs(silent, LAYOUT, 1, 2, 256, rng)


def test_batches_without_a_share_are_what_they_were():
    corpus = corpus_of(ROOM)
    config = TrainConfig(steps=4, tokens=1024, longest=3, needles=0.0, linked=0.0)
    plain, mixed = (
        BatchSource(corpus, one, LAYOUT) for one in (config, replace(config, search_share=0.5, search_layers=(1,)))
    )
    kinds = [mixed[i][1] for i in range(4)]
    assert "search" in kinds and "search" not in [plain[i][1] for i in range(4)]
    # what is drawn without a share is drawn as if there were none at all
    rng = np.random.default_rng((config.seed, 0))
    mode = "flat" if rng.random() < config.flat_share else "hierarchical"
    shape = shape_of(config, LAYOUT, 0.0, rng)
    batch = build_batch(corpus, LAYOUT, shape, rng, needles=0.0, linked=0.0)
    assert plain[0][1] == mode and (plain[0][0].ids == batch.ids).all()
