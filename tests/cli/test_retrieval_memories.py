"""`eval retrieval` over memories that hold only what a search looks at, each gone when its questions are answered."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hierlandmark import Memory, MemoryConfig
from hierlandmark.cli import app
from hierlandmark.model import LandmarkModel
from hierlandmark.testing import tiny_model


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs it on two conversations: what it wrote, what it loaded, and how many files stood at each opening."""
    loaded: list[dict] = []
    seen: list[tuple[str, str, int]] = []
    opened = Memory.open

    def load(*_: object, **options: object) -> LandmarkModel:
        loaded.append(options)
        return tiny_model()

    def open_memory(path: Path, namespace: str, *, config: MemoryConfig, **options: object) -> Memory:
        folder = Path(path).parent.parent if Path(path).name == "eval.db" else Path(path).parent
        seen.append((namespace, str(config.keep), len(list(folder.glob("**/*.db")))))
        return opened(path, namespace, config=config, **options)

    monkeypatch.setattr(LandmarkModel, "from_pretrained", load)
    monkeypatch.setattr(Memory, "open", open_memory)
    monkeypatch.chdir(tmp_path)
    chats = [
        {
            "id": name,
            "messages": [{"id": i, "role": "user", "content": f"{name} word{i}"} for i in range(9)],
            "questions": [{"question": "word3", "evidence": [3]}],
        }
        for name in ("a/b", "c")
    ]
    Path("chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))

    def run(*words: str) -> tuple[dict, list[dict], list[tuple[str, str, int]]]:
        done = CliRunner().invoke(
            app, ["eval", "retrieval", "chats.jsonl", "--rows", "hierarchical,flat,index", "--json", "o.json", *words]
        )
        assert done.exit_code == 0, done.output
        return json.loads(Path("o.json").read_text()), loaded, seen

    return run


def test_each_memory_is_gone_before_the_next_is_made(run) -> None:
    found, loaded, seen = run("--keep", "search", "--dtype", "float32")
    assert loaded == [{"adapter": "default", "device": None, "dtype": "float32", "peer": False}]
    # no file of the first is there when the second is opened
    assert seen == [("a/b", "search", 0), ("c", "search", 0)]
    whole, _, _ = run("--keep", "all")
    for name, row in found["rows"].items():
        assert row["rankings"] == whole["rows"][name]["rankings"]
        assert len(row["rankings"]) == 2


def test_the_first_stays_where_a_scale_repeats_it(run) -> None:
    found, _, seen = run("--keep", "search", "--scale", "100")
    assert seen == [("a/b", "search", 0), ("c", "search", 1), ("a/b", "search", 1)]
    assert found["scale"][0]["blocks"] >= 100


def test_a_database_that_is_named_stays(run) -> None:
    _, _, seen = run("--keep", "search", "--db", "kept.db")
    assert [one[:2] for one in seen] == [("a/b", "search"), ("c", "search")]
    with Memory.open(Path("kept.db"), "c", config=MemoryConfig()) as memory:
        assert memory.stats().keep == "search" and memory.namespaces() == ["a/b", "c"]
