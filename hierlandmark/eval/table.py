"""The comparison as lines of text, and in words: who wins, by how much, and what to use when."""

from hierlandmark.eval.metrics import bootstrap
from hierlandmark.eval.retrieval import RetrievalReport, Row
from hierlandmark.eval.rows import MODES, OVER_VECTORS

COLUMNS = ("recall@1", "recall@5", "recall@10", "recall@20", "hit@10", "ndcg@10", "mrr")
# the figure that rows are compared by
KEY = "recall@10"


def is_peer(name: str) -> bool:
    """Whether somebody else's retriever made a row, over whatever."""
    return name not in (*MODES, "default")


def cells(row: Row) -> list[str]:
    """Figures of a row as text, in the order of `heads`."""
    figures, found = row.results(), row.costs()
    speed = found["ingest_tokens_per_s"]
    return [
        row.name,
        *(f"{figures.get(name, 0.0):.3f}" for name in COLUMNS),
        f"{found['keys_scored']:,.0f}",
        size(found["bytes_read"]),
        f"{found['p50_ms']:,.1f}",
        f"{found['p95_ms']:,.1f}",
        size(found["index_bytes"]),
        f"{speed:,.0f}" if speed else "",
    ]


def heads() -> list[str]:
    """Column heads."""
    return ["row", *COLUMNS, "keys", "read", "p50 ms", "p95 ms", "index", "tokens/s"]


def lines(report: RetrievalReport) -> list[str]:
    """The table, and one of `KEY` by type where there are several types."""
    table = [heads(), *(cells(row) for row in report.rows.values())]
    return [*columns(table), *([""] if len(types(report)) > 1 else []), *type_lines(report)]


def type_lines(report: RetrievalReport) -> list[str]:
    """`KEY` by type, nothing where all questions are of one type."""
    return columns(type_cells(report)) if len(types(report)) > 1 else []


def type_cells(report: RetrievalReport) -> list[list[str]]:
    """Heads, then a row each, of `KEY` by type."""
    kinds = types(report)
    first = next(iter(report.rows.values()))
    counts = {kind: len(first.scored(kind)) for kind in kinds}
    found = [[f"{KEY} of", *(f"{kind} ({counts[kind]})" for kind in kinds)]]
    for row in report.rows.values():
        by_type = row.by_type()
        found.append([row.name, *(f"{by_type[kind][KEY]:.3f}" for kind in kinds)])
    return found


def types(report: RetrievalReport) -> list[str]:
    """Types of the questions with evidence."""
    return next(iter(report.rows.values())).types() if report.rows else []


def columns(table: list[list[str]]) -> list[str]:
    """Rows of text, the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return [
        "  ".join(
            cell.ljust(width) if not i else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]


def size(count: float) -> str:
    """Bytes for a person.

    >>> size(1234567)
    '1.2 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    raise AssertionError


def difference(one: Row, other: Row) -> tuple[float, float, float]:
    """By how much `one` has more of `KEY` than `other`, and the paired 95% interval of that."""
    pairs = [a[KEY] - b[KEY] for a, b in zip(one.scored(), other.scored(), strict=True)]
    return (sum(pairs) / len(pairs), *bootstrap(pairs))


def verdicts(report: RetrievalReport) -> list[str]:
    """Sentences on who is ahead, with paired intervals, and what that says about which row to use when."""
    rows = [row for row in report.rows.values() if row.scored()]
    if not rows:
        return ["No question names its evidence, so nothing is compared."]
    found = [_best(rows)]
    ours, peers = [row for row in rows if not is_peer(row.name)], [row for row in rows if is_peer(row.name)]
    for peer in peers:
        better, worse = _against(peer, ours)
        if better:
            found.append(f"{peer.name} wins over {', '.join(better)}.")
        if worse:
            found.append(f"{peer.name} is behind {', '.join(worse)}.")
        if not better and not worse:
            found.append(f"{peer.name} cannot be told from any of this project's rows by these questions.")
    by_name = {row.name: row for row in rows}
    if "hierarchical" in by_name and "flat" in by_name:
        found.append(_levels(by_name["hierarchical"], by_name["flat"]))
    return [*found, *_advice(rows)]


def _mean(row: Row) -> float:
    scores = row.scored()
    return sum(one[KEY] for one in scores) / len(scores)


def _best(rows: list[Row]) -> str:
    best = max(rows, key=_mean)
    equal = [row.name for row in rows if row is not best and difference(best, row)[1] <= 0]
    n = len(best.scored())
    words = f"{best.name} has the highest {KEY}, {_mean(best):.3f}, over {n} question{'' if n == 1 else 's'}"
    return (
        f"{words}; these questions cannot tell it from {', '.join(equal)}."
        if equal
        else f"{words}, clear of all others."
    )


def _against(peer: Row, ours: list[Row]) -> tuple[list[str], list[str]]:
    """Rows that a peer is clearly ahead of, and clearly behind, with the difference."""
    better, worse = [], []
    for row in ours:
        mean, low, high = difference(peer, row)
        words = f"{row.name} ({mean:+.3f}, {low:+.3f} to {high:+.3f})"
        if low > 0:
            better.append(words)
        elif high < 0:
            worse.append(words)
    return better, worse


def _levels(hierarchical: Row, flat: Row) -> str:
    mean, low, high = difference(hierarchical, flat)
    scored, all_keys = hierarchical.costs()["keys_scored"], flat.costs()["keys_scored"]
    share = f"{scored / all_keys:.0%} of flat's keys" if all_keys else "no keys"
    kept = f"{_mean(hierarchical) / _mean(flat):.1%}" if _mean(flat) else "none"
    return (
        f"hierarchical keeps {kept} of flat's {KEY} ({mean:+.3f}, {low:+.3f} to {high:+.3f}) and scores {share} "
        "(gates and landmarks against landmarks)."
    )


def _advice(rows: list[Row]) -> list[str]:
    """What to use when, by these figures alone."""
    found = []
    best = max(rows, key=_mean)
    near = [row for row in rows if difference(best, row)[1] <= 0]
    quick = min(near, key=lambda row: row.costs()["p50_ms"])
    found.append(
        f"On text like this, use {best.name} for the best ranking; {quick.name} is the quickest of those that cannot "
        f"be told from it ({quick.costs()['p50_ms']:,.1f} ms a question)."
        if quick is not best
        else f"On text like this, use {best.name}: the best ranking, and none that equals it is quicker."
    )
    without = [row for row in rows if row.name in (*MODES, *OVER_VECTORS) and row.name != "hybrid"]
    if without and best not in without:
        ahead = max(without, key=_mean)
        found.append(
            f"Of the rows that look at no words, for questions that share few with the text, {ahead.name} is best "
            f"({_mean(ahead):.3f})."
        )
    return found
