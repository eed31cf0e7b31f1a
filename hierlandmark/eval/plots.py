"""Plots of the comparison as SVG text; the one file that imports matplotlib."""

import re
from collections.abc import Sequence
from io import StringIO
from typing import Any

from hierlandmark.errors import MissingExtra
from hierlandmark.eval.retrieval import RetrievalReport
from hierlandmark.eval.table import KEY, is_peer

_MARKS = "os^Dvph*X<>P"


def recall_against_cost(report: RetrievalReport) -> tuple[str, str]:
    """`KEY` with its interval against keys scored, and against milliseconds, a question: two plots."""
    found = {name: row.as_json() for name, row in report.rows.items() if row.scored()}
    return (
        _recall(found, "keys_scored", "keys scored a question"),
        _recall(found, "p50_ms", "milliseconds a question, median"),
    )


def _recall(found: dict[str, dict[str, Any]], cost: str, label: str) -> str:
    figure, axes = _figure()
    for at, (name, row) in enumerate(found.items()):
        mean, (low, high) = row["results"][KEY], row["intervals"][KEY]
        axes.errorbar(
            max(row[cost], 1e-3),
            mean,
            yerr=[[mean - low], [high - mean]],
            marker=_MARKS[at % len(_MARKS)],
            linestyle="none",
            capsize=2,
            elinewidth=0.8,
            markerfacecolor="none" if is_peer(name) else None,
            label=name,
        )
    axes.set(xscale="log", xlabel=label, ylabel=f"{KEY}, 95% interval", ylim=(0, 1.03))
    return _svg(figure, axes)


def cost_against_size(records: Sequence[dict[str, Any]]) -> tuple[str, str, str]:
    """Milliseconds, keys scored and resident bytes a row against the number of blocks: three plots."""
    return (
        _scale(records, "p50_ms", "milliseconds a question, median"),
        _scale(records, "keys_scored", "vectors compared a question"),
        _scale(records, "resident_bytes", "bytes in memory"),
    )


def _scale(records: Sequence[dict[str, Any]], value: str, label: str) -> str:
    figure, axes = _figure()
    for at, name in enumerate(dict.fromkeys(one["row"] for one in records)):
        points = sorted((one["blocks"], one[value]) for one in records if one["row"] == name)
        style = {"marker": _MARKS[at % len(_MARKS)], "linestyle": "--" if is_peer(name) else "-"}
        axes.plot(*zip(*points, strict=True), label=name, linewidth=1, markersize=4, **style)
    axes.set(xscale="log", yscale="log", xlabel="blocks in the memory", ylabel=label)
    return _svg(figure, axes)


def _figure() -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("the report's plots need matplotlib; run: pip install 'hierlandmark[eval]'") from error
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Any, axes: Any) -> str:
    from matplotlib import rc_context

    axes.grid(alpha=0.3, linewidth=0.5)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    out = StringIO()
    # letters stay letters, and two runs give the same bytes
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "hierlandmark"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    # inside a page an SVG needs neither its prolog nor its metadata, which name pages of the web
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
