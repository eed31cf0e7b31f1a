"""`eval retrieval`: the rows of the comparison over one file, and cost against size."""

import os
import shutil
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from platform import processor
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hierlandmark import __version__
from hierlandmark.cli.options import (
    AdapterOption,
    Keep,
    KeepOption,
    ModelOption,
    OutOption,
    SearchMode,
    check_place,
    load_model,
    open_memory,
    parse_lengths,
    writable,
)
from hierlandmark.cli.output import counted, progress, write_json
from hierlandmark.errors import InvalidArgument, MissingExtra

if TYPE_CHECKING:
    from hierlandmark.chats import Conversation
    from hierlandmark.eval.retrieval import RetrievalReport
    from hierlandmark.memory import Memory
    from hierlandmark.model import LandmarkModel

# as eval.loaders.Format, without the cost of importing it for --help
Format = Literal["chat", "locomo", "longmemeval", "beir"]


def retrieval(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="Questions with evidence: a chat file, LoCoMo, LongMemEval, a BEIR folder."
        ),
    ] = None,
    mode: Annotated[
        SearchMode | None,
        typer.Option("--mode", help="Only this mode; with --rows, the one that stands first, if not hybrid."),
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(
            "--rows", metavar="NAMES", help="Rows, separated by commas, or `all`; what is installed if not given."
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Messages to find; rankings hold 20 at least.")] = 10,
    out: OutOption = None,
    page: Annotated[
        Path | None,
        typer.Option("--report", metavar="OUT.html", help="Write a page with tables and plots.", callback=writable),
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option("--scale", metavar="BLOCKS", help="Cost at these numbers of blocks, separated by commas."),
    ] = None,
    width: Annotated[int, typer.Option("--width", help="Of the vectors --scale makes without a FILE.")] = 512,
    format: Annotated[
        Format | None, typer.Option("--format", help="What FILE is; told by its content if not given.")
    ] = None,
    db: Annotated[
        Path | None,
        typer.Option(
            "--db", metavar="FILE", help="Keep the memories here, and use them; else each goes with its last question."
        ),
    ] = None,
    keep: KeepOption = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Only the first conversations.")] = None,
    model: ModelOption = None,
    adapter: AdapterOption = "default",
    dtype: Annotated[str | None, typer.Option("--dtype", help="Of the weights, such as float32 or bfloat16.")] = None,
) -> None:
    """Are the evidence messages of a file's questions found? Modes and peers, side by side."""
    if k < 1:
        raise InvalidArgument(f"expected k of at least 1, got {k!r}")
    if file is None and scale is None:
        raise InvalidArgument("expected a FILE with questions, or --scale")
    if db:
        check_place(db)
    sizes = parse_lengths(scale, "--scale") if scale else []
    _check(page, sizes, width)
    names, scaled, missing = _names(rows, mode, file is not None, bool(sizes))
    for line in missing:
        typer.echo(f"left out: {line}", err=True)
    report: RetrievalReport | None = None
    records: list[dict[str, Any]] = []
    source = f"made of nothing, {width} wide: topics, segments of a topic, blocks of a segment"
    with TemporaryDirectory() as folder:
        vectors, questions = None, list[str]()
        if file is not None:
            chats = _chats(file, format, limit)
            memories = _Memories(db, Path(folder), load_model(model, adapter, dtype=dtype), keep)
            # the vectors of the first are what a scale repeats
            if sizes:
                memories.staying = memories.folder(_first(chats))
            # what a search does that names no mode comes first
            report = _ask(chats, memories, k, mode or "hybrid", names)
            _show(report, str(out) == "-")
            if sizes:
                from hierlandmark.memory.vectors import LandmarkVectors

                with memories(_first(chats)) as memory:
                    vectors = LandmarkVectors(memory)
                questions = [one.question for one in chats[0].questions]
                source = "those of the first conversation, whole segments repeated with noise, asked its questions"
        if sizes:
            records = _scale(sizes, scaled, vectors, questions, width, str(out) == "-")
    found: dict[str, Any] = report.as_json() if report else {}
    write_json(found | ({"scale": records, "scale_source": source} if records else {}), out)
    if page:
        _write_page(page, report, records, source, file, _words(model, adapter, dtype, keep))


def _check(page: Path | None, sizes: list[int], width: int) -> None:
    """What would else be found out after the work."""
    from importlib.util import find_spec

    from hierlandmark.eval.scale import check_sizes

    check_sizes(sizes, width)
    if page and find_spec("matplotlib") is None:
        raise MissingExtra("the report's plots need matplotlib; run: pip install 'hierlandmark[eval]'")


def _names(
    rows: str | None, mode: SearchMode | None, asked: bool, scaled: bool
) -> tuple[list[str], list[str], list[str]]:
    """Rows that questions are asked of, those of a scale, and what is missing for others."""
    from hierlandmark.eval.rows import NAMES, check_rows, installed_rows
    from hierlandmark.eval.scale import ROWS, scale_rows

    known = tuple(dict.fromkeys((*(NAMES if asked else ()), *(ROWS if scaled else ()))))
    found: list[str]
    missing: list[str] = []
    if rows is not None:
        given = [part.strip() for part in rows.split(",")]
        # a row that neither measures is named, not passed over
        found = check_rows(given, known)
    elif mode:
        found = [mode, "index", "numpy"] if scaled else [mode]
    else:
        found, missing = installed_rows(known)
    names: list[str] = [mode] if mode and rows is None else [name for name in found if name in NAMES]
    return names, scale_rows(found) if scaled else [], missing


def _chats(file: Path, format: Format | None, limit: int | None) -> "list[Conversation]":
    from hierlandmark.eval.loaders import load

    chats = list(load(file, format))[:limit]
    if not any(chat.questions for chat in chats):
        raise InvalidArgument(
            f"{str(file)!r} holds no questions in its {counted(len(chats), 'conversation')}, so nothing can be "
            'measured; a chat file has them under "questions", each with "question" and "evidence" (ids of the '
            "messages that answer it)"
        )
    return chats


def _first(chats: "Sequence[Conversation]") -> str:
    from hierlandmark.eval.retrieval import namespaces

    return namespaces([chat.id for chat in chats])[0]


class _Memories:
    """Conversations' memories: all in one file that stays, or each in a file of its own that goes when it is done."""

    def __init__(self, db: Path | None, scratch: Path, model: "LandmarkModel", keep: Keep | None) -> None:
        self._db, self._scratch, self._model, self._keep = db, scratch, model, keep
        # what is wanted again
        self.staying: Path | None = None

    def folder(self, namespace: str) -> Path:
        """Where the file of one stands that goes; no name that a file system might refuse."""
        return self._scratch / sha256(namespace.encode(errors="surrogatepass")).hexdigest()

    def __call__(self, namespace: str) -> "Memory":
        """Open one."""
        if self._db is not None:
            return open_memory(self._db, namespace, self._model, keep=self._keep)
        self.folder(namespace).mkdir(exist_ok=True)
        return open_memory(self.folder(namespace) / "eval.db", namespace, self._model, keep=self._keep)

    def done(self, namespace: str) -> None:
        """Its questions are answered: many long conversations need no more disk than the longest."""
        if self._db is None and self.folder(namespace) != self.staying:
            shutil.rmtree(self.folder(namespace))


def _ask(
    chats: "Sequence[Conversation]", memories: _Memories, k: int, mode: SearchMode, names: list[str]
) -> "RetrievalReport":
    from hierlandmark.eval.retrieval import evaluate_retrieval

    total = sum(len(chat.questions) for chat in chats) * len({mode, *names})
    with progress("questions") as update:
        return evaluate_retrieval(
            chats,
            memories,
            k=k,
            mode=mode,
            rows=names,
            on_question=lambda done: update(done, total),
            on_done=memories.done,
        )


def _show(report: "RetrievalReport", quiet: bool) -> None:
    from hierlandmark.eval.table import lines, verdicts

    if report.unfindable:
        typer.echo(
            f"left out: {counted(report.unfindable, 'piece')} of evidence to which no message with text belongs",
            err=True,
        )
    if quiet:
        return
    found = report.results()
    typer.echo("  ".join(f"{name} {value:.3f}" for name, value in found.items() if name != "n"))
    typer.echo(
        f"over {counted(int(found['n']), 'question')} with evidence, {len(report.asked):,} asked, mode {report.main}"
    )
    if len(report.rows) > 1:
        for line in ("", *lines(report), "", *verdicts(report)):
            typer.echo(line)


def _scale(
    sizes: list[int], rows: list[str], vectors: Any, questions: list[str], width: int, quiet: bool
) -> list[dict[str, Any]]:
    from hierlandmark.eval.scale import measure_scale, scale_cells
    from hierlandmark.eval.table import columns

    records = []
    with progress("sizes and rows") as update:
        for record in measure_scale(sizes, rows, source=vectors, questions=questions, width=width):
            records.append(record)
            update(len(records), len(sizes) * len(rows))
    if not quiet:
        for line in ("", *columns(scale_cells(records))):
            typer.echo(line)
    return records


def _words(model: str | None, adapter: str, dtype: str | None, keep: Keep | None) -> str:
    """Which model it was, as `load_model` reads the options, and how it was used."""
    base = model or "SmolLM2-135M-Instruct"
    named = {"default": f"{'no' if model else 'shipped'} adapter", "none": "no adapter"}
    used = [base, named.get(adapter, f"adapter {adapter}"), dtype, f"kept: {keep}" if keep else None]
    return ", ".join(one for one in used if one)


def _write_page(
    page: Path,
    report: "RetrievalReport | None",
    records: list[dict[str, Any]],
    source: str,
    file: Path | None,
    model: str,
) -> None:
    from hierlandmark.eval.report import html

    setting = {
        "hierlandmark": __version__,
        "processor": f"{processor() or 'unknown'}, {counted(os.cpu_count() or 1, 'core')}",
    }
    if report is not None and file is not None:
        setting |= {
            "text": f"{file.name}, {counted(report.conversations, 'conversation')}",
            "questions": f"{len(report.asked):,}, {report.results()['n']:,} with evidence",
            "model": model,
        }
    text = html(report, records, title="Retrieval, side by side", setting=setting, source=source)
    try:
        page.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidArgument(f"{str(page)!r} cannot be written: {error}") from error
    typer.echo(f"report: {page}", err=True)
