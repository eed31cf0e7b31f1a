"""`eval`: the JSON it writes is a contract."""

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

import hierlandmark
from hierlandmark.errors import InvalidArgument
from hierlandmark.results import Cost
from tests.fake_memory import FakeMemory, FakeModel


def test_retrieval_json(cli, chat_file: Path) -> None:
    done = cli("eval", "retrieval", chat_file, "--mode", "flat", "-k", 10, "--json", "out.json")
    assert done.exit_code == 0
    found = json.loads(Path("out.json").read_text())
    assert set(found) == {"results", "cost", "questions", "rows", "unfindable"}
    assert list(found["rows"]) == ["flat"]
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
    done = cli("eval", "retrieval", chat_file, "--mode", "hierarchical", "--json", "-")
    assert set(json.loads(done.stdout)) == {"results", "cost", "questions", "rows", "unfindable"}


def test_retrieval_keeps_a_database(cli, chat_file: Path) -> None:
    cli("eval", "retrieval", chat_file, "--mode", "flat", "--db", "kept.db")
    assert ("kept.db", "c") in FakeMemory.files


def test_retrieval_side_by_side(cli, chat_file: Path) -> None:
    done = cli("eval", "retrieval", chat_file, "--rows", "hierarchical, flat,hybrid", "--json", "out.json")
    assert done.exit_code == 0
    # what a search does by itself comes first
    assert list(json.loads(Path("out.json").read_text())["rows"]) == ["hybrid", "hierarchical", "flat"]
    assert "mode hybrid\n" in done.stdout
    heads = next(line.split() for line in done.stdout.splitlines() if line.startswith("row"))
    assert heads[:4] == ["row", "recall@1", "recall@5", "recall@10"]
    assert "has the highest recall@10, 1.000, over 2 questions" in done.stdout
    assert "recall@10 of  fact (1)  none (1)" in done.stdout


def test_retrieval_runs_what_is_installed_and_says_what_is_not(
    cli, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "hierlandmark.eval.rows.installed_rows", lambda _: (["hierarchical", "flat"], ["bm25 needs bm25s"])
    )
    done = cli("eval", "retrieval", chat_file, "--json", "out.json")
    assert done.exit_code == 0
    # the mode that `results` are of runs always
    assert list(json.loads(Path("out.json").read_text())["rows"]) == ["hybrid", "hierarchical", "flat"]
    assert "left out: bm25 needs bm25s" in done.stderr


def test_retrieval_of_a_public_set(cli) -> None:
    turns = [
        {"speaker": "Ada", "dia_id": f"D1:{i}", "text": text} for i, text in enumerate(("a kiln", "a tent"), start=1)
    ]
    questions = [{"question": "tent", "evidence": ["D1:2"], "category": 4}]
    record = {"sample_id": "conv-1", "conversation": {"session_1": turns}, "qa": questions}
    Path("set.json").write_text(json.dumps([record]))
    done = cli("eval", "retrieval", "set.json", "--mode", "flat", "--db", "kept.db", "--json", "-")
    assert json.loads(done.stdout)["results"]["recall@1"] == 1
    assert ("kept.db", "conv-1") in FakeMemory.files
    done = cli("eval", "retrieval", "set.json", "--format", "beir")
    assert done.exit_code == 2 and "InvalidChatFile" in done.stderr


def test_retrieval_writes_a_page(cli, chat_file: Path) -> None:
    pytest.importorskip("matplotlib")
    done = cli("eval", "retrieval", chat_file, "--rows", "flat,hybrid", "--report", "out.html")
    assert done.exit_code == 0
    found = Path("out.html").read_text()
    assert "chat.jsonl, 1 conversation<" in found and "SmolLM2-135M-Instruct, shipped adapter" in found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--adapter", "mine"], "SmolLM2-135M-Instruct, adapter mine"),
        (["--adapter", "none"], "SmolLM2-135M-Instruct, no adapter"),
        (["--model", "base"], "base, no adapter"),
    ],
)
def test_a_page_names_the_adapter(cli, chat_file: Path, words: list[str], said: str) -> None:
    pytest.importorskip("matplotlib")
    assert cli("eval", "retrieval", chat_file, "--mode", "flat", "--report", "out.html", *words).exit_code == 0
    assert f"<td>{said}</td>" in Path("out.html").read_text()


@pytest.mark.parametrize("name", ["bm25", "flat", "index,hybrid"])
def test_a_scale_measures_no_other_rows_than_those_named(cli, name: str) -> None:
    pytest.importorskip("bm25s")
    done = cli("eval", "retrieval", "--scale", "200", "--rows", name)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "expected rows of index, numpy, faiss-flat" in done.stderr


def test_a_scale_beside_questions_has_rows_of_its_own(cli, chat_file: Path) -> None:
    done = cli("eval", "retrieval", chat_file, "--scale", "200", "--rows", "hybrid,flat")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "expected rows among index, numpy, faiss-flat, faiss-ivf, faiss-hnsw for a scale" in done.stderr
    assert FakeModel.loaded == []
    done = cli("eval", "retrieval", chat_file, "--rows", "numpy")
    assert done.exit_code == 2 and "got 'numpy'" in done.stderr


def test_retrieval_scale_needs_no_file_and_no_model(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    # the index stands beside the memory that is faked, and is real
    folder = Path(hierlandmark.__file__).parent / "memory"
    monkeypatch.setattr(sys.modules["hierlandmark.memory"], "__path__", [str(folder)], raising=False)
    done = cli("eval", "retrieval", "--scale", "200,400", "--rows", "index,numpy", "--width", 16, "--json", "out.json")
    assert done.exit_code == 0
    found = json.loads(Path("out.json").read_text())
    assert [(one["blocks"], one["row"]) for one in found["scale"]] == [
        (200, "index"), (200, "numpy"), (400, "index"), (400, "numpy"),
    ]  # fmt: skip
    assert found["scale_source"].startswith("made of nothing, 16 wide")
    assert FakeModel.loaded == []


def test_retrieval_of_a_file_without_questions(cli, chat_file: Path) -> None:
    record = json.loads(chat_file.read_text())
    chat_file.write_text(json.dumps(record | {"questions": []}))
    done = cli("eval", "retrieval", chat_file)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "InvalidArgument: " in done.stderr and "holds no questions in its 1 conversation," in done.stderr
    assert FakeModel.loaded == []


def test_retrieval_of_nothing(cli) -> None:
    done = cli("eval", "retrieval")
    assert done.exit_code == 2 and "expected a FILE with questions, or --scale" in done.stderr


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
    found = json.loads(Path("o.json").read_text())
    assert found["finished"] is True
    first, second = found["results"]
    assert set(first) >= {"length", "windows", "tokens", "perplexity", "mode", "cost"}
    assert set(first["cost"]) == {"ms"}
    assert (first["windows"], first["tokens"]) == (2, 198)
    assert round(second["perplexity"], 3) == 7.389


@pytest.mark.parametrize("how", ["interrupt", "terminate", "error"])
@pytest.mark.parametrize("table", [[], ["--table", "2"]], ids=["one", "table"])
def test_a_perplexity_run_that_is_cut_keeps_what_it_has(
    cli, monkeypatch: pytest.MonkeyPatch, table: list[str], how: str
) -> None:
    Path("book.txt").write_text("a word and " * 100)
    settings = 8 if table else 1
    done: list[int] = []

    def nll(_: FakeModel, tokens: Sequence[int], **__: object) -> list[float]:
        done.append(len(tokens))
        # the second window of the second length, under the last of its settings
        if len(done) == 4 * settings:
            assert [row["windows"] for row in kept("o.json")] == [2] * settings + [1] * settings
            if how == "interrupt":
                raise KeyboardInterrupt
            if how == "error":
                raise InvalidArgument("no more")
            os.kill(os.getpid(), signal.SIGTERM)
        return [1.0] * (len(tokens) - 1)

    def kept(name: str) -> list[dict]:
        return json.loads(Path(name).read_text())["results"]

    monkeypatch.setattr(FakeModel, "nll", nll)
    monkeypatch.setattr("hierlandmark.cli.perplexity._finished", lambda row, _: row | {"attention_size": 7})
    base = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=8192))
    monkeypatch.setattr(FakeModel, "core", SimpleNamespace(base=base), raising=False)
    before = signal.getsignal(signal.SIGTERM)
    ended = cli("eval", "perplexity", "book.txt", "--lengths", "100,200", "--limit", 2, "--json", "o.json", *table)
    assert ended.exit_code == {"interrupt": 130, "terminate": 143, "error": 2}[how]
    assert signal.getsignal(signal.SIGTERM) is before
    assert json.loads(Path("o.json").read_text())["finished"] is False
    wanted = [(100, 2), (200, 1)]
    assert [(row["length"], row["windows"]) for row in kept("o.json")] == [
        one for one in wanted for _ in range(settings)
    ]
    assert len(ended.stdout.splitlines()) == settings * len(wanted) + (2 if table else 0)
    assert "cut short" in ended.stderr


@pytest.mark.parametrize(
    ("lengths", "said", "loaded"),
    [
        ("100,20000", "no document is 20000 tokens long; give smaller --lengths", 0),
        ("100,1", "expected lengths of at least 2 tokens, got 1", 0),
        # as many bytes, but not characters, which are tokens here: of the three models of a table one is loaded to tell
        ("100,1000", "no document is 1000 tokens long; give smaller --lengths", 1),
    ],
)
def test_a_length_that_no_document_has_is_told_before_the_work(
    cli, monkeypatch: pytest.MonkeyPatch, lengths: str, said: str, loaded: int
) -> None:
    Path("book.txt").write_text("é" * 600)
    monkeypatch.setattr(FakeModel, "nll", lambda *_, **__: pytest.fail("a window was scored"))
    base = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=8192))
    monkeypatch.setattr(FakeModel, "core", SimpleNamespace(base=base), raising=False)
    done = cli("eval", "perplexity", "book.txt", "--lengths", lengths, "--table", "1", "--json", "o.json")
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr and len(FakeModel.loaded) == loaded
    assert not Path("o.json").exists()


@pytest.mark.parametrize("more", [[], ["--no-work"]], ids=["counted", "uncounted"])
def test_work_is_counted_unless_it_is_not_wanted(cli, monkeypatch: pytest.MonkeyPatch, more: list[str]) -> None:
    Path("book.txt").write_text("a word and " * 100)
    given = []

    def nll(_: FakeModel, tokens: Sequence[int], *, counts: object, **__: object) -> list[float]:
        given.append(counts is not None)
        return [1.0] * (len(tokens) - 1)

    monkeypatch.setattr(FakeModel, "nll", nll)
    done = cli("eval", "perplexity", "book.txt", "--lengths", "100", "--limit", 2, "--blocks", 2, *more)
    assert done.exit_code == 0 and given == [not more] * 2


COMMANDS = {
    "retrieval": ["c.jsonl", "--mode", "hierarchical"],
    "passkey": ["--lengths", "600", "--trials", "2"],
    "perplexity": ["book.txt", "--lengths", "100", "--limit", "2"],
}


@pytest.fixture
def evaluate(cli, chat_file: Path):
    Path("book.txt").write_text("a word and " * 100)
    chat_file.rename("c.jsonl")
    return lambda name, *more: cli("eval", name, *COMMANDS[name], *more)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("out", ["missing/out.json", "."])
def test_a_path_that_cannot_be_written_is_named_before_the_work(evaluate, name: str, out: str) -> None:
    done = evaluate(name, "--json", out)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == (
        f"hierlandmark: InvalidArgument: expected --json to name a file that can be written, got {out!r}\n"
    )
    assert FakeModel.loaded == []


@pytest.mark.parametrize("name", COMMANDS)
def test_figures_are_printed_before_they_are_written(evaluate, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    done = evaluate(name, "--json", "out.json")
    assert done.exit_code == 2
    assert "InvalidArgument: 'out.json' cannot be written" in done.stderr
    assert any(figure in done.stdout for figure in ("recall@1 1.000", "tokens, mode hierarchical"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--mode xl", "expected --window with mode xl"),
        ("--threshold 0.1", "--threshold would change nothing beside every block being read"),
        ("--granularity head", "--granularity would change nothing beside every block being read"),
        ("--segments 2", "--segments would change nothing beside every block being read: name how many with --blocks"),
        ("--cache 10", "--cache belongs to --mode xl and would change nothing beside --mode hierarchical"),
        ("--table 1 --cache 10", "--cache belongs to --mode xl and would change nothing beside --table 1"),
        ("--mode flat --blocks 2 --segments 2", "--segments would change nothing beside --mode flat"),
        ("--mode full --blocks 2 --window 64", "--window, --blocks would change nothing beside --mode full"),
        ("--mode xl --window 64 --blocks 2", "--blocks would change nothing beside --mode xl"),
        ("--xl-adapter a --blocks 2", "--xl-adapter would change nothing beside --mode hierarchical"),
        ("--mode full --no-work", "--no-work would change nothing beside --mode full"),
        ("--no-work", "--no-work would change nothing beside every block being read"),
        ("--table 1 --mode flat", "--mode would change nothing beside --table 1"),
        ("--table 1 --threshold 0.1", "--threshold would change nothing beside --table 1"),
        ("--table 2 --threshold 0.1 --granularity head", "--granularity, --threshold would change nothing"),
        ("--table D --full-adapter a", "--full-adapter would change nothing beside --table D"),
        ("--table D --blocks 2,4", "expected one --window and one --blocks with --table D"),
        ("--blocks 2 --threshold 1", "--threshold to be from 0 to under 1, got 1.0"),
        ("--blocks 0", "--blocks to be 1 or more, got 0"),
        ("--window 100", "whole blocks of 64, got 100"),
    ],
)
def test_options_of_perplexity_that_do_not_fit(evaluate, words: str, said: str) -> None:
    done = evaluate("perplexity", *words.split())
    assert done.exit_code == 2 and said in done.stderr, done.stderr
    assert "whole blocks" in said or FakeModel.loaded == []


def test_only_hierarchical_opens_segments(evaluate) -> None:
    lines = {mode: evaluate("perplexity", "--mode", mode, "--blocks", "2").stdout for mode in ("hierarchical", "flat")}
    assert "k 2 of 4 segments, threshold 0" in lines["hierarchical"]
    assert "k 2, threshold 0" in lines["flat"]
    assert not any("landmarks" in line for line in lines.values())
    weighed = evaluate("perplexity", "--blocks", "2", "--weigh-by", "landmarks").stdout
    assert "threshold 0, weighed by landmarks: " in weighed


def test_thresholds_are_numbers(evaluate) -> None:
    assert "expected --threshold to be numbers" in evaluate("perplexity", "--blocks", "1", "--threshold", "some").stderr
