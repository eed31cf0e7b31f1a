"""What is said of a run's files that are missing or wrong. No torch: the command says it before that is loaded."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hierlandmark.errors import InvalidArgument, InvalidChatFile

# of the checkpoint in a run's folder, and what to do where it is of no use
STATE = "state.json"
ANOTHER_FOLDER = {"python": "give another folder", "command": "give another --out"}
# a run's kinds of files, as its checkpoint calls them, and the arguments that they are given in
_ARGUMENTS = {"text": "texts", "chats": "chats"}


def no_files() -> InvalidArgument:
    """What to raise for a new run without a file."""
    return InvalidArgument(
        "expected at least one file to train on",
        python="give it in texts or chats",
        command="give it by --text or --chats",
    )


def other_files(folder: Path, state: dict[str, Any]) -> InvalidArgument:
    """What to raise for a run to resume without its files; it names those that its checkpoint does."""
    had: dict[str, list[str]] = {kind: names for kind, names in state.get("files", {}).items() if names}
    arguments = [f"{_ARGUMENTS.get(kind, kind)}={names!r}" for kind, names in had.items()]
    options = [f"--{kind} {shlex.quote(name)}" for kind, names in had.items() for name in names]
    return InvalidArgument(
        f"the run in {str(folder)!r} needs the files that it was trained on again, a checkpoint does not hold them",
        python=f"give {' and '.join(arguments) or 'them in texts and chats'}",
        command=f"give {' '.join(options) or 'them by --text and --chats'}",
    )


def check_given(folder: Path, texts: Sequence[Path], chats: Sequence[Path], workers: int) -> None:
    """What can be told of a run before anything is loaded.

    Raises:
        InvalidArgument: a file in place of a folder, a text or chat file that is none, or workers < 0.
        InvalidChatFile: a text in place of chats.
    """
    if folder.exists() and not folder.is_dir():
        raise InvalidArgument(f"expected a folder to train in, {str(folder)!r} is a file")
    if workers < 0:
        raise InvalidArgument.naming(lambda called: f"expected {called('workers')} to be 0 or more, got {workers!r}")
    for path in chats:
        # what is added to a memory may be one; nobody speaks in it
        if path.suffix in (".txt", ".md"):
            raise InvalidChatFile(
                f"{path} is no chat file (.jsonl, .jsonl.xz) but a text",
                python="give it in texts",
                command="give it by --text",
            )
    for path in (*texts, *chats):
        if not path.is_file():
            raise InvalidArgument(f"no file to train on at {str(path)!r}")


def read_state(folder: Path) -> dict[str, Any] | None:
    """`state.json` of a folder: steps taken, config, base; None where no run was saved.

    Raises:
        InvalidArgument: it is there and cannot be read.
    """
    path = folder / STATE
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = json.loads(path.read_text())
        if not isinstance(state, dict) or not {"checkpoint", "step", "updates", "config"} <= state.keys():
            raise ValueError("expected an object with checkpoint, step, updates and config")
        return state
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"the checkpoint's {str(path)!r} cannot be read: {error}", **ANOTHER_FOLDER) from error


def resumed_state(folder: Path) -> dict[str, Any]:
    """As `read_state`, of a run to resume. Raises `InvalidArgument` also where no run was saved."""
    state = read_state(folder)
    if state is None:
        raise InvalidArgument(
            f"nothing to resume in {str(folder)!r}: no {STATE}",
            python="leave resume out",
            command="leave --resume out",
        )
    return state
