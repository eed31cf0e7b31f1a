"""The tables' rows, and the command over a tiny model in a folder."""

import json
import warnings

import pytest
from typer.testing import CliRunner

from hierlandmark.cli import app
from hierlandmark.eval.perplexity import Setting
from hierlandmark.eval.tables import GRANULARITIES, THRESHOLDS, as_lines, settings_of
from hierlandmark.testing import save_tiny


def test_table_1_has_windows_of_every_attention_size() -> None:
    rows = settings_of("1", [512, 256], [2, 4], 64)
    sizes = {(one.mode, one.attention_size(4096, 512, 64)) for one in rows}
    landmarks = {size for mode, size in sizes if mode == "hierarchical"}
    assert landmarks == {512 + 128, 512 + 256, 256 + 128, 256 + 256, 4096}
    for stepped in (True, False):
        windows = [one for one in rows if one.mode == "xl" and (one.cache is not None) is stepped]
        assert sorted(one.attention_size(4096, 512, 64) for one in windows) == sorted(landmarks - {4096})
    assert {(one.window, one.cache) for one in rows if one.cache} == {(w, c) for w in (512, 256) for c in (128, 256)}
    assert ("full", 4096) in sizes and len(rows) == len(set(rows)) == 1 + 4 + 4 + 2 * 2 * 3
    assert all(one.segments >= 4 for one in rows)


def test_tables_2_and_d() -> None:
    assert {(one.mode, one.granularity) for one in settings_of("2", [512], [4], 64)} == {
        (mode, one) for mode in ("flat", "hierarchical") for one in GRANULARITIES
    }
    assert [one.threshold for one in settings_of("D", [512], [4], 64)] == [*THRESHOLDS, *THRESHOLDS]
    assert [one.threshold for one in settings_of("D", [512], [4], 64, [0.5, 0.1])] == [0.1, 0.5, 0.1, 0.5]


def test_no_text_is_shorter_than_what_is_attended() -> None:
    assert Setting("xl", window=700).attention_size(300, 512, 64) == 300
    assert Setting(blocks=4).attention_size(300, 512, 64) == 300


def test_lines_show_the_change_against_the_lowest_threshold() -> None:
    def row(mode, threshold, perplexity, **more):
        one = {"length": 2048, "mode": mode, "window": 512, "cache": None, "blocks": 4, "segments": 4}
        one |= {"granularity": "head"}
        one |= {"threshold": threshold, "perplexity": perplexity, "attention_size": 768}
        return one | {"reads_skipped": {"head_token": threshold}} | more

    lines = as_lines([row("flat", 0.5, 11.0), row("flat", 0.0, 10.0), row("full", 0.0, 9.0, blocks=None)])
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2] == "| 2,048 | flat | 512 | 4 | 768 | head | 0.5 | 11.000 | +10.00% | 50.0% |"
    assert "| 10.000 |  | 0.0% |" in lines[3]
    assert "| full |  |  | 768 |  |  | 9.000 |" in lines[4]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    save_tiny(folder / "base")
    (folder / "book.txt").write_text("".join(f"On day {i} the {i % 7} ships left port {i % 11}. " for i in range(90)))

    def command(*words):
        out = folder / "o.json"
        fixed = ["eval", "perplexity", folder / "book.txt", "--model", folder / "base", "--adapter", "none"]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            done = CliRunner().invoke(app, [str(word) for word in (*fixed, "--json", out, *words)])
        assert done.exit_code == 0, done.output + done.stderr
        return json.loads(out.read_text())["results"], done.stdout

    return command


def test_the_command_makes_table_1(run) -> None:
    rows, text = run("--table", "1", "--lengths", "300,600", "--limit", 2, "--window", "256,128", "--blocks", "1,2")
    # full attention goes no further than the base model was made for
    assert [row["mode"] for row in rows if row["length"] == 600].count("full") == 0
    assert len(rows) == (1 + 8 + 12) + (8 + 12) and len(text.splitlines()) == len(rows) + 2
    assert {row["tokens"] for row in rows if row["length"] == 300} == {2 * 299}
    for row in rows:
        assert row["perplexity"] > 1 and row["attention_size"] <= row["length"]
        assert ("work" in row) == (row["blocks"] is not None)
    full, wide = (next(r for r in rows if r["mode"] == mode) for mode in ("full", "xl"))
    assert wide["attention_size"] < 300 and full["attention_size"] == 300
    assert full["perplexity"] != wide["perplexity"]


def test_the_command_makes_table_2_and_d(run) -> None:
    rows, _ = run("--table", "2", "--lengths", "600", "--limit", 1, "--window", "128", "--blocks", "1")
    assert len({row["perplexity"] for row in rows if row["mode"] == "hierarchical"}) == 4
    rows, _ = run("--table", "D", "--lengths", "600", "--limit", 1, "--window", "128", "--threshold", "0,0.3,0.99999")
    skipped = [row["reads_skipped"]["head_token"] for row in rows if row["mode"] == "hierarchical"]
    assert skipped[0] == 0 < skipped[1] < skipped[2]
    assert all(row["reads_skipped"]["window"] <= row["reads_skipped"]["head_token"] for row in rows)


def test_the_command_selects_and_counts(run) -> None:
    single = ["--limit", 1, "--dtype", "float32"]
    words = ["--lengths", "400", *single, "--window", "128"]
    (dense,), _ = run(*words)
    rows, text = run(*words, "--blocks", "1,999", "--segments", 99, "--device", "cpu")
    assert rows[1]["perplexity"] == pytest.approx(dense["perplexity"], rel=1e-5)
    assert abs(rows[0]["perplexity"] / dense["perplexity"] - 1) > 1e-4
    assert rows[0]["work"]["keys"] < rows[1]["work"]["keys"]
    assert "k 1 of 99 segments" in text
    (near,), _ = run(*words[:-1], "300", "--mode", "xl")
    (full,), _ = run("--lengths", "400", *single, "--mode", "xl", "--window", 400)
    (steps,), text = run("--lengths", "400", *single, "--mode", "xl", "--window", 128, "--cache", 64)
    assert "window 128 and cache 64" in text and steps["attention_size"] == 192
    (slides,), _ = run("--lengths", "400", *single, "--mode", "xl", "--window", 128)
    assert steps["perplexity"] not in (slides["perplexity"], full["perplexity"])
    (all_seen,), _ = run("--lengths", "400", *single, "--mode", "xl", "--window", 128, "--cache", 400)
    assert all_seen["perplexity"] == pytest.approx(full["perplexity"], rel=1e-5)
    (plain,), _ = run("--lengths", "400", *single, "--mode", "full")
    assert full["perplexity"] == pytest.approx(plain["perplexity"], rel=1e-5) != near["perplexity"]
