"""Needle trials over shared segments: the same answers at the same cost as documents added whole."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from hierlandmark import Memory, Message
from hierlandmark.config import LayoutConfig, MemoryConfig, RecallConfig
from hierlandmark.errors import InvalidArgument
from hierlandmark.eval import needles
from hierlandmark.eval import trial as one_trial
from hierlandmark.eval.fillers import check_memory
from hierlandmark.eval.haystack import Haystack
from hierlandmark.eval.needles import MODES, Plan, check_lengths, check_model, evaluate_needles, is_final, key_of
from hierlandmark.eval.segments import SharedSegments, cut, write_segments
from hierlandmark.model import LandmarkModel
from hierlandmark.recall import Recall
from hierlandmark.testing import tiny_model

# wide enough for a question of bytes, so that a prompt stays in one window
WIDE = LayoutConfig(block_size=32, blocks_per_segment=8)
TASKS = ("passkey", "niah_multikey_2", "niah_multivalue", "vt")
COST = ("gate_keys", "landmark_keys", "blocks_read", "bytes_read")
make_model = partial(tiny_model, layout=WIDE)


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("books") / "book.txt"
    path.write_text(" ".join(f"On day {i} they went to house {i * i}." for i in range(400)))
    return path


@pytest.fixture(scope="module")
def plan(book: Path) -> Plan:
    # low gate mass of a random model is read all the same
    recall = RecallConfig(threshold=0.0)
    return Plan(TASKS, [1200, 2000], text=book, trials=1, haystacks=1, max_new_tokens=6, recall=recall)


@pytest.fixture(scope="module")
def records(plan: Plan) -> list[dict]:
    return list(evaluate_needles(make_model, plan))


def test_one_record_each(plan: Plan, records: list[dict]) -> None:
    assert sorted(map(key_of, records)) == sorted(plan.keys)
    assert len(records) == 2 * 3 * (len(TASKS) + 1)


def test_shared_segments_equal_the_whole_document(
    plan: Plan, records: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    trials = one_trial.Trials(model, plan)
    checked = 0
    for filler in sorted({record["filler"] for record in records}):
        folder = tmp_path / filler
        folder.mkdir()
        trials.prepare(folder, filler, 0, 2000, 1)
        with np.load(folder / "haystack.npz") as held:
            hay = Haystack(held["tokens"], held["cuts"], held["ends"])
        for record in (r for r in records if r["filler"] == filler and r["mode"] != "full"):
            trial = trials.trial(hay, filler, record["task"], record["length"], record["trial"])
            document, sizes, room = trials.document(hay, trial, record["length"])
            text = model.decode(document.tolist())
            assert len(document) + len(model.tokenize(trial.prompt)) + room == record["length"]
            assert all(statement in text for statement in trial.statements) and text.startswith(trial.opening)
            with Memory.open(":memory:", model=model, config=MemoryConfig(recall=plan.recall)) as memory:
                # cut as the document is: what a needle pushed out of a segment may have moved the end of a sentence
                with monkeypatch.context() as patch:
                    patch.setattr(model, "cut", lambda *_, sizes=sizes: sizes)
                    memory.add([Message(id=0, role="document", content=text[:-2])])
                assert memory.stats().tokens == len(document)
                whole = memory.complete(trial.prompt, max_new_tokens=room, mode=record["mode"])
            assert whole.text == record["text"]
            assert {name: getattr(whole.cost, name) for name in COST} == {name: record[name] for name in COST}
            # an answer that read nothing would prove nothing
            assert record["blocks_read"] > 0
            # most segments are the haystack's own: not the opening, the end, and one a statement
            assert record["encoded"] <= 2 + len(trial.statements)
            checked += 1
    assert checked == len(records) * 2 // 3


def test_a_trial_depends_on_its_own_length_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # few keys, so that many of those drawn stand in the longer haystack
    monkeypatch.setattr("hierlandmark.needles.ADJECTIVES", [f"able{i}" for i in range(10)])
    monkeypatch.setattr("hierlandmark.needles.NOUNS", [f"acorn{i}" for i in range(10)])
    found = []
    for longest in (1200, 4000):
        trials = one_trial.Trials(make_model(), Plan(["niah_multikey_2"], [1200, longest]))
        folder = tmp_path / str(longest)
        folder.mkdir()
        filler = "needles of niah_multikey_2"
        trials.prepare(folder, filler, 0, longest, 0)
        with np.load(folder / "haystack.npz") as held:
            hay = Haystack(held["tokens"], held["cuts"], held["ends"])
        drawn = [trials.trial(hay, filler, "niah_multikey_2", 1200, number) for number in range(20)]
        found.append([(one.statements, one.depths) for one in drawn])
    assert found[0] == found[1]


def test_what_is_named_twice_is_measured_once() -> None:
    once = Plan(["passkey", "vt"], [600], trials=2, modes=["flat", "full"])
    twice = Plan(["passkey", "vt", "passkey"], [600, 600], trials=2, modes=["flat", "full", "flat"])
    assert twice.keys == once.keys


def test_each_mode_comes_first_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = one_trial.Trials(make_model(), Plan(["passkey"], [600], beyond=True, max_new_tokens=2))
    trials.prepare(tmp_path, "grass", 0, 600, 0)
    asked: list[tuple[str, bool]] = []
    answer, full = one_trial.answer, LandmarkModel.complete_full

    def seen(model: object, recall: Recall, *args: object, **more: object) -> object:
        asked.append((recall.config.mode, bool(recall.sources)))
        return answer(model, recall, *args, **more)  # type: ignore[arg-type]

    def read(model: LandmarkModel, prompt: str, **more: int) -> object:
        asked.append(("full", len(prompt) > 300))
        return full(model, prompt, **more)

    monkeypatch.setattr(one_trial, "answer", seen)
    monkeypatch.setattr(LandmarkModel, "complete_full", read)
    first = trials.run(tmp_path, "grass", "passkey", 600, 0, MODES)
    # a question about nothing before what is timed
    assert asked == [(mode, real) for mode in MODES for real in (False, True)]
    second = trials.run(tmp_path, "grass", "passkey", 600, 1, MODES)
    assert [record["mode"] for record in first] == ["hierarchical", "flat", "full"]
    assert [record["mode"] for record in second] == ["flat", "full", "hierarchical"]
    assert asked[6:] == [("flat", True), ("full", True), ("hierarchical", True)]


def test_out_of_memory_is_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = one_trial.Trials(make_model(), Plan(["passkey"], [600], max_new_tokens=2))
    trials.prepare(tmp_path, "grass", 0, 600, 0)

    def none_left(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(one_trial, "answer", none_left)
    records = trials.run(tmp_path, "grass", "passkey", 600, 0, ["flat", "hierarchical"])
    assert [(record["score"], record["why"], is_final(record)) for record in records] == [
        (None, "out of memory", False)
    ] * 2


def test_needles_change_the_answer(records: list[dict]) -> None:
    texts = {(r["task"], r["length"], r["filler"], r["mode"]): r["text"] for r in records if r["mode"] != "full"}
    assert len(set(texts.values())) > len(texts) // 2


def test_files_of_several_transactions(tmp_path: Path) -> None:
    model = make_model()
    tokens = np.arange(WIDE.segment_capacity * 19, dtype=np.int32) * 7 % 250
    sizes = [WIDE.segment_capacity] * 19
    pieces = cut(tokens, sizes)
    for i, part in enumerate((pieces[:17], pieces[17:])):
        write_segments(tmp_path / f"{i}.db", model, part)
    shared = SharedSegments(model, [tmp_path / "0.db", tmp_path / "1.db"])
    # in order, one of them twice, and a short one at the end
    document = np.concatenate([tokens, pieces[3], pieces[0][:9]])
    sources, encoded = shared.document(document, [*sizes, len(pieces[3]), 9])
    assert encoded == 1
    assert np.array_equal(np.concatenate([r.tokens for source in sources for r in source.records]), document)
    assert [len(source.records) for source in sources] == [17, 2, 1, 1]
    shared.close()


def test_steps_are_forward_passes(records: list[dict]) -> None:
    layers, kv_heads = 2, 2
    for record in (r for r in records if r["mode"] == "flat"):
        # flat scores every landmark of the document in every pass
        blocks = -(-record["document"] // WIDE.segment_capacity) * WIDE.blocks_per_segment
        # segments end within their last block
        most = -(-record["document"] // (WIDE.segment_capacity - WIDE.block_size)) * WIDE.blocks_per_segment
        keys = record["landmark_keys"] / (record["steps"] * layers * kv_heads)
        assert blocks - WIDE.blocks_per_segment < keys <= most
        assert record["gate_keys"] == 0


def test_the_base_model_ends_where_its_positions_do(records: list[dict], plan: Plan) -> None:
    full = [record for record in records if record["mode"] == "full"]
    assert {(r["score"], r["why"]) for r in full} == {(None, "the base model has 512 positions")}
    beyond = Plan(["passkey"], [600], trials=1, modes=["full"], beyond=True)
    (record,) = evaluate_needles(make_model, beyond)
    assert record["score"] == 0 and record["tokens"] > 0


def test_what_is_done_is_not_done_again(plan: Plan, records: list[dict]) -> None:
    left = [key for key in plan.keys if key[0] == "vt" and key[2] == 1200 and key[4] != "full"]
    again = list(evaluate_needles(make_model, plan, done=set(plan.keys) - set(left)))
    assert sorted(map(key_of, again)) == sorted(left)
    before = {key_of(record): record.get("text") for record in records}
    assert all(record["text"] == before[key_of(record)] for record in again)
    assert list(evaluate_needles(make_model, plan, done=plan.keys)) == []


def test_several_processes_say_the_same(records: list[dict], plan: Plan) -> None:
    few = Plan(["passkey"], [1200], trials=1, haystacks=1, max_new_tokens=6, recall=plan.recall, modes=MODES[:2])
    found = {key_of(record): record for record in evaluate_needles(make_model, few, workers=2)}
    assert len(found) == 2
    for record in records:
        if key_of(record) in found:
            same = ("text", "document", "encoded", *COST)
            assert {n: record[n] for n in same} == {n: found[key_of(record)][n] for n in same}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trials": 0}, "at least one task, length, mode, trial and haystack"),
        ({"lengths": [4096, 0]}, "expected lengths of at least 1 token, got 0"),
        ({"max_new_tokens": -3}, "expected max_new_tokens of at least 1, got -3"),
        ({"modes": ["flat", "round"]}, "expected modes of hierarchical, flat, full, got round"),
        ({"tasks": ["niah_single_2"]}, "give its file as text"),
    ],
)
def test_plans_that_are_none(change: dict, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        Plan(**{"tasks": ["passkey"], "lengths": [600], **change})


@pytest.mark.parametrize("task", TASKS)
def test_the_length_that_is_named_for_one_too_short_does(task: str, book: Path, tmp_path: Path) -> None:
    """Of the model, and of any tokenizer: this one makes a token of each byte."""
    model, named = make_model(), []
    plan = Plan([task], [60], text=book, trials=4)
    short = replace(plan, lengths=[10])
    for check in (lambda: check_model(plan, model, plan.keys), lambda: check_lengths(short, short.keys)):
        with pytest.raises(InvalidArgument) as told:
            check()
        named.append(int(re.search(r"(?:at least |; )(\d+) tokens", str(told.value))[1]))
    trials, filler = one_trial.Trials(model, plan), plan.fillers(task)[-1]
    for length in named:
        trials.prepare(tmp_path, filler, 0, length, 0)
        with np.load(tmp_path / "haystack.npz") as held:
            hay = Haystack(held["tokens"], held["cuts"], held["ends"])
        drawn = [trials.trial(hay, filler, task, length, number) for number in range(plan.trials)]
        documents = [trials.document(hay, trial, length) for trial in drawn]
        sizes = [len(document) + room for document, _, room in documents]
        assert [size + len(model.tokenize(trial.prompt)) for size, trial in zip(sizes, drawn, strict=True)] == [
            length
        ] * 4


def test_a_tokenizer_that_merges_over_spaces_has_room(book: Path) -> None:
    """Fewer tokens than words are told by the model's own tokenizer, which makes one of two words here."""
    model = Mock(tokenize=lambda text: [0] * -(-len(text.split()) // 2))
    plan = Plan(["passkey"], [34], modes=["full"], trials=2)
    check_lengths(plan, plan.keys)
    check_model(plan, model, plan.keys)
    with pytest.raises(InvalidArgument, match="at least 34 tokens, got 33"):
        check_model(plan, model, Plan(["passkey"], [33]).keys)


def test_lengths_are_told_before_a_model_is_made(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Mock(side_effect=AssertionError("made"))
    chars = len(book.read_text())
    monkeypatch.setattr("os.sysconf", lambda name: 4096 if name == "SC_PAGE_SIZE" else 10**5)
    for lengths, said in (
        (
            [600, 1_024_001],
            "expected lengths of at most 1,024,000 tokens, which this machine has memory for, got 1,024,001",
        ),
        ([600, chars], f"book.txt runs out: {chars + 64} characters are needed, it has {chars}"),
        ([600, 20], "expected lengths that hold the 57 words of passkey and its answer, got 20; 262"),
    ):
        plan = Plan(["passkey"], lengths, text=book)
        with pytest.raises(InvalidArgument, match=said):
            evaluate_needles(make, plan)
        # what is done is not told, also where only some is
        done = [key for key in plan.keys if key[2] != 600]
        evaluate_needles(make, plan, done=done)
        assert list(evaluate_needles(make, plan, done=plan.keys)) == []


@pytest.mark.parametrize("told", [{"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": -1}, None])
def test_memory_that_the_system_does_not_tell_bounds_nothing(
    told: dict | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if told:
        monkeypatch.setattr("os.sysconf", told.get)
    else:
        monkeypatch.delattr("os.sysconf")
    check_memory(10**12)


def test_a_fillers_text_is_looked_at_where_it_is_read(book: Path) -> None:
    plan = Plan(["passkey"], [600, len(book.read_text())], text=book)
    long_in_text = [key for key in plan.keys if key[1:3] == (book.name, plan.lengths[1])]
    evaluate_needles(make_model, plan, done=long_in_text)
    with pytest.raises(InvalidArgument, match="runs out"):
        evaluate_needles(make_model, plan, done=long_in_text[1:])


def test_lengths_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = Mock(wraps=needles.check_lengths)
    monkeypatch.setattr(needles, "check_lengths", looked)
    plan = Plan(["passkey"], [600], trials=1, modes=["full"])
    assert len(list(evaluate_needles(make_model, plan))) == 1
    assert looked.call_count == 1


def test_a_haystack_too_large_for_the_disk_is_told(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, plan = make_model(), Plan(["passkey"], [2000], text=book)
    spec = model.kv_spec
    size = 2000 * 2 * spec.layers * spec.kv_heads * spec.head_dim * spec.numpy_dtype.itemsize
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=size - 1))
    # grass is kept once, and plain attention keeps nothing
    for rest in (replace(plan, modes=["full"]), replace(plan, text=None)):
        check_model(rest, model, rest.keys)
    with pytest.raises(
        InvalidArgument, match=f"fit on the disk, got 2,000: {size:,} bytes are needed and {size - 1:,} free"
    ):
        check_model(plan, model, plan.keys)
    with pytest.raises(InvalidArgument, match="fit on the disk"):
        next(evaluate_needles(lambda: model, plan))
    # only what is left needs room
    left = [key for key in plan.keys if key[1] == "grass"]
    assert next(evaluate_needles(lambda: model, plan, done=set(plan.keys) - set(left)))["filler"] == "grass"


def test_a_length_that_does_not_hold_its_lines() -> None:
    with pytest.raises(InvalidArgument, match=r"expected lengths of at least \d+ tokens, got 150"):
        list(evaluate_needles(make_model, Plan(["passkey"], [150], trials=1)))
    with pytest.raises(InvalidArgument, match="at least one worker"):
        list(evaluate_needles(make_model, Plan(["passkey"], [600]), workers=0))
