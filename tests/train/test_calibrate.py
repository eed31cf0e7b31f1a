"""Which heads vote: the ones that find are chosen, votes are those of a search, and the adapter takes them."""

import json
import shutil
import sys

import numpy as np
import pytest

from hierlandmark import LayoutConfig, Memory, Message
from hierlandmark.errors import InvalidArgument
from hierlandmark.memory.rank import rank_blocks
from hierlandmark.model import LandmarkModel
from hierlandmark.model.adapter import Adapter
from hierlandmark.model.generate import push
from hierlandmark.model.prompts import search_prompt
from hierlandmark.testing import ByteTokenizer, tiny_model
from hierlandmark.train.calibrate import Case, calibrate, choose_heads, judge, main, make_cases, report, split_chats
from hierlandmark.train.config import TrainConfig
from hierlandmark.train.corpus import Talk, Turn, build_corpus
from hierlandmark.train.links import Linked, Query
from hierlandmark.train.run import train_adapter

LAYOUT = LayoutConfig(block_size=16, blocks_per_segment=4)


def case(seed, *, good=(), heads=8, blocks=40):
    """A query whose answer the good heads find."""
    rng = np.random.default_rng(seed)
    votes = rng.random((heads, blocks)).astype(np.float32)
    segment = np.arange(blocks) // 4
    answer = int(rng.integers(0, blocks))
    votes[list(good), answer] = 2.0
    gates = np.stack([np.bincount(segment, weights=row) for row in votes]).astype(np.float32)
    gates[list(good), segment[answer]] = 10.0
    each = np.arange(blocks)
    return Case("cloze", votes, gates, segment, each, np.ones(blocks, np.float32), each, np.array([answer]))


def test_the_heads_that_find_are_chosen():
    cases = [case(i, good=(5,)) for i in range(12)] + [case(i, good=(2,)) for i in range(12, 24)]
    chosen = choose_heads(cases, 4, range(8))
    assert {2, 5} <= chosen.keys() and sum(chosen.values()) == 4
    assert choose_heads(cases, 2, [0, 1, 2]).keys() & {2}
    after, before = report(cases, chosen)["mean"], report(cases, dict.fromkeys(range(8), 1.0))["mean"]
    assert after["mrr"] > before["mrr"] and after["recall@10"] >= before["recall@10"]
    with pytest.raises(InvalidArgument, match="none"):
        choose_heads([], 4, range(8))


@pytest.mark.parametrize(("cases", "before"), [(3, "\r3 queries\n"), (0, "")])
def test_an_error_stands_on_a_line_of_its_own(monkeypatch, capsys, cases, before):
    def fails(*_, progress, **__):
        if cases:
            progress(cases)
        raise InvalidArgument("expected queries")

    monkeypatch.setattr(sys.modules[main.__module__], "calibrate", fails)
    with pytest.raises(SystemExit) as ended:
        main(["--adapter", "a", "--chats", "c"])
    assert (ended.value.code, capsys.readouterr().err) == (2, f"{before}InvalidArgument: expected queries\n")


def test_a_message_is_ranked_by_its_best_block_and_its_share_of_it():
    # three messages in two blocks of one segment: the first block is shared, the second is the third's alone
    votes = np.array([[0.6, 0.4], [0.2, 0.8]], np.float32)
    gates = np.ones((2, 1), np.float32)
    root = np.sqrt(np.array([0.75, 0.25, 1.0], np.float32))

    def ranked(relevant):
        one = Case("reply", votes, gates, np.zeros(2, int), np.array([0, 0, 1]), root, np.arange(3), np.array(relevant))
        return judge(one, votes, gates)[1].tolist()

    assert ranked([0]) == pytest.approx([1.0, 1 / 2])
    assert ranked([1]) == pytest.approx([1 / 3, 1 / 3])
    assert ranked([2]) == pytest.approx([1 / 2, 1.0])
    assert ranked([1, 2]) == pytest.approx([1 / 2, 1.0])


def test_what_gates_do_not_open_is_not_found():
    one = case(0, good=range(8))
    closed = np.where(np.arange(10) == one.segment[one.relevant[0]], 0.0, one.gates)
    assert judge(one, one.votes, one.gates)[1].tolist() == [1.0] * 8
    # flat finds it, hierarchical does not
    assert judge(one, one.votes, closed)[1].tolist() == pytest.approx([(1 + 1 / 40) / 2] * 8)


def test_votes_are_those_of_a_search():
    model = tiny_model("qwen3", layout=LAYOUT)
    messages = [Message(id=i, role="user", content=f"Ship {i} left port {i * 7 % 10} today.") for i in range(9)]
    made_by = "Which ship left?"
    with Memory.open(":memory:", model=model) as memory:
        memory.add(messages)
        recall = memory._recall(model, memory._store, "flat")
        window = model.window(None, collect=True)
        push(model.core, window, search_prompt(model.tokenizer, made_by))
        wanted = rank_blocks(recall, window.queries, [], window.scale, "flat", 99)
        runs = [(record.tokens, record.runs) for record in (recall.block_of(s, 0)[0] for s in range(recall.n_segments))]
        segments = [np.asarray(tokens) for tokens, _ in runs]
    ends = np.cumsum([len(f"user: {m.content}\n\n") for m in messages])
    spans = [(int(a), int(b)) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    from hierlandmark.train.calibrate import _cases

    (got,) = _cases(model, Linked(segments, spans, spans, [Query("cloze", made_by, (3,))]))
    votes = wanted.votes.flatten(1)
    present = votes.sum(0) > 0
    np.testing.assert_allclose(got.votes, votes[:, present].numpy(), rtol=2e-3, atol=1e-5)
    assert got.gates.shape == (8, len(segments)) and len(got.starts) == len(messages)


def talks(count):
    def turn(role, text):
        return Turn(role, np.asarray(ByteTokenizer()(f" {text}")["input_ids"], dtype=np.uint32))

    return [
        Talk([turn("user", f"In talk {c} the ship called Number{n} left port {n}.") for n in range(30)])
        for c in range(count)
    ]


def test_chats_are_held_out_of_every_kind():
    linked = Talk(talks(1)[0].turns, links=[(3, 1)])
    corpus = build_corpus({}, ByteTokenizer(), lambda q: [1], [*talks(6), linked, linked, linked])
    first, second = split_chats(corpus, np.random.default_rng(0))
    assert (len(first.chats), len(second.chats)) == (6, 3)
    assert not {id(chat) for chat in first.chats if not chat.links} & {id(chat) for chat in second.chats}
    assert sum(bool(chat.links) for chat in second.chats) == 1


def test_cases_depend_on_the_seed_only():
    model = tiny_model(layout=LAYOUT)
    corpus = build_corpus({}, ByteTokenizer(), lambda q: [1], talks(3))

    def made():
        return make_cases(model, corpus, memories=2, segments=6, queries=4, rng=np.random.default_rng(3))

    one, other = made(), made()
    assert len(one) == len(other) > 2
    for a, b in zip(one, other, strict=True):
        assert np.array_equal(a.votes, b.votes) and np.array_equal(a.relevant, b.relevant)
        np.testing.assert_allclose(a.votes.sum(1), 1.0, rtol=1e-4)


@pytest.fixture(scope="module")
def adapter(base_folder, texts, tmp_path_factory):
    config = TrainConfig(steps=1, tokens=512, rank=2, longest=4, retrieval_layers=1)
    return train_adapter(
        str(base_folder), texts=[texts[0]], chats=[], folder=tmp_path_factory.mktemp("run"), config=config,
        layout=LAYOUT, device="cpu",
    )  # fmt: skip


@pytest.fixture
def chats(tmp_path):
    path = tmp_path / "chats.jsonl"
    line = [{"id": i, "role": "user", "content": f"The ship called Number{i} left port {i}."} for i in range(30)]
    path.write_text("".join(json.dumps({"id": c, "messages": line}) + "\n" for c in range(3)))
    return path


def test_chosen_heads_are_written_only_where_they_are_better(adapter, chats, base_folder, tmp_path, capsys):
    folder = tmp_path / "adapter"
    shutil.copytree(adapter, folder)
    options = {"base": str(base_folder), "count": 3, "memories": 2, "segments": 8, "queries": 6}
    told = calibrate(folder, [chats], write=False, **options)
    assert not told["written"] and Adapter.load(folder).meta == Adapter.load(adapter).meta
    digest = LandmarkModel.from_pretrained(base_folder, adapter=folder).kv_spec
    words = ["--adapter", str(folder), "--chats", str(chats), "--model", str(base_folder), "--heads", "3"]
    main([*words, "--memories", "2", "--segments", "8", "--queries", "6"])
    again = json.loads(capsys.readouterr().out)
    assert again["heads"] == told["heads"] and sum(head["weight"] for head in again["heads"]) == 3
    means = [sum(again["held_out"][name]["mean"].values()) for name in ("before", "after")]
    assert again["written"] == (means[1] > means[0])
    meta = Adapter.load(folder).meta
    if again["written"]:
        assert [head.model_dump() for head in meta.retrieval] == again["heads"]
        assert meta.training["calibration"]["chats"] == ["chats.jsonl"]
    else:
        assert meta == Adapter.load(adapter).meta
    # memories made with it stay valid
    assert LandmarkModel.from_pretrained(base_folder, adapter=folder).kv_spec == digest


def test_chats_too_few_to_hold_one_out_are_refused(adapter, chats, base_folder):
    chats.write_text(chats.read_text().splitlines()[0] + "\n")
    with pytest.raises(InvalidArgument, match="held out"):
        calibrate(adapter, [chats], base=str(base_folder))
