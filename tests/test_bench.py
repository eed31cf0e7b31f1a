"""What the attention's measurement prints; the numbers themselves are for a GPU."""

import json
import sys

import pytest
import torch

from hierlandmark.bench import __main__ as bench
from hierlandmark.bench import attention, timing


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str) -> list[dict[str, object]]:
    monkeypatch.setattr(sys, "argv", ["bench", "attention", *options])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    bench.main()
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_row_for_each_shape_and_length_dense_and_sparse(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(timing, "WARM_UP", 0)
    monkeypatch.setattr(attention, "LONGEST_REFERENCE", 512)
    options = "--shapes B1-H2/1-D16 --lengths 512 1024 --repeats 1 --segments 1 --blocks 2"
    rows = run(monkeypatch, capsys, *options.split())
    assert [row["shape"] for row in rows[:2]] == ["B1-T512-H2/1-D16", "B1-T1024-H2/1-D16"]
    for row in rows[:2]:
        for way in ("sdpa", "hierarchical", "flat"):
            assert 0 < row[f"{way}_forward_ms"] <= row[f"{way}_ms"]
        assert row["flat_over_sdpa"] == pytest.approx(row["flat_ms"] / row["sdpa_ms"], abs=0.1, rel=0.1)
        assert "hierarchical_over_sdpa" in row
    # it holds T x T arrays: short texts only
    assert ["reference_over_hierarchical" in row for row in rows] == [True, False] + [False] * 4
    recalls = [(row["shape"], mode) for row in rows[:2] for mode in ("hierarchical", "flat")]
    assert [(row["shape"], row["mode"]) for row in rows[2:]] == recalls
    for row in rows[2:]:
        assert row["what"] == "recall"
        assert (row["segments"], row["blocks"]) == (1, 2)
        ratio = row["sdpa_forward_ms"] / row["recall_forward_ms"]
        assert row["sdpa_over_recall"] == pytest.approx(ratio, abs=0.01, rel=0.1)


@pytest.mark.parametrize(
    ("option", "reason"), [("--shapes=B1", "B8-H9/3-D64"), ("--shapes=B1-H4/3-D16", "H4/3"), ("--lengths=100", "512")]
)
def test_what_cannot_be_measured_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str, reason: str
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, capsys, option)
    assert reason in capsys.readouterr().err
