"""What commands print: JSON for scripts, short lines for people, progress on stderr."""

import json
import re
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hierlandmark.errors import InvalidArgument

if TYPE_CHECKING:
    from hierlandmark.config import RecallConfig
    from hierlandmark.filters import TimeSpan
    from hierlandmark.messages import Message
    from hierlandmark.results import Cost, Hit, Trace

# characters of a text shown on one line
WIDTH = 160
_WORDS = re.compile(r"\w+")


def print_json(value: Any) -> None:
    """One line of JSON on standard output, in ASCII: a pipe may have any encoding."""
    typer.echo(json.dumps(value))


def write_json(value: Any, out: Path | None) -> None:
    """JSON to a file, to standard output for `-`, or nowhere.

    Raises:
        InvalidArgument: the file cannot be written.
    """
    if out and str(out) != "-":
        try:
            out.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise InvalidArgument(f"{str(out)!r} cannot be written: {error}") from error
    elif out:
        print_json(value)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, where that is a terminal; call what it gives with (done, total)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(file=sys.stderr)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def short(text: str, width: int = WIDTH) -> str:
    """The text on one line, cut at `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"


def excerpt(text: str, query: str, width: int = WIDTH) -> str:
    """As `short`, but of a longer text the part that has most of the query's words, rare ones in it first."""
    line = " ".join(text.split())
    wanted = {word.casefold() for word in _WORDS.findall(query)}
    found = [(match.start(), match.group().casefold()) for match in _WORDS.finditer(line)]
    often = Counter(word for _, word in found)
    hits = [(at, word) for at, word in found if word in wanted]
    if len(line) <= width or not hits:
        return short(line, width)

    starts = [at for at, _ in hits]

    def worth(first: int) -> float:
        # a window that begins at a hit, and shows some words before it
        end = starts[first] + width * 3 // 4
        seen = {word for at, word in hits[first : bisect_right(starts, end)] if at + len(word) <= end}
        return sum(1 / often[word] for word in seen)

    # the latest of equal ones: what is asked for stands behind the words of the question more often than before them
    best = starts[max(range(len(hits)), key=lambda first: (round(worth(first), 6), first))]
    start = line.rfind(" ", 0, max(1, best - width // 5)) + 1
    return short(line, width) if start == 0 else f"…{short(line[start:], width - 1)}"


def counted(n: int, what: str) -> str:
    """How many there are of something that is called by its singular: `1 window`, `2,048 windows`."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def show_hits(hits: "list[Hit]", query: str, *, why: bool = False) -> None:
    """A line about each hit and a line of its text, of a long one what is like the query.

    With `why` one more on what found it, where the mode is hybrid.
    """
    if not hits:
        typer.echo("nothing found")
    for rank, hit in enumerate(hits, start=1):
        ids = ", ".join(str(one) for one in hit.message_ids)
        who = "; ".join(" ".join(part for part in (one.role, one.time) if part) for one in hit.messages)
        typer.echo(f"{rank:>3}  {hit.score:.4f}  message {ids}  {who}  (block {hit.block}, segment {hit.segment})")
        _show_beside("before", hit.before)
        typer.echo(f"     {excerpt(hit.text, query)}")
        _show_beside("after", hit.after)
        if why and hit.words is not None:
            typer.echo(f"     found by {_found_by(hit.landmarks, hit.words)}")


def _found_by(landmarks: float | None, words: float) -> str:
    by_words = f"words ({words:.2f} of the best match)"
    if landmarks is None:
        return by_words
    return f"landmarks ({landmarks:.2g})" + (f" and {by_words}" if words else "")


def _show_beside(where: str, messages: "list[Message]") -> None:
    for one in messages:
        typer.echo(f"       {where}, {one.role}: {short(one.content)}")


def show_when(when: "TimeSpan") -> None:
    """One line."""
    ends = " ".join(
        f"{word} {end.isoformat()}" for word, end in (("from", when.since), ("until", when.until)) if end is not None
    )
    typer.echo(f"{', '.join(when.expressions)}: {ends}")


def show_cost(cost: "Cost") -> None:
    """One line."""
    typer.echo(
        f"{cost.ms:,.0f} ms: {counted(cost.gate_keys, 'gate key')} and {counted(cost.landmark_keys, 'landmark key')} "
        f"scored, {counted(cost.blocks_read, 'block')} of a layer and {counted(cost.bytes_read, 'byte')} read"
    )


def show_recall(recall: "RecallConfig", *, gated: bool = True) -> None:
    """One line on how blocks are chosen and weighed; none where both are as ever.

    Args:
        recall: what was asked with.
        gated: whether gates opened segments in any of it; they weigh nothing elsewhere.
    """
    told = []
    if recall.stride != 1:
        told.append(f"blocks are chosen anew every {recall.stride:,} tokens (stride)")
    if recall.weigh_by != "gates" and gated:
        told.append("blocks of opened segments are weighed by landmarks alone")
    if told:
        typer.echo("; ".join(told))


def show_trace(trace: "Trace", most: int = 5) -> None:
    """The gates and the blocks that got most mass."""
    for segment in trace.segments[:most]:
        typer.echo(f"  gate of segment {segment.segment:>4}  mass {segment.mass:.3f}  {_heads(segment.heads)}")
    for block in trace.blocks[:most]:
        typer.echo(
            f"  block {block.block:>4} in segment {block.segment:>4}  mass {block.mass:.3f}  {_heads(block.heads)}"
        )
        typer.echo(f"     {short(block.text, 120)}")


def _heads(heads: list[Any]) -> str:
    return "most in " + ", ".join(f"layer {h.layer} head {h.head} ({h.mass:.2g})" for h in heads[:2]) if heads else ""
