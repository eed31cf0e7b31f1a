"""Rows of needle trials: means, intervals, ratios."""

import pytest

from hierlandmark.eval.needle_rows import ratios, rows, table, wilson


def record(mode: str, score: float | None, **more: object) -> dict:
    base = {"task": "vt", "filler": "grass", "length": 4096, "trial": 0, "mode": mode, "document": 4000, "score": score}
    cost = {"steps": 10, "gate_keys": 8, "blocks_read": 4, "bytes_read": 10, "keys": 20, "full_keys": 100}
    times = {"first_token_ms": 5.0, "per_token_ms": 1.0, "full_bytes": 1000}
    return base | cost | times | {"landmark_keys": 100 if mode == "flat" else 10} | more


@pytest.mark.parametrize(("mean", "n", "low", "high"), [(1, 50, 0.929, 1), (0, 10, 0, 0.278), (0.5, 100, 0.404, 0.596)])
def test_wilson(mean: float, n: int, low: float, high: float) -> None:
    assert wilson(mean, n) == pytest.approx((low, high), abs=5e-4)


def test_rows_and_ratios() -> None:
    hier = [record("hierarchical", 1.0), record("hierarchical", 0.6, steps=30, landmark_keys=50)]
    found = rows([*hier, record("flat", 1.0), record("flat", 0.5, steps=10), record("full", None, why="too long")])
    assert [(row["mode"], row["trials"]) for row in found] == [("hierarchical", 2), ("flat", 2), ("full", 0)]
    first, flat, full = found
    assert first["accuracy"] == pytest.approx(0.8) and first["low"] < 0.8 < first["high"]
    assert (first["keys_share"], first["bytes_share"]) == (0.2, 0.01)
    assert first["steps"] == 20 and flat["landmark_keys"] == 100
    assert full["accuracy"] is None and full["why"] == "too long"
    # passes differ where answers differ in length: keys are compared a pass
    (ratio,) = ratios(found)
    assert ratio["landmark_share"] == pytest.approx((30 / 20) / (100 / 10))
    assert ratio["points"] == pytest.approx(5)
    lines = table(found)
    assert "80.0%" in lines[1] and "15.0%" in lines[1] and "not run: too long" in lines[3]


def test_trials_that_failed_are_counted() -> None:
    lost = record("flat", None, why="out of memory")
    (row,) = rows([record("flat", 1.0), lost, record("flat", 0.0), lost])
    assert (row["trials"], row["failed"], row["why"], row["accuracy"]) == (2, 2, "out of memory", 0.5)
    assert "2 more not run: out of memory" in table([row])[1]
    # where all of one mode failed there is nothing to set beside
    assert ratios(rows([record("hierarchical", 1.0), lost])) == ratios(rows([record("hierarchical", None)])) == []
    assert ratios(rows([record("hierarchical", None, why="out of memory"), record("flat", 1.0)])) == []


def test_a_full_row_has_no_keys() -> None:
    plain = {"task": "vt", "filler": "grass", "length": 1, "trial": 0, "mode": "full", "document": 1, "score": 1.0}
    (row,) = rows([plain | {"first_token_ms": 3.0, "per_token_ms": 1.0}])
    assert "steps" not in row and row["accuracy"] == 1
    assert ratios([row]) == [] and "100.0%" in table([row])[1]


@pytest.mark.parametrize(
    ("modes", "columns"),
    [
        (("hierarchical", "flat", "full"), ["gates", "landmarks", "/flat", "blocks", "MB read"]),
        (("hierarchical", "full"), ["gates", "landmarks", "blocks", "MB read"]),
        (("flat",), ["landmarks", "blocks", "MB read"]),
        (("full",), []),
    ],
    ids="-".join,
)
def test_a_table_has_columns_of_the_modes_that_were_run(modes: tuple[str, ...], columns: list[str]) -> None:
    full = {name: value for name, value in record("full", 1.0).items() if name in ("first_token_ms", "per_token_ms")}
    plain = {"task": "vt", "filler": "grass", "length": 4096, "trial": 0, "mode": "full", "document": 1, "score": 1.0}
    head, *lines = table(rows([plain | full if mode == "full" else record(mode, 1.0) for mode in modes]))
    found = head.replace("MB read", "MB_read").replace("first ms", "first_ms").split()
    wanted = ["task", "filler", "length", "mode", "n", "found", "95%", *columns, "first ms"]
    assert found == [name.replace(" ", "_") for name in wanted]
    assert {len(line) for line in lines} == {len(head)}
