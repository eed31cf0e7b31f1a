"""Named errors become one line on stderr and exit code 2; a fault of ours becomes one line and exit code 1."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from hierlandmark.errors import HierLandmarkError

# set to see the traceback of an internal error
DEBUG = "HIERLANDMARK_DEBUG"


class Guard(TyperGroup):
    """A command group that never shows a traceback."""

    def invoke(self, ctx: Any) -> Any:
        # a terminal that cannot show a letter shows another, rather than end the command
        for stream in (sys.stdout, sys.stderr):
            if reconfigure := getattr(stream, "reconfigure", None):
                reconfigure(errors="replace")
        try:
            return super().invoke(ctx)
        except HierLandmarkError as error:
            _line(f"{type(error).__name__}: {error.on_command_line}")
            raise typer.Exit(2) from None
        except BrokenPipeError:
            # the reader of our output left, as `head` does; a second write at exit would complain again
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            raise typer.Exit(0) from None
        except Exception as error:
            # usage errors and exits are typer's own, and it shows them well
            if os.environ.get(DEBUG) or type(error).__module__.split(".")[0] in ("typer", "click"):
                raise
            _line(f"internal error, {type(error).__name__}: {error} (set {DEBUG}=1 for the traceback)")
            raise typer.Exit(1) from None


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM unwinds the command as Ctrl-C does, so that what it has is kept; the exit code is a shell's, 143."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    # only the main thread may say what a signal does
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _line(text: str) -> None:
    # a lone surrogate of the user's input must not break the message about it
    safe = " ".join(text.split()).encode("utf-8", "backslashreplace").decode("utf-8")
    typer.echo(f"hierlandmark: {safe}", err=True)
