"""Every command against a real memory and a tiny model in a folder, from the first message to the last."""

import json
import re
import sqlite3

import pytest
import torch
from typer.testing import CliRunner

from hierlandmark.cli import app
from hierlandmark.model import AdapterMeta, RetrievalHead, save_adapter
from hierlandmark.model.fingerprint import weights_digest
from hierlandmark.testing import SMALL, save_tiny

TARGET = "base_model.model.model.layers.1.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("whole") / "base")


def adapter(base, folder, seed):
    made = torch.Generator().manual_seed(seed)
    tensors = {
        f"{TARGET}.lora_A.weight": torch.randn(4, 32, generator=made) * 0.1,
        f"{TARGET}.lora_B.weight": torch.randn(32, 4, generator=made) * 0.1,
        "landmark_rows": torch.randn(2, 32, generator=made) * 0.3,
    }
    meta = AdapterMeta(layout=SMALL, base=weights_digest(base), retrieval=(RetrievalHead(layer=1, head=2),))
    save_adapter(folder, tensors, meta, base_name="tiny", rank=4, alpha=8)
    return folder


@pytest.fixture
def run(base, tmp_path, monkeypatch):
    """Runs a command in an empty folder, with the model's options where they are wanted; returns what it printed."""
    monkeypatch.chdir(tmp_path)
    names = {name: str(adapter(base, tmp_path / name, seed)) for seed, name in enumerate(("one", "two"))}

    def invoke(*words, using="one", code=0, **options):
        given = ["--model", str(base), "--adapter", names[using]] if using else []
        done = CliRunner().invoke(app, [*(str(word) for word in words), *given], **options)
        assert done.exit_code == code, done.output
        return done.stdout if code == 0 else done.stderr

    return invoke


CHAT = {
    "id": "spring",
    "messages": [
        {"id": i if i % 2 else f"m{i}", "role": "user", "content": f"Day {i}: the {i % 5} boats left for port {i}."}
        for i in range(1, 13)
    ],
    "questions": [{"type": "fact", "question": "Which boats left on day 3?", "evidence": [3]}],
}


def test_the_life_of_a_memory(run, tmp_path):
    (tmp_path / "chat.jsonl").write_text(json.dumps(CHAT) + "\n")
    (tmp_path / "notes.md").write_text("# Notes\n\nThe spare key is under the blue pot.\n")
    db = ("--db", "m.db")
    assert "added 13 messages" in run("add", "chat.jsonl", "notes.md", *db)

    found = json.loads(run("search", "boats of day 3", *db, "-k", 13, "--json"))
    ids = [one for hit in found["hits"] for one in hit["message_ids"]]
    assert sorted(map(str, ids)) == sorted([str(one["id"]) for one in CHAT["messages"]] + ["notes.md:0001"])
    assert {type(one) for one in ids} == {int, str} and found["cost"]["gate_keys"] > 0
    flat = json.loads(run("search", "boats of day 3", *db, "--mode", "flat", "--json", "--why"))
    assert len(flat["hits"]) == 10 and flat["cost"]["gate_keys"] == 0 and flat["trace"]["blocks"]
    assert "landmark keys scored" in run("search", "boats", *db, "--why")

    answers = [
        json.loads(run("ask", "Which boats?", *db, "--mode", mode, "--max-new-tokens", 5, "--json", "--why"))
        for mode in ("hierarchical", "flat", "hierarchical")
    ]
    assert answers[0]["tokens"] == answers[2]["tokens"] and answers[0]["cost"]["blocks_read"] > 0
    assert answers[0]["trace"]["blocks"][0]["message_ids"]
    assert run("ask", "Which boats?", *db, "--max-new-tokens", 5).rstrip("\n") == answers[0]["text"]

    # the model's turn may be empty
    run("chat", *db, "--max-new-tokens", 3, input="Where is the key?\n/exit\n")
    (held,) = json.loads(run("info", *db, "--json", using=None))["namespaces"]
    assert held["messages"] in (14, 15) and held["kv_bytes"] > 0
    assert f"default: {held['messages']} messages" in run("info", *db, using=None)

    assert "forgot 2 of 'default'" in run("forget", 1, "m2", 1, *db)
    # what to do next is said in commands
    said = run("forget", "m2", *db, code=2)
    assert "MessageNotFound" in said and "`hierlandmark search` shows ids" in said
    for words in (["search", "day"], ["forget", "m4"]):
        said = run(*words, *db, "-n", "nobody", code=2)
        assert f"namespace 'nobody'; `hierlandmark info --db {tmp_path / 'm.db'}` lists those there\n" in said
    left = json.loads(run("search", "day", *db, "-k", 99, "--json"))
    assert not {1, "m2"} & {one for hit in left["hits"] for one in hit["message_ids"]}

    # another adapter is another model: refused, and taken to it
    assert "ModelMismatch" in run("search", "day", *db, using="two", code=2)
    assert f"encoded {held['messages'] - 2} messages" in run("reencode", *db, using="two")
    assert len(json.loads(run("search", "day", *db, "-k", 3, "--json", using="two"))["hits"]) == 3
    assert "ModelMismatch" in run("ask", "day?", *db, code=2)
    with sqlite3.connect("m.db") as file:
        assert file.execute("pragma integrity_check").fetchall() == [("ok",)]


def test_one_is_no_plural(run, tmp_path):
    (tmp_path / "note.txt").write_text("Hi")
    chat = {"id": 1, "messages": [{"id": 1, "role": "user", "content": "Hi"}]}
    asked = chat | {"questions": [{"type": "fact", "question": "Hi?", "evidence": [1]}]}
    (tmp_path / "silent.jsonl").write_text(json.dumps(chat) + "\n")
    (tmp_path / "chat.jsonl").write_text(json.dumps(asked) + "\n")
    (tmp_path / "book.txt").write_text("The ships of the port left for the north. " * 20)
    said = [run(*words, "--db", "m.db") for words in (["add", "note.txt"], ["index"], ["search", "Hi", "--why"])]
    said += [run("info", "--db", "m.db", using=None), run("reencode", "--db", "m.db")]
    said += [run("eval", "retrieval", "chat.jsonl"), run("eval", "retrieval", "silent.jsonl", code=2)]
    said += [run("eval", "passkey", "--lengths", 900, "--trials", 1)]
    said += [run("eval", "perplexity", "book.txt", "--lengths", 200, "--limit", 1, "--blocks", 1, "--segments", 1)]
    said += [run("demo", "--file", "chat.jsonl", "--db", "d.db", "--question", "Hi?")]
    ones = [re.findall(r"(?<![\d,.:])1 [a-z]+(?: keys?)?(?![\w.])", text) for text in said]
    assert all(ones), said
    assert not [one for found in ones for one in found if one.endswith("s")], said


def test_a_database_for_search_only(run, tmp_path):
    (tmp_path / "chat.jsonl").write_text(json.dumps(CHAT) + "\n")
    db = ("--db", "m.db")
    run("add", "chat.jsonl", "--keep", "search", *db)
    assert "default (for search only): 12 messages" in run("info", *db, using=None)
    found = [(hit["message_ids"], hit["score"]) for hit in json.loads(run("search", "boats", *db, "--json"))["hits"]]
    said = run("ask", "Which boats?", *db, code=2)
    assert "KeepMismatch" in said and "hierlandmark reencode --db m.db --keep all" in said
    assert "KeepMismatch" in run("add", "chat.jsonl", "--keep", "all", *db, code=2)
    assert "encoded 12 messages" in run("reencode", *db, "--keep", "all")
    assert found == [
        (hit["message_ids"], hit["score"]) for hit in json.loads(run("search", "boats", *db, "--json"))["hits"]
    ]
    assert json.loads(run("ask", "Which boats?", *db, "--max-new-tokens", 2, "--json"))["tokens"]


def test_figures_of_a_chat(run, tmp_path):
    (tmp_path / "chat.jsonl").write_text(json.dumps(CHAT) + "\n")
    for mode in ("hierarchical", "flat"):
        printed = run("eval", "retrieval", "chat.jsonl", "--db", "kept.db", "--mode", mode, "--json", "out.json")
        written = json.loads((tmp_path / "out.json").read_text())
        assert written["results"]["recall@20"] == 1.0 and written["results"]["n"] == 1
        assert len(written["questions"][0]["ranking"]) == 12 and "recall@20 1.000" in printed
    assert json.loads(run("eval", "retrieval", "chat.jsonl", "--json", "-"))["results"]["n"] == 1
    (row,) = json.loads(run("eval", "passkey", "--lengths", 900, "--trials", 1, "--json", "-"))["results"]
    assert (row["length"], row["trials"]) == (900, 1)
    (tmp_path / "book.txt").write_text("The ships of the port left for the north. " * 20)
    for mode in ("hierarchical", "flat", "full"):
        words = ["book.txt", "--lengths", 200, "--limit", 2, "--mode", mode, "--json", "-"]
        (row,) = json.loads(run("eval", "perplexity", *words))["results"]
        assert (row["windows"], row["tokens"]) == (2, 398) and row["perplexity"] > 1
