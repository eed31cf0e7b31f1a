"""`eval needles` over the tiny model: the JSON it writes, and a log that it goes on from."""

import json
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from hierlandmark.cli import app
from hierlandmark.config import LayoutConfig
from hierlandmark.model import LandmarkModel
from hierlandmark.testing import tiny_model

WORDS = ["--lengths", "600,900", "--tasks", "passkey", "--trials", "2", "--haystacks", "1", "--max-new-tokens", "4"]
WIDE = LayoutConfig(block_size=32, blocks_per_segment=8)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    loaded: list[dict] = []
    make = partial(tiny_model, layout=WIDE)
    monkeypatch.setattr(LandmarkModel, "from_pretrained", lambda *_, **options: loaded.append(options) or make())
    monkeypatch.chdir(tmp_path)

    def call(*words: str):
        return CliRunner().invoke(app, ["eval", "needles", *WORDS, *words])

    call.loaded = loaded
    return call


def test_json_and_table(run) -> None:
    done = run("--json", "out.json", "--device", "cpu", "--dtype", "float32")
    assert done.exit_code == 0, done.output
    assert run.loaded == [{"adapter": "default", "device": "cpu", "dtype": "float32", "peer": False}]
    found = json.loads(Path("out.json").read_text())
    assert set(found) == {"settings", "results", "ratios"}
    rows = {(row["length"], row["mode"]): row for row in found["results"]}
    assert list(rows) == [(length, mode) for length in (600, 900) for mode in ("hierarchical", "flat", "full")]
    flat = rows[900, "flat"]
    assert set(flat) == {
        "task", "filler", "length", "mode", "trials", "accuracy", "low", "high", "document", "steps", "gate_keys",
        "landmark_keys", "blocks_read", "bytes_read", "first_token_ms", "per_token_ms", "keys_share", "bytes_share",
        "failed", "why",
    }  # fmt: skip
    assert flat["trials"] == 2 and flat["accuracy"] == 0 and flat["landmark_keys"] > 0
    assert rows[600, "full"]["accuracy"] is None and "512 positions" in rows[600, "full"]["why"]
    assert [ratio["length"] for ratio in found["ratios"]] == [600, 900]
    assert "not run: the base model has 512 positions" in done.stdout
    assert len(done.stdout.splitlines()) == 7


def test_a_log_is_gone_on_from(run) -> None:
    first = run("--log", "log.jsonl", "--json", "-")
    lines = Path("log.jsonl").read_text().splitlines()
    assert first.exit_code == 0 and len(lines) == 1 + 12
    # the last line half written
    Path("log.jsonl").write_text("\n".join(lines[:-2]) + "\n" + lines[-2][:20])
    second = run("--log", "log.jsonl", "--json", "-")
    assert len(run.loaded) == 2
    again = Path("log.jsonl").read_text().splitlines()
    assert again[:-2] == lines[:-2] and len(again) == len(lines)
    timeless = [
        [{k: v for k, v in row.items() if not k.endswith("_ms")} for row in json.loads(done.stdout)["results"]]
        for done in (first, second)
    ]
    assert timeless[0] == timeless[1]
    # nothing is left, and nothing is written
    assert run("--log", "log.jsonl").exit_code == 0
    assert Path("log.jsonl").read_text().splitlines() == again


def test_what_is_done_needs_neither_memory_nor_disk_nor_device(run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("book.txt").write_text("They went to town. " * 200)
    words = ("--log", "log.jsonl", "--filler", "book.txt", "--device", "cpu")
    assert run(*words).exit_code == 0
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    monkeypatch.setattr("os.sysconf", lambda name: 1)
    run.loaded.clear()
    again = run(*words)
    assert again.exit_code == 0, again.stderr
    assert again.stdout.startswith("task") and run.loaded == [
        {"adapter": "default", "device": None, "dtype": None, "peer": False}
    ]
    log = Path("log.jsonl").read_text()
    longer = run(*words, "--lengths", "600,900,1200")
    assert longer.exit_code == 2 and "this machine has memory for, got 1,200" in longer.stderr
    monkeypatch.setattr("os.sysconf", lambda name: 10**5)
    # all but one is done
    log = log[: log.rindex("\n", 0, -1) + 1]
    Path("log.jsonl").write_text(log)
    other = run(*words)
    assert other.exit_code == 2 and "fit on the disk" in other.stderr
    assert Path("log.jsonl").read_text() == log


def test_a_trial_that_ran_out_of_memory_is_tried_again(run) -> None:
    words = ("--modes", "flat", "--log", "log.jsonl", "--json", "-")
    assert run(*words).exit_code == 0
    settings, *lines = Path("log.jsonl").read_text().splitlines()
    kept = {"task", "filler", "length", "trial", "mode", "document"}
    failed = {name: value for name, value in json.loads(lines[1]).items() if name in kept}
    failed |= {"score": None, "why": "out of memory"}
    Path("log.jsonl").write_text("\n".join([settings, lines[0], json.dumps(failed), *lines[2:], ""]))
    done = run(*words)
    assert [(row["trials"], row["failed"]) for row in json.loads(done.stdout)["results"]] == [(2, 0), (2, 0)]
    assert len(Path("log.jsonl").read_text().splitlines()) == 1 + 5
    # the failed one is there still, and counts no more
    assert [row["trials"] for row in json.loads(run(*words).stdout)["results"]] == [2, 2]
    assert len(Path("log.jsonl").read_text().splitlines()) == 1 + 5


def test_a_log_knows_model_and_filler_by_what_they_hold(run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("book.txt").write_text("They went to town. " * 200)
    words = ("--modes", "full", "--log", "log.jsonl", "--filler", "book.txt", "--json", "out.json")
    assert run(*words).exit_code == 0
    settings = json.loads(Path("out.json").read_text())["settings"]
    assert settings["model"] == tiny_model(layout=WIDE).kv_spec.fingerprint and settings["filler_bytes"] == 3800
    # another name of the same model is no other model
    assert run(*words, "--adapter", "elsewhere").exit_code == 0
    Path("book.txt").write_text("They went to work. " * 200)
    other = run(*words)
    assert other.exit_code == 2 and "other settings, {'filler_sha256': " in other.stderr
    Path("book.txt").write_text("They went to town. " * 200)
    monkeypatch.setattr(LandmarkModel, "from_pretrained", lambda *_, **__: tiny_model(seed=1, layout=WIDE))
    other = run(*words)
    assert other.exit_code == 2 and "other settings, {'model': " in other.stderr


def test_a_file_that_is_no_log_is_left_alone(run) -> None:
    for text in ("a note", "[]\n", "no\n", '{"a": 1}\n{"b', '{"a": 1}\n{"b": 2}\n'):
        Path("note.txt").write_text(text)
        done = run("--log", "note.txt")
        assert done.exit_code == 2 and "'note.txt'" in done.stderr
        assert Path("note.txt").read_text() == text


def test_a_log_of_other_settings(run) -> None:
    assert run("--log", "log.jsonl", "--modes", "full").exit_code == 0
    other = run("--log", "log.jsonl", "--modes", "full", "--seed", "1")
    assert other.exit_code == 2
    assert "was written with other settings, {'seed': 0}; name another file" in other.stderr
    Path("no.jsonl").write_text("no\n")
    assert "is no log of `eval needles`" in run("--log", "no.jsonl").stderr


def test_what_a_query_reads_is_chosen(run) -> None:
    """One that never gives the past enough reads nothing, and heads that choose together read less than each alone."""
    read = {}
    for words in ([], ["--threshold", "0.999999"], ["--granularity", "shared", "--blocks", "1"], ["--blocks", "1"]):
        # at other lengths random heads give one query all of its mass
        done = run("--lengths", "600,700", "--modes", "hierarchical", "--json", "-", *words)
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        read[" ".join(words)] = found["results"][1]["blocks_read"]
    assert found["settings"]["granularity"] == "head_token" and found["settings"]["threshold"] == 0.01
    assert read["--threshold 0.999999"] == 0
    assert 0 < read["--granularity shared --blocks 1"] < read["--blocks 1"] < read[""]
    assert "expected --threshold to be from 0 to under 1, got 1.0" in run("--threshold", "1").stderr


def test_with_a_stride_fewer_keys_are_scored(run) -> None:
    keys = {}
    for stride in (1, 3):
        done = run("--modes", "hierarchical,flat", "--json", "-", "--stride", str(stride))
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        # of old logs too: what is as ever is not named
        assert found["settings"].get("stride", 1) == stride
        keys[stride] = [row["landmark_keys"] for row in found["results"]]
    assert all(0 < few < all_of_them for few, all_of_them in zip(keys[3], keys[1], strict=True))
    assert "expected --stride to be 1 or more, got 0" in run("--stride", "0").stderr


def test_a_table_says_what_of_recall_is_not_as_ever(run) -> None:
    def first(*words: str) -> str:
        return run("--lengths", "600", "--trials", "1", *words).stdout.splitlines()[0]

    stride, alone = "blocks are chosen anew every 2 tokens (stride)", "weighed by landmarks alone"
    assert first("--modes", "flat", "--stride", "2") == stride
    assert first("--modes", "hierarchical", "--stride", "2", "--weigh-by", "landmarks") == (
        f"{stride}; blocks of opened segments are {alone}"
    )
    # flat opens no segments
    for words in (
        ("--modes", "hierarchical", "--stride", "1"),
        ("--modes", "full", "--stride", "2"),
        ("--modes", "flat", "--weigh-by", "landmarks"),
    ):
        assert first(*words).startswith("task")


def test_a_length_too_short_for_the_model_is_told_before_its_work(run) -> None:
    """It names one that does."""
    done = run("--lengths", "150", "--log", "log.jsonl")
    said = re.search(
        r"expected lengths of at least (\d+) tokens, got 150: passkey does not fit into less\n", done.stderr
    )
    assert done.exit_code == 2 and said and not Path("log.jsonl").exists()
    assert run("--lengths", said[1], "--modes", "flat").exit_code == 0


def test_faults_come_before_the_work(run) -> None:
    Path("book.txt").write_text("They went to town.")
    for words, message in (
        (["--tasks", "niah_single_2"], "name a file with --filler"),
        (["--filler", "none.txt"], "expected --filler to name a file, got 'none.txt'"),
        (["--modes", "round"], "expected modes of hierarchical, flat, full, got round"),
        (["--json", "missing/o.json"], "--json"),
        (["--lengths", "600,99999999999"], "which this machine has memory for, got 99,999,999,999"),
        (["--filler", "book.txt"], "filler book.txt runs out: 964 characters are needed, it has 18"),
        (["--lengths", "25,600"], "expected lengths that hold the 51 words of passkey and its answer, got 25; 256"),
    ):
        done = run(*words)
        assert done.exit_code == 2 and message in done.stderr
    assert run.loaded == []
