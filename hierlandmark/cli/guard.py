"""Named errors become one line on stderr and exit code 2; a fault of ours becomes one line and exit code 1.

A value that an option does not take is told as a named error; how a command is called is shown where a word is missing
or unknown.
"""

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import SequenceMatcher
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from hierlandmark.errors import HierLandmarkError, InvalidArgument

# set to see the traceback of an internal error
DEBUG = "HIERLANDMARK_DEBUG"
# how like an unknown option one is that is proposed, of 1
CLOSE = 0.7
# characters of a wrong value that are shown
SHOWN = 80


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
        except typer.BadParameter as error:
            # an argument that is missing is one of these too, and typer shows it well
            if type(error) is not typer.BadParameter:
                raise
            _line(f"{InvalidArgument.__name__}: {_wrong_value(error)}")
            raise typer.Exit(2) from None
        except BrokenPipeError:
            # the reader of our output left, as `head` does; a second write at exit would complain again
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            raise typer.Exit(0) from None
        except Exception as error:
            _keep_close(error)
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


def _wrong_value(error: typer.BadParameter) -> str:
    """One sentence on a value that an option does not take: the option, what it takes, and what came."""
    name = error.param.opts[0] if error.param else "a value"
    # `'x' is not a valid integer.`, `'x' is not one of 'a', 'b'.`
    if said := re.fullmatch(r"(?:Value error, )?((['\"]).*\2) is not (?:one of )?(.+?)\.?", error.message, re.DOTALL):
        came, _, wanted = said.groups()
        return f"expected {name} to be {' or '.join(wanted.rsplit(', ', 1))}, got {came:.{SHOWN}}"
    # later versions of typer have pydantic read values
    if errors := getattr(error.__cause__, "errors", None):
        from hierlandmark.config import wanted_kind

        (first, *_) = errors()
        return f"expected {name} to be {wanted_kind(first['msg'])}, got {first['input']!r:.{SHOWN}}"
    return f"{name}: {error.message}"


def _keep_close(error: Any) -> None:
    """Of the options that are proposed for an unknown one, those that are like it; the dashes of all are alike.

    Other errors stay as they are; newer versions of click propose commands too, by their names.
    """
    word, proposed = getattr(error, "option_name", None), getattr(error, "possibilities", None)
    if word and proposed:
        word = word.strip("-")
        error.possibilities = [one for one in proposed if SequenceMatcher(None, word, one.strip("-")).ratio() >= CLOSE]


def _line(text: str) -> None:
    # a lone surrogate of the user's input must not break the message about it
    safe = " ".join(text.split()).encode("utf-8", "backslashreplace").decode("utf-8")
    typer.echo(f"hierlandmark: {safe}", err=True)
