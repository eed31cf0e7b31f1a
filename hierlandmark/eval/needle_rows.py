"""Records of needle trials to rows, and the rows as a table."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

Row = dict[str, Any]
# means over a row's trials
FIGURES = (
    "document", "steps", "gate_keys", "landmark_keys", "blocks_read", "bytes_read", "first_token_ms", "per_token_ms",
)  # fmt: skip
# columns of a table, and how wide they are
_WIDTHS = {
    "task": "<16", "filler": "<12", "length": ">9", "mode": "<12", "n": ">3", "found": ">6", "95%": ">11",
    "gates": ">10", "landmarks": ">11", "/flat": ">6", "blocks": ">8", "MB read": ">8", "first ms": ">9",
}  # fmt: skip


def wilson(mean: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95% interval of a share; for means of shares it is wider than need be, never narrower.

    >>> [round(end, 3) for end in wilson(1.0, 50)]
    [0.929, 1.0]
    """
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (mean * (1 - mean) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def rows(records: Iterable[Row]) -> list[Row]:
    """One row a task, filler, length and mode, in the order in which they first come.

    `accuracy` is the mean share of answers found over the `trials` that ran, `low` and `high` its 95% interval, None
    where none could be run; `failed` could not be, for the reasons in `why`; `keys_share` and `bytes_share` are keys
    scored and bytes read, over what plain attention would have.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for record in records:
        groups.setdefault((record["task"], record["filler"], record["length"], record["mode"]), []).append(record)
    return [_row(key, group) for key, group in groups.items()]


def _row(key: tuple[Any, ...], group: Sequence[Row]) -> Row:
    task, filler, length, mode = key
    ran = [one for one in group if one["score"] is not None]
    why = dict.fromkeys(str(one.get("why")) for one in group if one["score"] is None)
    row: Row = {"task": task, "filler": filler, "length": length, "mode": mode, "trials": len(ran)}
    row |= {"failed": len(group) - len(ran), "why": "; ".join(why) or None}
    if not ran:
        return row | {"accuracy": None, "low": None, "high": None}
    accuracy = fmean(one["score"] for one in ran)
    low, high = wilson(accuracy, len(ran))
    row |= {"accuracy": accuracy, "low": low, "high": high}
    row |= {name: fmean(one[name] for one in ran) for name in FIGURES if name in ran[0]}
    if "full_keys" in ran[0]:
        row["keys_share"] = sum(one["keys"] for one in ran) / sum(one["full_keys"] for one in ran)
        row["bytes_share"] = sum(one["bytes_read"] for one in ran) / sum(one["full_bytes"] for one in ran)
    return row


def ratios(found: Sequence[Row]) -> list[Row]:
    """Hierarchical beside flat, where both ran: landmark keys a forward pass, and accuracy in points."""
    by = {(row["task"], row["filler"], row["length"], row["mode"]): row for row in found}
    out = []
    for (task, filler, length, mode), row in by.items():
        flat = by.get((task, filler, length, "flat"))
        if mode != "hierarchical" or flat is None or not flat.get("landmark_keys") or row["accuracy"] is None:
            continue
        share = row["landmark_keys"] / row["steps"] / (flat["landmark_keys"] / flat["steps"])
        points = 100 * (row["accuracy"] - flat["accuracy"])
        out.append({"task": task, "filler": filler, "length": length, "landmark_share": share, "points": points})
    return out


def table(found: Sequence[Row]) -> list[str]:
    """Lines for people, without columns that no mode among the rows fills."""
    shares = {(one["task"], one["filler"], one["length"]): one["landmark_share"] for one in ratios(found)}
    rows = sorted(found, key=lambda row: (row["task"], row["filler"], row["length"]))
    cells = [_cells(row, shares.get((row["task"], row["filler"], row["length"]))) for row in rows]
    used = [name for name in _WIDTHS if any(name in one for one in cells)]
    lines = [" ".join(f"{name:{_WIDTHS[name]}}" for name in used)]
    for row, one in zip(rows, cells, strict=True):
        line = " ".join(f"{one.get(name, ''):{_WIDTHS[name]}}" for name in used)
        if row["accuracy"] is None:
            lines.append(f"{line.rstrip()} not run: {row['why']}")
        else:
            lines.append(f"{line}  {row['failed']} more not run: {row['why']}" if row["failed"] else line)
    return lines


def _cells(row: Row, share: float | None) -> dict[str, str]:
    """What a row says by column; `share` is of flat's landmark keys, and hierarchical's to tell."""
    cells = {
        "task": row["task"],
        "filler": row["filler"].rsplit("/", 1)[-1].split()[0][:12],
        "length": f"{row['length']:,}",
        "mode": row["mode"],
        "n": str(row["trials"]),
    }
    if row["accuracy"] is None:
        return cells
    cells |= {"found": f"{row['accuracy']:.1%}", "95%": f"{row['low']:>5.0%}-{row['high']:<5.0%}"}
    if row["mode"] == "hierarchical":
        cells |= {"gates": f"{row['gate_keys']:,.0f}"} | ({"/flat": f"{share:.1%}"} if share is not None else {})
    if "steps" in row:
        cells |= {"landmarks": f"{row['landmark_keys']:,.0f}", "blocks": f"{row['blocks_read']:,.0f}"}
        cells |= {"MB read": f"{row['bytes_read'] / 1e6:,.1f}"}
    return cells | {"first ms": f"{row['first_token_ms']:,.0f}"}
