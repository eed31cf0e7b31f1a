"""The `hierlandmark` command. Torch and transformers are imported inside commands: help stays fast."""

import os
import sys
from typing import Annotated

import typer

from hierlandmark import __version__
from hierlandmark.allocator import keep_freed_memory
from hierlandmark.cli import answer, demo, evaluate, read, train, write
from hierlandmark.cli.guard import Guard

app = typer.Typer(
    cls=Guard,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


def _wait_briefly() -> None:
    """Threads that wait for one another give their core up after some microseconds, not milliseconds.

    Spinning on a core that another process wants takes it from the very thread that is waited for. GNU OpenMP reads
    this when it is loaded, with torch; whoever chose how its threads wait is left alone.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


@app.callback()
def main(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A memory for local language models: the model's own attention is the index."""
    keep_freed_memory()
    _wait_briefly()
    # transformers reads these when it is first imported; where they are set, they stand
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


for command in (
    write.add, read.search, answer.ask, answer.chat, write.forget, read.info, write.index, demo.demo, train.train,
    write.reencode,
):  # fmt: skip
    app.command(cls=train.TrainCommand if command is train.train else None)(command)
app.add_typer(evaluate.app, name="eval")
