"""`eval`: the JSON it writes is a contract."""

import json
from pathlib import Path

from hierlandmark.results import Cost
from tests.fake_memory import FakeMemory, FakeModel


def test_retrieval_json(cli, chat_file: Path) -> None:
    done = cli("eval", "retrieval", chat_file, "--mode", "flat", "-k", 10, "--json", "out.json")
    assert done.exit_code == 0
    found = json.loads(Path("out.json").read_text())
    assert set(found) == {"results", "cost", "questions"}
    assert set(found["results"]) == {"recall@1", "recall@5", "recall@10", "recall@20", "mrr", "n"}
    assert found["results"]["recall@1"] == 1
    assert found["results"]["n"] == 2
    assert found["questions"][1] == {
        "conversation": "c",
        "type": None,
        "question": "the dog",
        "ranking": ["2", 2, 1, "x"],
    }
    assert "recall@10 1.000" in done.stdout


def test_retrieval_to_standard_output(cli, chat_file: Path) -> None:
    assert set(json.loads(cli("eval", "retrieval", chat_file, "--json", "-").stdout)) == {
        "results",
        "cost",
        "questions",
    }


def test_retrieval_keeps_a_database(cli, chat_file: Path) -> None:
    cli("eval", "retrieval", chat_file, "--db", "kept.db")
    assert ("kept.db", '"c"') in FakeMemory.files


def test_passkey_json(cli) -> None:
    words = ["--lengths", "600,900", "--trials", 3, "--mode", "flat", "--json", "out.json"]
    done = cli("eval", "passkey", *words)
    assert done.exit_code == 0
    (first, second) = json.loads(Path("out.json").read_text())["results"]
    assert set(first) == {"length", "trials", "accuracy", "mode", "cost"}
    assert set(first["cost"]) == set(Cost.model_fields)
    assert (first["length"], first["trials"], first["accuracy"], first["mode"]) == (600, 3, 1.0, "flat")
    assert second["length"] == 900
    assert "900 tokens, mode flat: 100% of 3 trials" in done.stdout


def test_passkey_of_the_base_model(cli) -> None:
    (row,) = json.loads(cli("eval", "passkey", "--lengths", "600", "--trials", 2, "--base", "--json", "-").stdout)[
        "results"
    ]
    assert row["mode"] == "full"
    assert row["accuracy"] == 0
    assert FakeModel.loaded == [(None, None)]


def test_perplexity_json(cli) -> None:
    Path("book.txt").write_text("a word and " * 100)
    done = cli(
        "eval", "perplexity", "book.txt", "--lengths", "100,200", "--limit", 2, "--mode", "flat", "--json", "o.json"
    )
    assert done.exit_code == 0
    first, second = json.loads(Path("o.json").read_text())["results"]
    assert set(first) == {"length", "windows", "tokens", "perplexity", "mode", "cost"}
    assert (first["windows"], first["tokens"]) == (2, 198)
    assert round(second["perplexity"], 3) == 7.389
