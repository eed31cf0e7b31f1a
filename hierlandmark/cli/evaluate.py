"""`eval`: retrieval over chats with evidence, passkeys; needles, perplexity and work have files of their own."""

from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hierlandmark.cli.needles import needles
from hierlandmark.cli.options import (
    AdapterOption,
    AnyMode,
    AnyModeOption,
    LengthsOption,
    ModelOption,
    OutOption,
    SearchModeOption,
    load_model,
    open_memory,
    parse_lengths,
)
from hierlandmark.cli.output import progress, write_json
from hierlandmark.cli.perplexity import perplexity, work
from hierlandmark.errors import InvalidArgument

if TYPE_CHECKING:
    from hierlandmark.eval.passkey import Reader
    from hierlandmark.model import LandmarkModel

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Measure: is the right message found, and read?")


@app.command()
def retrieval(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Chat file with questions and evidence.")],
    mode: SearchModeOption = "hierarchical",
    k: Annotated[int, typer.Option("-k", help="Messages to find; rankings hold 20 at least.")] = 10,
    out: OutOption = None,
    db: Annotated[
        Path | None, typer.Option("--db", metavar="FILE", help="Keep the memories here, and use them.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Only the first conversations.")] = None,
    model: ModelOption = None,
    adapter: AdapterOption = "default",
) -> None:
    """Recall and MRR of the evidence messages of a chat file's questions."""
    if k < 1:
        raise InvalidArgument(f"expected k of at least 1, got {k!r}")
    from hierlandmark.chats import read_chats
    from hierlandmark.eval.retrieval import evaluate_retrieval

    chats = list(read_chats(file))[:limit]
    total = sum(len(chat.questions) for chat in chats)
    loaded = load_model(model, adapter)
    with TemporaryDirectory() as folder, progress("questions") as update:
        report = evaluate_retrieval(
            chats,
            lambda namespace: open_memory(db or Path(folder) / "eval.db", namespace, loaded),
            k=k,
            mode=mode,
            on_question=lambda so_far: update(len(so_far.asked), total),
        )
    if str(out) != "-":
        typer.echo("  ".join(f"{name} {value:.3f}" for name, value in report.results().items() if name != "n"))
        typer.echo(f"over {report.results()['n']:,} questions with evidence, {len(report.asked):,} asked, mode {mode}")
    write_json(report.as_json(), out)


@app.command()
def passkey(
    lengths: LengthsOption = "4096,8192",
    trials: Annotated[int, typer.Option("--trials", help="Keys to find at each length.")] = 50,
    mode: AnyModeOption = "hierarchical",
    filler: Annotated[str, typer.Option("--filler", metavar="grass|FILE", help="What to hide it in.")] = "grass",
    out: OutOption = None,
    base: Annotated[bool, typer.Option("--base", help="The base model beside it: no adapter, mode full.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Seed of keys, cuts and fillers.")] = 0,
    model: ModelOption = None,
    adapter: AdapterOption = "default",
) -> None:
    """Find the number in the haystack, in the paper's format."""
    wanted = parse_lengths(lengths)
    from hierlandmark.eval.fillers import open_filler
    from hierlandmark.eval.passkey import evaluate_passkey

    hay = open_filler(filler)
    mode, adapter = ("full", "none") if base else (mode, adapter)
    loaded = load_model(model, adapter)
    rows = evaluate_passkey(
        _reader(loaded, mode), loaded.tokenize, hay, lengths=wanted, trials=trials, mode=mode, seed=seed
    )
    _run(rows, len(wanted) * trials, "trials", out, lambda row: f"{row['accuracy']:.0%} of {row['trials']} trials")


def _reader(model: "LandmarkModel", mode: AnyMode) -> "Reader":
    from hierlandmark.eval.passkey import full_reader, memory_reader

    return full_reader(model) if mode == "full" else memory_reader(lambda db: open_memory(db, "passkey", model), mode)


def _run(
    rows: Iterable[dict[str, Any]], total: int, what: str, out: Path | None, show: Callable[[dict[str, Any]], str]
) -> None:
    """Take rows as they come; the last of each length is its result."""
    last: dict[int, dict[str, Any]] = {}
    with progress(what) as update:
        for done, row in enumerate(rows, start=1):
            last[row["length"]] = row
            update(done, total)
    results = list(last.values())
    if str(out) != "-":
        for row in results:
            typer.echo(f"{row['length']:>8,} tokens, mode {row['mode']}: {show(row)}")
    write_json({"results": results}, out)


# behind the commands of this file, as help lists them
app.command()(needles)
app.command()(perplexity)
app.command()(work)
