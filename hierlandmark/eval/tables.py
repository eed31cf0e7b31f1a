"""The tables of Mohtashami & Jaggi 2023: which settings they compare, and rows as lines of text."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

from hierlandmark.config import Granularity
from hierlandmark.eval.perplexity import Setting

Table = Literal["1", "2", "D"]
GRANULARITIES: tuple[Granularity, ...] = ("head_token", "head", "token", "shared")
# masses on the past under which a head and token reads nothing: from never to nearly always
THRESHOLDS = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 0.9999)
_SHORT = {"head_token": "head and token", "head": "head", "token": "token", "shared": "all"}


def settings_of(
    table: Table, windows: Sequence[int], blocks: Sequence[int], block_size: int, thresholds: Sequence[float] = ()
) -> list[Setting]:
    """The rows of a table at one length.

    1: full attention, sliding windows, windows with a cache as large as k blocks, and both modes at every local window
    and k, and with every block. 2: who chooses blocks. D: thresholds. 2 and D are made at the first window and k.
    """
    first = Setting(window=windows[0], blocks=blocks[0], segments=opened(blocks[0]))
    if table == "2":
        return [
            replace(first, mode=mode, granularity=one) for mode in ("flat", "hierarchical") for one in GRANULARITIES
        ]
    if table == "D":
        wanted = sorted(set(thresholds) or THRESHOLDS)
        return [replace(first, mode=mode, threshold=one) for mode in ("flat", "hierarchical") for one in wanted]
    sizes = sorted({window + k * block_size for window in windows for k in blocks})
    rows = [Setting("full"), *(Setting("xl", window=size) for size in sizes)]
    rows += [Setting("xl", window=window, cache=k * block_size) for window in windows for k in blocks]
    for mode in ("flat", "hierarchical"):
        for window in windows:
            rows += [Setting(mode, window, blocks=k, segments=opened(k)) for k in blocks]
            rows.append(Setting(mode, window))
    return rows


def opened(blocks: int) -> int:
    """Segments that a query opens for so many blocks, where that is not given."""
    return max(4, blocks)


def as_lines(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Rows of `evaluate_perplexity`, with `attention_size`, as a Markdown table.

    The change is against the row of the same length, mode and k with the lowest threshold; `skipped` is the share of
    heads and tokens that read nothing.
    """
    rows = list(rows)
    base: dict[tuple[Any, ...], float] = {}
    for row in sorted(rows, key=lambda row: row["threshold"]):
        base.setdefault(_key(row), row["perplexity"])
    head = (
        "length",
        "attention",
        "local window",
        "k",
        "size",
        "chosen by",
        "threshold",
        "perplexity",
        "change",
        "skipped",
    )
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        landmarks = row["mode"] in ("flat", "hierarchical")
        selects = landmarks and row["blocks"] is not None
        change = row["perplexity"] / base[_key(row)] - 1
        cells = (
            f"{row['length']:,}",
            row["mode"],
            f"{row['window']:,}" if row["window"] and (landmarks or row["cache"] is not None) else "",
            (str(row["blocks"]) if selects else "all") if landmarks else "",
            f"{row['attention_size']:,}",
            _SHORT[row["granularity"]] if selects else "",
            f"{row['threshold']:g}" if selects else "",
            f"{row['perplexity']:.3f}",
            f"{change:+.2%}" if selects and row["threshold"] else "",
            f"{row['reads_skipped']['head_token']:.1%}" if "reads_skipped" in row else "",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("length", "mode", "window", "cache", "blocks", "segments", "granularity"))
