"""`eval`: passkeys; retrieval, needles, perplexity and work have files of their own."""

from collections.abc import Callable, Iterable
from pathlib import Path
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
    load_model,
    open_memory,
    parse_lengths,
)
from hierlandmark.cli.output import counted, progress, write_json
from hierlandmark.cli.perplexity import perplexity, work
from hierlandmark.cli.retrieval import retrieval

if TYPE_CHECKING:
    from hierlandmark.eval.passkey import Reader
    from hierlandmark.model import LandmarkModel

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Measure: is the right message found, and read?")


app.command()(retrieval)


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
    from hierlandmark.eval.fillers import check_memory, open_filler
    from hierlandmark.eval.passkey import check_lengths, evaluate_passkey

    check_memory(max(wanted))
    check_lengths(wanted)
    hay = open_filler(filler)
    mode, adapter = ("full", "none") if base else (mode, adapter)
    loaded = load_model(model, adapter)
    rows = evaluate_passkey(
        _reader(loaded, mode), loaded.tokenize, hay, lengths=wanted, trials=trials, mode=mode, seed=seed
    )
    _run(
        rows,
        len(wanted) * trials,
        "trials",
        out,
        lambda row: f"{row['accuracy']:.0%} of {counted(row['trials'], 'trial')}",
    )


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
