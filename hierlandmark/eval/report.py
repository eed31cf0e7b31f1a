"""The comparison as one HTML file that needs no network: tables, plots, who wins, which row to use when."""

from collections.abc import Sequence
from html import escape
from typing import Any

from hierlandmark.eval.plots import cost_against_size, recall_against_cost
from hierlandmark.eval.retrieval import RetrievalReport
from hierlandmark.eval.scale import scale_cells
from hierlandmark.eval.table import COLUMNS, cells, heads, type_cells, types, verdicts

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
td small { color: #777; display: block; }
figure { display: inline-block; margin: 0 1rem 1rem 0; } figure svg { max-width: 36rem; height: auto; }
.wide { overflow-x: auto; }
"""

# what each row is for, whatever the figures of one text say
USES = {
    "hierarchical": "Long memories without a word index: gates choose segments, so little is scored and read. Loses "
    "what a gate misses.",
    "flat": "Up to some thousands of blocks, or to see what gates cost: every landmark is scored and held in memory.",
    "hybrid": "The default choice for chats whose questions reuse the words of the text: names, codes, numbers.",
    "index": "Very long memories: hierarchical, with the gates of a few cells scored instead of all, so that keys "
    "scored grow with the root of the memory. To be built, and built again as the memory grows.",
    "bm25": "Questions that reuse the text's words, no model at hand. Finds nothing that is said in other words.",
    "minilm": "Short messages and paraphrases, with a second model; what stands after 256 tokens is not seen.",
    "bm25+minilm": "What a careful user builds today, with two indexes: the row to beat.",
    "faiss-flat": "Exact search over the landmark vectors: flat, by inner products whatever the adapter's rule.",
    "faiss-ivf": "Landmark vectors in an existing FAISS set-up; all of them in memory.",
    "faiss-hnsw": "As IVF, quicker to search, slow to build, largest in memory.",
}

NOTES = (
    "Figures are means over questions with evidence; intervals are 95% bootstrap percentiles over questions, the same "
    "resamples for every row, and differences are paired.",
    "keys: for this project's rows and FAISS, keys of one head that were scored (a landmark vector counts as many as "
    "it holds); for bm25, postings; for minilm, vectors. read: bytes fetched or compared for them. Only rows of one "
    "kind compare exactly.",
    "ms: wall time of one question, its encoding by the model included; the first question of a conversation, which "
    "also loads the gates, is asked twice and timed the second time. tokens/s: the model's tokens in the text, over "
    "the time from text to index.",
    "index: all gates and landmarks that are kept for this project's modes (the word index of hybrid is not "
    "counted), the vectors of the voting heads in fp32 for index and FAISS rows.",
)


def html(
    report: RetrievalReport | None,
    scale: Sequence[dict[str, Any]] = (),
    *,
    title: str,
    setting: dict[str, str],
    source: str = "",
) -> str:
    """The page.

    Args:
        report: of the questions; None when only a scale was measured.
        scale: records of `scale.measure_scale`.
        setting: what ran where: file, model, cores.
        source: what the scale's vectors are.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    parts = [f"<h1>{escape(title)}</h1>", _table([["what", "value"], *map(list, setting.items())])]
    if report is not None:
        parts += _questions(report)
    if scale:
        parts += _scale(scale, source)
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _questions(report: RetrievalReport) -> list[str]:
    parts = ["<h2>Who wins</h2>", _list(verdicts(report)), "<h2>Rows</h2>", _rows(report)]
    if len(types(report)) > 1:
        parts += ["<h2>By type of question</h2>", _table(type_cells(report))]
    if any(row.scored() for row in report.rows.values()):
        parts += ["<h2>Recall against cost</h2>", *map(_figure, recall_against_cost(report))]
    uses = [[name, USES[name]] for name in report.rows if name in USES]
    return [
        *parts,
        "<h2>Which row when</h2>",
        f"<ul>{''.join(f'<li><b>{escape(name)}</b>: {escape(use)}</li>' for name, use in uses)}</ul>",
        "<h2>How to read this</h2>",
        _list(NOTES),
    ]


def _scale(scale: Sequence[dict[str, Any]], source: str) -> list[str]:
    return [
        "<h2>Cost against size</h2>",
        f"<p>The vectors are {escape(source)}: times, keys and bytes are those of a memory of that size, and what is "
        "found says only how much of the exact order an index keeps on such vectors. The query's encoding is left out. "
        "Resident: for index its gates, centres and tables, its landmarks stay in a file; for others all vectors.</p>",
        _table(scale_cells(scale)),
        "<br>",
        *map(_figure, cost_against_size(scale)),
    ]


def _rows(report: RetrievalReport) -> str:
    """The main table, intervals under the figures."""
    body = []
    for row in report.rows.values():
        intervals = row.intervals()
        found = [escape(text) for text in cells(row)]
        for at, name in enumerate(COLUMNS, start=1):
            if name in intervals:
                low, high = intervals[name]
                found[at] += f"<small>{low:.2f} to {high:.2f}</small>"
        body.append(found)
    return _table([heads(), *body], escaped=True)


def _table(rows: Sequence[Sequence[str]], *, escaped: bool = False) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{text if escaped else escape(text)}</{tag}>' for text in cells)}</tr>"

    return f'<div class="wide"><table>{line(rows[0], "th")}{"".join(line(row, "td") for row in rows[1:])}</table></div>'


def _list(items: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"


def _figure(svg: str) -> str:
    return f"<figure>{svg}</figure>"
