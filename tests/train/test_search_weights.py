"""Adapters whose search has weights of its own: how they are put together, and what a run leaves as it was."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from hierlandmark import LandmarkModel, LayoutConfig, Memory, Message
from hierlandmark.errors import AdapterInvalid, InvalidArgument
from hierlandmark.model.adapter import LORA_FILE, SEARCH_FILE, Adapter, layer_of, save_adapter
from hierlandmark.train.calibrate import calibrate
from hierlandmark.train.calibrate import main as calibrating
from hierlandmark.train.config import TrainConfig
from hierlandmark.train.merge import main, merge_adapters, with_search
from hierlandmark.train.run import train_adapter
from tests.train.test_search_training import ROOM, TOKENIZER

LAYOUT = LayoutConfig(block_size=64, blocks_per_segment=4)
# a rate at which two steps change what is predicted
READS = TrainConfig(steps=2, tokens=512, longest=3, rank=2, votes=0.0, learning_rate=0.02)
SEARCHES = replace(READS, steps=3, search_share=1.0, search_layers=(0,), search_weight=0.5, seed=3)


def run(base_folder, texts, folder, config, **options):
    return train_adapter(
        str(base_folder), texts=texts[:1], chats=texts[1:], folder=folder, config=config, layout=LAYOUT, **options
    )


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A book, and a chat that holds something to ask for."""
    folder = tmp_path_factory.mktemp("texts")
    book, chats = folder / "book.txt", folder / "chats.jsonl"
    book.write_text("".join(f"On day {i} the {i % 7} ships of port {i % 11} left for the north. " for i in range(400)))
    messages = [{"id": i, "role": t.role, "content": TOKENIZER.decode(t.tokens)} for i, t in enumerate(ROOM)]
    chats.write_text(json.dumps({"id": 1, "messages": messages}) + "\n")
    return book, chats


@pytest.fixture(scope="module")
def folders(base_folder, texts, tmp_path_factory):
    """An adapter that reads, one that searches, and both as one."""
    root = tmp_path_factory.mktemp("parts")
    reads = run(base_folder, texts, root / "reads", READS)
    searches = run(base_folder, texts, root / "searches", SEARCHES)
    return reads, searches, with_search(reads, searches, root / "both")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def lower(weights):
    return {name: tensor for name, tensor in weights.lora.items() if layer_of(name) < 1}


def test_one_reads_and_the_other_searches(folders, base_folder):
    reads, searches, both = map(Adapter.load, folders)
    assert same(both.weights.lora, reads.weights.lora) and torch.equal(both.weights.rows, reads.weights.rows)
    assert same(both.search.lora, lower(searches.weights)) and torch.equal(both.search.rows, searches.weights.rows)
    assert both.meta.retrieval == searches.meta.retrieval and both.meta.ranking == "sum"
    assert both.meta.search.scale == searches.weights.scale == 2.0
    assert both.meta.training == reads.meta.training and both.meta.search.training == searches.meta.training
    assert both.search_depth == 1 and not (folders[0] / SEARCH_FILE).exists()
    one, other, joined = (LandmarkModel.from_pretrained(base_folder, adapter=folder) for folder in folders)
    assert joined.searcher is not None and one.searcher is None
    assert len({model.kv_spec.fingerprint for model in (one, other, joined)}) == 3
    text = joined.tokenize("a text that both of them read")
    assert joined.nll(text, mode="flat") == one.nll(text, mode="flat") != other.nll(text, mode="flat")
    chat = [Message(id=i, content=f"{i} says word{i * 7 % 11}") for i in range(12)]
    with Memory.open(":memory:", model=joined) as memory, Memory.open(":memory:", model=other) as wanted:
        for each in (memory, wanted):
            each.add(chat)
        hits, expected = ([(h.message_ids, h.score) for h in m.search("word7", 12).hits] for m in (memory, wanted))
        assert hits == expected


def test_a_run_that_reads_leaves_the_search_as_it_was(folders, base_folder, texts, tmp_path):
    both = Adapter.load(folders[2])
    first = run(base_folder, texts, tmp_path / "more", replace(READS, seed=8), init=folders[2])
    resumed = {"resume": True, "init": folders[2]}
    with pytest.raises(InvalidArgument, match="give that as init again"):
        run(base_folder, texts, tmp_path / "more", replace(READS, steps=3, seed=8), resume=True)
    second = run(base_folder, texts, tmp_path / "more", replace(READS, steps=3, seed=8), **resumed)
    assert first == second
    after = Adapter.load(second)
    assert same(after.search.lora, both.search.lora) and torch.equal(after.search.rows, both.search.rows)
    assert not same(after.weights.lora, both.weights.lora)
    assert after.meta.search == both.meta.search
    assert (after.meta.retrieval, after.meta.ranking) == (both.meta.retrieval, "sum")
    assert after.meta.training["steps"] == 3


def test_a_run_that_searches_goes_on_from_the_weights_of_search(folders, base_folder, texts, tmp_path):
    config = replace(SEARCHES, steps=1, learning_rate=1e-9)
    made = Adapter.load(run(base_folder, texts, tmp_path / "on", config, init=folders[2]))
    both = Adapter.load(folders[2])
    assert made.search is None and made.meta.retrieval == both.meta.retrieval
    for name, tensor in lower(made.weights).items():
        torch.testing.assert_close(tensor, both.search.lora[name], atol=1e-6, rtol=1e-2)
    # nothing above was trained by either
    assert all(not t.any() for n, t in made.weights.lora.items() if layer_of(n) >= 1 and "lora_B" in n)
    again = Adapter.load(with_search(folders[2], tmp_path / "on" / "adapter", tmp_path / "out"))
    assert same(again.weights.lora, both.weights.lora)
    with pytest.raises(InvalidArgument, match="search_share 0 or 1"):
        run(base_folder, texts, tmp_path / "mixed", replace(SEARCHES, search_share=0.5), init=folders[2])


def test_the_weights_of_search_are_taken_from_one_that_has_them(folders, tmp_path):
    reads, _, both = folders
    made = Adapter.load(with_search(reads, both, tmp_path / "out"))
    found = Adapter.load(both)
    assert same(made.search.lora, found.search.lora) and made.meta == found.meta and made.digest == found.digest


def test_what_cannot_be_put_together(folders, texts, tmp_path, capsys):
    reads, searches, both = folders
    with pytest.raises(AdapterInvalid, match="weights of search"):
        merge_adapters(both, searches, tmp_path / "out", above=0.5, layer=1)
    # the same beside both stay beside their mean
    mean = Adapter.load(merge_adapters(both, both, tmp_path / "mean", above=0.5, layer=1))
    assert same(mean.search.tensors, Adapter.load(both).search.tensors)
    main([str(reads), str(searches), "--out", str(tmp_path / "out"), "--search"])
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    assert Adapter.load(tmp_path / "out").digest == Adapter.load(both).digest
    for options in (["--search", "--layer", "1", "--above", "0.5"], ["--search", "--below", "1"], ["--layer", "1"], []):
        with pytest.raises(SystemExit):
            main([str(reads), str(searches), "--out", str(tmp_path / "no"), *options])
    assert not (tmp_path / "no").exists()
    with pytest.raises(SystemExit) as ended:
        main([str(reads), str(tmp_path / "nothing"), "--out", str(tmp_path / "no"), "--search"])
    assert ended.value.code == 2 and "AdapterInvalid: expected an adapter folder" in capsys.readouterr().err


def test_heads_of_weights_of_their_own_are_not_chosen_anew(folders, base_folder, texts, capsys):
    how = r"\(`train_adapter` with init, search_share=1, search_layers=\(0,\)\)"
    with pytest.raises(InvalidArgument, match=rf"weights of search, .*{how}"):
        calibrate(folders[2], [texts[1]], base=str(base_folder))
    with pytest.raises(SystemExit) as ended:
        calibrating(["--adapter", str(folders[2]), "--chats", str(texts[1]), "--model", str(base_folder)])
    how = f"(`hierlandmark train --init {folders[2]} --search-share 1 --search-layers 0`)"
    assert ended.value.code == 2 and how in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["absent", "rubbish"])
def test_a_damaged_part_is_named(folders, tmp_path, damage):
    made = with_search(folders[0], folders[2], tmp_path / "a")
    if damage == "absent":
        (made / SEARCH_FILE).unlink()
    else:
        (made / SEARCH_FILE).write_bytes(b"\xff{}" * 20)
    with pytest.raises(AdapterInvalid, match="adapter"):
        Adapter.load(made)


CONTRADICTIONS = {
    "no heads": {"retrieval": []},
    "heads above the part": {"retrieval": [{"layer": 0, "head": 1}, {"layer": 1, "head": 1}]},
    "no such layer": {"retrieval": [{"layer": 99, "head": 1}]},
    "no such head": {"retrieval": [{"layer": 0, "head": 77}]},
    "a layer below the first": {"retrieval": [{"layer": -1, "head": 0}]},
    "a weight that is no number": {"retrieval": [{"layer": 0, "head": 1, "weight": float("nan")}]},
    "heads that weigh nothing": {"retrieval": [{"layer": 0, "head": 1, "weight": 0.0}]},
    "no scale": {"search": {"scale": 0.0}},
    "nothing said of the part": {"search": None},
}


@pytest.mark.parametrize("change", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_part_that_contradicts_its_folder_is_named(folders, base_folder, tmp_path, change):
    made = with_search(folders[0], folders[2], tmp_path / "a")
    meta = json.loads((made / "hierlandmark.json").read_text())
    (made / "hierlandmark.json").write_text(json.dumps(meta | change))
    with pytest.raises(AdapterInvalid, match=r"search|layer|weigh"):
        LandmarkModel.from_pretrained(base_folder, adapter=made)


@pytest.mark.parametrize("change", ["one less", "one of another layer", "one outside the layers", "one row"])
def test_a_part_of_other_tensors_is_named(folders, base_folder, tmp_path, change):
    made = with_search(folders[0], folders[2], tmp_path / "a")
    tensors = load_file(made / SEARCH_FILE)
    name = next(name for name in tensors if name.endswith("q_proj.lora_B.weight"))
    if change == "one less":
        del tensors[name]
    elif change == "one row":
        tensors[name] = tensors[name][:1].clone()
    else:
        other = {"one of another layer": name.replace(".0.", ".1."), "one outside the layers": "lm_head.lora_B.weight"}
        tensors[other[change]] = tensors[name].clone()
    save_file(tensors, made / SEARCH_FILE)
    with pytest.raises(AdapterInvalid, match="adapter"):
        LandmarkModel.from_pretrained(base_folder, adapter=made)


def test_what_is_not_of_a_layer_is_not_of_the_search(folders, tmp_path):
    reads, searches, _ = folders
    other = tmp_path / "searches"
    shutil.copytree(searches, other)
    tensors = load_file(other / LORA_FILE)
    save_file(tensors | {"base_model.model.lm_head.lora_A.weight": torch.ones(2, 32)}, other / LORA_FILE)
    assert all(layer_of(n) == 0 for n in Adapter.load(with_search(reads, other, tmp_path / "out")).search.lora)


def test_a_run_is_resumed_with_the_part_that_it_trains(folders, base_folder, texts, tmp_path):
    run(base_folder, texts, tmp_path / "on", SEARCHES, init=folders[2])
    with pytest.raises(InvalidArgument, match="search_share"):
        run(base_folder, texts, tmp_path / "on", replace(READS, steps=4), init=folders[2], resume=True)


def test_a_peer_has_no_search(folders, base_folder, texts, tmp_path):
    made = Adapter.load(run(base_folder, texts, tmp_path / "on", replace(READS, attention="full"), init=folders[2]))
    assert made.search is None and made.meta.search is None and not made.meta.retrieval


def test_half_an_adapter_is_not_started_from(folders, base_folder, texts, tmp_path):
    other = tmp_path / "half"
    shutil.copytree(folders[0], other)
    save_file({n: t for n, t in load_file(other / LORA_FILE).items() if layer_of(n) < 1}, other / LORA_FILE)
    with pytest.raises(InvalidArgument, match="the adapter to start from has None"):
        run(base_folder, texts, tmp_path / "on", READS, init=other)


def test_one_part_written_over_two_leaves_one(folders, tmp_path):
    reads, _, both = folders
    shutil.copytree(both, tmp_path / "out")
    made = Adapter.load(merge_adapters(reads, reads, tmp_path / "out", above=0.5, layer=1))
    assert made.search is None and not (tmp_path / "out" / SEARCH_FILE).exists()
    with pytest.raises(ValueError, match="and not without"):
        save_adapter(tmp_path / "out", {}, Adapter.load(both).meta, base_name="b", rank=2, alpha=4)


def test_a_scale_is_part_of_what_a_database_is_bound_to(folders, base_folder, texts, tmp_path):
    made = with_search(folders[0], folders[2], tmp_path / "a")
    meta = json.loads((made / "hierlandmark.json").read_text())
    meta["search"]["scale"] = 8.0
    (made / "hierlandmark.json").write_text(json.dumps(meta))
    assert Adapter.load(made).digest != Adapter.load(folders[2]).digest
    with pytest.raises(InvalidArgument, match="scale"):
        run(base_folder, texts, tmp_path / "on", SEARCHES, init=made)
